from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import edfio
import mne
import numpy as np
import pytest
from scipy.io import savemat

from eegtool.core.errors import EegToolError
from eegtool.recordings.header import ChannelInfo
from eegtool.recordings.reading import (
    find_signals,
    is_recording,
    read_header,
    read_recording,
)

WriteEdf = Callable[..., Path]

# Where fields stand in the header of an EDF file with n signals.
RECORDING, START_DATE, START_TIME, RESERVED, N_RECORDS, N_SIGNALS = 88, 168, 176, 192, 236, 252


def label_at(i: int) -> int:
    return 256 + 16 * i


def unit_at(i: int, n: int) -> int:
    return 256 + 96 * n + 8 * i


def patch(path: Path, *changes: tuple[int, bytes]) -> Path:
    content = bytearray(path.read_bytes())
    for at, new in changes:
        content[at : at + len(new)] = new
    path.write_bytes(content)
    return path


def sine_uv(hz: float, sfreq_hz: float, seconds: float = 60.0) -> np.ndarray:
    """A rhythm that waxes and wanes; one of even height is at its limits too often."""
    t = np.arange(round(seconds * sfreq_hz)) / sfreq_hz
    return (50 + 40 * np.sin(0.1 * t)) * np.sin(2 * np.pi * hz * t)


def noise_uv(seed: int, n_samples: int = 6_000) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).standard_normal(n_samples) * 20, -199, 199)


@pytest.fixture
def psg(write_edf: WriteEdf) -> Path:
    """As in Sleep-EDF, fast channels beside one of 1 Hz."""
    return write_edf(
        [
            ("EEG Fpz-Cz", sine_uv(2, 100), 100),
            ("EEG Pz-Oz", sine_uv(3, 100), 100),
            ("Temp rectal", sine_uv(0.1, 1), 1),
            ("EMG", sine_uv(40, 200), 200),
        ]
    )


@pytest.fixture
def edf_plus(tmp_path: Path) -> Path:
    """EDF+C of 60 records of 1 s, with a Latin-1 annotation."""
    path = tmp_path / "plus.edf"
    edfio.Edf(
        [
            edfio.EdfSignal(noise_uv(i), 100, label=label, physical_dimension="uV")
            for i, label in enumerate(("EEG C3-REF", "EEG C4-REF", "EEG M1-REF"))
        ],
        recording=edfio.Recording(startdate=date(2021, 3, 4)),
        starttime=time(22, 30, 15),
        data_record_duration=1,
        annotations=[edfio.EdfAnnotation(3, 1, "bXse Luft")],
    ).write(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"bXse", "böse".encode("latin-1")))
    return path


# Formats


def assert_signal(path: Path, form: str, expected_uv: np.ndarray, atol_uv: float = 0.01) -> None:
    header = read_header(path)
    assert (header.format, header.notes) == (form, ())
    assert header.duration_s == len(expected_uv) / 100
    recording = read_recording(path, ["C4-M1"])
    assert recording.notes == ()
    (signal,) = recording.signals
    assert (signal.name, signal.sfreq_hz) == ("C4-M1", 100.0)
    assert signal.data_uv.dtype == np.float64
    np.testing.assert_allclose(signal.data_uv, expected_uv, atol=atol_uv)


def mne_raw(n_samples: int = 6_000) -> Any:
    info = mne.create_info(["C3", "C4", "M1"], 100.0, "eeg", verbose="ERROR")
    data = np.stack([noise_uv(seed, n_samples) for seed in range(3)]) * 1e-6
    raw = mne.io.RawArray(data, info, verbose="ERROR")
    return raw.set_meas_date(datetime(2021, 3, 4, 22, 30, 15, tzinfo=UTC))


EXPECTED_UV = noise_uv(1) - noise_uv(2)


def test_edf_plus_with_latin1_annotations(edf_plus: Path) -> None:
    assert_signal(edf_plus, "EDF+C", EXPECTED_UV)
    header = read_header(edf_plus)
    assert header.start == datetime(2021, 3, 4, 22, 30, 15)
    assert [channel.name for channel in header.channels] == [
        *("EEG C3-REF", "EEG C4-REF", "EEG M1-REF")
    ]


def test_edf_plus_discontinuous_without_a_gap(edf_plus: Path) -> None:
    assert_signal(patch(edf_plus, (RESERVED, b"EDF+D")), "EDF+D", EXPECTED_UV)


