"""Which encoder is asked for the names of clusters, and what it is shown."""

import numpy as np
import polars as pl
import pytest
from PIL import Image

from discovery import naming
from discovery.backends.encoder import Embedded
from discovery.config import make_config
from discovery.naming import LOOKED_AT, Exemplars, name_clusters
from discovery.run import Run, frame_of


class Brightness:
    """An encoder whose only feature is how bright a region is; it calls bright regions by the first phrase."""

    width = 1

    def __init__(self, setting: str) -> None:
        self.speaks, self.setting = not setting.startswith("dinov2"), setting

    def embed(self, images, boxes):
        seen = [
            i[int(y0) : int(y1), int(x0) : int(x1)].mean()
            for i, b in zip(images, boxes, strict=True)
            for x0, y0, x1, y1 in b
        ]
        return Embedded(np.array(seen, np.float32)[:, None], np.ones(len(seen), np.float32))

    def scores(self, embedded, phrases):
        assert self.speaks
        bright = embedded.embedding / 255
        return np.concatenate([bright, 1 - bright, np.zeros((len(bright), len(phrases) - 2))], axis=1)


@pytest.fixture
def run(tmp_path):
    """Three photos, their left half bright and their right half dark, and a region on each half."""
    root, rows = tmp_path / "photos", []
    root.mkdir()
    for i in range(3):
        pixels = np.zeros((8, 16, 3), np.uint8)
        pixels[:, :8] = 250
        Image.fromarray(pixels).save(root / f"{i}.png")
        for side, x0 in (("left", 0), ("right", 8)):
            rows.append({"region_id": f"{i}-{side}", "sample_id": str(i), "x0": x0, "y0": 0, "x1": x0 + 8, "y1": 8})
    made = Run.create(tmp_path / "run", make_config({"dataset": {"root": str(root)}}))
    tables = {
        "regions": [row | {"detector": "grid", "score": 1.0, "area_frac": 0.5} for row in rows],
        "samples": [{"sample_id": str(i), "uri": f"{i}.png", "label": "a", "split": "x"} for i in range(3)],
        "attributes": [
            {"attribute_id": word, "label": "a", "phrase": word, "kind": "object", "source": "file"}
            for word in ("bright thing", "dark thing")
        ],
    }
    frames = {name: frame_of(name, listed) for name, listed in tables.items()}
    made.read = lambda table, columns=None, **_: frames[table].select(columns or pl.all())
    made.scan = lambda table, columns=None: iter([frames[table].select(columns or pl.all())])
    return made


def named(run, monkeypatch, **embed) -> tuple[dict, list[str]]:
    asked = []
    monkeypatch.setattr(naming, "load_encoder", lambda setting, _: asked.append(setting) or Brightness(setting))
    run.config = make_config({"dataset": {"root": run.config.dataset.root}, "embed": embed})
    sides = {0: "left", 1: "right"}
    # Embeddings that say the opposite of what the photos show: a namer must look at the photos.
    known = {
        key: Exemplars(
            np.array([f"{i}-{side}" for i in (2, 0, 1)]),
            Embedded(np.full((3, 1), 255.0 * key, np.float32), np.ones(3, np.float32)),
        )
        for key, side in sides.items()
    }
    return name_clusters(run, known), asked


@pytest.mark.parametrize(
    ("embed", "asked", "names"),
    [
        ({"encoder": "clip:x"}, ["clip:x"], ("dark thing", "bright thing")),
        ({"encoder": "dinov2:x"}, ["dinov2:x", "efficientnet_lite0"], ("bright thing", "dark thing")),
        ({"encoder": "dinov2:x", "namer": "clip:y"}, ["dinov2:x", "clip:y"], ("bright thing", "dark thing")),
        ({"encoder": "clip:x", "namer": "clip:y"}, ["clip:x", "clip:y"], ("bright thing", "dark thing")),
    ],
)
def test_clusters_are_named_by_who_knows_text_and_sees_their_own_regions(run, monkeypatch, embed, asked, names):
    found, loaded = named(run, monkeypatch, **embed)
    assert {key: phrase for key, (phrase, _) in found.items()} == dict(enumerate(names))
    assert loaded == asked
    assert LOOKED_AT >= 3
