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
    recording, subject : str
        Names, as the answers file has them.
    first_epoch : int
        Index in the recording of the first of the epochs below.
    true, predicted : tuple of (str or None), shape (n_epochs,)
        Stages; None where an epoch has no row, no label (`true`) or no readable answer (`predicted`).
    wrong : tuple of bool, shape (n_epochs,)
        Labelled epochs that were not answered rightly, unreadable answers among them.
    answered, labelled : int
        How many of the epochs have an answer, and how many of these a label.
    epochs : tuple of (AnsweredEpoch or None), shape (n_epochs,)
        The epochs themselves; None where one has no row.
    """

    recording: str
    subject: str
    first_epoch: int
    true: tuple[str | None, ...]
    predicted: tuple[str | None, ...]
    wrong: tuple[bool, ...]
    answered: int
    labelled: int
    epochs: tuple[AnsweredEpoch | None, ...] = ()

    @property
    def has_probabilities(self) -> bool:
        """Whether any of the epochs has probabilities."""
        return any(e is not None and e.probabilities is not None for e in self.epochs)

    @property
    def missing(self) -> int:
        """Epochs between the first and the last that have no answer."""
        return len(self.true) - self.answered


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
    recordings: dict[str, dict[int, AnsweredEpoch]] = {}
    adrift = 0
    doubled: set[str] = set()
    for epoch in epochs:
        if epoch.epoch_index is None or not epoch.recording:
            adrift += 1
            continue
        places = recordings.setdefault(epoch.recording, {})
        if epoch.epoch_index in places:
            doubled.add(epoch.recording)
        places[epoch.epoch_index] = epoch

    nights, absences = [], []
    for recording, places in sorted(recordings.items()):
        if recording in doubled:
            absences.append(Absence(recording, "two answers claim the same epoch of it"))
        elif max(places) * EPOCH_S >= _MAX_DAYS * 24 * 3600:
            absences.append(Absence(recording, f"its epoch indices go beyond {_MAX_DAYS} days"))
        else:
            nights.append(_night(recording, places))
    if adrift:
        share = "the answers" if adrift == len(epochs) else f"{adrift:,} of the answers"
        reason = (
            f"{share} do not say in their metadata which recording and epoch_index they are from"
        )
        absences.append(Absence("", reason))
    return nights, absences


def _night(recording: str, places: dict[int, AnsweredEpoch]) -> Night:
    first = min(places)
    row = [places.get(i) for i in range(first, max(places) + 1)]
    return Night(
        recording=recording,
        subject=", ".join(sorted({e.subject for e in places.values()} - {""})),
        first_epoch=first,
        true=tuple(e.true if e else None for e in row),
        predicted=tuple(e.predicted if e else None for e in row),
        wrong=tuple(e is not None and e.true is not None and e.true != e.predicted for e in row),
        answered=len(places),
        labelled=sum(e.true is not None for e in places.values()),
        epochs=tuple(row),
    )
