from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eegtool.core.records import Question, read_questions
from eegtool.core.workspace import Workspace
from eegtool.evaluate.generate import answer
from eegtool.extract.features import FeatureTable, load_features
from eegtool.model.adapters import load_adapter

NEW_TOKENS = 5


@pytest.fixture(scope="module")
def asked(adapter_model: Path) -> tuple[Any, Any]:
    """Model and processor."""
    peft_model, processor, _ = load_adapter(adapter_model, base=None, dtype=torch.float32)
    return peft_model.get_base_model(), processor


@pytest.fixture
def questions(workspace: Workspace) -> list[Question]:
    """Eight questions of very different length."""
    questions = read_questions(workspace.questions)[:8]
    return [replace(q, text=q.text + " In short?" * (i * 5 % 4)) for i, q in enumerate(questions)]


@pytest.fixture
def features(workspace: Workspace) -> FeatureTable:
    ids = [question.sample_id for question in read_questions(workspace.questions)]
    return load_features(workspace.features("eval"), ids)


@pytest.fixture
def alone(
    asked: tuple[Any, Any],
    questions: list[Question],
    features: FeatureTable,
    workspace: Workspace,
) -> list[str]:
    """Return the answer to each question by itself."""
    folder = workspace.images("eval")
    return [t for q in questions for t in answer(*asked, [q], folder, features, NEW_TOKENS)]


@pytest.mark.parametrize("size", [3, 8])
def test_a_batch_answers_as_each_question_alone(
    asked: tuple[Any, Any],
    questions: list[Question],
    features: FeatureTable,
    workspace: Workspace,
    alone: list[str],
    size: int,
) -> None:
    assert len(set(alone)) >= 6  # else nothing is compared
    lengths = {len(asked[1].encode_prompt(q.text, 2)) for q in questions}
    assert len(lengths) == 4
    folder = workspace.images("eval")
    texts: list[str] = []
    for start in range(0, len(questions), size):
        batch = questions[start : start + size]
        texts += answer(*asked, batch, folder, features, NEW_TOKENS)
    assert texts == alone


def test_answers_are_greedy(
    asked: tuple[Any, Any],
    questions: list[Question],
    features: FeatureTable,
    workspace: Workspace,
    alone: list[str],
) -> None:
    """Token by token, the likeliest of one forward pass over everything so far."""
    model, processor = asked
    for question, text in zip(questions[:3], alone, strict=False):
        ids = list(processor.encode_prompt(question.text, 2))
        picture = workspace.images("eval") / question.images[0]
        new: list[int] = []
        while len(new) < NEW_TOKENS and new[-1:] != [processor.tokenizer.eos_token_id]:
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([ids + new]),
                    pixel_values=torch.from_numpy(processor.pixel_spec.pixels(picture))[None],
                    high_level_features=torch.from_numpy(features[question.sample_id])[None],
                ).logits
            new.append(int(logits[0, -1].argmax()))
        assert processor.tokenizer.decode(new, skip_special_tokens=True).strip() == text


def test_the_feature_of_the_epoch_is_used(
    asked: tuple[Any, Any],
    questions: list[Question],
    features: FeatureTable,
    workspace: Workspace,
    alone: list[str],
) -> None:
    moved = replace(features, row_of={k: (v + 1) % 10 for k, v in features.row_of.items()})
    assert answer(*asked, questions, workspace.images("eval"), moved, NEW_TOKENS) != alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_say_nearly_the_same(
    adapter_model: Path,
    questions: list[Question],
    features: FeatureTable,
    workspace: Workspace,
    alone: list[str],
    dtype: torch.dtype,
) -> None:
    """On a GPU the model runs in 16 bits."""
    peft_model, processor, _ = load_adapter(adapter_model, base=None, dtype=dtype)
    model = peft_model.get_base_model()
    assert model.dtype == dtype
    texts = answer(model, processor, questions, workspace.images("eval"), features, 1)
    same = sum(whole.startswith(text) for text, whole in zip(texts, alone, strict=True))
    assert same >= 3  # drawn weights have near ties; by chance none would be the same


def test_the_length_is_limited(
    asked: tuple[Any, Any],
    questions: list[Question],
    features: FeatureTable,
    workspace: Workspace,
    alone: list[str],
) -> None:
    first = answer(*asked, questions, workspace.images("eval"), features, 1)
    assert all(whole.startswith(part) for part, whole in zip(first, alone, strict=True))
    assert max(map(len, alone)) > max(map(len, first))
