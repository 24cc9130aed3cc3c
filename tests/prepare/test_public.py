"""Public data sets: a recording and a scoring in their own forms, under their own names, as epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import edfio
import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S
from eegtool.prepare.nights import outline
from eegtool.prepare.options import PrepareSettings
from eegtool.prepare.step import recipe_of
from eegtool.scorings.cohorts import COHORTS, find_nights
from eegtool.scorings.scoring import ReadAs

START = datetime(2015, 6, 1, 22, 19, 6)
STAGES = ("W", "N1", "N2", "N3", "N2", "REM", "W")
RK = {"W": "W", "N1": "1", "N2": "2", "N3": "4", "REM": "R"}
DREAMS = {"W": "5", "N1": "3", "N2": "2", "N3": "1", "REM": "4"}
DURATION_S = len(STAGES) * EPOCH_S

Write = Callable[[Path], None]


def annotated(words: Sequence[str], length_s: float, *more: edfio.EdfAnnotation) -> Write:
    """Write EDF+ annotations, as MASS and HMC have them."""
    rows = [
        edfio.EdfAnnotation(i * length_s, length_s, f"Sleep stage {word}")
        for i, word in enumerate(words)
    ]
    return lambda path: edfio.Edf([], annotations=[*rows, *more], starttime=START.time()).write(
        path
    )


def hmc_text(path: Path) -> None:
    rows = ["Date, Time, Recording onset, Duration, Annotation, Linked channel"]
    rows.append("2015-06-01, 22:19:06, 0.000000, 0.000000, Lights off@@EEG F4-A1, EEG F4-A1")
    for i, stage in enumerate(STAGES):
        at = START + timedelta(seconds=i * EPOCH_S)
        word = stage.replace("REM", "R")
        rows.append(f"{at:%Y-%m-%d, %H:%M:%S}, {i * EPOCH_S}, 30.000000, Sleep stage {word}, ")
    path.write_text("\n".join(rows))


def cap_text(path: Path) -> None:
    """RemLogic's export: phases of the cyclic alternating pattern stand between the epochs."""
    head = "RemLogic Event Export\nPatient:\tX\nRecording Date:\t01/06/2015\n\nEvents included:\nSLEEP-S0\n\n"
    rows = ["Sleep Stage\tPosition\tTime [hh:mm:ss]\tEvent\tDuration[s]\tLocation"]
    for i, stage in enumerate(STAGES):
        at = START + timedelta(seconds=i * EPOCH_S)
        word = {"W": "S0", "REM": "REM"}.get(stage, f"S{RK[stage]}")
        mark = word.removeprefix("S").replace("0", "W") if stage != "REM" else "R"
        rows.append(f"{mark}\tSupine\t{at:%H:%M:%S}\tSLEEP-{word}\t30\tROC-LOC")
        if stage == "N2":
            later = at + timedelta(seconds=12)
            rows.append(f"{mark}\tSupine\t{later:%H:%M:%S}\tMCAP-A1\t6\tF4-C4")
    path.write_text(head + "\n".join(rows) + "\n")


def dreams_text(path: Path) -> None:
    steps = [DREAMS[stage] for stage in STAGES for _ in range(6)]
    steps[6:8] = ["5", "5"]  # two of six: N1 still fills most of that epoch
    path.write_text("[hypnogram]\n" + "\n".join(steps) + "\n")


# Every second epoch of 20 s lies in two epochs of 30 s, of which it fills a third each.
IN_20_S = "W W 1 2 2 4 4 2 2 R R".split()
BY_20_S = ("W", "N1", "N2", "N3", "N3", "N2", "REM")

CASES = [
    ("mass", "01-03-0001 PSG.edf", "01-03-0001 Base.edf", "EEG C4-CLE", annotated([RK[s] for s in STAGES], 30), STAGES),
    ("mass", "01-02-0001 PSG.edf", "01-02-0001 Base.edf", "EEG C4-LER", annotated(IN_20_S, 20), BY_20_S),
    ("hmc", "SN001.edf", "SN001_sleepscoring.edf", "EEG C4-M1", annotated([s.replace("REM", "R") for s in STAGES], 30, edfio.EdfAnnotation(0, None, "Lights off@@EEG F4-A1")), STAGES),
    ("hmc", "SN001.edf", "SN001_sleepscoring.txt", "EEG C4-M1", hmc_text, STAGES),
    ("cap", "n1.edf", "n1.txt", "C4-A1", cap_text, STAGES),
    ("dreams", "subject1.edf", "HypnogramAASM_subject1.txt", "CZ-A1", dreams_text, STAGES),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cohort", "signal", "scoring", "channel", "write", "stages"),
    CASES,
    ids=[f"{case[0]} {case[2]}" for case in CASES],
)
def test_a_night_of_a_public_data_set(
    tmp_path: Path,
    cohort: str,
    signal: str,
    scoring: str,
    channel: str,
    write: Write,
    stages: tuple[str, ...],
) -> None:
    data_uv = np.random.default_rng(1).standard_normal(DURATION_S * 100) * 20
    edfio.Edf(
        [edfio.EdfSignal(np.clip(data_uv, -199, 199), 100, label=channel, physical_dimension="uV", physical_range=(-200, 200))],
        starttime=START.time(),
    ).write(tmp_path / signal)  # fmt: skip
    write(tmp_path / scoring)
    assert channel in COHORTS[cohort].channels
    recipe = recipe_of(PrepareSettings([], channel=[channel]))
    (night,) = find_nights([tmp_path]).nights
    assert night.cohort == cohort
    plan = outline(night, recipe)
    assert plan.stages == stages
    scored_s = night.read_as.epoch_s
    assert any("a 30-s epoch has the stage" in note for note in plan.notes) == bool(scored_s)
    if scored_s:
        (night,) = find_nights([tmp_path], read_as=ReadAs(epoch_s=30.0)).nights
        with pytest.raises(EegToolError, match=r"30-s epochs|steps of 5 s would fit"):
            outline(night, recipe)
