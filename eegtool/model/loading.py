"""What loading a base model of any family has in common: precision, attention, packing, checks of weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch
from transformers import BitsAndBytesConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import logging as transformers_logging

from eegtool.core.errors import EegToolError, brief
from eegtool.core.registry import check_name

ATTENTIONS: Final = ("auto", "sdpa", "flash_attention_2", "eager")
BITS: Final = (16, 4)


def best_dtype(device: torch.device | None = None) -> torch.dtype:
    """Return the precision to work in: float32 on a CPU, else bfloat16, on old GPUs float16.

    Without a device: that of the GPU, where there is one.
    """
    if not _on_gpu(device):
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def choose_attention(attention: str, dtype: torch.dtype, device: torch.device | None = None) -> str:
    """Return transformers' name of the attention to use; without a device on the GPU, where there is one.

    Raises
    ------
    EegToolError
        If it is unknown, or FlashAttention is asked for and cannot work here.
    """
    check_name("--attention", attention, ATTENTIONS)
    half = dtype in (torch.float16, torch.bfloat16)
    usable = _on_gpu(device) and half and find_spec("flash_attn") is not None
    if attention == "auto":
        return "flash_attention_2" if usable else "sdpa"
    if attention == "flash_attention_2" and not usable:
        raise EegToolError(
            "--attention flash_attention_2 needs a GPU, a precision of 16 bits and the package "
            "flash-attn.",
            "pip install flash-attn, or leave out --attention.",
        )
    return attention


def _on_gpu(device: torch.device | None) -> bool:
    return torch.cuda.is_available() if device is None else device.type == "cuda"


def placement(device: torch.device | None) -> dict[str, torch.device] | None:
    """Return transformers' ``device_map`` for a device; None where ZeRO-3 places weights itself."""
    return None if device is None or is_deepspeed_zero3_enabled() else {"": device}


def quantization(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return how to pack the language model; None for 16 bits, which stay as they are.

    Raises
    ------
    EegToolError
        If the number is another one, the package is missing, or ZeRO-3 is to shard the model: packed
        weights have no shards.
    """
    check_name("--bits", str(bits), map(str, BITS))
    if bits == 16:
        return None
    if find_spec("bitsandbytes") is None:
        raise EegToolError("--bits 4 needs bitsandbytes.", "pip install 'eegvlm[quant]'")
    if is_deepspeed_zero3_enabled():
        raise EegToolError(
            "--bits 4 and ZeRO-3 exclude each other: packed weights cannot be sharded.",
            "Use --deepspeed zero2.",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "model.multi_modal_projector", "model.vision_tower"],
    )


def check_keys(where: Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Refuse weights of which any is missing or left over: they would run as another model."""
    missing, unexpected = sorted(missing), sorted(unexpected)
    if missing or unexpected:
        raise EegToolError(
            f"{where} does not fit the model: {len(missing)} weights missing {missing[:2]}, "
            f"{len(unexpected)} unexpected {unexpected[:2]}.",
            "It was made for another model, or with another version of transformers or peft.",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off the terminal what the libraries say there and no user could act on."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # "Loading weights", once per rank
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that transformers 5.2x deprecates.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def not_loadable(folder: Path, error: Exception) -> EegToolError:
    """Return the error of a base model that a library could not read."""
    return EegToolError(
        f"The base model in {folder} cannot be loaded: {brief(error)}",
        "Its folder must be whole: config, weights, tokenizer and preprocessor as downloaded.",
    )
