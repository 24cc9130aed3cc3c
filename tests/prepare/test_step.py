from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch, read_conversations, read_epochs, read_questions
from eegtool.core.settings import PrepareSettings
from eegtool.core.stages import STAGES
from eegtool.prepare import step
from eegtool.prepare.cohorts import Night
from eegtool.prepare.images import draw_png
from eegtool.prepare.images.spec import PictureSpec
from eegtool.prepare.nights import Prepared
from eegtool.prepare.recordings import read_recording
from eegtool.prepare.signals import band_pass, cut_epoch
from eegtool.prepare.simulate import HypnogramRun, load_twin, write_night


@pytest.fixture
def settings(tmp_path: Path, recordings: Path) -> PrepareSettings:
    return PrepareSettings([recordings], workspace=tmp_path / "ws", size=32, eval_subjects="SC402")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    monkeypatch.setattr(step, "console", console)
    monkeypatch.setattr("eegtool.core.console.console", console)
    return out


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
        "prepare.json",
    }
    epochs = read_epochs(root / "epochs.csv")
    assert [e.sample_id for e in epochs] == [
        f"{night}-{i:04d}" for night in ("SC4001E0", "SC4012E0", "SC4021E0") for i in range(10)
    ]
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


def test_a_picture_shows_the_filtered_epoch_of_its_row(
    settings: PrepareSettings, recordings: Path
) -> None:
    step.run(settings)
    spec = PictureSpec(32)
    recording = read_recording(recordings / "SC4012E0-PSG.edf", "EEG Fpz-Cz")
    data_uv = band_pass(recording.data_uv, 100.0, 0.3, 35.0)
    for i in (0, 4, 9):
        path = settings.workspace / "eeg_images_ft" / "SC4012E0" / f"SC4012E0-{i:04d}.png"
        expected = draw_png("spectrogram", cut_epoch(data_uv, 100.0, i), 100.0, spec)
        assert path.read_bytes() == expected


def test_the_stamp_tells_the_protocol(settings: PrepareSettings, recordings: Path) -> None:
    step.run(replace(settings, channel="eeg fpz-cz"))
    stamp = stamp_of(settings)
    assert stamp["status"] == "complete"
    protocol = stamp["protocol"]
    assert protocol["channel"] == "EEG Fpz-Cz"  # as the files spell it, however it was typed
    assert protocol["simulated"] is True
    assert protocol["eval_subjects"] == ["SC402"]
    assert (protocol["low_hz"], protocol["high_hz"]) == (0.3, 35.0)
    assert (protocol["style"], protocol["size"]) == ("spectrogram", 32)
    assert set(stamp["inputs"]) == {path.name for path in recordings.iterdir()}
    assert stamp["results"]["left_out"] == {}
    assert stamp["results"]["recordings"]["SC4021E0"] == {
        "split": "eval",
        "kept": 10,
        "stages": dict.fromkeys(STAGES, 2),
        "dropped": {},
        "trimmed": 0,
    }


def test_running_again_and_in_parallel_gives_the_same_bytes(settings: PrepareSettings) -> None:
    step.run(settings)
    first = contents(settings)
    step.run(settings)
    assert contents(settings) == first
    step.run(replace(settings, jobs=2))
    assert contents(settings) == first
    assert len(first) == 4 + 30


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
    runs[2] = replace(runs[2], description="Movement time")
    runs[3] = replace(runs[3], description="Sleep stage ?")  # two epochs of N3
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


def spoil_text(folder: Path) -> str:
    (folder / "SC4001E0-PSG.edf").write_text("not EDF")
    return "cannot be read as EDF"


def spoil_cut_short(folder: Path) -> str:
    path = folder / "SC4001E0-PSG.edf"
    path.write_bytes(path.read_bytes()[:-30_000])
    return "Number of records from the header does not match the file size"


def spoil_no_hypnogram(folder: Path) -> str:
    (folder / "SC4001EC-Hypnogram.edf").unlink()
    return "There is no hypnogram for"


def spoil_hypnogram_of_another_night(folder: Path) -> str:
    (folder / "SC4001EC-Hypnogram.edf").write_bytes(
        (folder / "SC4012EC-Hypnogram.edf").read_bytes()
    )
    return "is of another night: it starts on 30.03.89 17.00.00, the recording on 24.04.89 16.13.00"


def spoil_no_sleep(folder: Path) -> str:
    twin = load_twin("SC4001E0").condensed(2)
    wake = tuple(replace(run, description="Sleep stage W") for run in twin.hypnogram)
    write_night(replace(twin, hypnogram=wake), folder, seed=1)
    return "scores no sleep"


def spoil_flat(folder: Path) -> str:
    path = folder / "SC4001E0-PSG.edf"
    content = bytearray(path.read_bytes())
    content[768:] = bytes(len(content) - 768)
    path.write_bytes(content)
    return "it is not EEG"


