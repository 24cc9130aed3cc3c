"""extract: train the specialized vision module and export its high-level features.

What is there already and was made from the same pictures with the same settings is not made again.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table
from sklearn.metrics import f1_score

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.launching import is_first_rank, take_lock
from eegtool.core.records import (
    SPLITS,
    Conversation,
    Epoch,
    Question,
    check_unique,
    read_conversations,
    read_epochs,
    read_questions,
)
from eegtool.core.registry import check_name
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.core.workspace import (
    Workspace,
    atomic_path,
    jsonable,
    missing,
    read_json,
    run_stamp,
    write_json,
)
from eegtool.extract.backbones import code_sha256, list_backbones
from eegtool.extract.calibrated import fit_module, stages_and_probabilities
from eegtool.extract.context import (
    ContextEncoder,
    ContextPlan,
    Rows,
    add_context,
    epochs_of,
    train_context,
)
from eegtool.extract.data import images_sha256
from eegtool.extract.export import Exporter, export, silently
from eegtool.extract.features import (
    Sidecar,
    check_same_ids,
    move_features,
    unchanged,
    write_sidecar,
)
from eegtool.extract.folds import Fold, export_out_of_fold
from eegtool.extract.imported import import_features
from eegtool.extract.module import VisionModule
from eegtool.extract.neighbours import neighbours
from eegtool.extract.options import ExtractSettings
from eegtool.extract.plan import IMBALANCE, LOGS
from eegtool.extract.stored import CARD
from eegtool.extract.trained import (
    Card,
    FineTuneSide,
    augmentation_of,
    dealt,
    fold_modules,
    reference_module,
)
from eegtool.extract.trainer import score
from eegtool.extract.weights import load_module, save_module
from eegtool.pictures.source import open_signals, open_source

_PREDICTIONS: Final = "eval_stages.csv"
_STAMP: Final = "run.json"


def run(settings: ExtractSettings) -> None:
    """Train on the fine-tune side, then write features of both sides with their sidecars.

    Under torchrun (several nodes) every rank calls this; the first one writes.

    Raises
    ------
    EegToolError
        If the workspace is not whole, a picture is missing, the backbone is unknown, or something
        does not belong together.
    """
    if settings.list_backbones:
        _print_backbones(settings.list_backbones)
        return
    workspace = Workspace(settings.workspace)
    if not workspace.root.is_dir():
        raise missing(workspace.root)
    with _alone(workspace) as lock:
        if not (settings.import_features or settings.ids):
            _extract(settings, workspace, lock)
        elif is_first_rank():
            _import(settings, workspace)


def _extract(settings: ExtractSettings, workspace: Workspace, lock: IO[str] | None) -> None:
    check_name("--imbalance", settings.imbalance, IMBALANCE)
    check_name("--log", settings.log, LOGS)
    protocol = _protocol(workspace)
    sides = _sides(workspace)
    if not settings.weights:  # else it would be found wanting after all pictures were read
        _tell_resizing(VisionModule(settings.backbone, size=protocol.get("size")))
    pictures = {
        split: images_sha256(
            epochs, workspace.images(split), settings.workers, protocol.get("size")
        )
        for split, epochs in sides.items()
    }
    how = augmentation_of(settings, workspace.images("ft"))
    side = FineTuneSide(settings, workspace, sides["ft"], protocol, pictures["ft"], how, lock)
    held_out = dealt(side)
    module, card = reference_module(side, frozenset(epoch.subject for epoch in sides["eval"]))
    folds = fold_modules(side, held_out, card)
    if not is_first_rank():
        return
    card = _settle_context(module, card, side)
    sidecars = {
        split: Sidecar(
            tuple(epoch.sample_id for epoch in sides[split]),
            card["backbone"],
            card["weights_sha256"],
            pictures[split],
            protocol,
            code_sha256=code_sha256(card["backbone"]),
            context=module.context.reach if module.context else 0,
        )
        for split in SPLITS
    }
    predictions = workspace.vision_module / _PREDICTIONS
    fold_weights = tuple(fold_card["weights_sha256"] for _, fold_card in folds)
    said = _stages_said(predictions, sides["eval"])
    if (
        said
        and (module.context is not None or not settings.context)
        and _is_decided(workspace, settings)
        and all(
            unchanged(
                workspace.features(split), sidecars[split], fold_weights if split == "ft" else ()
            )
            for split in SPLITS
        )
    ):
        console.print("The features are those of these pictures and weights already.")
    else:
        said = _export(module, card, sides, side, sidecars, folds)
    evaluation = _evaluation(said, sides["eval"])
    results = {
        "weights_sha256": card["weights_sha256"],
        "history": card.get("training", {}).get("history", []),
        "val_subjects": card.get("val_subjects", []),
        "folds": [list(subjects) for subjects, _ in folds],
        "calibration": _calibration(workspace),
        "evaluation": evaluation,
    }
    _stamp(settings, workspace, protocol, results)
    _print_evaluation(evaluation)


@contextmanager
def _alone(workspace: Workspace) -> Iterator[IO[str] | None]:
    """Refuse a second run in the same workspace: they would take away each other's files."""
    if not is_first_rank():
        yield None
        return
    what = f"Another `eegvlm extract` is running in {workspace.root}."
    fix = "Wait for it, end what a killed one left at work, or take another workspace."
    with take_lock(workspace.root / ".extract.lock", what, fix) as lock:
        yield lock


