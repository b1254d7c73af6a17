"""Planted sets on disk: the same bytes each time, and a truth that says what is in them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from small_set import CUES, small_recipe

from discovery.errors import ConfigError, DataError
from discovery.planted import plant, read_planted


def _bytes(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return plant(small_recipe(), tmp_path_factory.mktemp("planted") / "set")


def test_achieved_v_in_the_files_truth_is_what_the_images_show(small):
    for row in small.plants.filter(pl.col("tied_label").is_not_null()).iter_rows(named=True):
        own = small.truth.filter((pl.col("phrase") == row["phrase"]) & (pl.col("split") == "train"))
        own = own.with_columns(tied=pl.col("label") == row["tied_label"])
        phi = own.select(pl.corr(pl.col("present").cast(float), pl.col("tied").cast(float))).item()
        assert phi == pytest.approx(row["achieved_train"])
        assert phi == pytest.approx(row["cramers_v"], abs=0.05)


def test_decoys_are_as_frequent_and_equally_so_in_every_class(small):
    decoy = small.truth.filter((pl.col("phrase") == "date stamp") & (pl.col("split") == "train"))
    assert decoy.group_by("label").agg(pl.col("present").sum())["present"].to_list() == [7, 7, 7]
    assert small.plants.filter(pl.col("role") == "decoy")["achieved_train"].to_list() == [None]


def test_test_split_shows_every_plant_equally_often_in_every_class(small):
    test = small.truth.filter(pl.col("split") == "test").group_by("phrase", "label").agg(pl.col("present").mean())
    assert set(test["present"]) == {0.5}
    assert small.plants["achieved_test"].drop_nulls().to_list() == pytest.approx([0, 0, 0, 0])


def test_same_recipe_gives_the_same_bytes_and_another_seed_others(small, tmp_path):
    again = plant(small_recipe(), tmp_path / "again")
    assert _bytes(again.root) == _bytes(small.root)
    other = plant(small_recipe(seed=1), tmp_path / "other")
    images = [p for p in _bytes(other.root) if p.endswith(".png")]
    assert all(_bytes(other.root)[p] != _bytes(small.root)[p] for p in images[:5])


def test_finished_set_is_read_and_not_drawn_again(tmp_path, monkeypatch):
    first = plant(small_recipe(), tmp_path)
    monkeypatch.setattr("discovery.planted.render", lambda *_: pytest.fail("drawn again"))
    assert plant(small_recipe(), tmp_path).truth.equals(first.truth)


def test_another_recipe_replaces_the_set(tmp_path):
    plant(small_recipe(), tmp_path)
    planted = plant(small_recipe(train_per_class=12), tmp_path)
    assert len(list(tmp_path.glob("train/one/*.png"))) == 12
    assert len(planted.truth) == (12 + 10) * 3 * len(CUES)


def test_unfinished_set_is_made_anew(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("discovery.planted._achieved", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            plant(small_recipe(), tmp_path)
    with pytest.raises(DataError, match="no finished planted set"):
        read_planted(tmp_path)
    assert len(plant(small_recipe(), tmp_path).plants) == len(CUES)


def test_images_of_the_user_are_never_removed(tmp_path):
    (tmp_path / "train" / "one").mkdir(parents=True)
    with pytest.raises(DataError, match="was not planted and is kept"):
        plant(small_recipe(), tmp_path)
    assert (tmp_path / "train" / "one").is_dir()


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write to .*; choose another folder"):
        plant(small_recipe(), tmp_path / "file" / "set")


def test_truth_names_every_image_once_per_plant(small):
    on_disk = {p.relative_to(small.root).as_posix() for p in small.root.rglob("*.png")}
    assert set(small.truth["sample_id"]) == on_disk
    assert len(small.truth) == len(on_disk) * len(CUES)
    read = read_planted(small.root)
    assert read.truth.equals(small.truth)
    assert read.recipe == small.recipe


def test_boxes_are_there_exactly_for_placed_plants_that_are_present(small):
    boxed = small.truth.with_columns(boxed=pl.col("x0").is_not_null())
    placed = pl.col("kind") != "texture"
    assert boxed.filter(pl.col("boxed") != (pl.col("present") & placed)).is_empty()
    assert small.truth.filter(pl.col("x1") > 96).is_empty()


def _write_photos(root: Path, count: int) -> None:
    for c, name in enumerate(("one", "three", "eight")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (120 + i, 90), (200, 60 * c, 10 * i)).save(root / name / f"photo {i}.jpg")


def test_photos_can_be_the_objects(tmp_path):
    _write_photos(tmp_path / "photos", 3)
    recipe = small_recipe(objects=str(tmp_path / "photos"), train_per_class=2, test_per_class=1, contrast=1, noise=0)
    planted = plant(recipe, tmp_path / "set")
    row = planted.truth.filter(~pl.col("present").any().over("sample_id"))
    assert len(planted.truth) == 9 * len(CUES)
    for sample_id in row["sample_id"].unique():
        pixels = np.asarray(Image.open(planted.root / sample_id))
        assert pixels.shape == (96, 96, 3)
        assert np.ptp(pixels[..., 0]) < 8, "the photo fills the image"


def test_too_few_photos_or_a_missing_class_is_one_line(tmp_path):
    _write_photos(tmp_path, 2)
    with pytest.raises(DataError, match=r"a class needs 30 objects .* 'one' has 2"):
        plant(small_recipe(objects=str(tmp_path)), tmp_path / "set")
    with pytest.raises(DataError, match=r"no folder .*two; give digits"):
        plant(small_recipe(objects=str(tmp_path), classes=("one", "two"), plants=()), tmp_path / "set")


def test_unknown_digit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'cat' is no digit"):
        plant(small_recipe(classes=("one", "cat"), plants=()), tmp_path)
