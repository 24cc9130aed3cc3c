"""Everything that is cheap to check before a training, and the plan that is made of it."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from rich.markup import escape
from transformers import SchedulerType

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.forms import CHAT, Forms, sentences
from eegtool.core.records import Conversation, check_unique, read_conversations
from eegtool.core.registry import check_name
from eegtool.core.workspace import (
    Workspace,
    check_same_pictures,
    jsonable,
    read_json,
    sha256_of,
)
from eegtool.extract.features import (
    check_finite,
    load_features,
    read_sidecar,
    warn_if_by_order,
)
from eegtool.extract.stored import CARD, is_module
from eegtool.finetune import launcher
from eegtool.finetune.arguments import training_arguments
from eegtool.finetune.data import trained_share
from eegtool.finetune.hardware import Hardware
from eegtool.finetune.held_out import Sides, draw, everybody
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import PLAN_FILE, Plan, differences
from eegtool.finetune.saving import checkpoints
from eegtool.finetune.tracking import environment_of
from eegtool.finetune.validation import METRICS, check_scorable
from eegtool.model.adapters import adapter_sha256, read_contract
from eegtool.model.answer_form import form_of
from eegtool.model.checkpoints import KNOWN_BASES, Base, base_sha256, find_base, load_processor
from eegtool.model.contract import wrong_field
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.loading import choose_attention, quantization
from eegtool.model.processor import TEMPLATES, picture_of
from eegtool.pictures.source import open_source

_TRACKERS: Final = ("none", "tensorboard", "wandb")
_SAVE_STRATEGIES: Final = ("steps", "epoch", "no")
_EVAL_STRATEGIES: Final = ("no", "steps", "epoch")
_STOP_FILE: Final = ".stop"
LOCK_FILE: Final = ".lock"


def is_finished(output_dir: Path) -> bool:
    """Say whether the training in a folder has left an adapter."""
    return (output_dir / "eegvlm.json").exists()


def hardware_of(settings: FinetuneSettings, hosts: launcher.Hosts | None) -> Hardware:
    """Return what is trained on: this machine, or one that only the user knows."""
    return Hardware.elsewhere() if hosts or settings.gpu_memory else Hardware.here()


def make_plan(
    settings: FinetuneSettings,
    output_dir: Path,
    ranks: int = 1,
    hosts: launcher.Hosts | None = None,
) -> Plan:
    """Check files, names and ids, and gather what each rank needs.

    Parameters
    ----------
    settings : FinetuneSettings
        What was asked for.
    output_dir : Path
        Where the adapter goes.
    ranks : int
        Ranks of all machines together.
    hosts : Hosts or None
        The machines, where there are several; this one need not be like them.
    """
    workspace = Workspace(settings.workspace)
    data_path = settings.data_path or workspace.conversations
    image_folder = settings.image_folder or workspace.images("ft")
    features_file = settings.features_file or workspace.features("ft")
    _check_names(settings)
    deepspeed = launcher.deepspeed_settings(settings.deepspeed)
    arguments, stage, notes = _arguments(settings, output_dir.resolve(), deepspeed, ranks, hosts)
    _check_output(output_dir, resume=settings.resume)
    base = find_base(settings.model_name_or_path, settings.vision_tower)
    if settings.vision_tower and base.vision_tower is None:
        notes.append("--vision_tower: the base model brings its own")
    rows, taken = _samples(data_path)
    notes += taken
    version, side = base.template(settings.version), _side_of_pictures(rows, image_folder)
    processor = load_processor(base, fusion=settings.fusion, version=version, side=side)
    notes += _family_notes(settings, base, version)
    if arguments.get("use_liger_kernel") and version == CHAT:
        raise EegToolError(
            f"--use_liger_kernel: its kernels are not put into a '{base.name}' model.",
            "Leave it out.",
        )
    protocol, sequence = workspace.protocol(), workspace.sequence()
    if wrong := wrong_field({"protocol": protocol, "sequence": sequence}):
        raise EegToolError(f"{workspace.prepare_stamp}: {wrong}.", "Run `eegvlm prepare` again.")
    features_sha256 = features_weights = ""
    if FUSIONS[settings.fusion].needs_features:
        features_weights = _check_features(features_file, data_path, rows, workspace, protocol)
        features_sha256 = sha256_of(features_file)
    unseen = _unseen(workspace, features_file) if features_sha256 else frozenset()
    sides = _sides(settings, rows, workspace.epochs, unseen)
    if sequence and sides.subjects:  # its transitions are those of the whole fine-tune side
        sequence["stages"] = list(sides.stages)
    share = trained_share(sides.training, processor, settings.model_max_length)
    form = form_of(sides.training, processor.count_tokens)
    if sides.subjects:
        check_scorable(form, stage, ranks)
        notes += _validation_notes(settings, sides, unseen, features_file)
    if deepspeed:
        text = base.config.get_text_config()
        widest = max(text.hidden_size, text.intermediate_size)
        arguments["deepspeed"] = launcher.filled(read_json(deepspeed), settings.lora_r, widest)
    plan = Plan(
        base=_lasting_name(settings.model_name_or_path, base),
        base_folder=str(base.folder),
        output_dir=str(output_dir.resolve()),
        data_path=str(data_path.resolve()),
        image_folder=str(image_folder.resolve()),
        features_file=str(features_file.resolve()),
        features=settings.features,
        fusion=settings.fusion,
        version=version,
        model_max_length=settings.model_max_length,
        lora_r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        mm_projector_lr=settings.mm_projector_lr,
        gradient_checkpointing=settings.gradient_checkpointing,
        trained_share=share,
        protocol=protocol,
        arguments=arguments,
        answers=jsonable(asdict(form)),
        sequence=sequence,
        environment=environment_of(settings, output_dir.resolve(), ranks, hosts),
        stop_file=str(output_dir.resolve() / _STOP_FILE),
        vision_tower=str(base.vision_tower or ""),
        picture_side=processor.pixel_spec.size,
        base_sha256=base_sha256(base),
        data_sha256=sha256_of(data_path),
        features_sha256=features_sha256,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        loraplus_lr_ratio=settings.loraplus_lr_ratio,
        stage_share=settings.stage_share if form.place in ("start", "end") else 0.0,
        attention=settings.attention,
        bits=settings.bits,
        zero_stage=stage,
        group_by_length=settings.group_by_modality_length,
        eval_subjects=list(sides.subjects),
        eval_limit=settings.eval_limit if sides.subjects else 0,
        epochs_file=str(workspace.epochs.resolve()) if sides.subjects else "",
        epochs_sha256=sides.epochs_sha256,
        best_metric=settings.metric_for_best_model if _chooses(settings) else "",
        early_stopping_patience=settings.early_stopping_patience,
        resume=settings.resume,
    )
    plan = _continued(settings.continue_from, plan, features_weights)
    _check_same_training(output_dir, plan)
    for note in notes:
        console.print(f"[dim]  Note: {escape(note)}.[/]")
    return plan


def _arguments(
    settings: FinetuneSettings,
    output_dir: Path,
    deepspeed: Path | None,
    ranks: int,
    hosts: launcher.Hosts | None,
) -> tuple[dict[str, Any], int, list[str]]:
    """Return the arguments of the Trainer, which fit DeepSpeed and hardware, the stage of ZeRO, and notes."""
    hardware = hardware_of(settings, hosts)
    here = hosts is None and not settings.gpu_memory
    arguments, notes = training_arguments(settings, output_dir=str(output_dir), hardware=hardware)
    stage = launcher.check_deepspeed(deepspeed, arguments, ranks) if deepspeed else 0
    if deepspeed and here:
        launcher.check_compiler(read_json(deepspeed), gpu=hardware.gpu)
    _check_hardware(settings, arguments, stage, here=here)
    return arguments, stage, notes + _unused(settings)


def _samples(data_path: Path) -> tuple[list[Conversation], list[str]]:
    """Read the samples; return how those of other forms were taken, too."""
    taken = Forms()
    rows = read_conversations(data_path, taken)
    if not rows:
        raise EegToolError(f"{data_path} has no samples.", "Run `eegvlm prepare` again.")
    check_unique(data_path, [row.sample_id for row in rows])
    return rows, [f"{data_path.name}: {sentence}" for sentence in sentences(taken)]


def _lasting_name(name: str, base: Base) -> str:
    """Return a known name or a name on the hub as it is, a folder by its whole path."""
    is_folder = name not in KNOWN_BASES and Path(name).is_dir()
    return str(base.folder) if is_folder else name


def _chooses(settings: FinetuneSettings) -> bool:
    """Say whether the adapter is to be the best validated one."""
    return settings.load_best_model_at_end or settings.early_stopping_patience > 0


def _unseen(workspace: Workspace, features_file: Path) -> frozenset[str]:
    """Return the subjects that validated the vision module and were not trained on, if it is the features' module."""
    sidecar, folder = read_sidecar(features_file), workspace.vision_module
    if sidecar is None or not is_module(folder, sidecar.weights_sha256):
        return frozenset()
    return frozenset(read_json(folder / CARD).get("val_subjects", ()))


