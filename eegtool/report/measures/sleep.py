"""Sleep statistics of each night, scored and answered, and how far they are apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import yasa

from eegtool.core.stages import EPOCH_S
from eegtool.report.reading.nights import Night

STATISTICS: Final = {
    "tst_min": "Total sleep time [min]",
    "se_percent": "Sleep efficiency [%]",
    "sol_min": "Sleep onset latency [min]",
    "waso_min": "Wake after sleep onset [min]",
    "rem_latency_min": "REM latency [min]",
    "n1_percent": "N1 [% of sleep]",
    "n2_percent": "N2 [% of sleep]",
    "n3_percent": "N3 [% of sleep]",
    "rem_percent": "REM [% of sleep]",
}

_YASA: Final = {
    "tst_min": "TST",
    "se_percent": "SE",
    "sol_min": "SOL",
    "waso_min": "WASO",
    "n1_percent": "%N1",
    "n2_percent": "%N2",
    "n3_percent": "%N3",
    "rem_percent": "%REM",
}

Statistics = dict[str, float | None]
"""By the names of `STATISTICS`; None where it is not defined (no sleep, no REM)."""


@dataclass(frozen=True, slots=True)
class NightStatistics:
    """Statistics of one recording: scored (None without labels) and answered."""

    recording: str
    subject: str
    true: Statistics | None
    predicted: Statistics


@dataclass(frozen=True, slots=True)
class Deviation:
    """Answered less scored, over nights (Bland & Altman 1986, Lancet 327:307-310).

    Attributes
    ----------
    nights : int
        In which both are defined.
    true_mean : float
        Mean of the scored values.
    bias : float
        Mean difference.
    low, high : float or None
        Limits of agreement, bias ± 1.96 standard deviations; None with one night.
    """

    nights: int
    true_mean: float
    bias: float
    low: float | None
    high: float | None


def night_statistics(nights: Sequence[Night]) -> list[NightStatistics]:
    """Return the statistics of every night; both sides are about the same epochs.

    Where a night has labels, answers to unlabelled epochs do not count, so that scored and answered
    statistics are about the same time.
    """
    return [
        NightStatistics(
            night.recording,
            night.subject,
            statistics(night.true) if night.labelled else None,
            statistics(
                [p if t or not night.labelled else None for t, p in zip(night.true, night.predicted, strict=True)]
            ),
        )
        for night in nights
    ]  # fmt: skip


def statistics(stages: Iterable[str | None]) -> Statistics:
    """Return the sleep statistics of a hypnogram, by yasa.

    Parameters
    ----------
    stages : iterable of (str or None)
        One per epoch, without gaps in time; None is unscored and counts neither as sleep nor as wake.

    Returns
    -------
    dict of str to (float or None)
        REM latency is that of the AASM Manual, from sleep onset to the first epoch of REM.
    """
    hypnogram = yasa.Hypnogram([stage or "UNS" for stage in stages], freq=f"{EPOCH_S}s")
    with np.errstate(all="ignore"):
        told = hypnogram.sleep_statistics()
    found = {name: _number(told.get(key)) for name, key in _YASA.items()}
    onset, rem = _number(told.get("SOL")), _number(told.get("Lat_REM"))
    found["rem_latency_min"] = None if onset is None or rem is None else rem - onset
    return {name: found[name] for name in STATISTICS}


def deviations(nights: Sequence[NightStatistics]) -> dict[str, Deviation]:
    """Return bias and limits of agreement of each statistic over the nights that have labels."""
    found = {}
    for name in STATISTICS:
        pairs = [
            (true, said)
            for night in nights
            if night.true is not None
            and (true := night.true[name]) is not None
            and (said := night.predicted[name]) is not None
        ]
        if not pairs:
            continue
        true, said = np.array(pairs, np.float64).T
        bias = float((said - true).mean())
        reach = 1.96 * float((said - true).std(ddof=1)) if len(pairs) > 1 else None
        found[name] = Deviation(
            nights=len(pairs),
            true_mean=float(true.mean()),
            bias=bias,
            low=None if reach is None else bias - reach,
            high=None if reach is None else bias + reach,
        )
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
