"""The reformer: a reversible stack with exact or LSH attention.

It works on any sequences of vectors, not only on images.
"""

from pixace_tf.model.reformer.branches import (
    CausalSelfAttention,
    FeedForward,
    LSHSelfAttention,
)
from pixace_tf.model.reformer.lsh_attention import (
    bucket_layout,
    hash_vectors,
    lsh_attention,
)
from pixace_tf.model.reformer.reformer_stack import ReformerStack
from pixace_tf.model.reformer.reversible import Branch, ReversibleStack

__all__ = [
    "Branch",
    "CausalSelfAttention",
    "FeedForward",
    "LSHSelfAttention",
    "ReformerStack",
    "ReversibleStack",
    "bucket_layout",
    "hash_vectors",
    "lsh_attention",
]
