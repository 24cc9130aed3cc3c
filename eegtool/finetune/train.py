"""What each rank of the training runs, once its environment is set (`eegtool.finetune.rank`).

It reads the plan that the parent (`eegtool.finetune.planning`) checked and wrote.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed
from peft import PeftModel
from transformers import TrainingArguments

from eegtool.core.console import console
from eegtool.core.errors import EegToolError, brief
from eegtool.core.records import Question
from eegtool.core.workspace import write_json
from eegtool.extract.features import FeatureTable, load_features
from eegtool.finetune import held_out, launcher, saving
from eegtool.finetune.data import FinetuneDataset
from eegtool.finetune.plan import Plan
from eegtool.finetune.trainer import EegTrainer, peak_memory
from eegtool.finetune.validation import Validator, best_of
from eegtool.inference.loaded import LoadedModel
from eegtool.inference.writing import Reply
from eegtool.model.adapters import (
    Contract,
    add_lora,
    inner,
    start_from,
    trained_table,
    write_adapter,
)
from eegtool.model.answer_form import AnswerForm
from eegtool.model.checkpoints import AnyProcessor, Network, load_base
from eegtool.model.eegvlm import FUSIONS

_SECONDS_OF_THE_FIRST: Final = 3.0
_THREADS: Final = 4
"""Decode pictures beside a GPU: a batch of 16 in a fortieth of a second."""


def run(plan: Plan) -> None:
    """Train one rank; the first rank writes the adapter."""
    args = arguments(plan)  # first: it tells transformers of ZeRO-3
    if args.deepspeed:
        launcher.check_compiler(args.deepspeed, gpu=torch.cuda.is_available())
        import deepspeed

        with redirect_stdout(StringIO()):  # it prints the name of its extension
            deepspeed.init_distributed()
    checkpoint = saving.find_resume(plan, args.world_size)
    model, processor = build_model(plan, args)
    sides = held_out.read(plan)
    table = None
    if FUSIONS[plan.fusion].needs_features:
        table = load_features(
            Path(plan.features_file), sides.sample_ids, source=plan.features, seed=args.seed
        )
    dataset = FinetuneDataset(
        sides.training,
        Path(plan.image_folder),
        table,
        processor,
        plan.model_max_length,
        count_threads(plan),
        stage_share=plan.stage_share,
    )
    contract = _contract(plan, processor, table, len(sides.scored))
    validator = _validator(plan, model, args, dataset, sides.scored) if sides.scored else None
    trainer = EegTrainer(plan, model, args, dataset, contract, validator)
    first = trainer.is_world_process_zero()
    if first:
        saving.remove_broken(Path(plan.output_dir))
        _announce(model, plan, checkpoint)
    inner(model).drop_unread_layers()
    log: dict[str, Any] = {"resumed_after": saving.step_of(checkpoint) if checkpoint else 0}
    with _watched(args):
        result = trainer.resume(checkpoint)
    if trainer.stopped:
        return
    state = saving.gathered(model, keep=first)
    # Metrics and memory are those since it was last started.
    trained = trainer.state.global_step > log["resumed_after"]  # else only the adapter was missing
    log |= {"metrics": result.metrics if trained else {}, "log": trainer.state.log_history}
    log |= {"peak_memory": peak_memory()}
    if first:
        if best := best_of(trainer.state.log_history, plan.best_metric):
            state = saving.read_trained(saving.whole_at(Path(plan.output_dir), best.step), model)
            log["best"] = {"step": best.step, **best.figures}
            contract = replace(contract, validation=contract.validation | log["best"])
            console.print(
                f"  The adapter is that of step {best.step}, with the best {plan.best_metric} "
                f"({best.value:.3f})."
            )
        _write(Path(plan.output_dir), model, state, contract, log)


@contextmanager
def _watched(args: TrainingArguments) -> Iterator[None]:
    """Let Weights & Biases watch every further machine: transformers logs on the first rank only."""
    if args.process_index == 0 or args.local_process_index > 0 or "wandb" not in args.report_to:
        yield
        return
    import wandb

    run_id = f"{os.environ['WANDB_RUN_ID']}-rank{args.process_index}"
    with wandb.init(id=run_id, job_type="machine", settings=wandb.Settings(silent=True)):
        yield


def arguments(plan: Plan) -> TrainingArguments:
    """Return the plan's arguments with what only a rank can see of its machine."""
    gpu = torch.cuda.is_available()
    chosen = plan.arguments | {"use_cpu": not gpu, "use_liger_kernel": False}  # see `build_model`
    chosen["dataloader_num_workers"] = 0  # see `FinetuneDataset`
    if not gpu:
        chosen.pop("tf32", None)
    return TrainingArguments(**chosen)


def count_threads(plan: Plan) -> int:
    """Return how many threads decode pictures: as asked, else up to `_THREADS` beside a GPU."""
    asked = plan.arguments.get("dataloader_num_workers")
    if asked is not None:
        return max(1, int(asked))
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_SIZE", "1"))
    return min(_THREADS, max(1, cores - 1)) if torch.cuda.is_available() else 1


