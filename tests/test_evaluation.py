import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import sys
import unicodedata

import keras
import numpy as np
import pytest
import scipy.linalg
from click.testing import CliRunner
from PIL import Image
from test_export import make_run

from pixace_tf import storage
from pixace_tf.cli import main
from pixace_tf.data import cartoons
from pixace_tf.data.palette import Palette
from pixace_tf.data.token_dataset import tokenize
from pixace_tf.errors import UserError
from pixace_tf.evaluation import baselines, classes, evidence, frechet, probe
from pixace_tf.evaluation.completion import complete_halves
from pixace_tf.evaluation.evidence import (
    TrainingData,
    are_among,
    gather,
)
from pixace_tf.evaluation.frechet import frechet_distance, gaussian_distance
from pixace_tf.evaluation.metrics import measure, summary
from pixace_tf.evaluation.nearest import compare_with_training, find_nearest
from pixace_tf.evaluation.report import (
    Report,
    build_report,
    check_report,
    render,
    write_report,
)
from pixace_tf.sampling.likelihood import Scorer

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None
)


def opened(png):
    return Image.open(io.BytesIO(png))


def call(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def make_small_run(path, *arguments, **options):
    """A run with random weights that needs no XLA."""
    run = make_run(path, *arguments, **options)
    run.arguments["jit_compile"] = False
    return run


def random_images(count, height=8, width=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pictures(cartoon_folder, tmp_path_factory):
    """The training pictures, and half as many that the run has not seen."""
    folder = tmp_path_factory.mktemp("pictures")
    cartoons.draw_folder(str(folder / "all"), 24, seed=1)
    for path in cartoon_folder.glob("*/*.png"):
        shutil.copy(path, folder / "all" / path.parent.name / f"0{path.name}")
    return folder / "all"


@pytest.fixture(scope="module")
def report(trained_run, pictures, tmp_path_factory):
    """The folder of a report, and what the command printed."""
    folder = tmp_path_factory.mktemp("reports") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frechet, "NUM_STEPS", 40)
        done = call(
            *(trained_run.path, pictures, "--json"),
            *("--report", folder, "--samples", 6),
        )
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout)


@pytest.fixture
def read_report(report):
    """The report of that folder, to change at will."""
    folder, figures = report
    images = {p.stem: p.read_bytes() for p in folder.glob("*.png")}
    return Report(json.loads(json.dumps(figures)), images)


def test_chances_of_all_pictures_sum_to_one_for_counted_models():
    codes = np.arange(16, dtype=np.int32)
    codes = codes[Palette("hsv", (2, 1, 1)).is_canonical(codes)]
    pictures = np.array(list(itertools.product(codes, repeat=4)))
    train = pictures[np.random.default_rng(0).integers(0, len(pictures), 5)]
    train = np.where(train == codes[3], codes[2], train)  # One is never seen.
    bits = baselines.count_models(train, pictures, (2, 2), len(codes))
    assert list(bits) == ["unigram", "left", "left_and_above"]
    for values in bits.values():
        assert np.exp2(-values.sum(axis=1)).sum() == pytest.approx(1)


def test_smoothing_by_hand():
    """0 0 1 has three pixels of two kinds; after 0 follow two of two kinds."""
    counted = np.array([[0, 0, 1]])
    scored = np.array([[0, 1, 2]])
    bits = baselines.count_models(counted, scored, (1, 3), 4)
    unigram = np.array([2 + 2 / 4, 1 + 2 / 4, 2 / 4]) / 5
    np.testing.assert_allclose(bits["unigram"][0], -np.log2(unigram))
    left = [
        (1 + 1 * unigram[0]) / 2,  # Outside: seen once, with a 0.
        (1 + 2 * unigram[1]) / 4,
        unigram[2],  # Nothing was seen after a 1.
    ]
    np.testing.assert_allclose(bits["left"][0], -np.log2(left))


def test_counting_does_not_depend_on_the_codes_of_the_colors():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 40, (30, 12))
    spelled = rng.choice(1 << 24, 40, replace=False)
    plain, wide = (
        baselines.count_models(x[:20], x[20:], (3, 4), 1 << 24)
        for x in (small, spelled[small])
    )
    for name, bits in plain.items():
        np.testing.assert_allclose(wide[name], bits)


