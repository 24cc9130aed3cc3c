"""Every eegvlm command of README, documents and scripts is one that the command line takes."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from eegtool import cli
from eegtool.core import flags
from eegtool.core.registry import load

ROOT = Path(__file__).parents[1]
TREE: Any = typer.main.get_command(cli.app)
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("eegvlm ")]
    return [w[1:] for w in words]


def foreign_flags() -> set[str]:
    """Return the flags of LLaVA and of transformers, without importing either."""
    package = importlib.util.find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    theirs = Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8")
    llavas = (ROOT / "eegtool" / "finetune" / "arguments.py").read_text(encoding="utf-8")
    found = re.findall(r"^    (\w+): ", theirs, re.MULTILINE)
    return {*found, *re.findall(r'^    "(\w+)": ', llavas, re.MULTILINE)}


def reader_of(target: str) -> Any:
    """Return what reads the flags that are none of a command's own; finetune's takes seconds to import."""
    return known if target == cli.FlagsCommand.read_flags else load(target)


def known(further: flags.Values, own: list[str]) -> flags.Values:
    assert further.keys() - foreign_flags() == set()
    return further


def test_there_are_commands() -> None:
    assert len(commands(ROOT / "README.md")) >= 5
    assert sum(len(commands(page)) for page in PAGES) > 30
    recipe = [words[0] for words in commands(ROOT / "scripts" / "cpu_recipe.sh")]
    chain = ["demo", "prepare", "extract", "finetune", "evaluate", "report", "stage"]
    assert recipe == chain
    assert [words[0] for words in commands(ROOT / "scripts" / "paper_recipe.sh")] == chain[1:]


@pytest.mark.parametrize("path", [*PAGES, *SCRIPTS], ids=lambda path: path.name)
def test_every_command_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser takes it, whatever the shell puts in; files of flags and values of others' flags are not read."""
    monkeypatch.setattr(flags, "read_config", lambda *_: flags.Values(model_name_or_path=["tiny"]))
    monkeypatch.setattr(cli, "load", reader_of)
    for words in commands(path):
        # 1 is a number, a share and a name.
        words = [re.sub(r"\$\{?\w+\}?", "1", word) for word in words if word not in ("$@", "&")]
        if not {"--version", "--help", "COMMAND"} & set(words):
            TREE.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_the_script(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