def _tell_resizing(module: VisionModule) -> None:
    """Say so where pictures are not seen as they were drawn."""
    side = getattr(module.backbone, "side", None)
    if side and is_first_rank():
        console.print(
            f"[bold]{escape(module.name)}[/] cannot take pictures of {module.size} px: it sees them "
            f"resized to {side} px."
        )


def _protocol(workspace: Workspace) -> dict[str, Any]:
    """Return prepare's protocol; without it nobody knows how the pictures were made."""
    protocol = read_json(workspace.prepare_stamp).get("protocol")
    if not isinstance(protocol, dict) or not isinstance(protocol.get("size"), int | None):
        raise EegToolError(
            f"{workspace.prepare_stamp} does not say how the pictures were made.",
            "Run `eegvlm prepare` again.",
        )
    return protocol


def _stamp(
    settings: ExtractSettings,
    workspace: Workspace,
    protocol: dict[str, Any],
    results: dict[str, Any],
) -> None:
    table = {"epochs": workspace.epochs}
    rows = {path.name: path for path in _row_files(workspace)}
    inputs = table if workspace.epochs.exists() else rows
    stamp = run_stamp("extract", settings, inputs=inputs, protocol=protocol, results=results)
    write_json(workspace.vision_module / _STAMP, stamp)


def _row_files(workspace: Workspace) -> list[Path]:
    """Return which of the recipe's own JSON files are there."""
    return [path for path in (workspace.conversations, workspace.questions) if path.exists()]


def _print_backbones(pattern: str) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("backbone")
    for name in ("parameters", "features"):
        table.add_column(name, justify="right")
    with console.status("Building ...") as status:
        rows = list_backbones(pattern, lambda name: status.update(f"Building {name} ..."))
    for row in rows:
        table.add_row(row.name, f"{row.parameters / 1e6:,.1f} M", str(row.width))
    console.print(table)


def _import(settings: ExtractSettings, workspace: Workspace) -> None:
    if settings.import_features is None:
        raise EegToolError(
            "--ids are those of --import-features.", "Give the features whose rows they name."
        )
    if settings.weights or settings.folds or settings.pretrained:
        raise EegToolError(
            "--import-features takes over what is there: it needs no module.",
            "Leave out --weights, --folds and --pretrained.",
        )
    protocol = workspace.protocol()  # before anything is written: prepare may not have ended
    written = import_features(settings.import_features, settings.ids, workspace)
    (workspace.vision_module / _PREDICTIONS).unlink(missing_ok=True)  # of another module
    results = {"imported": str(settings.import_features), "rows": written, "evaluation": None}
    _stamp(settings, workspace, protocol, results)
    if not workspace.epochs.exists():
        console.print(
            "There is no epochs.csv: epochs and their order are those of the rows of "
            f"{' and '.join(path.name for path in _row_files(workspace))}."
        )
    for split, n in written.items():
        console.print(f"Features: [bold]{escape(str(workspace.features(split)))}[/] ({n:,} rows)")