def test_noise_needs_its_bits_and_plain_pictures_few():
    noise = baselines.lossless_bits_per_pixel(random_images(2, 64, 64))
    plain = baselines.lossless_bits_per_pixel(
        np.full((2, 64, 64, 3), 7, np.uint8)
    )
    for name in ("png", "webp"):
        assert 24 < noise[name] < 26
        assert 0 < plain[name] < 0.5


def test_each_picture_has_the_bits_of_its_own_file():
    images = np.concatenate([random_images(2), np.zeros((1, 8, 12, 3), "u1")])
    rows = baselines.file_bits(images, ("png", "webp"))
    assert rows.shape == (3, 2)
    assert rows[2, 0] < rows[0, 0]
    for i, bits in enumerate(rows):
        alone = baselines.lossless_bits_per_pixel(images[i : i + 1])
        assert list(alone.values()) == bits.tolist()


def test_nearest_pictures_are_those_of_brute_force():
    queries, references = random_images(5, 2, 2), random_images(5000, 2, 2)
    indices, distances = find_nearest(queries, references, 3)
    differences = queries[:, None].astype(float) - references
    expected = np.sqrt(np.mean(differences**2, axis=(2, 3, 4)))
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :3])
    np.testing.assert_array_equal(indices[:, 0], expected.argmin(axis=1))


def test_copies_are_found_and_mirrored_ones():
    seen = random_images(6)
    new = np.concatenate([seen[2:3], seen[4:5, :, ::-1], random_images(1)])
    new[2] = 255 - seen[0]
    held_out = seen[:1] // 2
    plain, _ = compare_with_training(new, held_out, seen)
    mirrored, images = compare_with_training(
        new, held_out, seen, is_mirrored=True
    )
    assert (plain["equal"], mirrored["equal"]) == (1, 2)
    assert plain["copies"] == mirrored["copies"] == 2
    assert plain["held_out_copies"] == 0
    assert mirrored["new_least"] == 0 < mirrored["held_out_least"]
    sheet = opened(images["nearest"])
    assert sheet.width > sheet.height


def test_pictures_are_found_among_others_by_their_tokens():
    tokens = np.arange(12).reshape(3, 4)
    others = tokens[[2, 0]].astype(np.uint16)
    found = are_among(tokens, others)
    np.testing.assert_array_equal(found, [True, False, True])


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_labels_are_found_in_any_unicode_form(tmp_path, forms):
    run = make_small_run(tmp_path / "run")
    known, given = (unicodedata.normalize(form, "caf\u00e9") for form in forms)
    run.model.labels = ["bar", known]
    evidence = gather(run, random_images(3), [given, "bar", given])
    bar, cafe = classes.bits_of_labels(evidence, ["bar", known])
    scorer = Scorer(run.model, jit_compile=False)
    bits = scorer.bits(evidence.token_ids[[0, 2]], labels=2).mean()
    assert cafe["given"] == pytest.approx(bits)
    assert bar["plain"] != cafe["plain"]


def test_work_does_not_grow_with_the_training_images(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "MAX_TRAINING", 10)
    path = tmp_path / "tokens.npz"
    token_ids = np.arange(50 * 4).reshape(50, 4)
    arrays = {
        "train": token_ids,
        "train_labels": np.arange(50) % 2,
        "validation": token_ids[:0],
    }
    storage.write_npz(path, arrays, {"label_names": ["cat", "dog"]})
    with storage.open_npz(path) as file:
        training = evidence._read_training(file)
    assert training.token_ids.shape == (10, 4)
    assert len({tuple(row) for row in training.token_ids}) == 10
    names = np.array(["cat", "dog"])[training.token_ids[:, 0] // 4 % 2]
    np.testing.assert_array_equal(training.labels, names)
    assert (training.num_images, training.num_kept) == (50, 50)


@pytest.mark.slow
def test_completing_an_odd_height_draws_the_larger_half(tmp_path):
    run = make_small_run(tmp_path / "run", image_size=(5, 8))
    run.arguments["flip"] = True
    evidence = gather(run, random_images(1, 5, 8), [""])
    # The image is among the training images, but mirrored.
    mirrored = evidence.token_ids.reshape(1, 5, 8)[:, :, ::-1].reshape(1, 40)
    others = tokenize(random_images(4, 5, 8, seed=1), run.tokenizer)
    token_ids = np.concatenate([others, mirrored])
    training = TrainingData(token_ids, np.full(5, ""), others[:0], 5, 5)
    figures, images = complete_halves(
        dataclasses.replace(evidence, training=training)
    )
    assert (figures["rows"], figures["hidden_rows"]) == (5, 3)
    quality = figures["psnr"]
    assert quality["nearest"] == pytest.approx(quality["palette"])
    assert quality["nearest"] == quality["nearest_best"]
    assert quality["mirrored"] < quality["palette"]
    assert quality["drawn"] <= quality["drawn_best"] < quality["palette"]
    assert opened(images["completed"]).width > 6 * 100
    without, _ = complete_halves(evidence)
    assert "nearest" not in without["psnr"]


def test_frechet_distance_of_gaussians_that_are_known():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(2, 6, 6))
    first, second = (root @ root.T for root in roots)
    means = rng.normal(size=(2, 6))
    root = np.real(scipy.linalg.sqrtm(first @ second))
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(
        first + second - 2 * root
    )
    found = gaussian_distance(means[0], first, means[1], second)
    assert found == pytest.approx(expected)
    # Diagonal ones: by the mean and the deviation of each dimension.
    apart = gaussian_distance(
        *(np.zeros(2), np.diag([1.0, 4.0])),
        *(np.array([3.0, 0.0]), np.diag([4.0, 0.0])),
    )
    assert apart == pytest.approx(9 + (1 - 2) ** 2 + (2 - 0) ** 2)


