from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import yasa

from eegtool.core.stages import STAGES
from eegtool.report.measures.sleep import STATISTICS, deviations, night_statistics, statistics
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.nights import Night, lay_out

NightOf = Callable[..., Night]


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
