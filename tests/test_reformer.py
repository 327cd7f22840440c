"""The reversible stack and LSH attention, each by itself."""

import itertools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import stir

from pixace_tf.model.attention import causal_attention
from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
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
from pixace_tf.model.reformer.reversible import ReversibleStack

WIDTH = 16


def build(depth=2, attention=CausalSelfAttention, dropout=0.0, **options):
    keras.utils.set_random_seed(0)
    branches = []
    for _ in range(depth):
        branches.append(attention(2, dropout=dropout, **options))
        branches.append(FeedForward(32, dropout=dropout))
    stack = ReversibleStack(branches)
    stack.build((None, 20, WIDTH), (None, 20, WIDTH))
    return stir(stack)


def streams(count=4, length=20, seed=0):
    normal = np.random.default_rng(seed).normal
    return [
        tf.constant(normal(size=(count, length, WIDTH)), "float32")
        for _ in range(2)
    ]


def plain(stack, a, b, training=False):
    """The same sums, left to automatic differentiation."""
    seeds = stack._seeds(training)
    for branch, seed in zip(stack.branches, seeds, strict=True):
        a, b = b, a + branch(b, seed=seed)
    return a, b


def loss_and_gradients(call, stack, a, b):
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        first, second = call(a, b)
        loss = tf.reduce_sum(tf.sin(first) * tf.cos(2 * second))
    return loss, tape.gradient(loss, [a, b, *stack.trainable_variables])


