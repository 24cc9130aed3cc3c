"""Answered epochs: what the report knows about each epoch once its answer has been read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from eegtool.core.answers import Reading
from eegtool.core.stages import STAGES

_SUM_TOLERANCE: Final = 0.02
"""By how much five probabilities may miss 1: two digits each, as others may write them."""


@dataclass(frozen=True, slots=True)
class AnsweredEpoch:
    """One epoch, its true stage and the stage read from the answer.

    Attributes
    ----------
    sample_id : str
        Id of the epoch.
    recording, subject : str
        Where it comes from; empty where the answers file does not say.
    epoch_index : int or None
        Index of the epoch in the whole recording, from 0; None where the file does not say.
    true : str or None
        True stage; None where it is not known.
    text : str
        The answer.
    reading : Reading
        What was read from `text`.
    onset_s : float or None
        Seconds from the first sample of the recording; None where the file does not say.
    night : int or None
        Number of the night of this subject, from 1; None where the file does not say.
    question : str
        What was asked.
    probabilities : tuple of float, shape (5,), or None
        Of the stages in the order of `STAGES`; None where the file has none.
    smoothed : str or None
        Stage in the likeliest sequence of the night; None where the file has none.
    """

    sample_id: str
    recording: str
    subject: str
    epoch_index: int | None
    true: str | None
    text: str
    reading: Reading
    onset_s: float | None = None
    night: int | None = None
    question: str = ""
    probabilities: tuple[float, ...] | None = None
    smoothed: str | None = None

    @property
    def predicted(self) -> str | None:
        """Stage read from the answer; None where it is unreadable."""
        return self.reading.stage

    @property
    def certainty(self) -> float | None:
        """Probability of the likeliest stage; None without probabilities."""
        return max(self.probabilities) if self.probabilities else None

    @property
    def right(self) -> bool | None:
        """Whether the answer is the true stage; None where that is not known."""
        return None if self.true is None else self.reading.stage == self.true


def probabilities_of(shares: Any) -> tuple[float, ...] | None:
    """Read the probabilities of the five stages.

    Parameters
    ----------
    shares : object
        ``metadata.stage_probabilities`` of an answer: one number for each stage, by name.

    Returns
    -------
    tuple of float, shape (5,)
        In the order of `STAGES`; None where there are none.

    Raises
    ------
    ValueError
        If a number is missing, not between 0 and 1, or their sum is not 1.
    """
    if shares is None:
        return None
    if not isinstance(shares, dict) or set(shares) != set(STAGES):
        raise ValueError("they are not one number for each stage")
    numbers = [shares[stage] for stage in STAGES]
    if any(isinstance(p, bool) or not isinstance(p, int | float) for p in numbers):
        raise ValueError("they are not numbers")
    if not all(0 <= p <= 1 for p in numbers):  # NaN is not, either
        raise ValueError("one is not between 0 and 1")
    if abs(sum(numbers) - 1) > _SUM_TOLERANCE:
        raise ValueError(f"their sum is {sum(numbers):.3g}")
    return tuple(float(p) for p in numbers)
