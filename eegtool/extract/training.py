"""Training of the vision module on the fine-tune side, validated on subjects it does not train on.

transformers' Trainer runs it, in this process or as one of several ranks (`train_as_rank`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from transformers import TrainingArguments

from eegtool import __version__
from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch, read_epochs
from eegtool.core.registry import check_name
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, read_json
from eegtool.extract.data import Pictures, errors_of_workers
from eegtool.extract.facts import targets_of
from eegtool.extract.features import FEATURE_DIM
from eegtool.extract.module import VisionModule, best_dtype
from eegtool.extract.plan import IMBALANCE, LOGS, TrainPlan, TrainResult
from eegtool.extract.trainer import (
    Monitor,
    StageTrainer,
    arguments,
    best_pass,
    history_of,
    ran_out,
)
from eegtool.extract.weights import save_module, tensors_of
from eegtool.reasons.facts import Facts
from eegtool.reasons.stored import stored_facts

_STATE: Final = "trainer_state.json"  # transformers' name; the last file of a checkpoint


def split_validation(
    epochs: Sequence[Epoch], fraction: float, seed: int, named: Collection[str] = ()
) -> tuple[list[Epoch], list[Epoch], tuple[str, ...]]:
    """Hold out whole subjects of the fine-tune side for validation: a share of them, or those that are `named`.

    Returns
    -------
    train, val : list of Epoch
        The two parts.
    val_subjects : tuple of str
        Who was held out. With a single subject nobody can be: `val` is empty.
    """
    subjects = sorted({epoch.subject for epoch in epochs})
    count = min(max(round(fraction * len(subjects)), 1), len(subjects) - 1)
    drawn = np.random.default_rng(seed).permutation(len(subjects))[:count]
    of_split = set(subjects).intersection(named)
    fitting = 0 < len(of_split) < len(subjects)
    held_out = of_split if fitting else {subjects[i] for i in drawn}
    train = [epoch for epoch in epochs if epoch.subject not in held_out]
    val = [epoch for epoch in epochs if epoch.subject in held_out]
    return train, val, tuple(sorted(held_out))


def train_as_rank(plan: Mapping[str, Any], rank: int, ranks: int) -> None:
    """Train as one of several processes (see `call_on_ranks`), which know their number from torchrun."""
    try:
        train_module(TrainPlan.of(plan))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def train_module(plan: TrainPlan) -> TrainResult:
    """Train a module as planned; the first rank leaves it in ``plan.out``, with its card and ``log.csv``.

    What is needed to continue is kept after every pass, in a hidden folder of ``plan.out`` that belongs to
    this plan alone; an interrupted training continues from there and ends with the weights it would
    have had. The folder goes when the module is written.

    Raises
    ------
    EegToolError
        If there is nothing to train on, a picture cannot be read or is of another size than the
        protocol says, the loss is no finite number, or TensorBoard is asked for and not installed.
    """
    check_name("way to treat rare stages (imbalance)", plan.imbalance, IMBALANCE)
    check_name("log", plan.log, LOGS)
    train, val = _epochs(plan)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if len(train) < 2 * ranks:  # a batch has at least two pictures, which batch normalisation needs
        raise EegToolError(
            f"{len(train)} epochs of {', '.join(plan.train_subjects)} are too few to train on; "
            f"{ranks} processes need {2 * ranks}.",
            "Prepare more nights.",
        )
    if plan.batch_size < 2 * ranks:
        raise EegToolError(
            f"--batch-size {plan.batch_size} is too small for {ranks} processes: each needs 2 pictures.",
            f"Give --batch-size {2 * ranks} or more, or a smaller --num-gpus.",
        )
    args = arguments(plan, len(train), with_validation=bool(val))
    with args.main_process_first(local=True):  # who fetches pretrained weights
        torch.manual_seed(plan.seed)
        module = VisionModule(plan.backbone, pretrained=plan.pretrained, size=plan.size)
    hidden = Path(plan.out) / f".training-{_fingerprint(plan, module, train, val, args)[:16]}"
    args.output_dir = str(hidden)
    checkpoint = _last_whole(hidden, args.world_size)
    before = read_json(checkpoint / _STATE)["log_history"] if checkpoint else []
    if ran_out(history_of(before), plan.patience):  # and was killed before it wrote the module
        args.num_train_epochs = len(history_of(before))

    facts = None
    if plan.facts_sha256:
        facts = targets_of(_facts_of(plan, train))
        module.facts = torch.nn.Linear(FEATURE_DIM, facts.shape[1])
    folder = Path(plan.folder)
    pictures = (
        Pictures(train, folder, plan.size, plan.augmentation),
        Pictures(val, folder, plan.size),
    )
    bar = Monitor(plan)
    trainer = StageTrainer(plan, module, args, pictures, bar, facts)
    if trainer.is_world_process_zero():
        _warn(train, val)
        if plan.pretrained:
            console.print(f"Starting from {module.origin}.")
        if checkpoint:
            done = len(history_of(before))
            console.print(f"Continuing after pass {done} of an interrupted training.")
    try:
        with errors_of_workers():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
        if trainer.is_world_process_zero():
            _tidy(hidden)
    best = trainer.state.best_model_checkpoint
    if best and not Path(best).is_dir() and trainer.is_world_process_zero():
        raise EegToolError(
            f"{best}, the best pass of this training, was removed before its end.",
            "Run `eegvlm extract` again, and nothing else in this workspace meanwhile.",
        )
    history = history_of(trainer.state.log_history)
    result = TrainResult(
        history=tuple(history),
        best_pass=best_pass(history),
        stopped_early=len(history) < plan.train_epochs,
        resumed_after=len(history_of(before)),
        n_train=len(train),
        n_val=len(val),
        dtype=_dtype_name(),
        ranks=args.world_size,
    )
    if not trainer.is_world_process_zero():
        return result
    module.facts = None
    digest = save_module(Path(plan.out), module, _card(plan, result, module.origin))
    # Those of other plans, too: their module would have gone where this one is now.
    for left in Path(plan.out).glob(".training-*"):
        shutil.rmtree(left, ignore_errors=True)
    return replace(result, weights_sha256=digest)


def _epochs(plan: TrainPlan) -> tuple[list[Epoch], list[Epoch]]:
    """Return the epochs to train on and those to validate on, all of the fine-tune side."""
    both = sorted(set(plan.train_subjects) & set(plan.val_subjects))
    if both:
        raise EegToolError(f"Subjects to train on and to validate on: {', '.join(both)}.")
    side = [epoch for epoch in read_epochs(Path(plan.epochs)) if epoch.split == "ft"]
    train = [epoch for epoch in side if epoch.subject in plan.train_subjects]
    val = [epoch for epoch in side if epoch.subject in plan.val_subjects]
    if not train:
        raise EegToolError(
            f"{plan.epochs} has no epochs to train on: none of the fine-tune side is of the "
            f"subjects {', '.join(plan.train_subjects)}.",
            "Run `eegvlm prepare` again, or name other subjects.",
        )
    return train, val


def _facts_of(plan: TrainPlan, epochs: Sequence[Epoch]) -> list[Facts]:
    """Return what was measured in each epoch."""
    workspace = Workspace(Path(plan.epochs).parent)
    found = stored_facts(workspace, {epoch.recording for epoch in epochs}, epochs)
    return [found[epoch.sample_id] for epoch in epochs]


def _warn(train: Sequence[Epoch], val: Sequence[Epoch]) -> None:
    if not val:
        console.print(
            "[yellow]Nobody is held out for validation: the weights of the last pass are kept.[/]"
        )
    missing = sorted(set(STAGES) - {epoch.stage for epoch in train}, key=STAGES.index)
    if missing:
        console.print(f"[yellow]Stages absent from training: {', '.join(missing)}.[/]")


def _fingerprint(
    plan: TrainPlan,
    module: VisionModule,
    train: Sequence[Epoch],
    val: Sequence[Epoch],
    args: TrainingArguments,
) -> str:
    """Hash everything that decides the outcome of a training, the first weights included."""
    described = {k: v for k, v in asdict(plan).items() if k not in ("workers", "log")}
    versions = [__version__, torch.__version__, transformers.__version__]
    described["here"] = [*versions, _dtype_name(), args.world_size]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for epoch in (*train, *val):
        digest.update(repr(epoch).encode())
    for name, tensor in tensors_of(module).items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _last_whole(hidden: Path, ranks: int) -> Path | None:
    """Return the last checkpoint that was not interrupted itself."""
    found = sorted(hidden.glob("checkpoint-*"), key=lambda p: int(p.name.partition("-")[2]))
    for checkpoint in reversed(found):
        states = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{r}.pth" for r in range(ranks)]
        try:
            read_json(checkpoint / _STATE)
        except EegToolError:
            continue
        if all((checkpoint / state).is_file() for state in states):
            return checkpoint
    return None


def _tidy(hidden: Path) -> None:
    """Take away a hidden folder that nothing can continue from, and the folder it is in if that is empty."""
    if not any(hidden.glob("checkpoint-*")):
        shutil.rmtree(hidden, ignore_errors=True)
        with suppress(OSError):
            hidden.parent.rmdir()


def _card(plan: TrainPlan, result: TrainResult, origin: str) -> dict[str, Any]:
    """Return what the card of the module says: what it is, whom it saw, how it went."""
    training = {k: v for k, v in asdict(result).items() if k != "weights_sha256"}
    settings = (
        *("pretrained", "train_epochs", "batch_size", "learning_rate", "weight_decay", "warmup"),
        *("imbalance", "augmentation", "patience", "seed"),
    )
    described = asdict(plan)
    return {
        "tool": f"eegvlm {__version__}",
        "started_from": origin,
        "train_subjects": plan.train_subjects,
        "val_subjects": plan.val_subjects,
        "images_sha256": plan.images_sha256,
        "stages_sha256": plan.stages_sha256,
        "facts_sha256": plan.facts_sha256,
        "code_sha256": plan.code_sha256,
        "protocol": plan.protocol,
        "settings": {name: described[name] for name in settings},
        "training": training,
    }


def _dtype_name() -> str:
    return str(best_dtype()).removeprefix("torch.")
