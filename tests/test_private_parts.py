"""The private parts of other packages that this one uses.

An upgrade may move them; these tests then name them. This is the only list.
"""

import importlib

import pytest

PARTS = [
    # The layers inside `CausalDecoderLayer`.
    *(
        ("keras_hub.layers:TransformerDecoder", name)
        for name in (
            *("_self_attention_layer", "_self_attention_layer_norm"),
            *("_self_attention_dropout", "_feedforward_layer_norm"),
            *("_feedforward_intermediate_dense", "_feedforward_dropout"),
            "_feedforward_output_dense",
        )
    ),
    *(
        ("keras.layers:MultiHeadAttention", name)
        for name in (
            *("_query_dense", "_key_dense", "_value_dense", "_output_dense"),
        )
    ),
]


@pytest.fixture(scope="module")
def layers():
    import keras_hub

    decoder = keras_hub.layers.TransformerDecoder(
        8, 2, decoder_sequence_shape=(None, None, 4)
    )
    return {
        "keras_hub.layers:TransformerDecoder": decoder,
        "keras.layers:MultiHeadAttention": decoder._self_attention_layer,
    }


@pytest.mark.parametrize(("owner", "name"), PARTS)
def test_a_layer_has_the_private_part(layers, owner, name):
    assert hasattr(layers[owner], name), f"{owner} has lost {name}"


@pytest.mark.parametrize(
    ("module", "path"),
    [
        # `training.loop` forgets gradient functions.
        ("tensorflow.python.framework.ops", "gradient_registry._registry"),
        # `compile_cache` aligns the names of functions.
        ("tensorflow.python.framework.ops", "uid"),
        # `training.devices.SharedAdamW` overrides this method.
        ("keras.optimizers", "AdamW._all_reduce_sum_gradients"),
        # `tuning.oracles` overrides these methods.
        ("keras_tuner", "Oracle._save_trial"),
        ("keras_tuner.oracles", "HyperbandOracle._get_size"),
    ],
)
def test_a_module_has_the_private_part(module, path):
    found = importlib.import_module(module)
    for name in path.split("."):
        assert hasattr(found, name), f"{module} has lost {path}"
        found = getattr(found, name)
