from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from eegtool import cli
from eegtool.core.errors import EegToolError
from eegtool.core.launching import Stopped
from eegtool.core.records import read_conversations, write_conversations
from eegtool.core.workspace import Workspace, read_json, sha256_of, write_json
from eegtool.extract.features import load_features
from eegtool.finetune import hardware, launcher, planning, step
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import Plan
from eegtool.finetune.planning import make_plan
from eegtool.model.adapters import read_contract
from eegtool.model.eegvlm import EEGVLM


@pytest.fixture
def settings(workspace: Workspace) -> FinetuneSettings:
    return FinetuneSettings("tiny", workspace=workspace.root, deepspeed="none")


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_the_plan_holds_what_was_asked(
    settings: FinetuneSettings, output_dir: Path, tiny: Path, workspace: Workspace
) -> None:
    settings = replace(settings, lora_r=8, mm_projector_lr=1e-5, warmup_ratio=0.1, seed=7)
    plan = make_plan(settings, output_dir)
    assert (plan.base, plan.base_folder) == ("tiny", str(tiny))
    assert (plan.lora_r, plan.mm_projector_lr, plan.fusion) == (8, 1e-5, "add")
    assert plan.protocol == {"style": "spectrogram", "size": 64}
    assert 0 < plan.trained_share < 0.1
    assert plan.features_file == str(workspace.features("ft"))
    assert plan.arguments["warmup_steps"] == 0.1
    assert plan.arguments["seed"] == 7
    assert plan.arguments["remove_unused_columns"] is False
    assert all(Path(p).is_absolute() for p in (plan.data_path, plan.image_folder, plan.output_dir))


def test_a_folder_is_remembered_by_its_whole_path(
    settings: FinetuneSettings,
    output_dir: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny, tmp_path / "llava")
    monkeypatch.chdir(tmp_path)
    plan = make_plan(replace(settings, model_name_or_path="llava"), output_dir)
    assert plan.base == plan.base_folder == str(tmp_path / "llava")


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"),
    [
        (torch.float32, False, False),
        (torch.bfloat16, True, False),
        (torch.float16, False, True),
    ],
)
def test_precision_is_that_of_the_hardware(
    settings: FinetuneSettings,
    output_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    bf16: bool,
    fp16: bool,
) -> None:
    monkeypatch.setattr(hardware, "best_dtype", lambda: dtype)
    made = make_plan(settings, output_dir).arguments
    assert (made["bf16"], made["fp16"]) == (bf16, fp16)


@pytest.mark.parametrize(
    ("change", "message", "fix"),
    [
        ({"model_name_or_path": "tyni"}, "'tyni' is neither a folder nor", "'tiny'"),
        ({"fusion": "ad"}, "Unknown fusion 'ad'", "'add', 'token', 'none'"),
        ({"version": "v2"}, "Unknown conversation template 'v2'", "'v1', 'llava_v1'"),
        ({"report_to": "tensorbord"}, "'tensorbord'", "Did you mean 'tensorboard'?"),
        ({"lr_scheduler_type": "cosinus"}, "'cosinus'", "Did you mean 'cosine'?"),
        ({"deepspeed": "zero4.json"}, "--deepspeed zero4.json: no such file", "'zero3'"),
        ({"data_path": Path("no.json")}, "no.json does not exist", ""),
        ({"features_file": Path("no.npy")}, "no.npy does not exist", "eegvlm extract"),
        ({"model_max_length": 40}, "'S01E0-0000' has .* tokens, more than", "nothing is cut"),
        ({"save_strategy": "best"}, "--save-strategy 'best'", "'steps', 'epoch', 'no'"),
        ({"attention": "flash"}, "--attention 'flash'", "'sdpa'"),
        ({"bits": 8}, "--bits '8'", "'4'"),
        ({"further": {"lora_enable": False}}, "--lora_enable False cannot be done", ""),
    ],
)
def test_bad_settings_are_refused(
    settings: FinetuneSettings, output_dir: Path, change: dict[str, Any], message: str, fix: str
) -> None:
    with pytest.raises(EegToolError, match=message) as caught:
        make_plan(replace(settings, **change), output_dir)
    assert fix in caught.value.fix
    assert not output_dir.exists()


