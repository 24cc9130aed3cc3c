"""Channels by kind: which are found, how each kind is judged, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import edfio
import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.recordings.channels import kind_of
from eegtool.recordings.montages import ChannelSpec, kind_and_name, montage_of, spec_of
from eegtool.recordings.reading import find_signals, read_header, read_recording
from eegtool.recordings.signals import check_amplitude, check_rate, microvolts

DEFAULT = ["EEG Fpz-Cz"]
CASSETTE = (
    ("EEG Fpz-Cz", 30.0, 100),
    ("EEG Pz-Oz", 20.0, 100),
    ("EOG horizontal", 60.0, 100),
    ("EMG submental", 2.0, 1),
)
"""Name, standard deviation in µV and rate: the channels of Sleep-EDF's cassette files."""


def noise(spread_uv: float, sfreq_hz: float, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, spread_uv, round(60 * sfreq_hz))
    return np.abs(values) if sfreq_hz < 20 else values


def write(path: Path, channels: Sequence[tuple[str, float, float]]) -> Path:
    signals = [
        edfio.EdfSignal(
            noise(uv, hz, seed) if uv else np.zeros(round(60 * hz)),
            hz,
            label=name,
            physical_dimension="uV",
            physical_range=(-800, 800),
        )
        for seed, (name, uv, hz) in enumerate(channels)
    ]
    edfio.Edf(signals).write(path)
    return path


def montage(name: str, channels: Sequence[str] = DEFAULT) -> tuple[ChannelSpec, ...]:
    return montage_of(name, channels, DEFAULT, {})[1]


def served(path: Path, specs: Sequence[ChannelSpec]) -> list[str | None]:
    return [
        f.derivation.name if f.derivation else None for f in find_signals(read_header(path), specs)
    ]


# --- what a montage is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "typed"),
    [
        ("eeg", ["C4-M1", "O2-M1"], []),
        ("eeg", ["C4-M1", "eog:E1-M2"], ["eeg:C4-M1", "eog:E1-M2"]),
        ("psg", ["C4-M1"], ["eeg:C4-M1", "eog:E1-M2", "eog:E2-M2", "emg:chin"]),
        ("psg", ["eog:EOG", "C4-M1"], ["eeg:C4-M1", "eog:EOG", "emg:chin"]),
        (
            "aasm",
            DEFAULT,
            ["eeg:F4-M1", "eeg:C4-M1", "eeg:O2-M1", "eog:E1-M2", "eog:E2-M2", "emg:chin"],
        ),
    ],
)
def test_channels_of_a_montage(name: str, channels: list[str], typed: list[str]) -> None:
    assert [spec.typed for spec in montage(name, channels)] == typed


def test_each_kind_has_its_defaults_and_eeg_what_the_flags_say() -> None:
    own = {"band_hz": (0.5, 40.0), "amplitude_uv": 70.0, "style": "wrapped"}
    _, (eeg, left, _, chin) = montage_of("psg", DEFAULT, DEFAULT, own)
    assert (eeg.band_hz, eeg.amplitude_uv, eeg.style) == ((0.5, 40.0), 70.0, "wrapped")
    assert (left.band_hz, left.style) == ((0.3, 35.0), "waveform")
    assert (chin.band_hz, chin.style) == ((10.0, 100.0), "level")


@pytest.mark.parametrize(
    ("sfreq_hz", "band_hz"),
    [(512, (10, 100)), (200, (10, 90)), (100, (10, 45)), (50, (10, 22.5)), (40, None), (1, None)],
)
def test_the_chin_has_the_band_that_its_rate_allows(
    sfreq_hz: float, band_hz: tuple[float, float] | None
) -> None:
    assert spec_of("emg:chin").fitting_band_hz(sfreq_hz) == band_hz
    assert spec_of("eeg:C4").fitting_band_hz(sfreq_hz) == (0.3, 35.0)


