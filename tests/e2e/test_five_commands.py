from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.records import read_answers, read_conversations, read_epochs, read_questions
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace
from eegtool.model.adapters import read_contract
from tests.e2e.conftest import FINETUNE, Walk


def metrics(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "metrics.json").read_text())
    return found


def reported(walk: Walk, answers: Path) -> dict[str, Any]:
    out = answers.with_suffix("")
    walk.eegvlm("report", "--answers-file", str(answers), "--out", str(out))
    return metrics(out)


def sidecar_ids(features: Path) -> list[str]:
    ids: list[str] = json.loads(features.with_suffix(".json").read_text())["sample_ids"]
    return ids


def test_ids_are_equal_in_equal_order_from_table_to_answers(walk: Walk) -> None:
    workspace = Workspace(walk.root)
    epochs = read_epochs(workspace.epochs)
    ids = {side: [e.sample_id for e in epochs if e.split == side] for side in ("ft", "eval")}
    assert len(ids["ft"]) > 400
    assert len(ids["eval"]) > 200

    assert [row.sample_id for row in read_conversations(workspace.conversations)] == ids["ft"]
    assert sidecar_ids(workspace.features("ft")) == ids["ft"]
    assert [row.sample_id for row in read_questions(workspace.questions)] == ids["eval"]
    assert sidecar_ids(workspace.features("eval")) == ids["eval"]
    assert [row.question_id for row in read_answers(workspace.answers)] == ids["eval"]
    for side in ids:
        rows = np.load(workspace.features(side), allow_pickle=False)
        assert rows.shape == (len(ids[side]), 1, 1024)
        assert rows.dtype == np.float32
        assert np.isfinite(rows).all()


def test_the_adapter_knows_how_stages_follow_each_other(walk: Walk) -> None:
    """As they do in the nights that were trained on, and in no other."""
    workspace = Workspace(walk.root)
    told = read_contract(workspace.checkpoints / "real").sequence
    trained = [e for e in read_epochs(workspace.epochs) if e.split == "ft"]
    assert told["stages"] == [sum(e.stage == stage for e in trained) for stage in STAGES]
    pairs = Counter(
        (a.stage, b.stage)
        for a, b in pairwise(trained)
        if a.recording == b.recording and b.epoch_index == a.epoch_index + 1
    )
    assert told["transitions"] == [[pairs[a, b] for b in STAGES] for a in STAGES]
    assert pairs.total() > 400


def test_the_model_learnt_to_stage_subjects_it_never_saw(walk: Walk) -> None:
    found = metrics(walk.root / "report")
    assert found["kappa"] >= 0.4
    assert found["macro_f1"] >= 0.45
    assert found["protocol"]["simulated"] is True


@pytest.mark.usefixtures("warm")
def test_shuffled_features_teach_nothing(walk: Walk) -> None:
    """The same run but for the features: only through their right join can staging be learnt."""
    adapter, answers = walk.root / "checkpoints" / "shuffled", walk.root / "shuffled.jsonl"
    shuffled = ("--features", "shuffled")
    walk.eegvlm("finetune", *FINETUNE, "--output-dir", str(adapter), *shuffled)
    asked = ("--model-path", str(adapter), "--answers-file", str(answers))
    walk.eegvlm("evaluate", *asked, *shuffled)
    found = reported(walk, answers)
    assert found["features"] == "shuffled"
    assert found["kappa"] <= 0.15
    assert metrics(walk.root / "report")["kappa"] - found["kappa"] >= 0.3


def test_a_model_that_learnt_is_lost_with_shuffled_features(walk: Walk) -> None:
    answers = walk.root / "asked_shuffled.jsonl"
    asked = ("--model-path", str(walk.root / "checkpoints" / "real"), "--features", "shuffled")
    walk.eegvlm("evaluate", *asked, "--answers-file", str(answers))
    assert reported(walk, answers)["kappa"] <= 0.15


def test_a_picture_can_be_asked_about_without_its_workspace(walk: Walk) -> None:
    """The adapter carries the question, the answers and the vision module it was trained with."""
    workspace, adapter = Workspace(walk.root), walk.root / "checkpoints" / "real"
    row = read_answers(workspace.answers)[7]
    (image,) = workspace.images("eval").rglob(f"{row.question_id}.png")
    asked = ("ask", str(image), "--model-path", str(adapter), "--json")
    found = json.loads(walk.eegvlm(*asked, workspace=walk.root / "nowhere"))
    assert found["text"] == row.text
    assert found["prompt"] in row.prompt
    assert found["warnings"] == []
    assert max(found["stage_probabilities"].values()) > 0.2


def test_answers_of_another_run_are_not_mixed(walk: Walk) -> None:
    said = walk.eegvlm(
        *("evaluate", "--model-path", str(walk.root / "checkpoints" / "real")),
        *("--features", "zero"),
        code=1,
    )
    assert "--overwrite" in said


def test_every_step_left_its_stamp(walk: Walk) -> None:
    workspace = Workspace(walk.root)
    stamps = {
        "prepare": workspace.prepare_stamp,
        "extract": workspace.vision_module / "run.json",
        "finetune": workspace.checkpoints / "real" / "run.json",
        "evaluate": workspace.answers.with_suffix(".run.json"),
        "report": workspace.report / "report.json",
    }
    for step, path in stamps.items():
        stamp = json.loads(path.read_text())
        assert stamp["step"] == step
        assert stamp["status"] == "complete"
        assert stamp["protocol"]["channel"] == "EEG Fpz-Cz"
        assert all(len(digest) == 64 for digest in stamp["inputs"].values())
    assert not [p for p in walk.root.rglob("*") if p.name.endswith(".tmp")]
