"""From a model to new tokens, and what given tokens cost.

`sampler.Sampler` generates and completes; it drives `decode_loop`, which uses
the mathematics of `draws`; `sampling_config.SamplingConfig` says how freely.
`likelihood.Scorer` computes bits per pixel.
"""
