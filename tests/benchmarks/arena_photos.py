"""Handwritten digits on real photos with planted cues of six kinds → settings: a probe per strength, seed and null.

Each digit is drawn on a real photo (the ImageNet samples) that goes with no class, so that what is planted is all there
is to find. Five classes have a cue of their own: an object, a text, a frame, a colour cast and blur. A thin frame goes
with the sixth and lies outside the model's crop: tied, never used. Two decoys are tied to nothing. Every photo of the
pool is drawn in several versions; a model's training set takes one version of each, so that its strength is as wanted,
and regions, embeddings and presences are made once, by the product's own stages, for all models.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from discovery.backends.classifier import softmax
from discovery.config import ModelConfig
from discovery.fit import fit_probe, head_frame
from discovery.grade import match_cues
from discovery.planted import Planted
from discovery.planted_recipe import Plant, Recipe, presence_probs
from discovery.regions import overlap_frac
from discovery.run import frame_of
from tests.benchmarks.arena import Setting, Target
from tests.benchmarks.peers import Evidence
from tests.benchmarks.photos_pool import CLASSES, CUES, DECOYS, PLACE, PhotoPool

UNUSED = "magenta border"
LABEL_NOISE = 0.1


def setting(pool: PhotoPool, cramers_v: float, seed: int, null: str = "") -> Setting:
    """Fits a probe and lays out its audit.

    Args:
        pool: the photos.
        cramers_v: of every cue with its class in the training photos.
        seed: of everything.
        null: "" for none, "shuffled labels", or "permuted presences" (each photo has the presences and regions of
            another one of its class: still tied to the class, but not what the model sees).
    """
    rng = np.random.default_rng([seed, int(1000 * cramers_v), 11])
    train = _training_set(pool, cramers_v, rng)
    audited = np.flatnonzero((pool.samples["split"] == "test").to_numpy())
    shown = np.concatenate([train, audited])
    label = pool.samples["label"].to_numpy()[shown].astype(str)
    wrong = (rng.random(len(shown)) < LABEL_NOISE) & (np.arange(len(shown)) < len(train))
    label[wrong] = rng.choice(CLASSES, int(wrong.sum()))
    if null == "shuffled labels":
        label[: len(train)], label[len(train) :] = (
            rng.permutation(label[: len(train)]),
            rng.permutation(label[len(train) :]),
        )
    head = fit_probe(pool.features[train], label[: len(train)], ModelConfig(), seed)
    probs = softmax(pool.features[audited] @ head.coef.T + head.intercept)
    facts = {"arena": "photos", "null": null, "cramers_v": cramers_v, "seed": seed, "classes": head.classes}
    facts["accuracy"] = float((np.array(head.classes)[probs.argmax(1)] == label[len(train) :]).mean())
    return _Layout(pool, shown, label, len(train), head, probs, facts).setting(rng)


def _training_set(pool: PhotoPool, v: float, rng: np.random.Generator) -> np.ndarray:
    """Takes one version of each training photo, so that every cue goes with its class by `v`."""
    recipe = Recipe(classes=CLASSES)
    version = {row: i for i, row in enumerate(pool.samples.select("object", "cue", "decoy").iter_rows())}
    train = pool.samples.filter(pl.col("split") == "train")
    picked = []
    for (thing,), part in train.group_by("object", maintain_order=True):
        own = CUES[part["label"][0]][0]
        foreign = next(cue for cue in part["cue"] if cue not in ("", own))
        a, rest = presence_probs(recipe, Plant(phrase=own, kind="object", label=CLASSES[0], cramers_v=v))
        # A photo can show one foreign cue of five, so that it shows it five times as often as any of them.
        draw = rng.random()
        cue = own if draw < a else foreign if draw < a + min(1 - a, (len(CLASSES) - 1) * rest) else ""
        decoys = part.filter(pl.col("cue") == cue)["decoy"]
        picked.append(version[thing, cue, decoys[int(rng.random() * len(decoys))]])
    return np.array(picked)


@dataclass(frozen=True)
class _Layout:
    """A probe and its photos: those fitted on, then those audited."""

    pool: PhotoPool
    shown: np.ndarray
    label: np.ndarray
    n_train: int
    head: object
    probs: np.ndarray
    facts: dict

    def setting(self, rng: np.random.Generator) -> Setting:
        ids = self.pool.samples["sample_id"].to_numpy()[self.shown]
        presences, regions = self._presences(ids, rng)
        cues = presences.unique("cue_id", maintain_order=True)
        cue_ids = cues["cue_id"].to_list()
        planted = [self._matches(cues, presences, label) for label in self.head.classes]
        run, evidence = self.pool.run, self._evidence(ids, presences, regions)
        return Setting(
            name="photos {null} V={cramers_v} seed={seed}".format(**self.facts),
            facts=self.facts,
            config={
                "seed": self.facts["seed"],
                "dataset": {"root": run.config.dataset.root},
                "ablate": {"untied_images": 0, "images_per_cue": 24, "looks": 2},
            },
            tables={
                "samples": self._samples(ids),
                "heads": head_frame(self.head),
                "predictions": self._predictions(ids),
                "attributes": run.read("attributes"),
                "regions": regions,
                "presences": presences,
            },
            evidence=evidence,
            region_probs=lambda: evidence.region_probs,
            cue_ids=tuple(cue_ids),
            role=tuple(tuple(map(_role, names)) for names in planted),
            targets=tuple(self._targets(planted)),
            planted_region=self._planted_region(ids, presences, regions),
        )

    def _presences(self, ids: np.ndarray, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Returns presences and regions of these photos; swapped within the class when that is the null."""
        wanted = pl.Series(ids).implode()
        presences = self.pool.run.read("presences").filter(pl.col("sample_id").is_in(wanted))
        regions = self.pool.run.read("regions").filter(pl.col("sample_id").is_in(wanted))
        if self.facts["null"] != "permuted presences":
            return presences, regions
        to = ids.copy()
        for part in (slice(0, self.n_train), slice(self.n_train, None)):
            for name in CLASSES:
                own = np.flatnonzero(self.label[part] == name) + (part.start or 0)
                to[own] = ids[rng.permutation(own)]
        new = dict(zip(ids.tolist(), to.tolist(), strict=True))
        swapped = pl.col("sample_id").replace_strict(new)
        return presences.with_columns(swapped), regions.with_columns(swapped)

    def _matches(self, cues: pl.DataFrame, presences: pl.DataFrame, label: str) -> list[str | None]:
        """Returns for each candidate what was planted in the photos of one class that it marks.

        A report is about a class: "text" is the date stamp where that is what is written in the class's photos.
        """
        ids = self.pool.samples["sample_id"].to_numpy()[self.shown][self.label == label]
        mine = pl.col("sample_id").is_in(pl.Series(ids).implode())
        planted = self._planted()
        planted = replace(planted, truth=planted.truth.filter(mine))
        found = match_cues(cues, presences.filter(mine), planted)
        return cues.join(found, on="cue_id", how="left", maintain_order="left")["planted"].to_list()

    def _planted(self) -> Planted:
        plants = [
            {"phrase": name, "kind": kind, "role": "unused" if name == UNUSED else "cue", "tied_label": label}
            for label, (name, kind, _) in CUES.items()
        ]
        plants += [{"phrase": name, "kind": kind, "role": "decoy", "tied_label": None} for name, kind in DECOYS.items()]
        chosen = self.pool.samples["sample_id"].to_numpy()[self.shown]
        truth = self.pool.truth.filter(pl.col("sample_id").is_in(pl.Series(chosen).implode()))
        return Planted(self.pool.run.path, Recipe(classes=CLASSES), pl.DataFrame(plants), truth)

    def _targets(self, planted: list[list[str | None]]) -> list[Target]:
        classes = list(self.head.classes)
        predicted = np.array(classes)[self.probs.argmax(1)]
        shows = self.pool.samples["cue"].to_numpy()[self.shown[self.n_train :]]
        truth = self.label[self.n_train :]
        found = []
        for label, (name, kind, _) in CUES.items():
            if name == UNUSED:
                continue
            there, own, right = shows == name, truth == label, predicted == truth
            gain = right[there & own].mean() - right[~there & own].mean()
            loss = right[~there & ~own].mean() - right[there & ~own].mean()
            mine = frozenset(i for i, other in enumerate(planted[classes.index(label)]) if other == name)
            found.append(Target(mine, classes.index(label), float((gain + loss) / 2), kind))
        return found

    def _samples(self, ids: np.ndarray) -> pl.DataFrame:
        known = self.pool.run.read("samples").drop("split", "label", "audit")
        new = pl.DataFrame(
            {
                "sample_id": ids,
                "label": self.label,
                "split": ["train" if k < self.n_train else "test" for k in range(len(ids))],
                "audit": np.arange(len(ids)) >= self.n_train,
            }
        )
        return new.join(known, on="sample_id", maintain_order="left")

    def _predictions(self, ids: np.ndarray) -> pl.DataFrame:
        classes, rows = list(self.head.classes), []
        for sample_id, p, truth in zip(ids[self.n_train :], self.probs, self.label[self.n_train :], strict=True):
            predicted = classes[int(p.argmax())]
            row = {"sample_id": sample_id, "predicted": predicted, "probs": p.tolist(), "correct": predicted == truth}
            rows.append({**row, "prob_label": float(p[classes.index(truth)])})
        return frame_of("predictions", rows)

    def _held(self, ids: np.ndarray, presences: pl.DataFrame, regions: pl.DataFrame) -> pl.DataFrame:
        """Returns the audited regions that show a candidate and have an embedding: region_id, sample_id, cue_id."""
        audited = pl.DataFrame({"sample_id": ids[self.n_train :]}).with_row_index("photo")
        held = presences.select("cue_id", pl.col("region_ids").alias("region_id")).explode("region_id")
        held = held.unique("region_id", maintain_order=True)
        placed = regions.filter(pl.col("x0").is_not_null()).select("region_id", "sample_id", "x0", "y0", "x1", "y1")
        return (
            placed.join(audited, on="sample_id", maintain_order="left")
            .join(held, on="region_id", how="left")
            .drop_nulls("photo")
        )

    def _evidence(self, ids: np.ndarray, presences: pl.DataFrame, regions: pl.DataFrame) -> Evidence:
        held = self._held(ids, presences, regions)
        vectors = self.pool.run.read("embeddings", columns=["region_id", "embedding", "norm"])
        held = held.join(vectors, on="region_id", how="inner", maintain_order="left")
        embedding = held["embedding"].explode().to_numpy().reshape(len(held), -1)
        cue_ids = presences["cue_id"].unique(maintain_order=True).to_list()
        photo = {sample_id: k for k, sample_id in enumerate(ids[self.n_train :])}
        score = np.full((len(cue_ids), len(photo)), np.nan)
        for cue_id, sample_id, value in presences.select("cue_id", "sample_id", "score").iter_rows():
            if sample_id in photo:
                score[cue_ids.index(cue_id), photo[sample_id]] = value
        raw = embedding * held["norm"].to_numpy()[:, None]
        of_region = [cue_ids.index(c) if c is not None else -1 for c in held["cue_id"]]
        whole = self.pool.features[self.shown[self.n_train :]]
        classes = list(self.head.classes)
        words = dict(presences.select("cue_id", "phrase").iter_rows())
        return Evidence(
            embeddings=embedding,
            image=held["photo"].to_numpy().astype(np.int64),
            region_probs=softmax(raw @ self.head.coef.T + self.head.intercept).astype(np.float32),
            label=np.array([classes.index(name) for name in self.label[self.n_train :]]),
            probs=self.probs.astype(np.float32),
            image_embedding=(whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32),
            cue_present=~np.isnan(score),
            cue_score=np.nan_to_num(score).astype(np.float32),
            cue_of_region=np.array(of_region, np.int64),
            cue_words=tuple(words[c] for c in cue_ids),
        )

    def _planted_region(self, ids: np.ndarray, presences: pl.DataFrame, regions: pl.DataFrame) -> np.ndarray:
        """Tells which audited regions hold at least half of the planted cue of their photo."""
        held = self._held(ids, presences, regions)
        vectors = self.pool.run.read("embeddings", columns=["region_id"])
        held = held.join(vectors, on="region_id", how="inner", maintain_order="left")
        shown = self.pool.samples[self.shown[self.n_train :]][held["photo"].to_numpy()]
        inside = overlap_frac(shown.select(PLACE).to_numpy(), held.select("x0", "y0", "x1", "y1").to_numpy())
        return (inside >= 0.5) & shown["cue"].is_in([name for name, *_ in CUES.values() if name != UNUSED]).to_numpy()


def _role(planted: str | None) -> str:
    if planted is None:
        return ""
    return "unused" if planted == UNUSED else "decoy" if planted in DECOYS else "cue"
