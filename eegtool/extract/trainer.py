"""transformers' Trainer for vision modules: loss, order, validation, and what is seen of it all."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.progress import TaskID
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from eegtool.core.console import progress
from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.core.workspace import atomic_path
from eegtool.extract.data import Pictures
from eegtool.extract.module import VisionModule, best_dtype
from eegtool.extract.plan import TrainPlan

_EVAL_BATCH: Final = 128
_FACTS_PART: Final = 0.5
"""Weight of the facts in the loss, each scaled to variance 1. Our choice."""
_SECONDS_BETWEEN_NOTES: Final = 0.5


@dataclass(frozen=True, slots=True)
class Scores:
    """How well the module alone stages sleep."""

    n: int
    accuracy: float
    macro_f1: float
    kappa: float | None
    """None where it is 0/0: one and the same stage everywhere."""


def score(true: np.ndarray, predicted: np.ndarray) -> Scores:
    """Score stage indices; macro-F1 is over the stages that occur in `true`."""
    present = np.unique(true)
    macro_f1 = f1_score(true, predicted, labels=present, average="macro", zero_division=0)
    undefined = len(np.union1d(present, predicted)) < 2
    kappa = None if undefined else float(cohen_kappa_score(true, predicted))
    return Scores(len(true), float(accuracy_score(true, predicted)), float(macro_f1), kappa)


def stage_indices(epochs: Sequence[Epoch]) -> np.ndarray:
    """Return the true stages as int64 ``[N]``."""
    return np.array([STAGE_INDEX[epoch.stage] for epoch in epochs], dtype=np.int64)


def class_weights(epochs: Sequence[Epoch]) -> torch.Tensor:
    """Return float32 ``[5]``: inverse square root of each stage's share, mean 1 over the epochs.

    The root is a compromise: rare N1 is learnt, but the common stages keep their prior.
    """
    counts = np.bincount(stage_indices(epochs), minlength=len(STAGES)).astype(float)
    weights = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    weights *= counts.sum() / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32)


class PassSampler(Sampler[tuple[int, int]]):
    """The order of each pass, drawn from the seed and the number of the pass: the same on all ranks.

    Gives which epoch comes, and the seed of its augmentation. No state: a training that is resumed draws
    what it would have drawn.

    Parameters
    ----------
    stages : int64 [N]
        True stages.
    step : int
        Pictures per step. What is left over after the last whole step waits for another pass.
    balanced : bool
        Whether all stages come equally often, by drawing with replacement; else every epoch comes once.
    seed : int
        Its seed.
    """

    def __init__(self, stages: np.ndarray, step: int, *, balanced: bool, seed: int) -> None:
        self.n = len(stages) // step * step
        self.n_epochs = len(stages)
        self.weights = torch.from_numpy(1 / np.bincount(stages)[stages]) if balanced else None
        self.seed = seed
        self.number = 0

    def set_epoch(self, number: int) -> None:
        """Say which pass comes next; the Trainer does."""
        self.number = number

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(_seed(self.seed, self.number))
        if self.weights is not None:
            drawn = torch.multinomial(self.weights, self.n, replacement=True, generator=generator)
        else:
            drawn = torch.randperm(self.n_epochs, generator=generator)[: self.n]
        seeds = np.random.SeedSequence([self.seed, self.number, 1]).generate_state(self.n)
        yield from zip(drawn.tolist(), seeds.tolist(), strict=True)


class StageTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer for a `VisionModule`: weighted stages.

    Parameters
    ----------
    plan : TrainPlan
        What is planned.
    module : VisionModule
        What to train, in place.
    args : TrainingArguments
        See `arguments`.
    pictures : tuple of Pictures
        Those to train on, and those to validate on (maybe none).
    bar : Monitor
        What is seen of it.
    facts : float32 [N, K], optional
        What ``module.facts`` is to predict from the representations of the N pictures to train on (see
        `facts.targets_of`), NaN where it was not measured.
    """

    def __init__(
        self,
        plan: TrainPlan,
        module: VisionModule,
        args: TrainingArguments,
        pictures: tuple[Pictures, Pictures],
        bar: Monitor,
        facts: torch.Tensor | None = None,
    ) -> None:
        train, val = pictures
        super().__init__(
            model=module,
            args=args,
            train_dataset=train,
            eval_dataset=val if len(val) else None,
            data_collator=collate,
            compute_metrics=_metrics if len(val) else None,
            preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
            callbacks=[bar, *(_tensorboard(plan) if args.process_index == 0 else [])],
        )
        self.remove_callback(PrinterCallback)  # the bar shows the loss
        self.bar = bar
        self.plan = plan
        weighted = plan.imbalance == "weights"
        self.class_weights = class_weights(train.epochs).to(args.device) if weighted else None
        self.facts = None if facts is None else facts.to(args.device)
        self.head = module.facts

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch (and its logits)."""
        features, logits = model(inputs["pictures"])
        loss = cross_entropy(logits.float(), inputs["labels"], weight=self.class_weights)
        if model.training and self.facts is not None and self.head is not None:
            predicted, true = self.head(features).float(), self.facts[inputs["numbers"]]
            is_measured = ~true.isnan()
            errors = mse_loss(predicted, true.nan_to_num(), reduction="none") * is_measured
            loss = loss + _FACTS_PART * errors.sum() / is_measured.sum().clamp(min=1)
        if model.training:
            self.bar.loss = loss.detach()
        return (loss, {"logits": logits}) if return_outputs else loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the schedule; the only step of a training does not warm up, as its rate would be 0."""
        if num_training_steps == 1:
            self.args.warmup_steps = 0
        return super().create_scheduler(num_training_steps, optimizer)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; what is logged about a pass also says how fast it was."""
        if "loss" in logs:
            logs["images_per_s"] = self.bar.images_per_s
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        step = self.args.per_device_train_batch_size * self.args.world_size
        balanced = self.plan.imbalance == "sampling"
        stages = stage_indices(self.train_dataset.epochs)
        return PassSampler(stages, step, balanced=balanced, seed=self.plan.seed)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # safetensors takes no tensors that share memory, which those of somebody's own module may do.
        state = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {k: v.contiguous().clone() for k, v in state.items()})


class Monitor(TrainerCallback):  # type: ignore[misc]
    """What is seen of a training while it runs: a bar, ``log.csv``; and when it has to stop."""

    def __init__(self, plan: TrainPlan) -> None:
        self.plan = plan
        self.bar = progress("steps")
        self.task: TaskID | None = None
        self.loss: torch.Tensor | None = None
        self.images_per_s = 0.0
        self.macro_f1 = math.nan
        self.noted = 0.0
        self.began, self.began_step = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar on the first rank."""
        if state.is_world_process_zero and self.task is None:
            self.bar.start()
            self.task = self.bar.add_task(
                "Training", total=state.max_steps, completed=state.global_step, note=""
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time."""
        self.began, self.began_step = time.perf_counter(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance; now and then, look at the loss, for which a GPU must be waited for."""
        now = time.perf_counter()
        if self.task is None or now - self.noted < _SECONDS_BETWEEN_NOTES:
            return
        self.noted = now
        self._measure(args, state)
        loss = math.nan if self.loss is None else float(self.loss)
        f1 = "" if math.isnan(self.macro_f1) else f", F1 {self.macro_f1:.2f}"
        note = f"loss {loss:.2f}{f1}, {self.images_per_s:.0f} im/s"
        self.bar.update(self.task, completed=state.global_step, note=note)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the speed of the pass, before its validation."""
        self._measure(args, state)
        if self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Refuse a loss that is no number, and write the table of passes."""
        if not math.isfinite(logs.get("loss", 0.0)):
            raise EegToolError(
                f"The loss of pass {round(state.epoch)} is not a finite number.",
                "Train with a lower --learning-rate.",
            )
        if state.is_world_process_zero:
            write_log(Path(self.plan.out) / "log.csv", history_of(state.log_history))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop when patience has run out."""
        history = history_of(state.log_history)
        self.macro_f1 = history[-1]["val_macro_f1"]
        if ran_out(history, self.plan.patience):
            control.should_training_stop = True

    def close(self) -> None:
        """Leave the bar on the screen and give the cursor back, however the training ended."""
        if self.task is not None:
            self.bar.stop()

    def _measure(self, args: Any, state: Any) -> None:
        pictures = (state.global_step - self.began_step) * args.train_batch_size * args.world_size
        self.images_per_s = round(pictures / max(time.perf_counter() - self.began, 1e-9), 1)


def arguments(plan: TrainPlan, n_train: int, *, with_validation: bool) -> TrainingArguments:
    """Return the arguments of the Trainer for a plan with so many epochs to train on."""
    dtype = best_dtype()
    cuda = dtype != torch.float32
    if (
        not cuda
    ):  # accelerate imports DeepSpeed where it is installed, which says that it looks for GPUs
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    args = TrainingArguments(
        output_dir=plan.out,  # until the fingerprint is known
        num_train_epochs=plan.train_epochs,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=plan.warmup,  # below 1: a share
        max_grad_norm=0.0,
        per_device_eval_batch_size=_EVAL_BATCH,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=not cuda,
        seed=plan.seed,
        data_seed=plan.seed,
        dataloader_num_workers=plan.workers,
        dataloader_persistent_workers=plan.workers > 0,
        dataloader_pin_memory=cuda,
        ddp_find_unused_parameters=False,
        ddp_static_graph=True,  # finds parameters that are not used by itself, once
        remove_unused_columns=False,
        label_names=["labels"],
        eval_strategy="epoch" if with_validation else "no",
        save_strategy="epoch",
        save_total_limit=2,  # the last one and the best one
        load_best_model_at_end=with_validation,
        metric_for_best_model="macro_f1" if with_validation else None,
        greater_is_better=True if with_validation else None,
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # would wait for the GPU at every step
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    if args.world_size == 1 and args.n_gpu > 1:
        args._n_gpu = 1  # else the Trainer would take DataParallel; ranks are what launchers start
    ranks = args.world_size
    args.per_device_train_batch_size = max(min(plan.batch_size, n_train) // ranks, 1)
    return args


def collate(rows: Sequence[tuple[torch.Tensor, int, int]]) -> dict[str, torch.Tensor]:
    """Bring rows of `Pictures` into the batch that the Trainer hands on."""
    pictures, stages, numbers = zip(*rows, strict=True)
    return {
        "pictures": torch.stack(pictures),
        "labels": torch.tensor(stages),
        "numbers": torch.tensor(numbers),
    }


def history_of(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per pass from the Trainer's log."""
    rows: list[dict[str, Any]] = []
    for entry in log:
        if "loss" in entry:
            rows.append({"pass": len(rows) + 1, **{k: entry[k] for k in ("loss", "images_per_s")}})
        elif "eval_macro_f1" in entry:
            names = ("accuracy", "macro_f1", "kappa")
            rows[-1] |= {f"val_{name}": entry[f"eval_{name}"] for name in names}
    return rows


def best_pass(history: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of the pass with the best validation, the first of equals; else the last."""
    scored = [row for row in history if "val_macro_f1" in row]
    return max(scored, key=lambda row: row["val_macro_f1"])["pass"] if scored else len(history)


def ran_out(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Say whether as many passes as `patience` have gone by since the best one; never if that is 0."""
    return bool(history) and 0 < patience <= len(history) - best_pass(history)


def write_log(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write one line per pass as CSV."""
    columns = ["pass", "loss", "val_accuracy", "val_macro_f1", "val_kappa", "images_per_s"]
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def _metrics(outcome: Any) -> dict[str, float]:
    scores = asdict(score(outcome.label_ids, outcome.predictions))
    return {name: scores[name] for name in ("accuracy", "macro_f1", "kappa")}


def _tensorboard(plan: TrainPlan) -> list[TrainerCallback]:
    if plan.log != "tensorboard":
        return []
    try:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback
    except ImportError as error:
        raise EegToolError(
            "TensorBoard is not installed.", "Run `pip install 'eegvlm[track]'`, or log to 'csv'."
        ) from error
    return [TensorBoardCallback(SummaryWriter(Path(plan.out) / "tensorboard"))]


def _seed(*numbers: int) -> int:
    """Mix numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0])