def build_model(plan: Plan, args: TrainingArguments) -> tuple[PeftModel, AnyProcessor]:
    """Load the base model in the precision of the plan, and put LoRA on it.

    The base has that precision, and so has all that is trained under DeepSpeed, which keeps a copy of
    it in 32 bits. Without DeepSpeed nobody does, and weights of 16 bits cannot take small steps: there
    all that is trained has 32 bits, and autocast computes in 16.
    """
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    model, processor = load_base(
        plan.base_model,
        fusion=plan.fusion,
        version=plan.version,
        side=plan.picture_side,
        dtype=dtype,
        attention=plan.attention,
        bits=plan.bits,
        device=args.device,
    )
    model.config.get_text_config().use_cache = False  # the Trainer sets the outer one only
    if plan.arguments.get("use_liger_kernel"):
        _use_liger(model)
    torch.manual_seed(args.seed)  # LoRA starts the same on every rank, however the base was loaded
    peft_model = add_lora(
        model,
        r=plan.lora_r,
        alpha=plan.lora_alpha,
        dropout=plan.lora_dropout,
        use_dora=plan.use_dora,
        use_rslora=plan.use_rslora,
        dtype=dtype if args.deepspeed else torch.float32,
    )
    if plan.continue_from:
        start_from(Path(plan.continue_from), peft_model)
    if plan.gradient_checkpointing:
        # The name of this changes between releases of transformers.
        renamed = getattr(model, "activation_checkpointing_enable", None)
        (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})
    return peft_model, processor


def _use_liger(model: Network) -> None:
    """Take Liger's RMSNorm, RoPE and SwiGLU; transformers would let it replace our forward, too."""
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(
        rope=True,
        rms_norm=True,
        swiglu=True,
        cross_entropy=False,
        fused_linear_cross_entropy=False,
        model=model.get_decoder(),
    )


def _validator(
    plan: Plan,
    model: PeftModel,
    args: TrainingArguments,
    dataset: FinetuneDataset,
    questions: list[Question],
) -> Validator:
    """Return what scores the held-out epochs with the model that is trained."""

    def around(ask: Callable[[], list[Reply]]) -> list[Reply]:
        return list(
            model(compute=ask)
        )  # with autocast and ZeRO-3's hooks, as a step of the training

    processor = dataset.processor
    loaded = LoadedModel(
        inner(model), processor, AnswerForm.from_contract(plan.answers), around=around
    )
    return Validator(
        model,
        loaded,
        questions,
        dataset.pixels,
        None if dataset.features is None else dataset.features.__getitem__,
        rank=args.process_index,
        ranks=args.world_size,
        sharded_batch=args.per_device_train_batch_size if plan.zero_stage == 3 else 0,
    )


def _contract(
    plan: Plan, processor: AnyProcessor, table: FeatureTable | None, n_scored: int
) -> Contract:
    return Contract(
        base=plan.base,
        base_sha256=plan.base_sha256,
        family=plan.base_model.name,
        fusion=plan.fusion,
        version=plan.version,
        pixel_spec=processor.pixel_spec,
        features_weights_sha256=table.weights_sha256 if table else "",
        features=plan.features,
        context=table.context if table else 0,
        protocol=plan.protocol,
        vision_tower=plan.vision_tower,
        bits=plan.bits,
        answers=plan.answers,
        sequence=plan.sequence,
        validation={"subjects": plan.eval_subjects, "epochs": n_scored} if n_scored else {},
    )


def _announce(model: PeftModel, plan: Plan, checkpoint: Path | None) -> None:
    for part, trained, total in trained_table(model):
        console.print(f"  {part:<22}{trained:>14,} of {total:>15,} parameters trained")
    console.print(f"  {plan.trained_share:.1%} of the tokens carry the answer.")
    if checkpoint:
        console.print(f"  Continuing after step {saving.step_of(checkpoint)}.")
    elif plan.resume:
        console.print("  There is no whole checkpoint to continue from: starting at the beginning.")


def _write(
    out: Path,
    model: PeftModel,
    state: dict[str, torch.Tensor],
    contract: Contract,
    log: dict[str, Any],
) -> None:
    """Make the output folder an adapter folder; ``eegvlm.json``, the sign that it is one, comes last."""
    try:
        write_json(out / "training_log.json", log)
        write_adapter(out, model, state, contract)
    except (EegToolError, OSError) as error:
        last = saving.last_whole(out)
        kept = f"then --resume writes it from {last}." if last else "There is no checkpoint."
        raise EegToolError(
            f"The adapter could not be written to {out}: {brief(error)}.",
            f"Make room on the disk; {kept}",
        ) from error


def main() -> None:
    """Parse the launcher's command line and train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int, default=-1)
    parser.add_argument("plan", type=Path)
    if not torch.cuda.is_available():  # else it warns that there is a CUDA without a GPU
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # DeepSpeed calls torch by names that torch 2.14 deprecates: ten warnings per rank.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    try:
        run(Plan.read(parser.parse_args().plan))
    except EegToolError as error:
        if int(os.environ.get("RANK", "0")) > 0:
            # Most errors meet all ranks. The first one tells it and ends; then the launcher ends
            # this one. What only this rank has met, it tells after a while.
            time.sleep(_SECONDS_OF_THE_FIRST)
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), markup=False)
        sys.exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
