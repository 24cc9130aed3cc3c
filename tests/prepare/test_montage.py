"""`prepare --montage`: strips of EEG, eyes and chin, from signals or from files; missing ones are empty."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import edfio
import numpy as np
import pytest

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch, read_conversations, read_epochs
from eegtool.core.workspace import Workspace, check_same_pictures, read_json
from eegtool.pictures.layout import EMPTY, fields
from eegtool.pictures.signals import read_signals
from eegtool.pictures.source import Signals, open_source
from eegtool.pictures.spec import PictureSpec
from eegtool.prepare import step
from eegtool.prepare.options import PrepareSettings
from eegtool.simulate.twins import load_twin, write_night

PSG = ["eeg:EEG Fpz-Cz", "eog:E1-M2", "eog:E2-M2", "emg:chin"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> PrepareSettings:
    """Write three short nights: with eyes and chin, without, and as Sleep-EDF's cassettes have them."""
    folder = tmp_path_factory.mktemp("recordings")
    write_night(load_twin("SC4001E0").condensed(2), folder, seed=1, eyes_and_chin=True)
    write_night(load_twin("SC4012E0").condensed(2), folder, seed=1)
    path, _ = write_night(load_twin("SC4021E0").condensed(2), folder, seed=1, eyes_and_chin=True)
    edf = edfio.read_edf(path)
    eeg, _, eye, _, chin = edf.signals
    envelope = np.abs(chin.data).reshape(-1, 100).mean(axis=1)
    slow = edfio.EdfSignal(envelope, 1, label="EMG submental", physical_dimension="uV")
    eye.label = "EOG horizontal"
    edfio.Edf(
        [eeg, eye, slow],
        patient=edf.patient,
        recording=edf.recording,
        starttime=edf.starttime,
        data_record_duration=30,
    ).write(path)
    root = tmp_path_factory.mktemp("montage") / "ws"
    return PrepareSettings([folder], root, montage="psg", eval_subjects="SC401", size=128)


@pytest.fixture(scope="module")
def prepared(settings: PrepareSettings) -> Workspace:
    step.run(settings)
    return Workspace(settings.workspace)


def strips(workspace: Workspace, epoch: Epoch) -> list[np.ndarray]:
    """Return the strips of a picture without their first row, int [height, width, 3]."""
    picture = np.asarray(open_source(workspace.images(epoch.split)).load(epoch.image).rgb())
    stamp = json.loads(workspace.prepare_stamp.read_text())
    spec = PictureSpec.from_protocol(stamp["protocol"])
    return [picture[f.where][1:].astype(int) for f in fields("", spec, len(spec.strips))]


def test_missing_channels_are_empty_strips(prepared: Workspace) -> None:
    empty: dict[str, set[tuple[bool, ...]]] = {}
    for epoch in read_epochs(prepared.epochs):
        found = [bool((strip == EMPTY).all()) for strip in strips(prepared, epoch)]
        empty.setdefault(epoch.recording, set()).add(tuple(found))
    assert empty == {
        "SC4001E0": {(False, False, False, False)},
        "SC4012E0": {(False, True, True, True)},
        "SC4021E0": {(False, False, True, False)},
    }


@pytest.mark.parametrize("context", [0, 1])
def test_drawn_from_signals_to_the_same_bytes(
    settings: PrepareSettings, tmp_path: Path, context: int
) -> None:
    none, png = (Workspace(tmp_path / name) for name in ("none", "png"))
    how = replace(settings, context_epochs=context)
    step.run(replace(how, workspace=none.root, pictures="none"))
    step.run(replace(how, workspace=png.root))
    for epoch in read_epochs(none.epochs):
        signals, files = (open_source(w.images(epoch.split)) for w in (none, png))
        assert isinstance(signals, Signals)
        assert signals.load(epoch.image).file() == files.load(epoch.image).file()


def test_the_chin_is_lower_in_rem_than_in_wake(prepared: Workspace) -> None:
    """As a signal of 100 Hz, and as an envelope of 1 Hz."""
    for recording in ("SC4001E0", "SC4021E0"):
        height: dict[str, list[float]] = {}
        for epoch in (e for e in read_epochs(prepared.epochs) if e.recording == recording):
            chin = strips(prepared, epoch)[3]
            inked = (chin < 250).any(axis=-1)
            height.setdefault(epoch.stage, []).append(np.median(len(chin) - inked.argmax(axis=0)))
        assert np.mean(height["REM"]) < np.mean(height["W"]) - 4, recording


