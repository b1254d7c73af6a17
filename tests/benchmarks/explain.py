"""Region search on photos of a run: what it costs and how good its order is, beside naive greedy, in one run.

Usage: python -m tests.benchmarks.explain RUN [--photos 50] [--px 0] [--store FILE] [--out docs/benchmarks.md]
RUN is a run folder whose probe is fitted and whose photos are where they were; with --px the same backbone's probe is
fitted anew on views of that size, which makes naive greedy affordable. Photos are drawn at random from the audited
ones; the class that is explained is the model's answer. --store keeps what is done, so that the same command goes on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.classifier import head_of, load_classifier
from discovery.backends.encoder import load_encoder
from discovery.backends.roles import Classifier, softmax
from discovery.backends.views import CentreCrop
from discovery.config import ComputeConfig, ExplainConfig
from discovery.curves import trace
from discovery.fit import fit_probe
from discovery.images import decode_batches, read_image
from discovery.masked_views import MaskedViews
from discovery.partitions import grid_cells
from discovery.region_search import FRUGAL, NAIVE, Worth, find_flip, order_regions
from discovery.run import Run

SIDE = 7
JUDGE = "inpaint"
"""A fill that neither search has seen."""
SCHEDULES = {"naive greedy": NAIVE, "this search": FRUGAL}
BEGIN, END = "<!-- explain: begin -->", "<!-- explain: end -->"


class SmallProbe:
    """The probe of a run on smaller views: the same backbone, fitted on the same photos."""

    def __init__(self, run: Run, px: int, compute: ComputeConfig) -> None:
        crop = CentreCrop(px, round(px * 256 / 224))
        self.view, self.field = crop.view, crop.field
        self._encoder = load_encoder(run.config.model.backbone, compute)
        fitted = run.read("samples").filter(~pl.col("audit"))
        paths = [Path(run.config.dataset.root) / uri for uri in fitted["uri"]]
        batches = decode_batches(paths, 32, max_pixels=run.config.dataset.max_pixels, max_side_px=2 * px)
        features = np.concatenate([self._features([self.view(image) for image in batch]) for batch in batches])
        self._head = fit_probe(features, fitted["label"].to_numpy(), run.config.model, run.config.seed)
        self.classes = self._head.classes

    def _features(self, views: list[np.ndarray]) -> np.ndarray:
        return self._encoder.pooled(np.stack(views))

    def predict(self, views: list[np.ndarray]) -> np.ndarray:
        return softmax(self._head.logits(self._features(views)))


def main() -> None:
    options = _options()
    run = Run.open(options.run)
    compute = run.config.compute.model_copy(update={"threads": options.threads})
    model: Classifier = (
        SmallProbe(run, options.px, compute)
        if options.px
        else load_classifier(run.config.model, compute, head_of(run.read("heads")))
    )
    audited = run.read("samples").filter("audit")
    picked = np.random.default_rng(0).permutation(len(audited))[: options.photos]
    done = json.loads(options.store.read_text()) if options.store and options.store.is_file() else {}
    for uri in audited[picked]["uri"]:
        if uri not in done:
            view = model.view(read_image(Path(run.config.dataset.root) / uri, max_pixels=50_000_000))
            done[uri] = _measure(view, model)
            if options.store:
                options.store.write_text(json.dumps(done))
    text = _table([done[uri] for uri in audited[picked]["uri"]], options.px or 224)
    print(text)
    if options.out:
        page = options.out.read_text(encoding="utf-8")
        head, tail = page.split(BEGIN)[0], page.split(END)[1]
        options.out.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def _measure(view: np.ndarray, model: Classifier) -> dict:
    """Orders the regions of one photo both ways and judges both orders alike; the forwards are those of the order."""
    config, cells = ExplainConfig(), grid_cells(view.shape[:2], SIDE)
    c, found = int(model.predict([view])[0].argmax()), {}
    kept: list[MaskedViews] = []
    for name, schedule in SCHEDULES.items():
        views = [MaskedViews(view, cells, model, fill=fill, batch_size=64) for fill in config.fills]
        order = order_regions(Worth(views, c, config), schedule)
        n_order = sum(own.n_forwards for own in views)
        flip = find_flip(views, c, order)
        judged = [*views, *kept] if kept else [*views, MaskedViews(view, cells, model, fill=JUDGE, batch_size=64)]
        kept = judged[len(views) :]
        curves = [trace(own, order, c) for own in judged]
        found[name] = {
            "forwards": n_order,
            "deletion": {curve.fill: curve.deletion_auc for curve in curves},
            "insertion": {curve.fill: curve.insertion_auc for curve in curves},
            "flip": None if flip is None else len(flip.regions),
        }
    return found


def _table(done: list[dict], px: int) -> str:
    """Returns the figures as Markdown."""
    fills = (*ExplainConfig().fills, JUDGE)
    lines = [
        f"{len(done)} photos, views of {px} pixels, {SIDE * SIDE} regions; fills of the search: "
        f"{' and '.join(fills[:-1])} in turn (naive greedy: {fills[0]}); {JUDGE} judges what neither has seen.",
        "",
        f"| | forwards per photo | {' | '.join(f'deletion AUC, {fill}' for fill in fills)} | insertion AUC, mean "
        "| flipped | regions in the flipping set: median, quartiles |",
        "|---" * (6 + len(fills) - 1) + "|",
    ]
    for name in SCHEDULES:
        rows = [photo[name] for photo in done]
        deletion = [f"{np.mean([row['deletion'][fill] for row in rows]):.3f}" for fill in fills]
        insertion = np.mean([[row["insertion"][fill] for fill in fills] for row in rows])
        sizes = [row["flip"] for row in rows if row["flip"] is not None]
        low, mid, high = np.percentile(sizes, [25, 50, 75])
        cells = [name, f"{np.mean([row['forwards'] for row in rows]):.0f}", *deletion, f"{insertion:.3f}"]
        cells += [f"{len(sizes)} of {len(rows)}", f"{mid:g}, {low:g} to {high:g}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_differences(done, fills)]
    return "\n".join(lines)


def _differences(done: list[dict], fills: tuple[str, ...]) -> list[str]:
    ours, naive = ([photo[name] for photo in done] for name in ("this search", "naive greedy"))
    ratio = np.sum([row["forwards"] for row in ours]) / np.sum([row["forwards"] for row in naive])
    lines = ["| this search against naive greedy, paired by photo | | target |", "|---|---|---|"]
    lines.append(f"| forwards, ratio | {ratio:.3f} | ≤ 0.2 |")
    for names in (fills[:-1], fills[-1:], fills[:1], fills[1:2]):
        gaps = np.array(
            [np.mean([a["deletion"][f] - b["deletion"][f] for f in names]) for a, b in zip(ours, naive, strict=True)]
        )
        spread = 1.96 * gaps.std(ddof=1) / np.sqrt(len(gaps))
        target = "≤ 0" if names == fills[:-1] else ""
        lines.append(f"| deletion AUC, {' and '.join(names)} | {gaps.mean():+.3f} ± {spread:.3f} | {target} |")
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", type=int, default=50)
    parser.add_argument("--px", type=int, default=0, help="side of the views, a multiple of 32; 0: the run's own probe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