def _sides(
    settings: FinetuneSettings,
    rows: list[Conversation],
    epochs_file: Path,
    unseen: frozenset[str],
) -> Sides:
    """Hold subjects out, where there is validation; first those that the vision module has not seen."""
    if settings.eval_strategy == "no":
        return everybody(rows)
    for row in rows:
        picture_of(row.sample_id, row.images)
    share, limit = settings.eval_subjects_share, settings.eval_limit
    return draw(rows, epochs_file, share, limit, settings.seed, first=unseen)


def _validation_notes(
    settings: FinetuneSettings, sides: Sides, unseen: frozenset[str], features_file: Path
) -> list[str]:
    """Say why the κ of a validation may differ from what `evaluate` finds on new subjects."""
    notes = []
    if settings.eval_limit and len(sides.scored) < sides.n_held_out:
        notes.append(
            "--eval-limit: epochs are drawn evenly over the stages, so κ is not that of whole nights"
        )
    if settings.bits == 4:
        notes.append("--bits 4: validations ask the packed base, `evaluate` asks one of 16 bits")
    sidecar = read_sidecar(features_file) if FUSIONS[settings.fusion].needs_features else None
    seen = [subject for subject in sides.subjects if subject not in unseen]
    if seen and sidecar is not None and sidecar.fold is None:
        notes.append(
            f"--eval-strategy: the vision module was trained on this side, {len(seen)} of the held-out subjects "
            f"included ({', '.join(seen[:3])}), so κ may be higher than on new ones; `eegvlm extract --folds` "
            "makes features without them"
        )
    return notes


