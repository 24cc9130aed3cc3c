"""extract: train the specialized vision module and export its high-level features.

What is there already and was made from the same pictures with the same settings is not made again.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from rich.table import Table
from sklearn.metrics import f1_score

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.launching import launch
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
from eegtool.core.settings import ExtractSettings
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.core.workspace import (
    Workspace,
    atomic_path,
    inside,
    jsonable,
    read_json,
    run_stamp,
    write_json,
)
from eegtool.extract.augment import Augmentation
from eegtool.extract.backbones import list_backbones
from eegtool.extract.data import images_sha256
from eegtool.extract.export import export
from eegtool.extract.features import (
    Sidecar,
    check_same_ids,
    import_features,
    unchanged,
    write_sidecar,
)
from eegtool.extract.folds import Fold, check_can_align, export_out_of_fold, fold_subjects
from eegtool.extract.module import VisionModule
from eegtool.extract.plan import IMBALANCE, LOGS, TrainPlan
from eegtool.extract.trainer import score
from eegtool.extract.training import split_validation, train_module
from eegtool.extract.weights import load_module

_PREDICTIONS = "eval_stages.csv"


def run(settings: ExtractSettings) -> None:
    """Train on the fine-tune side, then write features of both sides with their sidecars.

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
    if settings.import_features or settings.ids:
        _import(settings, workspace)
        return
    check_name("--imbalance", settings.imbalance, IMBALANCE)
    check_name("--log", settings.log, LOGS)
    protocol = read_json(workspace.prepare_stamp)["protocol"]
    sides = _sides(workspace)
    pictures = {
        split: images_sha256(epochs, workspace.images(split), settings.workers)
        for split, epochs in sides.items()
    }
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dealt = _dealt(sides["ft"], settings)
    module, card = _reference(settings, workspace, sides["ft"], protocol, pictures["ft"])
    module.to(device)
    folds = _folds(settings, workspace, sides["ft"], dealt, protocol, pictures["ft"], card)
    sidecars = {
        split: Sidecar(
            tuple(epoch.sample_id for epoch in sides[split]),
            card["backbone"],
            card["weights_sha256"],
            pictures[split],
            protocol,
        )
        for split in SPLITS
    }
    predictions = workspace.vision_module / _PREDICTIONS
    fold_weights = [fold_card["weights_sha256"] for _, fold_card in folds]
    if predictions.exists() and all(
        _is_unchanged(workspace, split, sidecars[split], fold_weights if split == "ft" else [])
        for split in SPLITS
    ):
        console.print("The features are those of these pictures and weights already.")
    else:
        _export(module, card, sides, workspace, settings, sidecars, folds)
    evaluation = _evaluation(predictions)
    stamp = run_stamp(
        "extract",
        settings,
        inputs={"epochs": workspace.epochs},
        protocol=protocol,
        results={
            "weights_sha256": card["weights_sha256"],
            "history": card.get("training", {}).get("history", []),
            "val_subjects": card.get("val_subjects", []),
            "folds": [list(held_out) for held_out, _ in folds],
            "evaluation": evaluation,
        },
    )
    write_json(workspace.vision_module / "run.json", stamp)
    _print_evaluation(evaluation)


def _print_backbones(pattern: str) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("backbone")
    for name in ("parameters", "features"):
        table.add_column(name, justify="right")
    for row in list_backbones(pattern):
        table.add_row(row.name, f"{row.parameters / 1e6:,.1f} M", str(row.width))
    console.print(table)


def _import(settings: ExtractSettings, workspace: Workspace) -> None:
    if settings.import_features is None or settings.ids is None:
        raise EegToolError(
            "--import-features and --ids go together.",
            "Give the features and the ids of their rows.",
        )
    written = import_features(settings.import_features, settings.ids, workspace)
    for split, n in written.items():
        console.print(f"Features: [bold]{escape(str(workspace.features(split)))}[/] ({n:,} rows)")


def _reference(
    settings: ExtractSettings,
    workspace: Workspace,
    epochs: Sequence[Epoch],
    protocol: dict[str, Any],
    pictures: str,
) -> tuple[VisionModule, dict[str, Any]]:
    """Return the module whose space the features are in: the given one, the trained one, or a new one."""
    if settings.weights:
        module, card = load_module(settings.weights, backbone=settings.backbone)
        console.print(f"Using the weights in {escape(str(settings.weights))}, without training.")
        return module, card
    subjects = sorted({epoch.subject for epoch in epochs})
    return _trained(settings, workspace, epochs, subjects, protocol, pictures, "")


def _dealt(epochs: Sequence[Epoch], settings: ExtractSettings) -> list[tuple[str, ...]]:
    """Return the subjects whom each fold holds out; refuse, before any training, what cannot be aligned."""
    if not settings.folds:
        return []
    subjects = [epoch.subject for epoch in epochs]
    dealt = fold_subjects(subjects, settings.folds, settings.seed)
    for held_out in dealt:
        check_can_align(subjects, held_out)
    return dealt


