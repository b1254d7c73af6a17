"""A finished run is repaired and audited again, on a model that leans on a red corner and on nothing else."""

import hashlib
import json
import re
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from discovery.backends.roles import Head
from discovery.config import make_config, override
from discovery.errors import BackendError, ConfigError, DataError
from discovery.repairs import menu
from discovery.repairs.task import Repaired
from discovery.retrain import due, retrain
from discovery.retrain_job import Job
from discovery.retrain_steps import repaired_model, task_of
from discovery.run import Run

CORNER_RED, OTHER_GREEN = 3, 10
"""Numbers of two features of the model: what it leans on, and what shows the green circle."""


def state(run: Run) -> dict[str, str]:
    """Returns a hash of every file of a run but its repairs."""
    files = sorted(path for path in run.path.rglob("*") if path.is_file() and "repairs" not in path.parts)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def settings(run: Run, *overrides: str):
    return override(run.config, list(overrides), ("retrain", "export", "rank"))


def rewrite(run: Run, table: str, frame: pl.DataFrame) -> None:
    run.write(table, frame, shard=0, fingerprint="by hand")


def test_the_cue_is_repaired_and_nothing_else_of_the_run_is_touched(leaning_run):
    before = state(leaning_run)
    outcome = retrain(leaning_run, settings(leaning_run, "retrain.method=dfr"))
    assert state(leaning_run) == before
    assert outcome.failure is None
    chosen = [row for row in outcome.facts["cues"] if row["role"] == "chosen"]
    assert {row["outcome"] for row in chosen} == {"repaired"}
    assert all(abs(row["effect_after"]) < abs(row["effect_before"]) / 3 for row in chosen)
    assert {row["outcome"] for row in outcome.facts["cues"] if row["role"] == "null"} == {"as before"}
    accuracy = outcome.facts["accuracy"]
    assert accuracy["after"]["worst_group"] > accuracy["before"]["worst_group"] + 0.3
    page = (outcome.folder / "repair.html").read_text()
    assert "2 repaired" in page
    assert not re.findall(r"(?:src|href)=", page)


def test_the_default_is_the_repair_that_won_on_bar(leaning_run):
    retrain(leaning_run)
    assert [
        folder.name for folder in (leaning_run.path / "repairs").iterdir() if (folder / "repair.json").exists()
    ] == ["groupdro"]
    assert make_config({"dataset": {"root": "photos"}}).retrain.wise_with == "groupdro"


def test_before_is_what_the_run_recorded(leaning_run):
    retrain(leaning_run)
    recorded = leaning_run.read("effects")
    (kept,) = (leaning_run.path / "repairs" / "kept").glob("before-*")
    again = Run(kept, leaning_run.config).read("effects")
    keys = ["label", "cue_id", "sample_id", "intervention"]
    both = again.join(recorded, on=keys, suffix="_run")
    assert len(both) == len(again) > 0
    for column in ("effect", "effect_control", "logit_effect"):
        np.testing.assert_allclose(both[column], both[f"{column}_run"], atol=1e-6)


def test_no_judged_photo_is_fitted_on(leaning_run):
    job = Job.create(leaning_run, leaning_run.config)
    judged = set(job.split.filter(pl.col("part") == "judged")["sample_id"])
    assert judged == set(leaning_run.read("samples").filter("audit")["sample_id"])
    assert not judged & set(task_of(job).sample_id.tolist())


def test_a_run_that_audited_everything_gives_a_share_away_and_judges_by_the_rest(leaning_run):
    samples = leaning_run.read("samples").with_columns(audit=pl.lit(True))
    rewrite(leaning_run, "samples", samples)
    job = Job.create(leaning_run, settings(leaning_run, "retrain.fit_frac=0.25"))
    counts = {row[:2]: row[2] for row in job.split.group_by("split", "part").len().iter_rows()}
    assert counts == {("train", "fitted"): 30, ("train", "judged"): 90, ("test", "judged"): 60}


def test_a_split_of_its_own_is_fitted_on_and_not_judged_by(leaning_run):
    samples = leaning_run.read("samples")
    val = (pl.col("split") == "test") & (pl.int_range(pl.len()) % 2 == 0)
    rewrite(leaning_run, "samples", samples.with_columns(split=pl.when(val).then(pl.lit("val")).otherwise("split")))
    job = Job.create(leaning_run, settings(leaning_run, "retrain.fit_split=val"))
    of = dict(job.split.group_by("split").agg(pl.col("part").unique()).iter_rows())
    assert of == {"train": ["unused"], "val": ["fitted"], "test": ["judged"]}
    with pytest.raises(DataError, match=r"no photo of 'cat', 'dog' is left to fit a repair on"):
        Job.create(leaning_run, settings(leaning_run, "retrain.fit_split=absent"))


