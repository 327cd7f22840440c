"""The model, in `keras.ops` alone, so that any Keras backend can train it.

`causal_lm.PixaceCausalLM` embeds pixels (`pixel_inputs`), decodes them
(`flat_decoder`, `multiscale_decoder`, both a `decoder.Decoder`) and predicts
colors (`color_head`); `presets` has its sizes. The stacks of layers are in
`transformer_stack` and `reformer`.
"""
