"""From a model to new tokens, and the likelihood of given tokens.

`sampler.Sampler` sorts images into blocks, which `decode_loop` decodes with the
mathematics of `draws`. `SamplingConfig` holds temperature and filters.
`particles` lets known pixels shape the pixels before them. `likelihood.Scorer`
computes bits per pixel.
"""

# Default number of particles per image; see `particles`.
NUM_PARTICLES = 64
# The default for the second pass over new images; more fit little better.
NUM_SECOND_PARTICLES = 8
# Rows of a block of an exported model, hence its largest number of particles.
MAX_SERVED_PARTICLES = 16
MAX_GUIDANCE = 100
# Most colors to which sampling can be limited: 256 and transparency.
NUM_CODES = 257
