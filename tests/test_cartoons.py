import pytest

from pixace_tf.data import cartoons, image_files


def test_the_same_seed_draws_the_same_files(tmp_path):
    for name in ("a", "b"):
        cartoons.draw_folder(str(tmp_path / name), 20, seed=3)
    first, second = (image_files.scan(tmp_path / name).loads for name in "ab")
    assert first == second
    assert len({p.digest for p in first}) == 20


def test_species_are_labels_and_another_seed_draws_others(tmp_path):
    cartoons.draw_folder(str(tmp_path / "a"), 16, seed=0)
    cartoons.draw_folder(str(tmp_path / "b"), 16, seed=1)
    first, second = (image_files.scan(tmp_path / name).loads for name in "ab")
    assert {p.label for p in first} == set(cartoons.SPECIES)
    assert len(cartoons.SPECIES) >= 6
    assert not {p.digest for p in first} & {p.digest for p in second}


def test_a_shorter_series_is_the_beginning_of_a_longer_one(tmp_path):
    cartoons.draw_folder(str(tmp_path / "a"), 9)
    cartoons.draw_folder(str(tmp_path / "b"), 17)
    short, long = (
        {p.path: p.digest for p in image_files.scan(tmp_path / name).loads}
        for name in "ab"
    )
    assert short.items() <= long.items()


def test_every_species_can_be_drawn_in_many_ways():
    for species in cartoons.SPECIES:
        faces = {cartoons.draw(species, str(i)).tobytes() for i in range(4)}
        assert len(faces) == 4


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not an empty folder"):
        cartoons.draw_folder(str(tmp_path), 4)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
