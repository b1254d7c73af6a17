"""A dataset → `samples`: what is skipped, what stops the run, and what is audited."""

import os
import time

import numpy as np
import polars as pl
import pytest
from PIL import Image

from discovery.config import DatasetConfig, make_config
from discovery.errors import DataError
from discovery.ingest import STAGE, ingest
from discovery.run import Run, conform
from discovery.schema import TABLES


def put(root, uris, size=(8, 6)):
    for uri in uris:
        (root / uri).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (9, 90, 200)).save(root / uri)


def two_classes(root, count=20, folder=""):
    put(root, [f"{folder}{label}/{i:03d}.png" for label in ("cat", "dog") for i in range(count)])


def config_of(root, **settings):
    return DatasetConfig(root=str(root), **settings)


def listed(folder, header, *rows):
    (folder / "list.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    return str(folder / "list.csv")


def test_samples_have_the_table_s_columns_and_the_images_sizes(tmp_path):
    put(tmp_path, [f"cat/{i}, größer 照片.png" for i in range(10)], (30, 20))
    put(tmp_path, [f"dog/{i}.png" for i in range(10)], (11, 12))
    samples = ingest(config_of(tmp_path), 0).samples
    assert samples.columns == TABLES["samples"].names
    assert conform("samples", samples).num_rows == 20
    assert samples["sample_id"].equals(samples["uri"], check_names=False)
    assert samples.filter(label="cat").select("width_px", "height_px").unique().rows() == [(30, 20)]
    assert all((tmp_path / uri).is_file() for uri in samples["uri"])


def test_sizes_are_those_after_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    two_classes(tmp_path)
    Image.new("RGB", (40, 20)).save(tmp_path / "cat" / "phone.jpg", exif=exif)
    row = ingest(config_of(tmp_path), 0).samples.row(by_predicate=pl.col("uri") == "cat/phone.jpg", named=True)
    assert (row["width_px"], row["height_px"]) == (20, 40)


def test_few_bad_images_are_skipped_and_listed_with_their_reason(tmp_path):
    two_classes(tmp_path, 40)
    (tmp_path / "cat" / "a, b.png").write_bytes(b"")
    (tmp_path / "dog" / "note.jpg").write_text("text")
    found = ingest(config_of(tmp_path, max_bad_frac=0.05), 0)
    assert len(found.samples) == 80
    assert found.skipped.columns == ["uri", "reason"]
    assert found.skipped["uri"].to_list() == ["cat/a, b.png", "dog/note.jpg"]
    assert found.skipped["reason"][0] == "the file is empty (0 bytes)"
    assert found.skipped["reason"][1].startswith("not an image of a known format")


def test_bomb_is_skipped_by_the_dataset_s_own_limit(tmp_path):
    two_classes(tmp_path)
    put(tmp_path, ["cat/huge.png"], (200, 200))
    found = ingest(config_of(tmp_path, max_pixels=39_999, max_bad_frac=0.05), 0)
    assert found.skipped.row(0)[0] == "cat/huge.png"
    assert "200 x 200 pixels, more than dataset.max_pixels = 39999" in found.skipped.row(0)[1]


def test_more_bad_images_than_allowed_stop_with_count_reasons_and_setting(tmp_path):
    two_classes(tmp_path, 16)
    for i in range(4):
        (tmp_path / "cat" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"4 of 36 images .* dataset\.max_bad_frac = 0\.1 ") as caught:
        ingest(config_of(tmp_path, max_bad_frac=0.1), 0)
    assert "cat/bad2.png: the file is empty" in str(caught.value)
    assert "bad3" not in str(caught.value)
    assert len(ingest(config_of(tmp_path, max_bad_frac=4 / 36), 0).samples) == 32


def test_missing_file_of_a_manifest_counts_as_bad(tmp_path):
    two_classes(tmp_path)
    rows = [f"{label}/{i:03d}.png,{label}" for label in ("cat", "dog") for i in range(21)]
    manifest = listed(tmp_path, "uri,label", *rows)
    found = ingest(config_of(tmp_path, manifest=manifest, max_bad_frac=0.05), 0)
    assert found.skipped.rows() == [("cat/020.png", "no such file"), ("dog/020.png", "no such file")]
    with pytest.raises(DataError, match="2 of 42 images cannot be read"):
        ingest(config_of(tmp_path, manifest=manifest), 0)


def test_boxes_are_clipped_and_those_without_area_become_null(tmp_path, caplog):
    two_classes(tmp_path, 10)
    boxes = {"cat/000.png": "-3,1,99,5", "cat/001.png": "20,0,30,5", "cat/002.png": "1,1,,4", "cat/003.png": ",,,"}
    rows = [
        f"{uri},{uri[:3]},{boxes.get(uri, '1,2,3,4')}"
        for uri in (f"{label}/{i:03d}.png" for label in ("cat", "dog") for i in range(10))
    ]
    manifest = listed(tmp_path, "uri,label,x0,y0,x1,y1", *rows)
    samples = ingest(config_of(tmp_path, manifest=manifest), 0).samples
    box = {row[0]: row[1:] for row in samples.select("uri", pl.col("^object_.*$")).rows()}
    assert box["cat/000.png"] == (0.0, 1.0, 8.0, 5.0)
    assert box["dog/000.png"] == (1.0, 2.0, 3.0, 4.0)
    assert {box[f"cat/00{i}.png"] for i in (1, 2, 3)} == {(None,) * 4}
    assert "2 object boxes are incomplete or lie outside" in caplog.text


@pytest.mark.parametrize(
    ("uris", "message"),
    [
        ([f"cat/{i}.png" for i in range(12)], r"one class only in .*: cat; .* give two or more"),
        (
            [f"cat/{i}.png" for i in range(12)] + ["dog/1.png", "eel/1.png"],
            r"min_class_images = 10 images; 'dog' has 1, 'eel' has 1: add images, remove the class, or lower",
        ),
        ([], r"no images under .*; expected class/\*\.jpg"),
    ],
    ids=["one class", "class too small", "empty folder"],
)
def test_dataset_that_cannot_be_audited_says_what_to_do(tmp_path, uris, message):
    put(tmp_path, uris)
    with pytest.raises(DataError, match=message):
        ingest(config_of(tmp_path), 0)


def test_no_readable_image_at_all_is_an_error_of_the_user(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="none is readable"):
        ingest(config_of(tmp_path, max_bad_frac=1.0), 0)


def audited(samples, split, label):
    return samples.filter(split=split, label=label)["audit"].sum()


def test_holdout_is_a_share_of_each_class_of_the_fit_split_and_all_of_the_others(tmp_path):
    put(tmp_path, [f"train/cat/{i}.png" for i in range(40)] + [f"train/dog/{i}.png" for i in range(10)])
    put(tmp_path, [f"test/{label}/{i}.png" for label in ("cat", "dog") for i in range(5)])
    samples = ingest(config_of(tmp_path, holdout_frac=0.3), 0).samples
    assert [audited(samples, "train", label) for label in ("cat", "dog")] == [12, 3]
    assert [audited(samples, "test", label) for label in ("cat", "dog")] == [5, 5]


def test_without_the_fit_split_the_share_is_drawn_from_all_splits(tmp_path):
    two_classes(tmp_path, 20)
    samples = ingest(config_of(tmp_path, holdout_frac=0.25), 0).samples
    assert [audited(samples, "all", label) for label in ("cat", "dog")] == [5, 5]


@pytest.mark.parametrize(("share", "expected"), [(None, 10), (1.0, 10), (0.999, 9), (0.001, 1)])
def test_a_share_between_none_and_all_leaves_a_sample_on_either_side(tmp_path, share, expected):
    two_classes(tmp_path, 10)
    samples = ingest(config_of(tmp_path, holdout_frac=share), 0).samples
    assert audited(samples, "all", "cat") == expected


def test_nothing_left_to_audit_is_refused(tmp_path):
    two_classes(tmp_path, 10)
    with pytest.raises(DataError, match=r"no sample would be audited.*dataset\.holdout_frac = 0"):
        ingest(config_of(tmp_path, holdout_frac=0.0), 0)


def test_same_seed_gives_the_same_samples_and_another_seed_another_draw(tmp_path):
    two_classes(tmp_path, 30)
    config = config_of(tmp_path, holdout_frac=0.5)
    first, again, other = (ingest(config, seed).samples for seed in (7, 7, 8))
    assert first.equals(again)
    assert not first.sort("uri")["audit"].equals(other.sort("uri")["audit"])
    assert first["uri"].to_list() != other["uri"].to_list()


def test_folder_and_manifest_of_the_same_images_give_the_same_samples(tmp_path):
    two_classes(tmp_path, 12, folder="train/")
    rows = [f"train/{label}/{i:03d}.png,{label},train" for label in ("dog", "cat") for i in range(12)]
    manifest = listed(tmp_path, "uri,label,split", *rows)
    by_folder, by_manifest = (ingest(config_of(tmp_path, manifest=m, holdout_frac=0.5), 0) for m in (None, manifest))
    assert by_folder.samples.equals(by_manifest.samples)


def test_samples_are_shuffled_so_that_a_shard_holds_every_class(tmp_path):
    two_classes(tmp_path, 40)
    samples = ingest(config_of(tmp_path), 0).samples
    assert np.ptp(samples[:20]["label"].value_counts()["count"].to_numpy()) < 15
    assert samples[:20]["label"].n_unique() == 2


def run_on(tmp_path, **settings):
    config = make_config({"dataset": {"root": str(tmp_path / "photos"), **settings}})
    return Run.create(tmp_path / "run", config)


def test_stage_writes_skipped_csv_also_when_nothing_is_skipped(tmp_path):
    two_classes(tmp_path / "photos")
    run = run_on(tmp_path)
    frame = STAGE.work(run, None)
    assert conform(STAGE.table, frame).num_rows == 40
    assert (tmp_path / "run" / "skipped.csv").read_text() == "uri,reason\n"
    assert frame["audit"].mean() == pytest.approx(0.3)


def test_stage_lists_what_is_bad_before_it_stops(tmp_path):
    two_classes(tmp_path / "photos")
    (tmp_path / "photos" / "cat" / 'a "quoted", name.png').write_bytes(b"")
    with pytest.raises(DataError, match="1 of 41 images cannot be read"):
        STAGE.work(run_on(tmp_path), None)
    skipped = pl.read_csv(tmp_path / "run" / "skipped.csv")
    assert skipped.rows() == [('cat/a "quoted", name.png', "the file is empty (0 bytes)")]


def test_listing_follows_every_image_without_opening_one(tmp_path):
    photos = tmp_path / "photos"
    (photos / "cat").mkdir(parents=True)
    for i in range(3000):
        (photos / "cat" / f"{i}.jpg").write_bytes(b"no image")
    config = run_on(tmp_path).config
    start = time.perf_counter()
    before = STAGE.outside(config)
    assert time.perf_counter() - start < 1
    assert before == STAGE.outside(config)
    assert isinstance(before, str)
    os.utime(photos / "cat" / "7.jpg", ns=(1, 1))
    assert before != STAGE.outside(config)
    with pytest.raises(DataError, match="no folder"):
        STAGE.outside(make_config({"dataset": {"root": str(tmp_path / "absent")}}))
