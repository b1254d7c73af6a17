"""The plan of the house, read off its source: who may import whom, and how large a file and a function may be."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCIENCE = sorted((ROOT / "discovery").rglob("*.py"))
SHELL = sorted((ROOT / "flows").rglob("*.py"))
STAGES = [
    "ingest",
    "fit",
    "predict",
    "propose",
    "detect",
    "embed",
    "cluster",
    "presence",
    "associate",
    "ablate",
    "rank",
    "report",
    "export",
]


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def each(files):
    return pytest.mark.parametrize("file", files, ids=[name_of(file) for file in files])


def imported(nodes) -> set[str]:
    """Returns the dotted modules that nodes import; `from discovery import rank` gives discovery.rank."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imported_files(nodes) -> set[str]:
    """Returns the files of discovery/ that nodes import, such as `backends/text.py`."""
    paths = {name.removeprefix("discovery.").replace(".", "/") + ".py" for name in imported(nodes)}
    return {path for path in paths if (ROOT / "discovery" / path).is_file()}


@each(SCIENCE)
def test_the_science_knows_nothing_of_prefect_or_the_shell(file):
    roots = {name.split(".")[0] for name in imported(ast.walk(tree_of(file)))}
    assert not roots & {"prefect", "flows", "typer", "rich"}


@each([ROOT / "discovery" / f"{stage}.py" for stage in STAGES])
def test_no_stage_imports_another(file):
    others = {f"{stage}.py" for stage in STAGES}
    assert not imported_files(ast.walk(tree_of(file))) & others


def test_the_stages_here_are_those_of_the_corridor():
    from discovery.corridor import CORRIDOR

    assert [stage.name for stage in CORRIDOR] == STAGES


def reading_order() -> list[str]:
    """Returns the files in the first column of the table in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([\w/]+\.py)` \|", text, re.M)


def test_the_plan_names_every_file_once():
    here = {file.relative_to(ROOT / "discovery").as_posix() for file in SCIENCE if file.name != "__init__.py"}
    order = reading_order()
    assert sorted(order) == sorted(here), "docs/design.md, reading order: add the new file or remove the old one"


@pytest.mark.parametrize("path", reading_order())
def test_a_file_imports_only_what_stands_above_it_in_the_plan(path):
    order = reading_order()
    above = order[: order.index(path)]
    file = ROOT / "discovery" / path
    if file.is_file():
        below = imported_files(tree_of(file).body) - set(above) - {path}
        assert not below, f"move {path} below {below} in docs/design.md, or take the import out"


@each(SCIENCE + SHELL)
def test_a_file_begins_with_one_sentence(file):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith('"""')
    assert first.removesuffix('"""').endswith(".")


@each(SCIENCE + SHELL)
def test_a_file_fits_in_300_lines(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300


@each(SCIENCE + SHELL)
def test_functions_are_short_and_take_few_parameters(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node, lines) <= 40, f"{node.name} is too long"
            if name_of(file) != "flows/cli.py":  # there a parameter is an option of a command
                assert parameters(node) <= 6, f"{node.name} takes too many parameters"


def code_lines(node: ast.FunctionDef, lines: list[str]) -> int:
    """Counts the lines of a function's body that hold code; its docstring, comments and blank lines do not."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return 0
    inside = lines[body[0].lineno - 1 : node.end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in inside)


def parameters(node: ast.FunctionDef) -> int:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in arguments)


@each(SCIENCE + SHELL)
def test_nothing_prints_and_nothing_asserts(file):
    calls = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.Call)]
    names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    assert "print" not in names
    assert not [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.Assert)]


def test_the_rules_can_be_broken():
    long = ast.parse("def f():\n" + "    x = 1\n" * 41).body[0]
    assert code_lines(long, ["def f():"] + ["    x = 1"] * 41) == 41
    assert parameters(ast.parse("def f(self, a, b, *, c): ...").body[0]) == 3
    assert imported_files(ast.parse("from discovery import rank, report").body) == {"rank.py", "report.py"}
