"""A finished run → a repair of it: the chosen cues, null cues beside them, photos to fit on and photos to judge by."""

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier import head_of, load_classifier
from discovery.backends.roles import Classifier
from discovery.config import RetrainConfig, RunConfig
from discovery.errors import DataError
from discovery.export import choose_rows
from discovery.repairs.menu import load_repair
from discovery.run import Run

LINKED = ("samples", "attributes", "regions", "presences")
"""Tables that a repair shares with its run."""
NULL_VERDICTS = ("tied, not used", "no evidence")
PAIR = ["label", "cue_id"]


@dataclass(frozen=True)
class Job:
    """One repair of one run.

    Attributes:
        before: the finished run; nothing of it is changed.
        after: the folder of the repair inside it, a run of its own that shares the tables up to `presences`.
    """

    before: Run
    after: Run

    @classmethod
    def create(cls, run: Run, config: RunConfig) -> "Job":
        """Makes or reopens `<run>/repairs/<method>`; what cannot be repaired is refused before there is a folder.

        Raises:
            ConfigError: there is no such repair.
            DataError: the run is not finished, has no cue to repair, or too few photos; or the disk cannot be written.
        """
        load_repair(config.retrain.method)
        before = Run(run.path, config)
        for table in ("samples", "predictions", "presences", "associations", "effects", "cues", "groups"):
            if not before.parts(table):
                raise DataError(
                    f"run {run.path} has no table {table!r} yet; finish it first: discovery run CONFIG.toml"
                )
        job = cls(before, Run(run.path / "repairs" / config.retrain.method, config))
        job.refuse()
        after = Run.create(job.after.path, config)
        tables = after.path / "tables"
        tables.mkdir(exist_ok=True)
        for table in LINKED:
            if not (tables / table).is_symlink():
                (tables / table).symlink_to(Path("../../../tables") / table, target_is_directory=True)
        return job

    @classmethod
    def open(cls, folder: str | Path) -> "Job":
        """Reopens a repair by its folder."""
        after = Run.open(folder)
        return cls(Run(after.path.parents[1], after.config), after)

    @property
    def config(self) -> RetrainConfig:
        return self.after.config.retrain

    def refuse(self) -> None:
        """Raises DataError when there is no cue to repair, or a class without photos to fit on or to judge by."""
        if not len(self.cues):
            raise DataError(f"no cue to repair: none of {self.before.path} is exported; see export.cues")
        self._refuse_gaps(self.split)

    @cached_property
    def model(self) -> Classifier:
        """The model as it was audited."""
        return load_classifier(self.before.config.model, self.before.config.compute, head_of(self.before.read("heads")))

    @cached_property
    def cues(self) -> pl.DataFrame:
        """The chosen class–cue pairs, of which groups were exported: rows of `cues`, most spurious first.

        Raises:
            DataError: there is none, or the groups are of another dataset.
        """
        groups = self.before.read("groups", columns=["sample_id", "cue_id", "label"])
        if not len(groups):
            verdicts = ", ".join(self.before.config.export.verdicts)
            raise DataError(
                f"no cue to repair: run {self.before.path} exported no groups, since no cue is {verdicts}; name cues "
                "and export again: discovery run CONFIG.toml --set 'export.cues=[\"a phrase\"]'"
            )
        self._refuse_strangers(groups)
        rows = choose_rows(self.before.read("cues"), self.before.config.export)
        return rows.filter(pl.col("cue_id").is_in(groups["cue_id"].implode())).sort("score", *PAIR, descending=True)

    def _refuse_strangers(self, groups: pl.DataFrame) -> None:
        samples = self.before.read("samples", columns=["sample_id", "label"])
        odd = groups.join(samples, on=["sample_id", "label"], how="anti")
        absent = groups.join(self.before.read("presences", columns=["cue_id"]).unique(), on="cue_id", how="anti")
        if len(odd) or len(absent):
            what = f"photo {odd['sample_id'][0]!r}" if len(odd) else f"cue {absent['cue_id'][0]!r}"
            raise DataError(
                f"the groups of {self.before.path} are of another dataset: they name {what}, which the run does not "
                "have; export again: discovery run CONFIG.toml"
            )

    @cached_property
    def nulls(self) -> pl.DataFrame:
        """Pairs that the model was shown not to use: rows of `cues`, those tried on most photos first."""
        tried = pl.col("n_ablated").fill_null(0) + pl.col("n_pasted").fill_null(0)
        rows = self.before.read("cues").filter(
            pl.col("verdict").is_in(NULL_VERDICTS)
            & (tried >= self.before.config.rank.min_images)
            & ~pl.col("cue_id").is_in(self.cues["cue_id"].implode())
        )
        return rows.sort(tried, *PAIR, descending=[True, False, False]).head(self.config.null_cues)

    @cached_property
    def split(self) -> pl.DataFrame:
        """Which photos the repair may see and which judge it: sample_id, uri, split, label, part (`fitted`, `judged`).

        What the run did not audit is fitted on. A run that audited all photos of a class, as it does with a finished
        model, gives a share of those in the fit split away: they no longer judge, neither before nor after. With
        `retrain.fit_split` the photos of that split are fitted on, and no others.
        """
        samples = self.before.read("samples", columns=["sample_id", "uri", "split", "label", "audit"])
        judged = samples["audit"].to_numpy().copy()
        label, split = samples["label"].to_numpy(), samples["split"].to_numpy()
        fit_split = self.before.config.dataset.fit_split
        if self.config.fit_split is not None:
            given = split == self.config.fit_split
            parts = np.where(given, "fitted", np.where(judged, "judged", "unused"))
            return samples.drop("audit").with_columns(part=pl.Series(parts))
        for name in sorted(set(label)):
            mine = label == name
            if (mine & ~judged).any():
                continue
            give = np.flatnonzero(mine & (split == fit_split)) if fit_split in split else np.flatnonzero(mine)
            rng = np.random.default_rng([self.before.config.seed, zlib.crc32(f"split {name}".encode())])
            judged[rng.permutation(give)[: round(self.config.fit_frac * len(give))]] = False
        return samples.drop("audit").with_columns(part=pl.Series(np.where(judged, "judged", "fitted")))

    def _refuse_gaps(self, parts: pl.DataFrame) -> None:
        for part, do in (("fitted", "fit a repair on"), ("judged", "judge a repair by")):
            counts = parts.filter(pl.col("part") == part).group_by("label").len()
            short = sorted(set(parts["label"]) - set(counts["label"]))
            if short:
                cues = ", ".join(repr(phrase) for phrase in self.cues["phrase"].unique(maintain_order=True).head(3))
                raise DataError(
                    f"no photo of {', '.join(map(repr, short[:3]))} is left to {do}, so {cues} cannot be repaired and "
                    f"audited again: add photos to the split {self.before.config.dataset.fit_split!r} and to another "
                    "one, or change dataset.holdout_frac or retrain.fit_frac"
                )

    def presences(self, sample_ids: pl.Series, cue_ids: list[str]) -> np.ndarray:
        """Returns (photos, cues) bool, which photo shows which cue."""
        row = {sample_id: place for place, sample_id in enumerate(sample_ids)}
        column = {cue_id: place for place, cue_id in enumerate(cue_ids)}
        shown = np.zeros((len(row), len(column)), bool)
        for part in self.before.scan("presences", ["cue_id", "sample_id"]):
            for cue_id, sample_id in part.filter(pl.col("cue_id").is_in(cue_ids)).iter_rows():
                if sample_id in row:
                    shown[row[sample_id], column[cue_id]] = True
        return shown