def test_bdf(tmp_path: Path) -> None:
    signals = [
        edfio.BdfSignal(noise_uv(i), 100, label=label, physical_dimension="uV")
        for i, label in enumerate(("C3", "C4", "M1"))
    ]
    edfio.Bdf(signals).write(tmp_path / "x.bdf")
    assert_signal(tmp_path / "x.bdf", "BDF", EXPECTED_UV, atol_uv=1e-4)


@pytest.mark.parametrize("suffix", [".fif", ".fif.gz", ".FIF"])
def test_fif(tmp_path: Path, suffix: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that MNE finds unusual
        mne_raw().save(tmp_path / f"x{suffix.lower()}", verbose="ERROR")
    path = (tmp_path / f"x{suffix.lower()}").rename(tmp_path / f"y{suffix}")
    assert_signal(path, "FIF", EXPECTED_UV)
    header = read_header(path)
    assert header.start == datetime(2021, 3, 4, 22, 30, 15)
    assert header.channels[0] == ChannelInfo("C3", 100.0, "V")


def test_a_cropped_fif_starts_later(tmp_path: Path) -> None:
    mne_raw().crop(tmin=10.0).save(tmp_path / "x_raw.fif", verbose="ERROR")
    assert read_header(tmp_path / "x_raw.fif").start == datetime(2021, 3, 4, 22, 30, 25)


@pytest.fixture
def write_brainvision(tmp_path: Path) -> Callable[..., Path]:
    def write(
        unit: str = "µV", per_unit: float = 1.0, n_declared: int = 6_000, markers: str = ""
    ) -> Path:
        data = np.stack([noise_uv(seed) for seed in range(3)], axis=1)
        (tmp_path / "x.eeg").write_bytes((data * 100).round().astype("<i2").tobytes())
        channels = "\n".join(
            f"Ch{i}={name},,{0.01 / per_unit:g},{unit}"
            for i, name in enumerate(("C3", "C4", "M1"), 1)
        )
        (tmp_path / "x.vhdr").write_text(
            "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\n"
            "Codepage=UTF-8\nDataFile=x.eeg\nMarkerFile=x.vmrk\nDataFormat=BINARY\n"
            "DataOrientation=MULTIPLEXED\nNumberOfChannels=3\nSamplingInterval=10000\n"
            f"DataPoints={n_declared}\n\n[Binary Infos]\nBinaryFormat=INT_16\n\n"
            f"[Channel Infos]\n{channels}\n",
            encoding="utf-8",
        )
        (tmp_path / "x.vmrk").write_text(
            "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\n"
            "Codepage=UTF-8\nDataFile=x.eeg\n\n[Marker Infos]\n"
            f"Mk1=New Segment,,1,1,0,20210304223015000000\n{markers}"
        )
        return tmp_path / "x.vhdr"

    return write


@pytest.mark.parametrize(("unit", "per_unit"), [("µV", 1.0), ("", 1.0), ("mV", 1e3), ("nV", 1e-3)])
def test_brainvision(write_brainvision: Callable[..., Path], unit: str, per_unit: float) -> None:
    path = write_brainvision(unit, per_unit)
    assert_signal(path, "BrainVision", EXPECTED_UV, atol_uv=0.02)
    assert read_header(path).start == datetime(2021, 3, 4, 22, 30, 15)
    assert read_header(path).channels[1] == ChannelInfo("C4", 100.0, unit or "µV")
    assert [p.name for p in read_header(path).files] == ["x.vhdr", "x.eeg", "x.vmrk"]


def write_eeglab(path: Path, unit_uv: float = 1.0, **fields: Any) -> Path:
    data = np.stack([noise_uv(seed) for seed in range(3)]).astype("<f4") / unit_uv
    labels = np.array([("C3",), ("C4",), ("M1",)], dtype=[("labels", object)])
    empty: dict[str, list[float]] = {
        k: [] for k in ("event", "icawinv", "icasphere", "icaweights", "icachansind")
    }
    shape = {"nbchan": 3.0, "pnts": 6_000.0, "trials": 1.0, "srate": 100.0}
    eeg = {**empty, **shape, "xmin": 0.0, "xmax": 59.99, "data": data, "chanlocs": labels, **fields}
    savemat(path, {"EEG": eeg}, appendmat=False)
    if isinstance(eeg["data"], str):
        (path.parent / eeg["data"]).write_bytes(data.T.tobytes())
    return path


@pytest.mark.parametrize("name", ["x.set", "X.SET"])
@pytest.mark.parametrize("fields", [{}, {"data": "y.fdt"}], ids=["one-file", "with-fdt"])
def test_eeglab(tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    path = write_eeglab(tmp_path / name, **fields)
    assert_signal(path, "EEGLAB", EXPECTED_UV)
    assert read_header(path).start is None
    others = ["y.fdt"] if fields else []
    assert [p.name for p in read_header(path).files] == [name, *others]


def test_eeglab_in_volts(tmp_path: Path) -> None:
    recording = read_recording(write_eeglab(tmp_path / "x.set", unit_uv=1e6), ["C4"])
    np.testing.assert_allclose(recording.signals[0].data_uv, noise_uv(1), atol=0.01)
    assert recording.notes[0].startswith("Channel 'C4': its unit 'µV' was read as V, ")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *[(name, True) for name in ("a.edf", "a.EDF", "a.rec", "a.bdf", "a.BDF", "a.fif")],
        *[(name, True) for name in ("a_raw.fif.gz", "a.vhdr", "a.b.SET")],
        *[(name, False) for name in ("a.txt", "a.eeg", "a.gz", "edf", "a.edf.xml", "a.edf.gz")],
    ],
)
def test_suffixes(name: str, known: bool) -> None:
    assert is_recording(Path("folder.edf") / name) is known


