from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import edfio
import numpy as np
import pandas as pd
import pytest
import yasa

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.report.measures.metrics import agreement, counts_of
from eegtool.report.measures.sleep import (
    STATISTICS,
    cycles,
    deviations,
    in_bed,
    night_statistics,
    statistics,
)
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.lights import Lights, Span, read_lights
from eegtool.report.reading.nights import Night, lay_out
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch

NightOf = Callable[..., Night]
CYCLES = 4


@pytest.fixture
def night_of(epoch: Callable[..., AnsweredEpoch]) -> NightOf:
    def build(true: list[str | None], said: list[str | None], name: str = "A") -> Night:
        pairs = zip(true, said, strict=True)
        (night,), _ = lay_out([epoch(i, t, p, recording=name) for i, (t, p) in enumerate(pairs)])
        return night

    return build


def test_hand_worked_night() -> None:
    # 4 min wake, 2 min N1, 10 min N2, 1 min wake, 3 min REM, 4 min N3, 6 min wake: 30 min in all.
    stages = (
        ["W"] * 8 + ["N1"] * 4 + ["N2"] * 20 + ["W"] * 2 + ["REM"] * 6 + ["N3"] * 8 + ["W"] * 12
    )
    s = statistics(stages)
    assert list(s) == list(STATISTICS)
    assert s["tst_min"] == 19
    assert s["sol_min"] == 4
    assert s["waso_min"] == 1  # yasa counts wake within the sleep period
    assert s["rem_latency_min"] == 13  # from sleep onset
    assert s["se_percent"] == pytest.approx(100 * 19 / 30, abs=1e-3)
    assert s["n2_percent"] == pytest.approx(100 * 10 / 19, abs=1e-3)


def test_equals_yasa_called_directly() -> None:
    stages = np.random.default_rng(2).choice(STAGES, 300)
    direct = yasa.Hypnogram(list(stages), freq="30s").sleep_statistics()
    s = statistics(list(stages))
    for name, key in (("tst_min", "TST"), ("waso_min", "WASO"), ("rem_percent", "%REM")):
        assert s[name] == pytest.approx(direct[key], abs=1e-9)
    assert s["rem_latency_min"] == pytest.approx(direct["Lat_REM"] - direct["SOL"], abs=1e-9)


def test_what_is_not_there_is_none() -> None:
    awake = statistics(["W"] * 20)
    assert (awake["tst_min"], awake["sol_min"], awake["rem_latency_min"]) == (0, None, None)
    assert statistics([None] * 4)["sol_min"] is None


def test_both_sides_are_about_the_same_epochs(night_of: NightOf) -> None:
    night = night_of(["N2"] * 6 + [None] * 4, ["N2"] * 5 + [None] + ["N2"] * 4)
    (one,) = night_statistics([night])
    assert one.true is not None
    assert (one.true["tst_min"], one.predicted["tst_min"]) == (3.0, 2.5)
    (unlabelled,) = night_statistics([night_of([None] * 4, ["N2"] * 4)])
    assert unlabelled.true is None
    assert unlabelled.predicted["tst_min"] == 2.0
    assert deviations([unlabelled]) == {}


def test_bias_and_limits_of_agreement(night_of: NightOf) -> None:
    gains = (0, 2, 4)  # epochs of wake called sleep
    nights = [
        night_of(["W"] * 10 + ["N2"] * 20, ["W"] * (10 - g) + ["N2"] * (20 + g), f"R{g}")
        for g in gains
    ]
    d = deviations(night_statistics(nights))["tst_min"]
    assert (d.nights, d.true_mean, d.bias) == (3, 10.0, 1.0)
    assert d.low is not None
    assert d.high is not None
    assert (d.low, d.high) == pytest.approx((1 - 1.96, 1 + 1.96))  # differences 0, 1, 2: sd 1
    alone = deviations(night_statistics(nights[:1]))["tst_min"]
    assert (alone.bias, alone.low) == (0.0, None)
    assert "rem_latency_min" not in deviations(night_statistics(nights))


HERE = Path(__file__).parents[1] / "data" / "sleep_edf_hypnograms"


