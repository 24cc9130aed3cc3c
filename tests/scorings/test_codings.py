"""What numbers mean, on the 14 real nights, encoded in every way."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import mne
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import MOVEMENT, UNSCORED
from eegtool.scorings.codings import CODINGS, parse_codes, read_stages
from eegtool.scorings.scoring import ReadAs

FILES = sorted((Path(__file__).parents[1] / "data" / "sleep_edf_hypnograms").glob("*.edf"))
RK = dict(zip("W1234R", ["W", "N1", "N2", "N3", "S4", "REM"], strict=True))


def night_of(path: Path) -> list[str]:
    """Return R&K stages from half an hour before sleep to half an hour after it."""
    scored = mne.read_annotations(path)
    night: list[str] = []
    for duration_s, text in zip(scored.duration, scored.description, strict=True):
        if text[-1] in RK:
            night += [RK[text[-1]]] * round(duration_s / 30)
    asleep = [i for i, stage in enumerate(night) if stage != "W"]
    return night[max(asleep[0] - 60, 0) : asleep[-1] + 60]


NIGHTS = [night_of(path) for path in FILES]


def encoded(night: list[str], coding: str) -> list[str]:
    numbers = {stage: str(n) for n, stage in reversed([*CODINGS[coding].items()])}
    return [numbers.get(stage) or numbers["N3"] for stage in night]


def read(cells: list[str], read_as: ReadAs | None = None) -> tuple[list[str], tuple[str, ...]]:
    places = [f"line {i}" for i in range(1, len(cells) + 1)]
    return read_stages(Path("x.txt"), cells, places, [1.0] * len(cells), read_as or ReadAs())


def aasm(night: list[str]) -> list[str]:
    return ["N3" if stage == "S4" else stage for stage in night]


@pytest.mark.parametrize("coding", CODINGS)
def test_every_coding_is_told_in_every_real_night(coding: str) -> None:
    for night in NIGHTS:
        for part in (night, aasm(night)):
            stages, (note,) = read(encoded(part, coding))
            assert stages == aasm(part)
            assert note.startswith("Numbers are read as ")


@pytest.mark.parametrize("seed", range(6))
def test_what_cannot_be_told_is_never_read_wrongly(seed: int) -> None:
    """Short pieces, patients' nights: read as they are, or refused with the option."""
    rng = random.Random(seed)
    refused = 0
    for night in NIGHTS:
        at, length = rng.randrange(len(night) - 60), rng.choice([20, 60, 120, 300])
        piece = night[at : at + length]
        hurt = [rng.choice(["W", "N1"]) if rng.random() < 0.15 else stage for stage in night]
        for part in (piece, hurt, [s.replace("REM", "N2") for s in night]):
            for coding in CODINGS:
                with suppress(EegToolError):
                    refused += 1
                    assert read(encoded(part, coding))[0] == aasm(part)
                    refused -= 1
    assert 0 < refused < 3 * len(NIGHTS) * len(CODINGS) * 2 / 3


@pytest.mark.parametrize(
    "order", ["N3 N2 N1 REM W", "REM W N1 N2 N3", "N2 W REM N3 N1", "W N2 N1 N3 REM"]
)
def test_an_unknown_coding_is_refused(order: str) -> None:
    for night in NIGHTS:
        with pytest.raises(EegToolError, match=r"unknown coding|more than one way"):
            read([str(order.split().index(stage)) for stage in aasm(night)])


def test_words_decide_what_numbers_cannot_mean() -> None:
    night = [stage.replace("REM", "R") for stage in NIGHTS[0]]
    mixed = [
        "1 2 3 4".split()["N1 N2 N3 S4".split().index(s)] if s in RK.values() and s != "W" else s
        for s in night
    ]
    stages, _ = read(mixed)
    assert stages == aasm(NIGHTS[0])


def test_codes_that_are_told() -> None:
    read_as = ReadAs(codes=parse_codes("0=W, 10=N2,x = REM,L=?,8=MT"))
    assert read(["0", "10.0", "X", "l", "08", "N3"], read_as)[0] == [
        "W",
        "N2",
        "REM",
        UNSCORED,
        MOVEMENT,
        "N3",
    ]
    with pytest.raises(EegToolError, match="unknown stage in line 2: '1'"):
        read(["0", "1"], read_as)
    for text in ("0", "0=", "=W", "0=5", "0=Wakee"):
        with pytest.raises(EegToolError, match="does not say which stage"):
            parse_codes(text)
    assert parse_codes("") == ()


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ("0 12 13", "numbers of no coding that is known: 0, 12, 13"),
        ("0 0 1 2", r"\(0, 1, 2\) that may be read in more than one way"),
        ("0 2 5", r"\(0, 2, 5\) that may be read in more than one way"),
    ],
)
def test_few_numbers_are_refused(cells: str, what: str) -> None:
    with pytest.raises(EegToolError, match=what) as raised:
        read(cells.split())
    assert (
        "--stage-codes 0=W,1=N1" in raised.value.fix or "--stage-codes 0=W,2=N2" in raised.value.fix
    )