def test_a_finished_repair_does_nothing_again_and_another_setting_does(leaning_run):
    retrain(leaning_run)
    seen = []
    retrain(leaning_run, progress=lambda *told: seen.append(told))
    assert seen == []
    assert "select" in due(Job.create(leaning_run, settings(leaning_run, "retrain.min_group=5")))


def test_an_interrupted_repair_goes_on_where_it_stopped(leaning_run, monkeypatch):
    from discovery import retrain_steps

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(retrain_steps, "audit", stop)
    with pytest.raises(KeyboardInterrupt):
        retrain(leaning_run)
    monkeypatch.undo()
    assert not (leaning_run.path / "repairs" / "groupdro" / "repair.json").exists()
    seen = []
    retrain(leaning_run, progress=lambda step, *_: seen.append(step))
    assert set(seen) == {"audit", "show"}


def leaning_on(feature: int, strength: float):
    """Returns a repair that makes the model lean on another feature instead of the corner."""

    def repair(task) -> Repaired:
        head = task.head()
        coef = head.coef.copy()
        coef[:, CORNER_RED] = 0
        coef[:, feature] += [strength, -strength]
        return Repaired(replace(head, coef=coef, intercept=np.array([-strength * 0.4, strength * 0.4])))

    return repair


def test_a_null_cue_that_got_worse_is_a_loud_failure(leaning_run, monkeypatch):
    monkeypatch.setitem(menu.REPAIRS, "groupdro", leaning_on(OTHER_GREEN, 12.0))
    outcome = retrain(leaning_run)
    assert outcome.failure.startswith("FAILED: after groupdro")
    assert "green circle" in outcome.failure
    worse = [row for row in outcome.facts["cues"] if row["outcome"] == "worse"]
    assert {row["phrase"] for row in worse} == {"green circle"}
    replaced = [row for row in outcome.facts["cues"] if row["outcome"] == "replaced by another cue"]
    assert {row["phrase"] for row in replaced} == {"red square"}
    assert "now leans more on 'green circle'" in replaced[0]["reason"]
    assert "The repair failed" in (outcome.folder / "repair.html").read_text()


def test_a_repair_that_changes_nothing_is_still_used(leaning_run, monkeypatch):
    monkeypatch.setitem(menu.REPAIRS, "groupdro", lambda task: Repaired(task.head()))
    chosen = [row for row in retrain(leaning_run).facts["cues"] if row["role"] == "chosen"]
    assert {row["outcome"] for row in chosen} == {"still used"}
    assert all(abs(row["change"]) < 1e-6 for row in chosen)


def test_the_repaired_model_is_loaded_from_its_folder(leaning_run):
    folder = retrain(leaning_run).folder
    model = repaired_model(Job.open(folder))
    shown = Run.open(folder).read("predictions")
    assert model.classes == ("cat", "dog")
    assert shown["correct"].mean() > 0.8


# --- bad input --------------------------------------------------------------------------------------------------------


def of_another_dataset(run: Run) -> None:
    groups = run.read("groups")
    rewrite(run, "groups", groups.with_columns(sample_id=pl.format("elsewhere/{}", "sample_id")))


def of_other_cues(run: Run) -> None:
    rewrite(run, "groups", run.read("groups").with_columns(cue_id=pl.lit("no-such-cue")))


def empty(run: Run) -> None:
    rewrite(run, "groups", run.read("groups").head(0))


def unfinished(run: Run) -> None:
    run.part("cues", 0).unlink()


def one_class_to_fit(run: Run) -> None:
    """All dogs are of the test split: none is left to fit on, and half of a split cannot be given away."""
    samples = run.read("samples")
    dog = pl.col("label") == "dog"
    rewrite(
        run,
        "samples",
        samples.with_columns(audit=pl.col("audit") | dog, split=pl.when(dog).then(pl.lit("test")).otherwise("split")),
    )


def no_test_split(run: Run) -> None:
    """Nothing was audited of the dogs."""
    rewrite(run, "samples", run.read("samples").with_columns(audit=pl.col("audit") & (pl.col("label") != "dog")))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (of_another_dataset, r"groups of .* are of another dataset: they name photo 'elsewhere/.*export again"),
        (of_other_cues, r"another dataset: they name cue 'no-such-cue'"),
        (empty, r"no cue to repair: .* exported no groups.*export\.cues"),
        (unfinished, r"no table 'cues' yet; finish it first: discovery run"),
        (one_class_to_fit, r"no photo of 'dog' is left to fit a repair on, so 'red square' cannot be repaired"),
        (no_test_split, r"no photo of 'dog' is left to judge a repair by, so 'red square'"),
    ],
)
def test_what_cannot_be_repaired_is_refused_before_there_is_a_folder(spoil, says, leaning_run):
    spoil(leaning_run)
    before = state(leaning_run)
    with pytest.raises(DataError, match=says):
        retrain(leaning_run)
    assert state(leaning_run) == before
    assert not (leaning_run.path / "repairs").exists()