def _export(
    module: VisionModule,
    card: Card,
    sides: dict[str, list[Epoch]],
    side: FineTuneSide,
    sidecars: dict[str, Sidecar],
    folds: Sequence[tuple[tuple[str, ...], Card]],
) -> list[str]:
    """Write the features of both sides and the module's own stages of the evaluation side: all or none.

    Returns
    -------
    list of str
        Those stages, in the order of the side.
    """
    settings, workspace = side.settings, side.workspace
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device)
    staging_dir = workspace.vision_module / ".export"
    shutil.rmtree(staging_dir, ignore_errors=True)  # of a killed run
    staging_dir.mkdir(parents=True)
    made = {split: staging_dir / f"{split}.npy" for split in SPLITS}
    n_rows = sum(map(len, sides.values())) + (len(sides["ft"]) if folds else 0)
    with _removed_in_the_end(staging_dir), progress("epochs") as bar:
        task = bar.add_task("Exporting", total=n_rows, note="")
        exporter = partial(
            export,
            size=side.protocol.get("size"),
            workers=settings.workers,
            device=device,
            advance=lambda n: bar.advance(task, n),
        )

        def rows_of(split: str, out: Path) -> np.ndarray:
            exported = exporter(module, sides[split], workspace.images(split), out)
            if exported.images_sha256 != sidecars[split].images_sha256:
                raise EegToolError(
                    f"The pictures of the {split} side changed while they were exported.",
                    "Run `eegvlm extract` again, and nothing else in this workspace meanwhile.",
                )
            return exported.probabilities

        if folds:
            reference = staging_dir / "reference.npy"
            own = rows_of("ft", reference)
            out_of_fold = export_out_of_fold(
                _fold_modules(side, folds, device),
                sides["ft"],
                workspace.images("ft"),
                (np.lib.format.open_memmap(reference, mode="r"), card["train_subjects"]),
                made["ft"],
                export=exporter,
                seed=settings.seed,
            )
            sidecars["ft"] = replace(sidecars["ft"], fold=out_of_fold.fold, folds=out_of_fold.cards)
        else:
            own = rows_of("ft", made["ft"])
        probabilities = rows_of("eval", made["eval"])
        if settings.context or module.context is not None:
            reach = module.context.reach if module.context else epochs_of(settings.context)
            around = {
                split: _look_around(
                    module, epochs, workspace.images(split), reach, made[split], exporter
                )
                for split, epochs in sides.items()
                if not folds
            }
            whole = {split: [*sides[split], *around.get(split, ())] for split in SPLITS}
            own, probabilities, card = _in_context(module, card, side, sidecars, whole, made)
        calibration = fit_module(card, sides["ft"], own, settings.decide_for)
        said, probabilities = stages_and_probabilities(calibration, probabilities)
        for split in SPLITS:
            write_sidecar(made[split], sidecars[split])
        _write_predictions(staging_dir / _PREDICTIONS, sides["eval"], said, probabilities)
        # All is there: only now goes what was there before, and the predictions come back last.
        predictions = workspace.vision_module / _PREDICTIONS
        for old in (predictions, predictions.with_name(_STAMP)):
            old.unlink(missing_ok=True)
        write_json(workspace.vision_module / CARD, {**card, "calibration": calibration})
        for split in SPLITS:
            move_features(made[split], workspace.features(split))
        (staging_dir / _PREDICTIONS).replace(predictions)
    return said


def _in_context(
    module: VisionModule,
    card: Card,
    side: FineTuneSide,
    sidecars: dict[str, Sidecar],
    epochs: dict[str, list[Epoch]],
    made: dict[str, Path],
) -> tuple[np.ndarray, np.ndarray, Card]:
    """Let the rows know of those around them, by a context encoder that is learnt if there is none.

    Returns
    -------
    tuple
        The probabilities of both sides, and the card of the module.
    """
    device = next(module.parameters()).device
    rows = {split: _rows(made[split]) for split in SPLITS}
    if module.context is None:
        module.context, card = _learn_context(module, card, side, epochs["ft"], rows["ft"], device)
        for split in SPLITS:
            sidecars[split] = replace(
                sidecars[split],
                weights_sha256=card["weights_sha256"],
                context=module.context.reach,
            )
    own, probabilities = (
        add_context(module.context, epochs[split], rows[split], device) for split in SPLITS
    )
    return own, probabilities, card


def _context_plan(side: FineTuneSide) -> ContextPlan:
    reach, seed = epochs_of(side.settings.context), side.settings.seed
    return ContextPlan.of_passes(len(side.epochs), reach=reach, seed=seed)


