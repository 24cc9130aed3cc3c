"""What all parts share: where they work, and how large everything is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes: of a GPU machine, or of a rehearsal on a CPU."""

    base: str
    """Size of the random base that stands for 13B (see `random_base`)."""
    epochs_per_stage: int
    """Of each simulated night."""
    picture: int
    extract_epochs: int
    steps: int
    """Of the tiny trainings."""
    stopped_steps: int
    """Of the one that is stopped; there is a checkpoint after a tenth of them."""
    large_steps: int
    large_batch: int
    ask_batches: tuple[int, int]
    matmul: int
    copy_bytes: int
    attention: tuple[int, int, int, int]
    """Batch, heads, tokens, width of a head."""


GPU = Scale(
    base="13b",
    epochs_per_stage=30,
    picture=336,
    extract_epochs=8,
    steps=10,
    stopped_steps=200,
    large_steps=7,
    large_batch=16,
    ask_batches=(32, 64),
    matmul=8192,
    copy_bytes=4 * 2**30,
    attention=(16, 40, 1195, 128),
)
REHEARSAL = Scale(
    base="tiny",
    epochs_per_stage=3,
    picture=64,
    extract_epochs=1,
    steps=10,
    stopped_steps=20,
    large_steps=3,
    large_batch=4,
    ask_batches=(2, 4),
    matmul=256,
    copy_bytes=2**20,
    attention=(1, 2, 64, 16),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a worker works."""

    work: Path
    rehearsal: bool

    @property
    def scale(self) -> Scale:
        return REHEARSAL if self.rehearsal else GPU

    @property
    def base(self) -> Path:
        """The random base; it has this name when it is whole."""
        return self.work / "base"

    @property
    def recordings(self) -> Path:
        return self.work / "recordings"

    @property
    def workspace(self) -> Path:
        return self.work / "workspace"

    def trained(self, name: str) -> Path:
        """Return the output folder of a training."""
        return self.work / "trained" / name

    def answers(self, mode: str) -> Path:
        return self.workspace / "answers" / f"{mode}.jsonl"
