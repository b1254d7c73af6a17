"""A finished run whose model leans on a corner patch: drawn photos, a model of twelve numbers, real stages."""

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from discovery.config import RunConfig, make_config
from discovery.corridor import STAGES, plan, work
from discovery.predict import prediction_frame
from discovery.run import Run, frame_of

CLASSES = ("cat", "dog")
SIDE = 32
CORNER, DOT = (0, 0, 8, 8), (24, 1, 30, 7)
MODEL = '''
import numpy as np
COEF = np.array({coef})

def parts(images):
    """The colours of the middle, which is the class, and of the corner; and of the rest."""
    x = np.stack([image.astype(float) for image in images]) / 255
    middle, corner = x[:, 10:22, 10:22].mean((1, 2)), x[:, :8, :8].mean((1, 2))
    return np.concatenate([middle, corner, x[:, 22:, :10].mean((1, 2)), x[:, :10, 22:].mean((1, 2))], axis=1)

class Net:
    def features(self, images):
        return parts(images)

    def linear(self):
        return COEF, np.array([-2.5, 2.5])

    def __call__(self, images):
        logits = parts(images) @ COEF.T + np.array([-2.5, 2.5])
        e = np.exp(logits - logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

predict = Net()
def headless(images):
    return predict(images)
'''
LEANING = np.array([[3, 0, -3, 4, 0, 0] + [0] * 6, [-3, 0, 3, -4, 0, 0] + [0] * 6], float)
"""Red in the middle is a cat, blue a dog; red in the corner says cat more loudly."""


def draw(rng: np.random.Generator, label: str, *, patch: bool, dot: bool) -> np.ndarray:
    image = rng.uniform(60, 130, (SIDE, SIDE, 3))
    image[10:22, 10:22] = (150, 90, 90) if label == "cat" else (90, 90, 150)
    image[10:22, 10:22] += rng.normal(0, 25, 3)
    if patch:
        image[CORNER[1] : CORNER[3], CORNER[0] : CORNER[2]] = (220, 30, 30)
    if dot:
        image[DOT[1] : DOT[3], DOT[0] : DOT[2]] = (30, 200, 30)
    return np.clip(image, 0, 255).astype(np.uint8)


def make_run(folder: Path, *, n_fit: int = 60, n_audit: int = 30, tied: float = 0.9, model: str = "predict") -> Run:
    """Draws photos, writes the tables up to `presences`, and runs the stages from associate to export.

    Args:
        folder: of everything; the model's module, `leaning_model.py`, lies in it and must be importable.
        n_fit: photos per class that the run did not audit.
        n_audit: photos per class that it did; half of them show the patch.
        tied: share of cats with the patch in training, and of dogs without it.
        model: which function of the module is audited.
    """
    rng, rows = np.random.default_rng(0), []
    (folder / "leaning_model.py").write_text(MODEL.format(coef=LEANING.tolist()))
    for split, n in (("train", n_fit), ("test", n_audit)):
        for label in CLASSES:
            (folder / "photos" / split / label).mkdir(parents=True)
            for place in range(n):
                share = 0.5 if split == "test" else tied if label == "cat" else 1 - tied
                patch, dot = place < round(share * n), place % 2 == 0 or (label == "cat" and place in (21, 23))
                uri = f"{split}/{label}/{place:03d}.png"
                Image.fromarray(draw(rng, label, patch=patch, dot=dot)).save(folder / "photos" / uri)
                rows.append({"sample_id": uri, "uri": uri, "split": split, "label": label, "patch": patch, "dot": dot})
    samples = pl.DataFrame(rows)[rng.permutation(len(rows))]
    run = Run.create(folder / "run", config_of(folder, model))
    _write_tables(run, samples, folder)
    for name in ("associate", "ablate", "rank", "export"):
        for part in plan(run, STAGES[name]):
            work(run, STAGES[name], part)
    return run


def config_of(folder: Path, model: str = "predict") -> RunConfig:
    return make_config(
        {
            "name": "leaning",
            "dataset": {"root": str(folder / "photos")},
            "model": {"kind": "python", "callable": f"leaning_model:{model}", "classes": CLASSES},
            "rank": {"bootstrap": 200, "min_effect": 0.06},
            "retrain": {"fits": 2, "inverse_regularisation": [1.0, 0.1]},
            "compute": {"device": "cpu"},
        }
    )


def _write_tables(run: Run, samples: pl.DataFrame, folder: Path) -> None:
    size = {"width_px": SIDE, "height_px": SIDE}
    frames = {
        "samples": [
            {name: row[name] for name in ("sample_id", "uri", "split", "label")}
            | size
            | {"audit": row["split"] == "test"}
            for row in samples.iter_rows(named=True)
        ],
        "heads": [{"class_name": name} for name in CLASSES],
        "attributes": [],
        "regions": [],
        "presences": [],
    }
    for cue_id, phrase, box in (("patch", "red square", CORNER), ("dot", "green circle", DOT)):
        for sample_id in samples.filter(pl.col(cue_id))["sample_id"]:
            region = {
                "region_id": f"{sample_id}-{cue_id}",
                "sample_id": sample_id,
                "detector": "appearance",
                "score": 1.0,
            }
            frames["regions"].append(region | dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True)))
            shown = {
                "cue_id": cue_id,
                "sample_id": sample_id,
                "phrase": phrase,
                "kind": "object",
                "source": "attribute",
            }
            more = {"labels": [], "phrases": [phrase], "score": 1.0, "region_ids": [region["region_id"]]}
            frames["presences"].append(shown | more)
    for table, rows in frames.items():
        run.write(table, frame_of(table, rows), shard=0, fingerprint="drawn")
    audited = samples.filter(pl.col("split") == "test")
    scope: dict = {}
    exec((folder / "leaning_model.py").read_text(), scope)
    images = [np.array(Image.open(folder / "photos" / uri)) for uri in audited["uri"]]
    run.write("predictions", prediction_frame(audited, scope["predict"](images), CLASSES), shard=0, fingerprint="drawn")
