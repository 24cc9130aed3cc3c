"""finetune: check everything that is cheap to check, then start the training through the launcher."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

import torch
from rich.markup import escape
from transformers import SchedulerType

from eegtool.core.console import console
from eegtool.core.errors import EegToolError, brief
from eegtool.core.forms import CHAT, Forms, sentences
from eegtool.core.launching import Stopped, launch, take_lock
from eegtool.core.records import Conversation, check_unique, read_conversations
from eegtool.core.registry import check_name
from eegtool.core.workspace import (
    Workspace,
    check_same_pictures,
    jsonable,
    read_json,
    run_stamp,
    sha256_of,
    write_json,
)
from eegtool.extract.features import (
    check_finite,
    load_features,
    read_sidecar,
    warn_if_by_order,
)
from eegtool.extract.stored import CARD, is_module, store_module
from eegtool.finetune import estimate, held_out, launcher
from eegtool.finetune.arguments import training_arguments
from eegtool.finetune.calibrating import calibrate_adapter
from eegtool.finetune.data import encode, trained_share
from eegtool.finetune.hardware import Hardware
from eegtool.finetune.held_out import Sides, draw, everybody
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import PLAN_FILE, Plan, differences
from eegtool.finetune.saving import checkpoints, last_whole, step_of
from eegtool.finetune.summary import family_of
from eegtool.finetune.validation import METRICS, check_scorable
from eegtool.model.adapters import adapter_sha256, read_contract
from eegtool.model.answer_form import AnswerForm, form_of
from eegtool.model.checkpoints import KNOWN_BASES, Base, base_sha256, find_base, load_processor
from eegtool.model.contract import wrong_field
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.loading import choose_attention, quantization
from eegtool.model.processor import IGNORED, TEMPLATES, picture_of
from eegtool.pictures.source import open_source

_TRACKERS: Final = ("none", "tensorboard", "wandb")
_SAVE_STRATEGIES: Final = ("steps", "epoch", "no")
_EVAL_STRATEGIES: Final = ("no", "steps", "epoch")
_STOP_FILE: Final = ".stop"
_LOCK_FILE: Final = ".lock"


def run(settings: FinetuneSettings) -> None:
    """Fine-tune and leave an adapter folder behind.

    Raises
    ------
    EegToolError
        If anything is wrong with files, names or hardware, before a model is loaded; or if the
        training itself failed.
    Stopped
        If it was stopped by a signal, with a checkpoint where there was time for one.
    """
    if settings.gpu_memory and not settings.dry_run:
        raise EegToolError("--gpu-memory is for --dry-run.", "Leave it out, or add --dry-run.")
    output_dir = settings.output_dir or Workspace(settings.workspace).checkpoints / "eegvlm"
    ranks, hosts = _ranks(settings)
    plan = make_plan(settings, output_dir, ranks, hosts)
    size = _size(plan)
    free = estimate.check_disk(size, plan)
    steps = estimate.steps(plan, size.samples, ranks)
    with_deepspeed = (
        f"DeepSpeed {escape(settings.deepspeed)}" if plan.arguments["deepspeed"] else "no DeepSpeed"
    )
    console.print(
        f"Fine-tuning [bold]{escape(plan.base)}[/] (fusion {plan.fusion}, template {plan.version}, "
        f"features {plan.features}) with {with_deepspeed} on {ranks} "
        f"{'GPU' if _hardware(settings, hosts).gpu else 'CPU'} rank{'s' * (ranks > 1)}: "
        f"{size.samples} samples, {steps} steps"
    )
    form = AnswerForm.from_contract(plan.answers)
    console.print(f"  {form.sentence()}", markup=False)
    if not form.stages:
        console.print(
            "[yellow]  The answers have no form in common: `evaluate` will read stages out of what the "
            "model writes, and cannot score them (--mode score).[/]"
        )
    if plan.eval_subjects:
        _tell_validation(plan, size, ranks)
    if settings.dry_run:
        _tell(settings, plan, size, ranks, hosts, free)
        return
    _train(settings, plan, ranks, hosts)
    if FUSIONS[plan.fusion].needs_features:
        _store_module(Workspace(settings.workspace).vision_module, output_dir)
    if settings.calibrate:
        calibrate_adapter(output_dir, plan)
    log = read_json(output_dir / "training_log.json")
    stamp = run_stamp(
        "finetune",
        settings,
        inputs={"data": plan.data_sha256},
        protocol=plan.protocol,
        results=log["metrics"] | {name: log[name] for name in ("best",) if name in log},
    )
    write_json(output_dir / "run.json", stamp)
    console.print(f"Adapter: [bold]{escape(str(output_dir))}[/]")


def _tell_validation(plan: Plan, size: estimate.Size, ranks: int) -> None:
    """Say who is held out, what is scored, and what that costs."""
    shown, n = plan.eval_subjects[:5], len(plan.eval_subjects)
    times = estimate.validations(plan, size.samples, ranks)
    cost = estimate.validation_share(plan, size.samples, ranks, size.scored)
    console.print(
        f"  Validation: {size.scored:,} of {size.held_out:,} epochs of {n} held-out "
        f"subject{'s' * (n > 1)} ({', '.join(shown)}{', …' * (n > len(shown))}), "
        f"{times:,} time{'s' * (times > 1)}: about {cost:.0%} of the training's time on top (estimate"
        f"{', without the reasons it writes' * (plan.answers['place'] == 'end')})",
        markup=False,
    )


def _ranks(settings: FinetuneSettings) -> tuple[int, launcher.Hosts | None]:
    """Return how many ranks there will be in all, and their machines where there are several."""
    use_deepspeed = settings.deepspeed != launcher.NO_DEEPSPEED
    if settings.gpu_memory and settings.hostfile is None:  # of another machine
        return settings.num_gpus or 1, None
    if settings.hostfile is None:
        return launcher.count_ranks(settings.num_gpus, use_deepspeed=use_deepspeed), None
    if not use_deepspeed:
        raise EegToolError("--hostfile needs DeepSpeed.", "Leave out --deepspeed none.")
    hosts = launcher.read_hosts(settings.hostfile, settings.num_gpus)
    if len(hosts.names) > 1:
        return hosts.ranks, hosts
    launcher.check_is_here(hosts)
    return launcher.count_ranks(hosts.ranks_each, use_deepspeed=True), None


def _train(
    settings: FinetuneSettings, plan: Plan, ranks: int, hosts: launcher.Hosts | None
) -> None:
    """Start all ranks and wait for them; leave nothing behind that is of no use."""
    output_dir, stop_file = Path(plan.output_dir), Path(plan.stop_file)
    use_deepspeed = plan.arguments["deepspeed"] is not None
    if use_deepspeed and not _hardware(settings, hosts).gpu:
        console.print("[dim]  On first use DeepSpeed builds its CPU extension: about a minute.[/]")
    port = launcher.free_port()
    plan_path = output_dir / PLAN_FILE
    command = launcher.command(
        plan_path, ranks, use_deepspeed=use_deepspeed, port=port, hosts=hosts
    )
    environment = launcher.environment(plan.environment, gpu=torch.cuda.is_available())
    made = [path for path in (output_dir, *output_dir.parents) if not path.exists()]
    lock = _lock(output_dir)
    stop_file.unlink(missing_ok=True)  # of a run that was killed while it stopped
    plan.write(plan_path)
    if settings.report_to == "wandb":  # which writes elsewhere where there is no folder
        Path(plan.environment["WANDB_DIR"]).mkdir(parents=True, exist_ok=True)
    try:
        code = launch(
            command,
            environment,
            stop_file=stop_file,
            patience=settings.stop_patience,
            kept_open=(lock.fileno(),),
        )
    except Stopped:
        if not _finished(output_dir):  # else it came when all was done
            _tell_stopped(output_dir)
            raise
        code = 0
    finally:
        launcher.remove_shared_memory(port)
        stop_file.unlink(missing_ok=True)
        Path(lock.name).unlink(missing_ok=True)
        lock.close()
        if not checkpoints(output_dir) and not _finished(output_dir):
            plan_path.unlink(missing_ok=True)
            with suppress(OSError):  # something else is in it
                for path in made:
                    path.rmdir()
    if code != 0:
        last = last_whole(output_dir)
        reason = (
            "The reason stands above."
            if code == 1
            else "Where no reason stands above, memory may have run out: lower "
            "--per-device-train-batch-size."
        )
        raise EegToolError(
            f"The training stopped with exit code {code}; no adapter was written.",
            reason + (f" --resume continues after step {step_of(last)}." if last else ""),
        )
    if not _finished(output_dir):  # the ranks were stopped, and not through this process (Slurm)
        _tell_stopped(output_dir)
        raise Stopped(signal.SIGTERM)


def _store_module(folder: Path, output_dir: Path) -> None:
    """Keep the vision module beside the adapter; the training was not in vain where that cannot be."""
    weights = read_json(output_dir / "eegvlm.json").get("features_weights_sha256", "")
    why = f"{folder} is not the one that made the features"
    try:
        if store_module(folder, output_dir, weights):
            return
    except OSError as error:
        why = brief(error)
    console.print(
        f"[yellow]The vision module is not kept beside the adapter: {escape(why)}. "
        "`eegvlm ask` will need it, or features from elsewhere; `eegvlm stage` cannot do without.[/]"
    )


def _lock(output_dir: Path) -> IO[str]:
    """Refuse a second training in a folder; the ranks of a parent that was killed may still be at work."""
    return take_lock(
        output_dir / _LOCK_FILE,
        f"A training is running in {output_dir}.",
        "Wait for it, or end it: where its parent was killed, its ranks may still be at work.",
    )


def _finished(output_dir: Path) -> bool:
    return (output_dir / "eegvlm.json").exists()


def _tell_stopped(output_dir: Path) -> None:
    last = last_whole(output_dir)
    console.print(
        f"Stopped after step {step_of(last)}; continue with --resume."
        if last
        else "Stopped; there is no checkpoint to continue from."
    )


def _environment(
    settings: FinetuneSettings, out: Path, ranks: int, hosts: launcher.Hosts | None
) -> dict[str, str]:
    """Return the variables of the ranks; where logs go, unless the user's own say it."""
    ranks_each = hosts.ranks_each if hosts else ranks
    environment = launcher.rank_environment(ranks_each, elsewhere=hosts is not None)
    logs = str(out.parent / "runs" / out.name)
    if settings.report_to == "tensorboard":
        environment.setdefault("TENSORBOARD_LOGGING_DIR", logs)
    if settings.report_to == "wandb":
        environment.setdefault("WANDB_DIR", logs)
        environment.setdefault("WANDB_PROJECT", "eegvlm")
        environment.setdefault("WANDB_RUN_ID", _wandb_run_id(out, resume=settings.resume))
        environment.setdefault("WANDB_RESUME", "allow")
        if hosts:  # each machine has a run of its own
            environment.setdefault("WANDB_RUN_GROUP", out.name)
        # A key in the environment is not in the plan, which others may read: other machines lack it.
        seen = environment if hosts else os.environ
        if "WANDB_MODE" not in environment and not _has_wandb_key(seen):
            environment["WANDB_MODE"] = "offline"
            console.print(
                "  No key of Weights & Biases here: logged offline, for `wandb sync` "
                "(`wandb login`, or WANDB_MODE=online, changes that).",
            )
    return environment


