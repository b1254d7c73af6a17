"""The report says what the tables say, escapes what strangers wrote, and stands alone."""

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from discovery.config import make_config
from discovery.errors import DataError
from discovery.gallery import make_galleries
from discovery.interventions import Pair
from discovery.page import DECIDING, choose_cards, effect_axis, finding, headline
from discovery.regions import encode_rle
from discovery.report import FILES, STAGE, render_csv, render_json, render_report
from discovery.run import Run, part_fingerprint
from discovery.schema import TABLES, VERDICTS

EVIL = "<script>alert(1)</script>"
CUES = {
    ("cat", "sofa"): {
        "phrase": "red sofa",
        "kind": "object",
        "verdict": "spurious",
        "effect": 0.2143,
        "score": 3.0,
    },
    ("cat", "tint"): {
        "phrase": "=2+3",
        "kind": "colour",
        "verdict": "no evidence",
        "effect": 0.0037,
        "score": 0.1,
    },
    (EVIL, "sofa"): {
        "phrase": "red sofa",
        "kind": "object",
        "verdict": "not enough data",
        "effect": None,
        "score": None,
    },
    (EVIL, "tint"): {
        "phrase": f"tint {EVIL}",
        "kind": "colour",
        "verdict": "core",
        "effect": 0.1129,
        "score": 2.0,
    },
}


def rows(table: str, records: list[dict]) -> pl.DataFrame:
    """Builds a whole table from partial records; what is not given is null."""
    empty = pl.from_arrow(TABLES[table].empty_table())
    full = [dict.fromkeys(empty.columns) | record for record in records]
    return pl.DataFrame(full, schema=empty.schema, orient="row")


def write_photos(root: Path) -> list[dict]:
    """Writes twelve photos: the first three of each class show the sofa, a red block in the lower left."""
    samples = []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(60, 200, (24, 32, 3), dtype=np.uint8)
        if number % 6 < 3:
            pixels[12:, :16] = (200, 20, 20)
        uri = f"photo {number}.png"
        Image.fromarray(pixels).save(root / uri)
        label = "cat" if number < 6 else EVIL
        split = "train" if number % 2 else "test"
        samples.append({"sample_id": f"s{number:02d}", "uri": uri, "split": split, "label": label, "audit": True})
    return samples


def cue_rows() -> list[dict]:
    numbers = {
        "effect_low": 0.1011,
        "effect_high": 0.3011,
        "removal_effect": 0.2143,
        "removal_low": 0.1011,
        "removal_high": 0.3011,
        "removal_p": 0.0021,
        "removal_q": 0.0084,
        "paste_effect": 0.0777,
        "paste_low": -0.0111,
        "paste_high": 0.1666,
        "paste_p": 0.0345,
        "paste_q": 0.0456,
        "q_value": 0.0123,
        "gap": 0.25,
        "gap_low": -0.05,
        "gap_high": 0.55,
        "gap_adjusted": 0.15,
        "gap_adjusted_low": -0.15,
        "gap_adjusted_high": 0.45,
        "gap_p_maxt": 0.321,
    }
    counts = {
        "n_with": 3,
        "n_without": 3,
        "n_ablated": 3,
        "n_flipped": 1,
        "n_pasted": 7,
        "n_forwards": 26,
        "n_forwards_saved": 134,
        "fills_agree": True,
        "prevalence": 0.5,
        "prevalence_rest": 0.25,
    }
    shared = {
        "reason": "Because of the test.",
        "cramers_v": 0.61,
        "detectable_gap": float("nan"),
        **counts,
        **numbers,
    }
    return [
        {"label": label, "cue_id": cue_id, "rank": rank, "source": "attribute", **shared, **own}
        for rank, ((label, cue_id), own) in enumerate(CUES.items(), 1)
    ]