def _folds(
    settings: ExtractSettings,
    workspace: Workspace,
    epochs: Sequence[Epoch],
    dealt: Sequence[tuple[str, ...]],
    protocol: dict[str, Any],
    pictures: str,
    reference: dict[str, Any],
) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Train a module per fold; return the subjects it held out, and its card."""
    if dealt and "train_subjects" not in reference:
        raise EegToolError(
            "--folds needs to know whom the module was trained on; the card beside --weights does "
            "not say it.",
            "Leave out --weights, or give the folder that `eegvlm extract` wrote.",
        )
    folds = []
    everybody = {epoch.subject for epoch in epochs}
    for number, held_out in enumerate(dealt, start=1):
        others = sorted(everybody - set(held_out))
        where = f"folds/{number}"
        _, card = _trained(settings, workspace, epochs, others, protocol, pictures, where)
        folds.append((held_out, card))
    return folds


def _trained(
    settings: ExtractSettings,
    workspace: Workspace,
    epochs: Sequence[Epoch],
    subjects: Sequence[str],
    protocol: dict[str, Any],
    pictures: str,
    where: str,
) -> tuple[VisionModule, dict[str, Any]]:
    """Return a module trained on these subjects of the fine-tune side, and its card."""
    own = [epoch for epoch in epochs if epoch.subject in set(subjects)]
    train, val, val_subjects = split_validation(own, settings.val_fraction, settings.seed)
    out = workspace.vision_module / where
    plan = TrainPlan(
        epochs=str(workspace.epochs.resolve()),
        train_subjects=tuple(sorted({epoch.subject for epoch in train})),
        val_subjects=val_subjects,
        folder=str(workspace.images("ft").resolve()),
        images_sha256=pictures,
        protocol=protocol,
        out=str(out.resolve()),
        backbone=settings.backbone,
        pretrained=settings.pretrained,
        train_epochs=settings.train_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        imbalance=settings.imbalance,
        augmentation=asdict(Augmentation(flip=settings.flip)) if settings.augment else None,
        patience=settings.patience,
        log=settings.log,
        workers=settings.workers,
        seed=settings.seed,
    )
    whose = f"fold {where.rpartition('/')[2]} of {settings.folds}, " if where else ""
    if _is_trained(out, plan):
        console.print(f"{whose}{settings.backbone} is trained already.")
        return load_module(out, backbone=settings.backbone)
    console.print(
        f"Training [bold]{escape(settings.backbone)}[/] ({whose}{len(train):,} epochs), "
        f"validating on {', '.join(val_subjects) or 'nobody'} ({len(val):,} epochs)"
    )
    ranks = settings.num_gpus or torch.cuda.device_count() or 1
    if ranks > 1:
        _launch(plan, ranks)
    else:
        train_module(plan)
    return load_module(out, backbone=settings.backbone)


def _is_trained(out: Path, plan: TrainPlan) -> bool:
    """Say whether the module in a folder is what this plan would give."""
    try:
        card = read_json(out / "card.json")
    except EegToolError:
        return False
    told = jsonable(asdict(plan))
    names = ("backbone", "train_subjects", "val_subjects", "images_sha256", "protocol")
    settings = card.get("settings", {})
    return (
        bool(settings)
        and all(card.get(name) == told[name] for name in names)
        and all(told[name] == value for name, value in settings.items())
    )


def _launch(plan: TrainPlan, ranks: int) -> None:
    """Train in several processes, one per GPU."""
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        path = Path(tmp) / "plan.json"
        plan.write(path)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [
            *launcher,
            "--nproc-per-node",
            str(ranks),
            "-m",
            "eegtool.extract.train",
            str(path),
        ]
        code = launch(command, _environment(ranks))
    if code != 0:
        raise EegToolError(
            f"The training stopped with exit code {code}.", "The reason stands above."
        )


def _environment(ranks: int) -> dict[str, str]:
    """Return the environment of the ranks; on a CPU they share its cores."""
    threads = max(1, (os.cpu_count() or 1) // ranks)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}


def _is_unchanged(
    workspace: Workspace, split: str, sidecar: Sidecar, fold_weights: Sequence[str]
) -> bool:
    return unchanged(
        workspace.features(split),
        sample_ids=sidecar.sample_ids,
        weights_sha256=sidecar.weights_sha256,
        images_sha256=sidecar.images_sha256,
        protocol=sidecar.protocol,
        fold_weights=fold_weights,
    )


def _export(
    module: VisionModule,
    card: dict[str, Any],
    sides: dict[str, list[Epoch]],
    workspace: Workspace,
    settings: ExtractSettings,
    sidecars: dict[str, Sidecar],
    folds: Sequence[tuple[tuple[str, ...], dict[str, Any]]],
) -> None:
    """Write the features of both sides, and the module's own stages of the evaluation side."""
    device = next(module.parameters()).device
    predictions = workspace.vision_module / _PREDICTIONS
    predictions.unlink(missing_ok=True)  # comes back last: where it is, all is whole
    reference_rows = workspace.vision_module / "reference_features.npy"
    n_rows = sum(map(len, sides.values())) + (len(sides["ft"]) if folds else 0)
    with progress("epochs") as bar:
        task = bar.add_task("Exporting", total=n_rows, note="")

        def rows_of(split: str, out: Path) -> np.ndarray:
            exported = export(
                module,
                sides[split],
                workspace.images(split),
                out,
                workers=settings.workers,
                device=device,
                advance=lambda n: bar.advance(task, n),
            )
            if exported.images_sha256 != sidecars[split].images_sha256:
                raise EegToolError(
                    f"The pictures of the {split} side changed while they were exported.",
                    "Run `eegvlm extract` again, and nothing else in this workspace meanwhile.",
                )
            return exported.probabilities

        if folds:
            try:
                rows_of("ft", reference_rows)
                out_of_fold = export_out_of_fold(
                    _fold_modules(workspace, settings, folds, device),
                    sides["ft"],
                    workspace.images("ft"),
                    (np.lib.format.open_memmap(reference_rows, mode="r"), card["train_subjects"]),
                    workspace.features("ft"),
                    workers=settings.workers,
                    device=device,
                    seed=settings.seed,
                    advance=lambda n: bar.advance(task, n),
                )
            finally:
                reference_rows.unlink(missing_ok=True)
            sidecars["ft"] = replace(sidecars["ft"], fold=out_of_fold.fold, folds=out_of_fold.cards)
        else:
            rows_of("ft", workspace.features("ft"))
        probabilities = rows_of("eval", workspace.features("eval"))
    for split in SPLITS:
        write_sidecar(workspace.features(split), sidecars[split])
    _write_predictions(predictions, sides["eval"], probabilities)


