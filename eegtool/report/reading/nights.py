"""Answered epochs laid out in time, one recording at a time, with the gaps kept as gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eegtool.core.stages import EPOCH_S
from eegtool.report.reading.epochs import AnsweredEpoch

_MAX_DAYS: Final = 14
"""Longest recording laid out: an index beyond it is a slip, not sleep."""


@dataclass(frozen=True, slots=True)
class Night:
    """One recording from its first to its last answered epoch.

    Attributes
    ----------
    recording : str
        Its name, as the answers file has it.
    first_epoch : int
        Index in the recording of the first of the epochs below.
    epochs : tuple of (AnsweredEpoch or None), shape (n_epochs,)
        The epochs; None where one has no row.
    """

    recording: str
    first_epoch: int
    epochs: tuple[AnsweredEpoch | None, ...]

    @property
    def subject(self) -> str:
        """Name of the subject; of all, should the epochs differ in it."""
        return ", ".join(sorted({e.subject for e in self.epochs if e} - {""}))

    @property
    def true(self) -> tuple[str | None, ...]:
        """True stages; None where an epoch has no row or no label."""
        return tuple(e.true if e else None for e in self.epochs)

    @property
    def predicted(self) -> tuple[str | None, ...]:
        """Stages; None where an epoch has no row or no readable answer."""
        return tuple(e.predicted if e else None for e in self.epochs)

    @property
    def wrong(self) -> tuple[bool, ...]:
        """Labelled epochs that were not answered rightly, unreadable answers among them."""
        return tuple(e is not None and e.right is False for e in self.epochs)

    @property
    def labelled(self) -> int:
        """How many of the epochs have a label."""
        return sum(stage is not None for stage in self.true)

    @property
    def missing(self) -> int:
        """Epochs between the first and the last that have no answer."""
        return self.epochs.count(None)

    @property
    def has_probabilities(self) -> bool:
        """Whether any of the epochs has probabilities."""
        return any(e is not None and e.probabilities is not None for e in self.epochs)


@dataclass(frozen=True, slots=True)
class Absence:
    """A recording, or a whole file, that cannot be laid out in time, and why."""

    recording: str
    reason: str


def lay_out(epochs: Sequence[AnsweredEpoch]) -> tuple[list[Night], list[Absence]]:
    """Sort epochs into recordings and put each at its place in time.

    Parameters
    ----------
    epochs : sequence of AnsweredEpoch
        In any order.

    Returns
    -------
    nights : list of Night
        Sorted by name of the recording.
    absences : list of Absence
        What cannot be laid out. Epochs that name no recording or no index form one entry.
    """
    recordings: dict[str, list[AnsweredEpoch]] = {}
    for epoch in epochs:
        if epoch.epoch_index is not None and epoch.recording:
            recordings.setdefault(epoch.recording, []).append(epoch)
    nights, absences = [], []
    for recording, own in sorted(recordings.items()):
        places = {e.epoch_index or 0: e for e in own}
        first, last = min(places), max(places)
        if len(places) < len(own):
            absences.append(Absence(recording, "two answers claim the same epoch of it"))
        elif last * EPOCH_S >= _MAX_DAYS * 24 * 3600:
            absences.append(Absence(recording, f"its epoch indices go beyond {_MAX_DAYS} days"))
        else:
            row = tuple(places.get(i) for i in range(first, last + 1))
            nights.append(Night(recording, first, row))
    if adrift := len(epochs) - sum(map(len, recordings.values())):
        share = "the answers" if adrift == len(epochs) else f"{adrift:,} of the answers"
        reason = (
            f"{share} do not say in their metadata which recording and epoch_index they are from"
        )
        absences.append(Absence("", reason))
    return nights, absences
