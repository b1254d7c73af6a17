"""Folder or manifest → rows of uri, label, split and object box, and the state of the files behind them."""

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from discovery.config import DatasetConfig
from discovery.errors import DataError
from discovery.images import SUFFIXES
from discovery.schema import OBJECT_BOX

COORDINATES = ("x0", "y0", "x1", "y1")
COLUMNS = ("uri", "label", "split", *COORDINATES)
NO_SPLIT = "all"
DEEPEST = 8
LAYOUTS = "class/*.jpg or split/class/*.jpg"
_SCHEMA = {"uri": pl.String, "label": pl.String, "split": pl.String} | dict.fromkeys(OBJECT_BOX, pl.Float32)


def list_samples(config: DatasetConfig) -> pl.DataFrame:
    """Lists the images of a dataset without opening them.

    Args:
        config: its `root` and, where there is one, its `manifest`.

    Returns:
        Columns uri (unique, posix, relative to the root), label, split and the object box, sorted by uri.

    Raises:
        DataError: the root or manifest is missing or cannot be read, images lie at different depths, a path
            leaves the root, or a manifest's row is incomplete or repeats an image.
    """
    root = _root(config)
    if config.manifest is not None:
        return _read_manifest(Path(config.manifest), root).sort("uri")
    uris = [Path(entry.path).relative_to(root).as_posix() for entry in _scan(root, root)]
    return _label_by_folder(uris, root).sort("uri")


def read_captions(config: DatasetConfig, column: str) -> dict[str, str]:
    """Returns uri → caption, from a column of the manifest; empty without a manifest or such a column.

    Raises:
        DataError: as `list_samples`.
    """
    if config.manifest is None:
        return {}
    rows, root = _read_rows(Path(config.manifest)), _root(config)
    if not {column, "uri"} <= set(rows.columns):
        return {}
    captions = rows.select("uri", pl.col(column).cast(pl.String).alias("caption")).drop_nulls()
    return {_inside(uri, root): caption for uri, caption in captions.iter_rows()}


def listing_state(config: DatasetConfig) -> list[tuple[str, int, int]]:
    """Returns (path, size in bytes, modification time in ns) of all files of a dataset; −1 for a missing one.

    Raises:
        DataError: as `list_samples`, apart from the layout of folders.
    """
    root = _root(config)
    if config.manifest is None:
        return sorted((os.path.relpath(entry.path, root), *_stat(entry.path)) for entry in _scan(root, root))
    files = [
        config.manifest,
        *(str(root / uri) for uri in _read_manifest(Path(config.manifest), root)["uri"]),
    ]
    return [(file, *_stat(file)) for file in files]


def _root(config: DatasetConfig) -> Path:
    root = Path(config.root)
    if not root.is_dir():
        raise DataError(f"no folder {config.root}; set it: --set dataset.root=FOLDER")
    return root


