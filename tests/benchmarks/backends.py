"""Prints what the backends cost, one section per role: ratios taken in one run, on whatever device `auto` finds.

Usage: python -m tests.benchmarks.backends [--only detectors] [--device cpu] [--repeats 3]
Absolute times are this machine's; the ratios are what is stated. Models have random weights and cost what real ones do.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny_checkpoints, which the tests share

from tiny_checkpoints import (
    clip_tokenizer,
    save_clip,
    save_dinov2,
    save_grounding_dino,
    save_owlv2,
    save_owlvit,
    save_siglip,
    save_yolo,
    text_settings,
)
from transformers import AutoModel

from discovery.backends.checkpoint import load_model
from discovery.backends.detector import Phrase, load_detector
from discovery.backends.encoder import load_encoder
from discovery.config import ComputeConfig, DetectConfig
from discovery.images import resize
from tests.benchmarks.backends_mllm import mllm

PHRASES = (1, 8, 32, 128)


def detectors(options: argparse.Namespace) -> None:
    """Photos per second for 1 to 128 phrases; their texts are embedded before the clock starts."""
    print(f"## detectors: photos per second by number of phrases ({_clock_of(options)})\n")
    print(f"| detector | {' | '.join(map(str, PHRASES))} | time of 128 phrases over 1 |")
    print("|---|" + "---|" * (len(PHRASES) + 1))
    for title, name, save, n in (
        ("owlv2, 2 layers, 96 px", "owlv2", save_owlv2, 16),
        ("owlvit, 2 layers, 96 px", "owlvit", save_owlvit, 16),
        ("grounding_dino, 1 + 2 layers, texts of 32 tokens", "grounding_dino", save_grounding_dino, 4),
        ("yoloe, smallest, 96 px", "yoloe", partial(save_yolo, kind="yoloe-11n.yaml"), 16),
        ("yolo_world, smallest, 96 px", "yolo_world", save_yolo, 16),
        ("owlv2, base size, 768 px", "owlv2", _save_base_owlv2, 1),
    ):
        with tempfile.TemporaryDirectory() as folder:
            seconds = _seconds_per_photo(f"{name}:{save(Path(folder))}", n, options)
        rates = " | ".join(f"{1 / s:.3g}" for s in seconds)
        print(f"| {title} | {rates} | {seconds[-1] / seconds[0]:.2f} |", flush=True)


def _seconds_per_photo(setting: str, n: int, options: argparse.Namespace) -> list[float]:
    """Returns the median seconds per photo for each number of phrases, all taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        config = DetectConfig(text_model=f"clip:{save_clip(Path(folder), width=512)}")
        detector = load_detector(setting, config, ComputeConfig(device=options.device, threads=1))
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (480, 640, 3), dtype=np.uint8) for _ in range(n)]
    wanted = [[Phrase(f"thing number {i}", "object") for i in range(count)] for count in PHRASES]
    detector.detect(photos[:1], wanted[-1])
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    times = np.array(
        [[_timed(lambda p=p: detector.detect(photos, p), clock) for p in wanted] for _ in range(options.repeats)]
    )
    return (np.median(times, axis=0) / n).tolist()


def _clock_of(options: argparse.Namespace) -> str:
    return "cpu, seconds of one thread" if options.device == "cpu" else f"{options.device}, seconds on the wall"


def _save_base_owlv2(folder: Path) -> Path:
    """Saves an OWLv2 of the published base size with random weights."""
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    tokenizer = clip_tokenizer()
    text = {**text_settings(tokenizer, width=512), "num_hidden_layers": 12, "num_attention_heads": 8}
    config = Owlv2Config(text_config={**text, "intermediate_size": 2048})
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = Owlv2ImageProcessor(size={"height": 768, "width": 768})
    Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


REGIONS = 20


def encoders(options: argparse.Namespace) -> None:
    """Dense embedding of 20 regions per photo over a bare forward of the same network, its tensors ready or not."""
    print(f"## encoders: {REGIONS} regions per photo (device {options.device})\n")
    print("| encoder | ms per photo: bare forward | resized, then forward | embedded | over bare | over resized |")
    print("|---|---|---|---|---|---|")
    for title, name, save, n in (
        ("clip, 2 layers, 64 px", "clip", save_clip, 32),
        ("siglip, 2 layers, 64 px", "siglip", save_siglip, 32),
        ("dinov2, 2 layers, 64 px", "dinov2", save_dinov2, 32),
        ("clip, ViT-B/32, 224 px", "clip", _save_clip_b32, 8),
    ):
        with tempfile.TemporaryDirectory() as folder:
            turns = _embed_seconds(name, str(save(Path(folder))), n, options)
        times = " | ".join(f"{1e3 * t / n:.1f}" for t in np.median(turns, axis=0))
        over = " | ".join(f"{np.median(turns[:, 2] / turns[:, i]):.2f}" for i in (0, 1))
        print(f"| {title} | {times} | {over} |", flush=True)


def _embed_seconds(name: str, checkpoint: str, n: int, options: argparse.Namespace) -> np.ndarray:
    """Returns (repeats, 3) seconds for n photos: bare forward, resized and forward, embedded; taken in turn."""
    compute = ComputeConfig(device=options.device)
    encoder = load_encoder(f"{name}:{checkpoint}", compute)
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (480, 640, 3), dtype=np.uint8) for _ in range(n)]
    corners = np.sort(rng.uniform(0, 480, (n, REGIONS, 2, 2)), axis=2)
    boxes = [np.concatenate([one[:, 0], one[:, 1] + 1], axis=1).astype(np.float32) for one in corners]
    model, side = load_model(AutoModel, checkpoint, compute), encoder.input_px
    tower = getattr(model, "vision_model", model)
    ready = torch.rand(n, 3, side, side, device=model.device, dtype=model.dtype)

    def forward(batch: torch.Tensor) -> None:
        with torch.inference_mode():
            tower(pixel_values=batch.to(model.device, model.dtype)).last_hidden_state.cpu()

    def resized() -> None:
        pixels = np.stack([resize(photo, side, side) for photo in photos])
        forward((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)

    works = (lambda: forward(ready), resized, lambda: encoder.embed(photos, boxes))
    for work in works:
        work()
    return np.array([[_timed(work) for work in works] for _ in range(options.repeats)])


def _save_clip_b32(folder: Path) -> Path:
    """Saves a CLIP of the published ViT-B/32 size with random weights."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tokenizer = clip_tokenizer()
    config = CLIPConfig(text_config=text_settings(tokenizer))
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer).save_pretrained(folder)
    return folder


def _timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the seconds of one call; what a thread computed where others share the machine, or the wall's."""
    start = clock()
    work()
    return clock() - start


SECTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "detectors": detectors,
    "encoders": encoders,
    "mllm": mllm,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(SECTIONS), action="append", help="a section; all by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in options.only or SECTIONS:
        SECTIONS[name](options)
        print()


if __name__ == "__main__":
    main()
