"""A LLaVA-1.5 of any size in Hugging Face's layout, with weights drawn at random.

Weights are N(0, 0.02) in bfloat16, norms 1 and biases 0: never zeros, with which a GPU computes faster and
errors do not show. Tokenizer and pixel statistics are those of `tiny`. Tensors are drawn on the GPU, where
there is one, and written shard by shard: 13B is 26.7 GB.

    python scripts/bench/gpu/random_base.py FOLDER --size 13b
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from eegtool.model import tiny
from eegtool.model.eegvlm import EEGVLM

SHARD_BYTES = 3_000_000_000
LANGUAGE = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}
SIZES = ("tiny", *LANGUAGE)


def llava_15(size: str, image_token: int = 32000) -> LlavaConfig:
    """Return the configuration of LLaVA-1.5 on Vicuna, with CLIP ViT-L/14 at 336 pixels."""
    tower = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        **LANGUAGE[size], vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5
    )
    return LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        vision_config=tower,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=576,
    )


def write_size(folder: Path, size: str) -> None:
    """Write the model of a size, with what `tiny` has beside its weights."""
    like = tiny.folder()
    config = LlavaConfig.from_pretrained(like)
    if size != "tiny":
        config = llava_15(size, config.image_token_id)
    write(folder, config, like)


def write(folder: Path, config: LlavaConfig, like: Path) -> None:
    """Write a model of a configuration, with the tokenizer and the pixel statistics of another one.

    The folder takes its name when it is whole.
    """
    made = folder.with_name(f"{folder.name}.partial")
    made.mkdir(parents=True)
    config.save_pretrained(made)
    for file in like.iterdir():
        if "token" in file.name or file.name == "preprocessor_config.json":
            shutil.copy(file, made)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in EEGVLM(config).state_dict().items()}
    files = {}
    for number, shard in enumerate(shards(shapes), start=1):
        name = f"model-{number:05}.safetensors"
        save_file(shard, made / name, {"format": "pt"})
        files |= dict.fromkeys(shard, name)
    index = {"metadata": {}, "weight_map": files}
    (made / "model.safetensors.index.json").write_text(json.dumps(index))
    made.rename(folder)


def shards(shapes: Mapping[str, torch.Size]) -> Iterator[dict[str, torch.Tensor]]:
    """Draw the tensors, so many at a time that they fill a file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
        if name.endswith("bias"):
            tensor.zero_()
        elif "norm" in name:
            tensor.fill_(1)
        else:
            tensor.normal_(std=0.02)
        shard[name] = tensor.cpu()
        if sum(t.nbytes for t in shard.values()) > SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="13b")
    options = parser.parse_args()
    write_size(options.folder, options.size)


if __name__ == "__main__":
    main()
