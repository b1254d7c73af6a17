"""The stage that writes the candidate cues of every class."""

import numpy as np
import polars as pl
import pytest
from PIL import Image

from discovery import propose as module
from discovery.backends.proposer import Attribute
from discovery.config import make_config
from discovery.errors import ConfigError
from discovery.propose import STAGE, attribute_frame, attribute_id, pick_images
from discovery.run import Run, conform, part_fingerprint
from discovery.schema import TABLES


def samples(n, label="a", audit=False, start=0):
    ids = [f"{label}{i}" for i in range(start, start + n)]
    return pl.DataFrame(
        {
            "sample_id": ids,
            "uri": [f"{name}.png" for name in ids],
            "label": [label] * n,
            "audit": [audit] * n,
        }
    )


class Recorder:
    """A fake proposer that keeps what it was shown: the grey value of each photo is its number."""

    looks = True

    def __init__(self, labels=frozenset()):
        self.labels = labels
        self.seen = {}

    def propose(self, label, images):
        self.seen[label] = [int(image[0, 0, 0]) for image in images]
        return [Attribute(f"near {label}", "background", "why", "fake"), Attribute("Sky", "object", "why", "fake")]


@pytest.fixture
def run(tmp_path):
    """A run whose samples are two classes of six fitted and two audited photos each."""
    table = pl.concat([samples(6, label, start=0).vstack(samples(2, label, True, start=6)) for label in ("b", "a")])
    root = tmp_path / "photos"
    root.mkdir()
    for i, uri in enumerate(table["uri"]):
        Image.fromarray(np.full((6, 8, 3), i, np.uint8)).save(root / uri)
    missing = [name for name in TABLES["samples"].names if name not in table.columns]
    table = table.with_columns(pl.lit(None).alias(name) for name in missing)
    config = make_config(
        {"dataset": {"root": str(root)}, "propose": {"images_per_class": 3}, "compute": {"batch_size": 2}}
    )
    run = Run.create(tmp_path / "run", config)
    run.write("samples", table[:5], shard=0, fingerprint="x")
    run.write("samples", table[5:], shard=1, fingerprint="x")
    return run


def use(monkeypatch, proposer):
    monkeypatch.setattr(module, "load_proposer", lambda *_: proposer)
    return proposer


def with_config(run, **propose):
    values = run.config.model_dump()
    values["propose"] |= propose
    return Run(run.path, make_config(values))


# --- which photos are looked at ---


def test_only_photos_that_are_not_audited_are_looked_at_when_there_are_enough():
    picked = pick_images(samples(4).vstack(samples(9, audit=True, start=4)), 4, seed=0)
    assert sorted(picked["sample_id"]) == ["a0", "a1", "a2", "a3"]


def test_all_photos_are_looked_at_when_too_few_are_not_audited():
    picked = pick_images(samples(3).vstack(samples(9, audit=True, start=3)), 12, seed=0)
    assert len(picked) == 12
    assert len(pick_images(samples(2), 5, seed=0)) == 2


def test_the_draw_depends_on_the_seed_but_not_on_the_order_of_the_table():
    table = samples(50)
    first = pick_images(table, 5, seed=1)["sample_id"].to_list()
    assert pick_images(table.reverse(), 5, seed=1)["sample_id"].to_list() == first
    assert pick_images(table, 5, seed=2)["sample_id"].to_list() != first
    assert first != table["sample_id"].head(5).to_list()


# --- the table ---


def test_a_phrase_has_one_id_in_every_class_and_another_for_another_kind():
    assert attribute_id("snow", "texture") == attribute_id("Snow", "texture")
    assert attribute_id("snow", "texture") != attribute_id("snow", "object")
    assert attribute_id("snow", "object") == "50fda0786906"


