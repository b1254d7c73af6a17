"""Two detectors vote: agreement box by box, kept in `regions` and asked for by `presence`."""

import numpy as np
import polars as pl
import pytest

from discovery import detect as stage
from discovery import embed, presence
from discovery.backends.detector import Phrase
from discovery.config import make_config
from discovery.detect import vote
from discovery.errors import ConfigError
from discovery.regions import Regions, best_iou
from discovery.run import Run, frame_of
from discovery.schema import CLASS_ITSELF

PHRASES = [Phrase("cliff", "object"), Phrase("fog", "lighting")]


def test_agreement_is_the_best_overlap_in_the_same_photo_for_the_same_phrase():
    found = Regions.build(
        [(0, 0, [0, 0, 10, 10], 1, None), (0, 1, [0, 0, 10, 10], 1, None), (1, 0, [0, 0, 10, 10], 1, None)]
    )
    other = Regions.build(
        [(0, 0, [5, 0, 15, 10], 1, None), (0, 0, [0, 0, 10, 5], 1, None), (1, 1, [0, 0, 9, 9], 1, None)]
    )
    np.testing.assert_allclose(best_iou(found, other), [0.5, 0, 0])


def test_whole_image_cues_agree_with_each_other_alone():
    whole, box = Regions.build([(0, 0, None, 1, None)]), Regions.build([(0, 0, [0, 0, 9, 9], 1, None)])
    assert best_iou(whole, whole) == 1
    assert best_iou(whole, box) == best_iou(box, whole) == 0


class Second:
    """Finds the left half of every photo, surely in the first and hardly in the others."""

    def sees(self, phrase):
        return phrase.kind == "object"

    def detect(self, images, phrases):
        return Regions.build([(i, 0, [0, 0, 10, 20], 0.1 if i else 0.9, None) for i in range(len(images))])


def test_a_vote_counts_boxes_that_pass_and_leaves_out_what_the_second_cannot_see():
    rows = [(i, p, [0, 0, 20, 20], 0.5, None) for i in range(2) for p in range(2)]
    shown = [np.zeros((20, 20, 3), np.uint8)] * 2
    agreement = vote(shown, PHRASES, Regions.build(rows), Second(), 0.2)
    np.testing.assert_allclose(agreement, [0.5, np.nan, 0.0, np.nan])


def test_a_detector_does_not_vote_on_itself():
    config = make_config({"dataset": {"root": "."}, "detect": {"box_detector": "conse", "vote_with": "conse"}})
    with pytest.raises(ConfigError, match="is the box detector itself"):
        stage._second(config)


def box(name: str, score: float, agreement: float | None, **more) -> dict:
    row = {"region_id": name, "sample_id": "s", "attribute_id": "a", "detector": "owlv2", "score": score}
    return row | {"x0": 0, "y0": 0, "x1": 5, "y1": 5, "area_frac": 0.1, "agreement": agreement} | more


def run_with(tmp_path, rows, **settings) -> Run:
    run = Run.create(tmp_path, make_config({"dataset": {"root": str(tmp_path)}, **settings}))
    attribute = {"attribute_id": "a", "label": "x", "phrase": "cliff", "kind": "object", "source": "file"}
    tables = {
        "regions": rows,
        "attributes": [attribute],
        "clusters": [],
        "samples": [{"sample_id": "s", "uri": "s.png", "label": "x", "split": "train"}],
    }
    for name, part in tables.items():
        run.write(name, frame_of(name, part), shard=0, fingerprint="f")
    return run


@pytest.mark.parametrize(("least", "shown"), [(0.0, ["r0", "r1", "r2"]), (0.4, ["r0", "r2"]), (0.9, ["r2"])])
def test_presence_asks_for_agreement_where_there_was_a_vote(tmp_path, least, shown):
    rows = [box("r0", 0.9, 0.6), box("r1", 0.9, 0.0), box("r2", 0.9, None)]
    run = run_with(tmp_path, rows, presence={"min_agreement": least, "thresholds": {"owlv2": 0.5}})
    (seen,) = presence._Shards(run, run.read("samples"))
    assert seen["region_id"].to_list() == shown


def test_unlikely_boxes_of_open_set_models_are_not_embedded(tmp_path, monkeypatch):
    class Counts:
        width = 1

        def embed(self, images, boxes):
            n = sum(len(part) for part in boxes)
            return embed.Embedded(np.ones((n, 1), np.float32), np.ones(n, np.float32))

    rows = [
        box("likely", 0.3, None),
        box("hardly", 0.06, None),
        box("window", 5.0, None, detector="conse"),
        box("computed", 0.01, None, detector="appearance"),
        box("agnostic", 1.0, None, detector="agnostic", attribute_id=None),
    ]
    run = run_with(tmp_path, rows)
    monkeypatch.setattr(embed, "load_encoder", lambda *_: Counts())
    monkeypatch.setattr(embed, "decode_batches", lambda *_, **__: [[np.zeros((9, 9, 3), np.uint8)]])
    assert embed._work(run, 0)["region_id"].to_list() == ["likely", "computed", "agnostic"]


def test_a_run_with_a_vote_and_pictures_writes_agreement(tmp_path, make_photos):
    """Both through the stage: a tiny OWL-ViT votes on a tiny OWLv2, and a phrase with pictures goes to them first."""
    from PIL import Image
    from tiny_checkpoints import save_owlv2, save_owlvit

    make_photos(("cat", "dog"), 2, 64)
    (tmp_path / "ex" / "stamp").mkdir(parents=True)
    Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(tmp_path / "ex" / "stamp" / "1.png")
    detect = {
        "box_detector": f"owlv2:{save_owlv2(tmp_path / 'owl')}",
        "vote_with": f"owlvit:{save_owlvit(tmp_path / 'second')}",
    }
    detect |= {"exemplars": str(tmp_path / "ex"), "exemplar_model": detect["box_detector"], "min_score": 0.0}
    run = Run.create(
        tmp_path / "run",
        make_config({"dataset": {"root": str(tmp_path / "photos")}, "detect": detect, "compute": {"threads": 1}}),
    )
    attributes = [
        {"attribute_id": phrase, "label": "cat", "phrase": phrase, "kind": "object"} for phrase in ("cliff", "stamp")
    ]
    samples = [{"sample_id": f"s{i}", "uri": f"train/cat/{i:03d}.jpg", "label": "cat"} for i in range(2)]
    run.write("attributes", frame_of("attributes", attributes), shard=0, fingerprint="f")
    run.write("samples", frame_of("samples", samples), shard=0, fingerprint="f")
    found = stage._work(run, 0)
    kinds = found.group_by("detector", "attribute_id").agg(pl.col("agreement").null_count() == pl.len()).rows()
    assert sorted(kinds, key=str) == [
        ("agnostic", None, True),
        ("exemplar_owlv2", "stamp", True),
        ("owlv2", "cliff", False),
        ("owlv2", CLASS_ITSELF, True),
    ]
    assert found["region_id"].n_unique() == len(found)
    before = stage._outside(run.config)
    (tmp_path / "ex" / "stamp" / "1.png").write_bytes(b"changed")
    assert stage._outside(run.config) != before
