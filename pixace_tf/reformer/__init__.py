"""The reformer: a reversible stack, with exact or LSH attention.

`reversible` and `lsh_attention` know nothing of pictures and can be used by
themselves.
"""

from pixace_tf.reformer.branches import (
    CausalSelfAttention,
    FeedForward,
    LSHSelfAttention,
)
from pixace_tf.reformer.lsh_attention import lsh_attention
from pixace_tf.reformer.reformer_stack import ReformerStack
from pixace_tf.reformer.reversible import Branch, ReversibleStack

__all__ = [
    "Branch",
    "CausalSelfAttention",
    "FeedForward",
    "LSHSelfAttention",
    "ReformerStack",
    "ReversibleStack",
    "lsh_attention",
]