@pytest.mark.parametrize("name", ["X.EDF", "x.rec", "x.bdf"])
def test_the_content_tells_edf_not_the_suffix(psg: Path, name: str) -> None:
    path = psg.rename(psg.with_name(name))
    assert read_header(path).format == "EDF"
    np.testing.assert_allclose(
        read_recording(path, ["Fpz-Cz"]).signals[0].data_uv, sine_uv(2, 100), atol=0.01
    )


def test_upper_case_brainvision_says_what_to_do(write_brainvision: Callable[..., Path]) -> None:
    path = write_brainvision()
    with pytest.raises(EegToolError) as raised:
        read_header(path.rename(path.with_name("X.VHDR")))
    assert raised.value.fix == "Rename it to X.vhdr."


# Channels and rates


def test_every_channel_keeps_its_own_rate(psg: Path) -> None:
    """In the order asked for, nothing up-sampled, a channel asked for twice given twice."""
    wanted = ["emg:EMG", "eegpz-oz", " EEG  FPZ-CZ ", "emg:EMG", "'Fpz-Cz' - 'Pz-Oz'"]
    recording = read_recording(psg, wanted)
    names = ["EMG", "EEG Pz-Oz", "EEG Fpz-Cz", "EMG", "'Fpz-Cz' - 'Pz-Oz'"]
    fast, two, three = sine_uv(40, 200), sine_uv(2, 100), sine_uv(3, 100)
    expected = [fast, three, two, fast, two - three]
    assert [signal.name for signal in recording.signals] == names
    assert [signal.sfreq_hz for signal in recording.signals] == [200, 100, 100, 200, 100]
    for signal, data_uv in zip(recording.signals, expected, strict=True):
        np.testing.assert_allclose(signal.data_uv, data_uv, atol=0.01)


@pytest.mark.parametrize(
    ("sfreq_hz", "record_s"), [(200, 1), (250, 1), (256, 1), (512, 1), (199.9, 10), (100 / 3, 30)]
)
def test_sampling_rates(tmp_path: Path, sfreq_hz: float, record_s: float) -> None:
    path = tmp_path / "x.edf"
    data_uv = sine_uv(2, sfreq_hz)
    signal = edfio.EdfSignal(data_uv, sfreq_hz, label="C4", physical_dimension="uV")
    edfio.Edf([signal], data_record_duration=record_s).write(path)
    (found,) = read_recording(path, ["C4"]).signals
    assert found.sfreq_hz == pytest.approx(sfreq_hz, rel=1e-12)
    np.testing.assert_allclose(found.data_uv, data_uv, atol=0.01)
    assert read_header(path).duration_s == 60.0


