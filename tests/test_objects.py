"""Where the object is: given, or found by the name of its class; a cue on it is core, one beside it is not."""

import cv2
import numpy as np
import polars as pl
import pytest
from coloured_shapes import INKS, draw_scene, outline
from PIL import Image
from tiny_owlv2 import PROMPT, SAVED

from discovery import ablate, discover
from discovery.backends.detector import Phrase
from discovery.config import make_config
from discovery.detect import detect
from discovery.objects import class_phrases, find_objects, pick_own
from discovery.rank import rank
from discovery.regions import Regions
from discovery.run import Run, frame_of
from discovery.schema import CLASS_ITSELF, OBJECT_BOX

SIDE, OBJECT_PX, CUE_PX, N = 96, 32, 12, 24
CUES = {"red_circle": "yellow circle", "white_circle": "green circle"}
"""Class → its cue: the first lies on the object that the class is named after, the second beside it."""


def share_of(view: np.ndarray, colour: str) -> float:
    return (np.abs(view.astype(int) - INKS[colour]).max(-1) < 40).mean()


def predict(images) -> np.ndarray:
    """Reads the classes off the colours of their cues, and a little off those of their objects."""
    rows = []
    for view in images:
        red, yellow, white, green = (share_of(view, colour) for colour in ("red", "yellow", "white", "green"))
        rows.append([100 * yellow + 5 * red, 100 * green + 5 * white])
    scores = np.exp(rows)
    return scores / scores.sum(axis=1, keepdims=True)


def draw(label: str, cue: str | None, rng: np.random.Generator) -> np.ndarray:
    image = draw_scene([], rng).image.astype(np.float32)
    corner = rng.integers(4, SIDE - OBJECT_PX - 4, 2)
    lay(image, label.replace("_", " "), corner, OBJECT_PX, rng)
    if cue:
        middle = corner + (OBJECT_PX - CUE_PX) // 2
        away = np.where(corner > (SIDE - OBJECT_PX) // 2, 4, SIDE - CUE_PX - 4)
        lay(image, cue, middle if cue == CUES["red_circle"] else away, CUE_PX, rng)
    return np.clip(image, 0, 255).astype(np.uint8)


def lay(image: np.ndarray, name: str, corner: np.ndarray, side: int, rng: np.random.Generator) -> None:
    colour, shape = name.split()
    points = outline(shape, np.concatenate([corner, corner + side]).astype(float), rng)
    cv2.fillPoly(image, [np.round(points * 16).astype(np.int32)], INKS[colour], cv2.LINE_AA, 4)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Two classes of photos; nine in ten of either show its cue, and one in ten of the other."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for label, cue in CUES.items():
        (root / "photos" / "test" / label).mkdir(parents=True)
        (other,) = set(CUES.values()) - {cue}
        for i in range(N):
            image = draw(label, cue if i < 0.9 * N else other, rng)
            Image.fromarray(image).save(root / "photos" / "test" / label / f"{i:02d}.png")
    (root / "phrases.csv").write_text("phrase,kind\nyellow circle,object\ngreen circle,object\n")
    return {
        "dataset": {"root": str(root / "photos")},
        "model": {"kind": "python", "callable": "test_objects:predict", "classes": list(CUES)},
        "propose": {"proposer": "file", "file": str(root / "phrases.csv")},
        "detect": {"box_detector": f"owlv2:{SAVED}", "prompt": PROMPT},
        "embed": {"grid": 0, "superpixels": 0},
        "cluster": {"k_candidates": [2]},
        "ablate": {"looks": 1, "images_per_cue": 16},
        "associate": {"permutations": 99},
        "rank": {"bootstrap": 200},
        "compute": {"device": "cpu", "threads": 1},
    }


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    return discover(make_config(settings), tmp_path_factory.mktemp("run"), until="rank")


def test_the_detector_draws_the_class_of_each_photo_and_of_no_other(run):
    own = run.read("regions").filter(attribute_id=CLASS_ITSELF)
    assert set(own["detector"]) == {"owlv2"}
    best = own.sort("score").group_by("sample_id").last()
    assert len(best) > N, "most photos have one"
    assert best["area_frac"].median() == pytest.approx((OBJECT_PX / SIDE) ** 2, abs=0.05)


def test_what_is_drawn_so_is_no_cue_and_is_not_embedded(run):
    own = run.read("regions").filter(attribute_id=CLASS_ITSELF)["region_id"].implode()
    assert set(run.read("presences")["phrase"]) == set(CUES.values())
    assert run.read("embeddings").filter(pl.col("region_id").is_in(own)).is_empty()
    assert run.read("presences").explode("region_ids").filter(pl.col("region_ids").is_in(own)).is_empty()


def test_a_cue_on_what_was_detected_is_core_and_one_beside_it_is_not(run):
    found = {(row["label"], row["phrase"]): row for row in run.read("cues").iter_rows(named=True)}
    on, beside = (found[each] for each in CUES.items())
    assert on["verdict"] == "core"
    assert on["reason"].endswith("of it lies on the object, as owlv2 found it.")
    assert beside["verdict"] == "spurious"
    assert on["object_source"] == beside["object_source"] == "owlv2"
    assert on["object_overlap"] > 0.7
    assert beside["object_overlap"] < 0.3


def test_with_the_datas_boxes_alone_both_are_spurious(run, settings):
    alone = Run(run.path, make_config({**settings, "ablate": {**settings["ablate"], "object": "given"}}))
    effects = ablate.STAGE.work(alone, 0)
    assert effects["object_overlap"].null_count() == effects["object_source"].null_count() == len(effects)
    config = alone.config
    cues = rank(run.read("associations"), effects, config.rank, config.ablate, config.seed)
    assert {(row["label"], row["phrase"]) for row in cues.filter(verdict="spurious").iter_rows(named=True)} == set(
        CUES.items()
    )


class Counting:
    """A detector that finds every phrase in the first image, and remembers what it was asked."""

    def __init__(self, kinds: str) -> None:
        self.kinds, self.asked = kinds, []

    def sees(self, phrase: Phrase) -> bool:
        return phrase.kind in self.kinds

    def detect(self, images, phrases) -> Regions:
        self.asked.append([phrase.text for phrase in phrases])
        return Regions.build([(0, at, [0, 0, 9, 9], 0.5 + at / 10, None) for at in range(len(phrases))])


@pytest.mark.parametrize("cues", [["net", "blur"], ["blur"], []])
def test_names_of_classes_are_asked_in_the_same_pass_as_the_cues(cues):
    kinds = {"net": "object", "blur": "quality"}
    first, boxes = Counting("quality"), Counting("background object")
    phrases, names = [Phrase(cue, kinds[cue]) for cue in cues], [Phrase("cat", "object"), Phrase("dog", "object")]
    found = detect([np.zeros((9, 9, 3), np.uint8)], phrases, {"computed": first, "owlv2": boxes}, {"owlv2": names})
    assert boxes.asked == [[*(cue for cue in cues if cue == "net"), "cat", "dog"]]
    assert found["owlv2"].phrase.tolist()[-2:] == [len(cues), len(cues) + 1]


def test_boxes_of_other_classes_and_of_photos_without_a_class_are_left_out():
    regions = Regions.build([(image, phrase, [0, 0, 9, 9], 0.5, None) for image in range(3) for phrase in (4, 5, 6)])
    own = pick_own(regions, 5, ["dog", None, "cat"], ["cat", "dog"])
    assert list(zip(own.image.tolist(), own.phrase.tolist(), strict=True)) == [(0, 6), (2, 5)]


def asked(detector: str, source: str = "detected") -> list[str]:
    values = {"dataset": {"root": "x"}, "detect": {"box_detector": detector}, "ablate": {"object": source}}
    return [phrase.text for phrase in class_phrases(["pole_vaulting", "cab, taxi"], make_config(values))]


def test_only_what_draws_boxes_around_free_text_is_asked_for_a_class():
    names = ["pole vaulting", "cab"]
    for detector in ("owlv2:x", "owlvit", "grounding_dino:x", "mm_grounding_dino", "yolo_world:x.pt", "yoloe:x.pt"):
        assert asked(detector) == names
        assert asked(detector, "given") == []
    for detector in ("conse", "exemplar:owlv2:x", "appearance", "text"):
        assert asked(detector) == []


def located(folder, boxes, *, given=None, phrases=0, **settings) -> dict:
    """Returns where the object of a photo of 100 × 100 pixels is, by boxes (xyxy, score) of its class's name."""
    run = Run.create(folder, make_config({"dataset": {"root": "x"}, **settings}))
    sample = {"sample_id": "a", "uri": "a.png", "label": "cat", "width_px": 100, "height_px": 100}
    sample |= dict(zip(OBJECT_BOX, given or (), strict=False))
    rows = [
        dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True))
        | {"score": score, "area_frac": (box[2] - box[0]) * (box[3] - box[1]) / 1e4, "attribute_id": CLASS_ITSELF}
        for box, score in boxes
    ]
    rng = np.random.default_rng(0)
    scores = [*rng.normal(0.2, 0.02, phrases), *rng.normal(0.6, 0.02, phrases)]
    rows += [{"score": score, "attribute_id": "1"} for score in scores]
    named = [
        row | {"region_id": f"r{at}", "sample_id": "a" if "x0" in row else f"b{at}", "detector": "owlv2"}
        for at, row in enumerate(rows)
    ]
    run.write("samples", frame_of("samples", [sample]), shard=0, fingerprint="x")
    run.write("regions", frame_of("regions", named), shard=0, fingerprint="x")
    return {name: (place.xyxy.tolist(), place.source) for name, place in find_objects(run, pl.Series(["a"])).items()}


