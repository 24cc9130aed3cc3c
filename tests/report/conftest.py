"""Builders of answers and answered epochs, with only what a test is about spelled out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.answers import Reading
from eegtool.core.records import Answer
from eegtool.report.measures.metrics import Metrics, measure
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.protocol import Run

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