def test_a_montage_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(
        "- {kind: emg, derivation: chin, band_hz: [20, 90]}\n"
        "- kind: eeg\n  derivation: C4 - (M1+M2)/2\n  style: hybrid\n  height: 3\n  optional: false\n"
    )
    name, (chin, eeg) = montage_of(str(path), DEFAULT, DEFAULT, {"amplitude_uv": 70.0})
    assert name == "lab"
    assert (chin.band_hz, chin.style, chin.optional) == ((20.0, 90.0), "level", True)
    assert (eeg.style, eeg.height, eeg.amplitude_uv, eeg.optional) == ("hybrid", 3.0, 70.0, False)
    assert ChannelSpec.from_row(eeg.to_row()) == eeg


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a list of channels"),
        ("kind: eeg", "is not a list of channels"),
        ("[", "cannot be read"),
        ("- {kind: ecg, derivation: ECG}", "channel 1 needs a kind"),
        ("- {kind: eeg}", "channel 1 needs a kind"),
        ("- {kind: eeg, derivation: C4, colour: red}", "unknown fields: colour"),
        ("- {kind: eeg, derivation: C4, band_hz: 3}", "a value that makes no sense"),
        ("- {kind: eeg, derivation: C4, band_hz: [35, 0.3]}", "a value that makes no sense"),
        ("- {kind: eeg, derivation: C4, height: 0}", "a value that makes no sense"),
        ("- {kind: eeg, derivation: C4}\n- {kind: eeg, derivation: c4}", "eeg:c4 is named twice"),
    ],
)
def test_bad_montages(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    with pytest.raises(EegToolError, match=said) as caught:
        montage_of(str(path), DEFAULT, DEFAULT, {})
    assert caught.value.fix


def test_what_names_no_montage(tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="Unknown montage 'ppsg'") as caught:
        montage("ppsg")
    assert "'psg'" in caught.value.fix
    with pytest.raises(EegToolError, match="--montage aasm names all channels"):
        montage("aasm", ["C4-M1"])
    with pytest.raises(EegToolError, match=r"lab\.yaml cannot be read"):
        montage(str(tmp_path / "lab.yaml"))
    for name in ("eeg", "psg"):
        with pytest.raises(EegToolError, match="eeg:c4-m1 is named twice"):
            montage(name, ["C4-M1", "eeg:c4-m1"])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("eog:E1-M2", ("eog", "E1-M2")),
        ("E1-M2", ("eog", "E1-M2")),
        ("EMG submental", ("emg", "EMG submental")),
        ("eeg:E1-M2", ("eeg", "E1-M2")),
        ("EEG: C3-REF", ("eeg", "EEG: C3-REF")),
        ("C4 - (M1+M2)/2", ("eeg", "C4 - (M1+M2)/2")),
    ],
)
def test_kinds_are_typed_in_front(typed: str, expected: tuple[str, str]) -> None:
    assert kind_and_name(typed) == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("EOG horizontal", "eog"), ("LOC-A2", "eog"), ("EEG E1", "eog"), ("ROC", "eog")],
        *[("EMG submental", "emg"), ("Chin 1-Chin 2", "emg"), ("EMG1-EMG2", "emg")],
        *[("EEG Fpz-Cz", ""), ("C4-M1", ""), ("ECG", ""), ("Temp rectal", "")],
    ],
)
def test_names_that_speak_of_a_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


# --- which channels of a recording serve it ----------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "name", "expected"),
    [
        (
            [name for name, *_ in CASSETTE],
            "psg",
            ["EEG Fpz-Cz", "EOG horizontal", None, "EMG submental"],
        ),
        (["EEG Fpz-Cz", "EEG Pz-Oz"], "psg", ["EEG Fpz-Cz", None, None, None]),
        (
            ["F4-A1", "C4-A1", "O2-A1", "LOC-A2", "ROC-A1", "Chin1-Chin2", "ECG"],
            "aasm",
            ["F4-A1", "C4-A1", "O2-A1", "LOC-A2", "ROC-A1", "Chin1-Chin2"],
        ),
        (
            ["C3", "C4", "E1", "E2", "M1", "M2", "EMG"],
            "aasm",
            [None, "C4-M1", None, "E1-M2", "E2-M2", "EMG"],
        ),
        (
            ["C3", "C4", "A1", "A2", "LOC", "ROC", "L Chin", "R Chin", "ECG L"],  # MrOS
            "aasm",
            [None, "C4-M1", None, "E1-M2", "E2-M2", "L Chin-R Chin"],
        ),
        (
            ["EEG C4-CLE", "EEG O2-CLE", "EOG Left Horiz", "EOG Right Horiz", "EMG Chin"],  # MASS
            "aasm",
            [None, "EEG C4-CLE", "EEG O2-CLE", "EOG Left Horiz", "EOG Right Horiz", "EMG Chin"],
        ),
        (
            ["EEG(sec)", "EEG", "EOG(L)", "EOG(R)", "EMG", "ECG", "SaO2"],  # SHHS
            "aasm",
            [None, "EEG", None, "EOG(L)", "EOG(R)", "EMG"],
        ),
        (
            ["EEG1", "EEG2", "EEG3", "EOG-L", "EOG-R", "EMG", "EKG"],  # MESA
            "aasm",
            ["EEG1", "EEG3", "EEG2", "EOG-L", "EOG-R", "EMG"],
        ),
    ],
)
def test_what_each_cohort_can_serve(
    tmp_path: Path, present: list[str], name: str, expected: list[str | None]
) -> None:
    path = write(tmp_path / "x.edf", [(label, 20.0, 100) for label in present])
    assert served(path, montage(name)) == expected


