"""A probe's class activation maps → how well they find the object, also where the probe has learned a shortcut.

python tests/benchmarks/attribution.py [SHARED_DATA]

Horses against photos of actions. Without a shortcut, and with one: a yellow disc beside nearly every horse that the
probe is fitted on. Of held-out horses two places of the same size are asked about: that of the disc, which is no part
of a horse, and one on the horse. Either is held against the map of the photo as it is, and of the photo with it filled.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from discovery.attribution import class_region
from discovery.backends.efficientnet import INPUT_PX, load_efficientnet_lite0
from discovery.config import AblateConfig, ComputeConfig
from discovery.fills import FILLS
from discovery.images import read_image, resize

N = 120
"""Horses, the first half of which the probe is fitted on, and as many photos of actions."""
RADIUS, INK, SHARE = 22, (250, 210, 30), 0.95
"""Of the discs, and the share of the fitted horses that show one."""


def measure(data: Path) -> str:
    """Fits horses against photos of BAR and says where the maps of held-out horses lie."""
    net = load_efficientnet_lite0(ComputeConfig(device="cpu"))
    paths = sorted((data / "horses" / "rgb").iterdir())[:N]
    horses, masks = [_photo(path) for path in paths], [_mask(data, path) for path in paths]
    others = sorted((data / "bar").rglob("*.jpg"))
    rest = _dense(net, [_photo(path) for path in others[:: max(1, len(others) // N)][:N]])
    rng = np.random.default_rng(0)
    beside, on = ([_disc(mask, inside, rng) for mask in masks] for inside in (False, True))
    marked = [_painted(photo, disc) for photo, disc in zip(horses, beside, strict=True)]
    mixed = [mark if rng.random() < SHARE else photo for photo, mark in zip(horses, marked, strict=True)]
    half = N // 2
    coef = _fit(_dense(net, horses[:half]), rest)
    said = _find_horse(_dense(net, horses[half:]), masks[half:], coef)
    held = [i for i in range(half, N) if beside[i] is not None and on[i] is not None]
    for name, fitted, shown in (("no shortcut", horses, horses), ("a shortcut", mixed, marked)):
        coef = _fit(_dense(net, fitted[:half]), rest)
        photos = [shown[i] for i in held]
        for where, discs in (("beside the horse", beside), ("on the horse", on)):
            said += f"{name}, disc {where}: {_shares(net, photos, [discs[i] for i in held], coef)}\n"
    return said


def _find_horse(dense: np.ndarray, masks: list[np.ndarray], coef: np.ndarray) -> str:
    found = []
    for one, mask in zip(dense, masks, strict=True):
        activation = cv2.resize(np.tensordot(coef, one, 1).astype(np.float32), (INPUT_PX, INPUT_PX)).ravel()
        top = np.argsort(-activation)[: np.count_nonzero(mask)]
        inside = mask.ravel()
        found.append(
            (inside[top].mean(), inside.mean(), roc_auc_score(inside, activation), inside[activation.argmax()])
        )
    overlap, chance, auc, peak = np.mean(found, axis=0)
    return (
        f"{len(found)} held-out horses: {overlap:.3f} of the map's top area (as large as the horse) lies on the horse, "
        f"by chance {chance:.3f}; AUC over pixels {auc:.3f}; the peak lies on the horse in {peak:.2f}\n"
    )


def _shares(net, photos: list[np.ndarray], discs: list[np.ndarray], coef: np.ndarray) -> str:
    """Says how often at least half of a disc lies where the map is high, and what filling it does to the log-odds."""
    gone = [FILLS["blur"](photo, disc) for photo, disc in zip(photos, discs, strict=True)]
    shown, left = _dense(net, photos), _dense(net, gone)
    lost = ((shown - left).mean(axis=(2, 3)) @ coef).mean()
    level, size = AblateConfig().attribution_level, (INPUT_PX, INPUT_PX)
    inside = [
        np.mean([class_region(np.tensordot(coef, one, 1), size, level)[disc].mean() >= 0.5 for one, disc in pairs])
        for pairs in (list(zip(dense, discs, strict=True)) for dense in (shown, left))
    ]
    return (
        f"taken for a part of the object in {inside[0]:.2f} of {len(discs)} photos by the map of the photo as it is, "
        f"in {inside[1]:.2f} by that of the photo without it; filling it takes {lost:.2f} from the log-odds"
    )


def _fit(own: np.ndarray, rest: np.ndarray) -> np.ndarray:
    features = np.concatenate([own, rest]).mean(axis=(2, 3))
    return LogisticRegression(max_iter=2000).fit(features, np.arange(len(features)) < len(own)).coef_[0]


def _disc(mask: np.ndarray, inside: bool, rng: np.random.Generator) -> np.ndarray | None:
    """Draws a disc whose middle lies well inside the horse, or that lies beside it as a whole."""
    free = mask if inside else ~mask
    room = cv2.erode(free.astype(np.uint8), np.ones((17 if inside else 2 * RADIUS - 1,) * 2), borderValue=0)
    room[:RADIUS] = room[-RADIUS:] = room[:, :RADIUS] = room[:, -RADIUS:] = 0
    rows, columns = np.nonzero(room)
    if not len(rows):
        return None
    at = rng.integers(len(rows))
    disc = cv2.circle(np.zeros(mask.shape, np.uint8), (int(columns[at]), int(rows[at])), RADIUS, 1, -1)
    return disc.astype(bool)


def _painted(photo: np.ndarray, disc: np.ndarray | None) -> np.ndarray:
    return photo if disc is None else np.where(disc[..., None], np.array(INK, np.uint8), photo)


def _photo(path: Path) -> np.ndarray:
    return resize(read_image(path, max_pixels=50_000_000), INPUT_PX, INPUT_PX)


def _mask(data: Path, path: Path) -> np.ndarray:
    mask = cv2.imread(str(data / "horses" / "figure_ground" / path.name), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(mask, (INPUT_PX, INPUT_PX)) > 127


def _dense(net, photos: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([net.dense(np.stack(photos[i : i + 16])).cpu().numpy() for i in range(0, len(photos), 16)])


if __name__ == "__main__":
    sys.stdout.write(measure(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")))