def fill(run: Run, cues: list[dict], samples: list[dict]) -> None:
    """Writes the tables that the report reads."""
    with_sofa = [s for i, s in enumerate(samples) if i % 6 < 3]
    box = {
        "x0": 0.0,
        "y0": 12.0,
        "x1": 16.0,
        "y1": 24.0,
        "detector": "conse",
        "attribute_id": "a1",
        "score": 3.0,
    }
    effect = {
        "label": "cat",
        "cue_id": "sofa",
        "intervention": "blur",
        "way": "removal",
        "prob_before": 0.9375,
        "prob_after": 0.4375,
    }
    effect |= {"prob_control": 0.8125, "effect": 0.5, "effect_control": 0.125}
    paste = {"label": "cat", "cue_id": "sofa", "intervention": "paste", "way": "paste", "area_frac": 0.25}
    paste |= {"source_id": "s06", "prob_before": 0.0625, "prob_after": 0.5625, "prob_control": 0.1875}
    paste |= {"effect": 0.5, "effect_control": 0.125}
    tables = {
        "samples": samples,
        "predictions": [
            {
                "sample_id": s["sample_id"],
                "predicted": "cat",
                "prob_label": 0.6875,
                "correct": s["label"] == "cat",
            }
            for s in samples
        ],
        "attributes": [{"attribute_id": "a1", "label": "cat", "phrase": "crimson couch", "kind": "object"}],
        "regions": [box | {"region_id": f"r-{s['sample_id']}", "sample_id": s["sample_id"]} for s in with_sofa],
        "presences": [
            {
                "cue_id": "sofa",
                "sample_id": s["sample_id"],
                "score": 3.0,
                "region_ids": [f"r-{s['sample_id']}"],
            }
            for s in with_sofa
        ]
        + [{"cue_id": "tint", "sample_id": s["sample_id"], "score": 1.0, "region_ids": []} for s in samples],
        "associations": [{"label": c["label"], "cue_id": c["cue_id"], "accuracy_with": 0.875} for c in cues],
        "effects": [effect | {"sample_id": s["sample_id"]} for s in with_sofa if s["label"] == "cat"]
        + [paste | {"sample_id": s["sample_id"]} for s in samples[9:]],
        "cues": cues,
    }
    for table, records in tables.items():
        run.write(table, rows(table, records), shard=0, fingerprint="x")


