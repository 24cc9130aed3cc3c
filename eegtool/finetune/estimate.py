"""How large a training will be: parameters, steps, memory per GPU, disk. No weights are read.

Parameters are counted on a model without storage (PyTorch's ``meta`` device) into which LoRA is put
as the ranks put it. Memory is an estimate of what is allocated at the peak; Φ parameters of which τ
are trained, w bytes each (2 in 16 bits), R ranks, a hidden width of h, an inner width of f.

States on a GPU (ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1 and figure 1). Mixed-
precision Adam keeps 12 bytes per trained parameter: 32-bit copy, momentum, variance.

- zero2: wΦ + 12τ / R, and the larger of two: gradients wτ / R with all activations, or the update
  with 8τ / R (gradients, their flat copy, that in 32 bits: `step` of DeepSpeed's
  stage_1_and_2.py). Two buffers of h² (``reduce_bucket_size`` "auto", ``overlap_comm``).
- zero3: wΦ / R, the rest likewise, and from two ranks on up to `_LIVE` gathered parameters and LoRA,
  which stays whole (see `launcher.filled`; so do 0.2 GiB of CLIP, which are not counted). A single
  rank reads parameters where they lie (`NoGatherHandle` of partition_parameters.py).
- zero3_offload: gathered parameters, LoRA, buffers and activations.
- none: trained parameters, gradients and Adam in 32 bits (16τ instead of wτ), and the copies in 16
  bits that autocast makes of them (wτ).
- bits 4: linear layers of the language model have 4.127 bits per parameter, doubly quantised
  (QLoRA: Dettmers et al. 2023, arXiv 2305.14314, section 3).

The host's memory with zero3_offload (stage3.py and partition_parameters.py of DeepSpeed 0.19.8).
Per rank: every parameter's share, pinned by itself (`_partition_param`); of what is trained a flat
16-bit copy beside those shares (`_create_param_groups_fp16_flat_cpu_memory`), gradients in 16 bits
(``grad_partitions_flat_buffer``) and in 32 bits (`initialize_optimizer_states`), all pinned, and
12τ / R of Adam (`_create_fp32_partitions`, `DeepSpeedCPUAdam`). PyTorch rounds whatever is pinned up
to a power of two (`CachingHostAllocator`, default of ``pinned_max_round_threshold_mb``): the
matrices of 13B take 1.7 times their size.

Activations per token, counted as Korthikanti et al. 2022 (arXiv 2205.05198, section 4) do for GPT.
What autograd keeps of one layer of LLaMA with LoRA of rank r on all seven linear layers
(`layer_bytes`; a test counts it with saved-tensor hooks):

- two norms, which compute in 32 bits: 8h, and 8 bytes for their two scales
- dropout before each LoRA, its output (w) and mask (1 byte, as on a GPU): (6h + f)(w + 1)
- what each LoRA's first matrix gives: 7rw
- causal flash attention without a mask: queries and keys after their rotation, values, output, and
  in 32 bits one log-sum per head: 4wh + 4 heads
- gate, its SiLU, and up: 3wf
- frozen weights keep no input of their layer, but under ZeRO-3 they do: DeepSpeed's linear layer
  saves it in any case (`LinearFunctionForZeroStage3`): w(2h + f); the attention's output is there
- DoRA scales what the weight and what LoRA give, each by itself: 2w(5h + 2f); and at a time, for the
  widest layer, LoRA's product, that product scaled, the sum with the weight, and the unit matrix that
  LoRA multiplies to get it: w(3hf + f²)

Beside that, at a time (peaks of PyTorch's memory profiler at real width): in a layer the gradient
that comes in, the residual, the norm's output, what down gives, and its input: w(4h + f), and 8f
where LoRA in 32 bits casts that input under autocast; in the last norm, at the start of the way
back, 28h. With (non-reentrant) checkpointing only one layer keeps all of that, and each its input
(wh). The projector keeps its input and both sides of its GELU. The vision tower runs without
gradient, before the peak. Logits are there only where there are labels: themselves, their softmax
and gradient in 32 bits.

What Liger's kernels would save is not counted. `Memory.gpu` adds `_CUDA` to what is allocated: CUDA's
context, buffers of NCCL and cuBLAS, fragments of PyTorch's allocator. It is an assumption.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedConfig

from eegtool.core.errors import EegToolError
from eegtool.finetune.plan import Plan
from eegtool.model.adapters import add_lora, trained_table
from eegtool.model.checkpoints import Network
from eegtool.model.families.fused import FEATURE_WIDTH
from eegtool.model.loading import quiet

_LIVE: Final = 1_000_000_000
"""Parameters that ZeRO-3 holds in full at a time (``stage3_max_live_parameters`` of the presets)."""
_CUDA: Final = 1.5 * 2**30
"""Bytes of a GPU that a training takes beside what PyTorch has allocated (see above)."""
_ADAM: Final = 12
"""Bytes per trained parameter: copy in 32 bits, momentum, variance."""
_UPDATE: Final = 8
"""Bytes per trained parameter that DeepSpeed's update needs for its gradients."""
_NF4: Final = 4.127 / 8
_SPARE: Final = 2
"""How many checkpoints must fit: the old one goes only when the new one is whole. The best one comes on top."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a training trains and how long its samples are."""

    parts: tuple[tuple[str, int, int], ...]
    """Part of the model, its trained parameters, all its parameters."""
    samples: int
    tokens: int
    """Tokens of the longest sample."""
    labels: int
    """Trained tokens of that sample."""
    text: PreTrainedConfig
    """Shape of the language model."""
    projected: int
    """Tokens of a sample that go through the trained projector."""
    visual_tokens: int
    """Image tokens of a sample."""
    tensors: tuple[int, ...]
    """Numbers in each tensor of the base model."""
    scored: int = 0
    """Epochs of a validation."""
    held_out: int = 0
    """Epochs of the subjects that are held out for it."""

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return sum(trained for _, trained, _ in self.parts)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(total for _, _, total in self.parts)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one way to run."""

    allocated: float
    """PyTorch's peak on each GPU (``torch.cuda.max_memory_allocated``)."""
    host: float
    """In the memory of each machine, beside what the processes need themselves."""

    @property
    def gpu(self) -> float:
        """What a GPU must have: `_CUDA` more."""
        return self.allocated + _CUDA


