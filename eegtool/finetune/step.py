"""finetune: check everything that is cheap to check, then start the training through the launcher."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError, brief
from eegtool.core.launching import Stopped, launch, take_lock
from eegtool.core.workspace import (
    Workspace,
    read_json,
    run_stamp,
    write_json,
)
from eegtool.extract.stored import store_module
from eegtool.finetune import estimate, held_out, launcher
from eegtool.finetune.calibrating import calibrate_adapter
from eegtool.finetune.data import encode
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import PLAN_FILE, Plan
from eegtool.finetune.planning import LOCK_FILE, hardware_of, is_finished, make_plan
from eegtool.finetune.saving import checkpoints, last_whole, step_of
from eegtool.finetune.summary import family_of
from eegtool.model.answer_form import AnswerForm
from eegtool.model.checkpoints import load_processor
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.processor import IGNORED


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
        f"{'GPU' if hardware_of(settings, hosts).gpu else 'CPU'} rank{'s' * (ranks > 1)}: "
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
    if use_deepspeed and not hardware_of(settings, hosts).gpu:
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
        if not is_finished(output_dir):  # else it came when all was done
            _tell_stopped(output_dir)
            raise
        code = 0
    finally:
        launcher.remove_shared_memory(port)
        stop_file.unlink(missing_ok=True)
        Path(lock.name).unlink(missing_ok=True)
        lock.close()
        if not checkpoints(output_dir) and not is_finished(output_dir):
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
    if not is_finished(output_dir):  # the ranks were stopped, and not through this process (Slurm)
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
        output_dir / LOCK_FILE,
        f"A training is running in {output_dir}.",
        "Wait for it, or end it: where its parent was killed, its ranks may still be at work.",
    )


def _tell_stopped(output_dir: Path) -> None:
    last = last_whole(output_dir)
    console.print(
        f"Stopped after step {step_of(last)}; continue with --resume."
        if last
        else "Stopped; there is no checkpoint to continue from."
    )


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
    environment = launcher.environment(plan.environment, gpu=hardware_of(settings, hosts).gpu)
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