def other_features(workspace: Workspace, output_dir: Path) -> None:
    path = workspace.features("ft").with_suffix(".json")
    path.write_text(path.read_text().replace("S01E0-0003", "S09E0-0003"))


def features_of_other_pictures(workspace: Workspace, output_dir: Path) -> None:
    path = workspace.features("ft").with_suffix(".json")
    sidecar = json.loads(path.read_text())
    path.write_text(json.dumps(sidecar | {"protocol": {"style": "waveform"}}))


def fewer_bare_features(workspace: Workspace, output_dir: Path) -> None:
    path = workspace.features("ft")
    path.with_suffix(".json").unlink()
    np.save(path, np.load(path)[:-1])


def fewer_samples(workspace: Workspace, output_dir: Path) -> None:
    write_conversations(workspace.conversations, read_conversations(workspace.conversations)[:-1])


def no_samples(workspace: Workspace, output_dir: Path) -> None:
    write_conversations(workspace.conversations, [])


def a_sample_twice(workspace: Workspace, output_dir: Path) -> None:
    rows = read_conversations(workspace.conversations)
    write_conversations(workspace.conversations, [*rows, rows[0]])


def no_picture(workspace: Workspace, output_dir: Path) -> None:
    (workspace.images("ft") / "S02E0-0007.png").unlink()


def a_picture_outside(workspace: Workspace, output_dir: Path) -> None:
    text = workspace.conversations.read_text()
    workspace.conversations.write_text(text.replace("S01E0-0000.png", "../S01E0-0000.png"))


def no_answer(workspace: Workspace, output_dir: Path) -> None:
    rows = read_conversations(workspace.conversations)
    rows[4] = replace(rows[4], answer="")
    write_conversations(workspace.conversations, rows)


def a_feature_that_is_nan(workspace: Workspace, output_dir: Path) -> None:
    path = workspace.features("ft")
    path.with_suffix(".json").unlink()  # its checksums would tell, too
    rows = np.load(path)
    rows[[4, 13], 0, 9] = np.nan, np.inf
    np.save(path, rows)


def features_of_another_workspace(workspace: Workspace, output_dir: Path) -> None:
    for suffix in (".npy", ".json"):
        workspace.features("eval").with_suffix(suffix).replace(
            workspace.features("ft").with_suffix(suffix)
        )


def broken_json(workspace: Workspace, output_dir: Path) -> None:
    lines = workspace.conversations.read_text().splitlines()
    lines[6] = lines[6].replace(":", "", 1)
    workspace.conversations.write_text("\n".join(lines))


def an_unfinished_training_there(workspace: Workspace, output_dir: Path) -> None:
    (output_dir / "checkpoint-3").mkdir(parents=True)


def a_training_begun_there(workspace: Workspace, output_dir: Path) -> None:
    output_dir.mkdir()
    (output_dir / "plan.json").write_text("{}")


def an_adapter_there(workspace: Workspace, output_dir: Path) -> None:
    output_dir.mkdir()
    (output_dir / "eegvlm.json").write_text("{}")


def something_there(workspace: Workspace, output_dir: Path) -> None:
    output_dir.mkdir()
    (output_dir / "thesis.tex").write_text("")


def a_picture_that_is_a_loop(workspace: Workspace, output_dir: Path) -> None:
    no_picture(workspace, output_dir)
    (workspace.images("ft") / "S02E0-0007.png").symlink_to("S02E0-0007.png")


def a_picture_that_was_not_fetched(workspace: Workspace, output_dir: Path) -> None:
    no_picture(workspace, output_dir)
    (workspace.images("ft") / "S02E0-0007.png").symlink_to("../.git/annex/objects/7")


def a_stamp_by_hand(workspace: Workspace, output_dir: Path) -> None:
    """Its adapter could be trained, and never be asked."""
    write_json(workspace.prepare_stamp, {"protocol": {"size": "64"}})


