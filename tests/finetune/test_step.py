from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_conversations, write_conversations
from eegtool.core.settings import FinetuneSettings
from eegtool.core.workspace import Workspace
from eegtool.finetune import step
from eegtool.finetune.plan import Plan


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
    plan = step.make_plan(settings, output_dir)
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
    plan = step.make_plan(replace(settings, model_name_or_path="llava"), output_dir)
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
    monkeypatch.setattr(step, "best_dtype", lambda: dtype)
    arguments = step.make_plan(settings, output_dir).arguments
    assert (arguments["bf16"], arguments["fp16"]) == (bf16, fp16)


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
    ],
)
def test_bad_settings_are_refused(
    settings: FinetuneSettings, output_dir: Path, change: dict[str, Any], message: str, fix: str
) -> None:
    with pytest.raises(EegToolError, match=message) as caught:
        step.make_plan(replace(settings, **change), output_dir)
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


def an_adapter_there(workspace: Workspace, output_dir: Path) -> None:
    output_dir.mkdir()
    (output_dir / "eegvlm.json").write_text("{}")


def something_there(workspace: Workspace, output_dir: Path) -> None:
    output_dir.mkdir()
    (output_dir / "thesis.tex").write_text("")


BAD: dict[Callable[[Workspace, Path], None], str] = {
    other_features: r"S01E0-0003.*S09E0-0003",
    features_of_other_pictures: "differently drawn pictures: style waveform and spectrogram",
    fewer_bare_features: "no sidecar and 19 rows for 20 epochs",
    fewer_samples: "1 only in train_high_level_features.npy",
    no_samples: "has no samples",
    a_sample_twice: "'S01E0-0000' occurs more than once",
    no_picture: "S02E0-0007.png of sample 'S02E0-0007' does not exist",
    a_picture_outside: "leaves the image folder",
    no_answer: "'S01E0-0004' has an empty answer",
    an_adapter_there: "already holds an adapter",
    something_there: "is not empty and is no adapter folder",
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
        step.make_plan(settings, output_dir)


def test_features_are_needed_only_where_they_are_used(
    settings: FinetuneSettings, output_dir: Path, workspace: Workspace
) -> None:
    workspace.features("ft").unlink()
    with pytest.raises(EegToolError, match="features file"):
        step.make_plan(settings, output_dir)
    assert step.make_plan(replace(settings, fusion="none"), output_dir)


def test_bare_features_are_taken_with_a_warning(
    settings: FinetuneSettings,
    output_dir: Path,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step.make_plan(settings, output_dir)
    assert "warning" not in capsys.readouterr().out
    workspace.features("ft").with_suffix(".json").unlink()
    step.make_plan(settings, output_dir)
    assert "warning" in capsys.readouterr().out


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Plan, list[str], dict[str, str]]]:
    """What would be launched; nothing is trained, the adapter is there at once."""
    seen: list[tuple[Plan, list[str], dict[str, str]]] = []

    def launch(command: list[str], environment: dict[str, str]) -> int:
        plan = Plan.read(Path(command[-1]))
        Path(plan.output_dir).mkdir(parents=True)
        log = {"metrics": {"train_loss": 0.5}, "log": []}
        (Path(plan.output_dir) / "training_log.json").write_text(json.dumps(log))
        seen.append((plan, command, environment))
        return 0

    monkeypatch.setattr(step, "launch", launch)
    return seen


def test_a_run_leaves_its_stamp_and_nothing_else(
    settings: FinetuneSettings,
    workspace: Workspace,
    launched: list[tuple[Plan, list[str], dict[str, str]]],
) -> None:
    step.run(settings)
    plan, command, _ = launched[0]
    folder = workspace.checkpoints / "eegvlm"
    stamp = json.loads((folder / "run.json").read_text())
    assert stamp["step"] == "finetune"
    assert stamp["results"] == {"train_loss": 0.5}
    assert stamp["settings"]["model_name_or_path"] == "tiny"
    assert stamp["protocol"] == plan.protocol
    assert list(workspace.checkpoints.iterdir()) == [folder]
    assert not Path(command[-1]).parent.exists()
    assert not Path(plan.arguments["output_dir"]).exists()


def test_logs_of_tensorboard_are_kept_beside_the_adapter(
    settings: FinetuneSettings,
    workspace: Workspace,
    launched: list[tuple[Plan, list[str], dict[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setattr(step, "find_spec", lambda name: object())
    step.run(replace(settings, report_to="tensorboard"))
    logs = workspace.checkpoints.resolve() / "runs" / "eegvlm"
    assert launched[0][2]["TENSORBOARD_LOGGING_DIR"] == str(logs)


def test_a_tracker_that_is_not_installed_is_refused(
    settings: FinetuneSettings, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "find_spec", lambda name: None)
    with pytest.raises(EegToolError, match="--report-to wandb is not installed"):
        step.make_plan(replace(settings, report_to="wandb"), output_dir)


def test_a_training_that_failed_is_an_error_of_the_user(
    settings: FinetuneSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "launch", lambda command, environment: 7)
    with pytest.raises(EegToolError, match="stopped with exit code 7; no adapter was written"):
        step.run(settings)
    assert not workspace.checkpoints.exists()
