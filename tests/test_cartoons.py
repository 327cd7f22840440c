import pytest

from pixace_tf.data import cartoons
from pixace_tf.errors import UserError


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.glob("*/*.png")
    }


def drawn(folder, count, seed=0):
    cartoons.draw_folder(folder, count, seed)
    return files_of(folder)


def test_the_same_seed_draws_the_same_files(tmp_path):
    first = drawn(tmp_path / "a", 20, seed=3)
    assert first == drawn(tmp_path / "b", 20, seed=3)
    assert len(set(first.values())) == 20


def test_species_are_folders_and_another_seed_draws_others(tmp_path):
    first = drawn(tmp_path / "a", 16, seed=0)
    second = drawn(tmp_path / "b", 16, seed=1)
    assert {path.split("/")[0] for path in first} == set(cartoons.SPECIES)
    assert len(cartoons.SPECIES) >= 6
    assert not set(first.values()) & set(second.values())


def test_a_shorter_series_is_the_beginning_of_a_longer_one(tmp_path):
    short = drawn(tmp_path / "a", 9)
    assert len(short) == 9
    assert short.items() <= drawn(tmp_path / "b", 17).items()


def test_drawing_returns_the_paths_and_tells_how_far_it_is(tmp_path):
    told = []
    paths = cartoons.draw_folder(
        tmp_path / "a", 3, progress=lambda *counts: told.append(counts)
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    expected = {str(path) for path in (tmp_path / "a").glob("*/*.png")}
    assert set(paths) == expected


def test_every_species_can_be_drawn_in_many_ways():
    for species in cartoons.SPECIES:
        faces = {cartoons.draw(species, str(i)).tobytes() for i in range(4)}
        assert len(faces) == 4


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not an empty folder"):
        cartoons.draw_folder(str(tmp_path), 4)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_to_draw_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="count must be positive"):
        cartoons.draw_folder(tmp_path / "a", 0)
    assert not (tmp_path / "a").exists()
