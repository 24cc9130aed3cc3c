"""Sleep statistics of each night, scored and answered, and how far they are apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd
import yasa

from eegtool.core.parsing import finite
from eegtool.core.stages import EPOCH_S
from eegtool.report.reading.lights import Lights
from eegtool.report.reading.nights import Night

STATISTICS: Final = {
    "tib_min": ("Time in bed [min]", "lights off to lights on", "TIB"),
    "tst_min": ("Total sleep time [min]", "AASM", "TST"),
    "se_percent": ("Sleep efficiency [%]", "AASM: of time in bed", "SE"),
    "sol_min": ("Sleep onset latency [min]", "AASM: to the first epoch of sleep", "SOL"),
    "lps_min": ("Latency to persistent sleep [min]", "to 10 min of sleep without a break", ""),
    "spt_min": ("Sleep period [min]", "first to last epoch of sleep", "SPT"),
    "waso_min": ("Wake after sleep onset [min]", "within the sleep period, as yasa", "WASO"),
    "sme_percent": ("Sleep maintenance [%]", "sleep, of the sleep period", "SME"),
    "rem_latency_min": ("REM latency [min]", "AASM: from sleep onset", ""),
    "rem_latency_off_min": ("REM latency from lights off [min]", "yasa", "Lat_REM"),
    "n1_percent": ("N1 [% of sleep]", "AASM", "%N1"),
    "n2_percent": ("N2 [% of sleep]", "AASM", "%N2"),
    "n3_percent": ("N3 [% of sleep]", "AASM", "%N3"),
    "rem_percent": ("REM [% of sleep]", "AASM", "%REM"),
    "awakenings": ("Awakenings", "from sleep to wake", ""),
    "sfi": ("Awakenings [per h of sleep]", "fragmentation index of yasa", "SFI"),
    "stage_shifts": ("Stage shifts", "within the sleep period", ""),
    "cycles": ("NREM-REM cycles", "Feinberg & Floyd 1979", ""),
    "cycle_min": ("Length of a cycle [min]", "mean; Feinberg & Floyd 1979", ""),
}
"""Title; definition, or whose it is; name in yasa, where it computes it. AASM: Berry et al. 2020, AASM Manual 2.6,
"Sleep scoring data to be reported"; yasa: Vallat & Walker 2021; persistent sleep: 20 epochs of 30 s, as trials of
hypnotics define it; cycles: Feinberg & Floyd 1979, Psychophysiology 16:283-291."""

_PERSISTENT: Final = "10min"
_NREM: Final = ("N1", "N2", "N3")
_LEAST_NREM_MIN: Final = 15.0
_LEAST_REM_MIN: Final = 5.0
"""Feinberg & Floyd (1979): a NREM period has at least 15 min; a REM period at least 5 min, but for the first;
REM that less than 15 min interrupt is one period."""

Statistics = dict[str, float | None]
"""By the names of `STATISTICS`; None where it is not defined (no sleep, no REM)."""


@dataclass(frozen=True, slots=True)
class NightStatistics:
    """Statistics of one recording: scored (None without labels) and answered, from lights off to lights on."""

    recording: str
    subject: str
    true: Statistics | None
    predicted: Statistics
    lights: Lights | None = None


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


def night_statistics(
    nights: Sequence[Night], lights: Mapping[str, Lights] | None = None
) -> list[NightStatistics]:
    """Return the statistics of every night; both sides are about the same epochs.

    Where a night has labels, answers to unlabelled epochs do not count, so that scored and answered
    statistics are about the same time.
    """
    found = []
    for night in nights:
        own = (lights or {}).get(night.recording)
        said, true = night.predicted, None
        if night.labelled:
            said = tuple(p if t else None for t, p in zip(night.true, said, strict=True))
            true = statistics(in_bed(night.true, own, night.first_epoch))
        predicted = statistics(in_bed(said, own, night.first_epoch))
        found.append(NightStatistics(night.recording, night.subject, true, predicted, own))
    return found


def in_bed(
    stages: Sequence[str | None], lights: Lights | None, first_epoch: int = 0
) -> list[str | None]:
    """Return the stages from lights off to lights on, to the nearest epoch; time without any is None.

    Parameters
    ----------
    stages : sequence of (str or None)
        One per epoch, without gaps in time.
    lights : Lights or None
        None: the whole recording is time in bed.
    first_epoch : int
        Index of the first of them in the recording.
    """
    off_s, on_s = (lights.off_s, lights.on_s) if lights else (None, None)
    first = first_epoch if off_s is None else round(off_s / EPOCH_S)
    stop = first_epoch + len(stages) if on_s is None else round(on_s / EPOCH_S)
    before, after = max(0, first_epoch - first), max(0, stop - first_epoch - len(stages))
    inside = stages[max(0, first - first_epoch) : max(0, stop - first_epoch)]
    return [*[None] * before, *inside, *[None] * after]


def statistics(stages: Iterable[str | None]) -> Statistics:
    """Return the sleep statistics of a hypnogram, by yasa where it has them.

    Parameters
    ----------
    stages : iterable of (str or None)
        One per epoch, without gaps in time; None is unscored and counts neither as sleep nor as wake.
    """
    row = list(stages)
    hypnogram = yasa.Hypnogram([stage or "UNS" for stage in row], freq=f"{EPOCH_S}s")
    with np.errstate(all="ignore"):
        of_yasa = hypnogram.sleep_statistics()
    found = {name: finite(of_yasa.get(key)) for name, (_, _, key) in STATISTICS.items()}
    onset, rem = found["sol_min"], found["rem_latency_off_min"]
    found["rem_latency_min"] = None if onset is None or rem is None else rem - onset
    periods = hypnogram.consolidate_stages(2).find_periods(_PERSISTENT)
    asleep = periods[periods["values"] == "SLEEP"]["start"]
    found["lps_min"] = float(asleep.iloc[0]) * EPOCH_S / 60 if len(asleep) else None
    if onset is not None:
        shifts = [(a, b) for a, b in pairwise(_sleep_period(row)) if a and b and a != b]
        woken = sum(a not in (None, "W") and b == "W" for a, b in pairwise(row))
        lengths = [length * EPOCH_S / 60 for length in cycles(row)]
        found["stage_shifts"] = float(len(shifts))
        found["awakenings"] = float(woken)
        found["cycles"] = float(len(lengths))
        found["cycle_min"] = float(np.mean(lengths)) if lengths else None
    return found


def cycles(stages: Sequence[str | None]) -> list[int]:
    """Return the lengths in epochs of the NREM-REM cycles (Feinberg & Floyd 1979), each ended by its REM period.

    A cycle begins with NREM sleep, of which it has at least 15 min (wake within it does not count), and ends
    with the last epoch of its REM period. What follows the last REM period is not a cycle.
    """
    per_min = 60 / EPOCH_S
    rem = np.flatnonzero([stage == "REM" for stage in stages])
    breaks = np.flatnonzero(np.diff(rem) > _LEAST_NREM_MIN * per_min) + 1
    found: list[int] = []
    begin = 0
    for period in np.split(rem, breaks) if len(rem) else ():
        long_enough = len(period) >= _LEAST_REM_MIN * per_min or not found
        first, last = int(period[0]), int(period[-1])
        nrem = [i for i in range(begin, first) if stages[i] in _NREM]
        if long_enough and len(nrem) >= _LEAST_NREM_MIN * per_min:
            found.append(last + 1 - nrem[0])
            begin = last + 1
    return found


def deviations(nights: Sequence[NightStatistics]) -> dict[str, Deviation]:
    """Return bias and limits of agreement of each statistic over the nights that have labels."""
    labelled = [night for night in nights if night.true is not None]
    true = pd.DataFrame([night.true for night in labelled], columns=list(STATISTICS), dtype=float)
    gap = pd.DataFrame([night.predicted for night in labelled], dtype=float) - true
    found = {}
    for name in STATISTICS:
        defined = gap[name].dropna()
        if defined.empty:
            continue
        bias, spread = defined.mean(), defined.std()
        low, high = (finite(float(bias + k * spread)) for k in (-1.96, 1.96))
        mean = float(true.loc[defined.index, name].mean())
        found[name] = Deviation(len(defined), mean, float(bias), low, high)
    return found


def _sleep_period(stages: Sequence[str | None]) -> Sequence[str | None]:
    """Return the stages from the first to the last epoch of sleep."""
    asleep = [i for i, stage in enumerate(stages) if stage not in (None, "W")]
    return stages[asleep[0] : asleep[-1] + 1] if asleep else ()