def test_a_tie_without_exception_leaves_nothing_to_balance(leaning_run):
    with pytest.raises(
        DataError, match=r"no group to balance: .*'red square'.*retrain\.min_group = 40.*--method project"
    ):
        retrain(leaning_run, settings(leaning_run, "retrain.min_group=40"))


def test_a_model_without_a_head_is_named(leaning_run):
    values = leaning_run.config.model_dump(mode="json")
    values["model"]["callable"] = "leaning_model:headless"
    before = state(leaning_run)
    with pytest.raises(BackendError, match=r"head of a model of kind 'python' cannot be found.*--method python"):
        retrain(leaning_run, make_config(values))
    assert state(leaning_run) == before
    assert not (leaning_run.path / "repairs" / "groupdro" / "repair.json").exists()


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (
            Head(("cat", "dog"), np.full((2, 12), np.nan), np.zeros(2)),
            r"repair of 'red square' by groupdro diverged.*not finite",
        ),
        (Head(("cat", "dog"), np.zeros((2, 12)), np.array([5.0, 0.0])), r"diverged: it calls every photo 'cat'"),
    ],
)
def test_a_repair_that_diverges_says_so_and_leaves_no_result(head, says, leaning_run, monkeypatch):
    monkeypatch.setitem(menu.REPAIRS, "groupdro", lambda _: Repaired(head))
    before = state(leaning_run)
    with pytest.raises(BackendError, match=says):
        retrain(leaning_run)
    assert state(leaning_run) == before
    assert not (leaning_run.path / "repairs" / "groupdro" / "repair.json").exists()


def test_an_unknown_method_is_refused_by_name(leaning_run):
    with pytest.raises(ConfigError, match="choose from dfr"):
        retrain(leaning_run, settings(leaning_run, "retrain.method=../x"))
    assert not (leaning_run.path / "repairs").exists()


def test_facts_are_strict_json(leaning_run):
    text = (retrain(leaning_run).folder / "repair.json").read_text()
    facts = json.loads(text, parse_constant=pytest.fail)
    assert facts["photos"] == {
        **{"fitted": 120, "judged": 60, "judged_by_split": {"test": 60}, "judged_beyond_fit_split": True}
    }


# --- a user's own training --------------------------------------------------------------------------------------------

HOOK = """
import numpy as np
from discovery.backends.roles import Head

def without_the_corner(training):
    assert training.mask(int(np.flatnonzero(training.shown[:, 0])[0]), 0)[:8, :8].all()
    assert not training.mask(int(np.flatnonzero(~training.shown[:, 0])[0]), 0).any()
    assert all(path.is_file() for path in training.paths)
    assert len(training.paths) == len(training.label) == len(training.weight) == len(training.group) == 120
    head = training.task.head()
    coef = head.coef.copy()
    coef[:, 3] = 0
    return Head(head.classes, coef, np.zeros(2))

def nothing(training):
    return 3

def no_file(training):
    return training.folder / "absent.pt"
"""


@pytest.fixture
def hook(tmp_path, monkeypatch):
    (tmp_path / "own_training.py").write_text(HOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "retrain.callable=own_training:"
    sys.modules.pop("own_training", None)


def test_a_users_training_gets_photos_groups_and_masks_and_gives_back_a_layer(leaning_run, hook):
    outcome = retrain(leaning_run, settings(leaning_run, "retrain.method=python", f"{hook}without_the_corner"))
    assert {row["outcome"] for row in outcome.facts["cues"] if row["role"] == "chosen"} == {"repaired"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", r"must return a model file .* or a Head, got int"),
        ("no_file", r"returned '.*absent\.pt', where there is no file"),
        ("missing", r"cannot import retrain\.callable 'own_training:missing'"),
    ],
)
def test_what_a_users_training_must_give_back_is_named(name, says, leaning_run, hook):
    with pytest.raises(BackendError, match=says):
        retrain(leaning_run, settings(leaning_run, "retrain.method=python", hook + name))


def test_a_users_training_must_be_named(leaning_run):
    with pytest.raises(ConfigError, match=r"needs retrain\.callable"):
        retrain(leaning_run, settings(leaning_run, "retrain.method=python"))