def make_run(path: Path, cues: list[dict] | None = None, **sections: dict) -> Run:
    (path / "photos").mkdir(exist_ok=True)
    dataset = {"root": str(path / "photos")}
    run = Run.create(path / "run", make_config({"name": "kitchen", "dataset": dataset, **sections}))
    fill(run, cue_rows() if cues is None else cues, write_photos(path / "photos"))
    return run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("discovery.interventions.show_removed", lambda image, mask, kind, intervention: image // 2)
    return make_run(tmp_path)


class Page(HTMLParser):
    """Collects tags, addresses and the visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [values[name] for name in ("src", "href", "data", "action", "poster") if name in values]
        self.ids += [values["id"]] if "id" in values else []

    def handle_data(self, data):
        self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def test_the_stage_writes_three_files_and_records_their_sizes(run):
    frame = STAGE.work(run, None)
    run.write(STAGE.table, frame, shard=0, fingerprint="x")
    assert tuple(frame["file"]) == FILES
    assert frame["bytes"].to_list() == [(run.path / name).stat().st_size for name in FILES]


def test_the_page_prints_the_numbers_of_the_tables(run):
    text = Page(render_report(run)).text
    for printed in (
        "+0.214",
        "+0.101 to +0.301",
        "0.012",
        "+0.25 (−0.05 to +0.55)",
        "50.0 % · 25.0 %",
        "0.61",
        "3 · 3",
        "Removal +0.214 +0.101 to +0.301 0.008 3",
        "Paste-in +0.078 −0.011 to +0.167 0.046 7",
        "Predictions flipped 1 of 3 photos",
        "Forwards · saved 26 · 134",
        "Fills agree yes",
        "Adjusted gap +0.15 (−0.15 to +0.45) p of the gap 0.321",
    ):
        assert printed in text
    assert "Accuracy, audited photos 50.0 %" in text
    assert "Photos 12" in text


def test_each_photo_carries_its_probability_before_after_and_of_the_control(run):
    gallery = make_galleries(run, run.read("cues").filter(pl.col("verdict") == "spurious"))["cat", "sofa"]
    assert [shot.prob for shot in gallery.present] == [0.9375] * 3
    assert [(shot.prob, shot.prob_control) for shot in gallery.removed] == [(0.4375, 0.8125)] * 3
    assert sorted(shot.uri for shot in gallery.absent) == ["photo 3.png", "photo 4.png", "photo 5.png"]
    assert [shot.uri for shot in gallery.present] == [shot.uri for shot in gallery.removed]
    assert (gallery.phrases, gallery.detectors) == (("crimson couch",), ("conse",))


def test_pasted_photos_are_of_other_classes_and_carry_three_probabilities(run):
    gallery = make_galleries(run, run.read("cues").filter(pl.col("verdict") == "spurious"))["cat", "sofa"]
    assert [shot.uri for shot in gallery.pasted] == ["photo 9.png", "photo 10.png", "photo 11.png"]
    assert [(s.prob_before, s.prob, s.prob_control) for s in gallery.pasted] == [(0.0625, 0.5625, 0.1875)] * 3
    text = Page(render_report(run)).text
    assert "Pasted into photos of other classes" in text
    assert "0.06 → 0.56 control 0.19" in text


def test_the_cue_is_cut_from_its_source_and_shown_in_its_target(run, monkeypatch):
    asked = []

    def paste(target, source, mask, control):
        asked.append((target, source, mask))
        return Pair("paste", target, target)

    monkeypatch.setattr("discovery.interventions.paste_pair", paste)
    render_report(run)
    root = Path(run.config.dataset.root)
    target, source, mask = asked[0]
    assert (target == np.asarray(Image.open(root / "photo 9.png"))).all()
    assert (source == np.asarray(Image.open(root / "photo 6.png"))).all()
    assert mask[12:, :16].all()
    assert mask.sum() == 12 * 16


@pytest.mark.parametrize(("area_frac", "cut_px"), [(0.25, 12 * 16), (0.02, 18), (None, 18)])
def test_the_clearest_region_alone_is_shown_where_it_alone_was_pasted(run, monkeypatch, area_frac, cut_px):
    asked = []
    monkeypatch.setattr(
        "discovery.interventions.paste_pair",
        lambda target, source, mask, control: asked.append(mask) or Pair("paste", target, target),
    )
    small = np.zeros((24, 32), bool)
    small[2:5, 3:9] = True
    clearest = {"region_id": "r-small", "sample_id": "s06", "score": 9.0, "attribute_id": "a1", "detector": "conse"}
    clearest |= {"mask_rle": encode_rle(small), "x0": 3.0, "y0": 2.0, "x1": 9.0, "y1": 5.0}
    run.write("regions", pl.concat([run.read("regions"), rows("regions", [clearest])]), shard=0, fingerprint="x")
    both = pl.when(pl.col("sample_id") == "s06").then(pl.lit(["r-s06", "r-small"])).otherwise("region_ids")
    presences = run.read("presences").with_columns(region_ids=both)
    run.write("presences", presences, shard=0, fingerprint="x")
    effects = run.read("effects").with_columns(area_frac=pl.lit(area_frac, pl.Float32))
    run.write("effects", effects, shard=0, fingerprint="x")
    render_report(run)
    assert {mask.sum() for mask in asked} == {cut_px + (18 if area_frac == 0.25 else 0)}


def test_a_cue_without_a_place_is_given_to_the_whole_target(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("discovery.interventions.whole_image_paste", lambda *args: asked.append(args))
    run = make_run(tmp_path, [cue_rows()[0] | {"cue_id": "tint", "kind": "colour"}])
    effects = run.read("effects").with_columns(cue_id=pl.lit("tint"))
    run.write("effects", effects.filter(way="paste"), shard=0, fingerprint="x")
    assert "Pasted into photos of other classes" in render_report(run)
    assert [args[2] for args in asked] == ["colour"] * 3


def test_what_lies_outside_the_models_view_is_not_shown_as_removed(run):
    effects = run.read("effects").with_columns(intervention=pl.lit("unseen"))
    run.write("effects", effects, shard=0, fingerprint="x")
    gallery = make_galleries(run, run.read("cues").filter(pl.col("verdict") == "spurious"))["cat", "sofa"]
    assert (gallery.removed, gallery.pasted) == ((), ())
    assert len(gallery.present) == 3


def test_photos_with_the_cue_run_evenly_from_the_largest_to_the_smallest_effect(tmp_path):
    run = make_run(tmp_path, report={"photos_per_cue": 2})
    base = {"label": "cat", "cue_id": "sofa", "effect_control": 0.0, "prob_before": 1.0, "way": "removal"}
    effects = [
        base | {"sample_id": f"s{i:02d}", "intervention": fill, "effect": [0.1, 0.6, 0.3, 0.4][i] + sign}
        for i in range(4)
        for fill, sign in (("blur", 0.5), ("mean", -0.5))
    ]
    run.write("effects", rows("effects", effects), shard=0, fingerprint="x")
    spurious = run.read("cues").filter(pl.col("verdict") == "spurious")
    assert [shot.uri for shot in make_galleries(run, spurious)["cat", "sofa"].present] == [
        "photo 3.png",
        "photo 0.png",
    ]


def test_the_region_is_handed_over_as_it_was_found(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("discovery.interventions.show_removed", lambda *args: asked.append(args) or args[0])
    render_report(make_run(tmp_path))
    image, mask, kind, intervention = asked[0]
    assert image.shape == (24, 32, 3)
    assert mask[12:, :16].all()
    assert mask.sum() == 12 * 16
    assert (kind, intervention) == ("object", "blur")


def test_a_mask_counts_before_its_box(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("discovery.interventions.show_removed", lambda *args: asked.append(args[1]) or args[0])
    run = make_run(tmp_path)
    drawn = np.zeros((24, 32), bool)
    drawn[2:5, 3:9] = True
    regions = run.read("regions").with_columns(mask_rle=pl.lit(encode_rle(drawn)))
    run.write("regions", regions, shard=0, fingerprint="x")
    render_report(run)
    assert (asked[0] == drawn).all()


def test_labels_and_phrases_are_escaped(run):
    page = render_report(run)
    assert EVIL not in page
    assert Page(page).tags.count("script") == 1
    assert f"tint {EVIL}" in Page(page).text


def test_the_page_stands_alone(run):
    page = render_report(run)
    seen = Page(page)
    assert seen.addresses
    assert all(address.startswith(("data:image/", "#")) for address in seen.addresses)
    told = page.replace(run.config.propose.base_url, "")  # a setting that is printed, and leads nowhere
    assert not re.search(r"https?://|@import|url\(", told)
    assert {address[1:] for address in seen.addresses if address.startswith("#")} <= set(seen.ids)
    assert len(seen.ids) == len(set(seen.ids))


def test_the_page_shows_thresholds_with_their_meaning_and_what_was_skipped(run):
    (run.path / "skipped.csv").write_text("uri,reason\n<b>.jpg,the file is empty\n")
    text = Page(render_report(run)).text
    assert "rank.min_effect 0.02 smallest net change of probability that counts as use" in text
    for name in DECIDING:
        assert f"ablate.{name} {getattr(run.config.ablate, name)} " in text
    assert "<b>.jpg the file is empty" in text


def test_the_page_is_the_same_every_time(run):
    assert render_report(run) == render_report(run)


def test_other_verdicts_are_listed_and_not_shown_with_photos(run):
    page = render_report(run)
    assert page.count("<article") == 2
    assert "Other cues tried" in Page(page).text


def test_a_long_list_is_cut_and_says_so(tmp_path):
    row = cue_rows()[1]
    cues = [row | {"cue_id": f"c{i}", "rank": i, "phrase": f"phrase {i}"} for i in range(30)]
    text = Page(render_report(make_run(tmp_path, cues))).text
    assert "5 more of this class are in cues.csv" in text
    assert "phrase 24" in text
    assert "phrase 25" not in text


def test_a_run_without_cues_still_has_a_page_and_files(tmp_path):
    run = make_run(tmp_path, [])
    text = Page(render_report(run)).text
    assert "No spurious cue was found among the 0 class–cue pairs" in text
    assert json.loads(render_json(run))["cues"] == []
    assert render_csv(run).startswith("label,phrase,kind,rank,verdict,reason,effect,")


def test_cues_that_were_never_removed_are_shown_without_that_row(tmp_path):
    run = make_run(tmp_path)
    run.write("effects", rows("effects", []), shard=0, fingerprint="x")
    spurious = run.read("cues").filter(pl.col("verdict") == "spurious")
    gallery = make_galleries(run, spurious)["cat", "sofa"]
    assert sorted(shot.uri for shot in gallery.present) == ["photo 0.png", "photo 1.png", "photo 2.png"]
    assert gallery.removed == ()
    assert "The cue was not removed from any photo." in render_report(run)


def test_a_photo_that_is_gone_is_named(run):
    for file in Path(run.config.dataset.root).iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"photo .*photo \d+\.png of the report is gone"):
        render_report(run)


def test_the_json_is_strict_and_complete(run):
    content = json.loads(render_json(run), parse_constant=lambda name: pytest.fail(f"not JSON: {name}"))
    assert content["schema_version"] == 1
    assert content["run"]["accuracy"] == 0.5
    assert len(content["cues"]) == len(CUES)
    first = next(cue for cue in content["cues"] if cue["verdict"] == "spurious")
    assert set(first) == set(TABLES["cues"].names)
    assert list(first)[:7] == ["label", "phrase", "kind", "rank", "verdict", "reason", "effect"]
    assert first["effect"] == 0.2143
    assert first["detectable_gap"] is None


def test_the_csv_runs_no_formula(run):
    found = list(csv.DictReader(io.StringIO(render_csv(run))))
    assert [row["phrase"] for row in found if row["cue_id"] == "tint" and row["label"] == "cat"] == ["'=2+3"]
    assert {row["gap_low"] for row in found} == {"-0.05"}
    assert {row["detectable_gap"] for row in found} == {""}


def test_a_changed_rank_threshold_or_template_asks_for_a_new_report(run):
    before = part_fingerprint(run, STAGE, None, STAGE.outside(run.config))
    rank = run.config.rank.model_copy(update={"level": 0.1})
    changed = Run(run.path, run.config.model_copy(update={"rank": rank}))
    assert part_fingerprint(changed, STAGE, None, STAGE.outside(run.config)) != before
    ablate = run.config.ablate.model_copy(update={"looks": 1})
    changed = Run(run.path, run.config.model_copy(update={"ablate": ablate}))
    assert part_fingerprint(changed, STAGE, None, STAGE.outside(run.config)) != before
    assert part_fingerprint(run, STAGE, None, "another template") != before


def test_every_verdict_has_a_badge_and_a_meaning_of_its_own(tmp_path):
    cues = [row | {"cue_id": v, "verdict": v} for v, row in zip(VERDICTS, cycle(cue_rows()), strict=False)]
    page = render_report(make_run(tmp_path, cues))
    badges = dict(re.findall(r'<dt><span class="badge (\w+)">([^<]+)</span></dt><dd>[A-Z]', page))
    assert tuple(badges.values()) == VERDICTS
    assert len(badges) == len(VERDICTS)
    for name in badges:
        colours = re.findall(rf"--{name}: (#\w+); --{name}-bg: (#\w+)", page)
        assert len(colours) == 2, f"{name} needs its colours in light and in dark"
        assert name == "none" or f".badge.{name} {{ color: var(--{name})" in page
        assert min(contrast(*pair) for pair in colours) >= 4.5


def contrast(one: str, two: str) -> float:
    """Returns the contrast ratio of two #rrggbb colours (WCAG 2, 1.4.3)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(two)))
    return (lighter + 0.05) / (darker + 0.05)


def test_cards_take_the_best_of_every_class_first():
    cues = rows(
        "cues",
        [row | {"cue_id": str(i), "rank": i, "verdict": "core"} for i, row in enumerate(cue_rows() * 2)],
    )
    chosen = choose_cards(cues, 1)
    assert chosen["label"].to_list() == sorted(["cat", EVIL])
    assert chosen["rank"].sort().to_list() == [0, 2]


def test_spurious_cues_come_before_core_ones_of_better_rank():
    ranked = [("core", 1), ("spurious", 2), ("tied, not used", 3), ("explained by another cue", 4), ("no evidence", 0)]
    cues = rows("cues", [cue_rows()[0] | {"verdict": v, "rank": r, "cue_id": v} for v, r in ranked])
    shown = ["spurious", "core", "explained by another cue", "tied, not used"]
    assert choose_cards(cues, 9)["verdict"].to_list() == shown


def test_all_plots_hold_every_interval_and_the_band():
    axis = effect_axis(rows("cues", cue_rows()), min_effect=0.05)
    assert axis["low"] < -0.05
    assert axis["high"] > 0.3011
    pasted = effect_axis(rows("cues", [row | {"paste_low": -0.4, "paste_high": 0.7} for row in cue_rows()]), 0.05)
    assert pasted["low"] < -0.4
    assert pasted["high"] > 0.7


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (
            ["spurious", "spurious"],
            "The model leans on 2 spurious cues in 1 of 3 classes; the plainest is “red sofa” for cat",
        ),
        (
            ["spurious"],
            "one spurious cue in 1 of 3 classes; the plainest is “red sofa” for cat: removing it costs 0.21",
        ),
        (
            ["no evidence", "not enough data"],
            "1 of 2 could not be judged, which does not clear them.",
        ),
        (["core"], "No spurious cue was found among the 1 class–cue pairs"),
    ],
)
def test_the_finding_is_one_plain_sentence(verdicts, said):
    cues = [cue_rows()[0] | {"cue_id": str(i), "verdict": verdict} for i, verdict in enumerate(verdicts)]
    assert said in finding(rows("cues", cues), ["cat", "dog", "owl"])


