"""Prints what auditing a multimodal LLM costs in calls, per photo and per cue, and what a call costs in process."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # mllm_scene and tiny_llava, which the tests share

from mllm_scene import SIDE, settings, write_photos
from tiny_llava import save_llava

from discovery.asking import estimate
from discovery.backends.classifier_mllm import load_mllm, run_questions
from discovery.backends.mllm_questions import Query, presence_questions
from discovery.config import AblateConfig, ComputeConfig, MllmConfig, make_config
from discovery.corridor import discover

CLASSES = (2, 10, 100)
PER_CUE = 2 * 2 * AblateConfig().images_per_cue
"""Views of a cue that is tried on every photo both ways: the variant and its control."""


def mllm(options: argparse.Namespace) -> None:
    """Calls by the number of classes, calls of a small run, and milliseconds per call of a tiny LLaVA."""
    print("## mllm: calls\n")
    print("| asked | classes | per photo or variant | per cue at most, by ablation |")
    print("|---|---|---|---|")
    for ask in ("each", "choice"):
        for n in CLASSES if ask == "each" else CLASSES[:2]:
            calls = len(run_questions(MllmConfig(ask=ask), [f"class {i}" for i in range(n)]))
            print(f"| {ask} | {n} | {calls} | {PER_CUE * calls} |")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        checkpoint = str(save_llava(place / "llava"))
        _print_run(place, checkpoint)
        _print_speed(checkpoint, options)


def _print_run(place: Path, checkpoint: str) -> None:
    """Counts the calls of a run on 80 photos of two classes, and of `discovery ask` on it."""
    root = write_photos(place / "photos", 40)
    config = make_config(settings(root, {"checkpoint": checkpoint, "min_mass": 0.0}))
    run = discover(config, place / "run")
    views, per_view = int(run.read("cues")["n_forwards"].sum()), 2 * 2
    asked = estimate(run)
    print(f"\nA run on 80 photos of two classes: predict {80 * per_view} calls, ablate {views * per_view};")
    print(
        f"discovery ask on it: {asked.total} questions on {asked.photos} photos, {asked.per_cue:.0f} per class and cue"
    )


def _print_speed(checkpoint: str, options: argparse.Namespace) -> None:
    print("\n| batch | ms per call, LLaVA of 2 + 2 layers, 64 px |\n|---|---|")
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(16)]
    queries = [Query(photo, q) for photo in photos for q in presence_questions("cat", MllmConfig().wordings)]
    for batch in (1, 8, 32):
        config = MllmConfig(checkpoint=checkpoint, min_mass=0.0)
        model = load_mllm(config, ComputeConfig(device=options.device, batch_size=batch))
        model.answer(queries[:batch])
        times = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            model.answer(queries)
            times.append(time.perf_counter() - start)
        print(f"| {batch} | {1000 * np.median(times) / len(queries):.1f} |", flush=True)
