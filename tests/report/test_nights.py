from __future__ import annotations

from collections.abc import Callable

import pytest

from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.nights import lay_out

EpochOf = Callable[..., AnsweredEpoch]


def test_epochs_are_joined_by_index_and_gaps_stay(epoch: EpochOf) -> None:
    epochs = [
        epoch(13, "N2", "N3"),
        epoch(10, "W", "W"),
        epoch(11, None, "N1"),
        epoch(14, "N2", None),
    ]
    (night,), absences = lay_out(epochs)
    assert absences == []
    assert night.first_epoch == 10
    assert night.true == ("W", None, None, "N2", "N2")
    assert night.predicted == ("W", "N1", None, "N3", None)
    assert night.wrong == (False, False, False, True, True)
    assert (night.labelled, night.missing) == (3, 1)


def test_one_night_per_recording_sorted_by_name(epoch: EpochOf) -> None:
    epochs = [epoch(1, "W", "W", recording=name, subject="") for name in ("b", "a")]
    nights, _ = lay_out(epochs)
    assert [night.recording for night in nights] == ["a", "b"]


@pytest.mark.parametrize("field", [{"recording": ""}, {"epoch_index": None}])
def test_absence_without_metadata(epoch: EpochOf, field: dict[str, object]) -> None:
    plain = epoch(1, "W", "W")
    adrift = AnsweredEpoch(**{**{f: getattr(plain, f) for f in plain.__slots__}, **field})
    nights, (absence,) = lay_out([adrift])
    assert nights == []
    assert absence.reason.startswith("the answers do not say")
    nights, (absence,) = lay_out([plain, adrift])
    assert len(nights) == 1
    assert absence.reason.startswith("1 of the answers")


def test_absence_where_indices_make_no_night(epoch: EpochOf) -> None:
    _, (absence,) = lay_out([epoch(3, "W", "W"), epoch(3, "W", "N1")])
    assert absence.reason == "two answers claim the same epoch of it"
    _, (absence,) = lay_out([epoch(3, "W", "W"), epoch(10**15, "W", "N1")])
    assert absence.reason == "its epoch indices go beyond 14 days"
