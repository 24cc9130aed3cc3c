from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import gelu, linear
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
)

from eegtool.core.errors import EegToolError
from eegtool.model import hub
from eegtool.model.adapters import Contract, add_lora, load_adapter, write_adapter
from eegtool.model.checkpoints import base_sha256, find_base, load_base, load_processor
from eegtool.model.families.llava import LlavaBase

QUESTION = "Which stage?"
PATCHES = 4  # (28 / 14)²
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Original:
    """A small LLaVA-1.5 in its authors' layout, and what is in it."""

    folder: Path
    tower: Path
    llama: LlamaForCausalLM
    clip: CLIPVisionModel
    projector: Weights

    @property
    def find(self) -> LlavaBase:
        base = find_base(str(self.folder), str(self.tower))
        assert isinstance(base, LlavaBase)
        return base


def llama_tokenizer() -> LlamaTokenizer:
    """Single characters, and bytes for what is no ASCII."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, *(f"<0x{i:02X}>" for i in range(256)), "▁", *string.printable.strip()]
    return LlamaTokenizer(
        vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges=[]
    )


def write_original(root: Path, *, tower_width: int = 1024, image_size: int = 28) -> Original:
    """Write the layout as LLaVA-v1.5-13b and openai/clip-vit-large-patch14-336 have it."""
    folder, tower = root / "LLaVA-v1.5-13b", root / "clip"
    tokenizer = llama_tokenizer()
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=3,
                num_attention_heads=4,
                rms_norm_eps=1e-5,
                max_position_embeddings=512,
            )
        ).eval()
        clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=tower_width,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=8,
                image_size=image_size,
                patch_size=14,
            )
        ).eval()
        projector = {
            "0.weight": torch.randn(32, tower_width) / 8,
            "0.bias": torch.randn(32),
            "2.weight": torch.randn(32, 32) / 2,
            "2.bias": torch.randn(32),
        }
    text = llama.config
    config = {
        "_name_or_path": "llava-v1.5-13b",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_length": 4096,
        "max_position_embeddings": text.max_position_embeddings,
        "mm_hidden_size": tower_width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "model_type": "llava",
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.31.0",
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": text.vocab_size,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = dict(llama.state_dict())
    weights |= {f"model.mm_projector.{k}": v for k, v in projector.items()}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    write_shards(folder, weights)
    write_tower(tower, clip)
    return Original(folder, tower, llama, clip, projector)


def write_shards(folder: Path, weights: Weights) -> None:
    """Write two ``.bin`` shards and their index, as transformers 4 did."""
    names = sorted(weights)
    shards = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for shard, held in shards.items():
        torch.save({name: weights[name] for name in held}, folder / shard)
    index = {name: shard for shard, held in shards.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))


def write_tower(tower: Path, clip: CLIPVisionModel) -> None:
    """Write a whole CLIP, of which LLaVA takes the half that sees."""
    tower.mkdir(exist_ok=True)
    vision = clip.config.to_dict() | {"model_type": "clip_vision_model"}
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 768}
    config |= {"vision_config": vision, "text_config": {"hidden_size": 8}}
    (tower / "config.json").write_text(json.dumps(config, default=str))
    weights = {f"vision_model.{name}": tensor for name, tensor in clip.state_dict().items()}
    assert "vision_model.embeddings.class_embedding" in weights
    weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    weights["text_model.embeddings.token_embedding.weight"] = torch.zeros(9, 8)
    weights["visual_projection.weight"] = torch.zeros(768, 8)
    weights["logit_scale"] = torch.tensor(1.0)
    torch.save(weights, tower / "pytorch_model.bin")
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "crop_size": 28}
    (tower / "preprocessor_config.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Written once, never to be changed."""
    torch.set_num_threads(1)
    return write_original(tmp_path_factory.mktemp("original"))


