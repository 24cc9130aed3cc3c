from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core import ranks
from eegtool.core.errors import EegToolError
from eegtool.core.launching import open_locked
from eegtool.core.records import (
    Conversation,
    Epoch,
    Question,
    read_conversations,
    read_epochs,
    read_questions,
    write_conversations,
    write_epochs,
    write_questions,
)
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, read_json, sha256_of, write_json
from eegtool.extract import step
from eegtool.extract import trained as trained_room
from eegtool.extract.features import load_features, read_sidecar
from eegtool.extract.module import VisionModule
from eegtool.extract.options import ExtractSettings
from eegtool.extract.step import run
from eegtool.extract.stored import features_of, open_module
from eegtool.extract.trained import augmentation_of
from eegtool.extract.weights import load_module, save_module
from eegtool.pictures import RENDERER
from eegtool.pictures.augmentation import Augmentation
from eegtool.recordings.montages import spec_of


def settings_of(workspace: Workspace) -> ExtractSettings:
    return ExtractSettings(
        workspace=workspace.root, backbone="test_resnet", train_epochs=1, batch_size=8
    )


@pytest.fixture(scope="module")
def exported(workspace_model: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose questions stand in another order than its table, after extract."""
    root = tmp_path_factory.mktemp("exported") / "workspace"
    workspace = Workspace(Path(shutil.copytree(workspace_model.root, root)))
    for split in ("ft", "eval"):
        workspace.features(split).unlink()
    write_questions(workspace.questions, read_questions(workspace.questions)[::-1])
    run(settings_of(workspace))
    return workspace


def ids_of(workspace: Workspace) -> dict[str, list[str]]:
    return {
        "ft": [row.sample_id for row in read_conversations(workspace.conversations)],
        "eval": [row.sample_id for row in read_questions(workspace.questions)],
    }


@pytest.mark.parametrize("split", ["ft", "eval"])
def test_rows_and_sidecar_are_those_of_the_json_in_its_order(
    exported: Workspace, split: str
) -> None:
    path, ids = exported.features(split), ids_of(exported)[split]
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["sample_ids"] == ids
    rows = np.load(path, allow_pickle=False)
    assert rows.shape == (len(ids), 1, 1024)
    assert rows.dtype == np.float32
    assert load_features(path, ids).weights_sha256 == sidecar["weights_sha256"]


def test_every_row_is_the_feature_of_its_own_picture(exported: Workspace) -> None:
    weights = exported.vision_module / "model.safetensors"
    module = VisionModule("test_resnet").eval()
    module.load_state_dict(load_file(weights))
    ids = ids_of(exported)["eval"]
    table = load_features(exported.features("eval"), ids)
    assert table.weights_sha256 == sha256_of(weights)
    for epoch in read_epochs(exported.epochs)[-4:]:
        with Image.open(exported.images("eval") / epoch.image) as image:
            picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            own = module.represent(picture).numpy()
        np.testing.assert_allclose(table[epoch.sample_id], own, atol=1e-4)


def test_stamp_tells_how_it_went(exported: Workspace) -> None:
    stamp = json.loads((exported.vision_module / "run.json").read_text())
    assert stamp["step"] == "extract"
    assert stamp["protocol"]["style"] == "spectrogram"
    assert stamp["results"]["val_subjects"] in (["S01"], ["S02"])
    assert len(stamp["results"]["history"]) == 1
    assert stamp["results"]["evaluation"]["n"] == 10


def test_files_can_be_read_by_others_like_any_file(exported: Workspace) -> None:
    usual = exported.epochs.stat().st_mode
    assert (exported.vision_module / "model.safetensors").stat().st_mode == usual


def test_same_seed_same_bytes(exported: Workspace, workspace: Workspace) -> None:
    write_questions(workspace.questions, read_questions(workspace.questions)[::-1])
    run(settings_of(workspace))
    for split in ("ft", "eval"):
        assert workspace.features(split).read_bytes() == exported.features(split).read_bytes()


def test_one_subject_is_trained_on_and_nobody_validated(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    write_epochs(
        workspace.epochs,
        [
            replace(e, subject="S01") if e.split == "ft" else e
            for e in read_epochs(workspace.epochs)
        ],
    )
    run(settings_of(workspace))
    assert "Nobody is held out for validation" in capsys.readouterr().out
    stamp = json.loads((workspace.vision_module / "run.json").read_text())
    assert stamp["results"]["val_subjects"] == []


def test_a_workspace_without_signals_is_trained_on_without_augmentation(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings_of(workspace))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("stores no signals that could be varied") == 1
    assert read_json(workspace.vision_module / "card.json")["settings"]["augmentation"] is None
    run(replace(settings_of(workspace), augment=False))
    assert "could be varied" not in capsys.readouterr().out


def test_signals_are_varied(stored: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run(replace(settings_of(stored), flip=True))
    assert "could be varied" not in capsys.readouterr().out
    card = read_json(stored.vision_module / "card.json")
    assert card["settings"]["augmentation"] == asdict(Augmentation(flip=True))


def with_montage(workspace: Workspace) -> Workspace:
    """Say that the one channel of the workspace is a montage."""
    stamp = read_json(workspace.prepare_stamp)
    spec = spec_of("eeg:EEG Fpz-Cz")
    stamp["protocol"] |= {"montage": "own", "strips": [spec.to_row()]}
    write_json(workspace.prepare_stamp, stamp)
    return workspace


@pytest.mark.parametrize("augment", [True, False])
def test_strips_are_left_empty_as_often_as_asked(stored: Workspace, augment: bool) -> None:
    folder = with_montage(stored).images("ft")
    settings = replace(settings_of(stored), channel_dropout=0.3, augment=augment)
    how = augmentation_of(settings, folder)
    rest = Augmentation() if augment else Augmentation(0.0, 0.0, 0.0, 0.0)
    assert how == replace(rest, channel_dropout=0.3)


def test_without_strips_none_can_be_left_empty(stored: Workspace) -> None:
    settings = replace(settings_of(stored), channel_dropout=0.3)
    with pytest.raises(EegToolError, match="has no montage, so no strip can be left empty"):
        augmentation_of(settings, stored.images("ft"))
    shutil.rmtree(stored.signals)
    with pytest.raises(EegToolError, match="stores no signals, so no strip") as caught:
        augmentation_of(settings, stored.images("ft"))
    assert "--montage" in caught.value.fix


def test_signals_that_would_be_drawn_otherwise_are_not_varied(stored: Workspace) -> None:
    stamp = read_json(stored.prepare_stamp)
    stamp["protocol"]["renderer"] = 99
    write_json(stored.prepare_stamp, stamp)
    with pytest.raises(EegToolError, match=f"renderer 99 and {RENDERER}"):
        run(settings_of(stored))
    assert not (stored.vision_module / "card.json").exists()
    run(replace(settings_of(stored), augment=False))


def test_absent_stages_are_told(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = [e for e in read_epochs(workspace.epochs) if e.split == "eval" or e.stage != "N3"]
    kept = {epoch.sample_id for epoch in epochs}
    rows = [r for r in read_conversations(workspace.conversations) if r.sample_id in kept]
    write_epochs(workspace.epochs, epochs)
    write_conversations(workspace.conversations, rows)
    run(settings_of(workspace))
    assert "Stages absent from training: N3." in capsys.readouterr().out


def lose_a_picture(workspace: Workspace) -> None:
    (workspace.images("eval") / "S03E0-0004.png").unlink()


def spoil_a_picture(workspace: Workspace) -> None:
    (workspace.images("ft") / "S01E0-0004.png").write_text("no picture")


def cut_off_a_picture_of_the_evaluation(workspace: Workspace) -> None:
    path = workspace.images("eval") / "S03E0-0004.png"
    path.write_bytes(path.read_bytes()[:-30])


def draw_another_size(workspace: Workspace) -> None:
    for path in workspace.images("eval").iterdir():
        with Image.open(path) as image:
            larger = image.resize((72, 72))
        larger.save(path)


def lose_a_question(workspace: Workspace) -> None:
    write_questions(workspace.questions, read_questions(workspace.questions)[1:])


def lose_an_epoch(workspace: Workspace) -> None:
    write_epochs(workspace.epochs, read_epochs(workspace.epochs)[1:])


def ask_twice(workspace: Workspace) -> None:
    rows = read_questions(workspace.questions)
    write_questions(workspace.questions, [*rows, rows[3]])


def list_twice(workspace: Workspace) -> None:
    epochs = read_epochs(workspace.epochs)
    write_epochs(workspace.epochs, [*epochs, epochs[3]])


def show_another_picture(workspace: Workspace) -> None:
    first, *others = read_conversations(workspace.conversations)
    other = Conversation(first.sample_id, others[0].images, first.question, first.answer)
    write_conversations(workspace.conversations, [other, *others])


def evaluate_nobody(workspace: Workspace) -> None:
    write_questions(workspace.questions, [])
    write_epochs(workspace.epochs, [e for e in read_epochs(workspace.epochs) if e.split == "ft"])


def leave_the_folder(workspace: Workspace) -> None:
    epochs = [replace(e, image=f"../{e.image}") for e in read_epochs(workspace.epochs)]
    write_epochs(workspace.epochs, epochs)
    rows = read_conversations(workspace.conversations)
    moved = [replace(r, images=tuple(f"../{i}" for i in r.images)) for r in rows]
    write_conversations(workspace.conversations, moved)


def spoil_a_picture_of_the_evaluation(workspace: Workspace) -> None:
    (workspace.images("eval") / "S03E0-0004.png").write_text("no picture")


@pytest.fixture
def trained(exported: Workspace, tmp_path: Path) -> Workspace:
    """A copy of a workspace in which extract has run."""
    return Workspace(Path(shutil.copytree(exported.root, tmp_path / "trained")))


def forget_how_pictures_were_made(workspace: Workspace) -> None:
    write_json(workspace.prepare_stamp, {})


def have_somebody_on_both_sides(workspace: Workspace) -> None:
    epochs = read_epochs(workspace.epochs)
    write_epochs(
        workspace.epochs,
        [replace(e, subject="S01") if e.split == "eval" else e for e in epochs],
    )


BAD: dict[Callable[[Workspace], None], str] = {
    forget_how_pictures_were_made: "prepare.json does not say how the pictures were made",
    have_somebody_on_both_sides: "epochs.csv has subjects on both sides: S01",
    lose_a_picture: "S03E0-0004.png of epoch 'S03E0-0004' does not exist",
    spoil_a_picture: "S01E0-0004.png of epoch 'S01E0-0004' cannot be read",
    cut_off_a_picture_of_the_evaluation: "S03E0-0004.png of epoch 'S03E0-0004' cannot be read",
    draw_another_size: "of epoch 'S03E0-0000' has 72 x 72 pixels; prepare.json says 64 x 64",
    lose_a_question: r"1 only in epochs.csv \(S03E0-0000\)",
    lose_an_epoch: r"1 only in eeg_ft.json \(S01E0-0000\)",
    ask_twice: "eeg_eval.jsonl: the id 'S03E0-0003' occurs more than once",
    list_twice: "epochs.csv: the id 'S01E0-0003' occurs more than once",
    show_another_picture: "'S01E0-0000' is S01E0-0000.png in epochs.csv and S01E0-0001.png in",
    evaluate_nobody: "no epochs of the eval side",
    leave_the_folder: "leaves the image folder",
    lambda workspace: workspace.prepare_stamp.unlink(): "prepare.json does not exist",
    lambda workspace: workspace.conversations.unlink(): "eeg_ft.json does not exist",
}


@pytest.mark.parametrize(("spoil", "message"), BAD.items(), ids=[f.__name__ for f in BAD])
def test_a_workspace_that_is_not_whole_is_refused(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Workspace], None],
    message: str,
) -> None:
    monkeypatch.setattr(trained_room, "train_module", lambda _: pytest.fail("trained first"))
    spoil(workspace)
    with pytest.raises(EegToolError, match=message):
        run(settings_of(workspace))
    assert not list(workspace.vision_module.glob("[!.]*"))


def test_features_that_are_no_numbers_are_not_written(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = workspace.features("ft").read_bytes()
    monkeypatch.setattr(
        VisionModule, "represent", lambda _, p: torch.full((len(p), 1024), torch.nan)
    )
    with pytest.raises(EegToolError, match="not a finite number"):
        run(settings_of(workspace))
    assert workspace.features("ft").read_bytes() == before


@pytest.fixture
def many_epochs(tmp_path: Path) -> Workspace:
    """Six subjects to fine-tune on and one to evaluate, 60 epochs each: enough to align folds."""
    workspace = Workspace(tmp_path / "many")
    rng = np.random.default_rng(3)
    epochs = []
    for number in range(7):
        split = "ft" if number < 6 else "eval"
        for i in range(60):
            name = f"S{number}-{i:04d}"
            epoch = Epoch(
                name,
                "x",
                f"S{number}",
                f"S{number}",
                1,
                i,
                30.0 * i,
                STAGES[i % 5],
                split,
                f"{name}.png",
            )
            path = workspace.images(split) / epoch.image
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 60, (32, 32, 3)) + 45 * (i % 5)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            epochs.append(epoch)
    sides = {split: [e for e in epochs if e.split == split] for split in ("ft", "eval")}
    write_epochs(workspace.epochs, epochs)
    write_conversations(
        workspace.conversations,
        [Conversation(e.sample_id, (e.image,) * 2, "?", e.stage) for e in sides["ft"]],
    )
    write_questions(
        workspace.questions,
        [Question(e.sample_id, (e.image,) * 2, "?", e.stage) for e in sides["eval"]],
    )
    write_json(workspace.prepare_stamp, {"protocol": {"style": "spectrogram", "size": 32}})
    return workspace


def stamp_of(workspace: Workspace) -> dict[str, Any]:
    return dict(json.loads((workspace.vision_module / "run.json").read_text()))


def test_what_is_unchanged_is_not_made_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings_of(workspace))
    before = {p: p.read_bytes() for p in workspace.root.rglob("*") if p.is_file()}
    for room, name in ((trained_room, "train_module"), (step, "export")):
        monkeypatch.setattr(room, name, lambda *_, **__: pytest.fail("made again"))
    run(settings_of(workspace))
    after = {p: p.read_bytes() for p in before if p.name != "run.json"}
    assert after == {p: content for p, content in before.items() if p.name != "run.json"}


def test_other_pictures_are_exported_anew(workspace: Workspace) -> None:
    run(settings_of(workspace))
    first = stamp_of(workspace)["results"]["weights_sha256"]
    path = workspace.images("ft") / read_epochs(workspace.epochs)[0].image
    with Image.open(path) as image:
        Image.fromarray(255 - np.array(image)).save(path)
    run(settings_of(workspace))
    assert stamp_of(workspace)["results"]["weights_sha256"] != first
    ids = ids_of(workspace)["ft"]
    assert load_features(workspace.features("ft"), ids).weights_sha256 != first


def test_given_weights_are_used_without_training(
    exported: Workspace, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_room, "train_module", lambda *_: pytest.fail("trained"))
    write_questions(workspace.questions, read_questions(workspace.questions)[::-1])
    run(replace(settings_of(workspace), weights=exported.vision_module))
    for split in ("ft", "eval"):
        assert workspace.features(split).read_bytes() == exported.features(split).read_bytes()
    for name in ("card.json", "model.safetensors"):  # where finetune looks for them
        kept = (workspace.vision_module / name).read_bytes()
        assert kept == (exported.vision_module / name).read_bytes()
    with pytest.raises(EegToolError, match="weights of 'test_resnet', not of 'resnet18'"):
        run(replace(settings_of(workspace), weights=exported.vision_module, backbone="resnet18"))


def test_the_module_is_scored_alone_by_stage(exported: Workspace) -> None:
    with (exported.vision_module / "eval_stages.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample_id"] for row in rows] == ids_of(exported)["eval"]
    true, predicted = ([row[name] for row in rows] for name in ("stage", "predicted"))
    evaluation = stamp_of(exported)["results"]["evaluation"]
    assert evaluation["accuracy"] == accuracy_score(true, predicted)
    each = f1_score(true, predicted, labels=STAGES, average=None, zero_division=0.0)
    assert evaluation["f1"] == dict(zip(STAGES, each, strict=True))
    for row in rows:
        shares = {stage: float(row[f"p_{stage}"]) for stage in STAGES}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert max(shares, key=shares.__getitem__) == row["predicted"]


def test_its_stages_are_calibrated_on_validation_subjects(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept on the card, and made again if they are to be decided for something else."""
    asked: list[tuple[list[str], str]] = []
    towards = {"temperature": 2.0, "offsets": {s: 60.0 * (s == "N3") for s in STAGES}}
    rest = {"decide_for": "likelihood", "decision_offsets": dict.fromkeys(STAGES, 0.0)}

    def fit(card: Any, epochs: Any, probabilities: Any, decide_for: str) -> dict[str, Any]:
        assert len(probabilities) == len(epochs)
        assert {epoch.split for epoch in epochs} == {"ft"}
        asked.append((card["val_subjects"], decide_for))
        return {**towards, **rest, "asked_for": decide_for}

    monkeypatch.setattr(step, "fit_module", fit)
    run(settings_of(workspace))
    card = json.loads((workspace.vision_module / "card.json").read_text())
    assert card["calibration"]["offsets"]["N3"] == 60
    assert stamp_of(workspace)["results"]["calibration"] == card["calibration"]
    with (workspace.vision_module / "eval_stages.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["predicted"] for row in rows} == {"N3"}
    assert {row["p_N3"] for row in rows} == {"1.000000"}
    load_module(workspace.vision_module)  # the card is still that of the weights
    run(settings_of(workspace))
    assert len(asked) == 1
    monkeypatch.setattr(trained_room, "train_module", lambda *_, **__: pytest.fail("trained"))
    run(replace(settings_of(workspace), decide_for="kappa"))
    assert [aim for _, aim in asked] == ["likelihood", "kappa"]
    # What an earlier version wrote is calibrated.
    del card["calibration"]
    write_json(workspace.vision_module / "card.json", card)
    run(replace(settings_of(workspace), decide_for="kappa"))
    assert len(asked) == 3


def test_rows_of_folds_come_from_modules_that_did_not_see_the_subject(
    many_epochs: Workspace,
) -> None:
    settings = replace(settings_of(many_epochs), folds=3, val_fraction=0.05)
    run(settings)
    sidecar = json.loads(many_epochs.features("ft").with_suffix(".json").read_text())
    subjects = {e.sample_id: e.subject for e in read_epochs(many_epochs.epochs)}
    assert len(sidecar["folds"]) == 3
    for sample_id, number in zip(sidecar["sample_ids"], sidecar["fold"], strict=True):
        card = sidecar["folds"][number - 1]
        assert subjects[sample_id] in card["held_out"]
        where = many_epochs.vision_module / "folds" / str(number)
        trained = json.loads((where / "card.json").read_text())
        seen = {*trained["train_subjects"], *trained["val_subjects"]}
        assert not seen & set(card["held_out"])
        assert card["weights_sha256"] == trained["weights_sha256"]
    assert json.loads(many_epochs.features("eval").with_suffix(".json").read_text())["fold"] is None
    assert not list(many_epochs.vision_module.glob("*.npy"))


def state_of(workspace: Workspace) -> dict[str, bytes]:
    """Everything extract leaves behind, but for the trained modules."""
    paths = [workspace.vision_module / name for name in ("eval_stages.csv", "run.json")]
    for split in ("ft", "eval"):
        paths += [workspace.features(split), workspace.features(split).with_suffix(".json")]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("spoil", [draw_another_size, spoil_a_picture_of_the_evaluation])
def test_export_that_fails_leaves_everything_as_it_was(
    trained: Workspace, spoil: Callable[[Workspace], None]
) -> None:
    before = state_of(trained)
    spoil(trained)
    with pytest.raises(EegToolError, match=r"72 x 72 pixels; prepare.json says|cannot be read"):
        run(replace(settings_of(trained), seed=7))
    assert state_of(trained) == before
    assert not (trained.vision_module / ".export").exists()


def test_weights_that_saw_the_evaluation_subjects_are_refused(
    trained: Workspace, tmp_path: Path
) -> None:
    card = json.loads((trained.vision_module / "card.json").read_text())
    card["val_subjects"] = ["S03"]
    write_json(trained.vision_module / "card.json", card)
    settings = replace(settings_of(trained), weights=trained.vision_module)
    with pytest.raises(EegToolError, match="trained on subjects of the evaluation side: S03"):
        run(settings)


def test_weights_for_other_pictures_are_refused(trained: Workspace) -> None:
    card = json.loads((trained.vision_module / "card.json").read_text())
    card["protocol"]["style"] = "waveform"
    write_json(trained.vision_module / "card.json", card)
    with pytest.raises(EegToolError, match="differently drawn pictures: style waveform and spec"):
        run(replace(settings_of(trained), weights=trained.vision_module))


def test_corrected_scorings_are_trained_on_and_scored(
    trained: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = read_epochs(trained.epochs)
    swapped = {"N2": "N1", "N1": "N2"}
    write_epochs(trained.epochs, [replace(e, stage=swapped.get(e.stage, e.stage)) for e in epochs])
    run(settings_of(trained))
    assert "is trained already" not in capsys.readouterr().out
    with (trained.vision_module / "eval_stages.csv").open() as file:
        rows = list(csv.DictReader(file))
    evaluation = json.loads((trained.vision_module / "run.json").read_text())["results"]
    stage_of = {e.sample_id: e.stage for e in read_epochs(trained.epochs)}
    right = sum(stage_of[row["sample_id"]] == row["predicted"] for row in rows)
    assert evaluation["evaluation"]["accuracy"] == pytest.approx(right / len(rows))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"no weights")])