BAD: dict[Callable[[Workspace, Path], None], str] = {
    a_picture_that_is_a_loop: "of sample 'S02E0-0007' is a link that leads back to itself",
    a_picture_that_was_not_fetched: "is a link to ../.git/annex/objects/7, which does not exist",
    a_stamp_by_hand: r"prepare.json: protocol.size is '64', not a whole number from 1 to 2048",
    other_features: r"S01E0-0003.*S09E0-0003",
    features_of_other_pictures: "differently drawn pictures: style waveform and spectrogram",
    fewer_bare_features: "no sidecar and 19 rows for 20 epochs",
    fewer_samples: "1 only in train_high_level_features.npy",
    no_samples: "has no samples",
    a_sample_twice: "'S01E0-0000' occurs more than once",
    no_picture: "S02E0-0007.png of sample 'S02E0-0007' does not exist",
    a_picture_outside: "leaves the image folder",
    no_answer: "'S01E0-0004' has an empty answer",
    a_feature_that_is_nan: r"2 of the high-level features are not finite: S01E0-0004, S02E0-0003",
    features_of_another_workspace: r"20 only in eeg_ft.json \(S01E0-0000.*10 only in train_high",
    broken_json: r"eeg_ft.json, line 7: ",
    an_unfinished_training_there: "holds a training that has not ended",
    a_training_begun_there: "holds a training that has not ended",
    an_adapter_there: "already holds an adapter",
    something_there: "is not empty and is not an adapter folder",
}


@pytest.mark.parametrize(("spoil", "message"), BAD.items(), ids=[f.__name__ for f in BAD])
def test_a_workspace_that_does_not_fit_is_refused(
    settings: FinetuneSettings,
    output_dir: Path,
    workspace: Workspace,
    spoil: Callable[[Workspace, Path], None],
    message: str,
) -> None:
    spoil(workspace, output_dir)
    with pytest.raises(EegToolError, match=message):
        make_plan(settings, output_dir)


def test_pictures_in_a_store_are_trained_on(
    settings: FinetuneSettings, output_dir: Path, workspace: Workspace
) -> None:
    folder, store = workspace.images("ft"), workspace.root / "store"
    folder.rename(store)
    folder.mkdir()
    for picture in store.iterdir():
        (folder / picture.name).symlink_to(picture)
    assert make_plan(settings, output_dir)


def test_features_are_needed_only_where_they_are_used(
    settings: FinetuneSettings, output_dir: Path, workspace: Workspace
) -> None:
    workspace.features("ft").unlink()
    with pytest.raises(EegToolError, match="features file"):
        make_plan(settings, output_dir)
    assert make_plan(replace(settings, fusion="none"), output_dir)


