"""The seam that vision-language models of transformers share, and what a family may have of its own.

Every such model encodes pictures in ``get_image_features``, and its ``forward`` takes what came out of that
as ``mm_encoder_outputs`` in the place of pixels. The fusion happens in between, so that positions, masks and
generation stay the family's own code. Whatever has this seam works by the defaults of this file, untried.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch

SEAM: Final = ("get_image_features", "mm_encoder_outputs", "logits_to_keep")
"""What a model must have: a method of its inner model, and two arguments of its ``forward``."""

GRID: Final = "image_grid_thw"
"""Rows, columns and frames of patches, of every image block: families with positions of three dimensions."""


def missing_seam(network: type, inner: type) -> list[str]:
    """Return what of the seam a model lacks.

    Parameters
    ----------
    network : type
        A class of transformers with a head that tells words.
    inner : type
        The class of the model below that head.
    """
    taken = inspect.signature(network.forward).parameters  # type: ignore[attr-defined]
    has = {SEAM[0]: hasattr(inner, SEAM[0])} | {name: name in taken for name in SEAM[1:]}
    return [name for name in SEAM if not has[name]]


@dataclass(frozen=True, eq=False)
class Family:
    """What tells one family of models from another; the defaults are those of the common seam.

    Attributes
    ----------
    name : str
        The ``model_type`` of its configuration.
    whole : mapping
        Arguments of its processor by which a picture stays one picture, and is not cut into tiles.
    is_tested : bool
        Whether the tests run a small model of it.
    """

    name: str
    whole: Mapping[str, Any] = field(default_factory=dict)
    is_tested: bool = True

    def pictures_for(self, n_blocks: int) -> int:
        """Return how many times its processor is given a picture to make the tower's input from.

        Once, however many blocks it fills; but a processor may treat the only picture of a conversation
        in another way than one of several. What it makes of the first one is taken.
        """
        return 1

    def first_picture(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what a processor made of the first of `pictures_for` pictures; batches join it along axis 0."""
        return inputs

    def block_inputs(
        self, inputs: dict[str, torch.Tensor], n_tokens: int, blocks: tuple[int, ...]
    ) -> dict[str, torch.Tensor]:
        """Return what ``forward`` must know of the image blocks beside their features: grids, for positions.

        Parameters
        ----------
        inputs : dict of str to Tensor
            Of the pictures, as the tower got them.
        n_tokens : int
            Tokens of a picture.
        blocks : tuple of int
            Tokens of each block of a sample: all of the picture's, or one.
        """
        if GRID not in inputs:
            return {}
        rows = []
        for grid in inputs[GRID]:
            merge = math.isqrt(int(grid.prod()) // n_tokens)
            one = grid.new_tensor([1, merge, merge])
            rows += [grid if n == n_tokens else one for n in blocks]
        return {GRID: torch.stack(rows)}
