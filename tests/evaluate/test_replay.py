"""Saved answers read again, without a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_questions, write_questions
from eegtool.core.settings import EvaluateSettings
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, sha256_of
from eegtool.evaluate import loading
from eegtool.evaluate.step import run
from eegtool.inference.calibration import Calibration, write_calibration
from eegtool.inference.scoring import probabilities
from tests.evaluate.conftest import rows_of, scores_of


@pytest.fixture
def saved(
    settings: EvaluateSettings,
    workspace: Workspace,
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return answers with probabilities; from then on no model can be loaded."""
    path = workspace.root / "saved.jsonl"
    run(replace(settings, mode="score", answers_file=path))
    monkeypatch.setattr(loading, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))
    return path


@pytest.fixture
def again(workspace: Workspace, saved: Path) -> EvaluateSettings:
    return EvaluateSettings(workspace=workspace.root, answers_from=saved)


def test_answers_are_written_again_as_they_were(
    again: EvaluateSettings, workspace: Workspace, saved: Path
) -> None:
    run(again)
    assert workspace.answers.read_bytes() == saved.read_bytes()
    stamp = json.loads(workspace.answers.with_suffix(".run.json").read_text())
    assert {name: stamp["results"][name] for name in ("n", "empty")} == {"n": 10, "empty": 0}
    assert stamp["inputs"]["answers"] == sha256_of(saved)
    assert stamp["protocol"]["base"] == "tiny"


def test_order_label_and_whereabouts_are_those_of_the_questions(
    again: EvaluateSettings, workspace: Workspace, saved: Path
) -> None:
    questions = read_questions(workspace.questions)[::-1]
    write_questions(workspace.questions, [replace(questions[0], category="REM"), *questions[1:]])
    workspace.epochs.write_text(workspace.epochs.read_text().replace(",S03,", ",S77,"))
    run(again)
    rows = rows_of(workspace.answers)
    assert [row["question_id"] for row in rows] == [q.sample_id for q in questions]
    assert rows[0]["label"] == "REM"
    assert {row["metadata"]["subject"] for row in rows} == {"S77"}
    told = {row["question_id"]: row["text"] for row in rows_of(saved)}
    assert all(row["text"] == told[row["question_id"]] for row in rows)


def test_rows_of_llava_are_read_too(
    again: EvaluateSettings, workspace: Workspace, saved: Path
) -> None:
    rows = rows_of(saved)
    for row in rows:
        row["metadata"] = {}
        row["label"] = ""
    saved.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(again)
    for row, question in zip(
        rows_of(workspace.answers), read_questions(workspace.questions), strict=True
    ):
        assert row["label"] == question.category
        assert row["metadata"]["subject"] == "S03"
        assert "stage_probabilities" not in row["metadata"]


@pytest.mark.parametrize("applied", [True, False])
def test_probabilities_are_made_anew(
    again: EvaluateSettings, workspace: Workspace, adapter: Path, saved: Path, applied: bool
) -> None:
    sha256 = rows_of(saved)[0]["metadata"]["adapter_sha256"]
    write_calibration(adapter, Calibration(2.5, "score", ("S03",), 9, 1, 1, 1, 1, sha256))
    run(replace(again, model_path=adapter, no_calibration=not applied))
    for row in rows_of(workspace.answers):
        expected = probabilities(scores_of(row["question_id"])[None], 2.5 if applied else 1.0)[0]
        told = row["metadata"]
        assert np.allclose(list(told["stage_probabilities"].values()), expected, atol=2e-6)
        assert told.get("calibrated_on", False) is applied


def test_decided_stages_are_taken_back_by_the_model_alone(
    again: EvaluateSettings, workspace: Workspace, adapter: Path, saved: Path
) -> None:
    sha256 = rows_of(saved)[0]["metadata"]["adapter_sha256"]
    towards = tuple(60.0 * (stage == "N3") for stage in STAGES)
    write_calibration(
        adapter, Calibration(1.0, "score", ("S09",), 9, 1, 1, 1, 1, sha256, offsets=towards)
    )
    rows = rows_of(saved)
    for row in rows:
        row["metadata"]["mode"] = "score"
        row["text"] = STAGES[int(scores_of(row["question_id"]).argmax())]
    saved.write_text("".join(json.dumps(row) + "\n" for row in rows))
    decided = workspace.root / "decided.jsonl"
    run(replace(again, model_path=adapter, answers_file=decided))
    assert {row["text"] for row in rows_of(decided)} == {"N3"}
    again = replace(again, answers_from=decided, no_calibration=True)
    with pytest.raises(EegToolError, match="decided by a calibration") as caught:
        run(again)
    assert "--model-path" in caught.value.fix
    run(replace(again, model_path=adapter))
    assert [row["text"] for row in rows_of(workspace.answers)] == [row["text"] for row in rows]


