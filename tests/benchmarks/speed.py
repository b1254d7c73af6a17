"""Prints what the pipeline costs beside a bare loop over the same model: ratios taken in one run.

Usage: python tests/benchmarks/speed.py PHOTOS [--images 256] [--memory]
PHOTOS is a folder split/class/*.jpg. Absolute times are this machine's; the ratios are what is stated.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from discovery.backends.classifier import Head, load_classifier
from discovery.backends.encoder import load_encoder
from discovery.config import AblateConfig, ComputeConfig, ModelConfig, make_config
from discovery.images import map_ahead, read_image
from discovery.predict import predict, read_views
from discovery.trials import REMOVAL, Scene, Trial, removal_pairs, run_trials

MAX_PIXELS = 50_000_000
COMPUTE = ComputeConfig()


def main() -> None:
    options = _options()
    paths = sorted(options.photos.rglob("*.jpg"))[:: max(1, options.every)][: options.images]
    if options.memory:
        _memory(options.photos)
        return
    rng = np.random.default_rng(0)
    head = Head(tuple("abcdef"), rng.normal(size=(6, 1280)) / 50, np.zeros(6))
    classifier = load_classifier(ModelConfig(), COMPUTE, head)
    _warm(classifier)
    print(f"{len(paths)} photos, batch {COMPUTE.batch_size}; each figure is the median of {options.repeats} pairs")
    print(
        f"predict  {_predict_ratio(paths, classifier, options.repeats):.3f} of the bare loop's images/s (target ≥ 0.90)"
    )
    print(f"ablate   {_ablate_ratio(paths, classifier, options.repeats):.3f} of bare forwards/s (target ≥ 0.85)")
    print(f"embed    {_embed_ratio(paths, options.repeats):.3f} × one forward per image at 20 regions (target ≤ 1.30)")


def _predict_ratio(paths: list[Path], classifier, repeats: int) -> float:
    """The stage's loop from files on disk against a bare loop over the same model and decoded photos."""
    config = make_config({"dataset": {"root": "."}})
    images = [read_image(path, max_pixels=MAX_PIXELS) for path in paths]

    def bare() -> None:
        for start in range(0, len(images), COMPUTE.batch_size):
            classifier.predict([classifier.view(image) for image in images[start : start + COMPUTE.batch_size]])

    def pipeline() -> None:
        predict(read_views(paths, classifier, config), classifier, COMPUTE.batch_size)

    return 1 / _median_ratio(pipeline, bare, repeats)


def _ablate_ratio(paths: list[Path], classifier, repeats: int) -> float:
    """Decoding, fills, controls and forwards against as many forwards of one ready batch."""
    config, used = AblateConfig(), paths[: max(16, len(paths) // 4)]
    n_forwards = 0

    def trials(path: Path) -> list[Trial]:
        view = classifier.view(read_image(path, max_pixels=MAX_PIXELS))
        made = []
        for cue in range(6):
            mask = np.zeros(view.shape[:2], bool)
            mask[32 * cue : 32 * cue + 60, 40:120] = True
            pairs = removal_pairs(view, mask, Scene("object", cue, mask), config, np.random.default_rng(cue))
            row = {"way": REMOVAL, "label": "a", "predicted": "a", "prob_before": 0.5}
            made.append(Trial(row, pairs, 0))
        return made

    def pipeline() -> None:
        nonlocal n_forwards
        prepared = map_ahead(trials, used, ahead=4)
        rows = run_trials((trial for part in prepared for trial in part), classifier, COMPUTE.batch_size)
        n_forwards = sum(row["n_forwards"] for row in rows)

    def bare() -> None:
        batch = [classifier.view(read_image(used[0], max_pixels=MAX_PIXELS))] * COMPUTE.batch_size
        for start in range(0, n_forwards, COMPUTE.batch_size):
            classifier.predict(batch[: n_forwards - start])

    pipeline()
    return 1 / _median_ratio(pipeline, bare, repeats)


def _embed_ratio(paths: list[Path], repeats: int) -> float:
    """Embedding 20 boxes per image against one pooled forward per image, both from decoded photos."""
    from discovery.images import resize

    encoder = load_encoder("efficientnet_lite0", COMPUTE)
    images = [read_image(path, max_pixels=MAX_PIXELS) for path in paths]
    rng = np.random.default_rng(0)
    boxes = []
    for image in images:
        low = rng.random((20, 2)) * 0.6
        share = np.concatenate([low, low + 0.1 + rng.random((20, 2)) * 0.3], axis=1)
        boxes.append((share * np.array(image.shape[1::-1] * 2)).astype(np.float32))
    size = COMPUTE.batch_size

    def embed() -> None:
        for start in range(0, len(images), size):
            encoder.embed(images[start : start + size], boxes[start : start + size])

    def forward() -> None:
        for start in range(0, len(images), size):
            encoder.pooled(np.stack([resize(image, 224, 224) for image in images[start : start + size]]))

    return _median_ratio(embed, forward, repeats)


def _median_ratio(one: Callable[[], None], other: Callable[[], None], repeats: int) -> float:
    """Returns the median over pairs of the time of one over the time of the other, taken in turn."""
    ratios = []
    for _ in range(repeats):
        times = []
        for work in (one, other):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return float(np.median(ratios))


def _memory(photos: Path) -> None:
    """Runs the corridor up to rank on 500 and on 2,500 photos, each in a process of its own."""
    peaks = {}
    for n in (500, 2_500):
        with tempfile.TemporaryDirectory() as folder:
            peaks[n] = _peak_of_run(_linked(photos, Path(folder) / "photos", n), Path(folder) / "run")
        print(f"{n} photos: peak {peaks[n]:.0f} MiB")
    print(f"memory   {peaks[2_500] / peaks[500]:.3f} × from 500 to 2,500 photos (target ≤ 1.10)")


def _linked(photos: Path, folder: Path, n: int) -> Path:
    """Links n photos, the same share of every class, into a folder of their own."""
    files = sorted(photos.rglob("*.jpg"))
    picked = [files[i] for i in np.linspace(0, len(files) - 1, n).astype(int)]
    for file in dict.fromkeys(picked):
        target = folder / file.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(file) if file.stat().st_dev == folder.stat().st_dev else target.write_bytes(
            file.read_bytes()
        )
    return folder


def _peak_of_run(photos: Path, run_dir: Path) -> float:
    code = (
        "import sys; from discovery import discover; from discovery.config import make_config; "
        "discover(make_config({'dataset': {'root': sys.argv[1]}, 'compute': {'shard_size': 250}}), sys.argv[2], "
        "until='rank'); from tests.benchmarks.clustering import peak_gib; print(1024 * peak_gib())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(photos), str(run_dir)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def _warm(classifier) -> None:
    for _ in range(3):
        classifier.predict([np.zeros((224, 224, 3), np.uint8)] * COMPUTE.batch_size)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--every", type=int, default=7, help="take every n-th photo")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="peak memory at 500 and 2,500 photos instead (minutes)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
