"""The documents: links resolve, commands parse, keys and columns exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from discovery.config import RunConfig, make_config
from discovery.schema import TABLES
from flows.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_TESTS = "pip install -e '.[offline,test]' && pytest"
RUN_DEMO = "pip install -e '.[offline]' && discovery demo"
FILE_ENDINGS = {"py", "html", "json", "csv", "parquet", "toml", "md"}


def pages():
    return pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages()
def test_links_between_pages_resolve(page):
    for link in re.findall(r"\]\(([^)]+)\)", read(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(read(target)), f"{page.name}: {link}"


def blocks(text: str, *languages: str) -> list[str]:
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, re.M | re.S)


def commands(text: str) -> list[str]:
    """Returns every `discovery …` command of a page: from its shell blocks and from its inline code."""
    shell = "".join(blocks(text, "sh", "bash", "console")).replace("\\\n", " ")
    parts = [part.strip() for line in shell.splitlines() for part in re.split(r"&&|\||;|#|>", line)]
    inline = re.findall(r"`(discovery [^`]+)`", text)
    return [part for part in parts + inline if re.match(r"discovery [a-z-]", part)]


@pages()
def test_commands_parse(page):
    group = typer.main.get_command(app)
    for command in commands(read(page)):
        name, *arguments = shlex.split(command)[1:]
        assert name in group.commands, f"{page.name}: {command}"
        if arguments or name == "demo":  # a bare name is only spoken of
            group.commands[name].make_context(name, arguments)


def test_the_command_check_finds_commands():
    text = "```sh\npip install x && discovery demo\ndiscovery cues runs/a --json | jq\n```\nand `discovery version`"
    assert commands(text) == ["discovery demo", "discovery cues runs/a --json", "discovery version"]


def keys(text: str) -> set[str]:
    """Returns every dotted key of the configuration that a page names."""
    named = re.findall(r"`(\w+)\.(\w+)(?: ?=[^`]*)?`", text) + re.findall(r"--set (\w+)\.(\w+)=", text)
    return {
        f"{section}.{key}" for section, key in named if section in RunConfig.model_fields and key not in FILE_ENDINGS
    }


@pages()
def test_configuration_keys_exist(page):
    for name in keys(read(page)):
        section, key = name.split(".")
        assert key in RunConfig.model_fields[section].annotation.model_fields, f"{page.name}: {name}"


@pages()
def test_configurations_shown_are_valid(page):
    for block in blocks(read(page), "toml"):
        values = tomllib.loads(block)
        if set(values) <= set(RunConfig.model_fields):
            values["dataset"] = {"root": "photos", **values.get("dataset", {})}
            make_config(values)


def test_the_example_configuration_is_valid():
    values = tomllib.loads(read(ROOT / "data" / "bar.toml"))
    assert make_config(values).name == "bar"


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_described_with_its_columns_in_order(table):
    text = read(ROOT / "docs" / "tables.md")
    section = re.search(rf"^## {table}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section, f"docs/tables.md has no section {table!r}"
    assert re.findall(r"^\| `(\w+)` \|", section.group(1), re.M) == TABLES[table].names
    key = ", ".join(f"`{part}`" for part in TABLES[table].metadata[b"key"].decode().split(","))
    assert f"Key: {key}." in section.group(1)


@pytest.mark.parametrize("command", [RUN_DEMO, RUN_TESTS])
def test_the_readme_and_the_continuous_check_run_the_same_commands(command):
    assert command in read(ROOT / "README.md")
    assert command in read(ROOT / ".ci" / "run")


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(docs/(\w[\w-]*\.md)\)", read(ROOT / "README.md")))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_changelog_names_the_version():
    from discovery import __version__

    assert f"## {__version__}" in read(ROOT / "docs" / "changelog.md")
