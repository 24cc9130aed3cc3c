"""What the ranks run on: this machine as it is, or the machines of a plan that is made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eegtool.model.loading import best_dtype


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where a training runs.

    Attributes
    ----------
    gpu : bool
        Whether its ranks have GPUs.
    best : torch.dtype
        The precision for it where no flag says another.
    bf16 : bool
        Whether PyTorch computes in bfloat16 there, slowly or not.
    """

    gpu: bool
    best: torch.dtype
    bf16: bool = True

    @classmethod
    def here(cls) -> Hardware:
        """Look at this machine."""
        gpu = torch.cuda.is_available()
        return cls(gpu, best_dtype(), bf16=not gpu or torch.cuda.is_bf16_supported())

    @classmethod
    def elsewhere(cls) -> Hardware:
        """Assume GPUs of today, with bfloat16: what a head node that has none cannot look at."""
        return cls(gpu=True, best=torch.bfloat16)
