"""The stage that writes the candidate cues of every class."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

from discovery import notes
from discovery import propose as module
from discovery.backends.llm_budget import Cost
from discovery.backends.proposer import Attribute, Marks, Note
from discovery.config import make_config
from discovery.errors import ConfigError, DataError
from discovery.propose import COSTS_FILE, STAGE, attribute_frame, attribute_id, pick_images
from discovery.run import Run, conform, frame_of, part_fingerprint
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

    looks = 3

    def __init__(self, labels=frozenset()):
        self.labels = labels
        self.seen, self.told = {}, {}

    def propose(self, label, images, notes=()):
        self.told[label] = list(notes)
        self.seen[label] = [int(image[0, 0, 0]) for image in images]
        return [Attribute(f"near {label}", "background", "why", "fake"), Attribute("Sky", "object", "why", "fake")]

    def costs(self):
        return {}


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
    monkeypatch.setattr(notes, "LOOK_PX", 4)
    shapes = []
    proposer = use(monkeypatch, Recorder())
    proposer.propose = lambda label, images: shapes.extend(image.shape for image in images) or []
    STAGE.work(run, None)
    assert set(shapes) == {(3, 4, 3)}


def test_a_proposer_that_does_not_look_costs_no_decoding(run, monkeypatch):
    proposer = use(monkeypatch, Recorder())
    proposer.looks = 0
    monkeypatch.setattr(notes, "decode_batches", lambda *_, **__: pytest.fail("decoded"))
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


# --- a language model ---


def openai(run, **settings):
    return with_config(run, proposer="openai", llm="tiny", **settings)


def test_what_a_language_model_judges_reaches_the_table(run, monkeypatch):
    proposer = use(monkeypatch, Recorder())
    marks = Marks(exists_without=True, is_part=False, nearly_always=False, implies=True)
    proposer.propose = lambda label, images: [
        Attribute("sky", "background", "why", "openai", "tiny", "abc", marks),
        Attribute("sea", "background", "why", "openai", "tiny", "abc"),
    ]
    frame = STAGE.work(openai(run), None)
    assert frame.select(list(vars(marks))).rows()[:2] == [(True, False, False, True), (None, None, None, None)]
    assert frame.select("model", "prompt_hash").row(0) == ("tiny", "abc")


def test_answers_are_kept_beside_the_run_unless_a_folder_is_named(run, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "load_proposer", lambda _, settings, *__: asked.append(settings.cache) or Recorder())
    STAGE.work(openai(run), None)
    STAGE.work(openai(run, cache="/elsewhere"), None)
    assert asked == [str(run.path.parent / "llm-cache"), "/elsewhere"]


def test_what_answers_cost_is_written_beside_the_tables_and_goes_with_the_server(run, monkeypatch):
    proposer = use(monkeypatch, Recorder())
    proposer.costs = lambda: {"questions": Cost(asked=2, calls=3, tokens_in=1_000_000, tokens_out=500_000)}
    STAGE.work(openai(run, price_in=2.0, price_out=8.0), None)
    kept = json.loads((run.path / COSTS_FILE).read_text())
    assert kept["model"] == "tiny"
    assert (kept["steps"]["questions"]["calls"], kept["steps"]["questions"]["money"]) == (3, 6.0)
    proposer.costs = dict
    STAGE.work(run, None)
    assert not (run.path / COSTS_FILE).exists()


def with_predictions(run, correct):
    ids = run.read("samples").filter("audit")["sample_id"]
    nothing = dict.fromkeys(("predicted", "probs", "prob_label"))
    frame = frame_of("predictions", [{"sample_id": i, "correct": correct(i), **nothing} for i in ids])
    run.write("predictions", frame, shard=0, fingerprint="x")


def test_captions_of_right_and_wrong_photos_are_told_of_their_class_alone(run, monkeypatch, tmp_path):
    rows = run.read("samples").select("uri", "label", (pl.lit("photo of ") + pl.col("sample_id")).alias("words"))
    rows.write_csv(tmp_path / "m.csv")
    with_predictions(run, lambda sample_id: sample_id.endswith("6"))
    values = run.config.model_dump()
    values["dataset"]["manifest"] = str(tmp_path / "m.csv")
    values["propose"] |= {"proposer": "openai", "evidence": "captions", "caption_column": "words"}
    proposer = use(monkeypatch, Recorder())
    STAGE.work(Run(run.path, make_config(values)), None)
    assert proposer.told == {
        label: [Note(f"photo of {label}6", True), Note(f"photo of {label}7", False)] for label in ("a", "b")
    }
    values["propose"]["caption_column"] = "gone"
    with pytest.raises(DataError, match="needs a manifest with a column 'gone'"):
        STAGE.work(Run(run.path, make_config(values)), None)


def test_tags_of_audited_photos_are_told(run, monkeypatch):
    with_predictions(run, lambda sample_id: True)
    proposer = use(monkeypatch, Recorder())
    STAGE.work(openai(run, evidence="tags", tags_per_image=3), None)
    assert [(note.correct, note.text.count(",")) for note in proposer.told["a"]] == [(True, 2)] * 2


def test_evidence_makes_another_model_a_reason_to_propose_again_and_nothing_else_does(run):
    def marks(run):
        with_predictions(run, lambda _: True)
        run.write("predictions", run.read("predictions"), shard=0, fingerprint="x")
        first = part_fingerprint(run, STAGE, None)
        run.write("predictions", run.read("predictions"), shard=0, fingerprint="of another model")
        return first, part_fingerprint(run, STAGE, None)

    same, still = marks(openai(run))
    assert same == still
    before, after = marks(openai(run, evidence="tags"))
    assert before != after


def test_evidence_needs_someone_to_tell():
    with pytest.raises(ConfigError, match=r"it needs propose\.proposer = 'openai'"):
        make_config({"dataset": {"root": "x"}, "propose": {"evidence": "tags"}})


def test_without_a_key_the_offline_proposer_is_named(run, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"propose\.proposer = 'vocabulary'"):
        STAGE.work(openai(run), None)
