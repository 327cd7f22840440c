"""From image files to tokens.

`palette.Palette` says which colors there are; `image_files` and `sources` find
and read images; `tokenizer.PixelTokenizer` turns them into tokens;
`token_dataset` keeps and serves these; `fidelity` measures what a palette
loses; `cartoons` draws images to learn from.
"""
