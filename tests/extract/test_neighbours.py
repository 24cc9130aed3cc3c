"""Epochs that are not staged serve as neighbours, where signals are stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eegtool.core.records import (
    Epoch,
    read_conversations,
    read_epochs,
    read_questions,
    write_conversations,
    write_epochs,
    write_questions,
)
from eegtool.core.workspace import Workspace
from eegtool.extract import step
from eegtool.extract.context import train_context
from eegtool.extract.features import load_features
from eegtool.extract.neighbours import neighbours
from eegtool.pictures.signals import quantise, read_signals, write_signals
from eegtool.pictures.source import Signals, open_signals
from tests.extract.test_step import settings_of


def signals_of(workspace: Workspace) -> Signals:
    found = open_signals(workspace.images("ft"))
    assert found is not None
    return found


def without(epochs: list[Epoch], *left_out: int) -> list[Epoch]:
    return [epoch for epoch in epochs if epoch.epoch_index not in left_out]


def test_what_is_near_and_not_staged_is_a_neighbour(stored: Workspace) -> None:
    whole = [e for e in read_epochs(stored.epochs) if e.recording == "S01E0"]
    staged = without(whole, 0, 1, 2, 5)
    found = neighbours(staged[::-1], signals_of(stored), reach=2)
    assert [e.sample_id for e in found] == ["S01E0-0001", "S01E0-0002", "S01E0-0005"]
    assert {e.stage for e in found} == {""}
    assert [e.onset_s for e in found] == [30.0, 60.0, 150.0]
    assert {(e.recording, e.subject, e.split) for e in found} == {("S01E0", "S01", "ft")}
    assert found[0].image == "S01E0/S01E0-0001.png"
    assert neighbours(whole, signals_of(stored), reach=9) == []


def test_what_holds_no_eeg_is_none(stored: Workspace) -> None:
    path = stored.signals / "S01E0.npy"
    night = read_signals(path, "S01E0")
    data_uv = np.array(night.channels[0].data_uv)
    data_uv[2 * 3000 : 3 * 3000] = 0.0
    sha256 = write_signals(path, quantise("S01E0", "", 0.0, [("EEG", data_uv, 100.0)]))
    signals = replace(signals_of(stored), sha256={"S01E0": sha256})
    staged = without([e for e in read_epochs(stored.epochs) if e.recording == "S01E0"], 2, 3)
    assert [e.epoch_index for e in neighbours(staged, signals, reach=2)] == [3]


def test_a_context_is_learnt_with_them(stored: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked at, teach no stage, and get no row."""
    staged = without(read_epochs(stored.epochs), 3)
    kept = {epoch.sample_id for epoch in staged}
    write_epochs(stored.epochs, staged)
    rows, asked = read_conversations(stored.conversations), read_questions(stored.questions)
    write_conversations(stored.conversations, [r for r in rows if r.sample_id in kept])
    write_questions(stored.questions, [q for q in asked if q.sample_id in kept])
    given: list[Epoch] = []
    usual, plan_of = train_context, step._context_plan

    def learn(plan: Any, epochs: list[Epoch], *others: Any) -> Any:
        given.extend(epochs)
        return usual(plan, epochs, *others)

    monkeypatch.setattr(step, "train_context", learn)
    few = {"steps": 2, "batch": 2, "length": 20}
    monkeypatch.setattr(step, "_context_plan", lambda side: replace(plan_of(side), **few))
    step.run(replace(settings_of(stored), context=2.0))
    only_seen = [e for e in given if not e.stage]
    assert {e.epoch_index for e in only_seen} == {3}
    ft = [e for e in staged if e.split == "ft"]
    assert {e.recording for e in only_seen} == {e.recording for e in ft}
    assert [e.sample_id for e in given[: len(ft)]] == [e.sample_id for e in ft]
    table = load_features(stored.features("ft"), [e.sample_id for e in ft])
    assert table[ft[-1].sample_id].shape == (1, 1024)
