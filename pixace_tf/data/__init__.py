"""From image files to tokens.

`palette.Palette` holds the colors; `image_files` finds and checks images,
`decoding.Decoder` scales them down, and `sources` and `tar_files` locate them;
`tokenizer.PixelTokenizer` turns them into tokens with NumPy, and
`graph_tokenizer.GraphTokenizer` the same with TensorFlow; `token_dataset` keeps
and serves tokens in memory, `tokenizing` and `token_shards` in files;
`fidelity` measures the loss of a palette; `cartoons` draws images.
"""
