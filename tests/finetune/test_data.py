from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eegtool.core.errors import EegToolError
from eegtool.core.records import Conversation, read_conversations
from eegtool.core.workspace import Workspace
from eegtool.extract.features import load_features
from eegtool.finetune.data import FinetuneDataset, collate, encode, label_weights, trained_share
from eegtool.model.checkpoints import load_processor
from eegtool.model.processor import IGNORED, Processor


@pytest.fixture(scope="module")
def processor(tiny: Path) -> Processor:
    return load_processor(tiny, fusion="add", version="v1")


@pytest.fixture
def rows(workspace: Workspace) -> list[Conversation]:
    return read_conversations(workspace.conversations)


def dataset_of(
    workspace: Workspace, rows: list[Conversation], processor: Processor, source: Any = "real"
) -> FinetuneDataset:
    ids = [row.sample_id for row in read_conversations(workspace.conversations)]
    features = load_features(workspace.features("ft"), ids, source=source)
    return FinetuneDataset(rows, workspace.images("ft"), features, processor, 4096)


def test_every_sample_has_the_feature_of_its_own_epoch(
    workspace: Workspace, rows: list[Conversation], processor: Processor
) -> None:
    """Whatever the order in which samples are drawn, the row is found by id."""
    in_file = np.load(workspace.features("ft"), allow_pickle=False)
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    dataset = dataset_of(workspace, [rows[i] for i in order], processor)
    for place, i in enumerate(order):
        item = dataset[place]
        np.testing.assert_array_equal(item["high_level_features"].numpy(), in_file[i])
        picture = workspace.images("ft") / rows[i].images[0]
        np.testing.assert_array_equal(
            item["picture"]["pixel_values"][0].numpy(), processor.pixel_spec.pixels(picture)
        )
        encoded = processor.encode(rows[i].question, 2, rows[i].answer)
        assert (item["input_ids"], item["labels"]) == (encoded.input_ids, encoded.labels)


def test_without_features_there_are_none(
    workspace: Workspace, rows: list[Conversation], processor: Processor
) -> None:
    dataset = FinetuneDataset(rows, workspace.images("ft"), None, processor, 4096)
    assert "high_level_features" not in dataset[0]
    batch = collate([dataset[0], dataset[1]], processor)
    assert sorted(batch) == ["input_ids", "labels", "pixel_values"]


def test_lengths_are_those_of_the_tokens(
    workspace: Workspace, rows: list[Conversation], processor: Processor
) -> None:
    """Visual tokens are among them, and words are not tokens."""
    answers = ("N2", "N2, for its spindles", "REM", "a very long answer with many words in it")
    told = [replace(row, answer=answer) for row, answer in zip(rows, answers, strict=False)]
    dataset = dataset_of(workspace, told, processor)
    counted = [len(dataset[i]["input_ids"]) for i in range(len(told))]
    assert len(set(counted)) > 2
    assert list(dataset.lengths()) == counted


def test_samples_are_padded_on_the_right(
    workspace: Workspace, rows: list[Conversation], processor: Processor
) -> None:
    rows = [replace(rows[0], answer="N2"), replace(rows[1], answer="N2, for its spindles")]
    items = [dataset_of(workspace, rows, processor)[i] for i in range(2)]
    short, long = (len(item["input_ids"]) for item in items)
    assert short < long
    batch = collate(items, processor)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, long)
    assert batch["input_ids"][0, :short].tolist() == list(items[0]["input_ids"])
    assert batch["input_ids"][0, short:].tolist() == [processor.pad_token_id] * (long - short)
    assert batch["labels"][0, short:].tolist() == [IGNORED] * (long - short)
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    assert torch.equal(batch["high_level_features"][1], items[1]["high_level_features"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": ("a.png", "b.png")}, r"\[a.png, b.png\], not one picture twice"),
        ({"images": ("a.png",)}, "not one picture twice"),
        ({"answer": " \n"}, "has an empty answer"),
        ({"question": "Which? " * 50}, "has [0-9]+ tokens, more than --model-max-length 90"),
    ],
)
def test_a_bad_sample_is_named(
    rows: list[Conversation], processor: Processor, change: dict[str, Any], message: str
) -> None:
    bad = replace(rows[7], **change)
    with pytest.raises(EegToolError, match=message) as caught:
        encode(bad, processor, 90)
    assert f"'{bad.sample_id}'" in caught.value.what
    with pytest.raises(EegToolError, match=message):
        trained_share([*rows[:7], bad, *rows[8:]], processor, 90)


def test_trained_share_is_counted(rows: list[Conversation], processor: Processor) -> None:
    rows = [replace(rows[0], answer="N2"), replace(rows[1], answer="N2"), rows[2]]
    labels = [processor.encode(row.question, 2, row.answer).labels for row in rows]
    trained = [label for own in labels for label in own if label != IGNORED]
    assert len(trained) == 6  # a stage and the end, each
    assert trained_share(rows, processor, 4096) == pytest.approx(6 / sum(map(len, labels)))


def test_a_missing_picture_is_an_error_of_the_user(
    workspace: Workspace, rows: list[Conversation], processor: Processor
) -> None:
    dataset = dataset_of(workspace, rows, processor)
    (workspace.images("ft") / rows[2].images[0]).unlink()
    with pytest.raises(
        EegToolError, match=f"{rows[2].images[0]} cannot be read: it does not exist"
    ):
        dataset[2]


@pytest.mark.parametrize("place", ["start", "end"])
def test_what_names_the_stage_has_its_share_of_the_loss(
    place: str, rows: list[Conversation], processor: Processor
) -> None:
    reasons, named = "Low-amplitude EEG, no N1 before. Spindles fit N2.1.", "The stage is N2."
    answer = f"{named} {reasons}" if place == "start" else f"{reasons} {named}"
    row = replace(rows[0], answer=answer)
    encoded = encode(row, processor, 4096)
    weights = np.array(label_weights(row, encoded, processor, 0.4))
    trained = np.array(encoded.labels) != IGNORED
    assert (weights[~trained] == 0).all()
    assert weights.sum() == pytest.approx(trained.sum())
    heavy = weights > weights[trained].min()
    tokens = [i for i, is_heavy in zip(encoded.input_ids, heavy, strict=True) if is_heavy]
    assert processor.tokenizer.decode(tokens) == " N2"
    assert weights[heavy].sum() == pytest.approx(0.4 * trained.sum())


@pytest.mark.parametrize("answer", ["N2", "The stage is unclear, as it has spindles.", "Wake."])
def test_without_reasons_or_a_stage_all_words_count_alike(
    answer: str, rows: list[Conversation], processor: Processor
) -> None:
    row = replace(rows[0], answer=answer)
    encoded = encode(row, processor, 4096)
    weights = label_weights(row, encoded, processor, 0.4)
    assert set(zip(weights, (label != IGNORED for label in encoded.labels), strict=True)) == {
        (0.0, False),
        (1.0, True),
    }


def test_weights_are_padded_with_their_labels(
    workspace: Workspace, rows: list[Conversation], processor: Processor
) -> None:
    chosen = [replace(rows[0], answer="The stage is N2. Spindles."), replace(rows[1], answer="N2")]
    dataset = FinetuneDataset(
        chosen, workspace.images("ft"), None, processor, 4096, stage_share=0.5
    )
    batch = collate([dataset[0], dataset[~1]], processor)
    assert batch["label_weights"].shape == batch["labels"].shape
    n_trained = (batch["labels"] != IGNORED).sum(dim=1)
    assert n_trained[1] == 0  # a filler
    assert batch["label_weights"][0].sum() == pytest.approx(int(n_trained[0]))
