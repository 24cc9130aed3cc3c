"""Checkpoints: whole or not there, and a training that continues from one ends as if never stopped."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from eegtool.core import workspace
from eegtool.core.errors import EegToolError
from eegtool.core.workspace import read_json
from eegtool.finetune import saving, train
from eegtool.finetune.plan import Plan
from eegtool.finetune.trainer import EegTrainer, Stopper
from eegtool.model import adapters
from eegtool.model.adapters import load_adapter
from tests.finetune.conftest import Planner

LONG = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.1}


class KilledError(Exception):
    """Stands for SIGKILL: nothing of the training's own code sees it."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what lets the next training end in the middle of the step after so many."""
    step = EegTrainer.training_step

    def kill_after(n: int | None) -> None:
        def die(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == n:
                raise KilledError
            return step(self, *args, **kwargs)

        monkeypatch.setattr(EegTrainer, "training_step", die)

    return kill_after


Outcome = tuple[list[float], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def references() -> dict[str, Outcome]:
    """Outcomes of trainings that nothing interrupted, each made once."""
    return {}


@pytest.fixture
def check_same(references: dict[str, Outcome], plan_of: Planner) -> Any:
    """Return what compares a training with the same one, not interrupted."""

    def check_same(plan: Plan, **change: Any) -> None:
        name = repr(change)
        if name not in references:
            whole = plan_of("whole", **LONG, **change)
            train.run(whole)
            references[name] = outcome(whole)
        expected, found = references[name], outcome(plan)
        assert len(found[0]) == 8
        assert found[0] == expected[0]
        assert found[1].keys() == expected[1].keys()
        assert all(torch.equal(found[1][k], v) for k, v in expected[1].items())

    return check_same


def weights(folder: Path) -> dict[str, torch.Tensor]:
    names = ("adapter_model", "projector")
    return {k: v for name in names for k, v in load_file(folder / f"{name}.safetensors").items()}


def outcome(plan: Plan) -> Outcome:
    """Return the loss of each step, and the trained weights."""
    log = read_json(Path(plan.output_dir) / "training_log.json")["log"]
    return [row["loss"] for row in log if "loss" in row], weights(Path(plan.output_dir))


GROUPED = {"gradient_accumulation_steps": 2, "group_by_length": True}


@pytest.mark.parametrize(
    ("killed", "change"),
    [(4, {}), (5, {}), (6, {}), (4, GROUPED), (7, GROUPED)],
    ids=["in a pass", "between passes", "just after saving", "grouped", "grouped, later"],
)
def test_a_killed_training_goes_on_as_if_never_killed(
    plan_of: Planner, kill_after: Any, check_same: Any, killed: int, change: dict[str, Any]
) -> None:
    """With dropout, so that random numbers count; a pass has 5 steps, or 3."""
    plan = plan_of(**LONG, **change)
    kill_after(killed)
    with pytest.raises(KilledError):
        train.run(plan)
    kill_after(None)
    assert not (Path(plan.output_dir) / "eegvlm.json").exists()
    train.run(replace(plan, resume=True))
    check_same(plan, **change)
    log = read_json(Path(plan.output_dir) / "training_log.json")
    assert log["resumed_after"] == killed // 3 * 3


def test_both_lora_and_projector_are_restored(plan_of: Planner, kill_after: Any) -> None:
    plan = plan_of(**LONG)
    kill_after(4)
    with pytest.raises(KilledError):
        train.run(plan)
    checkpoint = saving.last_whole(Path(plan.output_dir))
    assert checkpoint is not None
    model, _ = train.build_model(plan, TrainingArguments(**plan.arguments))
    fresh = saving.gathered(model, keep=True)
    saving.restore(model, checkpoint)
    restored = saving.gathered(model, keep=True)
    saved = saving.read_trained(checkpoint, model)
    assert restored.keys() == saved.keys()
    assert len(saved) == 46
    assert all(torch.equal(restored[name], saved[name]) for name in saved)
    moved = {name for name in saved if not torch.equal(saved[name], fresh[name])}
    assert sum("projector" in name for name in moved) == 4
    assert sum("lora_B" in name for name in moved) == 21


@pytest.mark.parametrize("part", ["adapter_model", "projector"])
def test_weights_that_were_not_restored_are_noticed(
    plan_of: Planner, kill_after: Any, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """As DeepSpeed would do it: without a word."""
    plan = plan_of(**LONG)
    kill_after(4)
    with pytest.raises(KilledError):
        train.run(plan)
    kill_after(None)
    word = "projector" if part == "projector" else "lora_"
    restore, read = saving.restore, saving.read_trained

    def forget(model: Any, checkpoint: Path) -> None:
        state = {k: v for k, v in read(checkpoint, model).items() if word not in k}
        with monkeypatch.context() as patch:
            patch.setattr(saving, "read_trained", lambda *_: state)
            restore(model, checkpoint)

    monkeypatch.setattr(saving, "restore", forget)
    with pytest.raises(EegToolError, match="were not restored"):
        train.run(replace(plan, resume=True))


def test_a_checkpoint_is_an_adapter_and_all_else(plan_of: Planner) -> None:
    plan = plan_of(**LONG)
    train.run(plan)
    out = Path(plan.output_dir)
    assert [p.name for p in saving.checkpoints(out)] == [f"checkpoint-{n}" for n in (3, 6, 8)]
    checkpoint = out / "checkpoint-3"
    assert {p.name for p in checkpoint.iterdir()} == {
        *("adapter_model.safetensors", "adapter_config.json", "projector.safetensors"),
        *("eegvlm.json", "README.md", "trainer_state.json", "whole.json"),
        *("optimizer.pt", "scheduler.pt", "rng_state.pth"),
    }
    whole = read_json(checkpoint / "whole.json")
    assert (whole["step"], whole["ranks"], whole["fingerprint"]) == (3, 1, plan.fingerprint)
    assert set(whole["files"]) == {p.name for p in checkpoint.iterdir()} - {"whole.json"}
    _, _, contract = load_adapter(checkpoint, base=None, dtype=torch.float32)
    assert contract.fusion == "add"
    last, end = weights(out / "checkpoint-8"), weights(out)
    assert all(torch.equal(last[name], end[name]) for name in end)


def test_the_last_checkpoints_are_kept(plan_of: Planner) -> None:
    plan = plan_of(**LONG | {"save_steps": 2}, save_total_limit=2)
    train.run(plan)
    names = [p.name for p in saving.checkpoints(Path(plan.output_dir))]
    assert names == ["checkpoint-6", "checkpoint-8"]


@pytest.fixture
def saved(plan_of: Planner) -> Plan:
    plan = plan_of(max_steps=2, save_strategy="steps", save_steps=1)
    train.run(plan)
    return replace(plan, resume=True)


def truncated(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])


def without_a_file(checkpoint: Path) -> None:
    (checkpoint / "projector.safetensors").unlink()


def without_its_sign(checkpoint: Path) -> None:
    (checkpoint / "whole.json").unlink()


def with_half_a_sign(checkpoint: Path) -> None:
    (checkpoint / "whole.json").write_text('{"files": {')


@pytest.mark.parametrize(
    "spoil",
    [truncated, without_a_file, without_its_sign, with_half_a_sign],
    ids=lambda f: f.__name__,
)
def test_a_checkpoint_that_is_not_whole_is_passed_over(saved: Plan, spoil: Any) -> None:
    out = Path(saved.output_dir)
    assert saving.last_whole(out) == out / "checkpoint-2"
    spoil(out / "checkpoint-2")
    assert saving.find_resume(saved, 1) == saving.last_whole(out) == out / "checkpoint-1"


def test_what_a_kill_left_half_written_is_written_anew(
    plan_of: Planner, kill_after: Any, check_same: Any
) -> None:
    plan = plan_of(**LONG)
    out = Path(plan.output_dir)
    kill_after(7)
    with pytest.raises(KilledError):
        train.run(plan)
    kill_after(None)
    without_its_sign(out / "checkpoint-6")
    (out / "checkpoint-6" / "left over").touch()
    train.run(replace(plan, resume=True))
    check_same(plan)
    assert saving.is_whole(out / "checkpoint-6")
    assert not (out / "checkpoint-6" / "left over").exists()


def test_steps_are_numbers(tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-best", "other-3"):
        (tmp_path / name).mkdir()
    assert [p.name for p in saving.checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert saving.last_whole(tmp_path) is None
    assert saving.last_whole(tmp_path / "none") is None
    saving.remove_broken(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-best", "other-3"}


def test_without_a_checkpoint_it_begins_and_says_so(
    plan_of: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(replace(plan_of(), resume=True))
    assert "no whole checkpoint to continue from" in capsys.readouterr().out


def test_a_finished_training_only_needs_its_adapter_written(plan_of: Planner) -> None:
    """The disk was full after the last checkpoint. transformers alone would take one more step."""
    plan = plan_of(**LONG)
    train.run(plan)
    out = Path(plan.output_dir)
    before = weights(out)
    for name in ("eegvlm.json", "adapter_model.safetensors", "projector.safetensors"):
        (out / name).unlink()
    train.run(replace(plan, resume=True))
    after = weights(out)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_checkpoint_of_another_training_is_refused(saved: Plan) -> None:
    with pytest.raises(EegToolError, match="checkpoint-2 is of a training with other settings"):
        saving.find_resume(replace(saved, lora_dropout=0.2), 1)


def test_a_checkpoint_of_more_ranks_is_refused(saved: Plan) -> None:
    with pytest.raises(EegToolError, match=r"saved by 1 ranks; this training has 2") as caught:
        saving.find_resume(saved, 2)
    assert caught.value.fix == "Resume with 1 in all, by --num-gpus or --hostfile."


class Evil:
    def __init__(self, note: Path) -> None:
        self.note = note

    def __reduce__(self) -> Any:
        return (Path.touch, (self.note,))


def test_a_checkpoint_runs_no_code(saved: Plan, tmp_path: Path) -> None:
    """DeepSpeed would unpickle whatever lies in it."""
    checkpoint = Path(saved.output_dir) / "checkpoint-2"
    folder = checkpoint / "global_step2"
    folder.mkdir()
    torch.save({"module": Evil(tmp_path / "ran")}, folder / "mp_rank_00_model_states.pt")
    with pytest.raises(EegToolError, match=r"mp_rank_00_model_states.pt cannot be read"):
        saving.find_resume(saved, 1)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a/b", "../elsewhere", "/elsewhere", ""])
def test_a_checkpoint_leads_nowhere_else(saved: Plan, name: str) -> None:
    """DeepSpeed would follow the name in this file anywhere."""
    (Path(saved.output_dir) / "checkpoint-2" / "latest").write_text(name)
    with pytest.raises(EegToolError, match="leads out of its folder"):
        saving.find_resume(saved, 1)


def test_a_checkpoint_with_links_is_refused(saved: Plan, tmp_path: Path) -> None:
    (Path(saved.output_dir) / "checkpoint-2" / "global_step2").symlink_to(tmp_path)
    with pytest.raises(EegToolError, match="leads out of its folder"):
        saving.find_resume(saved, 1)


@pytest.mark.parametrize("where", ["adapter", "optimizer", "state"])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch, check_same: Any, where: str
) -> None:
    plan = plan_of(**LONG, save_total_limit=1)
    out = Path(plan.output_dir)
    save = torch.save
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail_late(path: Path) -> None:
        if "checkpoint-6" in str(path):
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_bytes(b"half")
            raise full

    def torch_save(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if where == "optimizer" and str(path).endswith("optimizer.pt"):
            fail_late(Path(path))
        save(value, path, *args, **kwargs)

    def adapter(folder: Path, *args: Any, **kwargs: Any) -> None:
        if where == "adapter":
            fail_late(folder / "adapter_model.safetensors")
        adapters.write_adapter(folder, *args, **kwargs)

    def json_file(path: Path, value: Any) -> None:
        if where == "state":
            fail_late(path)
        workspace.write_json(path, value)

    monkeypatch.setattr(torch, "save", torch_save)
    monkeypatch.setattr(saving, "write_adapter", adapter)
    monkeypatch.setattr(saving, "write_json", json_file)
    with pytest.raises(EegToolError, match=r"checkpoint-6 could not be written: .*No space") as e:
        train.run(plan)
    assert "checkpoint-3 is whole" in e.value.fix
    assert [p.name for p in saving.checkpoints(out)] == ["checkpoint-3"]
    assert saving.last_whole(out) == out / "checkpoint-3"
    assert not (out / "eegvlm.json").exists()

    monkeypatch.undo()
    if where == "optimizer":
        train.run(replace(plan, resume=True))
        check_same(plan)


class Files:
    def save(self, state_dict: Any, path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Engine:
    """DeepSpeed's engine on a full disk: ranks meet after each file, and once more at the end."""

    def __init__(self) -> None:
        self.checkpoint_engine = Files()
        self.global_steps = 7
        self.met = 0

    def _copy_recovery_script(self, path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save_checkpoint(self, folder: str, tag: str, *, save_latest: bool, **kwargs: Any) -> None:
        for name in ("model", "optimizer"):
            self.checkpoint_engine.save({}, path=name)
            self.met += 1
        self._copy_recovery_script(folder)
        if save_latest:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.met += 1


def test_no_rank_leaves_the_others_waiting_on_a_full_disk(tmp_path: Path) -> None:
    engine = Engine()
    trainer = SimpleNamespace(is_deepspeed_enabled=True, model_wrapped=engine)
    with pytest.raises(OSError, match="No space left"):
        saving._save_states(trainer, tmp_path)
    assert engine.met == 3
    with pytest.raises(OSError, match="No space left"):  # as it was before
        engine.checkpoint_engine.save({}, path="model")
    with pytest.raises(OSError, match="No space left"):
        engine._copy_recovery_script("")


def test_a_full_disk_at_the_end_is_told(plan_of: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(train, "write_adapter", full)
    with pytest.raises(EegToolError, match=r"could not be written to .*No space left") as caught:
        train.run(plan_of(max_steps=2, save_strategy="steps", save_steps=1))
    assert "--resume writes it from" in caught.value.fix
    assert "checkpoint-2" in caught.value.fix


def test_weights_that_diverged_are_no_checkpoint(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(max_steps=2, save_strategy="steps", save_steps=1, mm_projector_lr=1e38)
    with pytest.raises(EegToolError, match=r"not finite|not a finite"):
        train.run(plan)
    assert all(saving.is_whole(p) for p in saving.checkpoints(Path(plan.output_dir)))


@pytest.mark.parametrize("how", ["file", "signal"])
def test_a_training_that_is_stopped_saves_and_goes_on(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch, check_same: Any, tmp_path: Path, how: str
) -> None:
    stop_file = tmp_path / "stop"
    plan = replace(plan_of("stopped", **LONG), stop_file=str(stop_file))
    step = EegTrainer.training_step
    before = signal.getsignal(signal.SIGTERM)

    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 4:
            if how == "file":
                stop_file.touch()
            else:
                os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(EegTrainer, "training_step", ask)
    train.run(plan)
    monkeypatch.undo()
    out = Path(plan.output_dir)
    assert saving.last_whole(out) == out / "checkpoint-5"  # the step it was in is finished
    assert not (out / "eegvlm.json").exists()
    assert signal.getsignal(signal.SIGTERM) == before
    stop_file.unlink(missing_ok=True)
    train.run(replace(plan, resume=True))
    check_same(plan)


def test_asked_in_the_last_step_the_training_is_finished(plan_of: Planner, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    plan = replace(plan_of(max_steps=1), stop_file=str(tmp_path / "stop"))
    train.run(plan)
    assert (Path(plan.output_dir) / "eegvlm.json").exists()
    assert saving.checkpoints(Path(plan.output_dir)) == []  # save_strategy no


def test_a_second_sigterm_ends_the_process() -> None:
    stopper = Stopper(None, torch.device("cpu"))
    before = signal.getsignal(signal.SIGTERM)
    stopper.on_train_begin(None, None, None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stopper.signalled
    assert signal.getsignal(signal.SIGTERM) == before
