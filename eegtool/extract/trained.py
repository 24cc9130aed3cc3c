"""The trained modules of a workspace: which are there already, and the training of those that are not."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.launching import count_ranks, is_first_rank
from eegtool.core.ranks import call_on_ranks
from eegtool.core.records import Epoch
from eegtool.core.workspace import (
    Workspace,
    atomic_path,
    check_same_pictures,
    jsonable,
    read_json,
)
from eegtool.extract.backbones import code_sha256
from eegtool.extract.folds import check_can_align, fold_subjects
from eegtool.extract.module import VisionModule
from eegtool.extract.options import ExtractSettings
from eegtool.extract.plan import TrainPlan
from eegtool.extract.stored import CARD, WEIGHTS, is_module
from eegtool.extract.training import split_validation, train_module
from eegtool.extract.weights import load_module
from eegtool.pictures.augmentation import Augmentation
from eegtool.pictures.source import open_signals
from eegtool.reasons.stored import stored_facts

Card = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FineTuneSide:
    """What all modules of a workspace are trained on, and how."""

    settings: ExtractSettings
    workspace: Workspace
    epochs: Sequence[Epoch]
    """Of the fine-tune side."""
    protocol: dict[str, Any]
    images_sha256: str
    augmentation: Augmentation | None = None
    lock: IO[str] | None = None
    """Of the workspace; launched ranks hold it, too."""


def augmentation_of(settings: ExtractSettings, folder: Path) -> Augmentation | None:
    """Return how the signals of the training are varied; where none are stored, say that nothing is.

    Raises
    ------
    EegToolError
        If pictures are drawn otherwise today than those of the workspace were, or `--channel-dropout`
        finds no channels that could be missing.
    """
    dropout = settings.channel_dropout
    if not (settings.augment or dropout) or (settings.weights and not settings.folds):
        return None
    signals = open_signals(folder)
    if dropout and not (signals and signals.spec.strips):
        raise EegToolError(
            f"--channel-dropout: {folder.parent} "
            f"{'has no montage' if signals else 'stores no signals'}, so no strip can be left empty.",
            "Prepare it with --montage psg or aasm, or leave out --channel-dropout.",
        )
    if signals is None:
        _say(
            f"[yellow]{escape(str(folder.parent))} stores no signals that could be varied: the module is "
            "trained without augmentation.[/] `eegvlm prepare` stores them."
        )
        return None
    if not settings.augment:
        return Augmentation(0.0, 0.0, 0.0, 0.0, dropout)
    return Augmentation(channel_dropout=dropout, flip=settings.flip)


def reference_module(
    side: FineTuneSide, eval_subjects: frozenset[str]
) -> tuple[VisionModule, Card]:
    """Return the module whose space the features are in, and its card: the given one, or a trained one.

    Raises
    ------
    EegToolError
        If the given weights saw a subject of the evaluation side, or pictures that were drawn in
        another way; or the training fails.
    """
    settings = side.settings
    if not settings.weights:
        return trained(side, sorted({epoch.subject for epoch in side.epochs}), "")
    module, card = load_module(settings.weights, backbone=settings.backbone)
    seen = {*card.get("train_subjects", ()), *card.get("val_subjects", ())}
    if leaked := sorted(seen & eval_subjects):
        raise EegToolError(
            f"The weights in {settings.weights} were trained on subjects of the evaluation side: "
            f"{', '.join(leaked)}.",
            "Train without them: leave out --weights, or prepare another split.",
        )
    if not seen:
        _say(
            "[yellow]warning:[/] the card beside the weights does not say whom they were trained "
            "on; nobody of the evaluation side may be among them."
        )
    both = f"The weights in {settings.weights} and {side.workspace.root}"
    check_same_pictures(card.get("protocol", {}), side.protocol, both)
    if card.get("code_sha256", "") != code_sha256(settings.backbone):
        _say(
            f"[yellow]warning:[/] the code of '{escape(settings.backbone)}' is not that of the "
            "training of these weights."
        )
    if is_first_rank():
        _keep(settings.weights, side.workspace.vision_module, card)
    _say(f"Using the weights in {escape(str(settings.weights))}, without training.")
    return module, card


def _keep(weights: Path, folder: Path, card: Card) -> None:
    """Put a given module where a trained one would be: finetune looks for it there."""
    if is_module(folder, card["weights_sha256"]) and (folder / WEIGHTS).exists():
        return
    if (folder / WEIGHTS).exists():
        console.print(
            "[yellow]The given module takes the place of the one that was trained here before.[/]"
        )
    file = weights / WEIGHTS if weights.is_dir() else weights
    # If it is killed between the two, the card does not fit: loading will say so.
    with atomic_path(folder / CARD) as new_card, atomic_path(folder / WEIGHTS) as new_weights:
        shutil.copyfile(file.with_name(CARD), new_card)
        shutil.copyfile(file, new_weights)


def dealt(side: FineTuneSide) -> list[tuple[str, ...]]:
    """Return the subjects whom each fold holds out; refuse, before any training, what cannot be aligned."""
    if not side.settings.folds:
        return []
    subjects = [epoch.subject for epoch in side.epochs]
    folds = fold_subjects(subjects, side.settings.folds, side.settings.seed)
    for held_out in folds:
        check_can_align(subjects, held_out)
    return folds


def fold_modules(
    side: FineTuneSide, folds: Sequence[tuple[str, ...]], reference: Card
) -> list[tuple[tuple[str, ...], Card]]:
    """Train a module per fold; return the subjects whom it did not see, and its card."""
    if folds and "train_subjects" not in reference:
        raise EegToolError(
            "--folds needs to know whom the module was trained on; the card beside --weights does "
            "not say it.",
            "Leave out --weights, or give the folder that `eegvlm extract` wrote.",
        )
    everybody = {epoch.subject for epoch in side.epochs}
    return [
        (held_out, trained(side, sorted(everybody - set(held_out)), f"folds/{number}")[1])
        for number, held_out in enumerate(folds, start=1)
    ]


def trained(side: FineTuneSide, subjects: Sequence[str], where: str) -> tuple[VisionModule, Card]:
    """Return a module trained on these subjects of the fine-tune side, and its card.

    Parameters
    ----------
    side : FineTuneSide
        What there is to train on.
    subjects : sequence of str
        Whom to train on; some of them validate.
    where : str
        Its folder, below that of the vision module.
    """
    settings, wanted = side.settings, set(subjects)
    own = [epoch for epoch in side.epochs if epoch.subject in wanted]
    split = side.workspace.split
    named = read_json(split).get("validation_subjects", ()) if split.is_file() else ()
    train, val, val_subjects = split_validation(own, settings.val_fraction, settings.seed, named)
    out = side.workspace.vision_module / where
    plan = TrainPlan(
        epochs=str(side.workspace.epochs.resolve()),
        train_subjects=tuple(sorted({epoch.subject for epoch in train})),
        val_subjects=val_subjects,
        folder=str(side.workspace.images("ft").resolve()),
        images_sha256=side.images_sha256,
        stages_sha256=_stages_sha256(own),
        protocol=side.protocol,
        out=str(out.resolve()),
        backbone=settings.backbone,
        code_sha256=code_sha256(settings.backbone),
        pretrained=settings.pretrained,
        train_epochs=settings.train_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        imbalance=settings.imbalance,
        augmentation=side.augmentation,
        facts_sha256=facts_sha256(side.workspace, own) if settings.learn_facts else "",
        patience=settings.patience,
        log=settings.log,
        workers=settings.workers,
        seed=settings.seed,
    )
    name = escape(settings.backbone)
    whose = f"fold {where.rpartition('/')[2]} of {settings.folds}, " if where else ""
    if _is_trained(out, plan):
        try:
            found = load_module(out, backbone=settings.backbone)
        except EegToolError as error:
            _say(f"[yellow]warning:[/] {escape(error.what)} It is trained from scratch.")
        else:
            _say(f"{whose}{name} is trained already.")
            return found
    validating = escape(", ".join(val_subjects)) or "nobody"
    _say(
        f"Training [bold]{name}[/] ({whose}{len(train):,} epochs), "
        f"validating on {validating} ({len(val):,} epochs)"
    )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun started this command
        train_module(plan)
        torch.distributed.barrier()  # the first rank writes the module
    elif (ranks := count_ranks(settings.num_gpus, torch.cuda.device_count())) > 1:
        call_on_ranks("eegtool.extract.training:train_as_rank", asdict(plan), ranks, side.lock)
    else:
        train_module(plan)
    return load_module(out, backbone=settings.backbone)


def facts_sha256(workspace: Workspace, epochs: Sequence[Epoch]) -> str:
    """Hash what prepare measured in these epochs, in whatever order; empty where it did not measure all of them."""
    facts = stored_facts(workspace, {epoch.recording for epoch in epochs}, epochs)
    if lacking := sorted({e.recording for e in epochs if e.sample_id not in facts}):
        if facts:
            _say(
                f"Features do not learn what was measured: {escape(lacking[0])} and {len(lacking) - 1:,} others "
                "were not measured. `eegvlm prepare --rationale measured` measures all."
            )
        return ""
    _say("Features also learn what was measured in each epoch (--no-learn-facts leaves it out).")
    rows = sorted((sample_id, repr(fact)) for sample_id, fact in facts.items())
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _stages_sha256(epochs: Sequence[Epoch]) -> str:
    """Hash whose epochs these are and how they were scored, in whatever order."""
    rows = sorted((epoch.sample_id, epoch.subject, epoch.stage) for epoch in epochs)
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _is_trained(out: Path, plan: TrainPlan) -> bool:
    """Say whether the module in a folder is what this plan would give."""
    try:
        card = read_json(out / "card.json")
    except EegToolError:
        return False
    asked = jsonable(asdict(plan))
    names = (
        *("backbone", "code_sha256", "train_subjects", "val_subjects"),
        *("images_sha256", "stages_sha256", "facts_sha256", "protocol"),
    )
    card.setdefault("facts_sha256", "")  # before there were any
    settings = card.get("settings")
    return (
        isinstance(settings, dict)
        and bool(settings)
        and all(card.get(name) == asked[name] for name in names)
        and settings.items() <= asked.items()
    )


def _say(text: str) -> None:
    """Print what all ranks know once."""
    if is_first_rank():
        console.print(text)
