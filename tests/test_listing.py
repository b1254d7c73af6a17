"""Folders and manifests → rows of uri, label, split and box."""

import os
import sys

import polars as pl
import pytest
from PIL import Image

from discovery.config import DatasetConfig
from discovery.errors import DataError
from discovery.listing import list_samples, listing_state


def put(root, *uris):
    for uri in uris:
        (root / uri).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (9, 9, 9)).save(root / uri)


def listed(root, manifest=None):
    return list_samples(DatasetConfig(root=str(root), manifest=manifest and str(manifest)))


def manifest(folder, text):
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return folder / "list.csv"


def test_class_layout_has_one_split_and_labels_from_folders(tmp_path):
    put(tmp_path, "cat/1.jpg", "a, big dog/ñ 照片.png")
    rows = listed(tmp_path)
    assert rows["uri"].to_list() == ["a, big dog/ñ 照片.png", "cat/1.jpg"]
    assert rows["label"].to_list() == ["a, big dog", "cat"]
    assert rows["split"].unique().to_list() == ["all"]
    assert rows["object_x0"].null_count() == 2


def test_split_class_layout_is_told_by_its_depth(tmp_path):
    put(tmp_path, "train/001/1.jpg", "test/001/1.JPG", "test/002/2.tiff")
    rows = listed(tmp_path)
    assert rows.select("split", "label").rows() == [("test", "001"), ("test", "002"), ("train", "001")]


def test_hidden_files_and_files_of_other_kinds_are_not_listed(tmp_path):
    put(tmp_path, "cat/1.jpg", "cat/.2.jpg", ".cache/cat/3.jpg")
    for name in ("cat/Thumbs.db", "cat/.DS_Store", "README", "cat/notes.txt"):
        (tmp_path / name).write_text("x")
    assert listed(tmp_path)["uri"].to_list() == ["cat/1.jpg"]


@pytest.mark.parametrize(
    "uris",
    [("cat/1.jpg", "train/cat/2.jpg"), ("1.jpg",), ("cat/1.jpg", "2.jpg"), ("a/b/c/1.jpg",), ("a/b/c/d/e/1.jpg",)],
)
def test_images_at_another_or_at_mixed_depth_are_refused_with_an_example(tmp_path, uris):
    put(tmp_path, *uris)
    with pytest.raises(
        DataError, match=r"must all lie at one depth, as class/\*\.jpg or split/class/\*\.jpg"
    ) as caught:
        listed(tmp_path)
    assert len(uris) == 1 or all(uri in str(caught.value) for uri in uris)


