"""Flags of LLaVA and of transformers: what each may be here, what it does, and what has no effect.

`read_flags` runs while the command line is read and knows names and types; `training_arguments`
runs when the plan is made and knows what this training sets itself.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import Enum
from importlib.util import find_spec
from typing import Any, Final, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from eegtool.core.errors import EegToolError, brief
from eegtool.core.flags import FlagError, Values, truth
from eegtool.core.parsing import parse_json
from eegtool.finetune.hardware import Hardware
from eegtool.finetune.options import FinetuneSettings


@dataclass(frozen=True, slots=True)
class Foreign:
    """A flag that another program has and this one does not need.

    Attributes
    ----------
    allowed : tuple
        Values that ask for what happens here anyway; empty: any.
    why : str
        What happens here; completes the sentence after the flag.
    told : bool
        Whether the user is told that it has no effect.
    read : callable
        Text → value.
    """

    allowed: tuple[Any, ...]
    why: str
    told: bool = False
    read: Callable[[str], Any] = str


def _truth(word: str) -> bool:
    said = truth(word)
    if said is None:
        raise ValueError(f"'{word}' is neither True nor False")
    return said


def _truth_of_flag(word: str) -> bool:
    """Read a switch of transformers; argparse shows no other error's text."""
    try:
        return _truth(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _switch(allowed: bool, why: str) -> Foreign:
    return Foreign((allowed,), why, read=_truth)


LLAVA: Final[dict[str, Foreign]] = {
    # Arguments of LLaVA's train.py (haotian-liu/LLaVA, v1.2) and of the EEG-VLM reference.
    "lora_enable": _switch(True, "only LoRA and the projector are trained"),
    "lora_bias": Foreign(("none",), "biases of the language model stay as they are"),
    "lora_weight_path": Foreign(("",), "training starts from new LoRA weights; see --resume"),
    "freeze_backbone": Foreign((), "the backbone is always frozen under LoRA", read=_truth),
    "tune_mm_mlp_adapter": _switch(False, "the projector is trained together with LoRA"),
    "freeze_mm_mlp_adapter": _switch(
        False, "the projector is always trained; see --mm-projector-lr"
    ),
    "pretrain_mm_mlp_adapter": Foreign(("",), "the base model brings its projector"),
    "mm_projector_type": Foreign(("mlp2x_gelu",), "the projector of LLaVA-1.5 is 'mlp2x_gelu'"),
    "mm_vision_select_layer": Foreign((-2,), "LLaVA-1.5 takes layer -2", read=int),
    "mm_vision_select_feature": Foreign(("patch",), "LLaVA-1.5 drops the class token ('patch')"),
    "mm_patch_merge_type": Foreign(("flat",), "LLaVA-1.5 has flat patches"),
    "mm_use_im_start_end": _switch(False, "LLaVA-1.5 has no such tokens"),
    "mm_use_im_patch_token": _switch(False, "LLaVA-1.5 has no such token"),
    "image_aspect_ratio": Foreign(
        ("pad", "square"), "pictures of prepare are square, others are padded, none is cropped"
    ),
    "is_multimodal": _switch(True, "every sample has a picture"),
    "lazy_preprocess": Foreign((), "pictures are always read when they are needed", read=_truth),
    "mpt_attn_impl": Foreign((), "there is no MPT; see --attention", told=True),
    "cache_dir": Foreign((), "models are given as folders", told=True),
    "quant_type": Foreign(("nf4",), "--bits 4 is 'nf4'"),
    "double_quant": Foreign((), "--bits 4 quantises its constants, too", read=_truth),
    "polyak": _switch(False, "no running mean of the weights is kept"),
    # Arguments that transformers 5 no longer has.
    "overwrite_output_dir": _switch(False, "nothing is overwritten"),
    "save_safetensors": _switch(True, "weights are always saved as safetensors"),
    "logging_dir": Foreign((), "TENSORBOARD_LOGGING_DIR says where logs go", told=True),
    "no_cuda": _switch(False, "GPUs are hidden by CUDA_VISIBLE_DEVICES"),
}

_NO_COMPILER: Final = (
    "its graphs break at the picture tokens and at ZeRO's hooks, and batches of other lengths are "
    "compiled again"
)
_OWN_VALIDATION: Final = "validation scores the stages in its own way; see --eval-strategy"
_NO_UPLOAD: Final = "`eegvlm export --push-to-hub` uploads"

_OPTIONS: Final = (
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed"),
    *("learning_rate", "weight_decay", "lr_scheduler_type", "logging_steps", "report_to"),
    *("save_strategy", "save_steps", "save_total_limit"),
)
"""Options of finetune that transformers has under the same name, and takes as they are."""

# Arguments of transformers that are set here; a command line that asks for just that is fine.
_FIXED: Final[dict[str, tuple[Any, str]]] = {
    "remove_unused_columns": (False, "the high-level features are a column of their own"),
    "label_names": (["labels"], "the labels are called so"),
    "train_sampling_strategy": ("random", "--group-by-modality-length groups"),
    "label_smoothing_factor": (0.0, "the loss is that of LLaVA"),
    "eval_on_start": (False, "LoRA starts as the base model, which cannot stage"),
    "push_to_hub": (False, _NO_UPLOAD),
    "save_only_model": (False, "a checkpoint can always be gone on with"),
    "save_on_each_node": (False, "the output folder is shared"),
    "resume_from_checkpoint": ("", "--resume continues from the last checkpoint"),
    "ignore_data_skip": (False, "a resumed training sees the samples it has not yet seen"),
    "auto_find_batch_size": (False, "the batch size decides the outcome"),
    "activation_checkpointing_kwargs": ({"use_reentrant": False}, "LoRA needs it so"),
    "gradient_checkpointing_kwargs": ({"use_reentrant": False}, "LoRA needs it so"),
    "fsdp": ("", "DeepSpeed shards"),
    "fsdp_config": ("", "DeepSpeed shards"),
    "parallelism_config": ("", "DeepSpeed shards"),
    "optim_target_modules": ("", "LoRA is on every linear layer of the language model"),
    "use_cache": (False, "training has no use for it"),
    "local_rank": (-1, "the launcher sets it"),
    "accelerator_config": ("", "order and shares of the samples are finetune's own"),
    **dict.fromkeys(
        ("torch_compile", "torch_compile_backend", "torch_compile_mode"), ("", _NO_COMPILER)
    ),
    "liger_kernel_config": (
        None,
        "--use_liger_kernel takes RMSNorm, RoPE and SwiGLU; the loss is ours",
    ),
    **dict.fromkeys(
        ("dataloader_prefetch_factor", "dataloader_persistent_workers"),
        ("", "threads decode pictures, see --dataloader-num-workers; no process is forked"),
    ),
    "dataloader_multiprocessing_context": ("", "threads decode pictures; no process is forked"),
    "dataloader_drop_last": (False, "every sample is trained on in every pass"),
}
_NO_EFFECT: Final[dict[str, str]] = {
    "data_seed": "--seed draws the order of the samples, too",
    "do_train": "finetune trains",
    "disable_tqdm": "the progress bar is its own",
    "use_cpu": "a CPU is used where there is no GPU; CUDA_VISIBLE_DEVICES hides GPUs",
    **dict.fromkeys(("do_eval", "do_predict", "prediction_loss_only"), _OWN_VALIDATION),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval", "batch_eval_metrics"), _OWN_VALIDATION),
    "greater_is_better": "--metric-for-best-model says it",
    **dict.fromkeys(("include_for_metrics", "length_column_name"), _OWN_VALIDATION),
}
_NO_EFFECT_PREFIXES: Final = {
    **dict.fromkeys(("eval_", "per_device_eval_"), _OWN_VALIDATION),
    "hub_": _NO_UPLOAD,
}


def read_flags(given: Values, own: Sequence[str] = ()) -> dict[str, Any]:
    """Type the flags that are none of finetune's own.

    Parameters
    ----------
    given : dict of str to list of str
        Names with underscores, and the words that stood behind each.
    own : sequence of str
        Finetune's own flags, to suggest one of them where a name is misspelt.

    Returns
    -------
    dict of str to value
        As JSON knows values.

    Raises
    ------
    FlagError
        If a flag is unknown, or its value is none it could have.
    """
    parser = _parser()
    known = {s for action in parser._actions for s in action.option_strings}
    typed = {}
    for name, words in given.items():
        if name in LLAVA:
            typed[name] = _read_llava(name, words)
        elif f"--{name}" in known:
            try:
                read = vars(parser.parse_args([f"--{name}", *words]))
            except ValueError as error:
                raise FlagError(name, str(error)) from None
            typed |= {key: _jsonable(value) for key, value in read.items()}
        else:
            spelt = {f"--{n}" for n in LLAVA} | known
            near = difflib.get_close_matches(f"--{name}", [*own, *sorted(spelt)], n=3, cutoff=0.6)
            shown = list(dict.fromkeys(n.replace("_", "-") for n in near))
            hint = f"; did you mean {' or '.join(shown)}?" if shown else ""
            raise FlagError(name, f"no such flag of eegvlm, LLaVA or transformers{hint}")
    return typed


def _read_llava(name: str, words: Sequence[str]) -> Any:
    flag = LLAVA[name]
    if len(words) > 1:
        raise FlagError(name, f"takes one value, not {len(words)}")
    word = words[0] if words else "True" if flag.read is _truth else ""
    try:
        return flag.read(word)
    except ValueError as error:
        raise FlagError(name, str(error)) from None


class _Parser(HfArgumentParser):  # type: ignore[misc]
    """transformers' own parser, which raises instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        argument, _, what = message.removeprefix("argument ").partition(": ")
        raise ValueError(what if argument.startswith("--") else message)


def _parser() -> _Parser:
    """Return a parser of `TrainingArguments` that gives only what was given to it."""
    parser = _Parser(TrainingArguments, allow_abbrev=False, add_help=False)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        if action.type is string_to_bool:  # which does not know on and off
            action.type = _truth_of_flag
    return parser


def _jsonable(value: Any) -> Any:
    if isinstance(value, list):
        return [_jsonable(v) for v in value]
    return value.value if isinstance(value, Enum) else value


def training_arguments(
    settings: FinetuneSettings,
    *,
    output_dir: str,
    hardware: Hardware,
) -> tuple[dict[str, Any], list[str]]:
    """Return transformers' keywords for this training.

    DeepSpeed's settings are missing, and what only a rank can see, such as whether it is on a CPU.

    Parameters
    ----------
    settings : FinetuneSettings
        What was asked for.
    output_dir : str
        Absolute path.
    hardware : Hardware
        Where the training will run.

    Returns
    -------
    arguments : dict
        Keywords of `TrainingArguments`.
    notes : list of str
        What was asked for and has no effect here, or a price, a sentence each.

    Raises
    ------
    EegToolError
        If a flag asks for what this training does not do, or transformers refuses the arguments.
    """
    further, notes = _check_foreign(settings.further)
    dtype, tf32, spoken = precision(further, hardware)
    if further.get("use_liger_kernel"):
        _check_liger(hardware)
    arguments: dict[str, Any] = {
        **{name: getattr(settings, name) for name in _OPTIONS},
        "output_dir": output_dir,
        "max_steps": settings.max_steps or -1,
        "warmup_steps": further.pop("warmup_steps", settings.warmup_ratio),
        "deepspeed": None,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    if settings.eval_strategy != "no":  # else plans are as they were before there was validation
        arguments["eval_strategy"] = settings.eval_strategy
    if settings.eval_strategy == "steps":
        arguments["eval_steps"] = settings.eval_steps
    if tf32 is not None:
        arguments["tf32"] = tf32
    if settings.dataloader_num_workers is not None:
        arguments["dataloader_num_workers"] = settings.dataloader_num_workers
    twice = sorted(arguments.keys() & further.keys())
    if twice:
        raise EegToolError(f"--{twice[0]} is an option of finetune, and cannot be given twice.")
    arguments |= further
    _try(arguments)
    return arguments, notes + spoken


def _check_foreign(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Sort out what is set here or has no effect; return what is passed to transformers, and notes."""
    known = {f.name for f in fields(TrainingArguments)}
    rest, notes = {}, []
    for name, value in given.items():
        flag = LLAVA.get(name)
        if flag is not None:
            if flag.allowed and value not in flag.allowed:
                raise _refused(name, value, flag.why)
            if flag.told:
                notes.append(f"--{name}: {flag.why}")
        elif name in _FIXED:
            fixed, why = _FIXED[name]
            if isinstance(fixed, dict):
                value = _from_json(value)
            if value != fixed and (value or fixed):  # None, "" and False all ask for nothing
                raise _refused(name, value, why)
        elif reason := _no_effect(name):
            notes.append(f"--{name}: {reason}")
        elif name not in known:
            raise EegToolError(f"--{name} is no flag of LLaVA or transformers.")
        else:
            rest[name] = value
    return rest, notes


def _from_json(value: Any) -> Any:
    """Return what a flag that takes a dictionary was given."""
    with suppress(EegToolError):
        return parse_json(value, "") if isinstance(value, str) else value
    return value


def _no_effect(name: str) -> str:
    found = (why for prefix, why in _NO_EFFECT_PREFIXES.items() if name.startswith(prefix))
    return _NO_EFFECT.get(name) or next(found, "")


def _refused(name: str, value: Any, why: str) -> EegToolError:
    return EegToolError(f"--{name} {value} cannot be done: {why}.", "Leave it out.")


def precision(
    further: dict[str, Any], hardware: Hardware
) -> tuple[torch.dtype, bool | None, list[str]]:
    """Take --bf16, --fp16 and --tf32 out of the flags and say what they come to on some hardware.

    Returns
    -------
    dtype : torch.dtype
        What is asked for where PyTorch can do it; where nothing is, the best that the hardware has;
        float32 where that is switched off.
    tf32 : bool or None
        None: as PyTorch does by itself.
    notes : list of str
        What was asked for in vain, or at a price.
    """
    bf16, fp16, tf32 = (further.pop(name, None) for name in ("bf16", "fp16", "tf32"))
    if bf16 and fp16:
        raise EegToolError("--bf16 and --fp16 exclude each other.", "Give one of them, or none.")
    best, notes = hardware.best, []
    unwanted = {torch.bfloat16: bf16 is False, torch.float16: fp16 is False}
    dtype = torch.float32 if unwanted.get(best) or (bf16 is False and fp16 is False) else best
    if bf16 and hardware.bf16:
        dtype = torch.bfloat16
        if best != dtype:
            what = "this GPU has none of its own" if hardware.gpu else "there is no GPU here"
            notes.append(f"--bf16: the training runs in bfloat16, which is slow here: {what}")
    elif bf16:
        notes.append(f"--bf16: this GPU has none; the training runs in {_word(best)}")
    if fp16 and hardware.gpu:
        dtype = torch.float16
    elif fp16:
        notes.append(f"--fp16: there is no GPU here; the training runs in {_word(dtype)}")
    if tf32 and not hardware.gpu:
        notes.append("--tf32: there is no GPU here")
    return dtype, tf32 if hardware.gpu else None, notes


def _check_liger(hardware: Hardware) -> None:
    """Refuse Liger's kernels where they cannot run."""
    if not hardware.gpu:
        raise EegToolError(
            "--use_liger_kernel needs a GPU: its kernels are Triton's.", "Leave it out."
        )
    if find_spec("liger_kernel") is None:
        raise EegToolError(
            "--use_liger_kernel needs the package liger-kernel.", "pip install liger-kernel"
        )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _try(arguments: Mapping[str, Any]) -> None:
    """Let transformers look at the arguments, without touching a GPU or DeepSpeed."""
    elsewhere = ("bf16", "fp16", "tf32", "use_liger_kernel")
    tried = {k: v for k, v in arguments.items() if k not in elsewhere}
    try:
        args = TrainingArguments(**tried | {"use_cpu": True, "report_to": "none"})
        _build_optimizer(args)
    except (ValueError, TypeError, ImportError, AssertionError, RuntimeError) as error:
        raise EegToolError(
            f"transformers refuses the training's arguments: {brief(error)}.",
            "Correct the flag it names.",
        ) from error


def _build_optimizer(args: TrainingArguments) -> None:
    """Build optimizer and schedule over a single number: what they lack would else show in the ranks only."""
    from transformers import Trainer, get_scheduler  # takes seconds, and reading flags does without

    cls, options = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = cls([torch.nn.Parameter(torch.zeros(1))], **options)
    get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=1,
        num_training_steps=10,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
