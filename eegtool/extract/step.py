"""extract: train the specialized vision module and export its high-level features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
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
from eegtool.core.settings import ExtractSettings
from eegtool.core.stages import STAGES
from eegtool.core.workspace import (
    Workspace,
    atomic_path,
    inside,
    read_json,
    run_stamp,
    sha256_of,
    write_json,
)
from eegtool.extract.features import Sidecar, check_same_ids, write_features
from eegtool.extract.module import VisionModule
from eegtool.extract.training import Scores, export, score, split_validation, stage_indices, train


def run(settings: ExtractSettings) -> None:
    """Train on the fine-tune side, then write features of both sides with their sidecars.

    Raises
    ------
    EegToolError
        If the workspace is not whole, a picture is missing, or the backbone is unknown.
    """
    workspace = Workspace(settings.workspace)
    protocol = read_json(workspace.prepare_stamp)["protocol"]
    sides = _sides(workspace)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    module = VisionModule(settings.backbone, pretrained=settings.pretrained).to(device)
    train_epochs, val_epochs, val_subjects = split_validation(
        sides["ft"], settings.val_fraction, settings.seed
    )
    if not val_epochs:
        console.print("[yellow]Only one subject to train on: nobody is held out for validation.[/]")
    missing = sorted(set(STAGES) - {epoch.stage for epoch in train_epochs}, key=STAGES.index)
    if missing:
        console.print(f"[yellow]Stages absent from training: {', '.join(missing)}.[/]")
    n_parameters = sum(p.numel() for p in module.parameters())
    console.print(
        f"Training [bold]{settings.backbone}[/] ({n_parameters / 1e6:.1f} M parameters, {device.type}) on "
        f"{len(train_epochs):,} epochs, validating on {', '.join(val_subjects) or 'nobody'} "
        f"({len(val_epochs):,} epochs)"
    )
    history = _train_with_progress(
        module, (train_epochs, val_epochs), workspace.images("ft"), settings, device
    )
    weights_path = workspace.vision_module / "model.safetensors"
    with atomic_path(weights_path) as tmp:
        tensors = {k: v.contiguous().cpu() for k, v in module.state_dict().items()}
        tmp.write_bytes(save(tensors))  # save_file makes files that only their owner can read

    sidecar = Sidecar((), settings.backbone, sha256_of(weights_path), "", protocol)
    evaluation = _export_both(module, sides, workspace, settings, device, sidecar)
    stamp = run_stamp(
        "extract",
        settings,
        inputs={"epochs": workspace.epochs},
        protocol=protocol,
        results={
            "history": history,
            "val_subjects": val_subjects,
            "evaluation": asdict(evaluation),
        },
    )
    write_json(workspace.vision_module / "run.json", stamp)
    console.print(
        f"The vision module alone, on {evaluation.n:,} epochs of the evaluation subjects: "
        f"accuracy {evaluation.accuracy:.3f}, macro-F1 {evaluation.macro_f1:.3f}, κ {evaluation.kappa:.3f}"
    )


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


def _train_with_progress(
    module: VisionModule,
    epochs: tuple[list[Epoch], list[Epoch]],
    folder: Path,
    settings: ExtractSettings,
    device: torch.device,
) -> list[dict[str, float]]:
    steps = settings.train_epochs * max(
        len(epochs[0]) // min(settings.batch_size, len(epochs[0])), 1
    )
    with progress("steps") as bar:
        task = bar.add_task("Training", total=steps, note="")
        latest: list[Scores] = []

        def report(loss: float, scores: Scores | None) -> None:
            if scores:
                latest[:] = [scores]
            else:
                bar.advance(task)
            f1 = f", val F1 {latest[0].macro_f1:.2f}" if latest else ""
            bar.update(task, note=f"loss {loss:.3f}{f1}")

        return train(module, epochs, folder, settings, device, report)


def _export_both(
    module: VisionModule,
    sides: dict[str, list[Epoch]],
    workspace: Workspace,
    settings: ExtractSettings,
    device: torch.device,
    sidecar: Sidecar,
) -> Scores:
    """Write the features of both sides; return the module's own scores on the evaluation side.

    `sidecar` says what is the same for both; each side adds its ids and pictures.
    """
    predicted = np.empty(0)
    with progress("epochs") as bar:
        task = bar.add_task("Exporting", total=sum(map(len, sides.values())), note="")
        for split, epochs in sides.items():
            rows, predicted, images_sha256 = export(
                module,
                epochs,
                workspace.images(split),
                settings.workers,
                device,
                advance=lambda n: bar.advance(task, n),
            )
            if not np.isfinite(rows).all():
                raise EegToolError(
                    "The vision module gives features that are not finite numbers.",
                    "Train with a lower --learning-rate.",
                )
            ids = tuple(epoch.sample_id for epoch in epochs)
            own = replace(sidecar, sample_ids=ids, images_sha256=images_sha256)
            write_features(workspace.features(split), rows, own)
    return score(stage_indices(sides["eval"]), predicted)
