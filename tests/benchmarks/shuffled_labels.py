"""A finished run with a probe → what is reported when its labels are shuffled within each split: it should be nothing.

Usage: python -m tests.benchmarks.shuffled_labels RUN [--repeats 5] [--first 0]
RUN is a finished run folder whose photos are where they were. Regions and presences stay as they are; the probe is
fitted anew on the shuffled labels, and associate, ablate and rank run again on them.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier import probe_view, softmax
from discovery.backends.encoder import load_encoder
from discovery.corridor import STAGES, plan, work
from discovery.fit import fit_probe, head_frame
from discovery.images import read_image
from discovery.run import Run, frame_of
from tests.benchmarks.table_memory import fitting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed: to go on after an interruption")
    options = parser.parse_args()
    run = Run.open(options.run)
    features = _features(run)
    for seed in range(options.first, options.first + options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cues = _judge(run, features, Path(folder), seed)
        spurious = cues.filter(pl.col("verdict") == "spurious")
        print(
            f"seed {seed}: {len(spurious)} reported of {len(cues)} tried, least q {cues['q_value'].min():.3f}, "
            f"{cues['n_forwards'].sum()} forwards; {', '.join(spurious['phrase'])}",
            flush=True,
        )


def _features(run: Run) -> np.ndarray:
    """Returns (n, d) features of all photos, as the probe sees them."""
    config = run.config
    encoder = load_encoder(config.model.backbone, config.compute)
    view = probe_view(config.model, encoder).view
    paths = [Path(config.dataset.root) / uri for uri in run.read("samples", columns=["uri"])["uri"]]
    parts = []
    for start in range(0, len(paths), 32):
        images = [read_image(path, max_pixels=config.dataset.max_pixels) for path in paths[start : start + 32]]
        parts.append(encoder.pooled(np.stack([view(image) for image in images])))
    return np.concatenate(parts)


def _judge(run: Run, features: np.ndarray, folder: Path, seed: int) -> pl.DataFrame:
    rng, samples = np.random.default_rng(seed), run.read("samples")
    label = samples["label"].to_numpy().astype(str)
    for split in samples["split"].unique(maintain_order=True):
        mine = (samples["split"] == split).to_numpy()
        label[mine] = rng.permutation(label[mine])
    audit = samples["audit"].to_numpy()
    head = fit_probe(features[~audit], label[~audit], run.config.model, seed)
    probs = softmax(features @ head.coef.T + head.intercept)
    ablation = run.config.ablate.model_copy(update={"untied_images": 0})
    made = Run.create(folder / "run", run.config.model_copy(update={"ablate": ablation, "seed": seed}))
    samples = samples.with_columns(label=pl.Series(label))
    tables = {
        "samples": samples,
        "heads": head_frame(head),
        "predictions": _predictions(samples, head.classes, probs),
        **{name: fitting(name, run.read(name)) for name in ("attributes", "regions", "presences")},
    }
    for name, frame in tables.items():
        made.write(name, frame, shard=0, fingerprint="given")
    for name in ("associate", "ablate", "rank"):
        for part in plan(made, STAGES[name]):
            work(made, STAGES[name], part)
    return made.read("cues")


def _predictions(samples: pl.DataFrame, classes: tuple[str, ...], probs: np.ndarray) -> pl.DataFrame:
    rows = []
    for (sample_id, truth, audit), p in zip(
        samples.select("sample_id", "label", "audit").iter_rows(), probs, strict=True
    ):
        if audit:
            predicted = classes[int(p.argmax())]
            known = {"sample_id": sample_id, "predicted": predicted, "probs": p.tolist()}
            rows.append({**known, "prob_label": float(p[classes.index(truth)]), "correct": predicted == truth})
    return frame_of("predictions", rows)


if __name__ == "__main__":
    main()