def test_rows_go_by_label_and_then_in_the_order_of_proposal():
    snow, cliff = (Attribute(text, "object", "why", "fake") for text in ("snow", "cliff"))
    forth = attribute_frame([("b", [snow]), ("a", [snow, cliff])])
    assert forth.select("label", "phrase").rows() == [("a", "snow"), ("a", "cliff"), ("b", "snow")]
    assert forth.equals(attribute_frame([("a", [snow, cliff]), ("b", [snow])]))
    assert forth["attribute_id"].n_unique() == 2


def test_the_frame_fits_the_schema_even_with_nulls_or_without_rows():
    for proposed in ([], [("a", [Attribute("snow", "object", "why", "fake")])]):
        assert conform("attributes", attribute_frame(proposed)).num_rows == len(proposed)


# --- the stage ---


def test_the_stage_shows_each_class_its_own_photos_and_writes_its_rows(run, monkeypatch):
    proposer = use(monkeypatch, Recorder())
    frame = STAGE.work(run, None)
    assert {label: len(seen) for label, seen in proposer.seen.items()} == {"a": 3, "b": 3}
    assert set(proposer.seen["b"]) <= set(range(6))
    assert set(proposer.seen["a"]) <= set(range(8, 14))
    assert frame["label"].to_list() == ["a", "a", "b", "b"]
    assert frame["phrase"].to_list() == ["near a", "Sky", "near b", "Sky"]
    run.write("attributes", frame, shard=0, fingerprint="x")


def test_the_stage_gives_the_same_table_again(run, monkeypatch):
    use(monkeypatch, Recorder())
    assert STAGE.work(run, None).equals(STAGE.work(run, None))


def test_photos_are_shrunk_for_the_look(run, monkeypatch):
    monkeypatch.setattr(module, "LOOK_PX", 4)
    shapes = []
    proposer = use(monkeypatch, Recorder())
    proposer.propose = lambda label, images: shapes.extend(image.shape for image in images) or []
    STAGE.work(run, None)
    assert set(shapes) == {(3, 4, 3)}


def test_a_proposer_that_does_not_look_costs_no_decoding(run, monkeypatch):
    proposer = use(monkeypatch, Recorder())
    proposer.looks = False
    monkeypatch.setattr(module, "decode_batches", lambda *_, **__: pytest.fail("decoded"))
    STAGE.work(run, None)
    assert proposer.seen == {"a": [], "b": []}


def test_a_label_that_no_sample_has_is_refused_with_those_there_are(run, monkeypatch):
    use(monkeypatch, Recorder(labels=frozenset({"a", "c"})))
    with pytest.raises(ConfigError, match="names the label 'c', which no sample has; labels: a, b"):
        STAGE.work(run, None)


def test_the_users_file_reaches_the_table(run, tmp_path):
    file = tmp_path / "cues.csv"
    file.write_text("phrase,kind,label\nsky,background,\nrope,object,b\n")
    frame = STAGE.work(with_config(run, proposer="file", file=str(file)), None)
    assert frame.select("label", "phrase").rows() == [("a", "sky"), ("b", "sky"), ("b", "rope")]
    assert set(frame["rationale"]) == {"listed by the user"}


def test_a_change_of_the_users_file_or_of_the_vocabulary_is_a_reason_to_run_again(run, tmp_path, monkeypatch):
    def mark(run):
        return part_fingerprint(run, STAGE, None, STAGE.outside(run.config))

    file = tmp_path / "cues.txt"
    file.write_text("snow")
    mine = with_config(run, proposer="file", file=str(file))
    before = mark(mine)
    assert mark(mine) == before
    file.write_text("rain")
    assert mark(mine) != before
    shipped = mark(run)
    monkeypatch.setattr(module, "packaged_file", lambda _: file)
    assert mark(run) != shipped


def test_a_missing_file_is_left_to_the_stage_to_refuse(run, tmp_path):
    gone = with_config(run, proposer="file", file=str(tmp_path / "gone.txt"))
    assert STAGE.outside(gone.config) is None
    with pytest.raises(ConfigError, match=r"cannot read propose\.file"):
        STAGE.work(gone, None)
