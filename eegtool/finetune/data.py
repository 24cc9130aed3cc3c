"""Samples of the fine-tune side as tensors: picture, tokens, labels and the epoch's own feature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from eegtool.core.errors import EegToolError
from eegtool.core.records import Conversation
from eegtool.core.workspace import inside
from eegtool.extract.features import FeatureTable
from eegtool.model.processor import IGNORED, Encoded, Processor, pad, picture_of


class FinetuneDataset(Dataset[dict[str, Any]]):
    """Conversations with their pictures, decoded when asked for, and their features, joined by id.

    The index ``~i`` gives sample i as a filler: without labels, so that nothing is learnt from it.
    """

    def __init__(
        self,
        rows: Sequence[Conversation],
        image_folder: Path,
        features: FeatureTable | None,
        processor: Processor,
        max_length: int,
    ) -> None:
        self.rows = rows
        self.image_folder = image_folder
        self.features = features
        self.processor = processor
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        filler = index < 0
        row = self.rows[~index if filler else index]
        encoded = encode(row, self.processor, self.max_length)
        picture = inside(self.image_folder, row.images[0])
        item = {
            "input_ids": encoded.input_ids,
            "labels": (IGNORED,) * len(encoded.labels) if filler else encoded.labels,
            "pixel_values": torch.from_numpy(self.processor.pixel_spec.pixels(picture)),
        }
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


def trained_share(rows: Sequence[Conversation], processor: Processor, max_length: int) -> float:
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


def encode(row: Conversation, processor: Processor, max_length: int) -> Encoded:
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


def collate(items: list[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Stack samples, padded on the right to the longest of the batch.

    There is no attention mask: attention is causal, so no token sees the padding behind it, and
    without a mask it has faster kernels.
    """
    batch = {
        "input_ids": pad([item["input_ids"] for item in items], pad_id, "right"),
        "labels": pad([item["labels"] for item in items], IGNORED, "right"),
    }
    for name in ("pixel_values", "high_level_features"):
        if name in items[0]:
            batch[name] = torch.stack([item[name] for item in items])
    return batch
