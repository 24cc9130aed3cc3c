from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eegtool.core.errors import EegToolError
from eegtool.model import adapters
from eegtool.model.adapters import (
    Contract,
    adapter_sha256,
    add_lora,
    load_adapter,
    read_contract,
    save_adapter,
)
from eegtool.model.checkpoints import load_base

LORA, PROJECTOR = "adapter_model.safetensors", "projector.safetensors"


@pytest.fixture
def fresh(tiny: Path) -> Any:
    """The tiny model with LoRA that has not learnt anything yet."""
    model, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.float32)
    return add_lora(model, r=4, alpha=8, dropout=0.1)


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def moved(state: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: p + 0.2 * torch.randn(p.shape, generator=generator) for n, p in state.items()}


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    ids = torch.tensor([[1, 9, *[4] * 16, 10, *[4] * 16, 11, 12]])
    logits: torch.Tensor = model(
        input_ids=ids,
        pixel_values=torch.randn(1, 3, 64, 64, generator=generator),
        high_level_features=torch.randn(1, 1, 1024, generator=generator),
    ).logits
    return logits


def load(folder: Path, base: str | None = None) -> Any:
    return load_adapter(folder, base=base, dtype=torch.float32)


def test_lora_is_on_every_linear_layer_of_the_language_model_only(fresh: Any) -> None:
    base = fresh.get_base_model()
    language = base.model.language_model
    on = {n for n, m in language.named_modules() if hasattr(m, "lora_A")}
    kinds = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    assert {n.split(".")[-1] for n in on} == set(kinds)
    assert len(on) == len(kinds) * len(language.layers)
    assert not [n for n, m in base.model.vision_tower.named_modules() if hasattr(m, "lora_A")]
    for name in trained(fresh):
        assert ("language_model" in name and "lora_" in name) or "multi_modal_projector" in name


def test_fresh_lora_changes_nothing(fresh: Any, tiny: Path) -> None:
    model, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.float32)
    assert torch.equal(logits_of(fresh.eval()), logits_of(model.eval()))


def test_what_is_loaded_answers_like_what_was_saved(
    fresh: Any, contract: Contract, tmp_path: Path
) -> None:
    untouched = {k: v.clone() for k, v in fresh.state_dict().items() if "vision_tower" in k}
    fresh.load_state_dict(moved(trained(fresh)), strict=False)
    fresh.eval()
    save_adapter(tmp_path / "runs" / "one", fresh, trained(fresh), contract, {"metrics": {"n": 1}})
    loaded, processor, found = load(tmp_path / "runs" / "one")
    assert found == contract
    assert not any(module.training for module in loaded.modules())
    assert (logits_of(loaded) - logits_of(fresh)).abs().max() < 1e-6
    assert processor.image_tokens == (16, 16)
    state = loaded.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in untouched.items())


def test_the_folder_explains_itself(adapter: Path) -> None:
    files = {path.name for path in adapter.iterdir()}
    assert files == {
        LORA,
        PROJECTOR,
        "adapter_config.json",
        "eegvlm.json",
        "training_log.json",
        "README.md",
    }
    for path in adapter.iterdir():
        assert path.stat().st_mode == (adapter / "README.md").stat().st_mode
    card = (adapter / "README.md").read_text()
    assert all(name in card for name in (LORA, PROJECTOR, "eegvlm.json", "`add`", "`v1`"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["inference_mode"] is True
    assert config["r"] == 4


def test_pictures_are_made_as_in_training(adapter: Path) -> None:
    """The base's own word on pixels is not asked again."""
    told = json.loads((adapter / "eegvlm.json").read_text())
    told["pixel_spec"]["mean"] = [0.1, 0.2, 0.3]
    (adapter / "eegvlm.json").write_text(json.dumps(told))
    _, processor, _ = load(adapter)
    assert processor.pixel_spec.mean == (0.1, 0.2, 0.3)


def lose_a_key(path: Path) -> None:
    weights = load_file(path)
    del weights[sorted(weights)[0]]
    save_file(weights, path)


def add_a_key(path: Path) -> None:
    weights = load_file(path)
    save_file(weights | {sorted(weights)[0] + "_more": torch.zeros(2)}, path)


def reshape_a_key(path: Path) -> None:
    weights = load_file(path)
    save_file(weights | {sorted(weights)[0]: torch.zeros(2, 2)}, path)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("name", [LORA, PROJECTOR])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose_a_key, "1 weights missing"),
        (add_a_key, "1 unexpected"),
        (reshape_a_key, "does not fit the model.*size mismatch"),
        (tear, "cannot be read"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    adapter: Path, name: str, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(adapter / name)
    with pytest.raises(EegToolError, match=f"(?s){message}"):
        load(adapter)


def test_another_base_is_refused(adapter: Path, tiny: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    assert load(adapter, base=str(other))  # a copy of the same
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(EegToolError, match=r"trained on the base model 'tiny'; .*other is another"):
        load(adapter, base=str(other))


@pytest.mark.parametrize("name", [LORA, PROJECTOR, "adapter_config.json", "eegvlm.json"])
def test_a_folder_that_is_no_adapter_is_refused(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(EegToolError, match=f"is not an adapter folder .* has no {name}"):
        read_contract(adapter)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixel_spec": {}}, "not readable as a contract: 'size'"),
        ({"colour": "blue"}, "not readable as a contract: .*colour"),
        ({"fusion": "multiply"}, "Unknown fusion 'multiply'"),
        ({"version": "v9"}, "Unknown conversation template 'v9'"),
    ],
)
def test_a_contract_that_cannot_be_kept_is_refused(
    adapter: Path, values: dict[str, Any], message: str
) -> None:
    told = json.loads((adapter / "eegvlm.json").read_text())
    (adapter / "eegvlm.json").write_text(json.dumps(told | values))
    with pytest.raises(EegToolError, match=message):
        read_contract(adapter)


def test_a_model_is_known_by_its_trained_weights(adapter: Path) -> None:
    before = adapter_sha256(adapter)
    for path in (adapter / LORA, adapter / PROJECTOR):
        add_a_key(path)
        assert adapter_sha256(adapter) != before
        before = adapter_sha256(adapter)


def not_a_number(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = moved(state)
    next(iter(state.values()))[0, 0] = torch.nan
    return state


def no_projector(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: p for n, p in moved(state).items() if "lora_" in n}


def one_empty(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return moved(state) | {next(iter(state)): torch.empty(0)}


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda state: state, EegToolError, "nothing was learnt"),
        (not_a_number, EegToolError, "diverged"),
        (one_empty, RuntimeError, "not gathered"),
        (no_projector, RuntimeError, "not gathered"),
        (lambda state: {}, RuntimeError, "not gathered"),
    ],
)
def test_what_is_no_result_is_not_saved(
    fresh: Any,
    contract: Contract,
    tmp_path: Path,
    spoil: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        save_adapter(tmp_path / "run", fresh, spoil(trained(fresh)), contract, {})
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_replaced_whole_or_not_at_all(
    fresh: Any, contract: Contract, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = adapter_sha256(adapter)
    (adapter / "run.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(adapters, "write_json", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            save_adapter(adapter, fresh, moved(trained(fresh)), contract, {})
    assert adapter_sha256(adapter) == before
    assert list(adapter.parent.glob(".*")) == []

    save_adapter(adapter, fresh, moved(trained(fresh)), replace(contract, version="llava_v1"), {})
    assert adapter_sha256(adapter) != before
    assert read_contract(adapter).version == "llava_v1"
    assert not (adapter / "run.json").exists()  # the stamp of another training
    assert list(adapter.parent.glob(".*")) == []