@pytest.fixture
def original(written: Original, tmp_path: Path) -> Original:
    """A copy that a test may spoil."""
    folder = shutil.copytree(written.folder, tmp_path / "LLaVA-v1.5-13b")
    tower = shutil.copytree(written.tower, tmp_path / "clip")
    return Original(Path(folder), Path(tower), written.llama, written.clip, written.projector)


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file; None removes one."""
    told = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in told.items() if values.get(k, "") is not None}))


def load(base: LlavaBase, fusion: str = "add") -> Any:
    return load_base(base, fusion=fusion, version="v1", dtype=torch.float32)


def rewrite(folder: Path, edit: Callable[[Weights], object]) -> None:
    """Change the weights of a folder."""
    files = sorted(folder.glob("*.bin"))
    weights: Weights = {}
    for path in files:
        weights |= torch.load(path, weights_only=True)
        path.unlink()
    edit(weights)
    write_shards(folder, weights)


def test_the_layout_is_recognised_by_what_it_says(written: Original) -> None:
    base = written.find
    assert base == LlavaBase(written.folder, written.tower)
    config = base.config
    assert config.text_config.num_hidden_layers == 3
    assert config.text_config.rms_norm_eps == 1e-5
    assert (config.vision_config.hidden_size, config.vision_config.image_size) == (1024, 28)
    assert (config.vision_feature_layer, config.image_seq_length) == (-2, PATCHES)


def test_every_weight_finds_its_place(written: Original) -> None:
    """Names by hand: what LLaVA calls them and what transformers 5 does."""
    model, _ = load(written.find)
    state = model.state_dict()
    names = {"lm_head.weight": written.llama.state_dict()["lm_head.weight"]}
    for name, tensor in written.llama.model.state_dict().items():
        names[f"model.language_model.{name}"] = tensor
    for name, tensor in written.clip.state_dict().items():
        names[f"model.vision_tower.{name}"] = tensor
    for number, linear_name in (("0", "linear_1"), ("2", "linear_2")):
        for kind in ("weight", "bias"):
            key = f"model.multi_modal_projector.{linear_name}.{kind}"
            names[key] = written.projector[f"{number}.{kind}"]
    assert set(names) == set(state)
    assert all(torch.equal(state[name], tensor) for name, tensor in names.items())


@torch.no_grad()
def test_it_answers_as_its_parts_put_together_by_hand(written: Original) -> None:
    """EEG-VLM's formula over transformers' own LLaMA and CLIP; ``<image>`` has no embedding."""
    model, processor = load(written.find)
    ids = processor.encode_prompt(QUESTION, 2)
    image_id = written.llama.config.vocab_size
    assert ids.count(image_id) == 2 * PATCHES
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 28, 28, generator=generator)
    feature = torch.randn(1, 1, 1024, generator=generator)

    def project(x: torch.Tensor) -> torch.Tensor:
        p = written.projector
        return linear(gelu(linear(x, p["0.weight"], p["0.bias"])), p["2.weight"], p["2.bias"])

    seen = written.clip(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
    low, high = project(seen), project(feature[0])
    rows, visual = [], iter([*low, *(low + high)])
    for i in ids:
        table = written.llama.model.embed_tokens.weight
        rows.append(next(visual) if i == image_id else table[i])
    expected = written.llama(inputs_embeds=torch.stack(rows)[None]).logits
    found = model.eval()(
        input_ids=torch.tensor([ids]), pixel_values=pixels, high_level_features=feature
    ).logits
    assert (found - expected).abs().max() < 1e-4
    assert expected.std() > 0.01


def test_pixels_are_those_of_the_tower(written: Original) -> None:
    spec = load_processor(written.find, fusion="add", version="v1").pixel_spec
    assert (spec.size, spec.mean, spec.std) == (28, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def pieces(tokenizer: Any, text: str) -> list[int]:
    """LLaVA's own way: cut at the images, tokenise the pieces one by one, join."""
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    ids = [tokenizer.bos_token_id]
    for i, piece in enumerate(text.split("<image>")):
        ids += [image_id] * (i > 0) + tokenizer(piece, add_special_tokens=False).input_ids
    return ids


def test_texts_are_tokenised_as_llava_does(written: Original, tmp_path: Path) -> None:
    """Each piece begins with a blank of its own, also when the tokenizer was saved and read again."""
    text = "This is a VQA task. Question: <image>\n<image>\nWhich  stage? The answer is: N2 75 µV"
    tokenizer = load_processor(written.find, fusion="add", version="v1").tokenizer
    blank, newline = tokenizer.convert_tokens_to_ids(["▁", "<0x0A>"])
    ids = tokenizer(text).input_ids
    where = ids.index(len(tokenizer) - 1)
    assert ids[where : where + 3] == [len(tokenizer) - 1, blank, newline]
    assert ids == pieces(tokenizer, text)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == ids


