"""`eegvlm ask` on the tiny model, with a small vision module stored beside the drawn adapter."""

from __future__ import annotations

import io
import json
import shutil
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from eegtool import cli
from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.pictures import read_rgb
from eegtool.core.records import read_questions
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, read_json, write_json
from eegtool.evaluate import ask, step
from eegtool.evaluate.options import AskSettings, EvaluateSettings
from eegtool.extract.features import Sidecar, write_features
from eegtool.extract.module import VisionModule
from eegtool.extract.stored import features_of, open_module, store_module
from eegtool.extract.weights import save_module
from eegtool.inference import loaded
from eegtool.inference.calibration import Calibration, write_calibration
from eegtool.inference.writing import Reply
from eegtool.model.adapters import adapter_sha256
from eegtool.model.answer_form import AnswerForm
from eegtool.prepare.questions import QUESTION_TEMPLATES
from tests.conftest import form_for
from tests.evaluate.conftest import rows_of

ASKED = QUESTION_TEMPLATES["stage"].question


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a vision module: made once, never to be changed."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("trained") / "vision_module"
    save_module(folder, VisionModule("test_resnet", size=64).eval(), {})
    return folder


def describe(adapter: Path, **change: Any) -> None:
    """Change what the adapter says about itself."""
    write_json(adapter / "eegvlm.json", read_json(adapter / "eegvlm.json") | change)


@pytest.fixture
def model(adapter: Path, trained: Path) -> Path:
    """Return an adapter folder with its vision module, as finetune leaves it."""
    weights = read_json(trained / "card.json")["weights_sha256"]
    describe(
        adapter,
        features_weights_sha256=weights,
        protocol={"style": "spectrogram", "size": 64},
        answers=form_for("stage"),
    )
    assert store_module(trained, adapter, weights)
    return adapter


