"""What the entries of a column of stages mean: words, and numbers judged by what sleep does.

A list of numbers does not say how it counts. Each coding in use makes another night of it, and of these all
but one are nights that nobody sleeps: REM within deep sleep, or sleep that begins in stage 4. Where that does
not tell, the file is refused, and the option named that decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.stages import (
    CODES,
    MOVEMENT,
    UNSCORED,
    code_in_column,
    is_misspelt,
    stage_in_column,
    stage_of,
)
from eegtool.scorings.scoring import ReadAs, refuse_word

_S4: Final = "S4"
"""Stage 4 of R&K: N3 in the end, but how one gets there and leaves tells codings apart."""

RK: Final = {**CODES, 4: _S4}
CODINGS: Final[Mapping[str, Mapping[int, str]]] = {
    "R&K, as Profusion, NSRR and ISRUC count": RK,
    "AASM, as yasa, Dreem and GSSC count": {
        **{0: "W", 1: "N1", 2: "N2", 3: "N3", 4: "REM", 5: MOVEMENT},
        **{-1: UNSCORED, -2: UNSCORED, 8: UNSCORED},  # BOAS has 8
    },
    "AASM from 1": {1: "W", 2: "N1", 3: "N2", 4: "N3", 5: "REM", -1: UNSCORED},
    "R&K from 1": {1: "W", 2: "N1", 3: "N2", 4: "N3", 5: _S4, 6: "REM", -1: UNSCORED},
    "from deep to awake, as DREAMS and CinC 2018 count": {
        **{0: _S4, 1: "N3", 2: "N2", 3: "N1", 4: "REM", 5: "W"},
        **{-1: MOVEMENT, -2: UNSCORED, -3: UNSCORED},
    },
    "REM first, as UCDDB counts": {
        **{0: "W", 1: "REM", 2: "N1", 3: "N2", 4: "N3", 5: _S4, 6: UNSCORED, 7: UNSCORED},
    },
    "as Deltamed counts": {1: "W", 2: "REM", 3: "N1", 4: "N2", 5: "N3"},
}

_STATES: Final = ("W", "N1", "N2", "N3", _S4, "REM", MOVEMENT, UNSCORED)
_FOLLOWED: Final = (
    (2132, 187, 7, 1, 0, 14),
    (74, 855, 308, 1, 0, 71),
    (76, 165, 5877, 256, 9, 84),
    (7, 10, 229, 757, 123, 1),
    (2, 5, 11, 113, 520, 0),
    (50, 86, 33, 0, 0, 2265),
)
"""How often the first six states follow each other within 30 s, in 14 nights of Sleep-EDF scored by R&K
(tests/data), wake cut to half an hour on both sides."""
_SURPRISE: Final = 0.02
"""Share of transitions that follow no rule: nights of patients."""
_BEGINS: Final = (0.9, 0.05, 0.02, 0.01, 0.005, 0.015, 1.0, 1.0)
"""How a scoring begins: nearly always awake."""
_ENTER, _STAY, _LEAVE = {MOVEMENT: 0.005, UNSCORED: 0.005}, {MOVEMENT: 0.2, UNSCORED: 0.5}, 0.2
"""Movement and unscored time: rare, short."""

_SHORT: Final = {MOVEMENT: "MT", UNSCORED: "?"}
_PLAINLY: Final = 8.0
"""Log-likelihood by which one reading must beat the next: of 3,800 encoded nights and parts of nights (those
14; halved, pieces of 10 min, disturbed, without REM) none was read wrongly, and every whole night was read."""
_UNKNOWN: Final = 2.0
"""... by which an assignment of stages that is no coding may beat it, before an unknown coding is assumed."""
_LEAST: Final = -1.8
"""Log-likelihood per epoch of the worst night: those 14 have -0.4, disturbed by 15 % -1.4, noise -2.5."""


def parse_codes(text: str) -> tuple[tuple[str, str], ...]:
    """Read what ``--stage-codes`` says, such as ``0=W,1=N1,2=N2,3=N3,4=REM``.

    Raises
    ------
    EegToolError
        If it is not that, or a stage is not known.
    """
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        code, _, word = part.partition("=")
        stage = stage_in_column(word) if code_in_column(word) is None else None
        if not code.strip() or stage is None:
            raise EegToolError(
                f"--stage-codes: '{part}' does not say which stage a code is.",
                "Write CODE=STAGE, separated by commas: 0=W,1=N1,2=N2,3=N3,4=REM; ? is unscored.",
            )
        pairs.append((fold_code(code), stage))
    return tuple(pairs)


def told_stage(text: str, read_as: ReadAs) -> str | None:
    """Return the stage that the user gave to a word or number, if any."""
    return dict(read_as.codes).get(fold_code(text))


def stage_of_event(path: Path, place: str, text: str, read_as: ReadAs) -> str:
    """Return the stage of an event or annotation; empty if it is about something else, unless that is misspelt."""
    stage = told_stage(text, read_as) or stage_of(text)
    if stage is None and is_misspelt(text):
        refuse_word(path, place, text)
    return stage or ""


def read_stages(
    path: Path,
    cells: Sequence[str],
    places: Sequence[str],
    n_epochs: Sequence[float],
    read_as: ReadAs,
) -> tuple[list[str], tuple[str, ...]]:
    """Translate a column that holds nothing but stages.

    Parameters
    ----------
    path : Path
        The file, for messages.
    cells, places : sequence of str
        Entries, and where each stands.
    n_epochs : sequence of float
        How many epochs each lasts.
    read_as : ReadAs
        Its codes decide; without them numbers are judged.

    Returns
    -------
    list of str
        Stage or dropped kind of each entry.
    tuple of str
        How numbers were read.

    Raises
    ------
    EegToolError
        If an entry is not known, or numbers can be read in more than one way.
    """
    stages: list[str | int] = []
    for cell, place in zip(cells, places, strict=True):
        code = code_in_column(cell)
        stage: str | int | None = told_stage(cell, read_as)
        if stage is None and (code is None or not read_as.codes):
            stage = stage_in_column(cell) if code is None else code
        if stage is None:
            refuse_word(path, place, cell)
        stages.append(stage)
    if all(isinstance(stage, str) for stage in stages):
        return [str(stage) for stage in stages], ()
    coding = _judge(path, stages, n_epochs)
    read = [_aasm(coding[s]) if isinstance(s, int) else s for s in stages]
    used = {code: _aasm(coding[code]) for code in sorted({s for s in stages if isinstance(s, int)})}
    return read, (f"Numbers are read as {_told(used)}.",)


def _judge(path: Path, stages: Sequence[str | int], n_epochs: Sequence[float]) -> Mapping[int, str]:
    """Return the one coding that makes a night of these numbers."""
    symbols = list(dict.fromkeys(stages))
    counts = _transitions([symbols.index(s) for s in stages], n_epochs, len(symbols))
    numbers = {s for s in symbols if isinstance(s, int)}
    words = {s for s in symbols if isinstance(s, str)}
    ranked: list[tuple[float, Mapping[int, str], np.ndarray]] = []
    for coding in CODINGS.values():
        if numbers <= coding.keys() and not words & {coding[n] for n in numbers} - {UNSCORED}:
            states = np.array(
                [_STATES.index(coding[s] if isinstance(s, int) else s) for s in symbols]
            )
            ranked.append((_likelihood(counts, states), coding, states))
    ranked.sort(key=lambda one: -one[0])
    listed = ", ".join(map(str, sorted(numbers)))
    if not ranked:
        raise _refusal(path, f"has numbers of no coding that is known: {listed}", ())
    best, coding, states = ranked[0]
    read = {n: _aasm(coding[n]) for n in numbers}
    others = [c for value, c, _ in ranked[1:] if best - value < _PLAINLY]
    rivals = [c for c in others if {n: _aasm(c[n]) for n in numbers} != read]
    if rivals:
        what = f"has numbers ({listed}) that may be read in more than one way"
        raise _refusal(path, what, [{n: _aasm(c[n]) for n in numbers} for c in (coding, *rivals)])
    named = {_STATES.index(word) for word in words}
    no_night = best < _LEAST * counts.sum()
    if no_night or _best_assignment(counts, states, named) - best > _UNKNOWN:
        what = f"has numbers ({listed}) that may be of an unknown coding: read as {_told(read)} they are no night"
        raise _refusal(path, what, [read])
    return coding


def _refusal(path: Path, what: str, readings: Sequence[Mapping[int, str]]) -> EegToolError:
    ways = dict.fromkeys(
        "--stage-codes " + ",".join(f"{n}={_SHORT.get(s, s)}" for n, s in sorted(r.items()))
        for r in readings
    )
    either = " or ".join(ways) or "--stage-codes 0=W,1=N1,..."
    return EegToolError(
        f"The hypnogram {path} {what}.",
        f"Say what its numbers mean: {either} (or a column stage_codes in pairs.csv).",
    )


def _transitions(indices: Sequence[int], n_epochs: Sequence[float], n_symbols: int) -> np.ndarray:
    """Count how often symbols follow each other epoch by epoch; the last row is the beginning."""
    counts = np.zeros((n_symbols + 1, n_symbols))
    counts[n_symbols, indices[0]] = 1
    lasting = Counter[int]()
    for i, n in zip(indices, n_epochs, strict=True):
        lasting[i] += max(round(n), 1) - 1
    np.add.at(counts, (np.array(indices[:-1], int), np.array(indices[1:], int)), 1)
    for i, n in lasting.items():
        counts[i, i] += n
    return counts


def _log_chances(*, with_stage_4: bool) -> np.ndarray:
    """Return the logarithms of all transitions; the last row is the beginning."""
    followed = np.array(_FOLLOWED, float)
    if not with_stage_4:
        followed[3] += followed[4]
        followed[:, 3] += followed[:, 4]
        followed[4] = followed[:, 4] = 0
        followed[4, 4] = 1
    n = len(followed)
    chances = np.full((len(_STATES) + 1, len(_STATES)), _LEAVE)
    rates = followed / followed.sum(axis=1, keepdims=True)
    chances[:n, :n] = (1 - _SURPRISE) * rates + _SURPRISE / n
    for i, state in enumerate(_STATES[n:], start=n):
        chances[: len(_STATES), i] = _ENTER[state]
        chances[i, i] = _STAY[state]
    chances[-1] = _BEGINS
    return np.log(chances)


_LOG_CHANCES: Final = {four: _log_chances(with_stage_4=four) for four in (False, True)}


def _likelihood(counts: np.ndarray, states: np.ndarray) -> float:
    logs = _LOG_CHANCES[_STATES.index(_S4) in states]
    return float((counts * logs[np.ix_(np.append(states, -1), states)]).sum())


def _best_assignment(counts: np.ndarray, states: np.ndarray, named: set[int]) -> float:
    """Return the likelihood of the best night that any assignment makes of the stages that are no words."""
    four = _STATES.index(_S4)
    able = [i for i in range(6) if i not in named and (i != four or four in states)]
    best = -np.inf
    for shuffled in permutations(able):
        other = np.arange(len(_STATES))
        other[able] = shuffled
        best = max(best, _likelihood(counts, other[states]))
    return best


def _aasm(stage: str) -> str:
    return "N3" if stage == _S4 else stage


def _told(reading: Mapping[int, str]) -> str:
    """Return ``"0 W, 1 N1, 2 N2, 3 and 4 N3, 5 REM"``."""
    codes: dict[str, list[str]] = {}
    for code, stage in sorted(reading.items()):
        codes.setdefault(stage, []).append(str(code))
    return ", ".join(f"{' and '.join(numbers)} {stage}" for stage, numbers in codes.items())


def fold_code(code: str) -> str:
    """Return the form in which codes are compared."""
    number = code_in_column(code)
    return "".join(code.split()).casefold() if number is None else str(number)
