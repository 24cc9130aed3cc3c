from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, LlavaProcessor

from eegtool.core.errors import EegToolError
from eegtool.model import hub, loading
from eegtool.model.adapters import add_lora, trained_table
from eegtool.model.checkpoints import base_sha256, find_base, load_base, load_processor
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.families.llava import LlavaBase
from eegtool.model.loading import best_dtype, check_keys, choose_attention


@pytest.fixture
def base(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, as a folder that somebody downloaded."""
    return Path(shutil.copytree(tiny, tmp_path / "llava-1.5"))


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file; None removes one."""
    told = json.loads(path.read_text())
    for name, value in values.items():
        *outer, last = name.split("__")
        inner = told
        for part in outer:
            inner = inner[part]
        inner[last] = value
        if value is None:
            del inner[last]
    path.write_text(json.dumps(told))


def load(folder: Path, **how: Any) -> Any:
    return load_base(find_base(str(folder)), fusion="add", version="v1", dtype=torch.float32, **how)


def test_known_names_and_folders_are_found(tiny: Path, base: Path) -> None:
    assert find_base("tiny") == LlavaBase(tiny) == find_base("tiny", "a tower that is not needed")
    assert find_base(str(base)) == LlavaBase(base)
    assert LlavaBase(tiny).config.vision_config.image_size == 64


@pytest.mark.parametrize(
    "name", ["tyni", "./llava", "/models/llava", "../llava", "a/b/c", "", "llava 1.5/13b"]
)
def test_unknown_base_is_refused(name: str) -> None:
    """The hub is not asked for what cannot be a name there."""
    with pytest.raises(EegToolError, match="neither a folder nor a known name") as caught:
        find_base(name)
    assert "Known: 'tiny'" in caught.value.fix
    assert ("Did you mean 'tiny'?" in caught.value.fix) == (name == "tyni")


def test_a_name_of_the_hub_is_looked_up_there(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(tiny)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert find_base("llava-hf/llava-1.5-13b-hf").folder == tiny
    assert asked == [("llava-hf/llava-1.5-13b-hf", {"local_files_only": True})]


def test_a_folder_that_is_not_a_vision_language_model_is_refused(
    base: Path, tmp_path: Path
) -> None:
    change(base / "config.json", model_type="llama")
    with pytest.raises(EegToolError, match="A 'llama' model is not a vision-language model"):
        find_base(str(base))
    with pytest.raises(EegToolError, match=r"it has no config\.json"):
        find_base(str(tmp_path))


# transformers 5 → the layout of the checkpoints on the hub.
HUB = {
    r"^lm_head": "language_model.lm_head",
    r"^model\.language_model": "language_model.model",
    r"^model\.vision_tower": "vision_tower.vision_model",
    r"^model\.multi_modal_projector": "multi_modal_projector",
}


# Of LLaVA models that transformers 4.52 to 5.5 saved.
WRAPPED = {r"^model\.vision_tower": "model.vision_tower.vision_model"}


def shard(folder: Path, weights: dict[str, torch.Tensor], suffix: str) -> list[Path]:
    """Write the weights in two shards with an index instead of one file."""
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    paths = [folder / f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    index: dict[str, str] = {}
    for i, path in enumerate(paths):
        part = {name: weights[name] for name in sorted(weights)[i::2]}
        (save_file if suffix == "safetensors" else torch.save)(part, path)
        index |= dict.fromkeys(part, path.name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": index}))
    return paths


@pytest.mark.parametrize("files", ["safetensors", "bin", "one file"])
@pytest.mark.parametrize("names", [{}, HUB, WRAPPED], ids=["transformers 5", "hub", "wrapped"])
def test_all_spellings_load_whole(
    base: Path, names: dict[str, str], files: str, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(base / "model.safetensors")
    spelt = {}
    for name, tensor in weights.items():
        for old, new in names.items():
            name = re.sub(old, new, name)
        spelt[name] = tensor
    assert (set(spelt) == set(weights)) == (not names)
    if files == "one file":
        save_file(spelt, base / "model.safetensors")
    else:
        shard(base, spelt, files)
    model, processor = load(base)
    state = model.state_dict()
    for name, weight in weights.items():
        assert torch.equal(state[name], weight)
    assert processor.image_tokens == (16, 16)
    assert "Loading" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("lost", "added", "message"),
    [
        ("model.language_model.norm.weight", None, r"1 weights missing \['model.language_model"),
        ("model.multi_modal_projector.linear_1.bias", None, "1 weights missing"),
        (None, "model.another.weight", r"1 unexpected \['model.another.weight'\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    base: Path, lost: str | None, added: str | None, message: str
) -> None:
    weights = load_file(base / "model.safetensors")
    if lost:
        del weights[lost]
    if added:
        weights[added] = torch.zeros(2)
    save_file(weights, base / "model.safetensors")
    with pytest.raises(EegToolError, match=message):
        load(base)


def test_a_language_model_alone_is_refused(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "multi_modal_projector" not in k}
    save_file(kept, base / "model.safetensors")
    with pytest.raises(EegToolError, match="has no projector"):
        find_base(str(base))


def test_weights_of_another_shape_are_refused(base: Path) -> None:
    change(base / "config.json", text_config__intermediate_size=513)
    with pytest.raises(EegToolError, match=r"mlp\.\w+_proj\.weight is \[.*512.*should be \[.*513"):
        find_base(str(base))


def test_a_head_that_is_the_embedding_needs_no_weights_of_its_own(base: Path) -> None:
    change(base / "config.json", tie_word_embeddings=True, text_config__tie_word_embeddings=True)
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors")
    model, _ = load(base)
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("how", ["missing", "cut short"])
def test_a_shard_that_is_not_whole_is_named(base: Path, suffix: str, how: str) -> None:
    path = shard(base, load_file(base / "model.safetensors"), suffix)[1]
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(EegToolError, match=re.escape(path.name)):
        find_base(str(base))


def test_pickled_code_is_not_run(base: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (base / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Bomb()}, base / "pytorch_model.bin")
    with pytest.raises(EegToolError, match="nothing in it was run") as caught:
        find_base(str(base))
    assert "pytorch_model.bin" in caught.value.what
    assert not (tmp_path / "exploded").exists()


def test_keys_that_fit_are_accepted(tmp_path: Path) -> None:
    check_keys(tmp_path, set(), [])


def lose_the_tokenizer(base: Path) -> None:
    for path in base.glob("tokenizer*"):
        path.unlink()


HALF: dict[str, Callable[[Path], object]] = {
    "no weights": lambda base: (base / "model.safetensors").unlink(),
    "torn weights": lambda base: (base / "model.safetensors").write_bytes(b"\x00" * 20),
    "no tokenizer": lose_the_tokenizer,
    "no preprocessor": lambda base: (base / "preprocessor_config.json").unlink(),
    "half a preprocessor": lambda base: change(base / "preprocessor_config.json", image_mean=None),
}


@pytest.mark.parametrize("spoil", HALF.values(), ids=HALF.keys())
def test_half_a_model_is_an_error_of_the_user(base: Path, spoil: Callable[[Path], object]) -> None:
    spoil(base)
    with pytest.raises(EegToolError) as caught:
        load(base)
    assert str(base) in caught.value.what


def test_the_processor_file_of_todays_transformers_is_read(base: Path) -> None:
    """`save_pretrained` of a processor writes one file, and no preprocessor_config.json."""
    before = load_processor(base, fusion="add", version="v1")
    images = CLIPImageProcessor.from_pretrained(base)
    (base / "preprocessor_config.json").unlink()
    LlavaProcessor(images, before.tokenizer, patch_size=16).save_pretrained(base)
    assert not (base / "preprocessor_config.json").exists()
    assert load_processor(base, fusion="add", version="v1").pixel_spec == before.pixel_spec
    change(base / "processor_config.json", image_processor=None)
    with pytest.raises(EegToolError, match=r"processor_config\.json has no image_mean"):
        load_processor(base, fusion="add", version="v1")


@pytest.mark.parametrize("part", ["", "text_config__"])
def test_a_quantised_base_is_refused_before_it_is_read(base: Path, part: str) -> None:
    packing = {f"{part}quantization_config": {"quant_method": "awq", "bits": 4}}
    change(base / "config.json", **packing)
    (base / "model.safetensors").unlink()
    with pytest.raises(EegToolError, match=r"is quantised \(awq\)") as caught:
        find_base(str(base))
    assert "--bits 4" in caught.value.fix


def test_features_need_a_tower_of_their_width(base: Path) -> None:
    change(base / "config.json", vision_config__hidden_size=768)
    for fusion in ("add", "token"):
        with pytest.raises(EegToolError, match="is 768 wide; high-level features are 1024 wide"):
            load_processor(LlavaBase(base), fusion=fusion, version="v1")
    assert load_processor(LlavaBase(base), fusion="none", version="v1").image_tokens == (16, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vision_feature_select_strategy": "full"}, "from layer -2 by 'full'"),
        ({"vision_feature_layer": -1}, "from layer -1 by 'default'"),
        ({"image_token_index": 3}, "not a fast one with <image> as token 3"),
    ],
)
def test_what_is_not_made_like_llava_is_refused(
    base: Path, values: dict[str, Any], message: str
) -> None:
    change(base / "config.json", **values)
    with pytest.raises(EegToolError, match=message):
        load_processor(base, fusion="add", version="v1")


@pytest.mark.parametrize(("fusion", "version"), [("adds", "v1"), ("add", "v2")])
def test_unknown_parts_are_refused(tiny: Path, fusion: str, version: str) -> None:
    with pytest.raises(EegToolError, match="Unknown"):
        load_processor(tiny, fusion=fusion, version=version)


def test_a_tokenizer_without_padding_gets_one(base: Path) -> None:
    change(base / "tokenizer_config.json", pad_token=None)
    tokenizer = load_processor(base, fusion="add", version="v1").tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_pictures_are_made_as_the_tower_wants_them(tiny: Path) -> None:
    spec = load_processor(tiny, fusion="add", version="v1").pixel_spec
    assert spec.size == 64
    assert spec.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_sampling_habits_of_the_base_are_dropped(base: Path) -> None:
    habits = {"do_sample": True, "temperature": 0.2, "repetition_penalty": 1.3}
    (base / "generation_config.json").write_text(json.dumps(habits))
    model, _ = load(base)
    assert not model.generation_config.do_sample
    assert not model.generation_config.temperature
    assert not model.generation_config.repetition_penalty


def test_a_base_is_known_by_configuration_and_weights(tiny: Path, base: Path) -> None:
    known = base_sha256(LlavaBase(tiny))
    change(base / "config.json", transformers_version="5.17.0", _name_or_path="elsewhere")
    assert base_sha256(LlavaBase(base)) == base_sha256(base) == known
    weights = load_file(base / "model.safetensors")
    weights["model.language_model.layers.1.mlp.up_proj.weight"].mul_(1.001)  # a slight fine-tune
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    tuned = base_sha256(LlavaBase(base))
    assert tuned != known
    change(base / "config.json", text_config__rms_norm_eps=1e-3)
    assert base_sha256(LlavaBase(base)) not in (known, tuned)


@pytest.mark.parametrize(
    ("asked", "cuda", "installed", "dtype", "chosen"),
    [
        ("auto", True, True, torch.bfloat16, "flash_attention_2"),
        ("auto", True, True, torch.float32, "sdpa"),
        ("auto", True, False, torch.float16, "sdpa"),
        ("auto", False, True, torch.bfloat16, "sdpa"),
        ("eager", True, True, torch.bfloat16, "eager"),
        ("flash_attention_2", True, True, torch.float16, "flash_attention_2"),
        ("flash_attention_2", True, False, torch.float16, None),
        ("flash_attention_2", False, True, torch.float16, None),
        ("flash_attention_2", True, True, torch.float32, None),
        ("flash", True, True, torch.float16, None),
    ],
)
def test_attention_is_the_fastest_that_works_here(
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    cuda: bool,
    installed: bool,
    dtype: torch.dtype,
    chosen: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(loading, "find_spec", lambda name: object() if installed else None)
    if chosen:
        assert choose_attention(asked, dtype) == chosen
    else:
        with pytest.raises(EegToolError, match="attention"):
            choose_attention(asked, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_go_straight_to_the_device(tiny: Path, dtype: torch.dtype) -> None:
    """Each as it is read; they and what no file holds, such as rotary frequencies, are the same there."""
    plain, placed = (
        load_base(find_base(str(tiny)), fusion="add", version="v1", dtype=dtype, device=device)[0]
        for device in (None, torch.device("cpu"))
    )
    for name in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(model, name)()) for model in (placed, plain))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert tensor.dtype == theirs[key].dtype
            assert torch.equal(tensor, theirs[key])
    assert {parameter.dtype for parameter in placed.parameters()} == {dtype}


@pytest.mark.parametrize(("zero3", "placed"), [(False, {"": torch.device("meta")}), (True, None)])
def test_zero3_places_weights_itself(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, zero3: bool, placed: dict[str, torch.device] | None
) -> None:
    asked: list[Any] = []

    def look(*_: Any, device_map: Any, quantization_config: Any, **__: Any) -> Any:
        asked.append((device_map, quantization_config))
        raise OSError("seen")

    monkeypatch.setattr(EEGVLM, "from_pretrained", look)
    monkeypatch.setattr(loading, "is_deepspeed_zero3_enabled", lambda: zero3)
    with pytest.raises(EegToolError, match="seen"):
        load(tiny, device=torch.device("meta"))
    assert asked == [(placed, None)]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_reaches_every_part(tiny: Path, attention: str) -> None:
    model, _ = load(tiny, attention=attention)
    parts = (model.model.language_model, model.model.vision_tower)
    assert {part.config._attn_implementation for part in parts} == {attention}


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_four_bits_pack_the_language_model_only(tiny: Path, device: torch.device | None) -> None:
    pytest.importorskip("bitsandbytes")
    model, _ = load(tiny, bits=4, device=device)
    packed = {n for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}
    kinds = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    assert len(packed) == len(kinds) * len(model.model.language_model.layers)
    assert all(name.startswith("model.language_model.layers.") for name in packed)
    plain = load_file(tiny / "model.safetensors")
    state = model.state_dict()
    for name, tensor in plain.items():
        if not any(name.startswith(module) for module in packed):
            assert torch.equal(state[name], tensor)
    counted = trained_table(add_lora(load(tiny)[0], r=4, alpha=8, dropout=0.0))
    assert trained_table(add_lora(model, r=4, alpha=8, dropout=0.0)) == counted


@torch.no_grad()
def test_four_bits_answer_much_like_sixteen(tiny: Path) -> None:
    pytest.importorskip("bitsandbytes")
    generator = torch.Generator().manual_seed(4)
    asked = {
        "input_ids": torch.tensor([[1, 9, *[4] * 16, 10, *[4] * 16, 11, 12]]),
        "pixel_values": torch.randn(1, 3, 64, 64, generator=generator),
        "high_level_features": torch.randn(1, 1, 1024, generator=generator),
    }
    whole, packed = (load(tiny, bits=bits)[0].eval()(**asked).logits for bits in (16, 4))
    assert not torch.equal(whole, packed)
    assert torch.corrcoef(torch.stack([whole.flatten(), packed.flatten()]))[0, 1] > 0.95


def test_other_numbers_of_bits_are_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EegToolError, match="Unknown --bits '8'"):
        load(tiny, bits=8)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(EegToolError, match="--bits 4 needs bitsandbytes") as caught:
        load(tiny, bits=4)
    assert caught.value.fix == "pip install 'eegvlm[quant]'"


@pytest.mark.parametrize(
    ("cuda", "bf16", "dtype"),
    [
        (False, False, torch.float32),
        (True, True, torch.bfloat16),
        (True, False, torch.float16),
    ],
)
def test_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, bf16: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: bf16 or including_emulation,
    )
    assert best_dtype() == dtype