def test_the_finding_keeps_the_sign_of_a_cue_that_speaks_against_the_class():
    said = finding(rows("cues", [cue_rows()[0] | {"effect": -0.08}]), ["cat"])
    assert said.endswith("removing it adds 0.08 to the probability of cat, net of what a matched control does.")


@pytest.mark.parametrize(("effect", "said"), [(0.08, "adds 0.08 to"), (-0.08, "costs 0.08 of")])
def test_the_finding_says_when_its_effect_is_of_pasting_in(effect, said):
    pasted = cue_rows()[0] | {"effect": effect, "paste_p": 0.0001}
    found = finding(rows("cues", [pasted]), ["cat"])
    assert f"cat: pasting it into photos of other classes {said} the probability of cat, net of" in found


@pytest.mark.parametrize(
    ("removal_p", "paste_p", "way"),
    [(0.1, 0.2, "removal"), (0.2, 0.1, "paste"), (0.1, 0.1, "removal"), (None, 0.9, "paste"), (None, None, None)],
)
def test_the_headline_is_the_way_with_the_smaller_p(removal_p, paste_p, way):
    assert headline({"removal_p": removal_p, "paste_p": paste_p}) == way


def test_the_card_says_whose_effect_it_shows(tmp_path):
    cues = [cue_rows()[0] | {"paste_p": 0.0001}]
    text = Page(render_report(make_run(tmp_path, cues))).text
    assert "Effect of pasting it in +0.214" in text
    assert "Predictions flipped 1 of 7 photos" in text


def test_the_card_names_the_cue_that_explains_it(tmp_path):
    cues = [cue_rows()[0] | {"verdict": "explained by another cue", "explained_by": "a <fence>"}]
    page = render_report(make_run(tmp_path, cues))
    assert "Explained by a <fence>" in Page(page).text
    assert "a <fence>" not in page


def test_a_way_that_was_not_tried_is_said(tmp_path):
    nothing = dict.fromkeys(("paste_effect", "paste_low", "paste_high", "paste_p", "paste_q"))
    text = Page(render_report(make_run(tmp_path, [cue_rows()[0] | nothing | {"n_pasted": 0}]))).text
    assert "Paste-in not tried" in text


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 700])
def test_a_browser_draws_the_page(run, tmp_path, width):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    STAGE.work(run, None)
    shot = tmp_path / "shot.png"
    quiet = [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *quiet,
        f"--user-data-dir={tmp_path / 'chrome'}",
    ]
    page = (run.path / "report.html").as_uri()
    subprocess.run(
        [*command, f"--screenshot={shot}", f"--window-size={width},2000", page],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (2000, width, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    bands = pixels[:1600].reshape(8, 200, width, 3).std(axis=(1, 2, 3))
    assert (bands > 1).all(), "a part of the page is blank"