def test_module_that_was_damaged_is_trained_anew(
    trained: Workspace,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
) -> None:
    before = trained.features("ft").read_bytes()
    spoil(trained.vision_module / "model.safetensors")
    run(settings_of(trained))
    assert "It is trained from scratch." in capsys.readouterr().out
    assert trained.features("ft").read_bytes() == before


def test_own_module_whose_code_changed_is_trained_anew(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = """
import torch
class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
    def pixels(self, pictures): return pictures.float() / 255
    def features(self, pixels): return pixels.mean((2, 3)) * self.scale
    def pool(self, features): return features
"""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "lab_of_means"
    package.mkdir()
    (package / "__init__.py").write_text("from lab_of_means.mean import Mean")
    (package / "unused.py").write_text("")
    for name, text in (("1", code), ("1", code), ("2", code.replace("/ 255", "/ 128"))):
        (package / "mean.py").write_text(text)
        for module in ("lab_of_means", "lab_of_means.mean"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        run(replace(settings_of(workspace), backbone="lab_of_means:Mean"))
        said = capsys.readouterr().out
        assert ("is trained already" in said) == (name == "1" and "Training" not in said)
    assert "is trained already" not in said


def test_a_second_run_in_the_same_workspace_is_refused(workspace: Workspace) -> None:
    lock = open_locked(workspace.root / ".extract.lock")
    assert lock is not None
    with lock:
        done = CliRunner().invoke(app, ["extract", "-w", str(workspace.root)])
    assert done.exit_code == 1
    assert "Another `eegvlm extract` is running in" in done.stderr


def test_given_weights_take_the_place_of_trained_ones(
    trained: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.loads((trained.vision_module / "card.json").read_text())
    save_module(tmp_path / "other", VisionModule("test_resnet", size=64), card)
    run(replace(settings_of(trained), weights=tmp_path / "other" / "model.safetensors"))
    assert "takes the place of the one that was trained here" in capsys.readouterr().out
    other = sha256_of(tmp_path / "other" / "model.safetensors")
    _, card = load_module(trained.vision_module)
    assert card["weights_sha256"] == stamp_of(trained)["results"]["weights_sha256"] == other


def test_nights_that_nobody_scored_are_exported_and_not_scored(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = read_epochs(workspace.epochs)
    first = next(e for e in epochs if e.split == "eval")
    write_epochs(workspace.epochs, [replace(e, stage="") if e is first else e for e in epochs])
    run(settings_of(workspace))
    assert stamp_of(workspace)["results"]["evaluation"]["n"] == 9
    write_epochs(
        workspace.epochs, [replace(e, stage="") if e.split == "eval" else e for e in epochs]
    )
    run(settings_of(workspace))
    assert stamp_of(workspace)["results"]["evaluation"] is None
    assert "No epoch of the evaluation subjects has a stage" in capsys.readouterr().out
    assert len(np.load(workspace.features("eval"))) == 10


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("sample_id", "epoch"),
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(",REM,", ",R,"),
        lambda text: "",
    ],
    ids=["another head", "cut off", "no stage", "empty"],
)
def test_stages_of_the_module_that_were_spoilt_are_written_again(
    trained: Workspace, spoil: Callable[[str], str]
) -> None:
    path = trained.vision_module / "eval_stages.csv"
    before = path.read_text()
    path.write_text(spoil(before))
    assert path.read_text() != before
    run(settings_of(trained))
    assert path.read_text() == before


def test_a_card_of_another_version_is_trained_anew(
    trained: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.loads((trained.vision_module / "card.json").read_text())
    card["settings"]["dropout"] = 0.1
    write_json(trained.vision_module / "card.json", card)
    run(settings_of(trained))
    assert "Training" in capsys.readouterr().out


def test_a_batch_that_leaves_a_rank_one_picture_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EegToolError, match="--batch-size 3 is too small for 2 processes"):
        run(replace(settings_of(workspace), batch_size=3))


def test_more_ranks_than_gpus_are_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EegToolError, match="--num-gpus 3: this machine has 2"):
        run(replace(settings_of(workspace), num_gpus=3))


def test_it_is_said_where_pictures_are_resized(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "images_sha256", lambda *_: sys.exit(9))
    with pytest.raises(SystemExit, match="9"):
        run(replace(settings_of(workspace), backbone="xcit_nano_12_p16_224"))
    assert "it sees them resized to 224 px" in " ".join(capsys.readouterr().out.split())


def test_imported_features_take_the_place_of_the_modules_report(
    trained: Workspace, tmp_path: Path
) -> None:
    ids = ids_of(trained)["eval"]
    np.save(tmp_path / "mine.npy", np.ones((len(ids), 1, 1024), np.float32))
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    settings = replace(
        settings_of(trained), import_features=tmp_path / "mine.npy", ids=tmp_path / "ids.txt"
    )
    with pytest.raises(EegToolError, match="it needs no module"):
        run(replace(settings, folds=2))
    run(settings)
    assert not (trained.vision_module / "eval_stages.csv").exists()
    results = json.loads((trained.vision_module / "run.json").read_text())["results"]
    assert (results["evaluation"], results["rows"]) == (None, {"eval": len(ids)})


def test_folds_that_cannot_be_aligned_are_refused_before_any_training(workspace: Workspace) -> None:
    with pytest.raises(EegToolError, match=r"other subjects have \d+ epochs, and 100 are needed"):
        run(replace(settings_of(workspace), folds=2))
    assert not workspace.vision_module.exists()


def test_features_made_elsewhere_are_taken_over(workspace: Workspace, tmp_path: Path) -> None:
    ids = ids_of(workspace)["eval"]
    rows = np.random.default_rng(0).standard_normal((len(ids), 1, 1024)).astype(np.float32)
    np.save(tmp_path / "mine.npy", rows)
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    settings = replace(settings_of(workspace), ids=tmp_path / "ids.txt")
    with pytest.raises(EegToolError, match="--ids are those of --import-features"):
        run(settings)
    run(replace(settings, import_features=tmp_path / "mine.npy"))
    table = load_features(workspace.features("eval"), ids)
    np.testing.assert_array_equal(table[ids[3]], rows[3])


def test_features_are_taken_over_by_the_files_of_the_recipe_alone(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.epochs.unlink()
    workspace.prepare_stamp.unlink()
    ids = [sample_id for side in ids_of(workspace).values() for sample_id in side]
    rows = np.random.default_rng(0).standard_normal((len(ids), 1, 1024)).astype(np.float32)
    np.save(tmp_path / "mine.npy", rows)
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    given: dict[str, Any] = {
        "import_features": tmp_path / "mine.npy",
        "ids": tmp_path / "ids.txt",
    }
    run(replace(settings_of(workspace), **given))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "There is no epochs.csv: epochs and their order are those of the rows of eeg_ft.json"
        in said
    )
    table = load_features(workspace.features("ft"), ids_of(workspace)["ft"])
    np.testing.assert_array_equal(table[ids[3]], rows[3])
    inputs = json.loads((workspace.vision_module / "run.json").read_text())["inputs"]
    assert inputs == {
        path.name: sha256_of(path) for path in (workspace.conversations, workspace.questions)
    }


def test_nothing_is_taken_over_where_prepare_has_not_ended(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.prepare_stamp.unlink()
    workspace.night("any").parent.mkdir()
    ids = ids_of(workspace)["eval"]
    np.save(tmp_path / "mine.npy", np.ones((len(ids), 1, 1024), np.float32))
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    before = workspace.features("eval").read_bytes()
    given: dict[str, Any] = {
        "import_features": tmp_path / "mine.npy",
        "ids": tmp_path / "ids.txt",
    }
    with pytest.raises(EegToolError, match="`eegvlm prepare` did not finish"):
        run(replace(settings_of(workspace), **given))
    assert workspace.features("eval").read_bytes() == before


def test_backbones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run(ExtractSettings(list_backbones="test_resnet*"))
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "test_resnet" in line]
    assert row.split()[-1].isdigit()


def test_ranks_hold_the_lock_of_the_workspace(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(*_: Any, kept_open: tuple[int, ...]) -> int:
        (number,) = kept_open
        assert os.fstat(number).st_ino == (workspace.root / ".extract.lock").stat().st_ino
        return 7

    monkeypatch.setattr(ranks, "launch", launch)
    with pytest.raises(EegToolError, match="stopped with exit code 7"):
        run(replace(settings_of(workspace), num_gpus=2))


@pytest.mark.usefixtures("warm")
def test_two_ranks_train_one_module(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    run(replace(settings_of(workspace), num_gpus=2))
    module, card = load_module(workspace.vision_module)
    assert card["training"]["ranks"] == 2
    assert stamp_of(workspace)["results"]["evaluation"]["n"] == 10
    assert "Continuing" not in capfd.readouterr().out
    assert all(value.isfinite().all() for value in module.state_dict().values())


@pytest.fixture
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learn context in a few small steps."""
    usual = step._context_plan
    few = {"steps": 8, "batch": 2, "length": 20}
    monkeypatch.setattr(step, "_context_plan", lambda side: replace(usual(side), **few))


@pytest.mark.usefixtures("_quickly")
def test_context_is_learnt_kept_and_taken_away(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same module without it before and after; with it, what is there already is not made again."""
    plain = settings_of(workspace)
    run(plain)
    alone = {split: workspace.features(split).read_bytes() for split in ("ft", "eval")}
    with monkeypatch.context() as patch:
        patch.setattr(trained_room, "train_module", lambda *_, **__: pytest.fail("trained again"))
        run(replace(plain, context=2.0))
        for split in ("ft", "eval"):
            sidecar = read_sidecar(workspace.features(split))
            assert sidecar is not None
            assert sidecar.context == 4
            assert sidecar.weights_sha256 == sha256_of(
                workspace.vision_module / "model.safetensors"
            )
            assert workspace.features(split).read_bytes() != alone[split]
        known = json.loads((workspace.vision_module / "card.json").read_text())
        assert known["context"]["reach"] == known["context_epochs"] == 4
        patch.setattr(step, "train_context", lambda *_, **__: pytest.fail("learnt again"))
        patch.setattr(step, "export", lambda *_, **__: pytest.fail("made again"))
        run(replace(plain, context=2.0))
    run(plain)
    assert {split: workspace.features(split).read_bytes() for split in alone} == alone
    assert "context_epochs" not in json.loads((workspace.vision_module / "card.json").read_text())


@pytest.mark.usefixtures("_quickly")
def test_stored_features_of_a_night_are_those_of_its_export(workspace: Workspace) -> None:
    run(replace(settings_of(workspace), context=2.0))
    epochs = [e for e in read_epochs(workspace.epochs) if e.split == "eval"]
    night = [e for e in epochs if e.recording == epochs[0].recording]
    module, _ = open_module(workspace.vision_module)
    pictures = {e.sample_id: (workspace.images("eval") / e.image).read_bytes() for e in night}
    onsets_s = {e.sample_id: e.onset_s for e in night}
    found = features_of(module, pictures, onsets_s=onsets_s)
    table = load_features(workspace.features("eval"), ids_of(workspace)["eval"])
    for name, row in found.items():
        np.testing.assert_allclose(row, table[name], atol=1e-4)
    (first, *_) = found
    alone = features_of(module, {first: pictures[first]})[first]
    assert np.abs(alone - found[first]).max() > 1e-3


@pytest.mark.usefixtures("_quickly")
def test_given_weights_with_another_context_are_refused(
    workspace: Workspace, tmp_path: Path
) -> None:
    run(replace(settings_of(workspace), context=2.0))
    shutil.copytree(workspace.vision_module, tmp_path / "given")
    given = replace(settings_of(workspace), weights=tmp_path / "given")
    with pytest.raises(EegToolError, match="have a context of 4 epochs on either side"):
        run(replace(given, context=5.0))
    run(given)
    sidecar = read_sidecar(workspace.features("eval"))
    assert sidecar is not None
    assert sidecar.context == 4
