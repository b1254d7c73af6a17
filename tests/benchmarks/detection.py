"""Prints how well boxes are found: planted stickers, shapes and text by every detector with weights here, and horses.

Usage: python -m tests.benchmarks.detection [--horses FOLDER] [--each 40] [--detector owlv2:FOLDER …]
FOLDER holds rgb/*.jpg and figure_ground/*.jpg (Weizmann). The detectors that need no checkpoint run always, the tiny
OWLv2 (`tiny_owlv2.py`) where it is saved, others as named. A box counts from its detector's usual threshold on, and is
right at an IoU of 0.5. Presence: does a photo hold a box of the phrase, against what was planted; beside it the share
of the commoner answer, and the AUC of the best score, which needs no threshold.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from sklearn.metrics import roc_auc_score

from discovery.backends.checkpoint import read_choice
from discovery.backends.detector import Detector, Phrase, load_detector
from discovery.config import ComputeConfig, DetectConfig
from discovery.images import read_image
from discovery.planted import Plant, Recipe, plant
from discovery.planted_cues import draw_overlay, parse_cue
from discovery.regions import Regions, best_iou, pick
from discovery.thresholds import OTHER, PRIORS

TINY = Path(__file__).parents[1] / "weights" / "tiny_owlv2"
SHAPES = ("red circle", "green star", "blue circle", "yellow triangle")
"""The second and the third are held out of the tiny OWLv2's training."""
TEXTS = ("date stamp", "watermark")
COMPUTE = ComputeConfig(device="cpu", threads=1)
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Truth:
    """Images, the phrases looked for in them, and where they are: true boxes as regions of score 1."""

    images: list[np.ndarray]
    phrases: list[Phrase]
    regions: Regions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--horses", type=Path)
    parser.add_argument("--each", type=int, default=40, help="planted images per class of two, and horses")
    parser.add_argument("--detector", action="append", default=[], help="another one, such as owlv2:FOLDER")
    options = parser.parse_args()
    print("| set | detector | phrases | true boxes | boxes | precision | recall | presence | commoner | AUC |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        pictures = exemplars(Path(folder) / "exemplars")
        settings = ["appearance", "text", "conse", "exemplar", *([f"owlv2:{TINY}"] if TINY.is_dir() else [])]
        for title, phrases, kind in (("planted stickers", SHAPES, "object"), ("planted text", TEXTS, "text")):
            truth = planted(Path(folder) / kind, phrases, kind, options.each)
            for setting in [*settings, *options.detector]:
                _print(title, setting, truth, load_detector(setting, DetectConfig(exemplars=str(pictures)), COMPUTE))
    if options.horses:
        for setting in ["conse", *options.detector]:
            _print(
                "horses", setting, horses(options.horses, options.each), load_detector(setting, DetectConfig(), COMPUTE)
            )


def planted(root: Path, phrases: Sequence[str], kind: str, each: int) -> Truth:
    """Returns handwritten digits with every phrase planted in a third of them."""
    plants = tuple(Plant(phrase=phrase, kind=kind, role="decoy", prevalence=0.34) for phrase in phrases)
    recipe = Recipe(classes=("three", "eight"), train_per_class=each, test_per_class=1, canvas_px=160, plants=plants)
    rows = plant(recipe, root).truth.filter(pl.col("split") == "train")
    names = rows["sample_id"].unique(maintain_order=True).to_list()
    shown = rows.filter("present").select("sample_id", "phrase", *rows.columns[-4:]).rows()
    regions = Regions.build([(names.index(i), phrases.index(p), box, 1, None) for i, p, *box in shown])
    images = [read_image(root / name, max_pixels=MAX_PIXELS) for name in names]
    return Truth(images, [Phrase(item.phrase, item.kind) for item in plants], regions)


def exemplars(root: Path) -> Path:
    """Draws two pictures of each planted shape, cut from a plain ground."""
    for phrase in SHAPES:
        (root / phrase).mkdir(parents=True)
        for i, grey in enumerate((96, 170)):
            image, box = draw_overlay(
                parse_cue(phrase), np.full((160, 160, 3), grey, np.float32), 0, np.random.default_rng(i)
            )
            x0, y0, x1, y1 = box.astype(int)
            Image.fromarray(np.clip(image[y0:y1, x0:x1], 0, 255).astype(np.uint8)).save(root / phrase / f"{i}.png")
    return root


def horses(root: Path, n: int) -> Truth:
    """Returns photos of horses with the box around each figure, and two phrases of which one is nowhere."""
    files = sorted((root / "rgb").glob("*.jpg"))
    files = [files[i] for i in np.linspace(0, len(files) - 1, min(n, len(files))).astype(int)]
    images, rows = [], []
    for i, file in enumerate(files):
        image = read_image(file, max_pixels=MAX_PIXELS)
        figure = read_image(root / "figure_ground" / file.name, max_pixels=MAX_PIXELS)[..., 0] > 127
        ys, xs = np.nonzero(figure)
        scale = np.array(image.shape[1::-1] * 2) / np.array(figure.shape[1::-1] * 2)
        images.append(image)
        rows.append((i, 0, np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) * scale, 1, None))
    return Truth(images, [Phrase("horse", "object"), Phrase("piano", "object")], Regions.build(rows))


def _print(title: str, setting: str, truth: Truth, detector: Detector) -> None:
    name = read_choice(setting).name
    asked = [p for p, phrase in enumerate(truth.phrases) if detector.sees(phrase)]
    if not asked:
        return
    found = detector.detect(truth.images, [truth.phrases[p] for p in asked])
    found = replace(found, phrase=np.array(asked, np.int64)[found.phrase])
    true = pick(truth.regions, np.isin(truth.regions.phrase, asked))
    shape = (len(truth.images), len(truth.phrases))
    there, best = _best(true, shape)[:, asked] > 0, _best(found, shape)[:, asked]
    mixed = [p for p in range(len(asked)) if 0 < there[:, p].mean() < 1]
    auc = np.mean([roc_auc_score(there[:, p], best[:, p]) for p in mixed]) if mixed else float("nan")
    floor = PRIORS.get(name, OTHER).value
    found = pick(found, found.score >= floor)
    precision = np.mean(best_iou(found, true) >= 0.5) if len(found) else float("nan")
    recall = np.mean(best_iou(true, found) >= 0.5)
    commoner = np.maximum(there.mean(0), 1 - there.mean(0)).mean()
    counts = f"{len(asked)} | {len(true)} | {len(found)}"
    shares = " | ".join(f"{x:.2f}" for x in (precision, recall, ((best >= floor) == there).mean(), commoner, auc))
    print(f"| {title} | {name} | {counts} | {shares} |", flush=True)


def _best(regions: Regions, shape: Sequence[int]) -> np.ndarray:
    """Returns (images, phrases) best scores; 0 where nothing was found."""
    best = np.zeros(shape)
    np.maximum.at(best, (regions.image, regions.phrase), regions.score)
    return best


if __name__ == "__main__":
    main()
