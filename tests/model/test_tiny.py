from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.model import tiny as tiny_model


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_model.build_tokenizer()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_built_twice_it_is_the_same(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EEGVLM_CACHE", str(tmp_path))
    torch.manual_seed(99)
    again = tiny_model.folder()
    assert again.is_relative_to(tmp_path)
    assert files_of(again) == files_of(tiny)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files_of(tiny).keys()


def test_building_leaves_the_random_numbers_of_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EEGVLM_CACHE", str(tmp_path))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tiny_model.folder()
    assert torch.equal(torch.rand(3), expected)


def test_it_is_built_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model, "_build", lambda target: pytest.fail("built again"))
    assert tiny_model.folder() == tiny


def test_another_process_may_be_faster(tiny: Path, tmp_path: Path) -> None:
    """The folder appears while it is being built: it is kept, and nothing is left over."""
    target = tmp_path / "tiny-of-another-process"
    target.mkdir()
    (target / "config.json").write_text("theirs")
    tiny_model._build(target)
    assert (target / "config.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_its_shape_is_that_of_llava(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    assert config["model_type"] == "llava"
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["vision_config"]["hidden_size"] == 1024
    assert config["vision_feature_layer"] == -2
    assert sum(path.stat().st_size for path in tiny.iterdir()) < 80e6


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_one_token(tokenizer: Any, stage: str) -> None:
    before = tokenizer("The answer is:")["input_ids"]
    ids = tokenizer(f"The answer is: {stage}")["input_ids"]
    assert ids[:-1] == before
    assert tokenizer.decode(ids[-1:]) == f" {stage}"


@pytest.mark.parametrize(
    "text",
    [
        "Which sleep stage does this 30-second EEG epoch show?",
        "delta 75 µV, κ = 0.7 — 睡眠分期",
        "two  blanks , a tab\tand\na line",
        " N2",
        "don't . we 've ( N2 )",
        "🛌 \x00\x7f",
        "",
    ],
)
def test_any_text_comes_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_special_tokens(tokenizer: Any) -> None:
    ids = tokenizer("<image>\nN2")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[:2]) == ["<s>", "<image>"]
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3
    assert tokenizer.decode(ids, skip_special_tokens=True) == "\nN2"


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that cannot be written (a file stands in its place: root writes in read-only folders)."""
    home = tmp_path / "home"
    home.write_text("")
    monkeypatch.delenv("EEGVLM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return home


def test_without_a_home_it_is_built_in_the_temporary_folder(no_home: Path, tmp_path: Path) -> None:
    assert tiny_model._cache() == tmp_path / "tmp" / f"eegvlm-{os.getuid()}"


def test_it_works_where_users_have_no_numbers(
    no_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "getuid")
    assert tiny_model._cache().parent == tmp_path / "tmp"


def test_nowhere_to_build_is_an_error_of_the_user(
    no_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(no_home))
    with pytest.raises(EegToolError, match="no folder to build") as caught:
        tiny_model._cache()
    assert "EEGVLM_CACHE" in caught.value.fix
