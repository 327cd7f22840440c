"""From image files to tokens.

`palette.Palette` says which colors there are; `image_files` finds and checks
images, `decoding.Decoder` scales them down, and `sources` and `tar_files` tell
where they lie; `tokenizer.PixelTokenizer` turns them into tokens;
`token_dataset` keeps and serves these in memory, `tokenizing` and
`token_shards` in files; `fidelity` measures what a palette loses; `cartoons`
draws images to learn from.
"""
