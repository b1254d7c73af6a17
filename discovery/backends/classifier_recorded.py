"""A table of predictions made elsewhere → a model that can be looked up and not asked: observation alone."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from discovery.backends.roles import Head, check_probs
from discovery.backends.views import WholeImage
from discovery.config import ComputeConfig, ModelConfig
from discovery.errors import BackendError, DataError

KEYS = ("uri", "sample_id")
PROB = "prob_"


class RecordedClassifier:
    """Predictions from a CSV or Parquet file: uri or sample_id, and prob_<class> columns or `predicted`.

    With `predicted` alone every answer is certain: probabilities of 1 and 0.
    """

    def __init__(self, config: ModelConfig, compute: ComputeConfig, head: Head) -> None:
        whole = WholeImage()
        self.classes, self.view, self.field = head.classes, whole.view, whole.field
        self._path = config.path or ""
        _read(self._path)

    def predict(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Raises BackendError, but for no views: a table has no answer to a changed photo."""
        if not len(views):
            return np.empty((0, len(self.classes)))
        raise BackendError(
            f"{self._path} holds predictions of photos as they are: the model behind it cannot be asked about changed "
            "ones; give the model itself, as another model.kind"
        )

    def probs_of(self, samples: pl.DataFrame) -> np.ndarray:
        """Looks photos up.

        Args:
            samples: sample_id and uri of n photos.

        Returns:
            (n, c) float64 probabilities, in order.

        Raises:
            DataError: a photo has no row, or more than one.
            BackendError: a row is no answer.
        """
        table = _read(self._path)
        key = next(name for name in KEYS if name in table.columns)
        wanted = samples.select(pl.col(key).cast(pl.String))
        mine = table.filter(pl.col(key).is_in(wanted[key].implode()))
        if mine[key].is_duplicated().any():
            raise DataError(f"{self._path} has more than one row for {mine.filter(mine[key].is_duplicated())[key][0]}")
        lost = wanted.join(mine, on=key, how="anti", maintain_order="left")[key].to_list()
        if lost:
            raise DataError(
                f"{self._path} has no row for {len(lost)} of {len(wanted)} photos, such as {lost[0]}; "
                f"its {key} must be that of the table samples"
            )
        found = wanted.join(mine, on=key, how="left", maintain_order="left")
        return check_probs(self._answers(found), len(found), self.classes)

    def _answers(self, found: pl.DataFrame) -> np.ndarray:
        columns = [PROB + name for name in self.classes]
        if set(columns) <= set(found.columns):
            return found.select(pl.col(columns).cast(pl.Float64)).to_numpy()
        if "predicted" not in found.columns:
            missing = next(name for name in columns if name not in found.columns)
            raise DataError(f"{self._path} has no column {missing!r} and no column 'predicted'; see model.classes")
        index = {name: i for i, name in enumerate(self.classes)}
        odd = sorted({str(name) for name in found["predicted"]} - index.keys())
        if odd:
            raise DataError(
                f"{self._path} predicts {odd[0]!r}, which is no class; it knows {', '.join(self.classes[:8])}"
            )
        return np.eye(len(index))[[index[name] for name in found["predicted"]]]


def own_names(config: ModelConfig) -> tuple[str, ...]:
    """Returns the classes that a file has columns of probabilities for, in order; none where it has none."""
    return tuple(name.removeprefix(PROB) for name in _read(config.path or "").columns if name.startswith(PROB))


def _read(path: str) -> pl.DataFrame:
    file = Path(path)
    if not file.is_file():
        raise BackendError(f"no predictions at {path}; set model.path to a .csv or .parquet file")
    return _table(path, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _table(path: str, _: int) -> pl.DataFrame:
    read = pl.read_parquet if path.endswith((".parquet", ".pq")) else pl.read_csv
    try:
        table = read(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BackendError(f"cannot read predictions from {path}: {' '.join(str(error).split())[:200]}") from error
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise DataError(f"{path} needs a column uri or sample_id, got {', '.join(table.columns[:8])}")
    return table.with_columns(pl.col(key, *(["predicted"] if "predicted" in table.columns else [])).cast(pl.String))