def _wandb_run_id(out: Path, *, resume: bool) -> str:
    """Return the id of the run in Weights & Biases; a training that is resumed has it in its first plan."""
    known = None
    if resume and last_whole(out) and (out / PLAN_FILE).exists():
        known = read_json(out / PLAN_FILE)["environment"].get("WANDB_RUN_ID")
    return known or secrets.token_hex(4)


def _has_wandb_key(environment: Mapping[str, str]) -> bool:
    """Look for a key where `wandb login` puts it; without one wandb would end the training."""
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc(environment.get("NETRC")).hosts
    except (OSError, NetrcParseError):
        known = {}
    return bool(environment.get("WANDB_API_KEY")) or host in known


def _tell(
    settings: FinetuneSettings,
    plan: Plan,
    size: estimate.Size,
    ranks: int,
    hosts: launcher.Hosts | None,
    free: int,
) -> None:
    """Say what a training would be; nothing is trained, and nothing written but the plan."""
    plan_path = Path(tempfile.gettempdir()) / f"eegvlm-plan-{plan.fingerprint[:12]}.json"
    plan.write(plan_path)
    use_deepspeed = plan.arguments["deepspeed"] is not None
    port = launcher.free_port()
    command = launcher.command(
        plan_path, ranks, use_deepspeed=use_deepspeed, port=port, hosts=hosts
    )
    environment = launcher.environment(plan.environment, gpu=_hardware(settings, hosts).gpu)
    changed = [f"{k}={v}" for k, v in environment.items() if os.environ.get(k) != v]
    for part, trained, total in size.parts:
        console.print(f"  {part:<22}{trained:>14,} of {total:>15,} parameters trained")
    console.print(
        f"  Family {family_of(plan.base_model)}: {size.visual_tokens:,} image tokens per epoch, of pictures "
        f"of {plan.picture_side} px."
    )
    console.print(f"  Longest sample: {size.tokens} tokens; {plan.trained_share:.1%} are trained.")
    asked = settings.gpu_memory * 2**30
    needs = estimate.memory(size, plan, ranks, hosts.ranks_each if hosts else ranks)
    console.print(f"  Estimated memory, {ranks} rank{'s' * (ranks > 1)} (not measured):")
    console.print(
        f"    {'':<15}{'per GPU':>10}{'host':>12}"
        + (f"  on a GPU of {settings.gpu_memory:g} GiB" if asked else "")
    )
    for name, need in needs.items():
        console.print(
            f"    {name:<15}{estimate.gib(need.gpu):>10}"
            f"{estimate.gib(need.host) if need.host else '-':>12}"
            + (f"  {estimate.verdict(need, asked)}" if asked else "")
        )
    if asked and all(need.gpu > asked for need in needs.values()):
        would = estimate.remedies(size, plan, ranks, asked)
        console.print(
            f"  Would fit: {'; or '.join(would)}."
            if would
            else "  Not even a batch of 1 would fit, with checkpointing and --bits 4."
        )
    console.print(
        f"  A checkpoint takes about {estimate.gib(estimate.checkpoint_bytes(size, plan))}; "
        f"{estimate.gib(free)} are free."
    )
    console.print("  Would be run (the plan it names is written, nothing else is):")
    typed = shlex.join(["env", *changed, *command])
    console.print(typed, markup=False, soft_wrap=True)