def test_time_in_bed_is_from_lights_off_to_lights_on(night_of: NightOf) -> None:
    # 10 min wake, lights off after 5; 20 min N2, 5 min REM; 10 min wake, lights on 4 min into it.
    stages = ["W"] * 20 + ["N2"] * 40 + ["REM"] * 10 + ["W"] * 20
    lights = Lights(off_s=300.0, on_s=2340.0)
    s = statistics(in_bed(stages, lights))
    assert (s["tib_min"], s["tst_min"], s["sol_min"]) == (34, 25, 5)
    assert s["se_percent"] == pytest.approx(100 * 25 / 34, abs=1e-3)
    assert (s["rem_latency_min"], s["rem_latency_off_min"]) == (20, 25)
    whole = statistics(in_bed(stages, None))
    assert (whole["tib_min"], whole["tst_min"], whole["sol_min"]) == (45, 25, 10)
    # Only epochs 20 to 79 were answered: the time before them is in bed, and not scored.
    part = in_bed(stages[20:80], lights, first_epoch=20)
    assert part == [None] * 10 + stages[20:78]
    assert statistics(part)["sol_min"] == 5
    night = night_of(list(stages), list(stages), "A")
    (of,) = night_statistics([night], {"A": lights})
    assert of.true == of.predicted == s
    assert of.lights == lights


def test_latency_to_persistent_sleep_shifts_and_awakenings() -> None:
    stages = ["W"] * 4 + ["N1"] * 6 + ["W"] * 2 + ["N2"] * 19 + ["W"] + ["N2"] * 10 + ["REM"] * 10
    s = statistics(stages)
    assert (s["sol_min"], s["lps_min"]) == (2, 16)  # 19 epochs are not 10 min, 10 + 10 are
    assert (s["stage_shifts"], s["awakenings"]) == (5, 2)
    asleep = sum(stage != "W" for stage in stages) / 120
    assert s["sfi"] == pytest.approx(2 / asleep, abs=1e-3)
    assert statistics(["W"] * 10 + ["N2"] * 19)["lps_min"] is None


@pytest.mark.parametrize(
    ("runs", "lengths"),
    [
        ([("N2", 40), ("REM", 4), ("N2", 40), ("REM", 12)], [44, 52]),  # the first may be short
        ([("N2", 40), ("REM", 12), ("N2", 40), ("REM", 8)], [52]),  # 4 min: no REM period
        ([("N2", 40), ("REM", 12), ("W", 20), ("REM", 12), ("N2", 30), ("REM", 10)], [84, 40]),
        ([("N2", 29), ("REM", 12), ("N2", 31), ("REM", 10)], [82]),  # less than 15 min of NREM
        ([("W", 10), ("N1", 5), ("W", 5), ("N3", 30), ("REM", 10), ("N2", 60)], [50]),
        ([("REM", 20), ("N2", 40)], []),
        ([("W", 5)], []),
    ],
)
def test_cycles_of_feinberg_and_floyd(runs: list[tuple[str, int]], lengths: list[int]) -> None:
    assert cycles([stage for stage, n in runs for _ in range(n)]) == lengths


def test_a_real_night_by_hand_with_and_without_lights_off() -> None:
    path = HERE / "SC4001EC-Hypnogram.edf"
    hypnogram = read_hypnogram(path, None)
    stages = [s if s in STAGES else None for s in stage_per_epoch(hypnogram, 2650)]
    asleep = [i for i, s in enumerate(stages) if s not in (None, "W")]
    whole = statistics(stages)
    assert whole["tib_min"] == 1325
    assert whole["tst_min"] == len(asleep) / 2
    assert whole["sol_min"] == asleep[0] / 2
    off = asleep[0] - 12
    lit = statistics(in_bed(stages, Lights(30.0 * off, 30.0 * (asleep[-1] + 21))))
    assert (lit["tst_min"], lit["sol_min"]) == (whole["tst_min"], 6)
    assert lit["tib_min"] == (asleep[-1] + 21 - off) / 2
    assert lit["se_percent"] == pytest.approx(100 * len(asleep) / (asleep[-1] + 21 - off), abs=1e-3)
    for same in ("waso_min", "rem_latency_min", "stage_shifts", "cycles", "n3_percent"):
        assert lit[same] == whole[same]
    assert whole["cycles"] == CYCLES


