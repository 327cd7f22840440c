"""How large a model should be for the time there is."""

import dataclasses
import json
import pathlib

import pytest

from pixace_tf.model.causal_lm import PixaceCausalLM
from pixace_tf.model.presets import decoder_config
from pixace_tf.training import size_law
from pixace_tf.training.fit import fit
from pixace_tf.training.previews import Previews
from pixace_tf.training.training_arguments import TrainingArguments

RESULTS = pathlib.Path(__file__).parent.parent / "pipelines" / "results"


@pytest.mark.parametrize("decoder", ["multiscale", "transformer", "reformer"])
def test_parameters_are_about_those_of_the_model(decoder):
    sizes = decoder_config("nano", decoder)
    model = PixaceCausalLM((32, 32), "hsv 5,4,4", decoder, sizes)
    expected = pytest.approx(model.num_parameters, rel=0.05)
    assert size_law.num_parameters(sizes) == expected


def test_a_flat_model_uses_each_weight_once_per_pixel():
    """Attention is counted apart; patches share the global stack."""
    flat = decoder_config("nano", "transformer")
    weights = size_law.num_parameters(flat)
    attention = flat["num_layers"] * flat["hidden_dim"] * 1024
    assert size_law.macs_per_pixel(flat, 1024) == weights + attention
    multiscale = decoder_config("nano", "multiscale")
    macs = size_law.macs_per_pixel(multiscale, 1024)
    assert macs < 0.3 * size_law.num_parameters(multiscale)


def test_more_time_wants_larger_models():
    choices = size_law.candidates("multiscale", (32, 32), 1.5e11)
    sizes = [
        size_law.best_for_time(choices, 60 * minutes).parameters
        for minutes in (1, 10, 60, 600, 6000, 60000)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == choices[0].parameters
    assert sizes[-1] == choices[-1].parameters


def test_a_faster_machine_wants_larger_models():
    hour = [
        size_law.best_for_time(
            size_law.candidates("multiscale", (32, 32), flops), 3600
        ).parameters
        for flops in (1e10, 1e11, 1e12, 1e13, 1e14)
    ]
    assert hour == sorted(hour)
    assert hour[0] < hour[-1]


@pytest.mark.parametrize("pixels", [1e5, 1e7, 1e9, 1e11])
def test_what_epochs_choose_is_the_best_for_the_time_it_takes(pixels):
    choices = size_law.candidates("multiscale", (32, 32), 1.5e11)
    best = size_law.best_for_pixels(choices, pixels)
    seconds = pixels / best.pixels_per_second
    others = [choice.bits_per_pixel(seconds) for choice in choices]
    assert best.bits_per_pixel(seconds) == min(others)


def test_the_law_is_the_one_that_was_fitted():
    record = json.loads((RESULTS / "size-law.json").read_text())
    assert record["law"] == dataclasses.asdict(size_law.LAW)
    assert len(record["points"]) >= 12
    for point in record["points"]:
        expected = size_law.LAW.bits_per_pixel(
            point["parameters"], point["pixels"]
        )
        assert point["bits_per_pixel"] == pytest.approx(expected, abs=0.05)


@pytest.fixture
def flops(monkeypatch):
    """Set the speed of the machine."""
    return lambda speed: monkeypatch.setattr(
        size_law, "measure_flops", lambda: speed
    )


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
def test_a_run_keeps_the_size_that_was_chosen(
    cartoon_folder, tmp_path, flops, monkeypatch
):
    monkeypatch.setattr(size_law, "PRESET_CHOICES", ("pico", "nano"))
    monkeypatch.setattr(Previews, "update", lambda *_, **__: None)
    lines = []

    def train(**options):
        arguments = TrainingArguments(
            image_size=(4, 4), batch_size=8, jit_compile=False, **options
        )
        words = {"runs_dir": str(tmp_path), "say": lines.append}
        return fit(str(cartoon_folder), arguments, **words)

    flops(1.5e11)
    run = train(epochs=1)
    assert run.arguments["preset"] == "pico"
    assert any(line.startswith("Preset pico should") for line in lines)
    del lines[:]
    flops(1e20)  # Another machine would choose another one.
    run = train(epochs=2)
    assert run.arguments["preset"] == "pico"
    assert not any(line.startswith("Preset") for line in lines)
    with pytest.raises(ValueError, match="preset was 'pico', now 'small'"):
        train(epochs=2, preset="small")


def test_the_speed_of_this_machine_is_that_of_a_machine():
    assert 1e8 < size_law.measure_flops() < 1e16
