"""Every exported form is read by the reader it is meant for: COCO tools, datasets, WILDS, SpuCo, DFR, and this tool."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from discovery.config import DatasetConfig, make_config
from discovery.errors import DataError
from discovery.export import STAGE
from discovery.listing import list_samples
from discovery.regions import encode_rle
from discovery.run import Run, frame_of

FORMATS = ("coco", "masks", "imagefolder", "splits")
CUES = {"c0": ("snow", "background"), "c1": ("grey cast", "colour")}
SHOWN = {"c0": ("cat/000.jpg", "cat/001.jpg", "dog/000.jpg"), "c1": ("cat/000.jpg",)}


def read_rows(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def masked() -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[2:4, 1:7] = mask[4:6, 3:5] = True
    return mask


@pytest.fixture
def run(make_photos, tmp_path) -> Run:
    """A run up to its ranking: six photos of two classes in two splits; a cue with places and one without."""
    photos = make_photos(n=3, splits=("train", "test"))
    config = {"dataset": {"root": str(photos)}, "export": {"formats": FORMATS}}
    made = Run.create(tmp_path / "run", make_config(config))
    uris = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    facts = {"width_px": 32, "height_px": 32, "audit": True}
    samples = [{"sample_id": u, "uri": u, "split": u.split("/")[0], "label": u.split("/")[1], **facts} for u in uris]
    correct = [{"sample_id": u, "correct": "000" in u} for u in uris]
    presences, regions = [], []
    for cue_id, shown in SHOWN.items():
        for uri in (f"{split}/{name}" for split in ("train", "test") for name in shown):
            phrase, kind = CUES[cue_id]
            region = {"region_id": f"{cue_id}-{uri}", "sample_id": uri, "score": 0.75}
            if kind == "background":
                region |= dict(zip(("x0", "y0", "x1", "y1"), (4.0, 8.0, 28.0, 24.0), strict=True))
                region["mask_rle"] = encode_rle(masked()) if "cat" in uri else None
            regions.append(region)
            known = {"cue_id": cue_id, "sample_id": uri, "phrase": phrase, "kind": kind, "score": 0.75}
            presences.append({**known, "region_ids": [region["region_id"]]})
    cues = [
        {"label": "cat", "cue_id": c, "phrase": p, "kind": k, "verdict": "spurious", "score": 0.1, "effect": effect}
        for (c, (p, k)), effect in zip(CUES.items(), (0.2, -0.2), strict=True)
    ]
    tables = {"samples": samples, "predictions": correct, "presences": presences, "regions": regions, "cues": cues}
    for table, rows in tables.items():
        made.write(table, frame_of(table, rows), shard=0, fingerprint="x")
    return made


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_coco_tools_read_boxes_and_masks_at_the_size_of_the_photo(run, capsys):
    from pycocotools.coco import COCO

    STAGE.work(run, None)
    coco = COCO(run.path / "export" / "coco.json")
    capsys.readouterr()
    images = {image["file_name"]: image["id"] for image in coco.loadImgs(coco.getImgIds())}
    assert len(images) == 12
    (with_mask,) = coco.loadAnns(coco.getAnnIds(imgIds=[images["train/cat/000.jpg"]]))
    expected = np.repeat(np.repeat(masked(), 4, axis=0), 4, axis=1)
    np.testing.assert_array_equal(coco.annToMask(with_mask).astype(bool), expected)
    assert with_mask["area"] == expected.sum()
    (box,) = coco.loadAnns(coco.getAnnIds(imgIds=[images["test/dog/000.jpg"]]))
    assert box["bbox"] == [4, 8, 24, 16]
    assert coco.annToMask(box).astype(bool)[8:24, 4:28].all()
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["snow", "grey cast"]
    assert len(coco.getAnnIds()) == 6  # none of the cue that has no place


def test_cues_without_a_place_are_named_in_the_info_of_coco(run):
    STAGE.work(run, None)
    content = json.loads((run.path / "export" / "coco.json").read_text())
    (whole,) = content["info"]["whole_image_cues"]
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert whole["phrase"] == "grey cast"
    assert {names[i] for i in whole["image_ids"]} == {"train/cat/000.jpg", "test/cat/000.jpg"}


def test_masks_are_images_of_the_size_of_their_photo(run):
    STAGE.work(run, None)
    rows = read_rows(run.path / "export" / "masks" / "masks.csv")
    assert len(rows) == 6
    for row in rows:
        pixels = np.array(Image.open(run.path / "export" / "masks" / row["mask"]))
        assert pixels.shape == (32, 32)
        assert set(np.unique(pixels)) == {0, 255}
        assert (pixels[8:12, 4:28] == 255).all()


@pytest.mark.parametrize("photos", ["link", "copy"])
def test_datasets_reads_the_imagefolder_with_labels_cues_and_boxes(run, tmp_path, photos):
    from datasets import load_dataset

    export = run.config.export.model_copy(update={"photos": photos})
    run.config = run.config.model_copy(update={"export": export})
    STAGE.work(run, None)
    folder = run.path / "export" / "imagefolder"
    assert (folder / "train" / "train" / "cat" / "000.jpg").is_symlink() == (photos == "link")
    found = load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in found.items()} == {"train": 6, "test": 6}
    rows = {row["sample_id"]: row for row in found["train"]}
    first = rows["train/cat/000.jpg"]
    assert (first["label"], first["cues"]) == ("cat", ["grey cast", "snow"])
    assert first["image"].size == (32, 32)
    assert first["objects"]["bbox"] == [[4, 8, 24, 16]]
    assert rows["train/dog/002.jpg"]["objects"]["bbox"] == []


def test_where_links_cannot_be_made_the_setting_is_named(run, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(DataError, match=r"set export\.photos = 'copy'"):
        STAGE.work(run, None)
    assert not list(run.path.glob("export*"))  # nothing half-made is left


def test_easy_and_hard_halves_follow_the_sign_of_the_effect_and_are_manifests(run):
    STAGE.work(run, None)
    folder = run.path / "export" / "splits"
    rows = {row["phrase"]: row for row in read_rows(folder / "splits.csv")}
    snow, cast = rows["snow"], rows["grey cast"]
    assert [snow[f"n_{half}"] for half in ("easy", "hard")] == ["4", "2"]
    assert [float(snow[f"accuracy_{half}"]) for half in ("easy", "hard")] == [0.5, 0.0]
    assert [cast[f"n_{half}"] for half in ("easy", "hard")] == ["4", "2"]  # it speaks against the class
    config = DatasetConfig(root=run.config.dataset.root, manifest=str(folder / snow["file"]))
    listed = list_samples(config)
    easy = listed.filter(split="easy")["uri"].to_list()
    assert sorted(easy) == [f"{s}/cat/{n}.jpg" for s in ("test", "train") for n in ("000", "001")]


def test_a_format_that_is_no_longer_wanted_is_taken_away(run):
    STAGE.work(run, None)
    for formats, left in ((("splits",), {"splits"}), ((), set())):
        export = run.config.export.model_copy(update={"formats": formats})
        run.config = run.config.model_copy(update={"export": export})
        STAGE.work(run, None)
        folder = run.path / "export"
        assert ({path.name for path in folder.iterdir()} if folder.exists() else set()) == left


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")  # wilds with pandas 3
def test_wilds_and_spuco_read_the_metadata_and_make_our_groups(run, tmp_path):
    pytest.importorskip("wilds", reason="wilds comes with spuco; install it: pip install spuco")
    from spuco.datasets import WILDSDatasetWrapper
    from wilds.datasets.waterbirds_dataset import WaterbirdsDataset

    groups = STAGE.work(run, None).filter(pl.col("cue_id") == "c0")
    home = tmp_path / "wilds" / "waterbirds_v1.0"
    home.mkdir(parents=True)
    (home / "RELEASE_v1.0.txt").touch()
    (home / "metadata.csv").write_bytes((run.path / "metadata.csv").read_bytes())
    for split in ("train", "test"):
        (home / split).symlink_to(os.path.join(run.config.dataset.root, split))
    dataset = WaterbirdsDataset(root_dir=str(tmp_path / "wilds"))
    assert len(dataset.get_subset("train")) == len(dataset.get_subset("test")) == 6
    assert dataset.get_input(0).size == (32, 32)
    train = WILDSDatasetWrapper(dataset.get_subset("train"), "background")
    sizes = {key: len(members) for key, members in train.group_partition.items()}
    assert sizes == {(0, 0): 1, (0, 1): 1, (0, 3): 1, (1, 0): 2, (1, 1): 1}  # place: bit 0 snow, bit 1 grey cast
    ours = groups.filter(split="train").group_by("group").len()
    assert dict(ours.rows()) == {"cat|snow|1": 2, "cat|snow|0": 1, "dog|snow|1": 1, "dog|snow|0": 2}


def test_dfr_reads_the_metadata_as_its_loader_does(run):
    STAGE.work(run, None)
    rows = read_rows(run.path / "metadata.csv")
    train = [row for row in rows if row["split"] == "0"]
    y, place = (np.array([int(row[name]) for row in train]) for name in ("y", "place"))
    group = y * (place.max() + 1) + place  # DFR: (y_array * n_places + confounder_array)
    assert np.bincount(group).tolist() == [1, 1, 0, 1, 2, 1]
    assert all(os.path.isfile(os.path.join(run.config.dataset.root, row["img_filename"])) for row in rows)