@pytest.fixture
def settings(
    model: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AskSettings:
    """Ask about an epoch of the evaluation side, from nowhere near the workspace."""
    # What a model with drawn weights writes is babble: it may end with any stage.
    monkeypatch.setattr(ask, "disagreement", lambda *_: "")
    image = workspace.images("eval") / "S03E0-0003.png"
    return AskSettings(image, model, workspace=tmp_path / "nowhere")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it a fault to load the model."""
    monkeypatch.setattr(loaded, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))


def answered(settings: AskSettings, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Ask with --json, return what stands on standard output."""
    capsys.readouterr()
    ask.run(replace(settings, json=True))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def feature_of(folder: Path, picture: np.ndarray, backbone: str | None = None) -> np.ndarray:
    """Return the feature of one picture, uint8 ``[H, W, 3]``, by the module of a folder."""
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    return features_of(open_module(folder, backbone)[0], {"a": png.getvalue()})["a"]


def refused(settings: AskSettings) -> EegToolError:
    with pytest.raises(EegToolError) as caught:
        ask.run(settings)
    return caught.value


def test_the_reply_is_that_of_evaluate(
    settings: AskSettings,
    workspace: Workspace,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Feature, pixels, prompt and scores are those of the answers file, for each of three epochs."""
    questions = read_questions(workspace.questions)
    features = [
        feature_of(
            model / "vision_module",
            np.array(read_rgb(workspace.images("eval") / question.images[0], "")),
        )
        for question in questions
    ]
    ids = tuple(question.sample_id for question in questions)
    weights = read_json(model / "eegvlm.json")["features_weights_sha256"]
    sidecar = Sidecar(ids, "test_resnet", weights, "")
    write_features(workspace.features("eval"), np.stack(features), sidecar)
    step.run(
        EvaluateSettings(model, workspace=workspace.root, mode="both", batch_size="1", num_gpus=1)
    )
    rows = {row["question_id"]: row for row in rows_of(workspace.answers)}
    seen = set()
    for name in ids[:3]:
        image = workspace.images("eval") / f"{name}.png"
        found = answered(replace(settings, image=image), capsys)
        row = rows[name]
        assert found["text"] == row["text"]
        for key in ("log_likelihoods", "stage_probabilities"):
            wanted = row["metadata"][key]
            assert found[key] == pytest.approx(wanted, abs=1e-5)
        assert sum(found["stage_probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert found["adapter_sha256"] == row["metadata"]["adapter_sha256"]
        assert found["warnings"] == []
        seen.add(tuple(found["log_likelihoods"].values()))
    assert len(seen) == 3


def test_what_stands_in_the_terminal(
    settings: AskSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answered(settings, capsys)
    ask.run(replace(settings, json=False))
    out, err = capsys.readouterr()
    assert err == ""
    assert "warning" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert ASKED in out
    # An untrained model writes anything: what would act on the terminal is not shown.
    assert not [c for c in out if unicodedata.category(c) == "Cc" and c != "\n"]
    assert _visible(found["text"]) in _visible(out)
    lines = [line.split() for line in out.splitlines() if line.endswith("%")]
    assert [line[0] for line in lines] == list(STAGES)
    for stage, *bar, share, _ in lines:
        shown = found["stage_probabilities"][stage]
        assert float(share) / 100 == pytest.approx(shown, abs=6e-4)
        assert "".join(bar).count("█") == int(40 * shown)
    assert "Not calibrated" in out


def _visible(text: str) -> str:
    """Return the characters that can be seen, without blanks: the terminal may break lines."""
    return "".join(c for c in text if unicodedata.category(c)[0] not in "CZ")


def test_nothing_but_json_stands_on_standard_output(
    settings: AskSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    ask.run(replace(settings, json=True, question="Is this [b]REM[/b]?"))
    out, err = capsys.readouterr()
    assert json.loads(out)["prompt"] == "Is this [b]REM[/b]?"
    assert len(out.splitlines()) == 1
    assert "warning" in err
    assert json.loads(out)["warnings"]


def calibrated(model: Path, temperature: float = 3.0, **change: Any) -> None:
    sha256 = adapter_sha256(model)
    fitted = Calibration(temperature, "score", ("S01",), 812, 1.2, 1.1, 0.2, 0.1, sha256)
    write_calibration(model, replace(fitted, **change))


def test_probabilities_are_calibrated(
    settings: AskSettings, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = answered(settings, capsys)
    calibrated(model)
    after = answered(settings, capsys)
    assert after["log_likelihoods"] == before["log_likelihoods"]
    assert after["stage"] == before["stage"]
    scores = np.array(list(before["log_likelihoods"].values())) / 3
    expected = np.exp(scores) / np.exp(scores).sum()
    assert list(after["stage_probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert (before["calibration_temperature"], after["calibration_temperature"]) == (1.0, 3.0)
    ask.run(replace(settings, json=False))
    shown = " ".join(capsys.readouterr().out.split())
    assert "Calibrated: temperature 3.00 and an offset per stage, fitted to 812 epochs" in shown
    # Not where it is not wanted, and not for a question that it was not fitted to.
    for other in ({"no_calibration": True}, {"question": "REM?"}):
        assert answered(replace(settings, **other), capsys)["calibration_temperature"] == 1.0


def test_the_stage_is_the_one_that_is_decided_for(
    settings: AskSettings, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = answered(settings, capsys)
    other = next(stage for stage in STAGES if stage != before["stage"])
    wanted = tuple(60.0 * (stage == other) for stage in STAGES)
    calibrated(model, decide_for="kappa", decision_offsets=wanted)
    after = answered(settings, capsys)
    assert (after["stage"], after["decide_for"]) == (other, "kappa")
    assert max(after["stage_probabilities"], key=after["stage_probabilities"].get) != other
    calibrated(model, offsets=wanted)
    after = answered(settings, capsys)
    assert (after["stage"], after["decide_for"]) == (other, "likelihood")
    assert after["stage_probabilities"][other] == pytest.approx(1)


def test_the_calibration_of_other_weights_is_refused(
    settings: AskSettings, model: Path, unloaded: None
) -> None:
    calibrated(model, adapter_sha256="0" * 64)
    assert "--no-calibration" in refused(settings).fix


def test_another_question_reaches_the_model(
    settings: AskSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = answered(settings, capsys)
    same = answered(replace(settings, question=f"  {ASKED.replace(' ', '  ')}\n"), capsys)
    other = answered(replace(settings, question="<image> Deep sleep?"), capsys)
    assert same == plain
    assert (other["prompt"], plain["prompt"]) == ("Deep sleep?", ASKED)
    assert other["log_likelihoods"] != plain["log_likelihoods"]
    assert ASKED in other["warnings"][0]


@pytest.mark.parametrize(
    ("flags", "room"),
    [({}, 8), ({"question": "Why?"}, 128), ({"question": "Why?", "max_new_tokens": 5}, 5)],
)
def test_room_for_the_answer(
    settings: AskSettings,
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, Any],
    room: int,
) -> None:
    class StopHereError(Exception):
        pass

    def reply(*given: Any) -> None:
        assert given[-1].max_new_tokens == room
        raise StopHereError

    monkeypatch.setattr(loaded.LoadedModel, "reply", reply)
    with pytest.raises(StopHereError):
        ask.run(replace(settings, **flags))


def test_a_model_that_does_not_know_its_question_must_be_given_one(
    settings: AskSettings, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = answered(settings, capsys)
    describe(model, answers={})
    error = refused(settings)
    assert "earlier version" in error.what
    assert "eeg_eval.jsonl" in error.fix
    assert answered(replace(settings, question=ASKED), capsys) == known


# Pictures


def test_a_picture_of_another_size_is_pointed_out(
    settings: AskSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = tmp_path / "wide.png"
    with Image.open(settings.image) as image:
        image.resize((128, 96)).save(wide)
    warnings = answered(replace(settings, image=wide), capsys)["warnings"]
    assert len(warnings) == 1
    assert "128 x 96 pixels, those of the training 64 x 64" in warnings[0]
    describe(settings.model_path, protocol={})  # of a workspace without a stamp
    assert answered(replace(settings, image=wide), capsys)["warnings"] == []


def test_a_picture_that_was_drawn_otherwise_is_pointed_out(
    settings: AskSettings, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp = {"protocol": {"style": "spectrogram", "size": 32, "template": "cot"}}
    write_json(workspace.prepare_stamp, stamp)
    assert answered(settings, capsys)["warnings"] == []  # its own size counts, and it is that
    stamp["protocol"]["style"] = "waveform"
    write_json(workspace.prepare_stamp, stamp)
    warnings = answered(settings, capsys)["warnings"]
    assert len(warnings) == 1
    assert "style spectrogram and waveform" in warnings[0]


def test_it_is_found_below_the_folder_of_its_recording(
    workspace: Workspace, tmp_path: Path
) -> None:
    deep = workspace.images("eval") / "S03E0" / "S03E0-0003.png"
    assert ask.drawn(deep) == {"style": "spectrogram", "size": 64}
    assert ask.drawn(tmp_path / "elsewhere.png") == {}


@pytest.mark.parametrize("spoil", ["missing", "broken", "cut", "text", "folder"])
def test_a_picture_that_cannot_be_read_is_refused_early(
    settings: AskSettings, tmp_path: Path, unloaded: None, spoil: str
) -> None:
    path = tmp_path / "[b] picture.png"
    data = settings.image.read_bytes()
    if spoil == "folder":
        path.mkdir()
    elif spoil != "missing":
        broken = data[:40] + bytes(60) + data[100:]
        path.write_bytes({"broken": broken, "cut": data[:300], "text": b"W"}[spoil])
    error = refused(replace(settings, image=path))
    assert str(path) in error.what
    assert "eegvlm prepare" in error.fix


# Features


def test_the_module_of_the_workspace_will_do(
    settings: AskSettings,
    model: Path,
    trained: Path,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stored = answered(settings, capsys)
    shutil.rmtree(model / "vision_module")
    shutil.copytree(trained, workspace.vision_module)
    assert answered(replace(settings, workspace=workspace.root), capsys) == stored


def without_module(model: Path, workspace: Workspace) -> None:
    shutil.rmtree(model / "vision_module")


def with_another_module(model: Path, workspace: Workspace) -> None:
    shutil.rmtree(model / "vision_module")
    torch.manual_seed(8)
    save_module(workspace.vision_module, VisionModule("test_resnet", size=64), {})


@pytest.mark.parametrize("spoil", [without_module, with_another_module])
def test_without_its_vision_module_it_says_how_to_fix_it(
    settings: AskSettings, model: Path, workspace: Workspace, unloaded: None, spoil: Any
) -> None:
    spoil(model, workspace)
    error = refused(replace(settings, workspace=workspace.root))
    assert str(model / "vision_module") in error.what
    assert str(workspace.vision_module) in error.what
    assert "--workspace" in error.fix
    assert "--features-file" in error.fix


def test_features_that_were_made_elsewhere_must_be_given(
    settings: AskSettings, model: Path, unloaded: None
) -> None:
    describe(model, features_weights_sha256="")
    error = refused(settings)
    assert "made elsewhere" in error.what
    assert "--features-file" in error.fix


def test_a_damaged_module_is_refused(settings: AskSettings, model: Path, unloaded: None) -> None:
    path = model / "vision_module" / "model.safetensors"
    data = path.read_bytes()
    path.unlink()  # it is linked
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "SHA-256" in refused(settings).what


def test_a_fusion_without_features_needs_no_module(
    settings: AskSettings, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(model / "vision_module")
    describe(model, fusion="none")
    assert set(answered(settings, capsys)["stage_probabilities"]) == set(STAGES)


@pytest.mark.parametrize("kind", ["shuffled", "zero"])
def test_a_model_of_a_sanity_check_is_pointed_out(
    settings: AskSettings, model: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    describe(model, features=kind)
    warnings = answered(settings, capsys)["warnings"]
    assert len(warnings) == 1
    assert kind in warnings[0]


def write_rows(settings: AskSettings, model: Path, path: Path, weights: str = "") -> None:
    """Write features of two epochs, the second of which is the picture's, by its vision module."""
    weights = weights or read_json(model / "eegvlm.json")["features_weights_sha256"]
    feature = feature_of(model / "vision_module", np.array(read_rgb(settings.image, "")))
    rows = np.stack([np.ones_like(feature), feature])
    write_features(path, rows, Sidecar(("S03E0-0009", "S03E0-0003"), "own", weights, ""))


def test_a_feature_may_come_from_a_file(
    settings: AskSettings, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.npy"
    write_rows(settings, model, path)
    computed = answered(settings, capsys)
    shutil.rmtree(model / "vision_module")
    settings = replace(settings, features_file=path)
    assert answered(settings, capsys) == computed
    # One row of one's own needs no sidecar.
    np.save(tmp_path / "one.npy", np.load(path)[1:])
    one = replace(settings, features_file=tmp_path / "one.npy")
    assert answered(one, capsys) == computed


def test_a_features_file_that_does_not_fit_is_refused(
    settings: AskSettings, model: Path, workspace: Workspace, tmp_path: Path, unloaded: None
) -> None:
    path = tmp_path / "rows.npy"
    settings = replace(settings, features_file=path)
    write_rows(settings, model, path, weights="ef" * 32)
    assert "another vision module" in refused(settings).what
    write_rows(settings, model, path)
    other = workspace.images("eval") / "S03E0-0004.png"
    assert "no feature of 'S03E0-0004'" in refused(replace(settings, image=other)).what
    path.with_suffix(".json").unlink()
    assert "2 rows for 1 epoch" in refused(settings).what
    path.unlink()
    assert "does not exist" in refused(settings).what


def test_code_of_ones_own_runs_only_if_it_is_named(
    settings: AskSettings, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before the model is loaded; named, the code is called."""
    source = (
        "import timm\nfrom eegtool.extract.backbones import TimmEncoder\n\n\n"
        "def make():\n    return TimmEncoder('test_resnet', pretrained=False, size=64)\n"
    )
    (tmp_path / "my_asked_encoder.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_asked_encoder", raising=False)
    from eegtool.extract.backbones import code_sha256

    name = "my_asked_encoder:make"
    module = VisionModule(name, size=64).eval()
    shutil.rmtree(model / "vision_module")
    weights = save_module(model / "vision_module", module, {"code_sha256": code_sha256(name)})
    describe(model, features_weights_sha256=weights)
    with monkeypatch.context() as patch:
        patch.setattr(loaded, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))
        error = refused(settings)
    assert "code of your own" in error.what
    assert f"--backbone {name}" in error.fix
    ask.run(replace(settings, backbone=name))


# Answers with reasons


CONCLUSIONS = AnswerForm(
    stages={stage: f"The stage is {stage}." for stage in STAGES}, lead="The stage is", place="end"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Slow waves. The stage is N3.", ""),
        ("Slow waves. The stage is N2.", "'The stage is N2.'"),
        ("Slow waves, and then", ""),
        ("", ""),
    ],
)
def test_words_that_contradict_the_scores_are_pointed_out(text: str, said: str) -> None:
    found = ask.disagreement(text, "N3", CONCLUSIONS)
    assert said in found
    assert bool(said) == ("its scores decide for 'The stage is N3.'" in found)


def test_a_contradiction_stands_above_the_table(
    settings: AskSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ask, "disagreement", lambda *_: "words say [N1]")
    assert answered(settings, capsys)["warnings"] == ["words say [N1]"]
    ask.run(replace(settings, json=False))
    assert capsys.readouterr().out.startswith("warning: words say [N1]\n")


def test_reasons_come_first_where_they_were_trained(
    settings: AskSettings, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = QUESTION_TEMPLATES["cot"]
    describe(model, answers=form_for("cot") | {"max_new_tokens": 12})
    found = answered(settings, capsys)
    assert found["prompt"] == template.question
    assert sum(found["stage_probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    ask.run(replace(settings, json=False))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_what_the_model_writes_does_not_act_on_the_terminal(
    settings: AskSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = Reply("\x1b[2J[b]N2[/b]\r\nthen\x07", np.zeros(5))
    found = {"image": "x.png", "prompt": "?"} | ask.as_row(reply, None)
    console.print(ask.shown(found, None))
    out = capsys.readouterr().out
    assert "[2J[b]N2[/b]" in out
    assert not any(c in out for c in "\x1b\x07\r")
    console.print(ask.shown(found | {"text": ""}, None))
    assert "(no words)" in capsys.readouterr().out


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AskSettings] = []
    monkeypatch.setattr(cli, "load", lambda target: seen.append)
    words = ["ask", "x.png", "Is it REM?", "--model-path", "m", "--backbone", "mine:Net", "--json"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert CliRunner().invoke(cli.app, ["ask", "--model-path", "m", "x.png"]).exit_code == 0
    assert seen == [
        AskSettings(Path("x.png"), Path("m"), "Is it REM?", backbone="mine:Net", json=True),
        AskSettings(Path("x.png"), Path("m")),
    ]
    assert CliRunner().invoke(cli.app, ["ask", "x.png"]).exit_code == 2
