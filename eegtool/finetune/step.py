"""finetune: check everything that is cheap to check, then start the training through the launcher."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from rich.markup import escape
from transformers import SchedulerType

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.launching import launch
from eegtool.core.records import check_unique, read_conversations
from eegtool.core.registry import check_name
from eegtool.core.settings import FinetuneSettings
from eegtool.core.workspace import (
    Workspace,
    check_same_pictures,
    inside,
    read_json,
    run_stamp,
    write_json,
)
from eegtool.extract.features import load_features, warn_if_by_order
from eegtool.finetune import launcher
from eegtool.finetune.data import trained_share
from eegtool.finetune.plan import Plan
from eegtool.model.checkpoints import KNOWN_BASES, best_dtype, load_processor, resolve_base
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.processor import TEMPLATES

_TRACKERS: Final = ("none", "tensorboard", "wandb")


def run(settings: FinetuneSettings) -> None:
    """Fine-tune and leave an adapter folder behind.

    Raises
    ------
    EegToolError
        If anything is wrong with files, names or hardware, before a model is loaded; or if the
        training itself failed.
    """
    output_dir = settings.output_dir or Workspace(settings.workspace).checkpoints / "eegvlm"
    use_deepspeed = settings.deepspeed != launcher.NO_DEEPSPEED
    ranks = launcher.count_ranks(settings.num_gpus, use_deepspeed=use_deepspeed)
    plan = make_plan(settings, output_dir)
    console.print(
        f"Fine-tuning [bold]{escape(plan.base)}[/] (fusion {plan.fusion}, template {plan.version}, "
        f"features {plan.features}) with "
        + (f"DeepSpeed {escape(settings.deepspeed)}" if use_deepspeed else "no DeepSpeed")
        + f" on {ranks} {'GPU' if torch.cuda.is_available() else 'CPU'} rank{'s' * (ranks > 1)}"
    )
    if use_deepspeed and not torch.cuda.is_available():
        console.print("[dim]  On first use DeepSpeed builds its CPU extension: about a minute.[/]")
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        plan_path = Path(tmp) / "plan.json"
        replace(plan, arguments=plan.arguments | {"output_dir": tmp}).write(plan_path)
        command = launcher.command(plan_path, ranks, use_deepspeed=use_deepspeed)
        environment = launcher.environment(ranks)
        if settings.report_to == "tensorboard":
            logs = output_dir.resolve().parent / "runs" / output_dir.name
            environment.setdefault("TENSORBOARD_LOGGING_DIR", str(logs))
        code = launch(command, environment)
    if code != 0:
        raise EegToolError(
            f"The training stopped with exit code {code}; no adapter was written.",
            "The reason stands above; where none does, memory may have run out: lower "
            "--per-device-train-batch-size.",
        )
    stamp = run_stamp(
        "finetune",
        settings,
        inputs={"data": Path(plan.data_path)},
        protocol=plan.protocol,
        results=read_json(output_dir / "training_log.json")["metrics"],
    )
    write_json(output_dir / "run.json", stamp)
    console.print(f"Adapter: [bold]{escape(str(output_dir))}[/]")


def make_plan(settings: FinetuneSettings, output_dir: Path) -> Plan:
    """Check files, names and ids, and gather what each rank needs."""
    workspace = Workspace(settings.workspace)
    data_path = settings.data_path or workspace.conversations
    image_folder = settings.image_folder or workspace.images("ft")
    features_file = settings.features_file or workspace.features("ft")
    check_name("fusion", settings.fusion, FUSIONS)
    check_name("conversation template", settings.version, TEMPLATES)
    check_name("--lr-scheduler-type", settings.lr_scheduler_type, [s.value for s in SchedulerType])
    check_name("--report-to", settings.report_to, _TRACKERS)
    if settings.report_to != "none" and find_spec(settings.report_to) is None:
        raise EegToolError(
            f"--report-to {settings.report_to} is not installed.", "pip install 'eegvlm[track]'"
        )
    deepspeed = launcher.deepspeed_settings(settings.deepspeed)
    base_folder = resolve_base(settings.model_name_or_path).resolve()
    known = settings.model_name_or_path in KNOWN_BASES
    processor = load_processor(base_folder, fusion=settings.fusion, version=settings.version)
    if output_dir.exists() and any(output_dir.iterdir()):
        if not (output_dir / "eegvlm.json").exists():
            raise EegToolError(
                f"--output-dir {output_dir} is not empty and is no adapter folder.",
                "Choose another folder; nothing in it is overwritten.",
            )
        raise EegToolError(
            f"--output-dir {output_dir} already holds an adapter.",
            "Choose another folder, or remove that one.",
        )
    rows = read_conversations(data_path)
    if not rows:
        raise EegToolError(f"{data_path} has no samples.", "Run `eegvlm prepare` again.")
    ids = [row.sample_id for row in rows]
    check_unique(data_path, ids)
    protocol = workspace.protocol()
    if FUSIONS[settings.fusion].needs_features:
        table = load_features(features_file, ids, other=data_path.name)
        warn_if_by_order(features_file, table)
        check_same_pictures(table.protocol, protocol, f"{features_file} and {workspace.root}")
    share = trained_share(rows, processor, settings.model_max_length)
    for row in rows:
        if not inside(image_folder, row.images[0]).is_file():
            raise EegToolError(
                f"The picture {image_folder / row.images[0]} of sample '{row.sample_id}' does not exist.",
                "Check --image-folder, or run `eegvlm prepare` again.",
            )
    return Plan(
        base=settings.model_name_or_path if known else str(base_folder),
        base_folder=str(base_folder),
        output_dir=str(output_dir.resolve()),
        data_path=str(data_path.resolve()),
        image_folder=str(image_folder.resolve()),
        features_file=str(features_file.resolve()),
        features=settings.features,
        fusion=settings.fusion,
        version=settings.version,
        model_max_length=settings.model_max_length,
        lora_r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        mm_projector_lr=settings.mm_projector_lr,
        gradient_checkpointing=settings.gradient_checkpointing,
        trained_share=share,
        protocol=protocol,
        arguments=_training_arguments(settings, deepspeed),
    )


def _training_arguments(settings: FinetuneSettings, deepspeed: str | None) -> dict[str, Any]:
    """Return TrainingArguments' keywords, less the folder the Trainer works in."""
    dtype = best_dtype()
    return {
        "num_train_epochs": settings.num_train_epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup_ratio,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "logging_steps": settings.logging_steps,
        "report_to": settings.report_to,
        "dataloader_num_workers": settings.dataloader_num_workers,
        "deepspeed": deepspeed,
        "seed": settings.seed,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
