"""transformers' Trainer for EEG-VLM: order of samples, learning rates, validation, checkpoints, stopping."""

from __future__ import annotations

import math
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from peft import PeftModel
from rich.progress import TaskID
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.finetune import saving
from eegtool.finetune.data import FinetuneDataset, collate
from eegtool.finetune.plan import Plan
from eegtool.finetune.validation import Validator, best_of, is_due
from eegtool.model.adapters import Contract, wrongly_trained

_STEPS_PER_GROUP: Final = 50
"""Samples of so many steps are sorted by length together: enough to find equals, few enough to stay random."""

_LORA_PLUS: Final = ("lora_B", "lora_magnitude_vector")
"""Names of what LoRA+ trains at a rate of its own."""


class PassOrder(Sampler[int]):
    """The order of the samples in each pass, drawn from the seed and the number of the pass.

    It knows no state, so a training that continues draws what it would have drawn; and no ranks, so the
    samples of a step are the same however many share it. What ranks lack for a whole last batch is
    filled up with fillers (see `FinetuneDataset`).

    Parameters
    ----------
    n : int
        Number of samples.
    per_step : int
        Samples of one optimizer step, over all ranks and accumulated batches.
    multiple : int
        What the length of a pass is filled up to a multiple of: batch size × ranks, or 1.
    seed : int
        Seed of the order.
    lengths : sequence of int or None
        Tokens of each sample; those of similar length then come in the same step.
    """

    def __init__(
        self, n: int, per_step: int, multiple: int, seed: int, lengths: Sequence[int] | None = None
    ) -> None:
        self.n = n
        self.per_step = per_step
        self.n_fillers = -n % multiple
        self.seed = seed
        self.lengths = None if lengths is None else torch.tensor(lengths)
        self.number = 0

    def set_pass(self, number: int) -> None:
        """Say which pass comes next, from 0."""
        self.number = number

    def __len__(self) -> int:
        return self.n + self.n_fillers

    def __iter__(self) -> Iterator[int]:
        mixed = np.random.SeedSequence((self.seed, self.number)).generate_state(1, np.uint32)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        order = torch.randperm(self.n, generator=generator)
        if self.lengths is not None:
            order = self._grouped(order, self.lengths, generator)
        drawn = order.tolist()
        yield from drawn
        yield from (~drawn[-1 - i % self.n] for i in range(self.n_fillers))

    def _grouped(
        self, order: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Sort by length within groups of steps, then shuffle the steps; a short step stays last."""
        groups = [
            group[lengths[group].argsort(descending=True, stable=True)]
            for group in order.split(self.per_step * _STEPS_PER_GROUP)
        ]
        steps = list(torch.cat(groups).split(self.per_step))
        last = [steps.pop()] if len(steps[-1]) < self.per_step else []
        shuffled = [steps[i] for i in torch.randperm(len(steps), generator=generator).tolist()]
        return torch.cat(shuffled + last)


class TellPass(TrainerCallback):  # type: ignore[misc]
    """Tells the order which pass begins, or continues: the Trainer reaches only samplers that it knows."""

    def __init__(self, order: PassOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell it."""
        self.order.set_pass(int(state.epoch or 0))


class EegTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer, less what it guesses and plus what it leaves out.

    Parameters
    ----------
    plan : Plan
        What is planned.
    model : PeftModel
        What to train, with LoRA in it.
    args : TrainingArguments
        Made from ``plan.arguments``.
    dataset : FinetuneDataset
        What to train on.
    contract : Contract
        What the adapter will have been trained with, for the checkpoints.
    validator : Validator or None
        What scores the held-out epochs; None where nothing is validated.
    """

    optimizer: Any

    def __init__(
        self,
        plan: Plan,
        model: PeftModel,
        args: TrainingArguments,
        dataset: FinetuneDataset,
        contract: Contract,
        validator: Validator | None = None,
    ) -> None:
        check_trained(model)
        args.logging_nan_inf_filter = False  # it hides a loss that is no number
        self.plan = plan
        self.contract = contract
        self.validator = validator
        per_batch = args.per_device_train_batch_size * args.world_size
        self.order = PassOrder(
            len(dataset),
            per_batch * args.gradient_accumulation_steps,
            per_batch if args.world_size > 1 else 1,
            args.seed,
            dataset.lengths() if plan.group_by_length else None,
        )
        self.monitor = Monitor(self.order.per_step)
        self.clock = StepClock()
        self.stopper = Stopper(Path(plan.stop_file) if plan.stop_file else None, args.device)
        super().__init__(
            model=model,
            args=args,
            train_dataset=dataset,
            eval_dataset=validator.questions if validator else None,
            data_collator=partial(collate, processor=dataset.processor),
            callbacks=[TellPass(self.order), CheckPrecision(), self.monitor, self.stopper],
        )
        self.add_callback(CatchUp(self))  # last: the bar is there, and signals are heard
        self.remove_callback(PrinterCallback)  # the bar shows the loss

    @property
    def stopped(self) -> bool:
        """Whether the training was asked to stop, and did before its end."""
        return self.stopper.stopped

    def create_optimizer(self, model: Any = None) -> Any:
        """Build AdamW with a group for each rate: LoRA's, the projector's, and that of LoRA+.

        LoRA+ (arXiv 2402.12354) is for what it is for in `peft.optimizers.create_loraplus_optimizer`: the
        second matrices and, beside them, the lengths of DoRA.
        """
        if self.optimizer is None:
            rate, ratio = self.args.learning_rate, self.plan.loraplus_lr_ratio
            rates = (rate, self.plan.mm_projector_lr, ratio * rate)
            members: tuple[list[Any], ...] = ([], [], [])
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    plus = ratio != 1 and any(part in name for part in _LORA_PLUS)
                    members[2 * plus if "lora_" in name else 1].append(parameter)
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decay = {"weight_decay": self.args.weight_decay}
            groups = [
                {"params": group, "lr": lr, **decay}
                for group, lr in zip(members, rates, strict=True)
                if group
            ]
            self.optimizer = cls(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the schedule; the only step of a training does not warm up, as its rate would be 0."""
        if num_training_steps == 1:
            self.args.warmup_steps = 0
        return super().create_scheduler(num_training_steps, optimizer)

    def resume(self, checkpoint: Path | None) -> Any:
        """Train, from the start or from a whole checkpoint."""
        try:
            return self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            self.monitor.close()
            self.stopper.close()

    @property
    def ends(self) -> bool:
        """Whether there is nothing more to train: all steps are done, or it is to stop."""
        return self.control.should_training_stop or self.state.global_step >= self.state.max_steps

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.ends:  # transformers would take a step before it looks
            super()._run_epoch(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the held-out epochs and log their figures; all ranks must call it.

        Raises
        ------
        InterruptedError
            If it was asked to stop; nothing is logged then.
        """
        validator = self.validator
        if validator is None:
            return {}
        is_stopped = self.stopper.agreed if validator.sharded_batch else self.stopper.asked
        with self.clock.pausing(), self.monitor.pausing() as tell:
            began = time.perf_counter()
            found = validator.figures(is_stopped, tell)
            seconds = time.perf_counter() - began
        if found is None:
            raise InterruptedError
        metrics = {f"eval_{name}": value for name, value in found.items()}
        metrics |= {"eval_epochs": len(validator.questions), "eval_runtime": round(seconds, 4)}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def catch_up(self) -> None:
        """Do the validation of the step at which a training is resumed, where it was not done; weigh all."""
        rows = [row for row in self.state.log_history if "eval_loss" in row]
        done = any(row["step"] == self.state.global_step for row in rows)
        if self.validator is not None and not done and is_due(self.args, self.state):
            self._evaluate(None, None)
        self._determine_best_metric()
        if step := self.state.best_global_step:  # else it would be missed at the end
            saving.whole_at(Path(self.plan.output_dir), step)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate; where the training is asked to stop, it is left to when it is resumed (see `catch_up`)."""
        try:
            if self.stopped:
                raise InterruptedError
            return dict(super()._evaluate(*args, **kwargs))
        except InterruptedError:
            self.stopper.stop(self.control)
            return {}

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        """Save the best weights so far, and stop where they are long ago; all of it is read from the log.

        transformers would know the best only where a checkpoint is due anyway.
        """
        plan, state = self.plan, self.state
        best = best_of(state.log_history, plan.best_metric)
        if best is None:
            return False
        is_new = best.step == state.global_step > (state.best_global_step or 0)
        state.best_metric, state.best_global_step = best.value, best.step
        self.control.should_save |= is_new
        if 0 < plan.early_stopping_patience <= best.since and not self.ends:
            self.control.should_training_stop = True
            if self.is_world_process_zero():
                console.print(
                    f"  Stopping early: no better {plan.best_metric} than that of step {best.step} in "
                    f"{best.since} validation{'s' * (best.since > 1)}."
                )
        return is_new

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Take the batches of a step, and the time that they are waited for."""
        with self.clock.waiting():
            found = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.clock.tokens += sum(batch["input_ids"].numel() for batch in found[0])
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; with each loss, what the steps since the last one took."""
        if "loss" in logs:
            logs |= self.clock.per_step()
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> PassOrder:
        return self.order

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.store_flos()
        saving.save_checkpoint(self, self.plan, self.contract)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saving.restore(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:  # DeepSpeed has loaded the weights, and not told which
            saving.check_restored(self, Path(checkpoint))


class StepClock:
    """What steps take on this rank: seconds, seconds of waiting for data, tokens."""

    def __init__(self) -> None:
        self.tokens = 0
        """Padding included."""
        self._began = self._waited = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for the data of a step, which begins here."""
        began = time.perf_counter()
        if not self._steps:
            self._began = began
        yield
        self._steps += 1
        self._waited += time.perf_counter() - began

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Leave the time inside out."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def per_step(self) -> dict[str, float]:
        """Return the means of the steps since it was last asked, and start again."""
        n, seconds = self._steps, time.perf_counter() - self._began
        means = {
            "seconds": round(seconds / n, 4),
            "data_seconds": round(self._waited / n, 4),
            "tokens": self.tokens / n,
        }
        self.tokens, self._waited, self._steps = 0, 0.0, 0
        return means


class CatchUp(TrainerCallback):  # type: ignore[misc]
    """Lets a resumed training first do what it was stopped in."""

    def __init__(self, trainer: EegTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do it."""
        self.trainer.catch_up()


class CheckPrecision(TrainerCallback):  # type: ignore[misc]
    """Looks at the model once it is prepared: its precision is what decides what it learns."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Refuse what was prepared otherwise than it was loaded."""
        check_precision(model, args)


class Monitor(TrainerCallback):  # type: ignore[misc]
    """What is seen of a training on the first rank: steps, loss, κ, speed and the time left."""

    def __init__(self, per_step: int) -> None:
        self.per_step = per_step
        self.bar = progress("steps")
        self.task: TaskID | None = None
        self.began, self.began_step = 0.0, 0
        self.shown = {"loss": "", "kappa": "", "speed": ""}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar."""
        self.began, self.began_step = time.perf_counter(), state.global_step
        if state.is_world_process_zero:
            self.bar.start()
            self.task = self.bar.add_task(
                "Fine-tuning", total=state.max_steps, completed=state.global_step, note=""
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance."""
        if self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show loss and speed; refuse a loss that is no number."""
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise EegToolError(
                f"The loss of step {state.global_step} is not a finite number.",
                "Lower --learning-rate or --mm-projector-lr; --resume continues from the last "
                "checkpoint.",
            )
        if self.task is not None:
            samples = (state.global_step - self.began_step) * self.per_step
            speed = samples / max(time.perf_counter() - self.began, 1e-9)
            self.shown |= {"loss": f"loss {logs['loss']:.3f}", "speed": f"{speed:.3g} samples/s"}
            self._show()

    @contextmanager
    def pausing(self) -> Iterator[Callable[[int, int], None]]:
        """Leave the time inside out of the speed; what is given shows how far a validation is."""
        began = time.perf_counter()

        def tell(done: int, n: int) -> None:
            if self.task is not None:
                self.bar.update(self.task, note=f"validating {done}/{n}")

        try:
            yield tell
        finally:
            self._show()
            self.began += time.perf_counter() - began

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Say what a validation found; its κ stays beside the loss."""
        self.shown["kappa"] = f"κ {metrics['eval_kappa']:.3f}"
        self._show()
        if self.task is not None:
            console.print(
                f"  Step {state.global_step}: κ {metrics['eval_kappa']:.3f}, "
                f"macro-F1 {metrics['eval_macro_f1']:.3f}, accuracy {metrics['eval_accuracy']:.3f}, "
                f"NLL {metrics['eval_loss']:.3f}"
            )

    def _show(self) -> None:
        """Put what is known beside the bar."""
        if self.task is not None:
            self.bar.update(self.task, note=", ".join(filter(None, self.shown.values())))

    def close(self) -> None:
        """Leave the bar on the screen and give the cursor back, however the training ended."""
        if self.task is not None:
            self.bar.stop()


class Stopper(TrainerCallback):  # type: ignore[misc]
    """Ends a training after the step in which it is asked to, with a checkpoint.

    It is asked by a file that the parent makes, or by SIGTERM, which schedulers send to each process.
    All ranks agree on the step, since none can continue or save alone.
    """

    def __init__(self, stop_file: Path | None, device: torch.device) -> None:
        self.stop_file = stop_file
        self.device = device
        self.stopped = False
        self.signalled = False
        self.previous: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGTERM, self._heard)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask all ranks; the last step ends the training anyway."""
        if self.agreed() and state.global_step < state.max_steps:
            self.stop(control)

    def asked(self) -> bool:
        """Say whether this rank knows that it is to stop."""
        return self.signalled or (self.stop_file is not None and self.stop_file.exists())

    def agreed(self) -> bool:
        """Say whether any rank knows; all ranks must ask."""
        return saving.any_rank(self.asked(), self.device)

    def stop(self, control: Any) -> None:
        """End the training behind this step, with a checkpoint."""
        self.stopped = True
        control.should_log = control.should_save = control.should_training_stop = True

    def close(self) -> None:
        """Give the signal back."""
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)
            self.previous = None

    def _heard(self, signum: int, frame: Any) -> None:
        self.signalled = True
        self.close()  # the second one ends the process


def check_precision(model: torch.nn.Module, args: TrainingArguments) -> None:
    """Refuse a model whose positions are rounded, or whose trained weights have another precision.

    Raises
    ------
    EegToolError
        If the inverse frequencies of the rotary embedding are not float32: in bfloat16 the position
        1,200 is up to 1.47 rad off (DeepSpeed 0.18.0 to 0.19.1 rounded them). Or if a trained weight
        has not the precision that `train.build_model` gave it.
    """
    sixteen = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    trained = sixteen if args.deepspeed else torch.float32
    wrong = {
        name: tensor.dtype
        for name, tensor, expected in (
            *((n, b, torch.float32) for n, b in model.named_buffers() if n.endswith("inv_freq")),
            *((n, p, trained) for n, p in model.named_parameters() if p.requires_grad),
        )
        if tensor.dtype != expected
    }
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise EegToolError(
            f"{len(wrong)} tensors were prepared in another precision than they must have, such as "
            f"{name} in {str(dtype).removeprefix('torch.')}.",
            "pip install 'deepspeed>=0.19.2'; older ones round positions.",
        )


def peak_memory() -> dict[str, int]:
    """Return the largest memory of this process so far, in bytes: of its GPU, and of its host."""
    found = {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if torch.cuda.is_available():
        found["allocated_bytes"] = torch.cuda.max_memory_allocated()
        found["reserved_bytes"] = torch.cuda.max_memory_reserved()
    return found


def check_trained(model: PeftModel) -> None:
    """Refuse to train anything but LoRA on the language model and the projector.

    Raises
    ------
    EegToolError
        If anything else would be trained; the vision tower above all.
    """
    if wrong := wrongly_trained(model):
        raise EegToolError(
            f"{len(wrong)} parameters would be trained that must stay as they are, such as {wrong[0]}.",
            "Only LoRA on the language model and the projector are trained.",
        )