def _settle_context(module: VisionModule, card: Card, side: FineTuneSide) -> Card:
    """Take away a context encoder that is not the one that is asked for; return the module's card.

    Raises
    ------
    EegToolError
        If given weights have another one.
    """
    settings = side.settings
    if module.context is None:
        return card
    if settings.weights:
        if settings.context and epochs_of(settings.context) != module.context.reach:
            raise EegToolError(
                f"--context {settings.context:g}: the weights in {settings.weights} have a context of "
                f"{module.context.reach} epochs on either side.",
                "Leave out --context, or train a module of your own.",
            )
        return card
    known = card.get("context")
    asked = jsonable(asdict(_context_plan(side)))
    if settings.context and isinstance(known, dict) and asked.items() <= known.items():
        return card
    module.context = None
    gone = ("context", "context_epochs", "calibration")
    return _saved(module, {k: v for k, v in card.items() if k not in gone}, side)


def _saved(module: VisionModule, card: Card, side: FineTuneSide) -> Card:
    """Save a module that has changed in the workspace, and return its card."""
    save_module(side.workspace.vision_module, module, card)
    return read_json(side.workspace.vision_module / CARD)


def _look_around(
    module: VisionModule,
    epochs: Sequence[Epoch],
    folder: Path,
    reach: int,
    made: Path,
    exporter: Exporter,
) -> list[Epoch]:
    """Export the representations of a side's neighbours, drawn from stored signals, beside its own; return which these are."""
    signals = open_signals(folder)
    found = neighbours(epochs, signals, reach) if signals else []
    if found and signals:
        exporter(module, found, signals, _of_neighbours(made), advance=silently)
    return found


def _of_neighbours(path: Path) -> Path:
    """Return where the representations of a side's neighbours lie, beside its own."""
    return path.with_name(f"{path.stem}_neighbours.npy")


def _rows(path: Path) -> Rows:
    """Map the representations of a side, to be written to, and those of its neighbours, if there are any."""
    own = np.lib.format.open_memmap(path, mode="r+")
    others = _of_neighbours(path)
    if not others.exists():
        return Rows(own)
    return Rows(own, np.lib.format.open_memmap(others, mode="r"))


def _learn_context(
    module: VisionModule,
    card: Card,
    side: FineTuneSide,
    epochs: Sequence[Epoch],
    rows: Rows,
    device: torch.device,
) -> tuple[ContextEncoder, Card]:
    """Train the context encoder on the representations of the fine-tune side, and keep it with the module."""
    plan = _context_plan(side)
    validating = sorted({*card.get("val_subjects", ())} & {epoch.subject for epoch in side.epochs})
    encoder, known = train_context(plan, epochs, rows, validating, device)
    console.print(
        f"Context of {plan.reach} epochs on either side, of step {known['step']}"
        + (f": κ {known['kappa']:.3f} on {', '.join(validating)}." if validating else "."),
        markup=False,
    )
    module.context = encoder
    return encoder, _saved(module, {**card, "context": known}, side)


def _calibration(workspace: Workspace) -> dict[str, Any] | None:
    """Return the calibration on the card of the workspace's module; None if there is none."""
    found = read_json(workspace.vision_module / CARD).get("calibration")
    return found if isinstance(found, dict) else None


def _is_decided(workspace: Workspace, settings: ExtractSettings) -> bool:
    """Say whether the module's stages are those that are asked for: calibrated, if they can be."""
    if "calibration" not in read_json(workspace.vision_module / CARD):
        return False
    calibration = _calibration(workspace)
    return calibration is None or calibration.get("asked_for") == settings.decide_for


@contextmanager
def _removed_in_the_end(folder: Path) -> Iterator[None]:
    """Take a folder away, however the block ends."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fold_modules(
    side: FineTuneSide, folds: Sequence[tuple[tuple[str, ...], Card]], device: torch.device
) -> Iterator[Fold]:
    for number, (held_out, card) in enumerate(folds, start=1):
        where = side.workspace.vision_module / "folds" / str(number)
        module, _ = load_module(where, backbone=side.settings.backbone)
        trained_on = tuple(card["train_subjects"])
        yield Fold(held_out, trained_on, module.to(device), card["weights_sha256"])


def _write_predictions(
    path: Path, epochs: Sequence[Epoch], said: Sequence[str], probabilities: np.ndarray
) -> None:
    """Write what the module alone says of each evaluation epoch."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sample_id", "stage", "predicted", *(f"p_{stage}" for stage in STAGES)])
        for epoch, stage, row in zip(epochs, said, probabilities, strict=True):
            numbers = [f"{p:.6f}" for p in row]
            writer.writerow([epoch.sample_id, epoch.stage, stage, *numbers])


