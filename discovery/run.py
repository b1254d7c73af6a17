"""A run directory: tables as folders of parts, each written atomically with its schema and its fingerprint."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from discovery.config import RunConfig, make_config
from discovery.errors import DataError
from discovery.schema import SCHEMA_VERSION, TABLES

FINGERPRINT_KEY = b"fingerprint"


@dataclass(frozen=True)
class Stage:
    """One room: what it reads, the one table it adds, and how.

    Attributes:
        name: the verb, as `--until` takes it.
        table: the table it adds; also the name of its folder.
        inputs: the tables it reads.
        config: the parts of the configuration it receives; a change of any other part leaves it alone.
        work: `(run, shard) -> frame`; shard is None for a stage that is not sharded.
        sharded: one part per shard of samples, else one part (ingest: as many as it needs).
        also: further tables that it reads with some configurations only.
        rounds: how often it goes through all shards; a round may read the parts of earlier rounds. Part r · shards + s
            is round r of shard s.
        outside: state outside the run that the result depends on (listing of the photos, a model file).
        files: files that it writes beside the tables; it runs again when one is gone.
    """

    name: str
    table: str
    inputs: tuple[str, ...]
    config: Callable[[RunConfig], Sequence[BaseModel | int | str | None]]
    work: Callable[["Run", int | None], pl.DataFrame]
    sharded: bool = False
    outside: Callable[[RunConfig], object] = lambda _: None
    files: tuple[str, ...] = ()
    rounds: Callable[[RunConfig], int] = lambda _: 1
    also: Callable[[RunConfig], tuple[str, ...]] = lambda _: ()

    @property
    def entry(self) -> str:
        return f"discovery.{self.name}"


class Run:
    """A run directory and its configuration.

    Args:
        path: the directory; made when it is missing.
        config: the configuration; `Run.open` reads it back from the directory instead.
    """

    def __init__(self, path: str | Path, config: RunConfig) -> None:
        self.path = Path(path)
        self.config = config

    @classmethod
    def create(cls, path: str | Path, config: RunConfig, *, fresh: bool = False) -> "Run":
        """Makes or reopens a run directory and writes the configuration into it.

        Raises:
            DataError: the directory cannot be written.
        """
        run = cls(path, config)
        with _writing(run.path):
            if fresh and run.path.exists():
                run._clear()
            run.path.mkdir(parents=True, exist_ok=True)
            run.write_text("config.json", config.model_dump_json(indent=2))
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Reopens a finished or unfinished run."""
        file = Path(path) / "config.json"
        if not file.is_file():
            raise DataError(f"no run at {path}; start one: discovery run CONFIG.toml --run-dir {path}")
        return cls(path, make_config(json.loads(file.read_text())))

    def parts(self, table: str) -> list[Path]:
        """Returns the parts of a table in shard order."""
        return sorted((self.path / "tables" / table).glob("part-*.parquet"))

    def part(self, table: str, shard: int) -> Path:
        return self.path / "tables" / table / f"part-{shard:05d}.parquet"

    def read(self, table: str, *, shard: int | None = None, columns: list[str] | None = None) -> pl.DataFrame:
        """Reads a table, or one shard of it.

        Raises:
            DataError: the table, or that part of it, was not made yet or is damaged.
        """
        files = self.parts(table) if shard is None else [self.part(table, shard)]
        if not files or not all(file.is_file() for file in files):
            raise DataError(f"run {self.path} has no table {table!r} yet; run it without --until")
        try:
            return pl.concat([pl.from_arrow(pq.read_table(file, columns=columns)) for file in files])
        except pa.ArrowInvalid as error:
            raise DataError(f"table {table!r} of {self.path} is damaged ({error}); run again with --fresh") from error

    def scan(self, table: str, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yields a table part by part, so that a large one never has to fit into memory."""
        for file in self.parts(table):
            yield pl.from_arrow(pq.read_table(file, columns=columns))

    def write(self, table: str, frame: pl.DataFrame, *, shard: int, fingerprint: str) -> Path:
        """Writes one part: checked against the schema, to a temporary file, then renamed.

        Raises:
            DataError: the frame breaks the schema, or the disk is full or read-only.
        """
        arrow = conform(table, frame)
        meta = {**(arrow.schema.metadata or {}), FINGERPRINT_KEY: fingerprint.encode()}
        path = self.part(table, shard)
        with _writing(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".tmp-{os.getpid()}")
            try:
                pq.write_table(arrow.replace_schema_metadata(meta), scratch, compression="zstd")
                os.replace(scratch, path)
            finally:
                scratch.unlink(missing_ok=True)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Writes a text file beside the tables, atomically."""
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Writes a file beside the tables, atomically.

        Raises:
            DataError: the disk is full or read-only.
        """
        path = self.path / name
        with _writing(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f"{path.name}.tmp-{os.getpid()}")
            try:
                scratch.write_bytes(data)
                os.replace(scratch, path)
            finally:
                scratch.unlink(missing_ok=True)
        return path

    def write_folder(self, name: str, fill: Callable[[Path], None]) -> Path:
        """Makes a folder beside the tables anew: what `fill` puts into a scratch folder takes its place when whole.

        Raises:
            DataError: the disk is full or read-only.
        """
        path = self.path / name
        scratch = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        with _writing(self.path):
            try:
                scratch.mkdir(parents=True)
                fill(scratch)
                shutil.rmtree(path, ignore_errors=True)
                os.replace(scratch, path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return path

    def fingerprint(self, table: str, shard: int | None = None) -> str:
        """Returns the fingerprint of a table, or of one part; empty when it is not there."""
        files = self.parts(table) if shard is None else [self.part(table, shard)]
        return hash_of([_read_fingerprint(file) for file in files if file.is_file()]) if files else ""

    def drop(self, table: str, *, beyond: int) -> None:
        """Removes parts from number `beyond` on: left over from a larger dataset."""
        for file in self.parts(table)[beyond:]:
            file.unlink()

    def _clear(self) -> None:
        if any(self.path.iterdir()) and not (self.path / "config.json").is_file():
            raise DataError(f"{self.path} is not a run directory, so --fresh does not empty it; choose another")
        shutil.rmtree(self.path)


def conform(table: str, frame: pl.DataFrame) -> pa.Table:
    """Casts a frame to its table's schema: columns in order, key columns not null, keys unique.

    Raises:
        DataError: a column is missing or unknown, or a key is null or repeated.
    """
    schema = TABLES[table]
    if set(frame.columns) != set(schema.names):
        odd = sorted(set(frame.columns) ^ set(schema.names))
        raise DataError(f"table {table!r}: missing or unknown columns {odd}; its schema has {schema.names}")
    keys = schema.metadata[b"key"].decode().split(",")
    if frame.select(pl.struct(keys).is_duplicated().any()).item() if len(frame) else False:
        raise DataError(f"table {table!r}: its key {keys} is not unique")
    try:
        arrow = frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)
    except (ValueError, pa.ArrowInvalid) as error:
        raise DataError(f"table {table!r}: {error}") from error
    if any(arrow[key].null_count for key in keys):
        raise DataError(f"table {table!r}: a key among {keys} is null")
    meta = {**schema.metadata, b"schema_version": str(SCHEMA_VERSION).encode()}
    return arrow.replace_schema_metadata(meta)


def frame_of(table: str, rows: list[dict]) -> pl.DataFrame:
    """Builds a table's frame from rows; what a row leaves out is null."""
    schema = pl.from_arrow(TABLES[table].empty_table()).schema
    return pl.from_dicts(rows, schema=schema) if rows else pl.DataFrame(schema=schema)


def part_fingerprint(run: Run, stage: Stage, part: int | None, outside: object = None) -> str:
    """Returns what a part of a stage must carry to be up to date.

    It hashes the stage's code and the modules it imports, its share of the configuration, the seed,
    the fingerprints of its inputs (same shard where the input is sharded alike) and outside state.
    """
    inputs, n_shards = [], max(1, len(run.parts("samples")))
    turn, shard = (0, None) if part is None else divmod(part, n_shards)
    for table in (*stage.inputs, *stage.also(run.config)):
        # A later round has seen every shard's parts of the earlier ones.
        alike = shard is not None and turn == 0 and len(run.parts(table)) == n_shards
        inputs.append(run.fingerprint(table, shard if alike else None))
    config = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in stage.config(run.config)]
    return hash_of([code_hash(stage.entry), config, run.config.seed, inputs, outside, turn, SCHEMA_VERSION])


