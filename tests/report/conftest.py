"""Builders of answers and answered epochs, with only what a test is about spelled out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.answers import Reading
from eegtool.core.records import Answer
from eegtool.report.measures.findings import Findings
from eegtool.report.measures.metrics import Metrics, measure
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.joins import Known
from eegtool.report.reading.nights import lay_out
from eegtool.report.reading.protocol import Run
from eegtool.report.reading.sources import AnswerSet
from eegtool.report.showing.data import ReportData
from eegtool.report.showing.finding_tables import all_tables
from eegtool.report.showing.hypnogram import picture

PROTOCOL = {
    "channel": "EEG Fpz-Cz",
    "low_hz": 0.3,
    "high_hz": 35.0,
    "wake_margin_min": 30.0,
    "split": "by subject",
    "style": "spectrogram",
    "template": "stage",
    "fusion": "add",
    "base": "tiny",
}


STAMP = {
    "tool": "eegvlm 0.1.0",
    "finished": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.7", "numpy": "2.4.6"},
    "git_commit": None,
    "inputs": {"answers": "ab" * 32},
}


def data_of(
    metrics: Metrics, epochs: Sequence[AnsweredEpoch] = (), run: Run | None = None, **other: Any
) -> ReportData:
    """Return all that a page shows of these epochs, with each night drawn."""
    nights, absences = lay_out(epochs)
    answers = AnswerSet(Path("a.jsonl"), "a", run or Run("a", None, {}), tuple(epochs))
    fields: dict[str, Any] = {
        "answers": answers,
        "known": Known(),
        "metrics": metrics,
        "findings": Findings(),
        "tables": all_tables(metrics, Findings()),
        "nights": nights,
        "absences": absences,
        "drawings": [(night, picture(night).inline) for night in nights],
        "stamp": STAMP,
    }
    return ReportData(**fields | other)


@pytest.fixture
def answer() -> Callable[..., Answer]:
    def build(index: int, label: str, text: str, **metadata: Any) -> Answer:
        told = {
            "subject": "SC403",
            "recording": "SC4031E0",
            "night": 1,
            "epoch_index": index,
            "onset_s": 30.0 * index,
            "features": "real",
            "protocol": PROTOCOL,
        }
        return Answer(
            question_id=f"SC4031E0-{index:04d}",
            prompt="Which stage?",
            text=text,
            label=label,
            answer_id=f"a{index}",
            model_id="tiny-lora",
            metadata=told | metadata,
        )

    return build


@pytest.fixture
def epoch() -> Callable[..., AnsweredEpoch]:
    def build(index: int, true: str | None, predicted: str | None, **other: Any) -> AnsweredEpoch:
        fields: dict[str, Any] = {
            "sample_id": f"e{index}",
            "recording": "SC4031E0",
            "subject": "SC403",
            "text": "",
            "reading": Reading(predicted, None),
        }
        return AnsweredEpoch(
            epoch_index=index,
            true=true,
            **fields | other,
        )

    return build


@pytest.fixture
def metrics_of(epoch: Callable[..., AnsweredEpoch]) -> Callable[..., Metrics]:
    def build(
        pairs: Sequence[tuple[str | None, str | None]], run: Run | None = None, **other: Any
    ) -> Metrics:
        epochs = [epoch(i, true, predicted, **other) for i, (true, predicted) in enumerate(pairs)]
        return measure(epochs, run or Run("tiny-lora", "real", PROTOCOL))

    return build


@pytest.fixture
def write_answers(tmp_path: Path) -> Callable[[Sequence[Answer]], Path]:
    def write(answers: Sequence[Answer]) -> Path:
        path = tmp_path / "answers" / "eeg_answers.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(a.to_row()) + "\n" for a in answers), encoding="utf-8")
        return path

    return write
