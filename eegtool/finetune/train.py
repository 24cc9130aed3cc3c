"""What each rank of the training runs; started by the launcher, never by hand.

``python -m eegtool.finetune.train [--local_rank=N] PLAN.json``, where the plan is what the parent
(`eegtool.finetune.step`) checked and wrote.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import nullcontext, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from rich.progress import TaskID
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.records import read_conversations
from eegtool.extract.features import load_features
from eegtool.finetune.data import FinetuneDataset, collate
from eegtool.finetune.plan import Plan
from eegtool.model.adapters import Contract, add_lora, save_adapter
from eegtool.model.checkpoints import base_sha256, load_base
from eegtool.model.eegvlm import FUSIONS


class EegTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, with a learning rate of its own for the projector."""

    projector_lr: float = 0.0
    optimizer: Any

    def create_optimizer(self, model: Any = None) -> Any:
        """Build AdamW with two groups: LoRA at ``learning_rate``, the projector at ``projector_lr``."""
        if self.optimizer is None:
            trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
            projector = [p for n, p in trained if "multi_modal_projector" in n]
            lora = [p for n, p in trained if "multi_modal_projector" not in n]
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decay = {"weight_decay": self.args.weight_decay}
            groups = [
                {"params": lora, "lr": self.args.learning_rate, **decay},
                {"params": projector, "lr": self.projector_lr, **decay},
            ]
            self.optimizer = cls(groups, **options)
        return self.optimizer


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """Progress of the first rank, with the running loss."""

    def __init__(self) -> None:
        self.bar = progress("steps")
        self.task: TaskID | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar on the first rank."""
        if state.is_world_process_zero:
            self.bar.start()
            self.task = self.bar.add_task("Fine-tuning", total=state.max_steps, note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance."""
        if self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss."""
        if self.task is not None and logs and "loss" in logs:
            self.bar.update(self.task, note=f"loss {float(logs['loss']):.3f}")

    def close(self) -> None:
        """Leave the bar on the screen and give the cursor back, however the training ended."""
        if self.task is not None:
            self.bar.stop()


def run(plan: Plan) -> None:
    """Train one rank; the first rank writes the adapter."""
    args = TrainingArguments(**plan.arguments)  # first: it tells transformers of ZeRO-3
    if args.deepspeed:
        import deepspeed

        with redirect_stdout(StringIO()):  # it prints the name of its extension
            deepspeed.init_distributed()
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    base_folder = Path(plan.base_folder)
    model, processor = load_base(base_folder, fusion=plan.fusion, version=plan.version, dtype=dtype)
    model.config.text_config.use_cache = False  # the Trainer sets the outer one only
    if not args.deepspeed:
        # Weights of 16 bits cannot take small steps. DeepSpeed keeps a copy of 32 bits, and peft
        # keeps LoRA in 32 bits.
        model.model.multi_modal_projector.float()
    torch.manual_seed(args.seed)  # LoRA starts the same on every rank, however the base was loaded
    peft_model = add_lora(model, r=plan.lora_r, alpha=plan.lora_alpha, dropout=plan.lora_dropout)
    if plan.gradient_checkpointing:
        # The name of this changes between releases of transformers.
        renamed = getattr(model, "activation_checkpointing_enable", None)
        (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})

    rows = read_conversations(Path(plan.data_path))
    table = None
    if FUSIONS[plan.fusion].needs_features:
        ids = [row.sample_id for row in rows]
        table = load_features(Path(plan.features_file), ids, source=plan.features, seed=args.seed)
    dataset = FinetuneDataset(
        rows, Path(plan.image_folder), table, processor, plan.model_max_length
    )
    bar = ProgressBar()
    trainer = EegTrainer(
        model=peft_model,
        args=args,
        train_dataset=dataset,
        data_collator=partial(collate, pad_id=processor.tokenizer.pad_token_id),
        callbacks=[bar],
    )
    trainer.projector_lr = plan.mm_projector_lr
    trainer.remove_callback(PrinterCallback)  # the bar shows the loss
    if trainer.is_world_process_zero():
        _announce(peft_model, plan)
    try:
        result = trainer.train()
    finally:
        bar.close()

    state = _gathered(peft_model, keep=trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        contract = Contract(
            base=plan.base,
            base_sha256=base_sha256(base_folder),
            fusion=plan.fusion,
            version=plan.version,
            pixel_spec=processor.pixel_spec,
            features_weights_sha256=table.weights_sha256 if table else "",
            features=plan.features,
            protocol=plan.protocol,
        )
        log = {"metrics": result.metrics, "log": trainer.state.log_history}
        save_adapter(Path(plan.output_dir), peft_model, state, contract, log)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _announce(model: torch.nn.Module, plan: Plan) -> None:
    trained = {"LoRA": 0, "projector": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "projector" if "multi_modal_projector" in name else "LoRA"
            trained[kind] += getattr(parameter, "ds_numel", parameter.numel())
    console.print(
        f"  Trained: LoRA {trained['LoRA']:,} and projector {trained['projector']:,} parameters; "
        f"{plan.trained_share:.1%} of the tokens carry the answer."
    )


def _gathered(model: torch.nn.Module, *, keep: bool) -> dict[str, torch.Tensor]:
    """Return every trained parameter in full, on the CPU, where `keep`; all ranks must call it."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if is_deepspeed_zero3_enabled():
        import deepspeed

        gather = deepspeed.zero.GatheredParameters(list(trained.values()))
    else:
        gather = nullcontext()
    with gather:
        if not keep:
            return {}
        return {n: p.detach().float().cpu().clone() for n, p in trained.items()}


def main() -> None:
    """Parse the launcher's command line and train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int, default=-1)
    parser.add_argument("plan", type=Path)
    if not torch.cuda.is_available():  # else it warns that there is a CUDA without a GPU
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        run(Plan.read(parser.parse_args().plan))
    except EegToolError as error:
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
