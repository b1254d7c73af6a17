"""The steps of a repair, in order: each reads what those before it left in the folders, and adds to them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from discovery import associate
from discovery.ablate import repeat
from discovery.backends.classifier import featured, head_of, load_classifier
from discovery.backends.roles import Classifier, Featured, Head, Reheaded, softmax
from discovery.config import make_config
from discovery.cue_groups import combine, own_cues
from discovery.errors import BackendError, DataError
from discovery.features import Remembering, photo_features
from discovery.fit import head_frame
from discovery.predict import predict, prediction_frame, read_views
from discovery.repairs.menu import load_repair
from discovery.repairs.task import Repaired, Task
from discovery.retrain_audit import CHOSEN, NULL, Judged, accuracies, audit
from discovery.retrain_job import PAIR, Job
from discovery.retrain_page import render_page
from discovery.run import Run, code_hash, frame_of, hash_of

Told = Callable[[int, int], None]
"""Called as `told(done, total)` within a step."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        work: carries it out.
        files: what it leaves in the folder of the repair, at the least.
    """

    work: Callable[[Job, Told], None]
    files: tuple[str, ...]


def _select(job: Job, _: Told) -> None:
    """Writes down which cues are audited again, and which photos are fitted on and which judge."""
    pairs = pl.concat([job.cues.with_columns(role=pl.lit(CHOSEN)), job.nulls.with_columns(role=pl.lit(NULL))])
    job.after.write_text("pairs.json", json.dumps(pairs.select(*PAIR, "phrase", "kind", "role").to_dicts(), indent=1))
    job.after.write_text("split.csv", job.split.write_csv())


def _repair(job: Job, told: Told) -> None:
    """Repairs the model: another last layer in `heads`, or the settings of another model."""
    task = task_of(job, told)
    made = load_repair(job.config.method)(task)
    head = made.head or Head(task.classes)
    if head.coef is not None and not (np.isfinite(head.coef).all() and np.isfinite(head.intercept).all()):
        cues = ", ".join(map(repr, job.cues["phrase"].unique(maintain_order=True).head(3)))
        raise BackendError(
            f"the repair of {cues} by {job.config.method} diverged: its weights are not finite; lower "
            "retrain.learning_rate, or take another --method"
        )
    _refuse_blind(made, task)
    job.after.write("heads", head_frame(head), shard=0, fingerprint="repair")
    facts = {"fitted_photos": len(task.label), "groups": _group_facts(task), **made.facts}
    job.after.write_text("repaired.json", json.dumps({"model": made.model, "facts": facts}, indent=1))
    values = job.before.config.model_dump(mode="json")
    values["model"] |= made.model
    job.after.write_text("config.json", make_config(values).model_dump_json(indent=2))


def _refuse_blind(made: Repaired, task: Task) -> None:
    """Refuses a layer that calls every photo it was fitted on the same."""
    if made.head is None:
        return
    called = np.unique(made.head.logits(task.features()).argmax(axis=1))
    if len(called) < 2:
        raise BackendError(
            f"the repair diverged: it calls every photo {task.classes[called[0]]!r}; take weaker settings of retrain, "
            "or another --method"
        )


def task_of(job: Job, told: Told = lambda *_: None) -> Task:
    """Returns what the repair is given: nothing of the judged photos is in it."""
    fitted = job.split.filter(pl.col("part") == "fitted")
    model = job.model
    place = {name: number for number, name in enumerate(model.classes)}
    label = np.array([place[name] for name in fitted["label"]])
    cue_ids = job.cues["cue_id"].unique(maintain_order=True).to_list()
    phrases = [job.cues.filter(pl.col("cue_id") == cue_id)["phrase"][0] for cue_id in cue_ids]
    shown = job.presences(fitted["sample_id"], cue_ids)
    own = own_cues(job.cues.select(PAIR).iter_rows(), model.classes, cue_ids)
    if len(np.unique(label)) < 2:
        raise DataError(
            f"one class is left to fit on: {fitted['label'][0]!r}; a repair compares classes, so add photos"
        )
    groups = combine(label, shown, own, (model.classes, phrases), job.config.min_group)
    return Task(
        run=job.before,
        config=job.config,
        folder=job.after.path,
        model=model,
        cues=job.cues.select(*PAIR, "phrase", "kind"),
        sample_id=fitted["sample_id"].to_numpy(),
        label=label,
        shown=shown,
        groups=groups,
        features=lambda: photo_features_of(job, fitted["sample_id"]),
        head=lambda: featured(model, job.before.config.model.kind).linear(),
        progress=told,
    )


def _group_facts(task: Task) -> dict:
    sizes = dict(zip(task.groups.names, task.groups.sizes.tolist(), strict=True))
    return {"sizes": sizes, "merged": task.groups.merged}


def photo_features_of(job: Job, sample_ids: pl.Series) -> np.ndarray:
    """Returns (n, d) features of photos; those of all photos of the run are computed once for all its repairs."""
    samples, config = job.before.read("samples", columns=["sample_id", "uri"]), job.before.config
    model = featured(job.model, config.model.kind)
    paths = [Path(config.dataset.root) / uri for uri in samples["uri"]]
    views = read_views(paths, model, config)
    name = f"repairs/kept/photos-{_model_mark(job)}.npy"
    features = photo_features(views, model, job.before, name, config.compute.batch_size)
    place = {sample_id: number for number, sample_id in enumerate(samples["sample_id"])}
    return features[[place[sample_id] for sample_id in sample_ids]]


def _model_mark(job: Job) -> str:
    """Returns what the name of a file of features must carry."""
    dumps = [job.before.config.model.model_dump(mode="json"), job.before.config.dataset.root]
    tables = [job.before.fingerprint(table) for table in ("samples", "heads")]
    return hash_of([code_hash("discovery.backends.classifier"), dumps, tables])[:12]


def _remembering(job: Job, model: Classifier) -> Classifier:
    """Lets a model with a linear last layer see each view once, for all repairs of the run."""
    if not isinstance(model, Featured):
        return model
    return Remembering(model, job.before, f"repairs/kept/views-{_model_mark(job)}.npz")


def _try_before(job: Job, told: Told) -> None:
    """Tries the chosen and the null cues once more on the model as it was, for all repairs of the same photos."""
    kept = _reference(job)
    if not kept.parts("effects"):
        _try(job, job.before, kept, _remembering(job, job.model), told)
    job.after.write_text("reference.json", json.dumps({"effects": str(kept.path.relative_to(job.before.path))}))


def _reference(job: Job) -> Run:
    """Returns the folder that holds the effects before: its name changes with all that they depend on."""
    pairs = (job.after.path / "pairs.json").read_text(encoding="utf-8")
    split = (job.after.path / "split.csv").read_text(encoding="utf-8")
    config = job.before.config.ablate.model_dump(mode="json")
    tables = [job.before.fingerprint(table) for table in ("presences", "regions", "associations", "effects")]
    mark = hash_of([code_hash("discovery.ablate"), _model_mark(job), config, tables, pairs, split])[:12]
    return Run(job.before.path / "repairs" / "kept" / f"before-{mark}", job.before.config)


def _try_after(job: Job, told: Told) -> None:
    """Tries them on the repaired model: same photos, sources, fills and controls."""
    model = repaired_model(job)
    samples = job.split.filter(pl.col("part") == "judged")
    paths = [Path(job.before.config.dataset.root) / uri for uri in samples["uri"]]
    if isinstance(model, Reheaded) and isinstance(model.model, Remembering):
        probs = softmax(model.linear().logits(photo_features_of(job, samples["sample_id"])))
    else:
        probs = predict(read_views(paths, model, job.before.config), model, job.before.config.compute.batch_size)
    job.after.write("predictions", prediction_frame(samples, probs, model.classes), shard=0, fingerprint="repair")
    _try(job, job.after, job.after, model, told)
    job.after.write("associations", associate.STAGE.work(job.after, None), shard=0, fingerprint="repair")


def repaired_model(job: Job) -> Classifier:
    """Loads the repaired model; where only its last layer is new, it shares the features kept for the old one."""
    head = head_of(job.after.read("heads"))
    made = json.loads((job.after.path / "repaired.json").read_text(encoding="utf-8"))
    if head.coef is not None and not made["model"]:
        return Reheaded(_remembering(job, featured(job.model, job.before.config.model.kind)), head)
    config = Run.open(job.after.path).config
    return load_classifier(config.model, config.compute, head)


def _try(job: Job, known: Run, into: Run, model: Classifier, told: Told) -> None:
    judged = job.split.filter(pl.col("part") == "judged")["sample_id"].implode()
    tried = job.before.read("effects").join(_pairs(job), on=PAIR, how="semi")
    tried, rows = tried.filter(pl.col("sample_id").is_in(judged)), []
    for row in repeat(known, job.before, tried, model):
        if len(rows) % 100 == 0:
            told(len(rows), len(tried))
        rows.append(row)
    kept = model.model if isinstance(model, Reheaded) else model
    if isinstance(kept, Remembering):
        kept.keep()
    into.write("effects", frame_of("effects", rows), shard=0, fingerprint="repair")


def _pairs(job: Job) -> pl.DataFrame:
    schema = dict.fromkeys((*PAIR, "phrase", "kind", "role"), pl.String)
    return pl.DataFrame(json.loads((job.after.path / "pairs.json").read_text(encoding="utf-8")), schema=schema)


def _audit(job: Job, _: Told) -> None:
    """Holds after against before."""
    pairs, split = _pairs(job), job.split
    cue_ids = pairs["cue_id"].unique(maintain_order=True).to_list()
    fitted, judged = (split.filter(pl.col("part") == part) for part in ("fitted", "judged"))
    right = [
        judged.join(run.read("predictions", columns=["sample_id", "correct"]), on="sample_id", maintain_order="left")
        for run in (job.before, job.after)
    ]
    photos = Judged(
        label=judged["label"].to_numpy().astype(str),
        right_before=right[0]["correct"].to_numpy(),
        right_after=right[1]["correct"].to_numpy(),
        shown=job.presences(judged["sample_id"], cue_ids),
        cue_ids=cue_ids,
        fitted_label=fitted["label"].to_numpy().astype(str),
        fitted_shown=job.presences(fitted["sample_id"], cue_ids),
    )
    effects = (_reference(job).read("effects"), job.after.read("effects"))
    config = job.before.config
    job.after.write("audits", audit(pairs, effects, photos, config.rank, config.seed), shard=0, fingerprint="repair")
    chosen = pairs.filter(pl.col("role") == CHOSEN)["cue_id"].unique(maintain_order=True).to_list()
    job.after.write_text("accuracy.json", json.dumps(accuracies(photos, chosen, config.rank), indent=1))


def _show(job: Job, _: Told) -> None:
    render_page(job)


STEPS = {
    "select": Step(_select, ("pairs.json", "split.csv")),
    "before": Step(_try_before, ("reference.json",)),
    "repair": Step(_repair, ("tables/heads", "repaired.json")),
    "after": Step(_try_after, ("tables/predictions", "tables/effects", "tables/associations")),
    "audit": Step(_audit, ("tables/audits", "accuracy.json")),
    "show": Step(_show, ("repair.json", "repair.html")),
}
