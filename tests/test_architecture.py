"""The rules that keep the house small: who may import whom, and what no room may do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "eegtool"
FILES = sorted(PACKAGE.rglob("*.py"))

LEVELS = {
    "core": 0,
    # Ground rooms: used by whoever needs them. Scorings and reasons read recordings, too.
    "recordings": 1,
    "scorings": 2,
    "pictures": 2,
    "reasons": 2,
    "simulate": 2,
    "prepare": 3,
    "extract": 3,
    "model": 3,
    "inference": 4,
    "finetune": 5,
    "evaluate": 5,
    "report": 5,
    "stage": 6,
    "options": 6,
    "cli": 7,
    "demo": 7,
    "doctor": 7,
    "__main__": 8,
}
GROUND = ("recordings", "scorings", "pictures", "reasons", "simulate")
# What a room uses of another one, where the level alone would allow more.
DOORS = {
    # extract.stored: a fine-tuned model carries its vision module, and `ask` computes a feature by it.
    "finetune": (
        "core",
        "pictures.source",
        "extract.features",
        "extract.stored",
        "model",
        "inference",
    ),
    "evaluate": (
        "core",
        "pictures.source",
        "extract.features",
        "extract.stored",
        "model",
        "inference",
    ),
    "inference": ("core", "model"),
    # What an answer claims is checked against what was measured, and shown beside the picture.
    # Further scorings of the answered nights are of any kind that the scorings know; lights go off in annotations.
    "report": ("core", "reasons", "pictures.source", "scorings", "recordings"),
    # stage drives the rooms: what it asks of them goes through these doors.
    "stage": (
        "core",
        *GROUND,
        "prepare",
        "extract.features",
        "extract.stored",
        "extract.module",
        "model",
        "inference",
        "evaluate",
        "report",
    ),
    # doctor must stand when the rooms do not: it asks them late, and takes their failing for an answer.
    "doctor": ("core", "options", "model.loading", "finetune.launcher", "finetune.summary"),
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def eegtool_imports(tree: ast.AST) -> Iterator[str]:
    """Yield every imported ``eegtool.x.y`` without its ``eegtool.``, wherever the import stands."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                names = [f"eegtool.{'.' * node.level}{node.module or ''}"]
            elif node.module == "eegtool":
                names = [f"eegtool.{alias.name}" for alias in node.names]
            else:
                names = [node.module or ""]
        yield from (n.removeprefix("eegtool.") for n in names if n.startswith("eegtool."))


def _tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def wrong_imports(room: str, source: str) -> list[str]:
    wrong = []
    for name in eegtool_imports(ast.parse(source)):
        other = name.partition(".")[0]
        if other in (room, "__version__"):
            continue
        downward = other in LEVELS and LEVELS[other] < LEVELS[room]
        doors = DOORS.get(room)
        through_a_door = doors is None or any(f"{name}.".startswith(f"{d}.") for d in doors)
        if not (downward and through_a_door):
            wrong.append(name)
    return wrong


def forbidden_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            modules = []
        found += [m for m in modules if m.partition(".")[0] in ("pickle", "dill", "cloudpickle")]
        if not isinstance(node, ast.Call):
            continue
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        called = ast.unparse(node.func)
        if called in ("eval", "exec", "joblib.load"):
            found.append(called)
        if called == "torch.load" and keywords.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if keywords.get("allow_pickle", "False") != "False":
            found.append("allow_pickle")
        if called in ("json.load", "json.loads"):
            found.append(f"{called} instead of core.parsing")
        if keywords.get("trust_remote_code", "False") != "False":
            found.append("trust_remote_code")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert not list(eegtool_imports(ast.parse(path.read_text(encoding="utf-8"))))
    else:
        assert wrong_imports(room_of(path), path.read_text(encoding="utf-8")) == []


WINGS = ("reading", "measures", "showing")
"""Of report, each of which knows those before it: answers in, figures, tables and pages."""