def _hardware(settings: FinetuneSettings, hosts: launcher.Hosts | None) -> Hardware:
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
    hardware = _hardware(settings, hosts)
    here = hosts is None and not settings.gpu_memory
    arguments, notes = training_arguments(
        settings, output_dir=str(output_dir.resolve()), hardware=hardware
    )
    deepspeed = launcher.deepspeed_settings(settings.deepspeed)
    stage = launcher.check_deepspeed(deepspeed, arguments, ranks) if deepspeed else 0
    if deepspeed and here:
        launcher.check_compiler(read_json(deepspeed), gpu=hardware.gpu)
    notes += _unused(settings)
    _check_hardware(settings, arguments, stage, here=here)
    _check_output(output_dir, resume=settings.resume)
    base = find_base(settings.model_name_or_path, settings.vision_tower)
    if settings.vision_tower and base.vision_tower is None:
        notes.append("--vision_tower: the base model brings its own")
    taken = Forms()
    rows = read_conversations(data_path, taken)
    notes += [f"{data_path.name}: {sentence}" for sentence in sentences(taken)]
    if not rows:
        raise EegToolError(f"{data_path} has no samples.", "Run `eegvlm prepare` again.")
    check_unique(data_path, [row.sample_id for row in rows])
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
        environment=_environment(settings, output_dir.resolve(), ranks, hosts),
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
    if not inside_it - {_LOCK_FILE}:
        return
    if _finished(output_dir):
        raise EegToolError(
            f"--output-dir {output_dir} already holds an adapter.",
            "Its training has ended: there is nothing to resume."
            if resume
            else "Choose another folder, or remove that one.",
        )
    if not (output_dir / PLAN_FILE).exists() and not checkpoints(output_dir):
        raise EegToolError(
            f"--output-dir {output_dir} is not empty and is no adapter folder.",
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


def _size(plan: Plan) -> estimate.Size:
    """Count samples, parameters and the tokens of the longest sample (by its words)."""
    sides = held_out.read(plan)
    base = plan.base_model
    processor = load_processor(
        base, fusion=plan.fusion, version=plan.version, side=plan.picture_side
    )
    longest = max(sides.training, key=lambda row: len(row.question) + len(row.answer))
    encoded = encode(longest, processor, plan.model_max_length)
    empty = base.empty(plan.fusion)
    tensors = tuple(parameter.numel() for parameter in empty.parameters())
    return estimate.Size(
        parts=estimate.count_parameters(empty, r=plan.lora_r, use_dora=plan.use_dora),
        samples=len(sides.training),
        scored=len(sides.scored),
        held_out=sides.n_held_out,
        tokens=len(encoded.input_ids),
        labels=sum(label != IGNORED for label in encoded.labels),
        text=base.config.get_text_config(),
        projected=base.projected_tokens,
        visual_tokens=processor.n_image_tokens,
        tensors=tensors,
    )
