"""The embedded default model ``tiny``: LLaVA-1.5 made small, built from its recipe, no download.

A CLIP-type tower of width 1024 (so that high-level features fit its projector as they fit the
13B model's), a three-layer LLaMA and a byte-level tokenizer. It is written once as an ordinary
Hugging Face folder and from there takes the same code path as the 13B model.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors.torch import save
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from eegtool.core.errors import EegToolError
from eegtool.core.forms import IMAGE_TOKEN

IMAGE_SIZE: Final = 64
PATCH_SIZE: Final = 16
_SEED: Final = 1729

_FAINTNESS: Final = 200
"""The patch embedding is made so much smaller than CLIP starts with. Nobody trained this tower, so what
comes out of it is a random projection of the picture, in which N2 and N3 could still be told apart
(κ 0.44 on the demo's nights; 0.12 to 0.15 on short ones when 50 times smaller). Kept faint, it leaves
the answers to the high-level features, which are what the demo shows: a join gone wrong then shows as
κ near 0 and cannot hide behind the picture."""

# Words that get a token of their own; everything else is spelt in bytes. Each is entered with and
# without the blank before it.
_WORDS: Final = (
    "W N1 N2 N3 REM wake stage sleep light deep rapid eye movement This is a VQA task Question The "
    "answer Which What does this 30 second EEG epoch show Answer with one of or and the in A chat "
    "between curious user an artificial intelligence assistant gives helpful detailed polite "
    "answers to questions USER ASSISTANT picture spectrogram waveform options "
    # Of measured reasons: a sentence is then as many tokens as words, as with a large vocabulary.
    "% AASM Alpha Begin Blinks By Conclude High Hz K Low Medium Neither No R REM Reason Slow Spindles Such "
    "That Then Vertex Without about activity agree agrees all alpha amplitude another are arousal as at "
    "awake before begins begun belong blinks but by chin complex complexes count counts cover decide delta "
    "describes do dominates ends enough falls first fit fits for frequencies front give given go goes had "
    "half has have head image is it last least left less lets like long look looks low make makes may "
    "measured medium high mixed more mostly movements muscle neither no nor not on once one others out over "
    "peak power quite rapid reasons rests rhythm rule rules same short sigma signs slow somebody speak "
    "spindle spindles stages stand stands stays step such than that then theta they tone unless until want "
    "wants was wave waves way were where whether which with without µV"
).split() + [str(number) for number in (*range(21), *range(25, 100, 5), *range(100, 260, 10))]

# CLIP's own pixel statistics (Radford et al. 2021), as in LLaVA-1.5's preprocessor_config.json.
_PREPROCESSOR: Final = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": {"shortest_edge": IMAGE_SIZE},
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the byte-level BPE tokenizer, built by rule from `_WORDS`: the same everywhere."""
    special = ["<unk>", "<s>", "</s>", "<pad>", IMAGE_TOKEN]
    vocab = {token: i for i, token in enumerate(special)}
    for char in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[char] = len(vocab)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for word in _WORDS:
        for spelling in (word, f" {word}"):
            ((spelt, _),) = bytes_.pre_tokenize_str(spelling)
            vocab.setdefault(spelt, len(vocab))
    # Without merges: a token is a whole word of the vocabulary, or a byte.
    bpe = models.BPE(vocab=vocab, merges=[], unk_token="<unk>", ignore_merges=True)
    tokenizer = Tokenizer(bpe)
    # Words are letters and digits together, so that " N2" is one token: a stage is one decision.
    words = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]+|\s"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Return the configuration: LLaVA-1.5's shape, made small."""
    return LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=16,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            projection_dim=256,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
    )


def folder() -> Path:
    """Return the folder of the built model, building it in the user's cache if it is not there yet."""
    target = _cache() / f"tiny-{_fingerprint()}"
    if not (target / "config.json").exists():
        _build(target)
    return target


def _build(target: Path) -> None:
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = LlavaForConditionalGeneration(build_config(tokenizer))
    embedding = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    embedding.weight.data.div_(_FAINTNESS)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tiny-") as tmp:
        made = Path(tmp) / "model"
        # Not model.save_pretrained: it imports DeepSpeed, which takes seconds and warns on a CPU.
        model.config.save_pretrained(made)
        (made / "model.safetensors").write_bytes(save(model.state_dict(), {"format": "pt"}))
        tokenizer.save_pretrained(made)
        (made / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=2))
        try:
            made.rename(target)
        except OSError:  # another process was faster: its folder is the same
            if not target.is_dir():
                raise


def _cache() -> Path:
    """Return the first of EEGVLM_CACHE, the user's cache and a temporary folder that can be written."""
    user = getattr(os, "getuid", lambda: "cache")()  # Windows has no user numbers
    homes = (os.environ.get("EEGVLM_CACHE"), os.environ.get("XDG_CACHE_HOME"), "~/.cache")
    home = next(filter(None, homes))
    for place in (Path(home, "eegvlm"), Path(tempfile.gettempdir(), f"eegvlm-{user}")):
        try:
            cache = place.expanduser()
            cache.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # read-only, or there is no home at all
            continue
        if os.access(cache, os.W_OK):
            return cache
    raise EegToolError(
        f"There is no folder to build the tiny model in: {home} cannot be written.",
        "Name one in the environment variable EEGVLM_CACHE.",
    )


def _fingerprint() -> str:
    """Name the build by everything it depends on: this recipe and the library that draws the weights."""
    recipe: Any = (
        inspect.getsource(sys.modules[__name__]),
        transformers.__version__,
        torch.__version__,
    )
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
