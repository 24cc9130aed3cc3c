"""Batched, greedy answers: left-padded, so that every row of a batch answers as it would alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from eegtool.core.records import Question
from eegtool.core.workspace import inside
from eegtool.extract.features import FeatureTable
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.processor import Processor, pad


@torch.inference_mode()
def answer(
    model: EEGVLM,
    processor: Processor,
    questions: Sequence[Question],
    image_folder: Path,
    features: FeatureTable | None,
    max_new_tokens: int,
) -> list[str]:
    """Answer a batch of questions.

    Parameters
    ----------
    model : EEGVLM
        The fine-tuned model.
    processor : Processor
        Its processor, with the template it was trained with.
    questions : sequence of Question
        The batch.
    image_folder : Path
        Folder of the pictures.
    features : FeatureTable or None
        High-level features by sample id; None if the fusion needs none.
    max_new_tokens : int
        Longest answer.

    Returns
    -------
    list of str
        One answer per question, special tokens removed, else as the model wrote it.
    """
    device = model.device
    prompts = [processor.encode_prompt(q.text, len(q.images)) for q in questions]
    pixels = [processor.pixel_spec.pixels(inside(image_folder, q.images[0])) for q in questions]
    tokenizer = processor.tokenizer
    rows = None
    if features is not None:
        rows = torch.from_numpy(np.stack([features[q.sample_id] for q in questions])).to(device)
    embedded = model.embed(
        pad(prompts, tokenizer.pad_token_id, "left").to(device),
        torch.from_numpy(np.stack(pixels)).to(device),
        rows,
    )
    new_tokens = model.generate(
        inputs_embeds=embedded,
        attention_mask=pad([[1] * len(p) for p in prompts], 0, "left").to(device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts: list[str] = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]