def test_channels_are_found_in_the_header_alone(psg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mne.io, "read_raw_edf", None)
    header = read_header(psg)
    assert header.channels == (
        ChannelInfo("EEG Fpz-Cz", 100.0, "uV"),
        ChannelInfo("EEG Pz-Oz", 100.0, "uV"),
        ChannelInfo("Temp rectal", 1.0, "uV"),
        ChannelInfo("EMG", 200.0, "uV"),
    )
    found = find_signals(header, ["emg:EMG", "'Fpz-Cz' - 'Pz-Oz'"])
    assert [(f.derivation and f.derivation.weights, f.sfreq_hz) for f in found] == [
        ({"EMG": 1.0}, 200.0),
        ({"EEG Fpz-Cz": 1.0, "EEG Pz-Oz": -1.0}, 100.0),
    ]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("C3-A2", "There is no channel 'C3-A2', and no 'C3' to derive it"),
        ("Fpz", "There is no channel 'Fpz'"),
        ("Temp rectal", "is sampled at 1 Hz: too slow"),
        ("EMG - 'Fpz-Cz'", "sampled at different rates, 100 and 200 Hz"),
    ],
)
def test_channels_that_cannot_be_had(psg: Path, wanted: str, message: str) -> None:
    for find in (
        lambda: find_signals(read_header(psg), [wanted]),
        lambda: read_recording(psg, [wanted]),
    ):
        with pytest.raises(EegToolError, match=message) as raised:
            find()
        assert str(psg) in raised.value.what
        assert raised.value.fix


def test_unknown_channel_lists_those_present(psg: Path) -> None:
    with pytest.raises(EegToolError) as raised:
        read_recording(psg, ["Fpz"])
    assert raised.value.what == f"{psg}: There is no channel 'Fpz'."
    assert raised.value.fix == (
        "Present: EEG Fpz-Cz, EEG Pz-Oz, Temp rectal, EMG. Did you mean 'EEG Fpz-Cz'? "
        "Choose with --channel."
    )


def test_duplicate_names_matter_only_where_they_are_wanted(psg: Path) -> None:
    patch(psg, (label_at(1), b"EMG".ljust(16)))
    np.testing.assert_allclose(
        read_recording(psg, ["Fpz-Cz"]).signals[0].data_uv, sine_uv(2, 100), atol=0.01
    )
    with pytest.raises(EegToolError, match="'EMG' can mean 2 channels: 'EMG', 'EMG'"):
        read_recording(psg, ["emg:EMG"])


# Headers


def test_simulated(psg: Path, recordings: Path) -> None:
    simulated = read_header(recordings / "SC4001E0-PSG.edf")
    assert simulated.simulated
    assert simulated.start == datetime(1989, 4, 24, 16, 13)
    assert not read_header(psg).simulated


@pytest.mark.parametrize(
    ("day", "clock", "field", "start", "note"),
    [
        ("24.04.89", "16.13.00", "", datetime(1989, 4, 24, 16, 13), ""),
        ("24.04.12", "16:13:07", "", datetime(2012, 4, 24, 16, 13, 7), ""),
        ("4/04-12", "6.13.00", "", datetime(2012, 4, 4, 6, 13), ""),
        ("24.04.yy", "16.13.00", "Startdate 24-apr-2089 X X X", datetime(2089, 4, 24, 16, 13), ""),
        ("24.04.89", "16.13.00", "Startdate X X X X", datetime(1989, 4, 24, 16, 13), ""),
        ("24.04.89", "16.13.00", "Startdate 31-FEB-1989", datetime(1989, 4, 24, 16, 13), ""),
        ("00.00.00", "22.15.00", "", datetime(1985, 1, 1, 22, 15), "only the clock is used"),
        ("30.02.11", "22.15.00", "", datetime(1985, 1, 1, 22, 15), "only the clock is used"),
        ("junk", "22.15.00", "", datetime(1985, 1, 1, 22, 15), "only the clock is used"),
        ("01.01.99", "25.00.00", "", None, "is no date and time"),
        ("", "", "", None, "is no date and time"),
    ],
)
def test_odd_dates(
    psg: Path, day: str, clock: str, field: str, start: datetime | None, note: str
) -> None:
    patch(
        psg,
        (START_DATE, day.ljust(8).encode()),
        (START_TIME, clock.ljust(8).encode()),
        (RECORDING, field.ljust(80).encode()),
    )
    header = read_header(psg)
    assert header.start == start
    assert len(header.notes) == bool(note)
    assert all(note in n for n in header.notes)
    recording = read_recording(psg, ["Fpz-Cz"])
    assert (recording.start, recording.notes) == (start, header.notes)