def _unused(settings: FinetuneSettings) -> list[str]:
    """Name the options of validation that were given without one."""
    if settings.eval_strategy != "no":
        return []
    asked = ("eval_steps", "eval_subjects_share", "eval_limit", "metric_for_best_model")
    usual = {f.name: f.default for f in fields(settings) if f.name in asked}
    given = [name for name in asked if getattr(settings, name) != usual[name]]
    return [f"--{name}: nothing is validated; see --eval-strategy" for name in given]


def _check_validation(settings: FinetuneSettings) -> None:
    """Check what is asked of the validation; without one, nothing may be asked of it."""
    check_name("--eval-strategy", settings.eval_strategy, _EVAL_STRATEGIES)
    check_name("--metric-for-best-model", settings.metric_for_best_model, METRICS)
    needing = ("load_best_model_at_end", "early_stopping_patience", "calibrate")
    given = [name for name in needing if getattr(settings, name)]
    if settings.eval_strategy == "no" and given:
        flag = f"--{given[0].replace('_', '-')}"
        raise EegToolError(f"{flag} needs validation.", "Add --eval-strategy steps, or epoch.")


def _check_names(settings: FinetuneSettings) -> None:
    _check_validation(settings)
    check_name("fusion", settings.fusion, FUSIONS)
    check_name("conversation template", settings.version, TEMPLATES)
    check_name("--lr-scheduler-type", settings.lr_scheduler_type, [s.value for s in SchedulerType])
    check_name("--save-strategy", settings.save_strategy, _SAVE_STRATEGIES)
    check_name("--report-to", settings.report_to, _TRACKERS)
    if not settings.learning_rate or not (settings.max_steps or settings.num_train_epochs):
        raise EegToolError(
            "With --learning-rate 0, or no passes at all, nothing is learnt.", "Give more than 0."
        )
    if settings.report_to != "none" and find_spec(settings.report_to) is None:
        raise EegToolError(
            f"--report-to {settings.report_to} is not installed.", "pip install 'eegvlm[track]'"
        )


def _check_hardware(
    settings: FinetuneSettings, arguments: dict[str, Any], stage: int, *, here: bool
) -> None:
    half = torch.bfloat16 if arguments["bf16"] else torch.float16
    dtype = half if arguments["bf16"] or arguments["fp16"] else torch.float32
    if here:  # what other machines have installed cannot be seen
        choose_attention(settings.attention, dtype)
    quantization(settings.bits, dtype)
    if settings.bits == 4 and stage == 3:
        raise EegToolError(
            "--bits 4 and ZeRO-3 exclude each other: packed weights cannot be sharded.",
            "Use --deepspeed zero2.",
        )


