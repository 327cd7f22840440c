"""From a model to new tokens, and what given tokens cost.

`sampler.Sampler` generates and completes; it drives `decode_loop`, which uses
the mathematics of `draws`; `sampling_config.SamplingConfig` says how freely.
`particles` lets known pixels shape what comes before them.
`likelihood.Scorer` computes bits per pixel.
"""

# How many ways to fill an image are weighed by default; see `particles`.
NUM_PARTICLES = 64
# As many as an exported model can weigh.
MAX_SERVED_PARTICLES = 16
MAX_GUIDANCE = 100.0