def test_the_tokenizer_of_the_publication_is_read(original: Original) -> None:
    """LLaVA-v1.5-13b has ``tokenizer.model`` only."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    corpus = original.folder / "corpus.txt"
    corpus.write_text("Which sleep stage? The answer is: N2 REM wake\nstage sleep  answer\n" * 40)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(original.folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (original.folder / "tokenizer.json").unlink()
    change(original.folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    judge = sentencepiece.SentencePieceProcessor(
        model_file=str(original.folder / "tokenizer.model")
    )
    tokenizer = load_processor(original.find, fusion="add", version="v1").tokenizer
    text = "Question: <image>\n<image>\nWhich sleep  stage? The answer is: N2 µ"
    expected = [judge.bos_id()]
    for i, piece in enumerate(text.split("<image>")):
        expected += [judge.get_piece_size()] * (i > 0) + judge.encode(piece)
    assert tokenizer(text).input_ids == expected


def test_a_tokenizer_without_its_reader_is_an_error_of_the_user(
    original: Original, monkeypatch: pytest.MonkeyPatch
) -> None:
    (original.folder / "tokenizer.json").rename(original.folder / "tokenizer.model")
    monkeypatch.setattr("eegtool.model.llava_layout.find_spec", lambda name: None)
    with pytest.raises(EegToolError, match="sentencepiece is needed") as caught:
        load_processor(original.find, fusion="add", version="v1")
    assert "pip install sentencepiece protobuf" in caught.value.fix


def test_more_tokens_than_embeddings_are_refused(original: Original) -> None:
    tokenizer = llama_tokenizer()
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(original.folder)
    vocab = original.llama.config.vocab_size
    with pytest.raises(EegToolError, match=f"has {vocab + 2} tokens; .* embeddings for {vocab}"):
        load_processor(original.find, fusion="add", version="v1")


def test_embeddings_may_be_padded(original: Original) -> None:
    """``<image>`` is then a number within the table, and still stands for a patch."""
    spare = 24

    def pad(weights: Weights) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = torch.cat([weights[name], torch.zeros(spare, 32)])

    vocab = original.llama.config.vocab_size
    rewrite(original.folder, pad)
    change(original.folder / "config.json", vocab_size=vocab + spare)
    model, processor = load(original.find)
    ids = processor.encode_prompt(QUESTION, 2)
    assert ids.count(vocab) == 2 * PATCHES
    logits = model(
        input_ids=torch.tensor([ids]),
        pixel_values=torch.zeros(1, 3, 28, 28),
        high_level_features=torch.zeros(1, 1, 1024),
    ).logits
    assert logits.shape[-1] == vocab + spare


def to_safetensors(folder: Path) -> Path:
    weights: Weights = {}
    for path in sorted(folder.glob("*.bin")):
        weights |= torch.load(path, weights_only=True)
        path.unlink()
    save_file(weights, folder / "model.safetensors")
    return folder / "model.safetensors"


def tower_alone(original: Original) -> None:
    """As CLIPVisionModel is saved, instead of a whole CLIP."""
    (original.tower / "pytorch_model.bin").unlink()
    original.clip.save_pretrained(original.tower)


def tower_among_the_weights(original: Original) -> None:
    """LLaVA whose tower was trained too: its own counts, not the one it started from."""
    names = {f"model.vision_tower.vision_tower.vision_model.{k}": v for k, v in tower_of(original)}
    rewrite(original.folder, lambda weights: weights.update(names))
    scrambled = {f"vision_model.{k}": torch.zeros_like(v) for k, v in tower_of(original)}
    torch.save(scrambled, original.tower / "pytorch_model.bin")


def tower_of(original: Original) -> list[tuple[str, torch.Tensor]]:
    return list(original.clip.state_dict().items())


def before_pytorch_1_6(original: Original) -> None:
    path = original.tower / "pytorch_model.bin"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)


VARIANTS: dict[str, Callable[[Original], object]] = {
    "safetensors": lambda original: to_safetensors(original.folder),
    "safetensors tower": lambda original: to_safetensors(original.tower),
    "tower alone": tower_alone,
    "tower among the weights": tower_among_the_weights,
    "old files": before_pytorch_1_6,
    "half precision": lambda original: rewrite(
        original.folder, lambda w: w.update({k: v.half() for k, v in w.items()})
    ),
    "later name": lambda original: change(
        original.folder / "config.json", model_type="llava_llama"
    ),
}


@pytest.mark.parametrize("vary", VARIANTS.values(), ids=VARIANTS.keys())
def test_other_ways_to_write_it_load_the_same(
    original: Original, vary: Callable[[Original], object]
) -> None:
    expected = load(original.find)[0].state_dict()
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    vary(original)
    found = load(original.find)[0].state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.allclose(found[name], tensor, atol=2e-3)


def test_training_in_place_leaves_the_files_alone(original: Original) -> None:
    """Tensors are mapped from the files."""
    files = {p: p.read_bytes() for p in (*original.folder.iterdir(), *original.tower.iterdir())}
    model, _ = load(original.find)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(path.read_bytes() == held for path, held in files.items())


class Bomb:
    """Pickled code: run by whoever unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def plant(original: Original, *, zipped: bool) -> None:
    shard = original.folder / "pytorch_model-00002-of-00002.bin"
    held = torch.load(shard, weights_only=True) | {"bomb": Bomb(original.folder / "exploded")}
    if zipped:
        torch.save(held, shard)
    else:
        shard.write_bytes(pickle.dumps(held))


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def lose_files(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


def lose(pattern: str, weights: Weights) -> None:
    for name in [name for name in weights if re.search(pattern, name)]:
        del weights[name]


SPOILT: dict[str, tuple[Callable[[Original], object], str]] = {
    "a shard is missing": (
        lambda o: (o.folder / "pytorch_model-00002-of-00002.bin").unlink(),
        "1 of 2 weights files are missing, 'pytorch_model-00002-of-00002.bin' first",
    ),
    "a shard is cut short": (
        lambda o: cut(o.folder / "pytorch_model-00001-of-00002.bin", 0.7),
        "00001-of-00002.bin is cut short",
    ),
    "a shard is empty": (
        lambda o: cut(o.folder / "pytorch_model-00001-of-00002.bin", 0),
        "00001-of-00002.bin (cannot be read|is damaged)",
    ),
    "safetensors are cut short": (
        lambda o: cut(to_safetensors(o.folder), 0.7),
        "model.safetensors cannot be read",
    ),
    "code in an archive": (partial(plant, zipped=True), "no weights; nothing in it was run"),
    "code in a bare pickle": (partial(plant, zipped=False), "no weights; nothing in it was run"),
    "no tensors": (
        lambda o: torch.save({"state": {"a": 1}}, o.tower / "pytorch_model.bin"),
        "does not map names to tensors",
    ),
    "an index of nothing": (
        lambda o: change(o.folder / "pytorch_model.bin.index.json", weight_map={}),
        "names no weights",
    ),
    "an index that climbs out": (
        lambda o: change(
            o.folder / "pytorch_model.bin.index.json", weight_map={"a": "../clip/pytorch_model.bin"}
        ),
        "names a file outside its folder",
    ),
    "no projector": (
        lambda o: rewrite(o.folder, partial(lose, "mm_projector")),
        "has no projector",
    ),
    "half a projector": (
        lambda o: rewrite(o.folder, partial(lose, r"mm_projector\.2")),
        r"2 weights missing \['model.multi_modal_projector.linear_2.bias'",
    ),
    "a layer is missing": (
        lambda o: rewrite(o.folder, partial(lose, r"layers\.1\.")),
        r"9 weights missing \['model.language_model.layers.1",
    ),
    "a weight too many": (
        lambda o: rewrite(o.folder, lambda w: w.update({"model.more": torch.zeros(1)})),
        r"1 unexpected \['model.language_model.more'\]",
    ),
    "another shape": (
        lambda o: rewrite(o.folder, lambda w: w.update({"lm_head.weight": torch.zeros(7, 32)})),
        r"lm_head.weight is \[7, 32\] and should be",
    ),
    "no weights": (
        lambda o: lose_files(o.folder, "pytorch_model*"),
        "holds no weights",
    ),
    "a tower without weights": (
        lambda o: (o.tower / "pytorch_model.bin").unlink(),
        "clip holds no weights",
    ),
    "half a tower": (
        lambda o: torch.save(
            {f"vision_model.{k}": v for k, v in tower_of(o)[:-3]}, o.tower / "pytorch_model.bin"
        ),
        r"3 weights missing \['model.vision_tower",
    ),
    "no tower": (lambda o: (o.tower / "config.json").unlink(), "holds no vision tower"),
    "a tower that is no CLIP": (
        lambda o: change(o.tower / "config.json", model_type="siglip"),
        "describes a 'siglip' model, no CLIP",
    ),
    "another model": (
        lambda o: change(o.folder / "config.json", architectures=["LlavaMptForCausalLM"]),
        r"says architectures \['LlavaMptForCausalLM'\]; LLaVA-1.5 has \['LlavaLlamaForCausalLM'\]",
    ),
    "another projector": (
        lambda o: change(o.folder / "config.json", mm_projector_type="linear"),
        "says mm_projector_type linear; LLaVA-1.5 has mlp2x_gelu",
    ),
    "tokens around pictures": (
        lambda o: change(o.folder / "config.json", mm_use_im_start_end=True),
        "says mm_use_im_start_end True",
    ),
    "no width": (
        lambda o: change(o.folder / "config.json", mm_hidden_size=None),
        "has no mm_hidden_size",
    ),
    "a broken configuration": (
        lambda o: (o.folder / "config.json").write_text("{"),
        r"config\.json, line 1: cannot be read",
    ),
    "a size that is no number": (
        lambda o: change(o.folder / "config.json", hidden_size="wide"),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT.keys())
def test_what_is_spoilt_is_found_before_anything_is_loaded(
    original: Original, spoil: Callable[[Original], object], message: str
) -> None:
    spoil(original)
    with pytest.raises(EegToolError, match=message) as caught:
        find_base(str(original.folder), str(original.tower))
    assert str(original.folder.parent) in caught.value.what
    assert not (original.folder / "exploded").exists()


def test_the_tower_has_the_width_the_projector_was_made_for(
    original: Original, tmp_path: Path
) -> None:
    other = write_original(tmp_path / "other", tower_width=768)
    with pytest.raises(
        EegToolError, match=r"768 wide; .* made for one that is 1024 wide"
    ) as caught:
        find_base(str(original.folder), str(other.tower))
    assert "--vision-tower" in caught.value.fix


def test_features_need_a_tower_of_their_width(tmp_path: Path) -> None:
    base = write_original(tmp_path, tower_width=768).find
    with pytest.raises(EegToolError, match="is 768 wide; high-level features are 1024 wide"):
        load_processor(base, fusion="add", version="v1")
    assert load_processor(base, fusion="none", version="v1").image_tokens == (PATCHES, 0)


@pytest.mark.parametrize(("size", "expected"), [(42, 9), (50, 9), (14, 1)])
def test_any_size_of_tower_works(tmp_path: Path, size: int, expected: int) -> None:
    """Also one that its patches do not divide."""
    base = write_original(tmp_path, image_size=size).find
    model, processor = load(base)
    assert processor.image_tokens == (expected, expected)
    assert processor.pixel_spec.size == size
    logits = model(
        input_ids=torch.tensor([processor.encode_prompt(QUESTION, 2)]),
        pixel_values=torch.randn(1, 3, size, size),
        high_level_features=torch.randn(1, 1, 1024),
    ).logits
    assert bool(logits.isfinite().all())


def test_a_tower_on_the_hub_is_fetched_once(
    original: Original, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name in the configuration counts where none is given; what is in the cache is taken."""
    asked = []

    def snapshot(name: str, *, local_files_only: bool = False, **options: Any) -> str:
        asked.append((name, local_files_only))
        if local_files_only and len(asked) == 1:
            raise FileNotFoundError(name)
        return str(original.tower)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    name = "openai/clip-vit-large-patch14-336"
    for _ in range(2):
        assert find_base(str(original.folder)).vision_tower == original.tower
    assert asked == [(name, True), (name, False), (name, True)]


def test_half_a_tower_in_the_cache_is_fetched_anew(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's program asked for its configuration only."""
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(original.tower / "config.json", half)
    monkeypatch.setattr(
        hub,
        "snapshot_download",
        lambda name, local_files_only=False, **_: str(half if local_files_only else original.tower),
    )
    assert find_base(str(original.folder)).vision_tower == original.tower


def test_without_network_it_is_an_error_of_the_user(
    original: Original, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str, **options: Any) -> str:
        raise OSError("no network\nand a long story")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(EegToolError, match=r"cannot be fetched: no network\.") as caught:
        find_base(str(original.folder))
    assert "'openai/clip-vit-large-patch14-336' is not a folder here" in caught.value.what
    with pytest.raises(
        EegToolError, match=r"The vision tower '\./clip-not-there' of .* is not there"
    ):
        find_base(str(original.folder), "./clip-not-there")
    change(original.folder / "config.json", mm_vision_tower=None)
    with pytest.raises(EegToolError, match=r"The vision tower '' of") as caught:
        find_base(str(original.folder))
    assert "--vision-tower" in caught.value.fix


def test_it_is_known_by_its_weights_and_not_by_its_place(
    original: Original, tmp_path: Path
) -> None:
    known = base_sha256(original.find)
    moved = shutil.copytree(original.folder, tmp_path / "moved")
    tower = shutil.copytree(original.tower, tmp_path / "moved-tower")
    change(
        Path(moved) / "config.json",
        _name_or_path="x",
        mm_vision_tower="y",
        transformers_version="5",
    )
    base = find_base(str(moved), str(tower))
    assert base_sha256(base) == known

    weights = torch.load(tower / "pytorch_model.bin", weights_only=True)
    weights["vision_model.post_layernorm.bias"][7] += 1e-3
    torch.save(weights, tower / "pytorch_model.bin")
    other_tower = base_sha256(base)
    assert other_tower != known
    rewrite(Path(moved), lambda w: w["model.mm_projector.0.weight"][3, 500].add_(1e-3))
    assert base_sha256(base) not in (known, other_tower)


def test_an_adapter_of_it_comes_back(written: Original, tmp_path: Path) -> None:
    """Trained with a tower given on the command line, asked without."""
    model, processor = load(written.find)
    peft_model = add_lora(model, r=2, alpha=4, dropout=0.0)
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(p.shape, generator=generator)
        for name, p in peft_model.named_parameters()
        if p.requires_grad
    }
    contract = Contract(
        base=str(written.folder),
        base_sha256=base_sha256(written.find),
        fusion="add",
        version="v1",
        pixel_spec=processor.pixel_spec,
        features_weights_sha256="",
        features="real",
        vision_tower=str(written.tower),
    )
    write_adapter(tmp_path / "run", peft_model, state, contract)
    loaded, again, found = load_adapter(tmp_path / "run", base=None, dtype=torch.float32)
    assert found == contract
    assert again.n_image_tokens == 2 * PATCHES
    held = dict(loaded.named_parameters())
    assert all(torch.equal(held[name], tensor) for name, tensor in state.items())


ZERO3 = """
import sys, torch
from pathlib import Path
from transformers import TrainingArguments
from eegtool.core.errors import EegToolError
from eegtool.model.checkpoints import find_base, load_base

zero3, *layouts = sys.argv[1:]
args = TrainingArguments("unused", deepspeed=zero3, use_cpu=True, per_device_train_batch_size=1)
import deepspeed
deepspeed.init_distributed()
wanted = dict(fusion="add", version="v1", dtype=torch.float32)
for layout in layouts:
    folder, tower, expected = layout.split(",")
    base = find_base(folder, tower)
    model, _ = load_base(base, **wanted)
    names, parameters = zip(*model.named_parameters())
    assert all(p.numel() == 0 and p.ds_numel > 0 for p in parameters), "not sharded"
    expected = torch.load(expected, weights_only=True)
    assert set(names) == set(expected), set(names) ^ set(expected)
    with deepspeed.zero.GatheredParameters(list(parameters)):
        for name, parameter in zip(names, parameters):
            assert torch.equal(parameter.detach().cpu(), expected[name]), name
try:
    load_base(base, **wanted, bits=4)
except EegToolError as error:
    assert "--bits 4" in str(error)
else:
    raise AssertionError("packed and sharded")
rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
Path(f"rank{rank}.txt").write_text(f"{rank} of {ranks} has {layouts}")  # printed, ranks mix
"""


@pytest.mark.usefixtures("warm")
def test_two_ranks_of_zero3_share_one_model_of_either_layout(
    written: Original, tiny: Path, tmp_path: Path
) -> None:
    layouts = []
    for name, base in {"llava": written.find, "hf": LlavaBase(tiny)}.items():
        torch.save(load(base)[0].state_dict(), tmp_path / f"{name}.bin")
        layouts.append(f"{base.folder},{base.vision_tower or ''},{tmp_path / name}.bin")
    (tmp_path / "rank.py").write_text(ZERO3)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(tmp_path / "rank.py")),
            *(str(Path(__file__).parents[2] / "scripts" / "zero3.json"), *layouts),
        ],
        env=os.environ
        | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        | {"TORCH_EXTENSIONS_DIR": f"{sys.prefix}/torch_extensions"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    for rank in range(2):
        assert (tmp_path / f"rank{rank}.txt").read_text() == f"{rank} of 2 has {layouts}"