def _stages_said(path: Path, epochs: Sequence[Epoch]) -> list[str]:
    """Return the stage that `_write_predictions` wrote of each epoch, joined by id; none if one is missing."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            said = {row["sample_id"]: row["predicted"] for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, csv.Error):  # not there, or no longer what was written
        return []
    stages = [said.get(epoch.sample_id, "") for epoch in epochs]
    return stages if set(stages) <= set(STAGES) else []


def _evaluation(said: Sequence[str], epochs: Sequence[Epoch]) -> dict[str, Any] | None:
    """Score the stages of the module against those of today's table; None if nobody scored the nights."""
    scored = [
        (epoch.stage, stage) for epoch, stage in zip(epochs, said, strict=True) if epoch.stage
    ]
    if not scored:
        return None
    true, predicted = (
        np.array([STAGE_INDEX[s] for s in side]) for side in zip(*scored, strict=True)
    )
    per_stage = f1_score(
        true, predicted, labels=range(len(STAGES)), average=None, zero_division=0.0
    )
    present = set(true.tolist())
    f1 = {s: float(per_stage[i]) if i in present else None for i, s in enumerate(STAGES)}
    return asdict(score(true, predicted)) | {"f1": f1}


def _print_evaluation(evaluation: dict[str, Any] | None) -> None:
    if evaluation is None:
        console.print(
            "No epoch of the evaluation subjects has a stage to score the module against."
        )
        return
    kappa = "–" if evaluation["kappa"] is None else f"{evaluation['kappa']:.3f}"
    console.print(
        f"The vision module alone, on {evaluation['n']:,} epochs of the evaluation subjects: "
        f"accuracy {evaluation['accuracy']:.3f}, macro-F1 {evaluation['macro_f1']:.3f}, κ {kappa}"
    )
    f1 = (f"{s} {v:.2f}" for s, v in evaluation["f1"].items() if v is not None)
    console.print(f"F1 per stage: {'  '.join(f1)}")


def _sides(workspace: Workspace) -> dict[str, list[Epoch]]:
    """Read the epochs of both sides in the order of their JSON files, and check that all are there."""
    table = read_epochs(workspace.epochs)
    check_unique(workspace.epochs, [epoch.sample_id for epoch in table])
    people = [{epoch.subject for epoch in table if epoch.split == split} for split in SPLITS]
    if both := sorted(set.intersection(*people)):
        raise EegToolError(
            f"{workspace.epochs} has subjects on both sides: {', '.join(both)}.",
            "Run `eegvlm prepare` again: nobody may be trained on and evaluated on.",
        )
    epochs = {epoch.sample_id: epoch for epoch in table}
    sides = {}
    for split in SPLITS:
        path, pictures = _json_pictures(workspace, split)
        known = [epoch.sample_id for epoch in table if epoch.split == split]
        check_same_ids(workspace.epochs, sorted(known), sorted(pictures), path.name)
        sides[split] = [epochs[sample_id] for sample_id in pictures]
        if not sides[split]:
            raise EegToolError(
                f"{workspace.epochs} has no epochs of the {split} side.", "Prepare again."
            )
        source = open_source(workspace.images(split), "Run `eegvlm prepare` again.")
        for epoch in sides[split]:
            if epoch.image != pictures[epoch.sample_id]:
                raise EegToolError(
                    f"The picture of epoch '{epoch.sample_id}' is {epoch.image} in "
                    f"{workspace.epochs.name} and {pictures[epoch.sample_id]} in {path.name}.",
                    "Both models must see the same picture; run `eegvlm prepare` again.",
                )
            source.find(epoch.image, f"epoch '{epoch.sample_id}'")
    return sides


def _json_pictures(workspace: Workspace, split: str) -> tuple[Path, dict[str, str]]:
    """Return the JSON file of a side, and the picture of each of its sample ids, in file order."""
    rows: Sequence[Conversation | Question]
    if split == "ft":
        path, rows = workspace.conversations, read_conversations(workspace.conversations)
    else:
        path, rows = workspace.questions, read_questions(workspace.questions)
    check_unique(path, [row.sample_id for row in rows])
    return path, {row.sample_id: next(iter(row.images), "") for row in rows}
