"""A model that answers at once, and what its rows look like."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.options import AnswerMode
from eegtool.core.records import Question
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace
from eegtool.evaluate.options import EvaluateSettings
from eegtool.inference import loaded as inference
from eegtool.inference.loaded import LoadedModel
from eegtool.inference.writing import Reply
from eegtool.model.adapters import adapter_sha256, load_adapter, read_contract

BATCH = 4


@pytest.fixture
def settings(workspace: Workspace, adapter: Path) -> EvaluateSettings:
    return EvaluateSettings(
        adapter,
        workspace=workspace.root,
        batch_size=str(BATCH),
        max_new_tokens=3,
        num_gpus=1,
    )


@pytest.fixture(scope="session")
def loaded() -> dict[Any, Any]:
    """Models by what decides them."""
    return {}


@pytest.fixture(autouse=True)
def _loaded_once(loaded: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep models: nothing that is asked of one changes it, and loading is most of a small run."""

    def load(folder: Path, **how: Any) -> tuple[Any, Any, Any]:
        contract = read_contract(folder)
        key = (adapter_sha256(folder), contract.fusion, contract.version, *map(str, how.items()))
        if key not in loaded:
            loaded[key] = load_adapter(folder, **how)
        model, processor, _ = loaded[key]
        return model, replace(processor, pixel_spec=contract.pixel_spec), contract

    monkeypatch.setattr(inference, "load_adapter", load)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that were asked, by a model that writes the id of each question."""
    sizes: list[int] = []

    def say(
        model: LoadedModel,
        questions: Sequence[Question],
        pixels: np.ndarray,
        features: np.ndarray,
        mode: AnswerMode,
        *_: Any,
    ) -> list[Reply]:
        assert len(questions) == len(pixels) == len(features)
        sizes.append(len(questions))
        if mode == "score":
            scores = [scores_of(q.sample_id) for q in questions]
            return [Reply(STAGES[int(some.argmax())], some) for some in scores]
        scored = mode == "both"
        return [
            Reply(f"{q.sample_id} µV\u2028 [/b]", scores_of(q.sample_id) if scored else None)
            for q in questions
        ]

    monkeypatch.setattr(LoadedModel, "reply", say)
    return sizes


def scores_of(sample_id: str) -> np.ndarray:
    """Return log-likelihoods that belong to an id."""
    return -np.random.default_rng(zlib.crc32(sample_id.encode())).exponential(size=5)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