def test_bare_features_are_taken_with_a_warning(
    settings: FinetuneSettings,
    output_dir: Path,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_plan(settings, output_dir)
    assert "warning" not in capsys.readouterr().out
    workspace.features("ft").with_suffix(".json").unlink()
    make_plan(settings, output_dir)
    assert "warning" in capsys.readouterr().out


Launched = list[tuple[Plan, list[str], dict[str, str]]]


def finish(plan: Plan, weights: str = "") -> None:
    """Leave an output folder as a training does, on features of a module of these weights."""
    out = Path(plan.output_dir)
    (out / "training_log.json").write_text(json.dumps({"metrics": {"train_loss": 0.5}, "log": []}))
    (out / "eegvlm.json").write_text(json.dumps({"features_weights_sha256": weights}))


def save(plan: Plan, n: int) -> None:
    """Leave a checkpoint that is whole."""
    checkpoint = Path(plan.output_dir) / f"checkpoint-{n}"
    checkpoint.mkdir()
    (checkpoint / "whole.json").write_text(json.dumps({"files": {}, "step": n}))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    """What would be launched; nothing is trained, the adapter is there at once."""
    seen: Launched = []

    def launch(command: list[str], environment: dict[str, str], **_: Any) -> int:
        plan = Plan.read(Path(command[-1]))
        seen.append((plan, command, environment))
        finish(plan)
        return 0

    monkeypatch.setattr(step, "launch", launch)
    return seen


def launch_as(
    monkeypatch: pytest.MonkeyPatch, outcome: int | BaseException, steps: int = 0
) -> None:
    """Let the launched training save a checkpoint after `steps`, if any, and end with `outcome`."""

    def launch(command: list[str], environment: dict[str, str], **_: Any) -> int:
        plan = Plan.read(Path(command[-1]))
        if steps:
            save(plan, steps)
        Path(plan.stop_file).touch()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(step, "launch", launch)


def test_a_run_leaves_its_stamp_and_its_plan(
    settings: FinetuneSettings, workspace: Workspace, launched: Launched
) -> None:
    step.run(settings)
    plan, command, _ = launched[0]
    folder = workspace.checkpoints / "eegvlm"
    stamp = json.loads((folder / "run.json").read_text())
    assert stamp["step"] == "finetune"
    assert stamp["results"] == {"train_loss": 0.5}
    assert stamp["settings"]["model_name_or_path"] == "tiny"
    assert stamp["protocol"] == plan.protocol
    assert stamp["inputs"] == {"data": sha256_of(workspace.conversations)}
    assert list(workspace.checkpoints.iterdir()) == [folder]
    assert command[-1] == str(folder.resolve() / "plan.json")
    assert json.loads(Path(command[-1]).read_text())["fingerprint"] == plan.fingerprint
    assert plan.arguments["output_dir"] == plan.output_dir == str(folder.resolve())
    assert plan.stop_file == str(folder.resolve() / ".stop")


def vision_module(workspace: Workspace) -> str:
    """Put something like a vision module into the workspace; return the hash of its weights."""
    workspace.vision_module.mkdir()
    weights = workspace.vision_module / "model.safetensors"
    weights.write_bytes(b"weights")
    card = {"weights_sha256": sha256_of(weights)}
    (workspace.vision_module / "card.json").write_text(json.dumps(card))
    return sha256_of(weights)


@pytest.mark.parametrize("signum", [None, signal.SIGINT])
def test_the_vision_module_is_kept_beside_the_adapter(
    settings: FinetuneSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signum: int | None,
) -> None:
    weights = vision_module(workspace)

    def launch(command: list[str], environment: dict[str, str], **_: Any) -> int:
        finish(Plan.read(Path(command[-1])), weights)
        if signum:  # when all was done
            raise Stopped(signum)
        return 0

    monkeypatch.setattr(step, "launch", launch)
    step.run(settings)
    stored = workspace.checkpoints / "eegvlm" / "vision_module"
    assert {path.name for path in stored.iterdir()} == {"model.safetensors", "card.json"}
    assert (stored / "model.safetensors").read_bytes() == b"weights"
    assert "vision module" not in capsys.readouterr().out


def unlinked(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("fault", "why"),
    [("other", "is not the one"), ("none", "is not the one"), ("disk", "No space")],
)
def test_a_vision_module_that_cannot_be_kept_is_told_and_the_adapter_stays(
    settings: FinetuneSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    why: str,
) -> None:
    weights = vision_module(workspace) if fault != "none" else "ab" * 32
    if fault == "disk":
        monkeypatch.setattr("eegtool.extract.stored._link_or_copy", unlinked)

    def launch(command: list[str], environment: dict[str, str], **_: Any) -> int:
        finish(Plan.read(Path(command[-1])), "cd" * 32 if fault == "other" else weights)
        return 0

    monkeypatch.setattr(step, "launch", launch)
    step.run(settings)
    out = workspace.checkpoints / "eegvlm"
    assert {p.name for p in out.iterdir()} >= {"eegvlm.json", "run.json"}
    assert not [p for p in out.iterdir() if "vision_module" in p.name]
    said = " ".join(capsys.readouterr().out.split())
    assert why in said
    assert "`eegvlm ask`" in said


def test_without_features_no_vision_module_is_missed(
    settings: FinetuneSettings,
    workspace: Workspace,
    launched: Launched,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vision_module(workspace)
    step.run(replace(settings, fusion="none"))
    assert not (workspace.checkpoints / "eegvlm" / "vision_module").exists()
    assert "vision module" not in capsys.readouterr().out


def test_how_answers_read_is_found_in_the_samples(
    settings: FinetuneSettings,
    output_dir: Path,
    workspace: Workspace,
    launched: Launched,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step.run(settings)
    assert "5 stages found in 20 of 20 answers, as the whole answer, up to 2 tokens" in " ".join(
        capsys.readouterr().out.split()
    )
    rows = read_conversations(workspace.conversations)
    rows = [
        replace(row, answer=f"There are {i} spindles. It is stage {row.answer}.")
        for i, row in enumerate(rows)
    ]
    write_conversations(workspace.conversations, rows)
    form = make_plan(settings, output_dir).answers
    assert form["place"] == "end"
    assert form["lead"] == "It is stage"
    assert form["stages"]["N2"] == "It is stage N2."
    assert form["question"] == rows[0].question
    assert form["max_new_tokens"] > form["longest_tokens"] > 8
    write_conversations(workspace.conversations, [replace(row, answer="Spindles.") for row in rows])
    step.run(replace(settings, output_dir=output_dir))
    said = " ".join(capsys.readouterr().out.split())
    assert "0 stages found in 0 of 20 answers" in said
    assert "cannot score them" in said


@pytest.mark.parametrize(
    ("tracker", "expected"),
    [
        ("tensorboard", {"TENSORBOARD_LOGGING_DIR": "LOGS"}),
        ("wandb", {"WANDB_DIR": "LOGS", "WANDB_PROJECT": "eegvlm", "WANDB_MODE": "offline"}),
        ("none", {}),
    ],
)
def test_logs_are_kept_beside_the_adapter(
    settings: FinetuneSettings,
    workspace: Workspace,
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tracker: str,
    expected: dict[str, str],
) -> None:
    names = ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "WANDB_PROJECT", "WANDB_MODE")
    for name in (*names, "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(planning, "find_spec", lambda name: object())
    step.run(replace(settings, report_to=tracker))
    logs = str(workspace.checkpoints.resolve() / "runs" / "eegvlm")
    environment = launched[0][2]
    found = {name: environment[name] for name in names if name in environment}
    assert found == {k: logs if v == "LOGS" else v for k, v in expected.items()}


@pytest.mark.parametrize(
    "known", [{"WANDB_API_KEY": "x"}, {"WANDB_MODE": "online"}, {"NETRC": "netrc"}]
)
def test_with_a_key_wandb_goes_online(
    settings: FinetuneSettings,
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    known: dict[str, str],
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    for name, value in known.items():
        monkeypatch.setenv(name, str(tmp_path / value) if name == "NETRC" else value)
    monkeypatch.setattr(planning, "find_spec", lambda name: object())
    step.run(replace(settings, report_to="wandb"))
    assert launched[0][2].get("WANDB_MODE", "online") == "online"


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_refused(
    settings: FinetuneSettings, output_dir: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr(planning, "find_spec", lambda name: None)
    with pytest.raises(EegToolError, match=f"--report-to {tracker} is not installed") as caught:
        make_plan(replace(settings, report_to=tracker), output_dir)
    assert "eegvlm[track]" in caught.value.fix


def test_a_training_that_failed_is_an_error_of_the_user(
    settings: FinetuneSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch_as(monkeypatch, 7)
    with pytest.raises(EegToolError, match="stopped with exit code 7; no adapter was written"):
        step.run(settings)
    assert not workspace.checkpoints.exists()


def test_a_training_that_failed_leaves_its_checkpoints(
    settings: FinetuneSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch_as(monkeypatch, 7, steps=3)
    with pytest.raises(EegToolError, match="exit code 7") as caught:
        step.run(settings)
    assert "--resume continues after step 3" in caught.value.fix
    left = {path.name for path in (workspace.checkpoints / "eegvlm").iterdir()}
    assert left == {"plan.json", "checkpoint-3"}


@pytest.mark.parametrize(
    ("outcome", "signum"),
    [
        (Stopped(signal.SIGINT), signal.SIGINT),
        (Stopped(signal.SIGHUP), signal.SIGHUP),
        (0, signal.SIGTERM),  # the ranks were stopped by somebody else
    ],
)
def test_a_training_that_was_stopped_can_be_gone_on_with(
    settings: FinetuneSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: int | BaseException,
    signum: int,
) -> None:
    launch_as(monkeypatch, outcome, steps=5)
    with pytest.raises(Stopped) as caught:
        step.run(settings)
    assert caught.value.signum == signum
    assert "Stopped after step 5; continue with --resume" in capsys.readouterr().out
    assert not (workspace.checkpoints / "eegvlm" / ".stop").exists()
    again = make_plan(replace(settings, resume=True), workspace.checkpoints / "eegvlm")
    assert again.resume


def test_a_training_that_was_stopped_at_once_leaves_nothing(
    settings: FinetuneSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch_as(monkeypatch, Stopped(signal.SIGINT))
    with pytest.raises(Stopped):
        step.run(settings)
    assert "no checkpoint to continue from" in capsys.readouterr().out
    assert not workspace.checkpoints.exists()


def test_what_deepspeed_leaves_in_shared_memory_is_removed(
    settings: FinetuneSettings, launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[int] = []
    monkeypatch.setattr(launcher, "has_cpp_compiler", lambda: True)
    monkeypatch.setattr(launcher, "remove_shared_memory", removed.append)
    step.run(replace(settings, deepspeed="zero2", num_gpus=1))
    command = launched[0][1]
    assert command[command.index("--master_port") + 1] == str(removed[0])
    launch_as(monkeypatch, Stopped(signal.SIGINT))
    with pytest.raises(Stopped):
        step.run(replace(settings, output_dir=settings.workspace / "other"))
    assert len(removed) == 2


def test_a_signal_after_the_end_spoils_nothing(
    settings: FinetuneSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(command: list[str], environment: dict[str, str], **_: Any) -> int:
        finish(Plan.read(Path(command[-1])))
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(step, "launch", launch)
    step.run(settings)
    assert (workspace.checkpoints / "eegvlm" / "run.json").exists()


def test_resume_needs_the_same_settings(
    settings: FinetuneSettings, workspace: Workspace, output_dir: Path
) -> None:
    plan = make_plan(settings, output_dir)
    plan.write(output_dir / "plan.json")
    save(plan, 2)
    again = replace(settings, resume=True)
    same = replace(again, logging_steps=1, save_steps=3, dataloader_num_workers=2, num_gpus=1)
    assert make_plan(same, output_dir).fingerprint == plan.fingerprint
    with pytest.raises(
        EegToolError, match=r"then and now: learning_rate 0\.0003 and 1\.0, seed 42"
    ):
        make_plan(replace(again, learning_rate=1.0, seed=1), output_dir)
    rows = read_conversations(workspace.conversations)
    write_conversations(workspace.conversations, [replace(rows[0], question="W?"), *rows[1:]])
    with pytest.raises(EegToolError, match="then and now: data"):
        make_plan(again, output_dir)


def test_nothing_to_resume(settings: FinetuneSettings, output_dir: Path) -> None:
    again = replace(settings, resume=True)
    assert make_plan(again, output_dir).resume  # the ranks say that they begin at the beginning
    an_adapter_there(Workspace(output_dir), output_dir)
    with pytest.raises(EegToolError, match="already holds an adapter") as caught:
        make_plan(again, output_dir)
    assert "nothing to resume" in caught.value.fix


def test_a_full_disk_is_refused_before_anything_is_launched(
    settings: FinetuneSettings,
    workspace: Workspace,
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(EegToolError, match="two checkpoints need about"):
        step.run(settings)
    assert not launched
    assert not workspace.checkpoints.exists()


def test_a_clashing_zero_file_is_refused_before_anything_is_launched(
    settings: FinetuneSettings, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_cpp_compiler", lambda: True)
    (tmp_path / "ds.json").write_text('{"train_micro_batch_size_per_gpu": 2}')
    with pytest.raises(EegToolError, match=r"ds\.json clashes with the flags"):
        step.run(replace(settings, deepspeed=str(tmp_path / "ds.json")))
    assert not launched


def test_more_gpus_than_there_are_are_refused(
    settings: FinetuneSettings, launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EegToolError, match="--num-gpus 3: this machine has 2"):
        step.run(replace(settings, deepspeed="zero2", num_gpus=3))
    assert not launched


def test_a_second_training_in_the_same_folder_is_refused(
    settings: FinetuneSettings, output_dir: Path
) -> None:
    """The launcher of a parent that was killed keeps its lock, too."""
    lock = step._lock(output_dir)
    with lock, pytest.raises(EegToolError, match="A training is running in"):
        step.run(replace(settings, output_dir=output_dir))


@pytest.mark.parametrize("nothing", [{"learning_rate": 0.0}, {"num_train_epochs": 0.0}])
def test_a_training_that_teaches_nothing_is_refused(
    settings: FinetuneSettings, output_dir: Path, nothing: dict[str, Any]
) -> None:
    with pytest.raises(EegToolError, match="nothing is learnt"):
        make_plan(replace(settings, **nothing), output_dir)


def test_packed_weights_are_not_sharded(
    settings: FinetuneSettings, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_cpp_compiler", lambda: True)
    monkeypatch.setattr(planning, "quantization", lambda bits, dtype: None)
    packed = replace(settings, bits=4)
    assert make_plan(replace(packed, deepspeed="zero2"), output_dir).zero_stage == 2
    with pytest.raises(EegToolError, match="--bits 4 and ZeRO-3 exclude each other"):
        make_plan(replace(packed, deepspeed="zero3"), output_dir)


def test_a_dry_run_for_another_machine_assumes_its_gpus(
    settings: FinetuneSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Made where there is neither a GPU nor a compiler; the command is one to be pasted there."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(launcher, "has_cpp_compiler", lambda: False)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    step.run(replace(settings, deepspeed="zero2", num_gpus=64, dry_run=True, gpu_memory=80.0))
    out = capsys.readouterr().out
    assert "on 64 GPU ranks" in " ".join(out.split())
    typed = shlex.split(out.strip().splitlines()[-1])
    assert not any(word.startswith("DS_ACCELERATOR") for word in typed)
    assert Plan.read(Path(typed[-1])).arguments["bf16"] is True


def test_hosts(
    settings: FinetuneSettings,
    launched: Launched,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=2\nb slots=2\n")
    with pytest.raises(EegToolError, match="--hostfile needs DeepSpeed"):
        step.run(replace(settings, hostfile=hosts))
    step.run(replace(settings, hostfile=hosts, deepspeed="zero2"))
    assert str(hosts) in launched[0][1]
    hosts.write_text("localhost slots=2\n")
    assert step._ranks(replace(settings, hostfile=hosts, deepspeed="zero2")) == (2, None)


def test_a_dry_run_says_all_and_trains_nothing(
    settings: FinetuneSettings,
    workspace: Workspace,
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)  # a training in this process leaves it
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(launcher, "has_cpp_compiler", lambda: True)

    def no_weights(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(EEGVLM, "from_pretrained", no_weights)
    before = sorted(workspace.root.rglob("*"))
    step.run(replace(settings, deepspeed="zero3", num_gpus=2, dry_run=True, lora_r=4))
    assert not launched
    assert sorted(workspace.root.rglob("*")) == before
    out = capsys.readouterr().out
    assert "20 samples, 2 steps" in " ".join(out.split())
    for words in (
        "language model (LoRA) 52,224 of 2,409,728",
        "projector 328,192 of 328,192",
        "vision tower 0 of 11,314,176",
        "zero2",
        "zero3",
        "zero3_offload",
        "A checkpoint takes about 7.3 MiB",
    ):
        assert words in " ".join(out.split())
    typed = shlex.split(out.strip().splitlines()[-1])
    assert typed[0] == "env"
    assert "DS_ACCELERATOR=cpu" in typed or torch.cuda.is_available()
    assert typed[-3:-1] == ["--module", "eegtool.finetune.rank"]
    plan = Plan.read(Path(typed[-1]))  # it can be pasted
    assert (plan.zero_stage, plan.lora_r) == (3, 4)


@pytest.mark.parametrize(
    ("gib", "expected"),
    [
        (8.0, ["on a GPU of 8 GiB", "zero2 1.7 GiB - fits", "none 1.7 GiB - fits"]),
        (
            1.65,
            ["none 1.7 GiB - does not fit: ", "Would fit: --gradient-checkpointing True (zero2);"],
        ),
        (0.5, ["does not fit: 1.2 GiB too much", "Not even a batch of 1 would fit"]),
    ],
)
def test_a_dry_run_says_what_fits_a_gpu(
    settings: FinetuneSettings,
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    gib: float,
    expected: list[str],
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    settings = replace(settings, further={"bf16": False})  # which GPUs would be taken to have
    step.run(replace(settings, dry_run=True, gpu_memory=gib, deepspeed="none"))
    out = " ".join(capsys.readouterr().out.split())
    assert all(words in out for words in expected), out
    with pytest.raises(EegToolError, match="--gpu-memory is for --dry-run"):
        step.run(replace(settings, gpu_memory=gib))
    assert not launched


RECIPE = """
--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5
--deepspeed ./scripts/zero3.json --model_name_or_path tiny --version v1
--data_path sleep_data/eeg_ft.json --image_folder sleep_data/eeg_images_ft
--vision_tower openai/clip-vit-large-patch14-336 --mm_projector_type mlp2x_gelu
--mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False
--image_aspect_ratio pad --group_by_modality_length True --bf16 True
--output_dir ./checkpoints/your_checkpoints_save_path --num_train_epochs 2
--per_device_train_batch_size 16 --per_device_eval_batch_size 4
--gradient_accumulation_steps 1 --evaluation_strategy no --save_strategy steps
--save_steps 50000 --save_total_limit 1 --learning_rate 3e-4 --weight_decay 0.
--warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 --tf32 True
--model_max_length 4096 --gradient_checkpointing True --dataloader_num_workers 1
--lazy_preprocess True --report_to wandb
"""
"""Flags of the recipe's third step, as it has them; only the model's path is another one."""


@pytest.fixture
def in_recipes_folder(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    workspace.root.rename(tmp_path / "sleep_data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return tmp_path


def test_the_recipes_command_line_is_understood(
    in_recipes_folder: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "has_cpp_compiler", lambda: True)
    monkeypatch.setattr(planning, "find_spec", lambda name: object())
    result = CliRunner().invoke(cli.app, ["finetune", *RECIPE.split()])
    assert result.exit_code == 0, result.output
    plan = launched[0][0]
    assert (plan.lora_r, plan.lora_alpha, plan.mm_projector_lr) == (128, 256, 2e-5)
    assert (plan.zero_stage, plan.version, plan.base) == (3, "v1", "tiny")
    assert plan.output_dir == str(in_recipes_folder / "checkpoints/your_checkpoints_save_path")
    assert plan.group_by_length
    assert plan.gradient_checkpointing
    expected = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "save_steps": 50000,
        "save_total_limit": 1,
        "learning_rate": 3e-4,
        "weight_decay": 0.0,
        "warmup_steps": 0.03,
        "logging_steps": 1,
        "report_to": "wandb",
        "dataloader_num_workers": 1,
    }
    assert {name: plan.arguments[name] for name in expected} == expected


@pytest.mark.skipif(not launcher.has_cpp_compiler(), reason="DeepSpeed needs one on a CPU")
def test_the_recipes_command_runs_to_its_end(in_recipes_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eegtool", "finetune", *RECIPE.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = in_recipes_folder / "checkpoints" / "your_checkpoints_save_path"
    assert read_contract(folder).base == "tiny"
    weights = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}  # --bf16 True
    stamp = json.loads((folder / "run.json").read_text())
    assert stamp["settings"]["further"]["mm_vision_select_layer"] == -2


def test_training_continues_only_from_an_adapter_of_the_same_kind(
    settings: FinetuneSettings, adapter: Path, output_dir: Path
) -> None:
    again = replace(settings, continue_from=adapter)
    plan = make_plan(settings, output_dir)
    lora = read_json(adapter / "adapter_config.json")
    again = replace(again, lora_r=lora["r"], lora_alpha=lora["lora_alpha"])
    card = read_json(adapter / "eegvlm.json")
    ids = [row.sample_id for row in read_conversations(Path(plan.data_path))]
    table = load_features(Path(plan.features_file), ids)
    fits = {
        "protocol": plan.protocol,
        "answers": plan.answers,
        "features_weights_sha256": table.weights_sha256,
    }
    write_json(adapter / "eegvlm.json", card | fits)
    found = make_plan(again, output_dir)
    assert found.continue_from == str(adapter)
    assert len(found.continue_from_sha256) == 64
    assert found.fingerprint != replace(found, continue_from_sha256="").fingerprint
    with pytest.raises(EegToolError, match=r"then and now: --lora-r \(\d+ and 3\)"):
        make_plan(replace(again, lora_r=3), output_dir)
    write_json(adapter / "eegvlm.json", card | fits | {"features_weights_sha256": "cd" * 32})
    with pytest.raises(EegToolError, match="weights behind the features"):
        make_plan(again, output_dir)