def count_parameters(
    model: Network, *, r: int, use_dora: bool = False
) -> tuple[tuple[str, int, int], ...]:
    """Return trained and all parameters by part, with LoRA as the ranks put it into a model without weights."""
    with torch.device("meta"), quiet():
        model.requires_grad_(False)
        peft_model = add_lora(model, r=r, alpha=r, dropout=0.0, use_dora=use_dora)
    return tuple(trained_table(peft_model))


def steps(plan: Plan, samples: int, ranks: int) -> int:
    """Return how many updates transformers' Trainer will make."""
    arguments = plan.arguments
    if arguments["max_steps"] > 0:
        return int(arguments["max_steps"])
    cut = math.floor if arguments.get("dataloader_drop_last") else math.ceil
    batches = math.ceil(cut(samples / arguments["per_device_train_batch_size"]) / ranks)
    per_pass = math.ceil(batches / arguments["gradient_accumulation_steps"])
    return math.ceil(max(1, per_pass) * arguments["num_train_epochs"])


def validations(plan: Plan, samples: int, ranks: int) -> int:
    """Return how often a training is validated: as asked, and after its last step."""
    n, arguments = steps(plan, samples, ranks), plan.arguments
    if "eval_strategy" not in arguments:
        return 0
    every = arguments.get("eval_steps")
    if every is None:  # after each pass
        passes = replace(plan, arguments=arguments | {"max_steps": -1, "num_train_epochs": 1})
        every = steps(passes, samples, ranks)
    return math.ceil(n / every)


def validation_share(plan: Plan, samples: int, ranks: int, scored: int) -> float:
    """Estimate the time of all validations as a share of that of the training.

    A forward counts 1; what goes back through frozen weights 1, and with gradient checkpointing there is one more
    forward (the three equal parts of Kaplan et al. 2020, arXiv 2001.08361, section 2.1, less the
    gradients of weights that are frozen). Reasons that are written before a stage are not counted.
    """
    arguments = plan.arguments
    per_step = arguments["per_device_train_batch_size"] * ranks
    per_step *= arguments["gradient_accumulation_steps"]
    seen = steps(plan, samples, ranks) * min(per_step, samples)
    forwards = 3 if plan.gradient_checkpointing else 2
    return validations(plan, samples, ranks) * scored / (forwards * seen)


