"""Converts a model to LiteRT: the graphs of painting as signatures of one file.

All signatures take any number of rows R; token ids are int32, everything else
is float32 or int32:

- `empty`: `condition (R, 2)` -> the state before the first pixel.
- `prefill`: `token_ids (R, T)`, `condition (R, 2)` -> the state behind the last
  pixel, of which decoding reads what lies before its position.
- `advance`: the state, `token_ids (R, T)`, `nats (R)`, `mask (R, T)` (bit c is
  set where channel c is to be sampled), `noise (R, T, draws)`, `temperature
  (R)`, and the scalars `start` and `stop` -> the state, `token_ids` and `nats`
  at `stop`.
- `advance_weighed`: also adds the costs of what is known to `nats`.
- `advance_full`: also takes `top_k`, `top_p`, `min_p`, `guidance` and
  `max_colors (R)`. For guidance, each image has two rows, with its label and
  with the null label. It is slower.
- `advance_limited`: also takes `codes (NUM_CODES)`, the only colors to sample,
  some of them repeated; each stands for those that it is nearest to.
- `score`: `token_ids (R, T)`, `condition (R, 2)` -> `nats (R, T)`.
- `tokenize`: `images (R, height, width, C)`, int32 from 0 to 255, RGB or RGBA
  -> `token_ids`; `detokenize` is its inverse.

The converter is that of the TensorFlow wheel, which loses some 20 MB with each
conversion (tensorflow#123818): use a process of its own.

Shapes: R rows, T pixels.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pixace_tf.data.quantization import dequantize, quantize
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.sampling import NUM_CODES, self_test
from pixace_tf.sampling.block import Carry, Drawing, Program
from pixace_tf.sampling.decode_loop import DecodeLoop
from pixace_tf.sampling.engine import ModelFacts
from pixace_tf.sampling.lite_engine import SIGNATURES, LiteEngine
from pixace_tf.sampling.sampler import Sampler
from pixace_tf.sampling.sampling_config import SamplingConfig
from pixace_tf.typing import Tensor


def convert(model: PixaceCausalLM) -> tuple[bytes, dict[str, Any]]:
    """Return a LiteRT model with the signatures of painting.

    Also returns a self-test, JSON-ready, which TensorFlow passes; see
    `self_test`.
    """
    module = tf.Module()
    module.weights = [variable.value for variable in model.weights]
    signatures = _Graphs(model).signatures()
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        # Anything else would need another runtime.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        content = bytes(converter.convert())
    engine = LiteEngine(ModelFacts.of(model), lambda: _InGraphs(signatures))
    return content, self_test.create(Sampler(engine))


class _InGraphs:
    """Runs signatures in TensorFlow, as an interpreter runs them."""

    def __init__(self, signatures: dict[str, Any]) -> None:
        self._signatures = signatures

    def get_signature_runner(self, name: str) -> Callable[..., Any]:
        function = self._signatures[name]

        def run(**inputs: np.ndarray) -> dict[str, np.ndarray]:
            tensors = {key: tf.constant(x) for key, x in inputs.items()}
            return {key: x.numpy() for key, x in function(**tensors).items()}

        return run


class _Graphs:
    """The concrete functions of a model's signatures."""

    def __init__(self, model: PixaceCausalLM) -> None:
        self._model = model
        self._facts = ModelFacts.of(model)
        self._tokens = tf.TensorSpec(
            (None, self._facts.sequence_length), tf.int32
        )
        state = model.empty_state(1, tf.zeros((1, 2), tf.int32))
        self._state = state
        self._names = [
            f"state_{i:02}" for i in range(len(tf.nest.flatten(state)))
        ]

    def signatures(self) -> dict[str, Any]:
        length = self._facts.sequence_length
        condition = tf.TensorSpec((None, 2), tf.int32)
        num_patches = -(-length // self._facts.patch_length)
        model = self._model

        def empty(condition: Tensor) -> dict[str, Tensor]:
            rows = tf.shape(condition)[0]
            return self._flat(model.empty_state(rows, condition))

        def prefill(token_ids: Tensor, condition: Tensor) -> dict[str, Tensor]:
            return self._flat(model.prefill(token_ids, num_patches, condition))

        def score(token_ids: Tensor, condition: Tensor) -> dict[str, Tensor]:
            logits = model((token_ids, condition), training=False)
            return {"nats": model.pixel_nats(token_ids, logits)}

        both = {"token_ids": self._tokens, "condition": condition}
        return {
            **{s: self._advance(p) for p, s in SIGNATURES.items()},
            "empty": _concrete(empty, condition=condition),
            "prefill": _concrete(prefill, **both),
            "score": _concrete(score, **both),
            **self._pictures(),
        }

    def _advance(self, program: Program) -> Any:
        loop = DecodeLoop(self._model, rows=1, jit_compile=False)

        def advance(
            token_ids: Tensor,
            nats: Tensor,
            start: Tensor,
            stop: Tensor,
            mask: Tensor,
            noise: Tensor,
            **others: Tensor,
        ) -> dict[str, Tensor]:
            state = tf.nest.pack_sequence_as(
                self._state, [others.pop(name) for name in self._names]
            )
            codes = others.pop("codes", ())
            carry = loop.decode(
                program,
                Carry(state, token_ids, nats),
                start,
                stop,
                Drawing(mask, noise, others, codes),
            )
            return {
                "token_ids": carry.token_ids,
                "nats": carry.nats,
                **self._flat(carry.state),
            }

        noise_shape = self._facts.sequence_length, self._facts.num_draws
        scalar = tf.TensorSpec((), tf.int32)
        config = SamplingConfig().arrays(1)
        config["guidance"] = np.ones(1, np.float32)
        config["max_colors"] = np.zeros(1, np.int32)
        if program in ("plain", "weighed"):
            config = {"temperature": config["temperature"]}
        specs = {
            name: tf.TensorSpec((None, *array.shape[1:]), array.dtype)
            for name, array in [
                *config.items(),
                *self._flat(self._state).items(),
            ]
        }
        if program == "limited":
            specs["codes"] = tf.TensorSpec((NUM_CODES,), tf.int32)
        return _concrete(
            advance,
            token_ids=self._tokens,
            nats=tf.TensorSpec((None,), tf.float32),
            start=scalar,
            stop=scalar,
            mask=self._tokens,
            noise=tf.TensorSpec((None, *noise_shape), tf.float32),
            **specs,
        )

    def _pictures(self) -> dict[str, Any]:
        """Return the signatures between images and tokens."""
        palette = self._model.palette
        shape = *self._facts.image_size, palette.num_image_channels

        def tokenize(images: Tensor) -> dict[str, Tensor]:
            tokens = palette.pack(quantize(images, palette, tf))
            length = self._facts.sequence_length
            return {"token_ids": tf.reshape(tokens, (-1, length))}

        def detokenize(token_ids: Tensor) -> dict[str, Tensor]:
            rgb = dequantize(palette.unpack(token_ids), palette, tf)
            return {"images": tf.reshape(rgb, (-1, *shape))}

        return {
            "tokenize": _concrete(
                tokenize, images=tf.TensorSpec((None, *shape), tf.int32)
            ),
            "detokenize": _concrete(detokenize, token_ids=self._tokens),
        }

    def _flat(self, state: Any) -> dict[str, Tensor]:
        return dict(zip(self._names, tf.nest.flatten(state), strict=True))


def _concrete(function: Any, **specs: tf.TensorSpec) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(**specs)
