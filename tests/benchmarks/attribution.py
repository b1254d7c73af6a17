"""A probe's class activation maps → how well they find the object, on horses with figure/ground masks.

python tests/benchmarks/attribution.py [SHARED_DATA]
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from discovery.backends.efficientnet import INPUT_PX, load_efficientnet_lite0
from discovery.config import ComputeConfig
from discovery.images import read_image, resize

N = 120
"""Horses, the first half of which the probe is fitted on, and as many photos of actions."""


def measure(data: Path) -> str:
    """Fits horses against photos of BAR and says where the maps of held-out horses lie."""
    net = load_efficientnet_lite0(ComputeConfig(device="cpu"))
    horses = sorted((data / "horses" / "rgb").iterdir())[:N]
    others = sorted((data / "bar").rglob("*.jpg"))
    others = others[:: max(1, len(others) // N)][:N]
    own, rest = (np.concatenate([_dense(net, path) for path in paths]) for paths in (horses, others))
    fitted = np.concatenate([own[: N // 2], rest]).mean(axis=(2, 3))
    coef = LogisticRegression(max_iter=2000).fit(fitted, np.arange(len(fitted)) < N // 2).coef_[0]
    found = []
    for path, dense in zip(horses[N // 2 :], own[N // 2 :], strict=True):
        mask = cv2.imread(str(data / "horses" / "figure_ground" / path.name), cv2.IMREAD_GRAYSCALE)
        mask = cv2.resize(mask, (INPUT_PX, INPUT_PX)) > 127
        activation = np.einsum("chw,c->hw", dense, coef).astype(np.float32)
        activation = cv2.resize(activation, (INPUT_PX, INPUT_PX)).ravel()
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


def _dense(net, path: Path) -> np.ndarray:
    image = resize(read_image(path, max_pixels=50_000_000), INPUT_PX, INPUT_PX)
    return net.dense(image[None]).cpu().numpy()


if __name__ == "__main__":
    sys.stdout.write(measure(Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")))
