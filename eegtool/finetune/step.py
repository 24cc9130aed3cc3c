"""finetune: check everything that is cheap to check, then start the training through the launcher."""

from __future__ import annotations

import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.records import check_unique, read_conversations
from eegtool.core.registry import check_name
from eegtool.core.settings import FinetuneSettings
from eegtool.core.workspace import Workspace, inside, read_json, run_stamp, write_json
from eegtool.extract.features import load_features
from eegtool.finetune import launcher
from eegtool.finetune.plan import Plan
from eegtool.model.checkpoints import resolve_base
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.processor import TEMPLATES


def run(settings: FinetuneSettings) -> None:
    """Fine-tune and leave an adapter folder behind.

    Raises
    ------
    EegToolError
        If anything is wrong with files, names or hardware, before a model is loaded; or if the
        training itself failed.
    """
    output_dir = settings.output_dir or Workspace(settings.workspace).checkpoints / "eegvlm"
    plan = make_plan(settings, output_dir)
    ranks = launcher.count_ranks(settings.num_gpus)
    console.print(
        f"Fine-tuning [bold]{plan.base}[/] (fusion {plan.fusion}, template {plan.version}, "
        f"features {plan.features}) with "
        + (f"DeepSpeed {settings.deepspeed}" if plan.arguments["deepspeed"] else "no DeepSpeed")
        + f" on {ranks} {'GPU' if torch.cuda.is_available() else 'CPU'} rank{'s' * (ranks > 1)}"
    )
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        plan_path = Path(tmp) / "plan.json"
        plan.write(plan_path)
        command = launcher.command(
            plan_path, ranks, use_deepspeed=bool(plan.arguments["deepspeed"])
        )
        code = subprocess.run(command, env=launcher.environment(ranks), check=False).returncode
    if code != 0:
        raise EegToolError(
            f"The training stopped with exit code {code}; no adapter was written.",
            "The reason stands above.",
        )
    stamp = run_stamp(
        "finetune",
        settings,
        inputs={"data": Path(plan.data_path)},
        protocol=plan.protocol,
        results=read_json(output_dir / "training_log.json")["metrics"],
    )
    write_json(output_dir / "run.json", stamp)
    console.print(f"Adapter: [bold]{output_dir}[/]")


def make_plan(settings: FinetuneSettings, output_dir: Path) -> Plan:
    """Check files, names and ids, and gather what each rank needs."""
    workspace = Workspace(settings.workspace)
    data_path = settings.data_path or workspace.conversations
    image_folder = settings.image_folder or workspace.images("ft")
    features_file = settings.features_file or workspace.features("ft")
    check_name("fusion", settings.fusion, FUSIONS)
    check_name("conversation template", settings.version, TEMPLATES)
    deepspeed = launcher.deepspeed_settings(settings.deepspeed)
    base_folder = resolve_base(settings.model_name_or_path)
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
    if FUSIONS[settings.fusion].needs_features:
        load_features(features_file, ids)
    for row in rows:
        if not inside(image_folder, row.images[0]).is_file():
            raise EegToolError(
                f"The picture {image_folder / row.images[0]} of sample '{row.sample_id}' does not exist.",
                "Check --image-folder, or run `eegvlm prepare` again.",
            )
    stamp = workspace.prepare_stamp
    return Plan(
        base=settings.model_name_or_path,
        base_folder=str(base_folder.resolve()),
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
        protocol=read_json(stamp)["protocol"] if stamp.exists() else {},
        arguments=_training_arguments(settings, output_dir, deepspeed),
    )


def _training_arguments(
    settings: FinetuneSettings, output_dir: Path, deepspeed: str | None
) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    bf16 = cuda and torch.cuda.is_bf16_supported()
    if settings.report_to != "none" and find_spec(settings.report_to) is None:
        raise EegToolError(
            f"--report-to {settings.report_to} is not installed.", "pip install 'eegvlm[track]'"
        )
    return {
        "output_dir": str(output_dir.resolve().parent / f".{output_dir.name}.trainer"),
        "num_train_epochs": settings.num_train_epochs,
        "max_steps": settings.max_steps,
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
        "bf16": bf16,
        "fp16": cuda and not bf16,
        "use_cpu": not cuda,
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