def is_current(path: Path, fingerprint: str) -> bool:
    """Tells whether a part is there, whole, and carries this fingerprint."""
    return path.is_file() and _read_fingerprint(path) == fingerprint


@cache
def code_hash(module: str) -> str:
    """Hashes the source of a module of `discovery` and of all modules of `discovery` that it imports."""
    root = Path(__file__).parent
    seen: dict[str, str] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        file = root.joinpath(*name.split(".")[1:])
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        if name in seen or not file.is_file():
            continue
        seen[name] = file.read_text(encoding="utf-8")
        for line in re.findall(r"^\s*(?:from|import) (discovery[\w.]*)(?: import ([\w, ]+))?", seen[name], re.M):
            todo += [line[0], *(f"{line[0]}.{part.strip()}" for part in line[1].split(","))]
    return hash_of(sorted(seen.items()))


def file_state(path: str | Path) -> tuple[str, int, int]:
    """Returns a file's path, size and modification time: enough to see that it changed."""
    stat = Path(path).stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _read_fingerprint(file: Path) -> str:
    try:
        return (pq.read_schema(file).metadata or {}).get(FINGERPRINT_KEY, b"").decode()
    except (pa.ArrowInvalid, OSError):
        return ""


def hash_of(value: object) -> str:
    """Returns a short hash of anything that JSON, or its text, tells apart."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals to write into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {path} is full; free some space and run the same command: finished parts are kept"
            ) from error
        raise DataError(f"cannot write to {path}: {error.strerror}; choose another with --run-dir") from error
