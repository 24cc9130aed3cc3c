"""What the documents say about options, messages and files is so."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

import eegtool
from eegtool import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
TREE: Any = typer.main.get_command(cli.app)
FOREIGN: Final = {
    *("--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"),  # of torchrun
    "--bf16",  # of transformers, as `finetune` takes it
    "--help",
}


def spellings(options: set[str]) -> set[str]:
    return options | {f"--{option[2:].replace('-', '_')}" for option in options}


OPTIONS = spellings(
    {
        name
        for command in TREE.commands.values()
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_a_sentence_is_one(page: Path) -> None:
    """Those in blocks of commands are read by test_recipes.py."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", text)
    named = {name for span in spans for name in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert named - OPTIONS - FOREIGN == set()


def texts() -> list[str]:
    """Return the texts in the code that has messages, with a mark where a value is put in."""
    found = []
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "eegtool").rglob("*.py")]
    for source in sources:
        for node in ast.walk(ast.parse(source)) if "EegToolError(" in source else ():
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def holds(text: str, parts: list[str]) -> bool:
    """Say whether a text has the parts one behind the other."""
    end = 0
    for part in parts:
        begin = text.find(part, end)
        if begin < 0:
            return False
        end = begin + len(part)
    return True


def messages(page: str) -> list[str]:
    rows = re.findall(r"^\| (`.+?`) \| .+ \|$", page, re.MULTILINE)
    return [row.strip("`").strip() if row.startswith("``") else row[1:-1] for row in rows]


def test_every_message_in_the_troubleshooting_is_one() -> None:
    said = texts()
    quoted = messages((DOCS / "troubleshooting.md").read_text(encoding="utf-8"))
    assert len(quoted) > 40
    assert [m for m in quoted if not any(holds(text, m.split("…")) for text in said)] == []


def test_every_file_that_is_named_exists() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"`((?:eegtool|scripts|tests)/[\w./-]+\.\w+)`", text)
        assert [name for name in named if not (ROOT / name).exists()] == [], page


def test_every_table_of_the_extensions_is_in_the_file_that_is_named_beside_it() -> None:
    text = (DOCS / "extend.md").read_text(encoding="utf-8")
    pairs = re.findall(
        r"`(_?[A-Z][A-Z_]+)`(?: in|[^`|]{0,8}) \(?`((?:eegtool|tests)/[\w./]+\.py)`", text
    )
    assert len(pairs) >= 10
    for name, path in pairs:
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.M), (
            name,
            path,
        )


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= set(index)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == eegtool.__version__
    assert citation["license"] == "Apache-2.0"
