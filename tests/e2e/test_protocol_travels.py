"""A published split, named once to prepare, is known to every later step, and one that is not whole is never taken for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.console import console
from eegtool.core.workspace import Workspace, read_json
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.options import EvaluateSettings
from eegtool.finetune import train
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.planning import make_plan
from eegtool.model.adapters import read_contract
from eegtool.prepare import step as prepare
from eegtool.prepare.options import PrepareSettings
from eegtool.report import step as report
from eegtool.report.options import ReportSettings
from tests.prepare.test_protocols import sleep_edf

PUBLISHED = "Published under the same protocol (sleep-edf-20)"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    console.quiet = True
    yield
    console.quiet = False


@pytest.fixture
def nights(recordings: Path, tmp_path: Path) -> Path:
    """The 39 nights of Sleep-EDF-20, each another patient's: ten epochs of one twin."""
    folder = tmp_path / "sleep-edfx"
    folder.mkdir()
    signals = (recordings / "SC4001E0-PSG.edf").read_bytes()
    scoring = (recordings / "SC4001EC-Hypnogram.edf").read_bytes()
    for psg, hypnogram in sleep_edf(20):
        (folder / psg).write_bytes(signals[:8] + psg[:6].encode() + signals[14:])
        (folder / hypnogram).write_bytes(scoring)
    return folder


def prepared(nights: Path, root: Path, **changes: Any) -> Workspace:
    settings: dict[str, Any] = {
        "size": 64,
        "pictures": "none",
        "protocol": "sleep-edf-20",
        "fold": 3,
    }
    prepare.run(PrepareSettings([nights], root, **(settings | changes)))
    return Workspace(root)


def trained(workspace: Workspace) -> Path:
    """Train for a step, without features."""
    adapter = workspace.checkpoints / "run"
    settings = FinetuneSettings(
        "tiny",
        workspace=workspace.root,
        output_dir=adapter,
        fusion="none",
        deepspeed="none",
        max_steps=1,
        per_device_train_batch_size=2,
        eval_strategy="no",
    )
    train.run(make_plan(settings, adapter))
    return adapter


def reported(adapter: Path, workspace: Workspace, **changes: Any) -> tuple[dict[str, Any], str]:
    """Return the protocol that each answer names, and the tables."""
    workspace.answers.unlink(missing_ok=True)
    evaluate.run(
        EvaluateSettings(adapter, workspace=workspace.root, mode="score", num_gpus=1, **changes)
    )
    rows = [json.loads(line) for line in workspace.answers.read_text().splitlines()]
    (protocol,) = {json.dumps(row["metadata"]["protocol"]) for row in rows}
    report.run(ReportSettings(workspace=workspace.root))
    return json.loads(protocol), (workspace.report / "tables.md").read_text()


def test_a_published_split_is_named_from_prepare_to_the_report(
    nights: Path, tiny: Path, tmp_path: Path
) -> None:
    whole = prepared(nights, tmp_path / "whole")
    stamped = read_json(whole.prepare_stamp)["protocol"]
    adapter = trained(whole)
    assert read_contract(adapter).protocol == stamped
    protocol, tables = reported(adapter, whole)
    assert protocol.items() >= stamped.items()
    assert (protocol["protocol"], protocol["protocol_differs"]) == ("sleep-edf-20", [])
    assert PUBLISHED in tables
    assert "DeepSleepNet" in tables

    _, tables = reported(adapter, whole, limit=5)  # a part of its epochs
    assert PUBLISHED not in tables

    for path in nights.glob("*-PSG.edf"):
        if path.name[:6] not in ("SC4001", "SC4031", "SC4041"):
            path.unlink()
    part = prepared(nights, tmp_path / "part", protocol_partial=True)
    for model in (adapter, trained(part)):
        protocol, tables = reported(model, part)
        assert "3 of 39 recordings" in protocol["protocol_differs"]
        assert PUBLISHED not in tables

    other = prepared(nights, tmp_path / "other", fold=4, protocol_partial=True)
    protocol, _ = reported(adapter, other)  # its subject was trained on
    assert "trained and evaluated on different splits" in protocol["protocol_differs"]