def test_questions_without_an_answer_are_listed(
    again: EvaluateSettings, workspace: Workspace, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = saved.read_bytes().splitlines(keepends=True)
    saved.write_bytes(b"".join(lines[:3] + lines[5:]))
    run(again)
    said = capsys.readouterr().out.replace("\n", " ")
    assert "2 of 10 questions have no answer" in said
    assert "S03E0-0003, S03E0-0004" in said
    assert len(rows_of(workspace.answers)) == 8


def test_a_file_may_be_written_onto_itself(again: EvaluateSettings, saved: Path) -> None:
    before, digest = saved.read_bytes(), sha256_of(saved)
    run(replace(again, answers_file=saved))
    assert saved.read_bytes() == before
    stamp = json.loads(saved.with_suffix(".run.json").read_text())
    assert stamp["inputs"]["answers"] == digest


def test_other_answers_are_overwritten_on_demand_only(
    again: EvaluateSettings, workspace: Workspace
) -> None:
    workspace.answers.parent.mkdir()
    workspace.answers.write_text("others")
    with pytest.raises(EegToolError, match="holds answers already"):
        run(again)
    assert workspace.answers.read_text() == "others"
    run(replace(again, overwrite=True))
    assert len(rows_of(workspace.answers)) == 10


def spoilt(rows: list[dict[str, Any]], name: str) -> None:
    match name:
        case "twice":
            rows.append(rows[0])
        case "stranger":
            rows[3]["question_id"] = "S99E0-0000"
        case "two models":
            rows[3]["metadata"]["adapter_sha256"] = "f" * 64
        case "no text":
            del rows[3]["text"]
        case "a stage less":
            del rows[3]["metadata"]["log_likelihoods"]["N2"]
        case "not a number" | "no float" | "text":
            odd = {"not a number": float("nan"), "no float": 10**400, "text": "-1.5"}
            rows[3]["metadata"]["log_likelihoods"]["N2"] = odd[name]
        case "deep":
            rows[3]["metadata"]["protocol"] = json.loads('{"a":' * 800 + "1" + "}" * 800)
        case "half a character":
            rows[3]["prompt"] += "\ud83d"
        case "nothing":
            rows.clear()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", "'S03E0-0000' occurs more than once"),
        ("stranger", r"1 of its answers are to no question .* \(S99E0-0000\)"),
        ("two models", "answers of several models: .* ffffffffffff"),
        ("no text", "line 4: 'text' is missing"),
        ("a stage less", "log-likelihoods of 'S03E0-0003' are not one number for each stage"),
        ("not a number", "log-likelihoods of 'S03E0-0003' are not one number for each stage"),
        ("no float", "log-likelihoods of 'S03E0-0003' are not one number for each stage"),
        ("text", "log-likelihoods of 'S03E0-0003' are not one number for each stage"),
        ("deep", "line 4: cannot be read: it is nested more than 100 deep"),
        ("half a character", "line 4: cannot be read: .* is half of a character"),
        ("nothing", "holds no answers"),
    ],
)
def test_what_is_not_one_runs_answers_is_refused(
    again: EvaluateSettings, workspace: Workspace, saved: Path, name: str, message: str
) -> None:
    rows = rows_of(saved)
    spoilt(rows, name)
    saved.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EegToolError, match=message):
        run(replace(again, no_calibration=True))
    assert not workspace.answers.exists()


def test_answers_of_another_model_than_the_one_given_are_refused(
    again: EvaluateSettings, workspace: Workspace, adapter: Path
) -> None:
    with (adapter / "projector.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(EegToolError, match="holds answers of another model"):
        run(replace(again, model_path=adapter))
    assert not workspace.answers.exists()


def test_a_file_that_is_not_there(again: EvaluateSettings, workspace: Workspace) -> None:
    with pytest.raises(EegToolError, match="does not exist"):
        run(replace(again, answers_from=workspace.root / "none.jsonl"))