SPOILERS = [
    spoil_text,
    spoil_cut_short,
    spoil_no_hypnogram,
    spoil_hypnogram_of_another_night,
    spoil_no_sleep,
    spoil_flat,
]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda f: f.__name__)
def test_a_bad_recording_is_reported_and_the_others_go_on(
    settings: PrepareSettings,
    recordings: Path,
    printed: io.StringIO,
    spoil: Callable[[Path], str],
) -> None:
    reason = spoil(recordings)
    step.run(settings)
    left_out = stamp_of(settings)["results"]["left_out"]
    assert list(left_out) == ["SC4001E0"]
    what, fix = left_out["SC4001E0"].split("\n")
    assert reason in what
    assert fix
    assert set(stamp_of(settings)["results"]["recordings"]) == {"SC4012E0", "SC4021E0"}
    assert len(read_epochs(settings.workspace / "epochs.csv")) == 20
    assert f"left out SC4001E0: {what}\n{fix}\n" in printed.getvalue()
    assert "Left out 1 of 3 recordings." in printed.getvalue()


def test_names_with_brackets_are_printed_as_they_are(
    settings: PrepareSettings, recordings: Path, printed: io.StringIO
) -> None:
    odd = recordings.rename(recordings.with_name("night [bold] [x]"))
    spoil_text(odd)
    workspace = settings.workspace.with_name("ws [red]")
    step.run(replace(settings, recordings=[odd], workspace=workspace))
    assert f"{odd}/SC4001E0-PSG.edf cannot be read" in printed.getvalue()
    assert f"Workspace: {workspace}\n" in printed.getvalue()


def test_nothing_is_written_if_all_are_broken(settings: PrepareSettings, recordings: Path) -> None:
    for path in recordings.glob("*-PSG.edf"):
        path.write_text("not EDF")
    with pytest.raises(EegToolError) as raised:
        step.run(settings)
    assert raised.value.what == "No recording can be used (3 left out)."
    for night in ("SC4001E0", "SC4012E0", "SC4021E0"):
        assert f"{night}: The recording {recordings}" in raised.value.fix
    assert raised.value.fix.count("fetch it again.") == 1  # the same advice is given once
    assert not settings.workspace.exists()


def test_a_single_broken_recording_says_why(settings: PrepareSettings, recordings: Path) -> None:
    spoil_text(recordings)
    with pytest.raises(EegToolError, match=r"SC4001E0-PSG\.edf cannot be read as EDF"):
        step.run(replace(settings, recordings=[recordings / "SC4001E0-PSG.edf"]))


def test_long_lists_of_reasons_are_cut() -> None:
    unusable = [
        Prepared(
            Night("sleep-edf", f"SC4{i:02d}1E0", f"SC4{i:02d}", 1, Path("x.edf"), None),
            "",
            problem=EegToolError(f"reason {i}", "mend it" if i < 4 else "mend it otherwise"),
        )
        for i in range(12)
    ]
    error = step._refusal(unusable)
    assert error.fix.splitlines() == [
        *(f"SC4{i:02d}1E0: reason {i}" for i in range(5)),
        "... and 7 more.",
        "mend it",
        "mend it otherwise",
    ]


def test_an_earlier_workspace_survives_a_failure(
    settings: PrepareSettings, recordings: Path
) -> None:
    step.run(settings)
    before = contents(settings)
    # The evaluation side fails only when it is read, long after drawing has begun.
    twin = load_twin("SC4021E0").condensed(2)
    wake = tuple(replace(run, description="Sleep stage W") for run in twin.hypnogram)
    late = HypnogramRun(twin.n_epochs * 30.0, 300.0, "Sleep stage 2")  # after the signal has ended
    write_night(replace(twin, hypnogram=(*wake, late)), recordings, seed=1)
    with pytest.raises(EegToolError) as raised:
        step.run(replace(settings, style="waveform"))
    assert raised.value.what == "No recording of the evaluation side can be used (1 left out)."
    assert "SC4021E0: The hypnogram" in raised.value.fix
    assert contents(settings) == before


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
    assert contents(settings) == before


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
    left = settings.workspace / ".prepare.tmp" / "ft" / "SC4001E0" / "SC4001E0-0000.png"
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
        ({"channel": "C3-A2"}, "No recording can be used"),
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


def prepared(recording: str, stages: Sequence[str]) -> Prepared:
    night = Night("sleep-edf", recording, recording[:5], 1, Path("x.edf"), None)
    epochs = tuple(
        Epoch("id", "sleep-edf", recording, recording[:5], 1, 0, 0.0, stage, "eval", "x.png")
        for stage in stages
    )
    dropped = (("movement time", 1234), ("unscored", 98_765))
    return Prepared(night, "eval", "EEG Fpz-Cz", epochs, 345_678, dropped)


def test_the_summary_of_a_whole_cohort_fits_80_columns() -> None:
    many = [prepared(f"SC4{i:02d}1E0", np.repeat(STAGES, 12_345).tolist()) for i in range(2)]
    out = io.StringIO()
    Console(file=out, width=80).print(step.summary(many))
    header, *_, total = (line.rstrip() for line in out.getvalue().splitlines())
    assert header.split() == [
        *("recording", "subject", "side", "kept"),
        *(*STAGES, "move", "?", "trimmed"),
    ]
    assert total.split() == ["all", "123450", *["24690"] * 5, "2468", "197530", "691356"]
    assert len(out.getvalue().splitlines()) == 4