def test_latin1_header(psg: Path) -> None:
    patch(
        psg,
        (8, "Jörg Müller".encode("latin-1")),
        (label_at(0), "EEG Größe".encode("latin-1").ljust(16)),
    )
    patch(psg, (256 + 4 * 256 - 32, "für später".encode("latin-1")))  # MNE itself stops here
    header = read_header(psg)
    assert header.channels[0].name == "EEG Größe"
    assert header.notes == ("The header is not ASCII as EDF demands; it was read as Latin-1.",)
    recording = read_recording(psg, ["größe"])
    np.testing.assert_allclose(recording.signals[0].data_uv, sine_uv(2, 100), atol=0.01)
    assert recording.notes == header.notes


# Units


@pytest.mark.parametrize("unit", ["uV", "mV"])
def test_microvolts_come_out_whatever_the_unit(write_edf: WriteEdf, unit: str) -> None:
    path = write_edf([("EEG", noise_uv(1), 100)], unit)
    recording = read_recording(path, ["EEG"])
    np.testing.assert_allclose(recording.signals[0].data_uv, noise_uv(1), atol=0.01)
    assert recording.notes == ()


@pytest.mark.parametrize(
    ("written", "said", "note"),
    [
        ("uV", b"\xb5V", "not ASCII"),
        ("uV", b"", "the missing unit was read as uV, which gives an amplitude of"),
        ("mV", b"", "the missing unit was read as mV, which gives an amplitude of"),
        ("uV", b"mV", "its unit 'mV' was read as uV, which gives an amplitude of"),
        ("uV", b"V", "its unit 'V' was read as uV, which gives an amplitude of"),
        ("mV", b"uV", "its unit 'uV' was read as mV, which gives an amplitude of"),
        ("uV", b".V", "its unit '.V' was read as uV, which gives an amplitude of"),
    ],
)
def test_odd_units_are_resolved_with_a_note(
    write_edf: WriteEdf, written: str, said: bytes, note: str
) -> None:
    path = write_edf([("EEG C4", noise_uv(1), 100)], written)
    patch(path, (unit_at(0, 1), said.ljust(8)))
    recording = read_recording(path, ["C4"])
    np.testing.assert_allclose(recording.signals[0].data_uv, noise_uv(1), atol=0.01)
    assert len(recording.notes) == 1
    assert note in recording.notes[0]
    assert read_header(path).channels[0].unit == said.decode("latin-1")


def test_members_of_a_derivation_have_units_of_their_own(edf_plus: Path) -> None:
    patch(edf_plus, (unit_at(2, 4), b"mV      "))
    recording = read_recording(edf_plus, ["C4-M1"])
    np.testing.assert_allclose(recording.signals[0].data_uv, EXPECTED_UV, atol=0.01)
    assert recording.notes[0].startswith("Channel 'EEG M1-REF': its unit 'mV' was read as uV")


@pytest.mark.parametrize(
    ("data_uv", "message"),
    [
        (np.zeros(6_000), "The signal is flat"),
        (np.sign(sine_uv(3.1, 100)) * 190, "The signal is saturated: 100%"),
        (np.clip(noise_uv(1) * 40, -190, 190), "The signal is saturated: 8[0-9]%"),
        (
            noise_uv(1) * 1e5,
            r"The amplitude of the signal is 2\.\d+e\+06 µV: it is not EEG",
        ),
    ],
    ids=["flat", "rails", "clipped", "too-large"],
)
def test_signals_that_are_no_eeg(tmp_path: Path, data_uv: np.ndarray, message: str) -> None:
    path = tmp_path / "x.edf"
    peak = np.ceil(max(float(np.abs(data_uv).max()), 1.0))
    good = edfio.EdfSignal(noise_uv(2), 100, label="C3", physical_dimension="uV")
    bad = edfio.EdfSignal(
        data_uv, 100, label="C4", physical_dimension="uV", physical_range=(-peak, peak)
    )
    edfio.Edf([good, bad]).write(path)
    assert read_recording(path, ["C3"]).notes == ()
    with pytest.raises(EegToolError, match=f"Channel 'C4' of .*: .*{message}") as raised:
        read_recording(path, ["C4"])
    assert raised.value.fix


def test_channels_that_cancel_each_other(write_edf: WriteEdf) -> None:
    path = write_edf([("C4", noise_uv(1), 100), ("M1", noise_uv(1), 100)])
    with pytest.raises(EegToolError, match=r"Derivation 'C4-M1' of .*: The signal is flat"):
        read_recording(path, ["C4-M1"])


# Damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"time,uV\n0.01,5\n" * 50, r"is no EDF or BDF file: it begins with b'time,uV"),
        (b"0       " + b"?" * 400, "is damaged: its number of signals is '[?]{4}'"),
        (b"0       ", "The header of .* is cut off: 8 of 512 bytes"),
    ],
    ids=["missing", "empty", "text", "damaged", "8-bytes"],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "SC4001E0-PSG.edf"
    if content is not None:
        path.write_bytes(content)
    for read in (lambda: read_header(path), lambda: read_recording(path, ["EEG Fpz-Cz"])):
        with pytest.raises(EegToolError, match=message) as raised:
            read()
        assert str(path) in raised.value.what
        assert len(raised.value.what.splitlines()) == 1
        assert raised.value.fix


@pytest.mark.parametrize("n_bytes", [200, 256, 300, 1279])
def test_header_cut(psg: Path, n_bytes: int) -> None:
    psg.write_bytes(psg.read_bytes()[:n_bytes])
    with pytest.raises(EegToolError, match=rf"The header of .* is cut off: {n_bytes} of"):
        read_header(psg)


@pytest.mark.parametrize(
    ("at", "text", "message"),
    [
        (N_SIGNALS, b"0   ", "number of signals is '0'"),
        (N_SIGNALS, b"3   ", "header size is '1280'"),
        (N_RECORDS, b"two     ", "number of records is 'two'"),
        (244, b"0       ", "duration of a record is '0'"),
        (256 + 216 * 4, b"-100    ", "samples per record is '-100'"),
    ],
)
def test_damaged_fields_are_named(psg: Path, at: int, text: bytes, message: str) -> None:
    with pytest.raises(EegToolError, match=message):
        read_header(patch(psg, (at, text)))


@pytest.mark.parametrize(
    ("kept_s", "lost_s"), [(59.0, 30), (45.0, 30), (30.0, 30)], ids=["mid", "half", "border"]
)
def test_what_is_there_of_a_cut_file_is_used(psg: Path, kept_s: float, lost_s: float) -> None:
    record_bytes = (psg.stat().st_size - 1280) // 2
    psg.write_bytes(psg.read_bytes()[: 1280 + int(record_bytes * kept_s / 30)])
    header = read_header(psg)
    assert header.duration_s == 60 - lost_s
    assert header.notes == (f"The file is cut off: the last {lost_s} s of 60 s are missing.",)
    recording = read_recording(psg, ["Fpz-Cz"])
    np.testing.assert_allclose(recording.signals[0].data_uv, sine_uv(2, 100, 30), atol=0.01)
    assert recording.notes == header.notes
    for read in (
        lambda: read_header(psg, strict=True),
        lambda: read_recording(psg, ["Fpz-Cz"], strict=True),
    ):
        with pytest.raises(EegToolError, match=r"cut off: the last 30 s .* missing") as raised:
            read()
        assert "--strict" in raised.value.fix


@pytest.mark.parametrize("n_bytes", [1280, 1281, 2000])
@pytest.mark.parametrize("n_records", [b"0", b"2", b"-1"])
def test_zero_records(psg: Path, n_bytes: int, n_records: bytes) -> None:
    psg.write_bytes(psg.read_bytes()[:n_bytes])
    with pytest.raises(EegToolError, match="holds no data"):
        read_header(patch(psg, (N_RECORDS, n_records.ljust(8))))


@pytest.mark.parametrize(
    ("n_records", "extra", "note"),
    [
        (b"-1", b"", "not stopped properly. The file holds 60 s."),
        (b"-1", b"xyz", "holds 60 s, and the beginning of another that is left out."),
        (b"0", b"", "The header speaks of 0 s, the file holds 60 s"),
        (b"1", b"", "The header speaks of 30 s, the file holds 60 s"),
    ],
)
def test_records_are_counted_where_the_header_is_wrong(
    psg: Path, n_records: bytes, extra: bytes, note: str
) -> None:
    patch(psg, (N_RECORDS, n_records.ljust(8))).write_bytes(psg.read_bytes() + extra)
    recording = read_recording(psg, ["Fpz-Cz"])
    np.testing.assert_allclose(recording.signals[0].data_uv, sine_uv(2, 100), atol=0.01)
    assert len(recording.notes) == 1
    assert note in recording.notes[0]
    assert read_header(psg).duration_s == 60
    with pytest.raises(EegToolError, match="holds 60 s"):
        read_header(psg, strict=True)


