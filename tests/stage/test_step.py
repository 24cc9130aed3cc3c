"""`eegvlm stage` on recordings of minutes, with the tiny model and a small vision module."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from scipy.signal import resample_poly

from eegtool.core.errors import CannotWriteError, EegToolError
from eegtool.core.records import Question, read_answers, write_questions
from eegtool.core.stages import STAGES, stage_of
from eegtool.core.workspace import Workspace, read_json
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.options import EvaluateSettings
from eegtool.extract import step as extract
from eegtool.extract.options import ExtractSettings
from eegtool.inference.loaded import LoadedModel
from eegtool.prepare import step as prepare
from eegtool.prepare.options import PrepareSettings
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch
from eegtool.stage import step
from eegtool.stage.options import StageSettings
from eegtool.stage.results import write_night
from eegtool.stage.stager import Stager
from tests.conftest import form_for
from tests.stage.conftest import PROTOCOL, describe, noise

Stage = Callable[[StageSettings], dict[str, Any]]
Write = Callable[..., Path]


def table(settings: StageSettings, recording: str) -> list[dict[str, str]]:
    path = settings.out / recording / f"{recording}_hypnogram.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def refused(settings: StageSettings) -> EegToolError:
    with pytest.raises(EegToolError) as caught:
        step.run(settings)
    return caught.value


def test_it_is_what_the_commands_make_one_by_one(
    settings: StageSettings, staged: Stage, simulated: Path, tmp_path: Path
) -> None:
    """Same epochs, same stages, same probabilities as prepare, extract, evaluate on that night."""
    workspace = Workspace(tmp_path / "data")
    prepare.run(
        PrepareSettings([simulated], workspace.root, size=64, eval_subjects="SC400", wake_margin=99)
    )
    module = settings.model_path / "vision_module"
    extract.run(ExtractSettings(workspace.root, "test_resnet", weights=module))
    evaluate.run(EvaluateSettings(settings.model_path, workspace.root, mode="score", num_gpus=1))
    expected = {a.question_id: a for a in read_answers(workspace.answers)}
    (found,) = staged(settings)["nights"]
    rows = {f"SC4001E0-{int(row['epoch_index']):04d}": row for row in table(settings, "SC4001E0")}
    assert rows.keys() == expected.keys()
    assert len(rows) == found["epochs"] == found["staged"] == 10
    for sample_id, answer in expected.items():
        assert rows[sample_id]["stage"] == answer.text
        assert float(rows[sample_id]["onset_s"]) == answer.metadata["onset_s"]
        shares = [float(rows[sample_id][f"prob_{stage}"]) for stage in STAGES]
        asked = [*answer.metadata["stage_probabilities"].values()]
        np.testing.assert_allclose(shares, asked, atol=1e-4)


def test_how_it_is_asked_reaches_the_model(
    settings: StageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path, **how: Any) -> None:
        assert (how["merge"], how["dtype"], how["attention"]) == (True, "bfloat16", "eager")
        raise EegToolError("Seen.")

    monkeypatch.setattr(LoadedModel, "load", stop)
    assert (
        refused(replace(settings, merge=True, dtype="bfloat16", attention="eager")).what == "Seen."
    )
    asked: list[Any] = []

    def stage(stager: Stager, drawn: Any, **how: Any) -> None:
        asked.append((how["mode"], how["batch_size"], how["calibrate"]))
        raise EegToolError("Seen.")

    monkeypatch.setattr(Stager, "stage", stage)
    refused(
        replace(settings, mode="both", batch_size="3", no_calibration=True, out=settings.out / "b")
    )
    assert asked == [("both", 3, False)]


def test_other_programs_read_what_it_writes(
    settings: StageSettings, staged: Stage, simulated: Path
) -> None:
    (found,) = staged(replace(settings, lights_off="60", lights_on="240"))["nights"]
    rows = table(settings, "SC4001E0")
    annotations = mne.read_annotations(settings.out / found["files"]["annotations"])
    assert annotations.onset[0] == 0.0
    ends = annotations.onset + annotations.duration  # one for each run of a stage, without gaps
    assert [*annotations.onset[1:], 300.0] == ends.tolist()
    stages = [
        stage_of(text)
        for text, duration_s in zip(annotations.description, annotations.duration, strict=True)
        for _ in range(round(duration_s / 30))
    ]
    assert stages == [row["stage"] for row in rows]
    # MNE lays them onto the recording.
    raw = mne.io.read_raw_edf(simulated / "SC4001E0-PSG.edf", verbose="ERROR")
    raw.set_annotations(annotations)
    assert len(raw.annotations) == len(annotations)
    # BIDS: as MNE takes onsets, durations and labels, and as prepare reads scorings.
    events = settings.out / found["files"]["events"]
    with events.open(encoding="utf-8") as file:
        bids = list(csv.DictReader(file, delimiter="\t"))
    made = mne.Annotations(
        [float(e["onset"]) for e in bids],
        [float(e["duration"]) for e in bids],
        [e["trial_type"] for e in bids],
    )
    assert made.onset.tolist() == [30.0 * i for i in range(10)]
    assert [text.replace("R", "REM") for text in made.description] == stages
    levels = read_json(events.with_suffix(".json"))["trial_type"]["Levels"]
    assert set(levels) == {"W", "N1", "N2", "N3", "R"}
    if {row["stage"] for row in rows} != {"W"}:
        hypnogram = read_hypnogram(events, None, 300)
        assert stage_per_epoch(hypnogram, 10) == [row["stage"] for row in rows]
    assert (settings.out / found["files"]["report"]).read_text(encoding="utf-8").count("SC4001E0")
    in_bed = stages[2:8]
    assert found["lights"] == {"off_s": 60.0, "on_s": 240.0}
    assert found["statistics"]["tib_min"] == 3
    assert found["statistics"]["tst_min"] == sum(stage != "W" for stage in in_bed) / 2
    about = read_json((settings.out / found["files"]["bids_hypnogram"]).with_suffix(".json"))
    assert (about["LightsOff"], about["LightsOn"]) == (60.0, 240.0)
    assert "statistics_smoothed" in found


def test_an_electrode_that_was_off_is_flagged_and_not_staged(
    settings: StageSettings, staged: Stage, write_edf: Write
) -> None:
    signal = noise(12)
    signal[3 * 3000 : 6 * 3000] = 17.0  # off
    signal[8 * 3000 : 9 * 3000] = 400.0  # at the limit of the amplifier ...
    signal[8 * 3000 : 9 * 3000 : 50] = 390.0  # ... and not flat
    path = write_edf("n1.edf", [("EEG Fpz-Cz", signal)])
    (found,) = staged(replace(settings, recordings=[path], smooth=True))["nights"]
    assert (found["epochs"], found["staged"]) == (12, 8)
    assert found["flagged"] == {"flat": 3, "saturated": 1}
    rows = table(settings, "n1")
    assert [i for i, row in enumerate(rows) if not row["stage"]] == [3, 4, 5, 8]
    for i, row in enumerate(rows):
        bad = i in (3, 4, 5, 8)
        assert row["unstaged_because"] == ("saturated" if i == 8 else "flat" if bad else "")
        assert (row["stage_smoothed"] == "") == (row["prob_W"] == "") == bad
    events = (settings.out / "n1" / "n1_events.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[2] == "n/a" for line in events[1:]] == [
        i in (3, 4, 5, 8) for i in range(12)
    ]
    annotations = mne.read_annotations(settings.out / "n1" / "n1_hypnogram.edf")
    off = [i for i, text in enumerate(annotations.description) if text == "Sleep stage ?"]
    assert [(annotations.onset[i], annotations.duration[i]) for i in off] == [(90, 90), (240, 30)]
    answers = read_answers(settings.out / "n1" / "work" / "answers" / "eeg_answers.jsonl")
    assert len(answers) == 8
    asleep = sum(row["stage"] not in ("", "W") for row in rows)
    assert found["statistics"]["tst_min"] == asleep / 2
    assert found["statistics_smoothed"].keys() == found["statistics"].keys()


def test_one_broken_recording_does_not_stop_the_others(
    settings: StageSettings, staged: Stage, simulated: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(simulated, tmp_path / "incoming"))
    (folder / "SC4012E0-PSG.edf").write_bytes(b"0       broken")
    found = staged(replace(settings, recordings=[folder]))
    assert [n["recording"] for n in found["nights"]] == ["SC4001E0", "SC4021E0"]
    assert list(found["left_out"]) == ["SC4012E0"]
    assert "SC4012E0-PSG.edf" in found["left_out"]["SC4012E0"]
    assert read_json(settings.out / "stage.json")["results"]["nights"] == 2
    only = refused(
        replace(settings, recordings=[folder / "SC4012E0-PSG.edf"], out=tmp_path / "other")
    )
    assert only.what == found["left_out"]["SC4012E0"].partition("\n")[0]


def files_of(folder: Path) -> dict[str, bytes]:
    kinds = (".csv", ".tsv", ".edf", ".npy", ".png")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in kinds or path.name == "night.json"
    }


def test_a_killed_run_is_resumed(
    settings: StageSettings,
    staged: Stage,
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = replace(settings, recordings=[simulated], out=tmp_path / "whole", smooth=True)
    expected = staged(whole)["nights"]
    killed = replace(whole, out=tmp_path / "killed")
    seen: list[str] = []

    def until(*arguments: Any, **options: Any) -> Any:
        if seen:
            raise KeyboardInterrupt
        seen.append("one")
        return write_night(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(step, "write_night", until)
        with pytest.raises(KeyboardInterrupt):
            step.run(killed)
    first = killed.out / "SC4001E0" / "SC4001E0_hypnogram.csv"
    written = first.stat().st_mtime_ns
    asked: list[int] = []
    reply = LoadedModel.reply

    def counted(model: LoadedModel, questions: Any, *how: Any) -> Any:
        asked.append(len(questions))
        return reply(model, questions, *how)

    monkeypatch.setattr(LoadedModel, "reply", counted)
    assert staged(killed)["nights"] == expected
    assert asked == [10]  # of the third night: the answers to the second one were there
    assert first.stat().st_mtime_ns == written
    assert files_of(killed.out) == files_of(whole.out)
    # A third run finds everything.
    monkeypatch.setattr(LoadedModel, "load", lambda *_, **__: pytest.fail("was loaded"))
    assert staged(killed)["nights"] == expected


def test_a_night_is_added_and_nothing_is_overwritten(
    settings: StageSettings, staged: Stage, simulated: Path, write_edf: Write, model: Path
) -> None:
    staged(settings)
    before = files_of(settings.out)
    staged(replace(settings, recordings=[simulated / "SC4021E0-PSG.edf"]))
    assert before.items() <= files_of(settings.out).items()
    other = write_edf("b/SC4001E0-PSG.edf", [("EEG Fpz-Cz", noise(3))])
    error = refused(replace(settings, recordings=[other]))
    assert "another recording of the name SC4001E0" in error.what
    describe(model, features="zero")
    (model / "projector.safetensors").write_bytes(
        (settings.model_path / "projector.safetensors").read_bytes()
    )
    error = refused(replace(settings, channel=["EEG Pz-Oz"]))
    assert "channels EEG Fpz-Cz and EEG Pz-Oz" in error.what
    assert before.items() <= files_of(settings.out).items()


def test_a_folder_of_something_else_is_left_alone(settings: StageSettings) -> None:
    settings.out.mkdir()
    (settings.out / "thesis.txt").write_text("my work")
    assert "not a folder of `eegvlm stage`" in refused(settings).what
    assert [path.name for path in settings.out.iterdir()] == ["thesis.txt"]


def test_names_that_occur_twice_are_told_apart(
    settings: StageSettings, staged: Stage, write_edf: Write
) -> None:
    paths = [
        write_edf(f"{who}/night.edf", [("EEG Fpz-Cz", noise(2, seed))])
        for seed, who in enumerate(("anna", "bert"))
    ]
    found = staged(replace(settings, recordings=[paths[0].parent, paths[1].parent]))
    assert [n["recording"] for n in found["nights"]] == ["anna-night", "bert-night"]
    assert (settings.out / "bert-night" / "bert-night_events.tsv").exists()


def test_a_full_disk_ends_the_run_and_leaves_no_night_out(
    settings: StageSettings, write_edf: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_edf(f"{i}/night.edf", [("EEG Fpz-Cz", noise(2, i))]) for i in range(2)]
    tried: list[str] = []

    def full(prepared: Any, *_: Any) -> None:
        tried.append(prepared.night.recording)
        raise CannotWriteError("answers.jsonl cannot be written: No space left on device.")

    monkeypatch.setattr(step, "_stage_one", full)
    error = refused(replace(settings, recordings=[path.parent for path in paths]))
    assert error.what.endswith("No space left on device.")
    assert tried == ["0-night"]


@pytest.mark.parametrize(
    ("channel", "epochs", "sfreq_hz", "said"),
    [
        ("EEG Fpz-Cx", 2, 100, ["no channel 'EEG Fpz-Cz'", "EEG Fpz-Cx", "Did you mean"]),
        ("EEG Fpz-Cz", 0.5, 100, ["lasts 15 s", "shorter than an epoch"]),
        ("EEG Fpz-Cz", 2, 64, ["64 Hz", "up to 35 Hz", "more than 70 Hz"]),
    ],
)
def test_a_recording_that_cannot_be_staged(
    settings: StageSettings,
    write_edf: Write,
    channel: str,
    epochs: float,
    sfreq_hz: int,
    said: list[str],
) -> None:
    signal = noise(epochs, sfreq_hz=sfreq_hz)
    path = write_edf("x.edf", [(channel, signal)], sfreq_hz, record_s=15)
    error = str(refused(replace(settings, recordings=[path])))
    assert all(word in error for word in said)


def test_another_channel_and_another_rate(
    settings: StageSettings, staged: Stage, simulated: Path, write_edf: Write
) -> None:
    """The same night, called otherwise and sampled at 250 Hz, looks nearly the same to the model."""
    staged(settings)
    raw = mne.io.read_raw_edf(simulated / "SC4001E0-PSG.edf", verbose="ERROR")
    signal = resample_poly(raw.get_data(picks=["EEG Fpz-Cz"])[0] * 1e6, 5, 2)
    path = write_edf("other.edf", [("F1", np.clip(signal, -400, 400))], 250)
    new = replace(settings, recordings=[path], channel=["F1"], out=settings.out / ".." / "two")
    (found,) = staged(new)["nights"]
    assert found["channel"] == "F1"
    shares = [
        np.array([[float(row[f"prob_{s}"]) for s in STAGES] for row in rows])
        for rows in (table(settings, "SC4001E0"), table(new, "other"))
    ]
    assert np.abs(shares[0] - shares[1]).mean() < 0.05


def test_the_least_certain_epochs_are_explained(settings: StageSettings, staged: Stage) -> None:
    staged(replace(settings, explain="uncertain", explain_count=3))
    rows = table(settings, "SC4001E0")
    certain = [max(float(row[f"prob_{stage}"]) for stage in STAGES) for row in rows]
    least = sorted(range(10), key=certain.__getitem__)[:3]
    assert sorted(i for i, row in enumerate(rows) if row["words"]) == sorted(least)
    everything = replace(settings, explain="all", out=settings.out.with_name("all"))
    staged(everything)
    words = {row["epoch_index"]: row["words"] for row in table(everything, "SC4001E0")}
    assert [row["words"] for row in rows if row["words"]] == [words[str(i)] for i in sorted(least)]
    page = (settings.out / "SC4001E0" / "report" / "review.html").read_text(encoding="utf-8")
    island = page.split('id="epoch-data">')[1].split("</script>")[0]
    told = json.loads(island)["words"]
    assert told == {f"SC4001E0-{i:04d}": words[str(i)] for i in least}
    work = settings.out / "SC4001E0" / "work" / "answers"
    assert [path.name for path in work.iterdir()] == ["eeg_answers.jsonl"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": {"style": "spectrogram", "size": 64}}, ["channel, low_hz", "prepare"]),
        ({"answers": {}}, ["missing: the question"]),
        ({"protocol": PROTOCOL | {"style": "cubist"}}, ["'cubist'", "spectrogram"]),
        ({"features_weights_sha256": ""}, ["made elsewhere", "--import-features"]),
        ({"features_weights_sha256": "ef" * 32}, ["holds another one", "--vision-module"]),
        ({"sequence": {}}, ["--smooth", "finetune"]),
        (
            {"answers": form_for("stage") | {"stages": {}, "place": "nowhere"}},
            ["no form of answer that could be scored", "--mode generate"],
        ),
    ],
)
def test_a_model_that_does_not_say_enough(
    settings: StageSettings, model: Path, change: dict[str, Any], said: list[str]
) -> None:
    describe(model, **change)
    error = str(refused(replace(settings, model_path=model, smooth=True)))
    assert all(word in error for word in said)
    assert not settings.out.exists()


def test_a_model_without_its_vision_module(
    settings: StageSettings, staged: Stage, model: Path, tmp_path: Path
) -> None:
    elsewhere = (model / "vision_module").rename(tmp_path / "vision_module")
    alone = replace(settings, model_path=model)
    error = refused(alone)
    assert "is not in" in error.what
    assert "--vision-module" in error.fix
    assert staged(replace(alone, vision_module=elsewhere))["nights"][0]["staged"] == 10


def test_more_channels_than_the_model_looks_at(settings: StageSettings) -> None:
    error = refused(replace(settings, channel=["C3", "C4"]))
    assert "2 channels were named; the model looks at 1: EEG Fpz-Cz" in error.what


def test_questions_without_a_stage_are_asked(workspace: Workspace) -> None:
    """An empty category is a question like any other; its answer has no label."""
    write_questions(workspace.questions, [Question("a", ("a.png", "a.png"), "Which?")])
    assert '"category": ""' in workspace.questions.read_text(encoding="utf-8")
