"""What every test needs: no network, no state outside a temporary folder, and photos, generated and real."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.update(
    HF_HUB_OFFLINE="1",
    YOLO_OFFLINE="1",
    YOLO_AUTOINSTALL="0",
    DO_NOT_TRACK="1",
    OUTDATED_IGNORE="1",  # wilds, where it is installed, would ask for its newest version
    PREFECT_HOME=tempfile.mkdtemp(prefix="prefect-"),
    PREFECT_LOGGING_LEVEL="WARNING",
    PREFECT_SERVER_LOGGING_LEVEL="CRITICAL",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
)
os.environ.pop("PREFECT_API_URL", None)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos beside the checkout."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real photos are not here: no {folder}")
    return folder


@pytest.fixture
def make_photos(tmp_path: Path) -> Callable[..., Path]:
    """Returns `make_photos(classes, n, size, splits=("train",), root=None)`, which writes split/class/*.jpg.

    Every class has a colour of its own under noise, so that a probe can learn it.
    """

    def make(
        classes: Sequence[str] = ("cat", "dog"),
        n: int = 12,
        size: int = 32,
        *,
        splits: Sequence[str] = ("train",),
        root: Path | None = None,
    ) -> Path:
        root = root or tmp_path / "photos"
        rng = np.random.default_rng(0)
        colours = rng.integers(40, 216, (len(classes), 3))
        for split in splits:
            for colour, label in zip(colours, classes, strict=True):
                folder = root / split / label
                folder.mkdir(parents=True)
                for i in range(n):
                    pixels = np.clip(colour + rng.normal(0, 25, (size, size, 3)), 0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i:03d}.jpg", quality=95)
        return root

    return make


@pytest.fixture(scope="module")
def running_server():
    """A pretended OpenAI-compatible server, one per file of tests; see tests/chat_server.py."""
    from chat_server import chat_server

    with chat_server() as server:
        yield server


@pytest.fixture
def fresh_server(running_server):
    """That server without memory of the test before."""
    running_server.forget()
    return running_server


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a finished run whose model leans on a red corner; see tests/repairable.py."""
    import sys

    from repairable import make_run

    folder = tmp_path_factory.mktemp("leaning")
    sys.path.insert(0, str(folder))  # where the model's module lies
    return make_run(folder).path


@pytest.fixture
def leaning_run(finished_run, tmp_path):
    """A copy of that run, to be repaired."""
    from discovery.run import Run

    return Run.open(shutil.copytree(finished_run, tmp_path / "run"))