def test_what_is_missing_and_what_stands_for_it_is_said(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "x.edf", CASSETTE), montage("psg"))
    assert [s.is_missing for s in recording.signals] == [False, False, True, False]
    assert [s.sfreq_hz for s in recording.signals] == [100, 100, 1, 1]
    said = "\n".join(recording.notes)
    assert "'EOG horizontal' stands for eog:E1-M2." in said
    assert "The strip of eog:E2-M2 stays empty." in said
    assert (
        "'EMG submental' is sampled at 1 Hz, too slow for 10-100 Hz: it is taken for a level"
        in said
    )
    np.testing.assert_allclose(recording.signals[3].data_uv, noise(2.0, 1, 3), atol=0.02)


def test_one_channel_does_not_stand_for_both_eyes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", [("EEG Fpz-Cz", 20, 100), ("EOG", 20, 100)])
    assert served(path, montage("psg")) == ["EEG Fpz-Cz", "EOG", None, None]


def test_a_montage_in_which_nothing_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", [("ECG", 20, 100), ("EOG", 20, 100)])
    with pytest.raises(
        EegToolError, match=r"x\.edf has nothing of what the montage needs"
    ) as caught:
        find_signals(read_header(path), montage("aasm"))
    assert "eegvlm inspect" in caught.value.fix
    # Eyes alone are enough for those who want no EEG.
    assert served(path, montage("psg", ["C4"])[1:]) == ["EOG", None, None]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("eeg:EOG horizontal", "It is EOG, and was named as EEG"),
        ("eeg:EMG submental", "It is EMG, and was named as EEG"),
        ("emg:EOG horizontal", "It is EOG, and was named as EMG"),
    ],
)
def test_a_channel_called_by_another_kind(tmp_path: Path, typed: str, said: str) -> None:
    path = write(tmp_path / "x.edf", CASSETTE)
    with pytest.raises(EegToolError, match=said) as caught:
        find_signals(read_header(path), [typed])
    assert "--channel e" in caught.value.fix


# --- each kind is judged by its own measure ----------------------------------------------------------


def test_a_dead_channel_leaves_its_strip_empty_and_the_night_is_used(tmp_path: Path) -> None:
    channels = [*CASSETTE[:2], ("EOG horizontal", 0.0, 100), CASSETTE[3]]
    path = write(tmp_path / "x.edf", channels)
    recording = read_recording(path, montage("psg"))
    assert [s.is_missing for s in recording.signals] == [False, True, True, False]
    assert any("flat" in n and "eog:E1-M2 stays empty" in n for n in recording.notes)
    with pytest.raises(EegToolError, match="flat"):
        read_recording(path, ["EEG Fpz-Cz", "eog:EOG horizontal"])


@pytest.mark.parametrize(
    ("kind", "uv", "sfreq_hz", "fine"),
    [
        ("emg", 0.05, 200, True),
        ("eeg", 0.05, 200, False),
        ("emg", 1.0, 1, True),
        ("emg", 20_000.0, 200, False),
        ("eog", 300.0, 100, True),
    ],
)
def test_amplitudes_by_kind(kind: str, uv: float, sfreq_hz: float, fine: bool) -> None:
    if fine:
        assert check_amplitude(noise(uv, sfreq_hz), sfreq_hz, kind) == ""
    else:
        with pytest.raises(EegToolError, match=f"is not {kind.upper()}"):
            check_amplitude(noise(uv, sfreq_hz), sfreq_hz, kind)


def test_units_are_guessed_by_kind() -> None:
    rest = noise(1.0, 200)
    assert microvolts(rest, "", 200, "emg")[0] == 1.0
    assert microvolts(rest / 1000, "", 200, "emg")[0] == 1000.0
    with pytest.raises(EegToolError, match="none makes the signal an EOG"):
        microvolts(rest, "", 200, "eog")


def test_a_level_that_never_changes_is_flat() -> None:
    with pytest.raises(EegToolError, match="flat"):
        check_amplitude(np.full(600, 3.0), 1.0, "emg")


def test_rates_by_kind() -> None:
    check_rate(1.0, "emg")
    check_rate(25.0, "eog")
    with pytest.raises(EegToolError, match="too slow to hold eye movements, so no EOG"):
        check_rate(10.0, "eog")
    with pytest.raises(EegToolError, match="too slow to hold the rhythms of sleep, so no EEG"):
        check_rate(25.0)
