"""Whether words and probabilities follow the signal: the same epochs with their slow waves or spindles taken out.

A model stages recordings twice: as they are, and with what makes a stage taken out of chosen epochs. Of those that the
model takes for the stage, every other one is chosen, so that each keeps its neighbours:

slow waves  In epochs of N3 with the slow waves that it takes, everything below 4 Hz is made as small as in light sleep.
spindles    In epochs of N2 with a spindle, the band of spindles, 11-16 Hz, is taken out.

The table says in how many of them the probability of the stage falls, and its mean before and after; and, of a model that
was taught reasons, in how many the claim goes that it had made.

    python scripts/bench/counterfactual.py --model ws/checkpoints/mine nights/SC405*-PSG.edf
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mne
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.signal import butter, sosfiltfilt

import eegtool
from eegtool.core.stages import EPOCH_S
from eegtool.reasons.claims import claims_in
from eegtool.reasons.facts import LOW_UV, Facts, measure

SLOW_HZ = 4.0
SPINDLE_HZ = (
    11.0,
    16.0,
)  # the band of the AASM Manual, wider than sigma: a spindle's flanks go, too
TAPER_S = 0.5
BAND_HZ = (0.3, 35.0)  # prepare's own, in which facts are measured


def less_slow(epoch_uv: np.ndarray, sfreq_hz: float, facts: Facts) -> np.ndarray:
    """Return what is to be taken away: so much below 4 Hz that the epoch has low amplitude."""
    slow = sosfiltfilt(butter(4, SLOW_HZ, "low", fs=sfreq_hz, output="sos"), epoch_uv)
    return np.asarray(slow * (1 - min(1.0, LOW_UV / 2 / max(facts.amplitude_uv, 1))))


def spindles(epoch_uv: np.ndarray, sfreq_hz: float, facts: Facts) -> np.ndarray:
    return np.asarray(
        sosfiltfilt(butter(4, SPINDLE_HZ, "band", fs=sfreq_hz, output="sos"), epoch_uv)
    )


@dataclass(frozen=True)
class Removal:
    """What is taken out of which epochs, and the claim that should go with it."""

    stage: str
    claim: str
    there: Callable[[Facts], bool]
    taken: Callable[[np.ndarray, float, Facts], np.ndarray]


REMOVALS = {
    "slow waves": Removal("N3", "enough_slow_waves", lambda f: f.enough_slow_waves, less_slow),
    "spindles": Removal("N2", "spindles", lambda f: f.n_spindles > 0, spindles),
}


@dataclass
class Outcome:
    """Probabilities of the stage before and after, and whether the claim was made, per epoch."""

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    claimed: list[bool] = field(default_factory=list)
    still: list[bool] = field(default_factory=list)


def changed(
    raw: mne.io.BaseRaw,
    channel: str,
    onsets_s: Sequence[float],
    facts: Sequence[Facts],
    removal: Removal,
) -> mne.io.BaseRaw:
    """Return a copy of a recording without something in some of its epochs."""
    copy = raw.copy()
    sfreq_hz = copy.info["sfreq"]
    width, edge = round(EPOCH_S * sfreq_hz), round(TAPER_S * sfreq_hz)
    taper = np.ones(width)
    taper[:edge] = np.linspace(0, 1, edge)
    taper[-edge:] = taper[:edge][::-1]
    row = copy.ch_names.index(channel)
    for onset_s, fact in zip(onsets_s, facts, strict=True):
        part = slice(round(onset_s * sfreq_hz), round(onset_s * sfreq_hz) + width)
        epoch_uv = copy._data[row, part] * 1e6
        copy._data[row, part] -= taper * removal.taken(epoch_uv, sfreq_hz, fact) * 1e-6
    return copy


def mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def claims(texts: Sequence[str], kind: str) -> list[bool]:
    return [any(c.kind == kind and c.present for c in claims_in(text)) for text in texts]


def measured(
    stager: eegtool.Stager, path: Path, channel: str, most: int, *, words: bool
) -> dict[str, Outcome]:
    """Stage one recording as it is and without each of `REMOVALS`, of at most so many epochs each."""
    raw = mne.io.read_raw_edf(path, include=[channel], preload=True, verbose="error")
    night = stager.stage(raw, channel)
    table = night.probabilities
    onsets_s = [float(onset_s) for onset_s in table.index]
    sfreq_hz = raw.info["sfreq"]
    filtered_uv = mne.filter.filter_data(
        raw.get_data()[0] * 1e6, sfreq_hz, *BAND_HZ, verbose="error"
    )
    facts = dict(zip(onsets_s, measure(filtered_uv, sfreq_hz, onsets_s), strict=True))
    found = {}
    for name, removal in REMOVALS.items():
        stage_of = table.idxmax(axis=1)
        fitting = [t for t in onsets_s if stage_of[t] == removal.stage and removal.there(facts[t])]
        chosen = fitting[::2][:most]
        other = stager.stage(
            changed(raw, channel, chosen, [facts[t] for t in chosen], removal), channel
        )
        outcome = Outcome(
            [float(table.loc[t, removal.stage]) for t in chosen],
            [float(other.probabilities.loc[t, removal.stage]) for t in chosen],
        )
        if words:
            places = [round(t / EPOCH_S) for t in chosen]
            outcome.claimed = claims(list(night.explain(places).values()), removal.claim)
            outcome.still = claims(list(other.explain(places).values()), removal.claim)
        found[name] = outcome
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path, nargs="+", help="EDF files")
    parser.add_argument("--model", type=Path, required=True, help="what finetune wrote")
    parser.add_argument("--channel", default="EEG Fpz-Cz")
    parser.add_argument(
        "--most", type=int, default=100, help="epochs of each kind, over all recordings"
    )
    parser.add_argument("--words", action="store_true", help="also read the model's reasons")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    stager = eegtool.Stager.load(options.model)
    total = {name: Outcome() for name in REMOVALS}
    for path in options.recordings:
        per_night = -(-options.most // len(options.recordings))
        for name, one in measured(
            stager, path, options.channel, per_night, words=options.words
        ).items():
            for part, values in vars(one).items():
                getattr(total[name], part).extend(values)
    table = Table(title=f"{options.model}, {len(options.recordings)} recordings")
    for column in (
        "taken out",
        "of",
        "epochs",
        "falls in",
        "P before",
        "P after",
        "claim made",
        "claim gone",
    ):
        table.add_column(column, justify="right")
    result = {}
    for name, one in total.items():
        before, after = np.array(one.before), np.array(one.after)
        made = np.array(one.claimed, bool)
        gone = ~np.array(one.still, bool)
        result[name] = {
            "epochs": len(before),
            "falls": mean(after < before),
            "before": mean(before),
            "after": mean(after),
            "claims": int(made.sum()),
            "gone": mean(gone[made]),
        }
        cells = [
            f"{v:.3f}" if isinstance(v, float) else "–" if v is None else str(v)
            for v in result[name].values()
        ]
        table.add_row(name, REMOVALS[name].stage, *cells)
    Console(width=120).print(table)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