def assert_near(ours, theirs, tolerance):
    for one, other in zip(
        tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True
    ):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=tolerance * scale)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "mode"),
    [(1, "eager"), (3, "eager"), (1, "xla"), (3, "xla"), (12, "graph")],
)
def test_gradients_equal_plain_autodiff(depth, mode):
    stack = build(depth)
    a, b = streams()

    def run(a, b):
        return loss_and_gradients(stack, stack, a, b)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    expected = loss_and_gradients(lambda a, b: plain(stack, a, b), stack, a, b)
    assert_near(run(a, b), expected, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jit_compile", "attention"),
    [(False, CausalSelfAttention), (True, LSHSelfAttention)],
)
def test_dropout_is_replayed(jit_compile, attention):
    stack = build(1, attention, dropout=0.3)
    a, b = streams(6)
    state = stack.seed_generator.state
    start = state.numpy()

    @tf.function(jit_compile=jit_compile)
    def run(a, b):
        return loss_and_gradients(
            lambda a, b: stack(a, b, training=True), stack, a, b
        )

    @tf.function(jit_compile=jit_compile)
    def run_plain(a, b):
        return loss_and_gradients(
            lambda a, b: plain(stack, a, b, True), stack, a, b
        )

    ours = run(a, b)
    assert np.any(state.numpy() != start)
    assert np.abs(run(a, b)[0] - ours[0]) > 0.1  # Another mask each time.
    state.assign(start)
    assert_near(ours, run_plain(a, b), 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "jit_compile", "attention"),
    [
        ("float32", False, CausalSelfAttention),
        # Compiling takes half a minute.
        pytest.param(
            *("mixed_float16", True, LSHSelfAttention), marks=pytest.mark.soak
        ),
    ],
)
def test_it_learns_under_fit_and_loads_as_a_plain_layer(
    tmp_path, policy, jit_compile, attention
):
    keras.utils.set_random_seed(0)
    hashed = attention is LSHSelfAttention
    options = {"chunk_length": 4} if hashed else {}
    inputs = keras.Input((20, WIDTH))
    first, second = ReversibleStack(
        [
            attention(2, dropout=0.1, dtype=policy, **options),
            FeedForward(32, dtype=policy),
        ],
        dtype=policy,
    )(inputs, inputs)
    model = keras.Model(inputs, first + second)
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=jit_compile)
    x, _ = streams(16)
    target = tf.roll(x, 1, axis=1)
    history = model.fit(x, target, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.9 * history[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    for branch in loaded.layers[1].branches:
        assert branch.dtype_policy.name == policy


def test_a_frozen_branch_stays_as_it_is_and_the_others_learn():
    stack = build(2)
    stack.branches[1].trainable = False
    a, b = streams()

    @tf.function
    def run(a, b):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(stack(a, b)[1]))
        return tape.gradient(loss, stack.trainable_variables)

    gradients = run(a, b)
    assert len(gradients) == 6 + 6 + 6
    assert all(np.any(gradient != 0) for gradient in gradients)


def test_half_precision_streams_are_widened():
    keras.utils.set_random_seed(0)
    stack = ReversibleStack(
        [
            CausalSelfAttention(2, dtype="mixed_float16"),
            FeedForward(32, dtype="mixed_float16"),
        ]
    )
    a, b = (tf.cast(x, tf.float16) for x in streams())
    assert [x.dtype for x in stack(a, b)] == [tf.float32] * 2


def test_an_odd_number_of_branches_is_an_error():
    with pytest.raises(ValueError, match="even number of layers"):
        ReversibleStack([FeedForward(8)])


MEMORY = """
import re, sys
import tensorflow as tf
from pixace_tf.model.reformer.branches import CausalSelfAttention, FeedForward
from pixace_tf.model.reformer.reversible import ReversibleStack

def plain(stack, a, b):
    for branch in stack.branches:
        a, b = b, a + branch(b)
    return a, b

x = tf.random.normal((64, 256, 64))  # 4 MiB
for depth, is_plain in ((1, False), (4, False), (4, True)):
    stack = ReversibleStack([
        layer for _ in range(depth)
        for layer in (CausalSelfAttention(2), FeedForward(128))
    ])
    stack.build(x.shape, x.shape)
    @tf.function(jit_compile=sys.argv[1] == "xla")
    def run(x):
        with tf.GradientTape() as tape:
            a, b = plain(stack, x, x) if is_plain else stack(x, x)
            loss = tf.reduce_sum(a * b)
        return tape.gradient(loss, stack.trainable_variables)
    run(x)
    open("/proc/self/clear_refs", "w").write("5")  # Forgets the peak.
    run(x)
    status = open("/proc/self/status").read()
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 2**10)
"""


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_memory_does_not_grow_with_depth(mode):
    """Peaks in MiB of the second run, which compiles nothing."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, mode],
        capture_output=True,
        check=True,
        text=True,
    )
    few, many, plain_layers = map(float, done.stdout.split())
    assert many - few < 0.6 * (plain_layers - few), done.stdout


def brute_force(query, key, value, buckets, chunk_length):
    """Return the attention of each position, computed one by one."""
    length, rounds = query.shape[0], buckets.shape[0]
    output = np.zeros_like(value)
    for t in range(length):
        seen = []
        for r in range(rounds):
            same = [s for s in range(t) if buckets[r, s] == buckets[r, t]]
            begin = max(0, len(same) // chunk_length - 1) * chunk_length
            seen += same[begin:]
        seen = seen or [t]
        scores = key[seen] @ query[t]
        weights = np.exp(scores - scores.max())
        output[t] = weights / weights.sum() @ value[seen]
    return output


def vectors(length, num_heads=2, head_dim=4, seed=0):
    shape = (3, 2, num_heads, length, head_dim)
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("num_hashes", [1, 3])
@pytest.mark.parametrize(("length", "chunk_length"), [(40, 8), (37, 4), (5, 8)])
def test_lsh_attention_sees_what_the_docs_say(length, chunk_length, num_hashes):
    query, key, value = vectors(length)
    rotations = np.random.default_rng(1).normal(size=(2, num_hashes, 4, 2))
    buckets = hash_vectors(query, rotations.astype("float32"), 4).numpy()
    assert len(np.unique(buckets)) == 4 or length < 10
    layout = bucket_layout(tf.constant(buckets), 4, chunk_length)
    ours = lsh_attention(*map(tf.constant, (query, key, value)), layout)
    for b, h in itertools.product(range(2), range(2)):
        expected = brute_force(
            query[b, h], key[b, h], value[b, h], buckets[b, h], chunk_length
        )
        np.testing.assert_allclose(ours[b, h], expected, atol=1e-5)


@pytest.mark.parametrize("num_hashes", [1, 2])
def test_one_bucket_is_full_attention(num_hashes):
    query, key, value = map(tf.constant, vectors(21))
    layout = bucket_layout(tf.zeros((2, 2, num_hashes, 21), tf.int32), 1, 21)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([query, key, value])
        hashed = lsh_attention(query, key, value, layout)
        full = causal_attention(
            query, key, value, block_length=8, sees_itself=False
        )
        losses = [tf.reduce_sum(tf.sin(3 * x)) for x in (hashed, full)]
    np.testing.assert_allclose(hashed, full, atol=1e-5)
    ours, theirs = (tape.gradient(x, [query, key, value]) for x in losses)
    assert_near(ours, theirs, 1e-5)


def test_gradients_of_hashed_attention_are_those_of_its_mask():
    query, key, value = map(tf.constant, vectors(40))
    rotations = tf.random.stateless_normal((2, 2, 4, 2), [0, 1])
    buckets = hash_vectors(query, rotations, 4)
    layout = bucket_layout(buckets, 4, 8)
    # How many rounds of two see each pair; a small bucket fits two chunks.
    same = tf.cast(buckets[..., None] == buckets[..., None, :], "float32")
    earlier = np.tril(np.ones((40, 40), "float32"), -1)
    chunk = (tf.cumsum(same * earlier, axis=-1, exclusive=True)) // 8
    last = tf.reduce_sum(same * earlier, axis=-1, keepdims=True) // 8
    counts = tf.reduce_sum(
        same * earlier * tf.cast(chunk >= last - 1, "float32"), axis=2
    )
    alone = tf.reduce_sum(counts, axis=-1, keepdims=True) == 0
    counts = tf.where(alone, tf.eye(40), counts)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([query, key, value])
        hashed = lsh_attention(query, key, value, layout)
        weights = counts * tf.exp(query @ tf.linalg.matrix_transpose(key))
        weights /= tf.reduce_sum(weights, axis=-1, keepdims=True)
        losses = [
            tf.reduce_sum(tf.sin(3 * x)) for x in (hashed, weights @ value)
        ]
    ours, theirs = (tape.gradient(x, [query, key, value]) for x in losses)
    assert_near(ours, theirs, 1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_hashed_attention_is_causal_to_the_last_bit(jit_compile):
    keras.utils.set_random_seed(0)
    layer = LSHSelfAttention(2, num_hashes=2, chunk_length=4)
    layer.build((None, 50, WIDTH))
    stir(layer)
    run = tf.function(layer, jit_compile=jit_compile)
    before = streams(2, 50)[0].numpy()
    output = run(before).numpy()
    for position in range(0, 50, 7):
        after = before.copy()
        after[:, position] += 1
        changed = run(after).numpy()
        np.testing.assert_array_equal(
            output[:, :position], changed[:, :position]
        )
        assert np.any(output[:, position] != changed[:, position])


def test_more_hashes_find_more_of_the_best_keys():
    length, chunk_length, num_buckets = 512, 16, 16
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 1, length, 16)).astype("float32")
    unit = x[0, 0] / np.linalg.norm(x[0, 0], axis=-1, keepdims=True)
    scores = unit @ unit.T
    rotations = rng.normal(size=(1, 8, 16, num_buckets // 2)).astype("float32")
    buckets = hash_vectors(x, rotations, num_buckets)[0, 0].numpy()
    recall = []
    for num_hashes in (1, 2, 4, 8):
        found = total = 0
        for t in range(64, length):
            best = np.argsort(-scores[t, :t])[:8]
            seen = set()
            for r in range(num_hashes):
                same = np.flatnonzero(buckets[r, :t] == buckets[r, t])
                begin = max(0, len(same) // chunk_length - 1) * chunk_length
                seen.update(same[begin:])
            found, total = found + len(seen & set(best)), total + 8
        recall.append(found / total)
    assert recall[0] > 1.5 / num_buckets  # Better than chance.
    assert all(b > 1.2 * a for a, b in itertools.pairwise(recall))


def test_hashed_attention_is_stable_in_float16():
    keras.utils.set_random_seed(0)
    layer = LSHSelfAttention(2, chunk_length=4, dtype="mixed_float16")
    layer.build((None, 50, WIDTH))
    stir(layer)
    layer.read.kernel.assign(200 * layer.read.kernel)
    x = streams(2, 50)[0]
    with tf.GradientTape() as tape:
        output = layer(x)
        loss = 1e-3 * tf.reduce_sum(tf.cast(output, "float32"))
    assert np.all(np.isfinite(output))
    for gradient in tape.gradient(loss, layer.trainable_variables):
        assert np.all(np.isfinite(gradient))


def test_the_first_position_sees_itself():
    keras.utils.set_random_seed(0)
    layer = LSHSelfAttention(1, chunk_length=4)
    layer.build((None, 1, WIDTH))
    stir(layer)
    x = streams(2, 1)[0]
    _, _, value = layer._project(x)
    np.testing.assert_allclose(
        layer(x), layer.write(value[:, 0]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "options",
    [{"num_hashes": 0}, {"chunk_length": 0}, {"num_buckets": 3}],
)
def test_bad_numbers_are_errors(options):
    with pytest.raises(ValueError, match="must be"):
        LSHSelfAttention(2, **options)


@pytest.mark.slow
def test_sampling_from_hashed_attention_attends_to_all():
    """Its steps equal one bucket over the whole sequence."""
    length = 8 * 12

    def model_of(**options):
        keras.utils.set_random_seed(0)
        sizes = {**decoder_config("pico", "reformer"), **options}
        model = PixaceCausalLM((8, 12), "hsv 5,4,4", "reformer", sizes)
        return stir(model)

    hashed = model_of(num_hashes=1, chunk_length=4)
    exact = model_of(num_hashes=1, num_buckets=1, chunk_length=length)
    for ours, theirs in zip(exact.weights, hashed.weights, strict=True):
        if not ours.path.endswith("rotations"):
            ours.assign(theirs)
    tokens = np.zeros((2, length), np.int32)
    tokens[1, ::3] = 8160
    inputs = hashed._inputs(tokens)
    whole = exact.decoder(inputs).numpy()
    assert np.abs(whole - hashed.decoder(inputs)).max() > 0.01
    for start in (0, 24, 30):
        state = hashed.empty_state(2)
        if start:
            state = hashed.prefill(tokens, -(-start // 24))
        for t in range(start, 48):
            if t == start or t % 24 == 0:
                state = hashed.begin_patch(state, tokens, t // 24)
            hidden, state = hashed.step(state, tokens, t)
            np.testing.assert_allclose(hidden, whole[:, t], atol=1e-4)
