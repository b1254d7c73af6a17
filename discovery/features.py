"""Photos and views × a model with a linear last layer → what that layer sees, computed once and kept on disk."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from discovery.backends.roles import Featured, softmax
from discovery.run import Run


class Remembering:
    """A model that computes the features of a view once, and keeps them in a file: another layer then costs nothing.

    Args:
        model: whose features they are.
        run: the folder that the file lies in.
        name: of the file; it must change with the model.
    """

    def __init__(self, model: Featured, run: Run, name: str) -> None:
        self.classes, self.view, self.field, self.linear = model.classes, model.view, model.field, model.linear
        self._model, self._run, self._name = model, run, name
        self._known = _read(run.path / name)
        self._n_kept = len(self._known)

    def features(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Featured.features`."""
        keys = [hashlib.blake2b(np.ascontiguousarray(view).tobytes(), digest_size=16).digest() for view in views]
        new = {key: view for key, view in zip(keys, views, strict=True) if key not in self._known}
        if new:
            self._known.update(zip(new, self._model.features(list(new.values())), strict=True))
        return np.stack([self._known[key] for key in keys])

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """See `Classifier.predict`."""
        return softmax(self.linear().logits(self.features(views)))

    def keep(self) -> None:
        """Writes the file when there is more to keep than it holds."""
        if len(self._known) == self._n_kept:
            return
        file = io.BytesIO()
        keys = np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, 16)
        np.savez(file, keys=keys, features=np.stack(list(self._known.values())))
        self._run.write_bytes(self._name, file.getvalue())
        self._n_kept = len(self._known)


def photo_features(views: Iterable[np.ndarray], model: Featured, run: Run, name: str, batch_size: int) -> np.ndarray:
    """Returns (n, d) float32 features of the views of photos, from the file when they are there.

    Args:
        views: of n photos; not asked for when the file is there.
        model: whose features they are.
        run: the folder that the file lies in.
        name: of the file; it must change with the model and the photos.
        batch_size: views per forward pass.
    """
    path = run.path / name
    if not path.is_file():
        waiting, parts = iter(views), []
        while batch := list(islice(waiting, batch_size)):
            parts.append(model.features(batch))
        file = io.BytesIO()
        np.save(file, np.concatenate(parts).astype(np.float32))
        run.write_bytes(name, file.getvalue())
    return np.load(path)


def _read(path: Path) -> dict[bytes, np.ndarray]:
    try:
        with np.load(path) as kept:
            return dict(zip((key.tobytes() for key in kept["keys"]), kept["features"], strict=True))
    except (OSError, ValueError, KeyError, BadZipFile):  # none yet, or torn: it is only a memory
        return {}