def test_deviations_equal_yasas(night_of: NightOf) -> None:
    rng = np.random.default_rng(5)
    rows = [list(rng.choice(STAGES, 200, p=[0.2, 0.1, 0.4, 0.2, 0.1])) for _ in range(6)]
    said = [[s if rng.random() < 0.8 else "N2" for s in row] for row in rows]
    found = deviations(
        night_statistics(
            [night_of(t, p, f"R{i}") for i, (t, p) in enumerate(zip(rows, said, strict=True))]
        )
    )
    made = [
        [yasa.Hypnogram(r, freq="30s", scorer=who) for r in side]
        for who, side in (("human", rows), ("model", said))
    ]
    tables = [pd.DataFrame([h.sleep_statistics() for h in side]) for side in made]
    change = tables[1] - tables[0]
    for name, key in (("tst_min", "TST"), ("waso_min", "WASO"), ("n2_percent", "%N2")):
        assert found[name].bias == pytest.approx(change[key].mean(), abs=1e-9)
        assert found[name].high == pytest.approx(
            change[key].mean() + 1.96 * change[key].std(), abs=1e-9
        )
    subjects = [str(i) for i in range(6)]
    ebe = yasa.EpochByEpochAgreement(
        dict(zip(subjects, made[0], strict=True)), dict(zip(subjects, made[1], strict=True))
    ).get_agreement()
    for i, (t, p) in enumerate(zip(rows, said, strict=True)):
        ours = agreement(
            counts_of(
                np.array([STAGES.index(a) * 6 + STAGES.index(b) for a, b in zip(t, p, strict=True)])
            )
        )
        theirs = ebe.iloc[i]
        assert theirs["accuracy"] in (
            pytest.approx(ours.accuracy, abs=1e-9),
            pytest.approx(100 * (ours.accuracy or 0), abs=1e-9),
        )
        assert theirs["kappa"] == pytest.approx(ours.kappa, abs=1e-9)
        assert theirs["mcc"] == pytest.approx(ours.mcc, abs=1e-9)


SPAN = {"A": Span(datetime(2024, 5, 1, 22, 0), 0.0, 28_800.0)}


def test_lights_are_read_from_options_tables_and_annotations(tmp_path: Path) -> None:
    assert read_lights(SPAN, "", "", []) == {}
    assert read_lights(SPAN, "600", "", []) == {"A": Lights(600.0, None)}
    assert read_lights(SPAN, "22:45:00", "05:30:00", []) == {"A": Lights(2700.0, 27_000.0)}
    assert read_lights(SPAN, "", "2024-05-02T05:30:00", []) == {"A": Lights(None, 27_000.0)}
    table = tmp_path / "lights.csv"
    table.write_text("Recording;Lights off;Lights-on\nA;23:00:00;\nB;1;2\n")
    assert read_lights(SPAN, "600", "", [table]) == {"A": Lights(3600.0, None)}
    edf = tmp_path / "A-PSG.edf"
    marks = [
        edfio.EdfAnnotation(t, None, x)
        for t, x in ((90, "Lights Off"), (95, "light out"), (900, "arousal"), (28_000, "LIGHTS_ON"))
    ]
    edfio.Edf([edfio.EdfSignal(np.zeros(100 * 30), 100, label="C4")], annotations=marks).write(edf)
    assert read_lights(SPAN, "", "", [edf]) == {"A": Lights(90.0, 28_000.0)}


@pytest.mark.parametrize(
    ("off", "on", "what"),
    [
        ("7200", "3600", "go on after 3600 s, and off after 7200 s"),
        ("29000", "29500", "it was staged from 0 to 28800 s"),
        ("-60", "", "it was staged from"),
        ("21:00:00", "", "go on after 28800 s, and off after 82800 s"),
        ("noon", "", "'noon': it is no time"),
    ],
)
def test_lights_that_cannot_be_are_refused(off: str, on: str, what: str) -> None:
    with pytest.raises(EegToolError) as caught:
        read_lights(SPAN, off, on, [])
    assert what in caught.value.what


def test_a_time_of_day_needs_a_clock_and_a_table_its_columns(tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="when the recording began is not known"):
        read_lights({"A": Span(None, 0.0, 100.0)}, "22:00:00", "", [])
    (tmp_path / "t.csv").write_text("recording,off\nA,3\n")
    with pytest.raises(EegToolError, match="has not the columns recording, lights_off"):
        read_lights(SPAN, "", "", [tmp_path / "t.csv"])
    with pytest.raises(EegToolError, match="cannot be read"):
        read_lights(SPAN, "", "", [tmp_path / "none.csv"])