def test_missing_root_and_empty_folder_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*absent; set it: --set dataset\.root=FOLDER"):
        listed(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no images under .* expected class/\*\.jpg"):
        listed(tmp_path)


@pytest.mark.parametrize("linked", ["secret.jpg", ""], ids=["file", "folder"])
def test_link_that_leaves_the_root_is_refused(tmp_path, linked):
    put(tmp_path, "outside/secret.jpg", "root/cat/1.jpg")
    name = tmp_path / "root" / "cat" / "link.jpg" if linked else tmp_path / "root" / "dog"
    name.symlink_to(tmp_path / "outside" / linked)
    with pytest.raises(DataError, match=r"link .* leaves dataset\.root"):
        listed(tmp_path / "root")


def test_links_within_the_root_are_followed_and_a_loop_ends(tmp_path):
    put(tmp_path, "cat/1.jpg")
    (tmp_path / "dog").symlink_to(tmp_path / "cat")
    assert listed(tmp_path)["label"].to_list() == ["cat", "dog"]
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    with pytest.raises(DataError, match="links form a loop; expected class"):
        listed(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux file systems hold names that are not UTF-8")
def test_name_that_is_not_utf8_is_listed_with_its_bytes_escaped(tmp_path):
    put(tmp_path, "cat/1.jpg")
    os.rename(os.fsencode(tmp_path / "cat/1.jpg"), os.fsencode(tmp_path / "cat") + b"/\xff.jpg")
    assert listed(tmp_path)["uri"].to_list() == ["cat/\\xff.jpg"]
    assert len(listing_state(DatasetConfig(root=str(tmp_path)))) == 1


def test_manifest_keeps_labels_as_text_and_reads_boxes(tmp_path):
    text = 'uri,label,split,x0,y0,x1,y1,note\n"b, c.jpg",001,dev,1,2,3.5,4,x\n./a.jpg,010,,,,,,\n\n'
    rows = listed(tmp_path, manifest(tmp_path, text))
    assert rows["uri"].to_list() == ["a.jpg", "b, c.jpg"]
    assert rows["label"].to_list() == ["010", "001"]
    assert rows["split"].to_list() == ["all", "dev"]
    assert rows.row(1)[3:] == (1.0, 2.0, 3.5, 4.0)
    assert rows.row(0)[3:] == (None,) * 4


def test_parquet_manifest_gives_what_its_csv_gives(tmp_path):
    rows = pl.DataFrame({"uri": ["a.jpg", "b.jpg"], "label": [1, 2], "x0": 1.5, "y0": 0.0, "x1": 4.0, "y1": 5.0})
    rows.write_csv(tmp_path / "list.csv")
    rows.write_parquet(tmp_path / "list.parquet")
    from_csv, from_parquet = (listed(tmp_path, tmp_path / f"list.{kind}") for kind in ("csv", "parquet"))
    assert from_csv.equals(from_parquet)
    assert from_csv["label"].to_list() == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither CSV nor Parquet that can be read: empty CSV"),
        ("uri,label\na.jpg,x,y,z\n", "neither CSV nor Parquet that can be read"),
        ("uri,label\n", "lists no images; write a row of uri,label per image"),
        ("path,label\na.jpg,cat\n", r"needs uri,label\[,split\].* it has path,label"),
        ("uri,label,x0,y0\na.jpg,cat,1,2\n", "it has uri,label,x0,y0"),
        ("uri,label\na.jpg,cat\nb.jpg,\n", "label is empty in row 2 after the header"),
        ('uri,label\n" ",cat\n', "uri is empty in row 1 after the header"),
        ("uri,label\na.jpg,cat\na.jpg,cat\n", r"lists 'a\.jpg' 2 times \(1 images are listed more than once\)"),
        ("uri,label\na.jpg,cat\nd/../a.jpg,dog\n./a.jpg,dog\n", r"lists 'a\.jpg' 3 times"),
        ("uri,label,x0,y0,x1,y1\na.jpg,cat,1,2,wide,4\n", "x1 is 'wide' in row 1; expected pixels"),
        ("uri,label\n../secret.jpg,cat\n", r"manifest path .*secret\.jpg leaves dataset\.root"),
        ("uri,label\n/etc/secret.jpg,cat\n", r"manifest path /etc/secret\.jpg leaves dataset\.root"),
        ("uri,label\nx/link.jpg,cat\n", r"manifest path .*link\.jpg leaves dataset\.root"),
    ],
)
def test_manifest_that_cannot_be_used_is_one_clear_line(tmp_path, text, message):
    put(tmp_path, "secret.jpg")
    (tmp_path / "root" / "x").mkdir(parents=True)
    (tmp_path / "root" / "x" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(DataError, match=message) as caught:
        listed(tmp_path / "root", manifest(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_absent_and_broken_manifests_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no manifest .*none\.csv"):
        listed(tmp_path, tmp_path / "none.csv")
    (tmp_path / "list.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"list\.parquet is neither CSV nor Parquet"):
        listed(tmp_path, tmp_path / "list.parquet")
    pl.DataFrame({"uri": [["a"]], "label": ["x"]}).write_parquet(tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"list\.parquet is neither CSV nor Parquet"):
        listed(tmp_path, tmp_path / "list.parquet")


def test_absolute_paths_under_the_root_become_relative_also_through_a_link(tmp_path):
    put(tmp_path, "real/a.jpg", "real/b.jpg")
    (tmp_path / "root").symlink_to(tmp_path / "real")
    text = f"uri,label\n{tmp_path}/real/a.jpg,x\n{tmp_path}/root/b.jpg,y\n"
    assert listed(tmp_path / "root", manifest(tmp_path, text))["uri"].to_list() == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("listed_by", ["folder", "manifest"])
def test_state_changes_with_any_image_and_with_nothing_else(tmp_path, listed_by):
    root = tmp_path / "root"
    put(root, "cat/1.jpg", "dog/1.jpg")
    rows = manifest(tmp_path, "uri,label\ncat/1.jpg,cat\ndog/1.jpg,dog\ncat/2.jpg,cat\n")
    config = DatasetConfig(root=str(root), manifest=str(rows) if listed_by == "manifest" else None)
    states = [listing_state(config)]
    (root / "cat" / "notes.txt").write_text("not an image")
    assert listing_state(config) == states[0]
    os.utime(root / "cat" / "1.jpg", ns=(1, 1))
    states.append(listing_state(config))
    put(root, "cat/2.jpg")
    states.append(listing_state(config))
    assert len({repr(state) for state in states}) == 3