@pytest.mark.parametrize(
    ("record", "onset", "message"),
    [
        (20, "+32.5", "with a step back of 12.5 s after 21 s"),
        (1, "+601", "with a step back of 600 s after 2 s"),
        (59, "+9", "with a step back of 50 s after 59 s"),
        (30, "junk", "Record 31 of .* does not tell its time"),
    ],
)
def test_edf_plus_gap(edf_plus: Path, record: int, onset: str, message: str) -> None:
    content = edf_plus.read_bytes()
    first = 256 * 5
    record_bytes = (len(content) - first) // 60
    at = first + record * record_bytes + 3 * 200
    assert content[at : at + 2] == b"+%d" % (record // 10 if record > 9 else record)
    annotation = onset.encode() + b"\x14\x14\0\0\0"
    patch(edf_plus, (at, annotation))
    assert read_header(edf_plus).duration_s == 60  # EDF+C is continuous by definition
    patch(edf_plus, (RESERVED, b"EDF+D"))
    for read in (lambda: read_header(edf_plus), lambda: read_recording(edf_plus, ["C3"])):
        with pytest.raises(EegToolError, match=message) as raised:
            read()
        assert str(edf_plus) in raised.value.what


@pytest.mark.parametrize("minimum", [b"200.0", b"nan", b"junk", b""])
def test_an_uncalibrated_channel(psg: Path, minimum: bytes) -> None:
    patch(psg, (256 + 104 * 4 + 8, minimum.ljust(8)))  # physical minimum of the second channel
    with pytest.raises(EegToolError, match=r"Channel 'EEG Pz-Oz' of .* is not calibrated"):
        read_recording(psg, ["Pz-Oz"])
    assert read_recording(psg, ["Fpz-Cz"]).notes == ()


def test_edf_plus_discontinuous_without_times(psg: Path) -> None:
    with pytest.raises(EegToolError, match="its times are not known"):
        read_header(patch(psg, (RESERVED, b"EDF+D")))


def test_a_hypnogram_is_no_recording(recordings: Path) -> None:
    with pytest.raises(EegToolError, match="holds annotations but no signal"):
        read_header(recordings / "SC4001EC-Hypnogram.edf")


def test_brainvision_cut(write_brainvision: Callable[..., Path]) -> None:
    path = write_brainvision(n_declared=7_000)
    assert read_header(path).notes == ("The file is cut off: the last 10 s are missing.",)
    assert len(read_recording(path, ["C3"]).signals[0].data_uv) == 6_000
    with pytest.raises(EegToolError, match="the last 10 s are missing"):
        read_header(path, strict=True)


def test_joined_brainvision(write_brainvision: Callable[..., Path]) -> None:
    path = write_brainvision(markers="Mk2=New Segment,,3001,1,0,20210304233015000000\n")
    with pytest.raises(EegToolError, match=r"not one continuous recording: .* at 30 s"):
        read_header(path)


def test_joined_eeglab(tmp_path: Path) -> None:
    kinds = [("type", object), ("latency", object), ("duration", object)]
    boundary = np.array([("boundary", 3001.0, 500.0)], dtype=kinds)
    with pytest.raises(EegToolError, match=r"not one continuous recording: .* at 30 s"):
        read_header(write_eeglab(tmp_path / "x.set", event=boundary))


def test_joined_fif(tmp_path: Path) -> None:
    first, second = mne_raw(), mne_raw()
    joined = mne.concatenate_raws([first.crop(tmin=20.0), second], verbose="ERROR")
    joined.save(tmp_path / "x_raw.fif", verbose="ERROR")
    with pytest.raises(EegToolError, match=r"not one continuous recording: .* at 40 s"):
        read_header(tmp_path / "x_raw.fif")


@pytest.mark.parametrize("name", ["x.edf", "x.bdf", "x.fif", "x.fif.gz", "x.vhdr", "x.set"])
@pytest.mark.parametrize("content", [b"", b"no recording at all\n" * 30], ids=["empty", "text"])
def test_rubbish_of_every_format(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EegToolError) as raised:
        read_header(tmp_path / name)
    assert str(tmp_path / name) in raised.value.what
    assert len(raised.value.what.splitlines()) == 1
    assert raised.value.fix


def test_cut_fif_and_eeglab(tmp_path: Path) -> None:
    mne_raw().save(tmp_path / "x_raw.fif", verbose="ERROR")
    write_eeglab(tmp_path / "x.set", data="x.fdt")
    for name in ("x_raw.fif", "x.fdt"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    for name in ("x_raw.fif", "x.set"):
        with pytest.raises(EegToolError, match="cannot be read"):
            read_recording(tmp_path / name, ["C3"])


def test_other_files_are_no_recordings(tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="is no recording that can be read") as raised:
        read_header(tmp_path / "x.txt")
    assert ".edf" in raised.value.fix


@pytest.mark.parametrize("form", ["edf", "bdf"])
def test_samples_are_those_that_mne_reads(tmp_path: Path, form: str) -> None:
    data_uv = np.random.default_rng(0).normal(0, 50, 12_000).round(1)
    writer, signal = {"edf": (edfio.Edf, edfio.EdfSignal), "bdf": (edfio.Bdf, edfio.BdfSignal)}[
        form
    ]
    signals = [
        signal(data_uv * k, 100, label=name, physical_dimension="uV", physical_range=(-900, 700))
        for k, name in ((1, "C3"), (-1, "C4"), (2, "O1"))
    ]
    path = tmp_path / f"x.{form}"
    writer(signals, data_record_duration=3).write(path)
    read = mne.io.read_raw_bdf if form == "bdf" else mne.io.read_raw_edf
    theirs_uv = read(path, verbose="ERROR").get_data(picks=["C4", "O1"]) * 1e6
    ours = read_recording(path, ["C4", "O1"]).signals
    np.testing.assert_allclose([s.data_uv for s in ours], theirs_uv, atol=1e-6)
    assert ours[0].data_uv.min() < -100


@pytest.mark.parametrize(
    ("form", "stamps", "pauses", "first_s", "message"),
    [
        ("EDF+D", lambda i: i, (), 0.0, ""),
        ("EDF+D", lambda i: i + 600, (), 600.0, ""),
        ("EDF+D", lambda i: i + 12.5 * (i >= 20), ((20.0, 12.5),), 0.0, ""),
        ("EDF+D", lambda i: i + 7 + 30 * (i >= 20) + i // 50, ((20.0, 30.0), (80.0, 1.0)), 7.0, ""),
        ("EDF+C", lambda i: i + 0.25, (), 0.25, ""),
        ("EDF+C", lambda i: i + 600, (), 600.0, ""),
        ("EDF+C", lambda i: i + i / 1000, (), 0.0, ""),  # a clock that runs a little fast
        (
            "EDF+C",
            lambda i: i + 30 * (i >= 20),
            (),
            0.0,
            "calls itself continuous .* 30 s after 20 s",
        ),
        ("EDF+D", lambda i: i + 999_999 * (i >= 20), (), 0.0, "pauses for 278 hours"),
        ("EDF+D", lambda i: i - 5 * (i >= 20), (), 0.0, "step back of 5 s after 20 s"),
    ],
)
def test_records_tell_when_they_begin(
    edf_plus: Path,
    form: str,
    stamps: Callable[[int], float],
    pauses: tuple[tuple[float, float], ...],
    first_s: float,
    message: str,
) -> None:
    first, content = 256 * 5, bytearray(edf_plus.read_bytes())
    record_bytes, start = (len(content) - first) // 60, read_header(edf_plus).start
    expected_uv = read_recording(edf_plus, ["C3"]).signals[0].data_uv
    for i in range(60):
        at = first + i * record_bytes + 3 * 200
        content[at : at + 12] = f"+{stamps(i):.10g}\x14\x14".encode().ljust(12, b"\0")
    content[RESERVED : RESERVED + 5] = form.encode()
    edf_plus.write_bytes(content)
    if message:
        with pytest.raises(EegToolError, match=message):
            read_header(edf_plus)
        return
    header = read_header(edf_plus)
    assert header.pauses == pauses
    assert header.duration_s == pytest.approx(60 + sum(length for _, length in pauses))
    assert start
    assert header.start == start + timedelta(seconds=first_s)
    (signal,) = read_recording(edf_plus, ["C3"]).signals
    assert len(signal.data_uv) == round(header.duration_s * signal.sfreq_hz)
    recorded = np.ones(len(signal.data_uv), bool)
    for onset_s, length_s in pauses:
        stop_s = onset_s + length_s
        recorded[round(onset_s * signal.sfreq_hz) : round(stop_s * signal.sfreq_hz)] = False
        assert np.ptp(np.diff(signal.data_uv[~recorded], 2)[2:-2]) < 1000
    np.testing.assert_array_equal(signal.data_uv[recorded], expected_uv)
