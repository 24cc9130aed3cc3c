from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.records import read_conversations, read_epochs, read_questions
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, sha256_of
from eegtool.pictures import RENDERER, draw_png
from eegtool.pictures.signals import quantise
from eegtool.pictures.spec import PictureSpec
from eegtool.prepare import nights, step
from eegtool.prepare.nights import Prepared
from eegtool.prepare.options import PrepareSettings
from eegtool.prepare.splits import make_split
from eegtool.reasons.claims import claims_in, holds
from eegtool.reasons.facts import Facts
from eegtool.recordings.reading import read_recording
from eegtool.recordings.signals import band_pass, cut_epoch, notch, resample
from eegtool.scorings.cohorts import Night
from eegtool.scorings.hypnograms import read_hypnogram
from eegtool.simulate.twins import load_twin, write_night

NIGHTS = ("SC4001E0", "SC4012E0", "SC4021E0")


@pytest.fixture
def settings(tmp_path: Path, recordings: Path) -> PrepareSettings:
    return PrepareSettings([recordings], workspace=tmp_path / "ws", size=32, eval_subjects="SC402")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    paper = Console(file=out, width=80, highlight=False)
    monkeypatch.setattr(step, "console", paper)
    monkeypatch.setattr("eegtool.core.console.console", paper)
    return out


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the sample id of every picture that is drawn."""
    ids: list[str] = []
    draw_epochs = nights.draw_epochs

    def draw(epochs: Sequence[Any], *rest: Any) -> Iterator[bytes]:
        for epoch, png in zip(epochs, draw_epochs(epochs, *rest), strict=True):
            ids.append(epoch.sample_id)
            yield png

    monkeypatch.setattr(nights, "draw_epochs", draw)
    return ids


def ids_of(*recordings: str) -> list[str]:
    return [f"{name}-{i:04d}" for name in recordings for i in range(10)]


@pytest.fixture(autouse=True)
def _console(monkeypatch: pytest.MonkeyPatch) -> None:
    """--json turns the console of the process to the error stream; back again."""
    monkeypatch.setattr(console, "stderr", False)


def stamp_of(settings: PrepareSettings) -> dict[str, Any]:
    return dict(json.loads((settings.workspace / "prepare.json").read_text(encoding="utf-8")))


def contents(settings: PrepareSettings) -> dict[str, bytes]:
    """Every file of the workspace; of the stamp only what may not differ from run to run."""
    root = settings.workspace
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    stamp = json.loads(files["prepare.json"])
    stamp["settings"].pop("jobs")
    kept = {key: stamp[key] for key in ("settings", "inputs", "protocol", "results")}
    return files | {"prepare.json": json.dumps(kept).encode()}


def test_the_workspace_is_whole_and_joined(settings: PrepareSettings, printed: io.StringIO) -> None:
    step.run(settings)
    root = settings.workspace
    assert {path.name for path in root.iterdir()} == {
        "epochs.csv",
        "eeg_ft.json",
        "eeg_eval.jsonl",
        "eeg_images_ft",
        "eeg_images_eval",
        "nights",
        "prepare.json",
        "signals",
        "split.json",
    }
    epochs = read_epochs(root / "epochs.csv")
    assert [e.sample_id for e in epochs] == ids_of(*NIGHTS)
    assert {e.subject: e.split for e in epochs} == {"SC400": "ft", "SC401": "ft", "SC402": "eval"}
    assert Counter(e.stage for e in epochs) == dict.fromkeys(STAGES, 6)
    assert all(e.onset_s == 30.0 * e.epoch_index for e in epochs)

    sides = {split: [e for e in epochs if e.split == split] for split in ("ft", "eval")}
    conversations = read_conversations(root / "eeg_ft.json")
    questions = read_questions(root / "eeg_eval.jsonl")
    assert [c.sample_id for c in conversations] == [e.sample_id for e in sides["ft"]]
    assert [q.sample_id for q in questions] == [e.sample_id for e in sides["eval"]]
    assert [c.answer for c in conversations] == [e.stage for e in sides["ft"]]
    assert [q.category for q in questions] == [e.stage for e in sides["eval"]]
    for split, rows in (("ft", conversations), ("eval", questions)):
        folder = root / f"eeg_images_{split}"
        pictures = {str(p.relative_to(folder)) for p in folder.rglob("*.png")}
        assert pictures == {e.image for e in sides[split]}
        assert [row.images for row in rows] == [(e.image, e.image) for e in sides[split]]
        # No stage in a name, in any spelling.
        assert all(re.fullmatch(r"(SC4\d{3}E0)/\1-\d{4}\.png", name) for name in pictures)
    assert {path.stem for path in (root / "nights").iterdir()} == set(NIGHTS)
    split = json.loads((root / "split.json").read_text())
    assert (split["ft_subjects"], split["eval_subjects"]) == (["SC400", "SC401"], ["SC402"])
    assert split["digest"] == stamp_of(settings)["protocol"]["split_sha256"]


def test_a_picture_shows_the_filtered_epoch_of_its_row(
    settings: PrepareSettings, recordings: Path
) -> None:
    step.run(settings)
    spec = PictureSpec(32)
    (signal,) = read_recording(recordings / "SC4012E0-PSG.edf", ["EEG Fpz-Cz"]).signals
    data_uv = stored(band_pass(signal.data_uv, 100.0, 0.3, 35.0))
    for i in (0, 4, 9):
        epoch = (cut_epoch(data_uv, 100.0, 30.0 * i), 100.0)
        assert picture(settings, "SC4012E0", i) == draw_png("spectrogram", [epoch], spec)


def stored(data_uv: np.ndarray) -> np.ndarray:
    """Return a signal as it is read back from what is stored, a 1/64 µV from the true one at most."""
    (channel,) = quantise("", "", 0.0, [("", data_uv, 100.0)]).channels
    assert np.abs(channel.data_uv - data_uv).max() <= 1 / 64
    return channel.data_uv


def picture(settings: PrepareSettings, recording: str, i: int) -> bytes:
    (path,) = settings.workspace.glob(f"eeg_images_*/{recording}/{recording}-{i:04d}.png")
    return path.read_bytes()


def test_channels_are_stacked_in_the_order_of_the_flags(
    settings: PrepareSettings, recordings: Path
) -> None:
    names = ["EEG Pz-Oz", "EEG Fpz-Cz"]
    step.run(replace(settings, channel=names, size=64))
    signals = read_recording(recordings / "SC4012E0-PSG.edf", names).signals
    filtered = [stored(band_pass(signal.data_uv, 100.0, 0.3, 35.0)) for signal in signals]
    epochs = [(cut_epoch(data_uv, 100.0, 90.0), 100.0) for data_uv in filtered]
    found = picture(settings, "SC4012E0", 3)
    assert found == draw_png("spectrogram", epochs, PictureSpec(64))
    assert found != draw_png("spectrogram", epochs[::-1], PictureSpec(64))
    assert stamp_of(settings)["protocol"]["channel"] == "EEG Pz-Oz, EEG Fpz-Cz"


def test_notch_and_resampling_reach_the_picture(
    settings: PrepareSettings, recordings: Path
) -> None:
    step.run(replace(settings, notch_hz=12.0, resample_hz=128.0, high_hz=30.0))
    (signal,) = read_recording(recordings / "SC4012E0-PSG.edf", ["EEG Fpz-Cz"]).signals

    def drawn(*, notched: bool, resampled: bool) -> bytes:
        data_uv = notch(signal.data_uv, 100.0, 12.0) if notched else signal.data_uv
        data_uv = band_pass(data_uv, 100.0, 0.3, 30.0)
        if resampled:
            data_uv = resample(data_uv, 100.0, 128.0)
        sfreq_hz = 128.0 if resampled else 100.0
        epoch = (cut_epoch(stored(data_uv), sfreq_hz, 120.0), sfreq_hz)
        return draw_png("spectrogram", [epoch], PictureSpec(32))

    assert picture(settings, "SC4012E0", 4) == drawn(notched=True, resampled=True)
    assert drawn(notched=True, resampled=True) != drawn(notched=False, resampled=True)
    assert drawn(notched=True, resampled=True) != drawn(notched=True, resampled=False)
    protocol = stamp_of(settings)["protocol"]
    assert (protocol["notch_hz"], protocol["resample_hz"]) == (12.0, 128.0)


def test_the_stamp_tells_the_protocol(settings: PrepareSettings, recordings: Path) -> None:
    step.run(replace(settings, channel=["eeg fpz-cz"]))
    stamp = stamp_of(settings)
    assert stamp["status"] == "complete"
    protocol = stamp["protocol"]
    assert protocol["channel"] == "EEG Fpz-Cz"  # as the files spell it, however it was typed
    assert protocol["simulated"] is True
    assert protocol["eval_subjects"] == ["SC402"]
    assert (protocol["low_hz"], protocol["high_hz"]) == (0.3, 35.0)
    assert (protocol["style"], protocol["size"]) == ("spectrogram", 32)
    assert set(stamp["inputs"]) == {
        f"{name}: {path.name}" for name in NIGHTS for path in recordings.glob(f"{name[:7]}*")
    }
    assert stamp["results"]["left_out"] == {}
    assert stamp["results"]["recordings"]["SC4021E0"] == {
        "split": "eval",
        "channel": "EEG Fpz-Cz",
        "signals_sha256": sha256_of(settings.workspace / "signals" / "SC4021E0.npy"),
        "kept": 10,
        "stages": dict.fromkeys(STAGES, 2),
        "dropped": {},
        "trimmed": 0,
        "notes": [],
    }
    assert stamp["results"]["epochs"] == {"ft": 20, "eval": 10}
    assert "finished" not in stamp  # a run that was interrupted ends with the same bytes


def test_running_again_and_in_parallel_gives_the_same_bytes(settings: PrepareSettings) -> None:
    step.run(settings)
    first = contents(settings)
    step.run(settings)
    assert contents(settings) == first
    step.run(replace(settings, jobs=2))
    assert contents(settings) == first
    assert len(first) == 5 + 3 * len(NIGHTS) + 30


@pytest.mark.parametrize("style", ["spectrogram", "waveform"])
@pytest.mark.parametrize("template", ["stage", "options"])
def test_style_and_template_reach_the_files(
    settings: PrepareSettings, style: str, template: str, printed: io.StringIO
) -> None:
    step.run(replace(settings, style=style, template=template))
    first = next((settings.workspace / "eeg_images_ft").rglob("*.png"))
    with Image.open(first) as image:
        corner = image.convert("RGB").getpixel((0, 0))
    assert (corner == (255, 255, 255)) == (style == "waveform")
    (text,) = {q.text for q in read_questions(settings.workspace / "eeg_eval.jsonl")}
    assert ("Answer with one of" in text) == (template == "options")
    rows = read_conversations(settings.workspace / "eeg_ft.json")
    assert {row.question for row in rows} == {text}
    assert all(row.answer in STAGES for row in rows)
    hz = {"spectrogram": "30", "waveform": "0.533"}[style]
    assert f"rhythms show up to {hz} Hz." in printed.getvalue()


def test_moving_a_subject_leaves_no_picture_behind(settings: PrepareSettings) -> None:
    step.run(settings)
    step.run(replace(settings, eval_subjects=" SC400 , "))
    root = settings.workspace
    assert {p.name for p in (root / "eeg_images_eval").iterdir()} == {"SC4001E0"}
    assert {p.name for p in (root / "eeg_images_ft").iterdir()} == {"SC4012E0", "SC4021E0"}


def test_unscored_time_is_dropped_and_counted(
    settings: PrepareSettings, recordings: Path, printed: io.StringIO
) -> None:
    twin = load_twin("SC4012E0").condensed(2)
    runs = list(twin.hypnogram)
    runs[2] = runs[2]._replace(text="Movement time")
    runs[3] = runs[3]._replace(text="Sleep stage ?")  # two epochs of N3
    write_night(replace(twin, hypnogram=tuple(runs)), recordings, seed=1)
    step.run(replace(settings, wake_margin=0.0))
    result = stamp_of(settings)["results"]["recordings"]["SC4012E0"]
    assert result["dropped"] == {"movement time": 1, "unscored": 2}
    assert result["trimmed"] == 2
    assert result["kept"] == 5
    indices = [
        e.epoch_index
        for e in read_epochs(settings.workspace / "epochs.csv")
        if e.recording == "SC4012E0"
    ]
    assert indices == [1, 2, 6, 7, 8]
    assert re.search(r"^SC4012E0 +SC401 +ft +5 +0 +2 +1 +0 +2 +1 +2 +2$", printed.getvalue(), re.M)


def spoil(folder: Path, recording: str = "SC4001E0") -> None:
    (folder / f"{recording}-PSG.edf").write_text("not EDF")


def test_a_bad_recording_is_reported_and_the_others_go_on(
    settings: PrepareSettings, recordings: Path, printed: io.StringIO
) -> None:
    """Every way to be bad has its case in ``test_bad_inputs.py``."""
    spoil(recordings)
    step.run(settings)
    left_out = stamp_of(settings)["results"]["left_out"]
    assert list(left_out) == ["SC4001E0"]
    what, fix = left_out["SC4001E0"].split("\n")
    assert "is no EDF or BDF file" in what
    assert fix
    assert set(stamp_of(settings)["results"]["recordings"]) == {"SC4012E0", "SC4021E0"}
    assert len(read_epochs(settings.workspace / "epochs.csv")) == 20
    assert f"left out SC4001E0: {what}\n{fix}\n" in printed.getvalue()
    assert "Left out 1 of 3 recordings." in printed.getvalue()


def test_names_with_brackets_are_printed_as_they_are(
    settings: PrepareSettings, recordings: Path, printed: io.StringIO
) -> None:
    odd = recordings.rename(recordings.with_name("night [bold] [x]"))
    spoil(odd)
    workspace = settings.workspace.with_name("ws [red]")
    step.run(replace(settings, recordings=[odd], workspace=workspace))
    assert f"{odd}/SC4001E0-PSG.edf is no EDF" in printed.getvalue()
    assert f"Workspace: {workspace}\n" in printed.getvalue()


def test_nothing_is_written_if_all_are_broken(settings: PrepareSettings, recordings: Path) -> None:
    for night in NIGHTS:
        spoil(recordings, night)
    with pytest.raises(EegToolError) as raised:
        step.run(settings)
    assert raised.value.what == "No recording can be used (3 left out)."
    for night in NIGHTS:
        assert f"{night}: {recordings}/{night}-PSG.edf is no EDF" in raised.value.fix
    assert raised.value.fix.count("Give the recording itself") == 1  # the same advice is given once
    assert not list(settings.workspace.iterdir())


def test_a_single_broken_recording_says_why() -> None:
    unusable = [Prepared(night("SC4001E0"), problem=EegToolError("It is broken.", "Fix it."))]
    assert str(step._refusal(unusable)) == "It is broken.\nFix it."


def test_one_subject_is_refused_before_anything_is_drawn(
    settings: PrepareSettings, recordings: Path, drawn: list[str]
) -> None:
    with pytest.raises(EegToolError, match="only one subject, SC400"):
        step.run(replace(settings, recordings=[recordings / "SC4001E0-PSG.edf"], eval_subjects=""))
    assert drawn == []
    assert not settings.workspace.exists()


def test_one_subject_that_is_left_cannot_be_split(
    settings: PrepareSettings, recordings: Path
) -> None:
    spoil(recordings)
    spoil(recordings, "SC4012E0")
    with pytest.raises(EegToolError, match="only one subject, SC402"):
        step.run(settings)
    assert not (settings.workspace / "epochs.csv").exists()


def night(recording: str) -> Night:
    return Night("sleep-edf", recording, recording[:5], 1, Path("x.edf"), None)


def test_long_lists_of_reasons_are_cut() -> None:
    unusable = [
        Prepared(
            night(f"SC4{i:02d}1E0"),
            problem=EegToolError(f"reason {i}", "fix it" if i < 4 else "fix it otherwise"),
        )
        for i in range(12)
    ]
    error = step._refusal(unusable)
    assert error.fix.splitlines() == [
        *(f"SC4{i:02d}1E0: reason {i}" for i in range(5)),
        "... and 7 more.",
        "fix it",
        "fix it otherwise",
    ]


def test_an_earlier_workspace_survives_a_failure(
    settings: PrepareSettings, recordings: Path
) -> None:
    step.run(settings)
    before = contents(settings)
    # The evaluation side fails only when its signal is read, when others have been drawn.
    path = recordings / "SC4021E0-PSG.edf"
    content = path.read_bytes()
    path.write_bytes(content[:768] + bytes(len(content) - 768))
    with pytest.raises(EegToolError) as raised:
        step.run(replace(settings, style="waveform"))
    assert raised.value.what == "No recording of subject SC402 can be used (1 left out)."
    assert "SC4021E0: Channel 'EEG Fpz-Cz'" in raised.value.fix
    assert published(settings) == before


def published(settings: PrepareSettings) -> dict[str, bytes]:
    return {k: v for k, v in contents(settings).items() if not k.startswith(".prepare.tmp")}


def test_an_earlier_workspace_survives_ctrl_c(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    step.run(settings)
    before = contents(settings)
    drawn: list[str] = []

    def draw_some(style: str, *rest: Any) -> bytes:
        drawn.append(style)
        if len(drawn) == 15:
            raise KeyboardInterrupt
        return draw_png(style, *rest)

    monkeypatch.setattr("eegtool.prepare.nights.draw_png", draw_some)
    with pytest.raises(KeyboardInterrupt):
        step.run(replace(settings, style="waveform"))
    assert len(drawn) == 15
    assert published(settings) == before


def test_a_linked_picture_folder_is_refused_before_anything_is_drawn(
    settings: PrepareSettings, tmp_path: Path
) -> None:
    step.run(settings)
    pictures, elsewhere = settings.workspace / "eeg_images_ft", tmp_path / "big_disk"
    pictures.rename(elsewhere)
    pictures.symlink_to(elsewhere)
    with pytest.raises(EegToolError, match="eeg_images_ft is a link"):
        step.run(settings)
    assert (settings.workspace / "prepare.json").exists()
    assert any(elsewhere.iterdir())


def test_leftovers_of_a_killed_run_are_cleared_away(settings: PrepareSettings) -> None:
    for part in ("SC4001E0.0123456789abcdef.part", "SC4091E0", "SC4001E0"):
        left = settings.workspace / ".prepare.tmp" / part / "SC4001E0-0000.png"
        left.parent.mkdir(parents=True)
        left.touch()
    step.run(settings)
    assert not (settings.workspace / ".prepare.tmp").exists()
    assert len(list((settings.workspace / "eeg_images_ft").rglob("*.png"))) == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cohort": "sleepedf"}, "Unknown cohort 'sleepedf'"),
        ({"style": "wave"}, "Unknown style 'wave'"),
        ({"template": "option"}, "Unknown question template 'option'"),
        ({"low_hz": 40.0}, "--low-hz 40 is not below --high-hz 35"),
        ({"high_hz": 50.0}, "No recording can be used"),
        ({"channel": ["Fpz-Cz", "Pz-Oz"]}, "2 channels do not fit a picture of 32 pixels"),
        ({"balance": "under"}, "Unknown --balance 'under'"),
        ({"rationale": "measured"}, "--rationale measured does not fit --template stage"),
        ({"rationale": "guessed"}, "Unknown rationale 'guessed'"),
        ({"folds": 2}, "--eval-subjects and --folds each say who is evaluated"),
        ({"eval_subjects": "", "folds": 4}, "3 subjects can be cut into 2 to 3 folds"),
        ({"eval_subjects": "", "split_from": Path("nowhere")}, "nowhere does not exist"),
        ({"subject_pattern": "(", "cohort": "generic"}, "is not a regular expression"),
        ({"download": "sleep-edf", "recordings": [Path("a"), Path("b")]}, "needs one folder"),
        ({"channel": ["C3-A2"]}, "No recording can be used"),
        ({"eval_subjects": "SC409"}, "there is no subject 'SC409'"),
        ({"eval_subjects": "SC400, SC401,SC402"}, "names all subjects"),
        ({"recordings": [Path("nowhere")]}, "nowhere does not exist"),
    ],
)
def test_wrong_settings(settings: PrepareSettings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EegToolError, match=message) as raised:
        step.run(replace(settings, **changes))
    assert raised.value.fix
    assert not list(settings.workspace.glob("*"))


def test_workspace_that_cannot_be_written(settings: PrepareSettings) -> None:
    settings.workspace.write_text("a file")
    with pytest.raises(EegToolError, match="cannot be written") as raised:
        step.run(settings)
    assert "--workspace" in raised.value.fix
    assert settings.workspace.read_text() == "a file"


def test_the_summary_of_a_whole_cohort_fits_80_columns() -> None:
    staged = tuple(enumerate(np.repeat(STAGES, 12_345).tolist()))
    dropped = {"movement time": 1234, "unscored": 98_765}
    many = [
        Prepared(night(f"SC4{i:02d}1E0"), staged=staged, n_trimmed=345_678, dropped=dropped)
        for i in range(2)
    ]
    split = make_split({p.night.subject: Counter() for p in many}, named=["SC401"])
    out = io.StringIO()
    Console(file=out, width=80).print(step.summary(many, split))
    header, *_, total = (line.rstrip() for line in out.getvalue().splitlines())
    assert header.split() == [
        *("recording", "subject", "side", "kept"),
        *(*STAGES, "move", "?", "trimmed"),
    ]
    assert total.split() == ["all", "123450", *["24690"] * 5, "2468", "197530", "691356"]
    assert len(out.getvalue().splitlines()) == 4


# What is kept from run to run


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"template": "options"}, False),
        ({"template": "cot", "rationale": "template"}, False),
        ({"template": "cot", "rationale": "measured"}, False),
        ({"balance": "undersample"}, False),
        ({"jobs": 2}, False),
        ({"eval_subjects": "SC400,SC401"}, True),
        ({"eval_subjects": "", "folds": 3, "fold": 1, "seed": 3}, None),
        ({"eval_subjects": "", "eval_fraction": 0.6}, True),
    ],
    ids=str,
)
def test_what_is_not_about_pictures_never_redraws(
    settings: PrepareSettings,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    moved: bool | None,
) -> None:
    step.run(settings)
    before = pictures(settings)
    monkeypatch.setattr(nights, "draw_png", lambda *_: pytest.fail("a picture is drawn again"))
    step.run(replace(settings, **changes))
    after = pictures(settings)
    assert set(after.values()) == set(before.values())
    epochs = read_epochs(settings.workspace / "epochs.csv")
    assert set(after) == {f"eeg_images_{e.split}/{e.image}" for e in epochs}
    if moved is not None:
        assert (after != before) == moved
    other = replace(settings, **changes, workspace=settings.workspace.with_name("other"))
    monkeypatch.undo()
    step.run(other)
    assert pictures(other) == after


def pictures(settings: PrepareSettings) -> dict[str, bytes]:
    return {k: v for k, v in contents(settings).items() if k.endswith(".png")}


@pytest.mark.parametrize(
    "changes",
    [
        {"style": "waveform"},
        {"size": 40},
        {"amplitude_uv": 50.0},
        {"marks": True},
        {"channel": ["EEG Pz-Oz"]},
        {"low_hz": 0.5},
        {"high_hz": 30.0},
        {"notch_hz": 12.0},
        {"resample_hz": 128.0},
        {"wake_margin": 0.5},
    ],
    ids=str,
)
def test_what_is_about_pictures_redraws_all(
    settings: PrepareSettings, drawn: list[str], changes: dict[str, Any]
) -> None:
    settings = replace(settings, style="hybrid")
    step.run(settings)
    before = contents(settings)
    drawn.clear()
    step.run(replace(settings, **changes))
    assert drawn == ids_of(*NIGHTS)
    after = contents(settings)
    same = {name for name in after if after[name] == before[name]}
    signals = {f"signals/{name}.{kind}" for name in NIGHTS for kind in ("npy", "json")}
    drawing = not changes.keys().isdisjoint(("style", "size", "amplitude_uv", "marks"))
    kept = signals if drawing or "wake_margin" in changes else set()
    assert {name for name in same if not name.endswith(".png")} == kept | {
        *("epochs.csv", "eeg_ft.json", "eeg_eval.jsonl", "split.json")
    }
    # A wider margin of wake finds nothing in nights this short, but it may.
    n_pictures = sum(name.endswith(".png") for name in same)
    assert n_pictures == 30 if "wake_margin" in changes else n_pictures < 5


def test_another_drawing_needs_no_recording(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_once = replace(settings, workspace=tmp_path / "at_once", style="hybrid", size=64)
    step.run(at_once)
    step.run(settings)
    monkeypatch.setattr(nights, "read_recording", None)
    step.run(replace(settings, style="hybrid", size=64))
    assert pictures(settings) == pictures(at_once)
    step.run(settings)  # and back again
    with pytest.raises(EegToolError, match="NoneType"):
        step.run(replace(settings, low_hz=0.5))


def test_without_picture_files(
    settings: PrepareSettings, drawn: list[str], printed: io.StringIO
) -> None:
    """Everything else is as with them; and they come and go without the recordings being read."""
    step.run(settings)
    before = contents(settings)
    none = replace(settings, pictures="none")
    drawn.clear()
    step.run(replace(none, workspace=settings.workspace.with_name("none")))
    step.run(none)
    assert drawn == []
    after = contents(none)
    at_once = contents(replace(none, workspace=settings.workspace.with_name("none")))
    assert {name for name in after if after[name] != at_once[name]} == {"prepare.json"}  # its path
    assert before.keys() - after.keys() == {name for name in before if name.endswith(".png")}
    cards = {f"nights/{name}.json" for name in NIGHTS}
    assert {name for name in after if after[name] != before[name]} == {"prepare.json", *cards}
    stamp = stamp_of(none)
    assert (stamp["pictures"], stamp["protocol"]["renderer"]) == ("none", RENDERER)
    step.run(settings)
    assert drawn == ids_of(*NIGHTS)
    assert contents(settings) == before


def test_another_recording_is_the_only_one_drawn(
    settings: PrepareSettings, recordings: Path, tmp_path: Path, drawn: list[str]
) -> None:
    later = [shutil.move(path, tmp_path) for path in recordings.glob("SC401*")]
    step.run(settings)
    assert drawn == ids_of("SC4001E0", "SC4021E0")
    drawn.clear()
    for path in later:
        shutil.move(path, recordings)
    step.run(settings)
    assert drawn == ids_of("SC4012E0")
    at_once = replace(settings, workspace=tmp_path / "at_once")
    step.run(at_once)
    assert pictures(settings) == pictures(at_once)


def test_a_recording_that_is_gone_takes_its_pictures_with_it(
    settings: PrepareSettings, recordings: Path, drawn: list[str]
) -> None:
    step.run(settings)
    drawn.clear()
    for path in recordings.glob("SC401*"):
        path.unlink()
    step.run(settings)
    assert drawn == []
    assert not [name for name in contents(settings) if "SC4012E0" in name]
    assert {e.recording for e in read_epochs(settings.workspace / "epochs.csv")} == {
        *("SC4001E0", "SC4021E0")
    }


def damage(folder: Path) -> None:
    path = folder / "SC4012E0-0003.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # of the same length, with the same time
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        damage,
        lambda folder: (folder / "SC4012E0-0003.png").unlink(),
        lambda folder: (folder / "SC4012E0-0010.png").write_bytes(b"nobody's"),
        lambda folder: (folder / "SC4012E0-0003.png").rename(folder / "SC4012E0-0010.png"),
        shutil.rmtree,
    ],
    ids=["damaged", "deleted", "added", "renamed", "all deleted"],
)
def test_what_is_not_whole_is_drawn_again(
    settings: PrepareSettings, drawn: list[str], harm: Callable[[Path], object]
) -> None:
    step.run(settings)
    before = contents(settings)
    drawn.clear()
    harm(settings.workspace / "eeg_images_ft" / "SC4012E0")
    step.run(settings)
    assert drawn == ids_of("SC4012E0")
    assert contents(settings) == before


def test_what_others_leave_among_the_pictures_is_cleared_away(settings: PrepareSettings) -> None:
    step.run(settings)
    before = contents(settings)
    (settings.workspace / "eeg_images_ft" / ".DS_Store").touch()
    (settings.workspace / "eeg_images_eval" / "old").mkdir()
    step.run(settings)
    assert contents(settings) == before
    assert not (settings.workspace / "eeg_images_eval" / "old").exists()


def test_any_name_will_do(settings: PrepareSettings, recordings: Path) -> None:
    """Recordings named like what prepare itself writes into its folders."""
    rows = ["recording,hypnogram,subject,night"]
    for name, new in zip(NIGHTS, ("run", "eval", "prepare"), strict=True):
        (recordings / f"{name}-PSG.edf").rename(recordings / f"{new}.edf")
        (hypnogram,) = recordings.glob(f"{name[:7]}*-Hypnogram.edf")
        rows.append(f"{new}.edf,{hypnogram.name},{new},1")
    (recordings / "pairs.csv").write_text("\n".join(rows))
    step.run(replace(settings, eval_subjects="run"))
    assert list(stamp_of(settings)["results"]["recordings"]) == ["eval", "prepare", "run"]
    assert len(pictures(settings)) == 30


@pytest.mark.parametrize("card", ["", "{}", "[1]", None], ids=["empty", "{}", "list", "missing"])
def test_without_its_card_a_recording_is_drawn_again(
    settings: PrepareSettings, drawn: list[str], card: str | None
) -> None:
    step.run(settings)
    before = contents(settings)
    drawn.clear()
    path = settings.workspace / "nights" / "SC4012E0.json"
    path.unlink()
    if card is not None:
        path.write_text(card)
    step.run(settings)
    assert drawn == ids_of("SC4012E0")
    assert contents(settings) == before


@pytest.mark.parametrize("kind", ["PSG", "Hypnogram"])
def test_a_changed_file_is_noticed(
    settings: PrepareSettings, recordings: Path, drawn: list[str], kind: str
) -> None:
    step.run(settings)
    before = contents(settings)
    drawn.clear()
    twin = load_twin("SC4012E0").condensed(2)
    runs = list(twin.hypnogram)
    runs[2] = runs[2]._replace(text="Sleep stage 1")
    new = recordings.with_name("new")
    new.mkdir()
    for path in write_night(replace(twin, hypnogram=tuple(runs)), new, seed=2):
        if kind in path.name:
            shutil.copy(path, recordings)
    step.run(settings)
    assert drawn == ids_of("SC4012E0")
    changed = {k for k, v in contents(settings).items() if v != before[k]}
    assert "nights/SC4012E0.json" in changed
    assert ("epochs.csv" in changed) == (kind == "Hypnogram")
    assert any(name.endswith(".png") for name in changed) == (kind == "PSG")


@pytest.mark.parametrize(
    ("folder", "kind"),  # folders before and behind the recordings in order
    [
        ("scored", "PSG"),
        ("scored", "Hypnogram"),
        ("A scored", "PSG"),
        ("A scored", "Hypnogram"),
    ],
)
def test_a_changed_file_is_noticed_where_both_have_one_name(
    settings: PrepareSettings, recordings: Path, drawn: list[str], folder: str, kind: str
) -> None:
    (recordings / folder).mkdir()
    rows = ["recording,hypnogram,subject,night"]
    for name in NIGHTS:
        (hypnogram,) = recordings.glob(f"{name[:7]}*-Hypnogram.edf")
        hypnogram.rename(recordings / folder / f"{name}-PSG.edf")
        rows.append(f"{name}-PSG.edf,{folder}/{name}-PSG.edf,{name[:5]},1")
    (recordings / "pairs.csv").write_text("\n".join(rows))
    step.run(settings)
    drawn.clear()

    twin = load_twin("SC4012E0").condensed(2)
    runs = tuple(run._replace(text="Sleep stage 2") for run in twin.hypnogram)
    new = recordings.with_name("new")
    new.mkdir()
    psg, hypnogram = write_night(replace(twin, hypnogram=runs), new, seed=2)
    if kind == "PSG":
        psg.replace(recordings / "SC4012E0-PSG.edf")
    else:
        hypnogram.replace(recordings / folder / "SC4012E0-PSG.edf")
    step.run(settings)
    assert drawn == [f"SC4012E0-PSG-{i:04d}" for i in range(10)]


def test_what_was_drawn_before_an_interruption_is_kept(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[str] = []

    def draw_some(style: str, *rest: Any) -> bytes:
        drawn.append(style)
        if len(drawn) == 15:
            raise KeyboardInterrupt
        return draw_png(style, *rest)

    monkeypatch.setattr(nights, "draw_png", draw_some)
    with pytest.raises(KeyboardInterrupt):
        step.run(settings)
    step.run(settings)
    assert len(drawn) == 15 + 20  # the first recording was whole
    undisturbed = replace(settings, workspace=tmp_path / "undisturbed")
    step.run(undisturbed)
    assert pictures(settings) == pictures(undisturbed)
    assert not (settings.workspace / ".prepare.tmp").exists()


@pytest.fixture
def interrupted(settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Whole workspace, and one recording drawn in another style before that run was interrupted."""
    step.run(settings)
    before = contents(settings)
    prepare_night = nights.prepare_night

    def prepare_one(of: Night, *rest: Any) -> Prepared:
        if of.recording != "SC4001E0":
            raise KeyboardInterrupt
        return prepare_night(of, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(step, "prepare_night", prepare_one)
        with pytest.raises(KeyboardInterrupt):
            step.run(replace(settings, style="waveform"))
    assert (settings.workspace / ".prepare.tmp" / "SC4001E0.json").exists()
    return before


def test_an_interrupted_run_can_be_given_up(
    settings: PrepareSettings, interrupted: dict[str, bytes], drawn: list[str]
) -> None:
    step.run(settings)
    assert contents(settings) == interrupted
    step.run(settings)
    assert drawn == []


def test_what_an_interrupted_run_drew_of_other_recordings_is_cleared_away(
    settings: PrepareSettings, interrupted: dict[str, bytes], recordings: Path
) -> None:
    for path in recordings.glob("SC400*"):
        path.unlink()
    step.run(settings)
    assert not [name for name in contents(settings) if "SC4001E0" in name]
    assert not (settings.workspace / ".prepare.tmp").exists()


def test_a_full_disk_while_drawing(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch, drawn: list[str]
) -> None:
    step.run(settings)
    before = contents(settings)
    drawn.clear()
    write_bytes, written = Path.write_bytes, []

    def write(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) > 15:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        with pytest.raises(EegToolError) as raised:
            step.run(replace(settings, style="waveform"))
    what = f"The workspace {settings.workspace} cannot be written: No space left on device."
    assert raised.value.what == what
    assert "what is drawn is kept" in raised.value.fix
    assert len(drawn) == 16
    assert published(settings) == before
    drawn.clear()
    step.run(replace(settings, style="waveform"))
    assert drawn == ids_of(*NIGHTS[1:])  # the first one was whole


def test_a_disk_that_fails_a_worker(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process nothing can be patched: it gets a folder to make that no disk takes."""
    step.run(settings)
    before = contents(settings)
    other = replace(settings, style="waveform", jobs=2)
    with monkeypatch.context() as patch:
        patch.setattr(
            step, "open_staging_dir", lambda root: (root / ".prepare.tmp").mkdir() or "x" * 300
        )
        with pytest.raises(EegToolError, match="/ws cannot be written: File name too long"):
            step.run(other)
    assert contents(settings) == before
    step.run(other)
    assert len(pictures(settings)) == 30


def test_a_full_disk_at_the_very_end(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        write_text = Path.write_text

        def write(path: Path, text: str, *args: Any, **kwargs: Any) -> int:
            if "prepare.json" in path.name:
                raise OSError(
                    errno.ENOSPC, os.strerror(errno.ENOSPC)
                )  # as a full disk, without a name
            return write_text(path, text, *args, **kwargs)

        patch.setattr(Path, "write_text", write)
        with pytest.raises(EegToolError, match="cannot be written: No space left on device"):
            step.run(settings)
    assert not (settings.workspace / "prepare.json").exists()
    monkeypatch.setattr(nights, "draw_png", lambda *_: pytest.fail("a picture is drawn again"))
    step.run(settings)
    assert len(pictures(settings)) == 30


def test_two_runs_at_once_do_not_mix(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second takes the staging directory over; the first one notices and stops."""
    calls = []

    def draw_and_start_another(style: str, *rest: Any) -> bytes:
        calls.append(style)
        if len(calls) == 15:
            step.run(replace(settings, style="waveform"))
        return draw_png(style, *rest)

    monkeypatch.setattr(nights, "draw_png", draw_and_start_another)
    with pytest.raises(EegToolError, match=r"(cannot be written|Another `eegvlm prepare`)"):
        step.run(settings)
    assert stamp_of(settings)["protocol"]["style"] == "waveform"
    assert len(pictures(settings)) == 30


# Split, questions, answers


@pytest.fixture
def uneven(settings: PrepareSettings, recordings: Path) -> PrepareSettings:
    """The recordings, with more epochs of N2 than of other stages on the fine-tune side."""
    for name, changed in (("SC4001E0", (1, 3)), ("SC4012E0", (3, 5))):
        twin = load_twin(name).condensed(2)
        runs = list(twin.hypnogram)
        for i in changed:
            runs[i] = runs[i]._replace(text="Sleep stage 2")
        write_night(replace(twin, hypnogram=tuple(runs)), recordings, seed=1)
    return settings


def test_undersampling_is_for_the_fine_tune_side_only(uneven: PrepareSettings) -> None:
    step.run(uneven)
    root = uneven.workspace
    epochs = read_epochs(root / "epochs.csv")
    of_side = {side: [e for e in epochs if e.split == side] for side in ("ft", "eval")}
    stages = Counter(e.stage for e in of_side["ft"])
    assert len(set(stages.values())) > 1
    everything = pictures(uneven)

    step.run(replace(uneven, balance="undersample"))
    balanced = [e for e in read_epochs(root / "epochs.csv") if e.split == "ft"]
    assert Counter(e.stage for e in balanced) == dict.fromkeys(stages, min(stages.values()))
    kept = {e.sample_id for e in balanced}
    assert balanced == [e for e in of_side["ft"] if e.sample_id in kept]  # in the order they had
    rows = read_conversations(root / "eeg_ft.json")
    assert [row.sample_id for row in rows] == [e.sample_id for e in balanced]
    assert [row.answer for row in rows] == [e.stage for e in balanced]
    assert [e for e in read_epochs(root / "epochs.csv") if e.split == "eval"] == of_side["eval"]
    questions = read_questions(root / "eeg_eval.jsonl")
    assert [q.sample_id for q in questions] == [e.sample_id for e in of_side["eval"]]
    assert pictures(uneven) == everything  # the next run may want the others
    assert stamp_of(uneven)["results"]["epochs"] == {"ft": len(balanced), "eval": 10}
    assert stamp_of(uneven)["protocol"]["balance"] == "undersample"


def test_a_split_is_used_again(settings: PrepareSettings, printed: io.StringIO) -> None:
    drawn_split = replace(settings, eval_subjects="", seed=7)
    step.run(drawn_split)
    split = settings.workspace / "split.json"
    other = replace(
        settings,
        workspace=settings.workspace.with_name("other"),
        eval_subjects="",
        seed=8,
        split_from=split,
    )
    step.run(other)
    again = json.loads((other.workspace / "split.json").read_text())
    first = json.loads(split.read_text())
    assert [again[key] for key in ("eval_subjects", "ft_subjects", "digest")] == [
        first[key] for key in ("eval_subjects", "ft_subjects", "digest")
    ]
    assert pictures(other) == pictures(drawn_split)
    step.run(replace(other, workspace=settings.workspace))  # from its own file, too
    assert json.loads(split.read_text())["eval_subjects"] == first["eval_subjects"]


def test_subjects_that_only_the_split_knows_are_told(
    settings: PrepareSettings, recordings: Path, printed: io.StringIO, tmp_path: Path
) -> None:
    split = tmp_path / "split.json"
    sides = {"eval_subjects": ["SC402"], "ft_subjects": ["SC400", "SC401", "SC409"]}
    split.write_text(json.dumps(sides))
    step.run(replace(settings, eval_subjects="", split_from=split))
    said = " ".join(printed.getvalue().split())
    assert said.count("without a recording here: SC409.") == 1
    sides["ft_subjects"].remove("SC400")
    split.write_text(json.dumps(sides))
    with pytest.raises(EegToolError, match="does not know these subjects: SC400"):
        step.run(replace(settings, eval_subjects="", split_from=split))


def test_folds_evaluate_every_subject_once(settings: PrepareSettings) -> None:
    evaluated = []
    for fold in range(3):
        step.run(replace(settings, eval_subjects="", folds=3, fold=fold))
        evaluated += stamp_of(settings)["protocol"]["eval_subjects"]
    assert sorted(evaluated) == ["SC400", "SC401", "SC402"]


def test_measured_reasons_end_with_the_true_stage(settings: PrepareSettings) -> None:
    step.run(replace(settings, template="cot", rationale="measured"))
    root = settings.workspace
    stage_of = {e.sample_id: e.stage for e in read_epochs(root / "epochs.csv")}
    facts_of: dict[str, Facts] = {}
    for name in NIGHTS:
        card = json.loads((root / "nights" / f"{name}.json").read_text())
        ids = [f"{name}-{i:04d}" for i, _ in card["staged"]]
        facts_of |= zip(ids, map(Facts.from_row, card["facts"]), strict=True)
    answers = read_conversations(root / "eeg_ft.json")
    assert len(answers) == 20
    for row in answers:
        assert row.answer.endswith(f" The stage is {stage_of[row.sample_id]}.")
        claims = claims_in(row.answer)
        assert sum(claim.value is not None for claim in claims) >= 2
        assert [claim for claim in claims if not holds(claim, facts_of[row.sample_id])] == []
        # Of this epoch: the amplitude of nearly all others is another.
        assert f"{facts_of[row.sample_id].amplitude_uv} µV" in row.answer
    assert len({row.answer for row in answers}) > 15  # measured, not recited
    asked = {q.text for q in read_questions(root / "eeg_eval.jsonl")}
    assert asked == {row.question for row in answers}  # one question for all: it tells no stage
    assert len(asked) == 1


def test_measured_is_whole_after_a_run_without(
    settings: PrepareSettings, tmp_path: Path, drawn: list[str]
) -> None:
    measured = replace(settings, template="cot", rationale="measured")
    at_once = replace(measured, workspace=tmp_path / "at_once")
    step.run(settings)
    step.run(measured)
    assert drawn == ids_of(*NIGHTS)
    step.run(at_once)
    for name in ("eeg_ft.json", *(f"nights/{night}.json" for night in NIGHTS)):
        assert (measured.workspace / name).read_bytes() == (at_once.workspace / name).read_bytes()


def test_reasons_by_template_end_with_the_true_stage(settings: PrepareSettings) -> None:
    step.run(replace(settings, template="cot", rationale="template"))
    stage_of = {e.sample_id: e.stage for e in read_epochs(settings.workspace / "epochs.csv")}
    answers = read_conversations(settings.workspace / "eeg_ft.json")
    assert all(a.answer.endswith(f" The stage is {stage_of[a.sample_id]}.") for a in answers)
    assert len({a.answer for a in answers}) == len(STAGES)


# What is said


def test_what_has_no_partner_is_told(
    settings: PrepareSettings, recordings: Path, printed: io.StringIO
) -> None:
    shutil.copy(recordings / "SC4001EC-Hypnogram.edf", recordings / "SC4091EC-Hypnogram.edf")
    step.run(settings)
    said = printed.getvalue().replace("\n", "")
    assert f"no recording for the hypnogram {recordings}/SC4091EC-Hypnogram.edf" in said
    assert stamp_of(settings)["results"]["orphans"] == ["SC4091EC-Hypnogram.edf"]


def test_notes_are_told_and_kept(
    settings: PrepareSettings, recordings: Path, printed: io.StringIO
) -> None:
    path = recordings / "SC4001E0-PSG.edf"
    os.truncate(path, path.stat().st_size - 12_000)
    for _ in range(2):  # the second time nothing is read again, and it is said all the same
        printed.truncate(0)
        step.run(settings)
        notes = stamp_of(settings)["results"]["recordings"]["SC4001E0"]["notes"]
        assert notes[0] == "The file is cut off: the last 30 s of 300 s are missing."
        for note in notes:
            assert printed.getvalue().count(f"note SC4001E0: {note}\n") == 1
    with pytest.raises(EegToolError, match=r"No recording of subject SC400 can be used"):
        step.run(replace(settings, strict=True, eval_subjects="SC400"))


def test_notes_on_the_cohort_are_told(
    settings: PrepareSettings, recordings: Path, printed: io.StringIO
) -> None:
    for hypnogram in recordings.glob("*-Hypnogram.edf"):
        hypnogram.rename(recordings / f"{hypnogram.name[:7]}0-Hypnogram.edf")
    step.run(replace(settings, cohort="generic", eval_subjects=""))
    assert "each recording counts as a subject of its own" in " ".join(printed.getvalue().split())
    assert stamp_of(settings)["protocol"]["cohort"] == "generic"


# --limit, --dry-run, --json


def test_limit(settings: PrepareSettings, printed: io.StringIO) -> None:
    step.run(replace(settings, limit=2, eval_subjects=""))
    assert "--limit: only 2 of 3 recordings." in printed.getvalue()
    assert list(stamp_of(settings)["results"]["recordings"]) == ["SC4001E0", "SC4012E0"]
    assert len(pictures(settings)) == 20
    printed.truncate(0)
    step.run(replace(settings, limit=3))
    assert "--limit" not in printed.getvalue()
    assert len(pictures(settings)) == 30


def invoke(settings: PrepareSettings, *options: str) -> tuple[int, str, str]:
    """Run the command as a user does; return exit code, standard output and error stream."""
    command = ["prepare", str(settings.recordings[0]), "-w", str(settings.workspace)]
    command += ["--size", "32", "--eval-subjects", "SC402", *options]
    result = CliRunner().invoke(app, command)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("options", [[], ["--style", "wrapped", "--channel", "Pz-Oz"]])
def test_dry_run(settings: PrepareSettings, recordings: Path, options: list[str]) -> None:
    spoil(recordings)
    before = sorted(recordings.parent.rglob("*"))
    code, said, _ = invoke(settings, "--dry-run", *options)
    assert code == 0
    assert sorted(recordings.parent.rglob("*")) == before  # nothing at all is written
    assert "Would draw 20 pictures of 2 recordings: about 0 MB" in said
    assert "left out SC4001E0: " in said
    assert "W 4  N1 4  N2 4  N3 4  REM 4" in said

    _, said, _ = invoke(settings, "--dry-run", "--json", *options)
    planned = json.loads(said)
    code, _, _ = invoke(settings, *options)
    assert code == 0
    drawn = [len(png) for png in pictures(settings).values()]
    assert planned["pictures"] == len(drawn) == sum(planned["stages"].values())
    stored = sum(path.stat().st_size for path in settings.workspace.glob("signals/*.npy"))
    assert planned["bytes"] == pytest.approx(sum(drawn) + stored, rel=0.02)
    assert planned["seconds"] >= 0
    results = stamp_of(settings)["results"]
    assert planned["left_out"] == results["left_out"]
    assert planned["recordings"] == len(results["recordings"])


def test_dry_run_of_nothing_usable(settings: PrepareSettings, recordings: Path) -> None:
    for name in NIGHTS:
        spoil(recordings, name)
    code, said, _ = invoke(settings, "--dry-run", "--json")
    assert (code, said) == (1, "")
    assert not settings.workspace.exists()


def test_json_is_all_there_is_on_standard_output(
    settings: PrepareSettings, recordings: Path
) -> None:
    """In a process of its own: neither workers nor libraries may print there."""
    spoil(recordings)
    command = [sys.executable, "-m", "eegtool", "prepare", str(recordings), "--json"]
    command += ["-w", str(settings.workspace), "--size", "32", "--jobs", "2"]
    command += ["--eval-subjects", "SC402"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    printed = json.loads(done.stdout)
    assert printed == {"workspace": str(settings.workspace)} | stamp_of(settings)["results"]
    assert "left out SC4001E0" in done.stderr
    assert "Workspace: " in done.stderr


def test_an_error_leaves_standard_output_empty(settings: PrepareSettings) -> None:
    code, said, complaint = invoke(settings, "--json", "--style", "wave")
    assert (code, said) == (1, "")
    assert "error: Unknown style 'wave'" in complaint


# What a review found


def test_the_same_recording_under_two_subjects_is_refused(
    settings: PrepareSettings, recordings: Path
) -> None:
    (recordings / "SC4012E0-PSG.edf").write_bytes((recordings / "SC4001E0-PSG.edf").read_bytes())
    (hypnogram,) = recordings.glob("SC4012E*-Hypnogram.edf")
    (other,) = recordings.glob("SC4001E*-Hypnogram.edf")
    hypnogram.write_bytes(other.read_bytes())
    with pytest.raises(EegToolError, match=r"SC4001E0 .* and SC4012E0 .* the same recording"):
        step.run(settings)
    assert not (settings.workspace / "prepare.json").exists()


@pytest.mark.parametrize("folder", ["nights", "eeg_images_ft", "eeg_images_eval"])
def test_files_of_others_are_never_replaced(settings: PrepareSettings, folder: str) -> None:
    theirs = settings.workspace / folder / "thesis.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    with pytest.raises(EegToolError, match="holds files that prepare did not make"):
        step.run(settings)
    assert [p for p in settings.workspace.rglob("*") if p.is_file()] == [theirs]


def test_an_interrupted_workspace_is_not_gone_on_with(settings: PrepareSettings) -> None:
    step.run(settings)
    (settings.workspace / "prepare.json").unlink()
    with pytest.raises(EegToolError, match="did not finish"):
        Workspace(settings.workspace).protocol()


def test_other_code_stages_and_draws_anew(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch, drawn: list[str]
) -> None:
    step.run(settings)
    drawn.clear()
    monkeypatch.setattr(nights, "_code_sha256", lambda: "another version")
    step.run(settings)
    assert set(drawn) == set(ids_of(*NIGHTS))


def test_whatever_is_wrong_with_one_recording_the_others_go_on(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch, printed: io.StringIO
) -> None:
    def hypnogram(paths: Sequence[Path], *rest: Any) -> Any:
        if paths[0].name.startswith("SC4001"):
            raise ZeroDivisionError("a defect")
        return read_hypnogram(paths, *rest)

    monkeypatch.setattr(nights, "read_hypnogram", hypnogram)
    step.run(settings)
    assert set(stamp_of(settings)["results"]["left_out"]) == {"SC4001E0"}
    assert "ZeroDivisionError (a defect) in test_step.py" in " ".join(printed.getvalue().split())


def test_spellings_of_a_channel_do_not_tell_workspaces_apart(
    settings: PrepareSettings, recordings: Path
) -> None:
    psg = recordings / "SC4001E0-PSG.edf"
    content = psg.read_bytes()
    psg.write_bytes(content.replace(b"EEG Fpz-Cz", b"FPZ-CZ    ", 1))
    step.run(settings)
    stamp = stamp_of(settings)
    assert stamp["protocol"]["channel"] == "EEG Fpz-Cz"
    assert stamp["results"]["recordings"]["SC4001E0"]["channel"] == "FPZ-CZ"