@pytest.mark.parametrize(
    "path", [p for p in FILES if room_of(p) == "report"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_the_wings_of_the_report_import_one_way(path: Path) -> None:
    parts = path.relative_to(PACKAGE / "report").parts
    if len(parts) == 1:  # the step knows all of them
        assert path.name in ("__init__.py", "answers.py", "options.py", "step.py")
        return
    imported = [n.split(".")[1] for n in eegtool_imports(_tree(path)) if n.startswith("report.")]
    assert set(imported) <= set(WINGS[: WINGS.index(parts[0]) + 1])
    assert not any(name.endswith("options") for name in eegtool_imports(_tree(path)))


SETTINGS_END_AT = ("options.py", "step.py", "inspection.py")


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if room_of(p) in (*GROUND, "prepare") and p.name not in SETTINGS_END_AT],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_below_a_step_nobody_knows_the_settings(path: Path) -> None:
    assert not any(name.endswith("options") for name in eegtool_imports(_tree(path)))


# Where JSON is read that is none of a file: by the one reader, what a process of our own printed, what was
# written a moment ago, and an answer that happens to be JSON.
JSON_READERS = ("core/parsing.py", "doctor.py", "finetune/plan.py", "core/answers.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_runs_code_out_of_data_or_reads_it_unguarded(path: Path) -> None:
    found = forbidden_calls(path.read_text(encoding="utf-8"))
    if str(path.relative_to(PACKAGE)) in JSON_READERS:
        found = [call for call in found if not call.startswith("json.")]
    assert found == []


def test_every_room_is_ruled() -> None:
    assert len(FILES) > 40
    assert {room_of(path) for path in FILES} - {"__init__"} == set(LEVELS)


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("prepare", "from eegtool.core.stages import STAGES", []),
        ("prepare", "from eegtool.pictures import STYLES", []),
        ("reasons", "from eegtool.recordings.signals import resample", []),
        ("recordings", "from eegtool.scorings.fit import find_grid_s", ["scorings.fit"]),
        ("scorings", "from eegtool.prepare import step", ["prepare"]),
        ("pictures", "from eegtool.reasons import facts", ["reasons"]),
        ("core", "from eegtool import __version__", []),
        ("core", "import eegtool.prepare.step", ["prepare.step"]),
        ("prepare", "from eegtool.extract import step", ["extract"]),
        ("model", "def f():\n    from eegtool.finetune.step import run", ["finetune.step"]),
        ("report", "from eegtool import evaluate", ["evaluate"]),
        ("report", "from eegtool.model import eegvlm", ["model"]),
        ("evaluate", "from eegtool.extract.features import read", []),
        ("evaluate", "from eegtool.extract.training import train", ["extract.training"]),
        ("evaluate", "from eegtool.finetune.data import Rows", ["finetune.data"]),
        ("finetune", "from . import data", ["."]),
        ("demo", "from eegtool.finetune.launcher import x", []),
        ("demo", "from eegtool import cli", ["cli"]),
    ],
)
def test_the_import_rule_bites(room: str, source: str, wrong: list[str]) -> None:
    assert wrong_imports(room, source) == wrong


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("model.eval()", []),
        ("eval('1')", ["eval"]),
        ("import pickle", ["pickle"]),
        ("from pickle import loads", ["pickle"]),
        ("torch.load(path)", ["torch.load without weights_only=True"]),
        ("torch.load(path, weights_only=False)", ["torch.load without weights_only=True"]),
        ("torch.load(path, weights_only=True)", []),
        ("np.load(path, allow_pickle=True)", ["allow_pickle"]),
        ("np.load(path, allow_pickle=flag)", ["allow_pickle"]),
        ("np.load(path, allow_pickle=False)", []),
        ("json.dumps(x)", []),
        ("json.load(file)", ["json.load instead of core.parsing"]),
        ("json.loads(text)", ["json.loads instead of core.parsing"]),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", ["trust_remote_code"]),
    ],
)
def test_the_call_rule_bites(source: str, found: list[str]) -> None:
    assert forbidden_calls(source) == found


def test_the_tree_in_the_documents_names_every_file() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page[page.index("## The tree") :].replace(",", " ")
    files = [path for path in FILES if path.name != "__init__.py"]
    assert [str(path) for path in files if f" {path.name} " not in tree] == []


def test_no_room_but_model_names_a_family() -> None:
    """What is true of one family only is said by its file in model/families; LLaVA is also a format of files and flags."""
    shared = ("__init__", "chat", "fused", "generic", "llava")
    files = (PACKAGE / "model" / "families").glob("*.py")
    families = [path.stem for path in files if path.stem not in shared]
    assert "qwen3_vl" in families
    classes = ("LlavaBase", "LlavaFor", "LlavaConfig", "families.llava")
    for path in FILES:
        if room_of(path) != "model":
            text = path.read_text(encoding="utf-8")
            assert [name for name in (*families, *classes) if name in text] == [], path
