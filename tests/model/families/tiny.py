"""Small random checkpoints of each family, of transformers' own classes; one entry a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import transformers as hf
from tokenizers import AddedToken, processors

from eegtool.model.tiny import build_tokenizer

SIDE: Final = 64
WIDTH: Final = 32
_GRIDS: Final = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
_MEAN: Final = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}

_LLAMA: Final = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,  # so that answers differ by more than rounding
}
_SIGLIP: Final = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
_QWEN_VISION: Final = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "out_hidden_size": WIDTH,
}

# The families' own chat templates, without tools and videos.
_CHATML: Final = (
    "{% for message in messages %}"
    "SYSTEM"
    "<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN: Final = _CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
_DEFAULT_SYSTEM: Final = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
_GEMMA: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_IDEFICS: Final = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_ONEVISION: Final = (  # with a blank behind 'assistant' that its cue for an answer does not have
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MISTRAL: Final = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}[/INST]"
    "{% else %}{{ message['content'][0]['text'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Tiny:
    """How a small model of a family is made.

    `special` are the special tokens of its tokenizer, `named` those that its processor asks for by name,
    `tokens` the number of visual tokens of a picture shown twice, `alone` of one shown once if that is another.
    """

    template: str
    special: tuple[str, ...]
    config: Callable[[Any], Any]
    processor: Callable[[Any], Any]
    tokens: int
    alone: int = 0
    end: str = "<|im_end|>"
    named: dict[str, str] = field(default_factory=dict)
    begins: bool = False


def _ids(tokenizer: Any, **named: str) -> dict[str, int]:
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in named.items()}


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return _LLAMA | {"vocab_size": len(tokenizer), "bos_token_id": None} | ends | more


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    return _ids(
        tokenizer,
        image_token_id="<|image_pad|>",
        video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>",
        vision_end_token_id="<|vision_end|>",
    )


def _mrope(*section: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section)} | more


def _qwen_pictures() -> Any:
    return hf.Qwen2VLImageProcessor(
        patch_size=8, merge_size=2, size={"shortest_edge": 16**2, "longest_edge": 512**2}
    )


def _qwen3_config(tokenizer: Any) -> Any:
    rope = _mrope(2, 1, 1, mrope_interleaved=True)
    return hf.Qwen3VLConfig(
        text_config=_text(tokenizer, head_dim=8, rope_parameters=rope),
        vision_config=_QWEN_VISION
        | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        **_qwen_ids(tokenizer),
    )


def _qwen2_5_config(tokenizer: Any) -> Any:
    return hf.Qwen2_5_VLConfig(
        text_config=_text(tokenizer, rope_parameters=_mrope(2, 1, 1)),
        vision_config=_QWEN_VISION | {"window_size": 32, "fullatt_block_indexes": [1]},
        **_qwen_ids(tokenizer),
    )


def _idefics_config(kind: Any) -> Callable[[Any], Any]:
    return lambda tokenizer: kind(
        text_config={"model_type": "llama"} | _text(tokenizer),
        vision_config=dict(_SIGLIP),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        **_ids(tokenizer, image_token_id="<image>"),
    )


def _idefics_pictures(kind: Any) -> Any:
    return kind(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, **_MEAN)


def _gemma_config(tokenizer: Any) -> Any:
    return hf.Gemma3Config(
        text_config=_text(
            tokenizer,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=24,  # less than a prompt has
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=dict(_SIGLIP),
        mm_tokens_per_image=16,
        **_ids(
            tokenizer,
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
            image_token_index="<image_soft_token>",
        ),
    )


def _internvl_config(tokenizer: Any) -> Any:
    vision = _SIGLIP | {"image_size": [SIDE, SIDE], "patch_size": [8, 8]}
    return hf.InternVLConfig(
        text_config={"model_type": "qwen2"} | _text(tokenizer),
        vision_config=vision,
        image_seq_length=16,
        tie_word_embeddings=False,
        **_ids(tokenizer, image_token_id="<IMG_CONTEXT>"),
    )


def _onevision_config(tokenizer: Any) -> Any:
    return hf.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2"} | _text(tokenizer),
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False} | _SIGLIP,
        image_grid_pinpoints=_GRIDS,
        **_ids(tokenizer, image_token_index="<image>", video_token_index="<video>"),
    )


def _mistral_config(tokenizer: Any) -> Any:
    return hf.Mistral3Config(
        text_config={"model_type": "mistral"} | _text(tokenizer, head_dim=8),
        vision_config={"model_type": "pixtral", "head_dim": 16} | _SIGLIP,
        spatial_merge_size=2,
        tie_word_embeddings=False,
        **_ids(tokenizer, image_token_index="[IMG]"),
    )


_QWEN_TOKENS: Final = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_IDEFICS_TOKENS: Final = (
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    "<row_1_col_1>",
)
_INTERNVL_NAMES: Final = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_GEMMA_NAMES: Final = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
}

TINY: Final[dict[str, Tiny]] = {
    "qwen3_vl": Tiny(
        template=_QWEN.replace("SYSTEM", ""),
        special=_QWEN_TOKENS,
        config=_qwen3_config,
        processor=lambda t: hf.Qwen3VLProcessor(
            _qwen_pictures(), t, hf.Qwen3VLVideoProcessor(patch_size=8)
        ),
        tokens=16,
    ),
    "smolvlm": Tiny(
        template=_IDEFICS,
        special=_IDEFICS_TOKENS,
        config=_idefics_config(hf.SmolVLMConfig),
        processor=lambda t: hf.SmolVLMProcessor(
            _idefics_pictures(hf.SmolVLMImageProcessor),
            t,
            hf.SmolVLMVideoProcessor(),
            image_seq_len=16,
        ),
        tokens=16,
        end="<end_of_utterance>",
    ),
    "gemma3": Tiny(
        template=_GEMMA,
        special=("<start_of_turn>", "<end_of_turn>", *_GEMMA_NAMES.values()),
        config=_gemma_config,
        processor=lambda t: hf.Gemma3Processor(
            hf.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}, **_MEAN),
            t,
            image_seq_length=16,
        ),
        tokens=16,
        end="<end_of_turn>",
        named=_GEMMA_NAMES,
        begins=True,
    ),
    "qwen2_5_vl": Tiny(
        template=_QWEN.replace("SYSTEM", _DEFAULT_SYSTEM),
        special=_QWEN_TOKENS,
        config=_qwen2_5_config,
        processor=lambda t: hf.Qwen2_5_VLProcessor(
            _qwen_pictures(), t, hf.Qwen2VLVideoProcessor(patch_size=8)
        ),
        tokens=16,
    ),
    "internvl": Tiny(
        template=_CHATML.replace("SYSTEM", "").replace("IMAGE", "<IMG_CONTEXT>\n"),
        special=("<|im_start|>", "<|im_end|>", *_INTERNVL_NAMES.values()),
        config=_internvl_config,
        processor=lambda t: hf.InternVLProcessor(
            hf.GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}, **_MEAN),
            t,
            hf.InternVLVideoProcessor(),
            image_seq_length=16,
        ),
        tokens=16,
        named=_INTERNVL_NAMES,
    ),
    "llava_onevision": Tiny(
        template=_ONEVISION,
        special=("<|im_start|>", "<|im_end|>", "<video>"),
        config=_onevision_config,
        processor=lambda t: hf.LlavaOnevisionProcessor(
            hf.LlavaOnevisionImageProcessor(
                size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=_GRIDS, **_MEAN
            ),
            t,
            hf.LlavaOnevisionVideoProcessor(),
            num_image_tokens=64,
            vision_feature_select_strategy="full",
        ),
        tokens=64 + 1,  # a new line
        alone=64 + 8 * (8 + 1),  # the whole, and a tile with a new line for each of its rows
    ),
}

UNTRIED: Final[dict[str, Tiny]] = {
    "idefics3": Tiny(
        template=_IDEFICS,
        special=_IDEFICS_TOKENS,
        config=_idefics_config(hf.Idefics3Config),
        processor=lambda t: hf.Idefics3Processor(
            hf.Idefics3ImageProcessor(
                size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, **_MEAN
            ),
            t,
            image_seq_len=16,
        ),
        tokens=16,
        end="<end_of_utterance>",
    ),
    "mistral3": Tiny(
        template=_MISTRAL,
        special=("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        config=_mistral_config,
        processor=lambda t: hf.PixtralProcessor(
            hf.PixtralImageProcessor(
                size={"longest_edge": SIDE}, patch_size={"height": 8, "width": 8}, **_MEAN
            ),
            t,
            patch_size=8,
            spatial_merge_size=2,
        ),
        tokens=16,
        end="</s>",
        begins=True,
    ),
}
"""Models that `FAMILIES` does not name."""


def build(name: str, folder: Path) -> Path:
    """Write the small model of a family as transformers writes any."""
    tiny = (TINY | UNTRIED)[name]
    tokenizer = tokenizer_of(tiny)
    processor = tiny.processor(tokenizer)
    processor.chat_template = tiny.template
    config = tiny.config(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = hf.AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters():  # a projector of Gemma 3, and biases
            if not parameter.any():
                parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tokenizer_of(tiny: Tiny) -> Any:
    """Return the tiny model's tokenizer with a family's special tokens."""
    backend = build_tokenizer().backend_tokenizer
    backend.add_special_tokens([AddedToken(token, special=True) for token in tiny.special])
    if not tiny.begins:
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>" if tiny.begins else None,
        eos_token=tiny.end,
        pad_token="<pad>",
        model_specific_special_tokens=tiny.named,
    )