def memory(size: Size, plan: Plan, ranks: int, ranks_per_host: int) -> dict[str, Memory]:
    """Return the memory of each way to run that the plan could take, by the name of its preset.

    Not among them: ZeRO-3 where weights are packed in 4 bits, and several ranks without DeepSpeed.
    """
    found = {name: Memory(n, 0) for name, n in allocated(size, plan, ranks).items()}
    if offload := found.get("zero3_offload"):
        host = ranks_per_host * _offloaded(size, _width(plan), ranks)
        found["zero3_offload"] = replace(offload, host=host)
    return found


def allocated(size: Size, plan: Plan, ranks: int) -> dict[str, float]:
    """Return what is allocated on each GPU at the peak (see `memory`)."""
    width, trained = _width(plan), size.trained
    weights = _weights(size, plan)
    lora = next(trained for part, trained, _ in size.parts if "LoRA" in part)
    gathered = width * (min(_LIVE, size.parameters) + lora)
    buffers = 2 * width * size.text.hidden_size**2
    adam, gradients, update = (n * trained / ranks for n in (_ADAM, width, _UPDATE))
    kept = activations(size, plan)
    found = {"zero2": weights + adam + buffers + max(gradients + kept, update)}
    if plan.bits == 16:
        kept = activations(size, plan, zero3=True)
        found["zero3"] = weights / ranks + adam + buffers + max(gradients + kept, update)
        found["zero3"] += gathered if ranks > 1 else 0
        found["zero3_offload"] = gathered + buffers + kept
    if ranks == 1:
        mixed = width < 4
        states = 16 if mixed else _ADAM  # beside wτ, which the weights have in them
        found["none"] = weights + states * trained + activations(size, plan, mixed=mixed)
    return found


def activations(size: Size, plan: Plan, *, zero3: bool = False, mixed: bool = False) -> float:
    """Return the bytes that one step's activations need at their peak.

    Parameters
    ----------
    size, plan : Size, Plan
        The training.
    zero3 : bool
        Whether linear layers are those of ZeRO-3.
    mixed : bool
        Whether LoRA has 32 bits on a base of 16 bits.
    """
    width, text = _width(plan), size.text
    hidden, inner, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    layer = layer_bytes(text, plan.lora_r, width, zero3=zero3, use_dora=plan.use_dora)
    at_a_time = width * (4 * hidden + inner) + 8 * inner * mixed
    if plan.gradient_checkpointing:
        per_token = layers * width * hidden + layer + at_a_time
    else:
        per_token = layers * layer + max(at_a_time, 28 * hidden)
    projector = width * (FEATURE_WIDTH + 2 * hidden)
    logits = size.labels * text.vocab_size * 4 * 3
    per_sample = size.tokens * per_token + size.projected * projector + logits
    products = width * (3 * hidden * inner + inner**2) * plan.use_dora
    return int(plan.arguments["per_device_train_batch_size"] * per_sample + products)


def layer_bytes(
    text: PreTrainedConfig, rank: int, width: int, *, zero3: bool = False, use_dora: bool = False
) -> int:
    """Return the bytes per token that one layer of the language model keeps for the way back.

    Parameters
    ----------
    text : transformers.PreTrainedConfig
        Shape of the language model.
    rank : int
        Rank of LoRA.
    width : int
        Bytes per number.
    zero3 : bool
        Whether linear layers are those of ZeRO-3.
    use_dora : bool
        Whether LoRA is DoRA.
    """
    hidden, inner = text.hidden_size, text.intermediate_size
    norms = 8 * hidden + 8
    lora = (6 * hidden + inner) * (width + 1) + 7 * rank * width
    attention = 4 * width * hidden + 4 * text.num_attention_heads
    gates = 3 * width * inner
    inputs = width * (2 * hidden + inner) * zero3
    scaled = 2 * width * (5 * hidden + 2 * inner) * use_dora
    return norms + lora + attention + gates + inputs + scaled


