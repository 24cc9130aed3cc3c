from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eegtool.core.errors import EegToolError
from eegtool.core.records import Answer
from eegtool.core.settings import ReportSettings
from eegtool.report import step

AnswerOf = Callable[..., Answer]
WriteAnswers = Callable[[Sequence[Answer]], Path]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    monkeypatch.setattr(step, "console", console)
    monkeypatch.setattr("eegtool.core.console.console", console)
    return out


def strict_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path.name}")

    return dict(json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse))


def test_writes_the_whole_report(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    write_answers(
        [
            answer(0, "W", "The stage is W."),
            answer(1, "N1", "N2"),
            answer(2, "N2", "N2"),
            answer(4, "N2", "no idea"),
            answer(5, "", "REM sleep"),
        ]
    )
    step.run(ReportSettings(workspace=tmp_path))

    out = tmp_path / "report"
    assert {p.name for p in out.iterdir()} == {
        "metrics.json",
        "tables.md",
        "report.html",
        "report.json",
    }
    metrics = strict_json(out / "metrics.json")
    assert (metrics["n"], metrics["accuracy"]) == (4, 0.5)
    assert (metrics["unreadable"], metrics["unlabelled"]) == (1, 1)
    assert metrics["features"] == "real"
    assert metrics["protocol"]["channel"] == "EEG Fpz-Cz"
    stamp = strict_json(out / "report.json")
    assert (stamp["step"], stamp["results"]["n"]) == ("report", 4)
    assert len(stamp["inputs"]["answers"]) == 64
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "no idea" in page
    tables = (out / "tables.md").read_text(encoding="utf-8")
    assert "1 epoch without a true stage is left out" in tables

    said = terminal.getvalue()
    assert "Confusion matrix" in said
    assert str(out / "report.html") in said
    assert max(map(len, said.replace(str(out), "").splitlines())) <= 80


def test_somebody_elses_answers_need_no_metadata(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    bare = [replace(answer(i, s, s), metadata={}) for i, s in enumerate(("W", "N2", "REM"))]
    out = tmp_path / "elsewhere" / "report"
    step.run(ReportSettings(tmp_path / "none", answers_file=write_answers(bare), out=out))
    assert strict_json(out / "metrics.json")["per_subject"] == {}
    assert "No hypnogram: the answers do not say" in (out / "report.html").read_text("utf-8")


def test_odd_values_do_not_stop_the_report(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    odd = [
        answer(0, "W", "W", epoch_index="0", protocol={"low_hz": float("nan"), "x": [1, {"y": 2}]}),
        answer(1, "N2", "\ud800 N2 \x1b[31m", subject="\x1b]0;title\x07", protocol="none"),
        answer(2, "N2", "N3", epoch_index=True, subject=7, recording=None),
        answer(3, "", "3"),
    ]
    write_answers(odd)
    step.run(ReportSettings(workspace=tmp_path))
    metrics = strict_json(tmp_path / "report" / "metrics.json")
    assert (metrics["n"], metrics["unlabelled"], metrics["unreadable"]) == (3, 1, 0)
    assert metrics["protocol"]["low_hz"] == [None, 0.3]
    assert metrics["protocol"]["x"] == [1, {"y": 2}]
    assert "\x1b" not in terminal.getvalue()


def test_one_answer_throughout_is_loud_in_the_terminal(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    write_answers([answer(i, "W" if i % 2 else "N2", "N2") for i in range(6)])
    step.run(ReportSettings(workspace=tmp_path))
    assert "100 % of the answers are 'N2'." in terminal.getvalue()


@pytest.mark.parametrize(
    ("change", "what", "fix"),
    [
        (lambda rows: [], "holds no answers", "eegvlm evaluate"),
        (lambda rows: [*rows, rows[0]], "'SC4031E0-0000' occurs more than once", "remove"),
        (
            lambda rows: [*rows[:2], replace(rows[2], label="n2")],
            "the label 'n2' of 'SC4031E0-0002' is no sleep stage",
            "Did you mean 'N2'?",
        ),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_scored(
    tmp_path: Path,
    answer: AnswerOf,
    write_answers: WriteAnswers,
    change: Callable[[list[Answer]], list[Answer]],
    what: str,
    fix: str,
) -> None:
    path = write_answers(change([answer(i, "N2", "N2") for i in range(3)]))
    with pytest.raises(EegToolError) as error:
        step.run(ReportSettings(workspace=tmp_path))
    assert str(path) in error.value.what
    assert what in error.value.what
    assert fix in error.value.fix
    assert not (tmp_path / "report").exists()


def test_missing_answers_and_impossible_folder(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers
) -> None:
    with pytest.raises(EegToolError, match="does not exist"):
        step.run(ReportSettings(workspace=tmp_path))
    path = write_answers([answer(0, "N2", "N2")])
    with pytest.raises(EegToolError, match="report folder"):
        step.run(ReportSettings(workspace=tmp_path, out=path))
