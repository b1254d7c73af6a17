"""Handwritten digits in a 2×2 grid with a red square, a green disc and a magenta frame → images, regions, clusters."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from discovery.backends.encoder import load_encoder
from discovery.cluster import cluster
from discovery.config import ClusterConfig, ComputeConfig

FRAME_CLASS = 7
CELL, MARGIN = 28, 2
SIDE = 2 * CELL + 2 * MARGIN
N_EVAL = 900
K_CANDIDATES = (4, 8, 16, 32)
"""Numbers of clusters among which the silhouette chooses: these images hold far less than photos do."""


@dataclass(frozen=True)
class Look:
    """How images are drawn: how readable a digit is, how often each is drawn to be fitted on and judged by; and k."""

    contrast: float = 0.45
    noise: float = 0.25
    copies: int = 3
    audited_copies: int = 2
    k_candidates: tuple[int, ...] = K_CANDIDATES


@dataclass(frozen=True)
class Pool:
    """Every image that a model is trained or audited on; audited ones come last.

    Attributes:
        image: (n, S, S, 3) uint8.
        digit: (n,) int.
        object_cell, square, disc, frame: per image the digit's cell, whether and where there is a square or a disc
            (cell, or -1), and whether there is a frame.
        twin: (n,) index of the same image with the square where this one has none, and the other way; -1 for audited.
        cells: (r, 2) image and cell of each region.
        embedding: (r, d) unit-norm embeddings of the regions.
        group: (r,) cluster of each region.
        distance: (r,) to the cluster's centre.
        audited: (n,) bool.
    """

    image: np.ndarray
    digit: np.ndarray
    object_cell: np.ndarray
    square: np.ndarray
    disc: np.ndarray
    frame: np.ndarray
    twin: np.ndarray
    cells: np.ndarray
    embedding: np.ndarray
    group: np.ndarray
    distance: np.ndarray
    audited: np.ndarray


def make_pool(folder: Path, seed: int = 0, look: Look = Look()) -> Pool:
    """Draws, embeds and clusters the pool once, and writes its images as PNG; read back when it is there."""
    file = folder / "pool.npz"
    if file.is_file():
        return Pool(**np.load(file))
    drawn = _draw_pool(np.random.default_rng(seed), look)
    cells = np.array([(i, c) for i in range(len(drawn["image"])) for c in range(4) if c != drawn["object_cell"][i]])
    embedding = _embed(drawn["image"], cells)
    found = cluster(embedding[:: max(1, len(cells) // 20_000)], ClusterConfig(k_candidates=look.k_candidates), seed)
    group, distance = found.assign(embedding)
    pool = Pool(**drawn, cells=cells, embedding=embedding, group=group, distance=distance)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pool.image):
        Image.fromarray(image).save(folder / "images" / f"{i:05d}.png", compress_level=1)
    np.savez(file, **vars(pool))
    return pool


def _draw_pool(rng: np.random.Generator, look: Look) -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    ink, digit = load_digits(return_X_y=True)
    order = rng.permutation(len(ink))
    rows = []
    for place, thing in enumerate(order):
        audited = place >= len(order) - N_EVAL // 2
        for _ in range(look.audited_copies if audited else look.copies):
            object_cell, square_cell, disc_cell = rng.permutation(4)[:3]
            frame = rng.random() < (0.9 if digit[thing] == FRAME_CLASS else 0.01)
            disc = disc_cell if rng.random() < 0.5 else -1
            key = int(rng.integers(2**31))
            versions = [rng.random() < 0.5] if audited else [False, True]
            for there in versions:
                rows.append((thing, object_cell, square_cell if there else -1, disc, frame, key, audited))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    thing, object_cell, square, disc, frame, key, audited = columns
    image = np.stack([_draw(ink[row[0]].reshape(8, 8), row[1:6], look) for row in rows])
    twin = np.where(audited, -1, np.arange(len(rows)) ^ 1)
    return {
        **{"image": image, "digit": digit[thing], "object_cell": object_cell, "square": square, "disc": disc},
        **{"frame": frame, "twin": twin, "audited": audited},
    }


def _draw(ink: np.ndarray, shown: tuple, look: Look) -> np.ndarray:
    object_cell, square, disc, frame, key = shown
    rng = np.random.default_rng(key)
    canvas = np.zeros((SIDE, SIDE, 3), np.float32)
    noise = rng.normal(0, look.noise, (SIDE, SIDE, 1)).astype(np.float32)
    offsets = rng.integers(3, CELL - 14, (2, 2))
    y, x = corner_of(object_cell)
    canvas[y : y + CELL, x : x + CELL] += (
        look.contrast * cv2.resize((ink / 16).astype(np.float32), (CELL, CELL))[..., None]
    )
    canvas += noise
    if square >= 0:
        top, left = np.array(corner_of(square)) + offsets[0]
        canvas[top : top + 9, left : left + 9] = np.array([0.9, 0.1, 0.1], np.float32) + noise[:9, :9] / 4
    if disc >= 0:
        top, left = np.array(corner_of(disc)) + offsets[1]
        cv2.circle(canvas, (int(left + 5), int(top + 5)), 5, (0.1, 0.7, 0.2), -1)
    if frame:
        band = np.ones((SIDE, SIDE), bool)
        band[MARGIN:-MARGIN, MARGIN:-MARGIN] = False
        canvas[band] = (0.85, 0.1, 0.75)
    return np.clip(canvas * 255, 0, 255).astype(np.uint8)


def corner_of(cell: int) -> tuple[int, int]:
    return MARGIN + CELL * (int(cell) // 2), MARGIN + CELL * (int(cell) % 2)


def box_of(cell: int) -> np.ndarray:
    y, x = corner_of(cell)
    return np.array([x, y, x + CELL, y + CELL], np.float32)


def _embed(images: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Embeds the cells of what the model sees: the frame is outside, and must not show in them."""
    encoder = load_encoder("efficientnet_lite0", ComputeConfig())
    seen = np.ascontiguousarray(images[:, MARGIN:-MARGIN, MARGIN:-MARGIN])
    boxes = [np.stack([box_of(c) - MARGIN for c in cells[cells[:, 0] == i, 1]]) for i in range(len(images))]
    parts = [encoder.embed(list(seen[i : i + 32]), boxes[i : i + 32]).embedding for i in range(0, len(images), 32)]
    return np.concatenate(parts)