def _check_output(output_dir: Path, *, resume: bool) -> None:
    """Refuse to write into a folder that holds anything but a training to continue with."""
    inside_it = {path.name for path in output_dir.iterdir()} if output_dir.exists() else set()
    if not inside_it - {LOCK_FILE}:
        return
    if is_finished(output_dir):
        raise EegToolError(
            f"--output-dir {output_dir} already holds an adapter.",
            "Its training has ended: there is nothing to resume."
            if resume
            else "Choose another folder, or remove that one.",
        )
    if not (output_dir / PLAN_FILE).exists() and not checkpoints(output_dir):
        raise EegToolError(
            f"--output-dir {output_dir} is not empty and is not an adapter folder.",
            "Choose another folder; nothing in it is overwritten.",
        )
    if not resume:
        raise EegToolError(
            f"--output-dir {output_dir} holds a training that has not ended.",
            "Continue it with --resume, or choose another folder.",
        )


def _check_same_training(output_dir: Path, plan: Plan) -> None:
    """Refuse to continue with a training that was started with other settings or data.

    Raises
    ------
    EegToolError
        Naming what differs.
    """
    if not (output_dir / PLAN_FILE).exists():
        return
    differing = differences(read_json(output_dir / PLAN_FILE), asdict(plan))
    if differing:
        raise EegToolError(
            f"--resume: the training in {output_dir} was started with other settings; then and now: "
            f"{', '.join(differing)}.",
            "Resume with what it was started with, or train into another --output-dir.",
        )


def _check_features(
    features_file: Path,
    data_path: Path,
    rows: list[Conversation],
    workspace: Workspace,
    protocol: dict[str, Any],
) -> str:
    """Check the features of the samples; return of which weights they are."""
    ids = [row.sample_id for row in rows]
    table = load_features(features_file, ids, other=data_path.name)
    warn_if_by_order(features_file, table)
    check_same_pictures(table.protocol, protocol, f"{features_file} and {workspace.root}")
    check_finite(features_file, table)
    return table.weights_sha256


def _continued(folder: Path | None, plan: Plan, features_weights: str) -> Plan:
    """Return a plan that starts from an adapter, if that was trained as the plan trains."""
    if folder is None:
        return plan
    contract = read_contract(folder)
    if contract.merged:
        raise EegToolError(
            f"--continue-from {folder} holds no adapter: base and adapter are merged in it.",
            "Give the folder that `eegvlm finetune` wrote.",
        )
    lora = read_json(folder / "adapter_config.json")
    pairs = {
        "base model": (contract.base_sha256, plan.base_sha256),
        "--fusion": (contract.fusion, plan.fusion),
        "--version": (contract.version, plan.version),
        "side of the pictures": (contract.pixel_spec.size, plan.picture_side),
        "weights behind the features": (contract.features_weights_sha256, features_weights),
        "--lora-r": (lora.get("r"), plan.lora_r),
        "--lora-alpha": (lora.get("lora_alpha"), plan.lora_alpha),
        "--use-dora": (lora.get("use_dora"), plan.use_dora),
        "--use-rslora": (lora.get("use_rslora"), plan.use_rslora),
        "how answers read": (contract.answers.get("place"), plan.answers.get("place")),
    }
    differing = [f"{n} ({_brief(a)} and {_brief(b)})" for n, (a, b) in pairs.items() if a != b]
    if differing:
        raise EegToolError(
            f"--continue-from {folder} was trained otherwise than is asked for; then and now: "
            f"{', '.join(differing)}.",
            "Train with what it was trained with, or from the beginning.",
        )
    check_same_pictures(contract.protocol, plan.protocol, f"{folder} and {plan.image_folder}")
    found = adapter_sha256(folder)
    return replace(plan, continue_from=str(folder.resolve()), continue_from_sha256=found)


def _brief(value: Any) -> str:
    return str(value)[:12] or "none"


def _side_of_pictures(rows: list[Conversation], image_folder: Path) -> int:
    """Check that all pictures are there; return the longer side of one in pixels: all have one size."""
    source = open_source(image_folder)
    for row in rows:
        source.find(row.images[0], f"sample '{row.sample_id}'")
    return max(source.load(rows[0].images[0]).rgb().size)


def _family_notes(settings: FinetuneSettings, base: Base, version: str) -> list[str]:
    """Say how a base model of another family than the recipe's is treated."""
    if version == settings.version:
        return []
    notes = []
    if not base.is_tested:
        notes.append(f"a '{base.name}' model works by the common seam; it was not tested here")
    if settings.version != "v1":
        notes.append(f"--version: a '{base.name}' model is asked by its own chat template")
    return notes