def verdict(need: Memory, gpu_bytes: float) -> str:
    """Say whether a training fits a GPU, and else how much is too much."""
    over = need.gpu - gpu_bytes
    return f"does not fit: {gib(over)} too much" if over > 0 else "fits"


def remedies(size: Size, plan: Plan, ranks: int, gpu_bytes: float) -> list[str]:
    """Say which changes, each by itself, make the training fit such a GPU; where none does, all of them.

    Returns
    -------
    list of str
        Empty where not even all of them do.
    """
    batch = plan.arguments["per_device_train_batch_size"]
    saving, smaller = "--gradient-checkpointing True", "--per-device-train-batch-size"

    def changed(batch: int = batch, **fields: Any) -> Plan:
        arguments = plan.arguments | {"per_device_train_batch_size": batch}
        return replace(plan, arguments=arguments, **fields)

    def first(ways: Iterable[tuple[str, Plan, int]]) -> list[str]:
        """Return the first way that fits, with its preset."""
        return [
            f"{words} ({name})"
            for words, way, n in ways
            for name, need in allocated(size, way, n).items()
            if (way, n) != (plan, ranks) and need + _CUDA <= gpu_bytes
        ][:1]

    alone: list[Iterable[tuple[str, Plan, int]]] = [
        [(saving, changed(gradient_checkpointing=True), ranks)],
        [(f"{smaller} {n}", changed(n), ranks) for n in range(batch - 1, 0, -1)],
        [("--bits 4", changed(bits=4), ranks)],
        [(f"{n * ranks} GPUs", plan, n * ranks) for n in (2, 4, 8)],
    ]
    least = changed(1, gradient_checkpointing=True, bits=4)
    together = [(f"{saving} {smaller} 1 --bits 4", least, ranks)]
    return [words for ways in alone for words in first(ways)] or first(together)


def checkpoint_bytes(size: Size, plan: Plan) -> int:
    """Return the size of one checkpoint: adapter as it is trained, and what its optimizer keeps."""
    adapter, optimizer = (_width(plan), _ADAM + _width(plan)) if plan.zero_stage else (4, 8)
    if plan.arguments["save_strategy"] == "no" and not plan.best_metric:
        optimizer = 0
    return (adapter + optimizer) * size.trained


def check_disk(size: Size, plan: Plan) -> int:
    """Refuse a disk on which the checkpoints will not fit; return its free bytes.

    Raises
    ------
    EegToolError
        If there is not room for two, or three where the best one is kept.
    """
    place = Path(plan.output_dir)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    n, word = (_SPARE + 1, "three") if plan.best_metric else (_SPARE, "two")
    need = n * checkpoint_bytes(size, plan)
    if free < need:
        raise EegToolError(
            f"The disk of --output-dir {plan.output_dir} has {gib(free)} free; {word} checkpoints need "
            f"about {gib(need)}.",
            "Make room, choose another --output-dir, or lower --lora-r.",
        )
    return free


def gib(n: float) -> str:
    """Return bytes as GiB or MiB."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB"


def _weights(size: Size, plan: Plan) -> float:
    """Return the bytes of all parameters, trained ones as wide as the base."""
    width = _width(plan)
    weights = float(width * size.parameters)
    if plan.bits == 4:
        language = next(total - trained for part, trained, total in size.parts if "LoRA" in part)
        text = size.text
        linear = language - (2 - text.tie_word_embeddings) * text.vocab_size * text.hidden_size
        weights -= (width - _NF4) * linear
    return weights


def _offloaded(size: Size, width: int, ranks: int) -> float:
    """Return what one rank of zero3_offload holds in the memory of its host."""
    pinned = sum(_pinned(width * n / ranks) for n in size.tensors)
    for _, trained, _ in size.parts:
        share = trained / ranks
        pinned += 3 * _pinned(width * share) + _pinned(4 * share)
    return pinned + _ADAM * size.trained / ranks


def _pinned(n: float) -> int:
    """Return what a pinned tensor of `n` bytes takes."""
    return 1 << (math.ceil(n) - 1).bit_length() if n else 0


def _width(plan: Plan) -> int:
    sixteen: Any = plan.arguments["bf16"] or plan.arguments["fp16"]
    return 2 if sixteen else 4
