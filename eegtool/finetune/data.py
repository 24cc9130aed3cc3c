"""Samples of the fine-tune side as tensors: picture, tokens, labels and the epoch's own feature."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from eegtool.core.answers import read_stage
from eegtool.core.errors import EegToolError
from eegtool.core.records import Conversation, Question
from eegtool.extract.features import FeatureTable
from eegtool.model.checkpoints import AnyProcessor
from eegtool.model.processor import IGNORED, Encoded, Pixels, pad, picture_of
from eegtool.pictures.source import open_source


class FinetuneDataset(Dataset[dict[str, Any]]):
    """Conversations with their pictures, decoded or drawn when asked for, and their features, joined by id.

    The index ``~i`` gives sample i as a filler: without labels, so that nothing is learnt from it.

    The pictures of a batch are decoded by threads of this process. Processes of PyTorch's loader would be
    forked from one that has threads (of wandb, of DeepSpeed), and now and then such a fork stands still.
    """

    def __init__(
        self,
        rows: Sequence[Conversation],
        image_folder: Path,
        features: FeatureTable | None,
        processor: AnyProcessor,
        max_length: int,
        threads: int = 1,
        *,
        stage_share: float = 0.0,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None
        self.rows = rows
        self.pictures = open_source(image_folder)
        self.features = features
        self.processor = processor
        self.max_length = max_length
        self.stage_share = stage_share

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the samples of a batch; PyTorch's loader asks for them so."""
        decode = self._pool.map if self._pool else map
        pictures = decode(self._pixels, indices)
        return [self._item(i, pixels) for i, pixels in zip(indices, pictures, strict=True)]

    def _row(self, index: int) -> Conversation:
        return self.rows[~index if index < 0 else index]

    def _pixels(self, index: int) -> Pixels:
        return self.pixels(self._row(index))

    def pixels(self, row: Conversation | Question) -> Pixels:
        """Return the picture of a row as the input of the tower."""
        return self.processor.pixels(self.pictures.load(row.images[0]).rgb())

    def _item(self, index: int, pixels: Pixels) -> dict[str, Any]:
        row = self._row(index)
        encoded = encode(row, self.processor, self.max_length)
        item = {
            "input_ids": encoded.input_ids,
            "labels": (IGNORED,) * len(encoded.labels) if index < 0 else encoded.labels,
            "picture": pixels,
        }
        if self.stage_share:
            item["label_weights"] = label_weights(row, encoded, self.processor, self.stage_share)
        if self.features is not None:
            item["high_level_features"] = torch.from_numpy(self.features[row.sample_id])
        return item

    def lengths(self) -> list[int]:
        """Return the number of tokens of each sample, visual tokens included."""
        counted: dict[tuple[Any, ...], int] = {}  # most epochs share question and answer
        for row in self.rows:
            if row.text not in counted:
                counted[row.text] = len(encode(row, self.processor, self.max_length).input_ids)
        return [counted[row.text] for row in self.rows]


def trained_share(rows: Sequence[Conversation], processor: AnyProcessor, max_length: int) -> float:
    """Check every sample (see `encode`) and return the share of all tokens that carry a label."""
    counted: dict[tuple[Any, ...], tuple[int, int]] = {}  # most epochs share question and answer
    trained = total = 0
    for row in rows:
        picture_of(row.sample_id, row.images)
        if row.text not in counted:
            labels = encode(row, processor, max_length).labels
            counted[row.text] = (sum(label != IGNORED for label in labels), len(labels))
        trained += counted[row.text][0]
        total += counted[row.text][1]
    return trained / total


def encode(row: Conversation, processor: AnyProcessor, max_length: int) -> Encoded:
    """Tokenise one conversation.

    Raises
    ------
    EegToolError
        If it has not one picture twice, it is longer than `max_length`, or its answer is empty: the sample is named.
    """
    picture_of(row.sample_id, row.images)
    if not all(text.strip() for text in (row.answer, *(reply for _, reply in row.later))):
        raise EegToolError(f"Sample '{row.sample_id}' has an empty answer: nothing to train on.")
    encoded = processor.encode(row.question, len(row.images), row.answer, row.later, row.system)
    if len(encoded.input_ids) > max_length:
        raise EegToolError(
            f"Sample '{row.sample_id}' has {len(encoded.input_ids)} tokens, more than "
            f"--model-max-length {max_length}.",
            "Raise --model-max-length; nothing is cut silently.",
        )
    return encoded


def label_weights(
    row: Conversation, encoded: Encoded, processor: AnyProcessor, stage_share: float
) -> tuple[float, ...]:
    """Weigh the tokens of a sample, so that those which name the stage have a share of its loss.

    Parameters
    ----------
    row, encoded : Conversation, Encoded
        The sample, and its tokens.
    processor : Processor or FamilyProcessor
        What tokenised it.
    stage_share : float
        The share, between 0 and 1.

    Returns
    -------
    tuple of float
        One per token, 0 where there is no label; their sum is the number of labels. All labels count alike
        where no stage is read, or nothing but the stage is said.
    """
    n = len(encoded.labels)
    is_trained = [label != IGNORED for label in encoded.labels]
    n_trained = sum(is_trained)
    alike = tuple(map(float, is_trained))
    begin, end = read_stage(row.answer).span or (0, 0)
    if not row.answer[end:].strip(" .") and not row.answer[:begin].strip():
        return alike

    def n_read(text: str) -> int:
        """Return how many tokens of the sample are those of its answer up to there."""
        tokens = processor.encode(row.question, len(row.images), text, (), row.system).input_ids
        pairs = zip(tokens[:-1], encoded.input_ids, strict=False)  # without its end
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    first = n_read(row.answer[:begin].rstrip()) if begin else is_trained.index(True)
    last = n_read(row.answer[:end])
    n_named = last - first
    if not 0 < n_named < n_trained:
        return alike
    named = stage_share * n_trained / n_named
    others = (1 - stage_share) * n_trained / (n_trained - n_named)
    return tuple(
        (named if first <= i < last else others) if is_trained[i] else 0.0 for i in range(n)
    )


def collate(items: list[dict[str, Any]], processor: AnyProcessor) -> dict[str, torch.Tensor]:
    """Stack samples, padded on the right to the longest of the batch."""
    rows, pictures = ([item[name] for item in items] for name in ("input_ids", "picture"))
    batch = processor.inputs(rows, pictures, "right")
    batch["labels"] = pad([item["labels"] for item in items], IGNORED, "right")
    if "label_weights" in items[0]:
        batch["label_weights"] = torch.zeros(batch["labels"].shape)
        for weights, item in zip(batch["label_weights"], items, strict=True):
            weights[: len(item["label_weights"])] = torch.tensor(item["label_weights"])
    if "high_level_features" in items[0]:
        batch["high_level_features"] = torch.stack([i["high_level_features"] for i in items])
    return batch
