from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eegtool.core.errors import EegToolError
from eegtool.model.checkpoints import (
    base_sha256,
    best_dtype,
    check_keys,
    load_base,
    load_processor,
    resolve_base,
)


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


def load(folder: Path, fusion: str = "add") -> Any:
    return load_base(folder, fusion=fusion, version="v1", dtype=torch.float32)


def test_known_names_and_folders_are_found(tiny: Path, base: Path) -> None:
    assert resolve_base("tiny") == tiny
    assert resolve_base(str(base)) == base


@pytest.mark.parametrize(
    ("name", "message"),
    [("tyni", "neither a folder nor a known name"), ("llava-hf/llava-1.5-13b-hf", "neither")],
)
def test_unknown_base_is_refused(name: str, message: str) -> None:
    with pytest.raises(EegToolError, match=message) as caught:
        resolve_base(name)
    assert "Known: 'tiny'" in caught.value.fix
    assert ("Did you mean 'tiny'?" in caught.value.fix) == (name == "tyni")


def test_a_folder_that_is_no_llava_is_refused(base: Path, tmp_path: Path) -> None:
    change(base / "config.json", model_type="llama")
    with pytest.raises(EegToolError, match="describes a 'llama' model"):
        resolve_base(str(base))
    with pytest.raises(EegToolError, match=r"it has no config\.json"):
        resolve_base(str(tmp_path))


# transformers 5 → the layout of the checkpoints on the hub.
HUB = {
    r"^lm_head": "language_model.lm_head",
    r"^model\.language_model": "language_model.model",
    r"^model\.vision_tower": "vision_tower.vision_model",
    r"^model\.multi_modal_projector": "multi_modal_projector",
}


@pytest.mark.parametrize("layout", ["transformers 5", "hub"])
def test_both_layouts_load_whole(
    tiny: Path, base: Path, layout: str, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(base / "model.safetensors")
    names = list(weights)
    if layout == "hub":
        for old, new in HUB.items():
            names = [re.sub(old, new, name) for name in names]
        assert set(names).isdisjoint(weights)
        save_file(dict(zip(names, weights.values(), strict=True)), base / "model.safetensors")
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


def test_features_need_a_tower_of_their_width(base: Path) -> None:
    change(base / "config.json", vision_config__hidden_size=768)
    for fusion in ("add", "token"):
        with pytest.raises(EegToolError, match="is 768 wide; high-level features are 1024 wide"):
            load_processor(base, fusion=fusion, version="v1")
    assert load_processor(base, fusion="none", version="v1").image_tokens == (16, 0)


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


def test_a_base_is_known_by_its_configuration(tiny: Path, base: Path) -> None:
    change(base / "config.json", transformers_version="5.17.0")
    assert base_sha256(base) == base_sha256(tiny)
    change(base / "config.json", text_config__num_hidden_layers=4)
    assert base_sha256(base) != base_sha256(tiny)


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