def test_what_is_stored_is_filtered_by_kind(prepared: Workspace) -> None:
    psg = read_signals(prepared.signals / "SC4001E0.npy", "SC4001E0")
    eeg, left, _, chin = (c.data_uv for c in psg.channels)

    def share(data_uv: np.ndarray, low_hz: float, high_hz: float) -> float:
        power, freqs = np.abs(np.fft.rfft(data_uv)) ** 2, np.fft.rfftfreq(len(data_uv), 0.01)
        return float(power[(freqs >= low_hz) & (freqs < high_hz)].sum() / power.sum())

    assert share(eeg, 0.3, 35) > 0.98
    assert share(left, 0.3, 35) > 0.98
    assert share(chin, 10, 45) > 0.95
    slow = read_signals(prepared.signals / "SC4021E0.npy", "SC4021E0").channels
    assert [len(c.samples) for c in slow] == [30_000, 30_000, 0, 300]
    assert (slow[3].data_uv > 0).all()  # an envelope is not filtered


def test_the_protocol_says_what_is_drawn(prepared: Workspace) -> None:
    protocol = prepared.protocol()
    assert (protocol["montage"], protocol["channel"]) == ("psg", ", ".join(PSG))
    assert [f"{s['kind']}:{s['derivation']}" for s in protocol["strips"]] == PSG
    asked = json.loads(prepared.questions.read_text().splitlines()[0])["text"]
    assert asked == "Which sleep stage does this 30-second epoch of EEG, EOG and EMG show?"


def test_pictures_of_another_montage_are_refused(prepared: Workspace) -> None:
    own = prepared.protocol()
    plain = {k: v for k, v in own.items() if k not in ("montage", "strips", "channel")}
    with pytest.raises(EegToolError, match="montage psg and eeg, strips") as caught:
        check_same_pictures(own, plain, "These")
    assert "emg chin" in caught.value.what
    other = [*own["strips"][:3], own["strips"][3] | {"style": "waveform"}]
    with pytest.raises(EegToolError, match=r"pictures: strips \(eeg .* chin .* waveform"):
        check_same_pictures(own, own | {"strips": other}, "These")


def test_eeg_alone_is_drawn_as_ever(settings: PrepareSettings, tmp_path: Path) -> None:
    """Also where it is spelt with its kind; and a single other channel makes it a montage."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    plain = replace(settings, montage="eeg", limit=2, eval_subjects="")
    step.run(replace(plain, workspace=one))
    step.run(replace(plain, workspace=two, channel=["eeg:EEG Fpz-Cz"]))
    name = "eeg_images_ft/SC4001E0/SC4001E0-0003.png"
    assert (one / name).read_bytes() == (two / name).read_bytes()
    assert Workspace(two).protocol()["strips"] == []
    named = ["EEG Fpz-Cz", "eog:EOG horizontal"]
    with console.capture() as said, pytest.raises(EegToolError, match="only one subject, SC402"):
        step.run(replace(plain, workspace=three, channel=named, limit=0))
    text = " ".join(said.get().split())
    assert text.count("There is no channel 'EOG horizontal'") == 2  # who names it, needs it


def test_a_style_of_a_montage_is_drawn_again_from_the_stored_signals(
    settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = replace(settings, workspace=tmp_path / "ws")
    step.run(how)
    monkeypatch.setattr("eegtool.prepare.nights.read_recording", None)  # nothing is read again
    step.run(replace(how, style="hybrid", marks=True))
    assert Workspace(how.workspace).protocol()["strips"][0]["style"] == "hybrid"


def test_what_is_missing_is_said(settings: PrepareSettings, tmp_path: Path) -> None:
    with console.capture() as said:
        step.run(replace(settings, workspace=tmp_path / "ws"))
    text = " ".join(said.get().split())
    assert "Drawing psg pictures of 128 × 128 pixels" in text
    assert "SC4012E0: " in text
    assert "The strip of eog:E1-M2 stays empty." in text
    assert "'EOG horizontal' stands for eog:E1-M2" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"montage": "dream"}, "Unknown montage 'dream'"),
        ({"size": 64}, "would be .* pixels high"),
        ({"channel": ["eeg:EOG E1-M2"]}, "It is EOG, and was named as EEG"),
    ],
)
def test_bad_input(
    settings: PrepareSettings, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    bad = replace(settings, workspace=tmp_path / "ws", **change)  # type: ignore[arg-type]
    with pytest.raises(EegToolError) as caught:
        step.run(replace(bad, eval_subjects=""))
    assert re.search(said, str(caught.value))
    assert caught.value.fix


def test_eyes_and_chin_are_measured_where_they_are(
    settings: PrepareSettings, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "ws")
    how = replace(settings, workspace=workspace.root, template="cot", rationale="measured")
    step.run(replace(how, pictures="none"))
    facts = {
        name: read_json(workspace.night(name))["facts"]
        for name in ("SC4001E0", "SC4012E0", "SC4021E0")
    }
    measured = {
        name: [rows[0][fact] is not None for fact in ("n_rapid", "slow_eyes", "chin_db")]
        for name, rows in facts.items()
    }
    assert measured == {
        "SC4001E0": [True, True, True],
        "SC4012E0": [False, False, False],
        "SC4021E0": [True, False, True],  # one eye
    }
    texts = [row.answer for row in read_conversations(workspace.conversations)]
    assert any("blinks" in text for text in texts)
    assert all("chin tone is" in text.lower() for text in texts)
