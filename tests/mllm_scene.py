"""Photos of cats and dogs as coloured squares, some with a sticker, and a multimodal LLM at a server that sees them."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from chat_server import completion, photo_of, text_of
from PIL import Image
from tiny_checkpoints import save_clip
from werkzeug import Response

from discovery.planted_cues import draw_overlay, parse_cue

CLASSES = {"cat": (96, 150, 60), "dog": (60, 96, 170)}
SIDE = 96
RED = np.array((214, 36, 40))
PHRASES = {"red circle": 0.8, "green triangle": 0.5}
"""Sticker → share of the dogs that have it; of the cats as many have none."""


def render(label: str, stickers: list[str], rng: np.random.Generator) -> np.ndarray:
    """Returns a (96, 96, 3) uint8 photo: grey noise, the animal in the middle, and stickers in two corners."""
    photo = rng.normal(140, 12, (SIDE, SIDE, 3)).astype(np.float32)
    photo[34:62, 34:62] = np.array(CLASSES[label]) + rng.normal(0, 6, (28, 28, 3))
    for corner, phrase in zip(rng.permutation(4), stickers, strict=False):
        photo, _ = draw_overlay(parse_cue(phrase), photo, int(corner), rng)
    return np.clip(photo, 0, 255).astype(np.uint8)


def write_photos(root: Path, per_class: int, seed: int = 0) -> Path:
    """Writes `train/<class>/*.png`, and a manifest `photos.csv` with the animals' boxes."""
    rng = np.random.default_rng(seed)
    rows = ["uri,label,split,x0,y0,x1,y1"]
    for label in CLASSES:
        (root / "train" / label).mkdir(parents=True)
        for i in range(per_class):
            shares = {p: share if label == "dog" else 1 - share for p, share in PHRASES.items()}
            stickers = [phrase for phrase, share in shares.items() if rng.random() < share]
            uri = f"train/{label}/{i:03d}.png"
            Image.fromarray(render(label, stickers, rng)).save(root / uri)
            rows.append(f"{uri},{label},train,34,34,62,62")
    (root / "photos.csv").write_text("\n".join(rows) + "\n")
    return root


def sticker_seen(photo: np.ndarray) -> bool:
    """Tells whether at least 1.5 % of a photo is the sticker's red: a quarter of it is not enough."""
    return bool((np.abs(photo.astype(int) - RED).max(axis=2) < 45).mean() > 0.015)


def animal_seen(photo: np.ndarray, label: str) -> bool:
    height, width = photo.shape[:2]
    middle = photo[height * 38 // 96 : height * 58 // 96, width * 38 // 96 : width * 58 // 96].astype(float)
    return bool(np.abs(middle.mean(axis=(0, 1)) - CLASSES[label]).max() < 30)


def mind(reaction: float, *, noise: float = 0.7) -> Callable[[dict], Response]:
    """Returns a model that sees the animals well, and a dog by so many log-odds more where there is a red circle."""

    def answer(body: dict) -> Response:
        photo, text = photo_of(body), text_of(body)
        seed = hashlib.sha256(photo.tobytes() + text.encode()).digest()[:8]
        wobble = np.random.default_rng(list(seed)).normal(0, noise)
        extra = reaction * sticker_seen(photo)
        odds = {name: 4.0 * animal_seen(photo, name) - 2.0 + (extra if name == "dog" else 0) for name in CLASSES}
        if "letter" in text:
            places = {line[3:]: line[0] for line in text.splitlines()[1:-1]}
            logits = {places[name]: value + (wobble if name == "dog" else 0) for name, value in odds.items()}
        else:
            name = next(name for name in CLASSES if f" {name} " in text.replace("?", " "))
            logits = {"Yes": (odds[name] + wobble) / 2, "No": -(odds[name] + wobble) / 2}
        total = math.log(sum(math.exp(value) for value in logits.values()))
        return _said({token: value - total for token, value in logits.items()})

    return answer


def _said(log_probs: dict[str, float]) -> Response:
    best = max(log_probs, key=log_probs.get)
    listed = [{"token": token, "logprob": value} for token, value in log_probs.items()]
    place = {"token": best, "logprob": log_probs[best], "top_logprobs": listed}
    return completion(best, logprobs={"content": [place]})


def settings(root: Path, mllm: dict, **more) -> dict:
    """Returns a small run's configuration: two phrases of the user's own, few regions."""
    phrases = root / "phrases.txt"
    if not (root / "clip").is_dir():
        save_clip(root / "clip")
    phrases.write_text("\n".join(PHRASES) + "\n")
    values = {
        "dataset": {"root": str(root), "manifest": str(root / "photos.csv")},
        "model": {"kind": "mllm", "mllm": {"side_px": SIDE, **mllm}},
        "propose": {"proposer": "file", "file": str(phrases)},
        "embed": {"encoder": f"clip:{root / 'clip'}", "grid": 1, "superpixels": 0},
        "detect": {"box_detector": "appearance"},
        "cluster": {"k_candidates": [2], "sample": 80, "silhouette_sample": 80},
        "ablate": {"images_per_cue": 16, "untied_images": 0},
        "associate": {"permutations": 199},
        "compute": {"device": "cpu"},
    }
    return json.loads(json.dumps({**values, **more}))