def test_frechet_distance_of_equal_features_is_zero_even_if_few():
    few = np.random.default_rng(0).normal(size=(3, 8))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(few, few + 1) == pytest.approx(8)


def save_network(path, *layers, shape=(4, 6, 3)):
    keras.Sequential([keras.layers.Input(shape), *layers]).save(path)
    return str(path)


def test_features_of_a_given_network_are_means_over_places(tmp_path):
    path = save_network(
        tmp_path / "mean.keras",
        keras.layers.Conv2D(
            2, 1, kernel_initializer="ones", bias_initializer="ones"
        ),
    )
    images = np.full((70, 8, 12, 3), 9, np.uint8)
    found = frechet.extract(frechet.load_network(path), images)
    np.testing.assert_allclose(found, np.full((70, 2), 28.0), rtol=1e-6)


def test_networks_that_do_not_fit_are_refused(tmp_path):
    flat = save_network(
        tmp_path / "flat.keras", keras.layers.Dense(2), shape=(5,)
    )
    code = save_network(
        tmp_path / "code.keras", keras.layers.Lambda(lambda x: x)
    )
    (tmp_path / "bad.keras").write_bytes(b"bad")
    for path, message in (
        (flat, "must take one tensor"),
        (code, "does not load"),
        (tmp_path / "bad.keras", "does not load"),
        (tmp_path / "none.keras", "There is no file"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet.load_network(str(path))


def test_a_trained_classifier_tells_images_it_has_not_seen():
    classes = np.arange(80) % 2
    images = random_images(80) // 4
    images[..., 0] += 128 * classes[:, None, None].astype(np.uint8)
    network = frechet.train_classifier(images[:64], classes[:64], False, 20)
    logits = frechet.extract(network, images[64:])
    np.testing.assert_array_equal(logits.argmax(axis=1), classes[64:])


def test_layer_means_do_not_depend_on_the_batch(trained_run):
    tokens = trained_run.tokenizer.tokenize(random_images(18))
    found = probe.layer_means(trained_run.model, tokens, jit_compile=False)
    states = trained_run.model.layer_states(tokens)
    assert len(found) == len(states) > 1
    for means, state in zip(found, states, strict=True):
        expected = np.asarray(state).mean(axis=1)
        np.testing.assert_allclose(means, expected, atol=1e-3)


def test_classes_are_shared_where_both_sides_have_enough():
    known = np.array(["cat"] * 3 + ["dog"] * 3 + ["fox"] * 2 + [""] * 5)
    asked = np.array(["cat", "dog", "fox", "pig", ""])
    assert probe.shared_classes(known, asked) == ["cat", "dog"]


@pytest.mark.slow
def test_figures_agree_with_each_other(report, trained_run):
    _, figures = report
    assert figures["pictures"] == 72
    bits = figures["bits_per_pixel"]
    assert sum(figures["channels"].values()) == pytest.approx(bits, rel=1e-4)
    residual = figures["bits_per_dim_residual"]
    assert figures["bits_per_dim"] == pytest.approx(bits / 3 + residual)
    arrays, _ = storage.read_npz(trained_run.file("tokens.npz"))
    assert figures["in_training"] == len(arrays["train"])
    assert figures["in_validation"] == len(arrays["validation"])
    assert figures["probe"]["pictures"] == 72 - figures["in_training"]
    assert figures["frechet"]["pictures"] == 6
    assert 0 < figures["frechet"]["held_out_accuracy"] <= 1
    assert figures["nearest"]["new"] == 6
    recoloring = figures["recoloring"]
    assert recoloring["given"] == ["value"]
    assert recoloring["named"]["pictures"] == recoloring["pictures"] == 12
    classes = figures["classes"]
    assert classes["judge_accuracy"] == figures["frechet"]["held_out_accuracy"]
    assert [a["guidance"] for a in classes["agreement"]] == [1, 1.5, 2, 3]
    assert all(0 <= a["share"] <= 1 for a in classes["agreement"])
    assert [of["name"] for of in classes["labels"]] == sorted(cartoons.SPECIES)
    layers = figures["probe"]["layers"]
    best = layers[figures["probe"]["chosen_layer"] - 1]
    assert best["cross_validation"] == max(
        layer["cross_validation"] for layer in layers
    )
    assert best["accuracy"] == figures["probe"]["accuracy"]
    assert figures["missing"] == {}


@pytest.mark.slow
def test_the_file_of_figures_is_what_the_command_prints(report):
    folder, figures = report
    assert json.loads((folder / "figures.json").read_text()) == figures
    json.dumps(figures, allow_nan=False)
    assert not list(folder.parent.glob(".*"))


@pytest.mark.slow
def test_the_page_needs_nothing_but_itself(report):
    folder, _ = report
    page = (folder / "index.html").read_text()
    sources = re.findall(r"<img [^>]*src=\"([^\"]*)\"", page)
    assert len(sources) == page.count("<img") == len(list(folder.glob("*.png")))
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert page.count("alt=") == len(sources)
    assert not re.search(r"(src|href)=\"?\s*(https?:|//)", page)
    assert "<script" not in page
    anchors = re.findall(r"href=\"#([^\"]*)\"", page)
    assert anchors == re.findall(r"<h2 id=\"([^\"]*)\"", page)
    assert "are training pictures.</b>" in page


@pytest.mark.slow
def test_the_page_says_when_it_compares_with_a_sample(read_report):
    assert "random sample" not in render(read_report)
    read_report.figures["training_pictures_kept"] = 50_000
    read_report.figures["training_pictures_compared"] = 10_000
    page = " ".join(render(read_report).split())
    assert "use a random sample of 10,000 of 50,000." in page


def test_the_page_counts_copies_beside_unseen_pictures(read_report):
    nearest = read_report.figures["nearest"]
    nearest |= {"new": 200, "copies": 3, "held_out": 90, "held_out_copies": 1}
    page = " ".join(render(read_report).split())
    assert "at most 10 levels of 0 to 255" in page
    assert "Of 200 new pictures, <b>3</b> are copies." in page
    assert (
        "of 90 real pictures that the model has not seen, 1 is as near to a "
        "training picture" in page
    )
    nearest |= {"is_pixel_art": True, "copy_bound": 0.05, "held_out": 0}
    page = " ".join(render(read_report).split())
    assert "at most 5% of the visible pixels then differ" in page
    assert "as near to a training picture" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium")
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.slow
def test_the_page_opens_in_a_browser_that_asks_for_nothing(report, width):
    from playwright.sync_api import sync_playwright

    folder, _ = report
    asked = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic"],
        )
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{folder}/index.html")
        drawn = page.evaluate(
            "[...document.images].map(i => i.complete && i.naturalWidth)"
        )
        overflow = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert all(drawn)
    assert overflow == width
    assert [url for url in asked if not url.startswith("data:")] == [
        f"file://{folder}/index.html"
    ]


@pytest.mark.slow
def test_names_from_outside_are_only_text(read_report):
    read_report.figures["record"]["run"] = "/runs/<script>x"
    read_report.figures["record"]["command"] = "<script>y"
    read_report.figures["frechet"]["network"] = "<script>z"
    page = render(read_report)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 4


@pytest.mark.slow
def test_a_report_replaces_an_older_one_and_nothing_else(read_report, tmp_path):
    folder = tmp_path / "report"
    check_report(str(folder))
    write_report(read_report, str(folder))
    (folder / "note.txt").write_text("mine")
    del read_report.images["probe"]
    read_report.figures.update(probe=None, missing={"probe": "No classes."})
    check_report(str(folder))
    write_report(read_report, str(folder))
    assert not (folder / "probe.png").exists()
    assert (folder / "note.txt").read_text() == "mine"
    assert "No classes." in (folder / "index.html").read_text()
    shutil.rmtree(folder)
    read_report.figures["bits_per_pixel"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(read_report, str(folder))
    assert os.listdir(tmp_path) == []


@pytest.mark.soak
def test_a_run_without_its_tokens_says_what_is_missing(tmp_path):
    run = make_small_run(tmp_path / "run")
    image = np.asarray(cartoons.draw("cat", "1").resize((12, 8)))
    evidence = gather(run, image[None], [""])
    measured = measure(evidence)
    assert measured.figures["bits_per_pixel_standard_error"] is None
    assert measured.figures["baselines"] is None
    assert "colors alone" not in summary(measured.figures)
    report = build_report(evidence, measured, num_samples=2)
    assert set(report.figures["missing"]) == {
        *("nearest", "frechet", "classes", "probe"),
    }
    assert report.figures["completion"]["pictures"] == 1
    assert report.figures["recoloring"]["named"] is None
    assert render(report).count("has lost") == 6


def test_a_run_that_kept_a_sample_does_not_know_all_it_was_trained_on(tmp_path):
    """A run that was trained from shards keeps some rows only."""
    run = make_small_run(tmp_path / "run", "transformer")
    images = random_images(3)
    token_ids = run.tokenizer.tokenize(images)
    storage.write_npz(
        run.file("tokens.npz"),
        {
            "train": token_ids[:2],
            "validation": token_ids[2:],
            "train_labels": np.zeros(2, np.int32),
            "validation_labels": np.zeros(1, np.int32),
        },
        {"label_names": [""], "num_train": 1000},
    )
    evidence = gather(run, images, [""] * 3)
    figures = measure(evidence).figures
    assert figures["in_training"] is None
    assert figures["in_validation"] == 1
    assert figures["training_pictures"] == 1000
    assert figures["training_pictures_kept"] == 2


def test_a_trial_of_a_sweep_is_no_report(tmp_path):
    (tmp_path / "figures.json").write_text("{}")
    with pytest.raises(UserError, match="exists and is no report"):
        check_report(str(tmp_path))


def test_a_damaged_model_has_no_figures(tmp_path):
    run = make_small_run(tmp_path / "run", "transformer")
    weight = run.model.trainable_variables[0]
    weight.assign(np.full(weight.shape, np.nan))
    evidence = gather(run, random_images(1), [""])
    with pytest.raises(UserError, match="no finite likelihood"):
        measure(evidence)


@pytest.mark.parametrize("package", ["jinja2", "sklearn", "skimage"])
def test_a_report_needs_the_extra(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'pixace-tf\[evaluate\]'"):
        check_report(str(tmp_path / "report"))


def test_figures_need_no_extra(monkeypatch, tmp_path):
    run = make_small_run(tmp_path / "run")
    for package in ("jinja2", "sklearn", "skimage", "skimage.color"):
        monkeypatch.setitem(sys.modules, package, None)
    figures = measure(gather(run, random_images(2), ["", ""])).figures
    assert figures["palette"]["ciede2000"] is None
    assert "CIEDE2000" not in summary(figures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "4"], "need --report"),
        (["--features", "x.keras"], "need --report"),
        (["--num-outliers", "3"], "needs --outliers"),
        (["--outliers", "{tmp}/none/odd.png"], "There is no folder"),
        (["--outliers", "{tmp}/odd.txt"], "must end in .png"),
        (["--report", "{tmp}/none/report"], "There is no folder"),
        (["--report", "{tmp}"], "exists and is no report"),
        (["--report", "{tmp}/r", "--features", "{tmp}/f"], "There is no file"),
    ],
)
def test_bad_options_are_reported_before_the_work(
    trained_run, cartoon_folder, tmp_path, options, message
):
    (tmp_path / "mine.txt").write_text("mine")
    done = call(
        *(trained_run.path, cartoon_folder),
        *(o.format(tmp=tmp_path) for o in options),
    )
    assert done.exit_code == 2
    assert message in done.output
    assert os.listdir(tmp_path) == ["mine.txt"]