def _fold_modules(
    workspace: Workspace,
    settings: ExtractSettings,
    folds: Sequence[tuple[tuple[str, ...], dict[str, Any]]],
    device: torch.device,
) -> Iterator[Fold]:
    for number, (held_out, card) in enumerate(folds, start=1):
        where = workspace.vision_module / "folds" / str(number)
        module, _ = load_module(where, backbone=settings.backbone)
        trained_on = tuple(card["train_subjects"])
        yield Fold(held_out, trained_on, module.to(device), card["weights_sha256"])


def _write_predictions(path: Path, epochs: Sequence[Epoch], probabilities: np.ndarray) -> None:
    """Write what the module alone says of each evaluation epoch."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sample_id", "stage", "predicted", *(f"p_{stage}" for stage in STAGES)])
        for epoch, row in zip(epochs, probabilities, strict=True):
            numbers = [f"{p:.6f}" for p in row]
            writer.writerow([epoch.sample_id, epoch.stage, STAGES[int(row.argmax())], *numbers])


def _evaluation(path: Path) -> dict[str, Any]:
    """Score what `_write_predictions` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    true, predicted = (
        np.array([STAGE_INDEX[row[name]] for row in rows]) for name in ("stage", "predicted")
    )
    per_stage = f1_score(
        true, predicted, labels=range(len(STAGES)), average=None, zero_division=0.0
    )
    present = set(true.tolist())
    f1 = {s: float(per_stage[i]) if i in present else None for i, s in enumerate(STAGES)}
    return asdict(score(true, predicted)) | {"f1": f1}


def _print_evaluation(evaluation: dict[str, Any]) -> None:
    console.print(
        f"The vision module alone, on {evaluation['n']:,} epochs of the evaluation subjects: "
        f"accuracy {evaluation['accuracy']:.3f}, macro-F1 {evaluation['macro_f1']:.3f}, "
        f"κ {evaluation['kappa']:.3f}"
    )
    f1 = (f"{s} {v:.2f}" for s, v in evaluation["f1"].items() if v is not None)
    console.print(f"F1 per stage: {'  '.join(f1)}")


def _sides(workspace: Workspace) -> dict[str, list[Epoch]]:
    """Read the epochs of both sides in the order of their JSON files, and check that all are there."""
    table = read_epochs(workspace.epochs)
    check_unique(workspace.epochs, [epoch.sample_id for epoch in table])
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
        for epoch in sides[split]:
            if epoch.image != pictures[epoch.sample_id]:
                raise EegToolError(
                    f"The picture of epoch '{epoch.sample_id}' is {epoch.image} in "
                    f"{workspace.epochs.name} and {pictures[epoch.sample_id]} in {path.name}.",
                    "Both models must see the same picture; run `eegvlm prepare` again.",
                )
            if not inside(workspace.images(split), epoch.image).is_file():
                raise EegToolError(
                    f"The picture {workspace.images(split) / epoch.image} of epoch "
                    f"'{epoch.sample_id}' does not exist.",
                    "Run `eegvlm prepare` again.",
                )
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
