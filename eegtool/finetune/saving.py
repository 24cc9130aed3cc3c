"""Checkpoints of a training: whole or not there, verified, and what a training continues from.

``OUT/checkpoint-N/`` is an adapter folder by itself. Beside the adapter it holds the states of optimizer,
schedule and random numbers, and last of all ``whole.json``, the list of its files with their sizes.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_pt_utils import safe_globals

from eegtool.core.errors import EegToolError, brief
from eegtool.core.workspace import read_json, write_json
from eegtool.finetune.plan import Plan
from eegtool.model.adapters import Contract, write_adapter

STATE: Final = "trainer_state.json"
"""Where transformers' Trainer is: its step and its log."""

_WHOLE: Final = "whole.json"
_PREFIX: Final = "checkpoint-"
_STATES: Final = ("*.pt", "*.pth")
"""Files that PyTorch writes; those in folders are DeepSpeed's."""

_DORA: Final = "lora_magnitude_vector"
"""What peft calls the lengths of the rows of a weight."""

_LATEST: Final = "latest"
"""DeepSpeed's name for the file that names its folder, which it would follow anywhere."""


def checkpoints(out: Path) -> list[Path]:
    """Return the folders of checkpoints, whole or not, in the order of their steps."""
    found = [p for p in out.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def is_whole(checkpoint: Path) -> bool:
    """Say whether all files of a checkpoint are there, each with its size."""
    try:
        sizes = read_json(checkpoint / _WHOLE)["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (EegToolError, OSError, KeyError):
        return False


def last_whole(out: Path) -> Path | None:
    """Return the last whole checkpoint of an output folder; None where there is none."""
    return next((path for path in reversed(checkpoints(out)) if is_whole(path)), None)


def find_resume(plan: Plan, ranks: int) -> Path | None:
    """Return the checkpoint to continue from; None where the training begins at its beginning.

    Raises
    ------
    EegToolError
        If the last whole checkpoint is of another training or another number of ranks, or holds
        more than tensors and numbers.
    """
    checkpoint = last_whole(Path(plan.output_dir)) if plan.resume else None
    if checkpoint is None:
        return None
    whole = read_json(checkpoint / _WHOLE)
    if whole.get("fingerprint") != plan.fingerprint:
        raise EegToolError(
            f"{checkpoint} is of a training with other settings or data.",
            "Resume with what it was started with, or train into another --output-dir.",
        )
    if whole.get("ranks") != ranks:
        raise EegToolError(
            f"{checkpoint} was saved by {whole.get('ranks')} ranks; this training has {ranks}.",
            f"Resume with {whole.get('ranks')} in all, by --num-gpus or --hostfile.",
        )
    _check_stays_inside(checkpoint)
    for path in _states(checkpoint):
        check_opens(path)
    return checkpoint


def _check_stays_inside(checkpoint: Path) -> None:
    """Refuse a checkpoint that leads DeepSpeed, which unpickles what it finds, to other files."""
    latest = checkpoint / _LATEST
    name = latest.read_text(encoding="utf-8").strip() if latest.exists() else "global_step0"
    links = [path for path in checkpoint.rglob("*") if path.is_symlink()]
    if links or not re.fullmatch(r"global_step\d+", name):
        raise EegToolError(
            f"{checkpoint} leads out of its folder ({links[0].name if links else _LATEST}).",
            "It is not as finetune wrote it; remove it, and resume from an older one.",
        )


def save_checkpoint(trainer: Any, plan: Plan, contract: Contract) -> None:
    """Save all that a training needs to continue, whole or not at all; all ranks must call it.

    Older checkpoints go only when the new one is whole, as ``save_total_limit`` says; the best one stays.

    Raises
    ------
    EegToolError
        If it cannot be written, on whichever rank; what was written of it is removed.
    """
    args = trainer.args
    out = Path(plan.output_dir)
    checkpoint = at_step(out, trainer.state.global_step)
    if any_rank(is_whole(checkpoint), args.device):  # a pass ends with the step that was saved
        return
    first = trainer.is_world_process_zero()

    def together(part: Callable[[], None]) -> None:
        """Do a part on all ranks; if it fails on any of them, all of them give up."""
        error: Exception | None = None
        try:
            part()
        except (EegToolError, OSError, RuntimeError) as caught:  # RuntimeError: torch.save's
            error = caught
        reasons = _from_all_ranks(_reason(error))
        if any(reasons):
            if first:
                shutil.rmtree(checkpoint, ignore_errors=True)
            if isinstance(error, EegToolError):
                raise error
            raise _not_written(checkpoint, next(filter(None, reasons))) from error

    def begin() -> None:
        if first:
            shutil.rmtree(checkpoint, ignore_errors=True)
            write_adapter(checkpoint, trainer.model, state, contract, check_learnt=False)

    def end() -> None:
        if first:
            trainer.state.save_to_json(str(checkpoint / STATE))
            for path in _states(checkpoint):
                check_opens(path)
            files = [path for path in checkpoint.rglob("*") if path.is_file()]
            whole = {
                "step": trainer.state.global_step,
                "ranks": args.world_size,
                "fingerprint": plan.fingerprint,
                "files": {str(p.relative_to(checkpoint)): p.stat().st_size for p in sorted(files)},
            }
            write_json(checkpoint / _WHOLE, whole)

    state = gathered(trainer.model, keep=first)
    together(begin)
    together(lambda: _save_states(trainer, checkpoint))
    together(end)
    if first and args.save_total_limit:
        rotate(out, args.save_total_limit, trainer.state.best_global_step)


def at_step(out: Path, step: int) -> Path:
    """Return the folder of the checkpoint after a step."""
    return out / f"{_PREFIX}{step}"


def whole_at(out: Path, step: int) -> Path:
    """Return the checkpoint after a step.

    Raises
    ------
    EegToolError
        If it is not there, or not whole.
    """
    checkpoint = at_step(out, step)
    if not is_whole(checkpoint):
        others = ", ".join(path.name for path in checkpoints(out) if is_whole(path))
        raise EegToolError(
            f"{checkpoint}, which has the best weights, is not there as a whole.",
            f"Each checkpoint is an adapter folder by itself: {others or 'there is none'}.",
        )
    return checkpoint


def rotate(out: Path, limit: int, best: int | None = None) -> None:
    """Keep the last whole checkpoints, `limit` of them, and the one after the step `best`."""
    whole = [path for path in checkpoints(out) if is_whole(path)]
    for path in whole[:-limit]:
        if step_of(path) == best:
            continue
        (path / _WHOLE).unlink()  # first: a folder half removed is not whole
        shutil.rmtree(path, ignore_errors=True)


def remove_broken(out: Path) -> None:
    """Remove the checkpoints of an output folder that are not whole."""
    for path in checkpoints(out):
        if not is_whole(path):
            shutil.rmtree(path, ignore_errors=True)


def gathered(model: torch.nn.Module, *, keep: bool) -> dict[str, torch.Tensor]:
    """Return every trained parameter in full, on the CPU, where `keep`; all ranks must call it.

    Each has the precision it is trained in.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if is_deepspeed_zero3_enabled():
        import deepspeed

        gather = deepspeed.zero.GatheredParameters(list(trained.values()))
    else:
        gather = nullcontext()
    with gather:
        if not keep:
            return {}
        return {n: p.detach().to("cpu", copy=True) for n, p in trained.items()}


def read_trained(checkpoint: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return what a checkpoint holds for each trained parameter of a model, by its name there."""
    lora = load_file(checkpoint / "adapter_model.safetensors")
    projector = load_file(checkpoint / "projector.safetensors")
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = name.partition("base_model.model.")[2]  # its name in the base model
            # as peft writes it: DoRA's lengths, and the layers of LoRA
            saved = name.removesuffix(".default.weight" if _DORA in name else "")
            found[name] = (
                projector[own] if own in projector else lora[saved.replace(".default", "")]
            )
    return found


def restore(model: torch.nn.Module, checkpoint: Path) -> None:
    """Put LoRA and projector of a checkpoint into a model that is not sharded."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in read_trained(checkpoint, model).items():
            parameters[name].copy_(tensor)


def check_restored(trainer: Any, checkpoint: Path) -> None:
    """Refuse to continue where the weights are not those of the checkpoint; all ranks must call it.

    DeepSpeed restores weights from files of its own, and takes no notice of those it finds none for.
    """
    first = trainer.is_world_process_zero()
    state = gathered(trainer.model, keep=first)
    wrong = []
    if first:
        saved = read_trained(checkpoint, trainer.model)
        wrong = [name for name, tensor in state.items() if not torch.equal(tensor, saved[name])]
    if any_rank(bool(wrong), trainer.args.device):
        raise EegToolError(
            f"The weights in {checkpoint} were not restored: {len(wrong)} differ {wrong[:2]}.",
            "Remove this checkpoint and resume from an older one.",
        )


def any_rank(yes: bool, device: torch.device) -> bool:
    """Say whether any rank says yes; all ranks must ask."""
    if not dist.is_initialized():
        return yes
    answer = torch.tensor(int(yes), device=device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return bool(answer)


def check_opens(path: Path) -> None:
    """Refuse a file of PyTorch that is broken, or that would run code when it is read.

    DeepSpeed reads its files as pickles; nothing but tensors, numbers and its own settings may be in them.

    Raises
    ------
    EegToolError
        If so.
    """
    try:
        with safe_globals(), torch.serialization.safe_globals(_types_of_deepspeed()):
            torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except Exception as error:  # unpickling raises whatever it meets
        raise EegToolError(
            f"{path} cannot be read: {brief(error)}.",
            "Remove this checkpoint; --resume continues from an older one.",
        ) from error


def _states(checkpoint: Path) -> list[Path]:
    return sorted(path for pattern in _STATES for path in checkpoint.rglob(pattern))


def _save_states(trainer: Any, checkpoint: Path) -> None:
    """Save optimizer, schedule, loss scale and random numbers, each rank its own."""
    if trainer.is_deepspeed_enabled:
        engine = trainer.model_wrapped
        name = f"global_step{engine.global_steps}"
        with _no_errors_between_ranks(engine) as errors:
            engine.save_checkpoint(
                str(checkpoint), name, save_latest=False, exclude_frozen_parameters=True
            )
        if errors:
            raise errors[0]
        if trainer.is_world_process_zero():
            # Where DeepSpeed looks for what to load; it would write it before a last barrier.
            (checkpoint / _LATEST).write_text(name, encoding="utf-8")
            torch.save(trainer.lr_scheduler.state_dict(), checkpoint / "scheduler.pt")
    else:
        trainer._save_optimizer_and_scheduler(str(checkpoint))
        trainer._save_scaler(str(checkpoint))
    trainer._save_rng_state(str(checkpoint))


@contextmanager
def _no_errors_between_ranks(engine: Any) -> Iterator[list[Exception]]:
    """Collect what fails while DeepSpeed writes.

    Between its files the ranks wait for each other: if one of them raised, the others would wait for ever.
    """
    errors: list[Exception] = []
    files = engine.checkpoint_engine
    write = files.save

    def save(state_dict: Any, path: str) -> None:
        try:
            write(state_dict, path)
        except (OSError, RuntimeError) as error:
            errors.append(error)

    files.save = save
    engine._copy_recovery_script = lambda path: None  # writes, too, and is not needed
    try:
        yield errors
    finally:
        del files.save, engine._copy_recovery_script


def _reason(error: BaseException | None) -> str:
    """Return what was wrong first: torch.save fails once more where it closes a file that it cannot write."""
    while error is not None and error.__context__ is not None:
        error = error.__context__
    return "" if error is None else brief(error)  # type: ignore[arg-type]


def _from_all_ranks(word: str) -> list[str]:
    """Return what each rank has to say; all ranks must ask."""
    words = [word]
    if dist.is_initialized():
        words = [""] * dist.get_world_size()
        dist.all_gather_object(words, word)
    return words


def _types_of_deepspeed() -> list[Any]:
    """Return the types that DeepSpeed puts beside tensors and numbers."""
    if "deepspeed" not in sys.modules:
        return []
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


def _not_written(checkpoint: Path, reason: str) -> EegToolError:
    last = last_whole(checkpoint.parent)
    kept = f"{last} is whole: --resume continues from it." if last else "There is no older one."
    return EegToolError(
        f"The checkpoint {checkpoint} could not be written: {reason}.",
        f"Make room on the disk. {kept}",
    )