def _stat(path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


def _scan(folder: Path, root: Path, depth: int = 1) -> Iterator[os.DirEntry]:
    """Yields the image files under a folder; hidden files and other kinds are not the user's photos."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            _refuse_outside(Path(entry.path), root, "link")
        if entry.is_dir():
            if depth > DEEPEST:
                raise DataError(f"{entry.path} lies too deep, or links form a loop; expected {LAYOUTS}")
            yield from _scan(Path(entry.path), root, depth + 1)
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry


def _refuse_outside(path: Path, root: Path, what: str) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{what} {path} leaves dataset.root = {root}; move the image under it, or set another root")


def _label_by_folder(uris: list[str], root: Path) -> pl.DataFrame:
    """Takes labels, and splits where there are any, from the names of the folders."""
    if not uris:
        kinds = " ".join(suffix[1:] for suffix in SUFFIXES)
        raise DataError(f"no images under {root}; expected {LAYOUTS} with files of kind {kinds}")
    by_depth = {uri.count("/"): uri for uri in reversed(uris)}
    if len(by_depth) > 1 or not by_depth.keys() <= {1, 2}:
        examples = " and ".join(repr(_printable(uri)) for uri in by_depth.values())
        raise DataError(f"images under {root} must all lie at one depth, as {LAYOUTS}; got {examples}")
    folders = [_printable(uri).split("/") for uri in uris]
    rows = {
        "uri": ["/".join(parts) for parts in folders],
        "label": [parts[-2] for parts in folders],
        "split": [parts[0] if len(parts) == 3 else NO_SPLIT for parts in folders],
    }
    return pl.DataFrame(rows | dict.fromkeys(OBJECT_BOX), schema=_SCHEMA)


def _printable(name: str) -> str:
    """Escapes bytes that are not UTF-8, which no table can hold; the file is then listed as missing."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _read_manifest(path: Path, root: Path) -> pl.DataFrame:
    rows = _read_rows(path)
    missing = [name for name in ("uri", "label") if name not in rows.columns]
    boxed = [name for name in COORDINATES if name in rows.columns]
    if missing or len(boxed) not in (0, 4):
        raise DataError(f"manifest {path} needs uri,label[,split][,x0,y0,x1,y1]; it has {','.join(rows.columns)}")
    if rows.is_empty():
        raise DataError(f"manifest {path} lists no images; write a row of uri,label per image")
    _refuse_blank(rows, path)
    uris = pl.Series("uri", [_inside(uri, root) for uri in rows["uri"]], dtype=pl.String)
    _refuse_repeated(uris, path)
    split = rows["split"].fill_null(NO_SPLIT) if "split" in rows.columns else pl.lit(NO_SPLIT)
    boxes = [_coordinate(rows, name, path) for name in COORDINATES]
    return rows.select(
        uris, "label", split.alias("split"), *(box.alias(n) for box, n in zip(boxes, OBJECT_BOX, strict=True))
    )


def _read_rows(path: Path) -> pl.DataFrame:
    """Reads a manifest's columns as text, so that a label 001 stays 001; empty text is null."""
    if not path.is_file():
        raise DataError(f"no manifest {path}; set dataset.manifest, or leave it out to read the folder")
    try:
        parquet = path.suffix.lower() in (".parquet", ".pq")
        rows = pl.read_parquet(path) if parquet else pl.read_csv(path, infer_schema=False)
        text = pl.col(name for name in rows.columns if name in COLUMNS).cast(pl.String)
        rows = rows.with_columns(pl.when(text.str.strip_chars() != "").then(text))
    except (pl.exceptions.PolarsError, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"manifest {path} is neither CSV nor Parquet that can be read: {first}") from error
    # A blank line at the end of a CSV is no mistake.
    return rows.filter(~pl.all_horizontal(pl.all().is_null()))


def _refuse_blank(rows: pl.DataFrame, path: Path) -> None:
    for name in ("uri", "label"):
        blank = rows[name].is_null().arg_true()
        if len(blank):
            raise DataError(f"manifest {path}: {name} is empty in row {blank[0] + 1} after the header; fill it in")


def _refuse_repeated(uris: pl.Series, path: Path) -> None:
    repeated = uris.value_counts().filter(pl.col("count") > 1).sort("uri")
    if len(repeated):
        uri, count = repeated.row(0)
        raise DataError(
            f"manifest {path} lists {uri!r} {count} times ({len(repeated)} images are listed more than "
            f"once); keep one row per image"
        )


def _inside(uri: str, root: Path) -> str:
    """Returns a manifest's path as a normal posix path relative to the root, which it must not leave."""
    if "\0" in uri:
        raise DataError(f"manifest path {uri!r} is no file name; correct it")
    path = Path(os.path.normpath(root / uri))
    _refuse_outside(path, root, "manifest path")
    relative = os.path.relpath(path, root)
    if relative.startswith(".."):  # inside, though by another way (a link) than the root is written
        relative = os.path.relpath(path.resolve(), root.resolve())
    return Path(relative).as_posix()


def _coordinate(rows: pl.DataFrame, name: str, path: Path) -> pl.Series:
    if name not in rows.columns:
        return pl.Series(name, [None] * len(rows), dtype=pl.Float32)
    text = rows[name]
    number = text.cast(pl.Float32, strict=False)
    wrong = (text.is_not_null() & number.is_null()).arg_true()
    if len(wrong):
        raise DataError(f"manifest {path}: {name} is {text[wrong[0]]!r} in row {wrong[0] + 1}; expected pixels")
    return number.fill_nan(None)