LEFT, RIGHT, WHOLE = (0, 0, 40, 100), (60, 0, 100, 100), (0, 0, 100, 96)
CASES = {
    "the best box": ([(LEFT, 0.3), (RIGHT, 0.6)], {}, (RIGHT, "owlv2")),
    "under the prior": ([(LEFT, 0.19)], {}, None),
    "under the user's threshold": ([(LEFT, 0.3)], {"presence": {"thresholds": {"owlv2": 0.4}}}, None),
    "over it": ([(LEFT, 0.19)], {"presence": {"thresholds": {"owlv2": 0.1}}}, (LEFT, "owlv2")),
    "under what is learned from the cues": ([(LEFT, 0.3)], {"phrases": 300}, None),
    "the whole photo, which says nothing": ([(LEFT, 0.3), (WHOLE, 0.6)], {}, None),
    "the whole photo, where that is allowed": ([(WHOLE, 0.6)], {"ablate": {"object_area_frac": 1.0}}, (WHOLE, "owlv2")),
    "the data's own first": ([(LEFT, 0.6)], {"given": RIGHT}, (RIGHT, "given")),
    "the data's own alone": ([(LEFT, 0.6)], {"ablate": {"object": "given"}}, None),
    "nowhere": ([], {}, None),
}


@pytest.mark.parametrize(("boxes", "settings", "place"), CASES.values(), ids=list(CASES))
def test_where_the_object_is(tmp_path, boxes, settings, place):
    found = located(tmp_path / "run", boxes, **settings)
    assert found == ({} if place is None else {"a": (list(map(float, place[0])), place[1])})
