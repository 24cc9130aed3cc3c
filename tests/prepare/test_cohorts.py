from __future__ import annotations

from pathlib import Path

import pytest

from eegtool.core.errors import EegToolError
from eegtool.prepare.cohorts import Night, find_nights


@pytest.fixture
def touch(tmp_path: Path) -> Path:
    """Folder with one cassette night, two telemetry nights, and what lies about in a download."""
    folder = tmp_path / "sleep-edfx"
    for name in (
        "sleep-cassette/SC4001E0-PSG.edf",
        "sleep-cassette/SC4001EC-Hypnogram.edf",
        "sleep-telemetry/ST7011J0-PSG.edf",
        "sleep-telemetry/ST7011JP-Hypnogram.edf",
        "sleep-telemetry/ST7012J0-PSG.edf",
        "sleep-telemetry/ST7012JP-Hypnogram.edf",
        "sleep-cassette/._SC4001E0-PSG.edf",
        "sleep-cassette/SC4002E0-PSG.edf.part",
        "sleep-cassette/SC4002EC-Hypnogram.txt",
        "SHA256SUMS.txt",
        "other-PSG.edf",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_pairing_and_names(touch: Path) -> None:
    cassette, telemetry = touch / "sleep-cassette", touch / "sleep-telemetry"
    assert find_nights([touch], "sleep-edf") == [
        Night(
            cohort="sleep-edf",
            recording="SC4001E0",
            subject="SC400",
            night=1,
            signal_path=cassette / "SC4001E0-PSG.edf",
            hypnogram_path=cassette / "SC4001EC-Hypnogram.edf",
        ),
        Night(
            cohort="sleep-edf",
            recording="ST7011J0",
            subject="ST701",
            night=1,
            signal_path=telemetry / "ST7011J0-PSG.edf",
            hypnogram_path=telemetry / "ST7011JP-Hypnogram.edf",
        ),
        Night(
            cohort="sleep-edf",
            recording="ST7012J0",
            subject="ST701",
            night=2,
            signal_path=telemetry / "ST7012J0-PSG.edf",
            hypnogram_path=telemetry / "ST7012JP-Hypnogram.edf",
        ),
    ]


def test_case_of_names_does_not_matter(tmp_path: Path) -> None:
    for name in ("sc4001e0-psg.EDF", "sc4001ec-hypnogram.edf"):
        (tmp_path / name).touch()
    (night,) = find_nights([tmp_path], "sleep-edf")
    assert (night.recording, night.subject) == ("SC4001E0", "SC400")
    assert night.hypnogram_path == tmp_path / "sc4001ec-hypnogram.edf"


def test_a_file_brings_its_hypnogram_but_not_its_neighbours(touch: Path) -> None:
    path = touch / "sleep-telemetry" / "ST7012J0-PSG.edf"
    (night,) = find_nights([path], "sleep-edf")
    assert night.signal_path == path
    assert night.hypnogram_path == path.with_name("ST7012JP-Hypnogram.edf")


def test_the_same_path_twice_counts_once(touch: Path) -> None:
    path = touch / "sleep-cassette" / "SC4001E0-PSG.edf"
    assert len(find_nights([touch, touch / "sleep-cassette", path], "sleep-edf")) == 3


def test_missing_hypnogram(touch: Path) -> None:
    (touch / "sleep-cassette" / "SC4001EC-Hypnogram.edf").unlink()
    assert [n.hypnogram_path is None for n in find_nights([touch], "sleep-edf")] == [
        True,
        False,
        False,
    ]


def test_hypnogram_in_another_folder(tmp_path: Path) -> None:
    recording = tmp_path / "signals" / "SC4001E0-PSG.edf"
    hypnogram = tmp_path / "scoring" / "SC4001EC-Hypnogram.edf"
    for path in (recording, hypnogram):
        path.parent.mkdir()
        path.touch()
    (night,) = find_nights([tmp_path], "sleep-edf")
    assert night.hypnogram_path == hypnogram
    # A copy beside the recording is nearer.
    beside = recording.with_name(hypnogram.name)
    beside.touch()
    (night,) = find_nights([tmp_path], "sleep-edf")
    assert night.hypnogram_path == beside


def test_two_scorings_are_refused(touch: Path) -> None:
    (touch / "sleep-cassette" / "SC4001EH-Hypnogram.edf").touch()
    with pytest.raises(EegToolError) as raised:
        find_nights([touch], "sleep-edf")
    assert "more than one hypnogram" in raised.value.what
    for letter in "CH":
        assert f"SC4001E{letter}-Hypnogram.edf" in raised.value.what


def test_copies_of_a_recording_are_refused(touch: Path) -> None:
    copy = touch / "backup" / "SC4001E0-PSG.edf"
    copy.parent.mkdir()
    copy.touch()
    with pytest.raises(EegToolError) as raised:
        find_nights([touch], "sleep-edf")
    original = touch / "sleep-cassette" / "SC4001E0-PSG.edf"
    assert raised.value.what == f"Two recordings are named SC4001E0: {copy} and {original}."
    assert "only one" in raised.value.fix


def test_path_that_does_not_exist(touch: Path) -> None:
    with pytest.raises(EegToolError, match=r"nowhere does not exist"):
        find_nights([touch, touch / "nowhere"], "sleep-edf")


@pytest.mark.parametrize("given", ["", "SC4001EC-Hypnogram.edf"], ids=["folder", "hypnogram"])
def test_nothing_found_tells_how_files_are_named(tmp_path: Path, given: str) -> None:
    (tmp_path / "SC4001EC-Hypnogram.edf").touch()
    with pytest.raises(EegToolError) as raised:
        find_nights([tmp_path / given], "sleep-edf")
    assert f"No recording of the cohort 'sleep-edf' in {tmp_path / given}." == raised.value.what
    assert "SC4001E0-PSG.edf" in raised.value.fix
