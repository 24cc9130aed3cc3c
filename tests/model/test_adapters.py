from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save, save_file

from eegtool.core.errors import EegToolError
from eegtool.model import adapters
from eegtool.model.adapters import (
    Contract,
    adapter_sha256,
    add_lora,
    contract_base,
    inner,
    load_adapter,
    read_contract,
    trained_table,
    write_adapter,
)
from eegtool.model.checkpoints import find_base, load_base, load_processor
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.families.llava import LlavaBase

LORA, PROJECTOR = "adapter_model.safetensors", "projector.safetensors"


@pytest.fixture
def fresh(tiny: Path) -> Any:
    """The tiny model with LoRA that has not learnt anything yet."""
    model, _ = load_base(LlavaBase(tiny), fusion="add", version="v1", dtype=torch.float32)
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


def test_what_is_trained_is_counted_by_part(fresh: Any) -> None:
    n = {k: sum(v.numel() for v in vs) for k, vs in by_part(fresh).items()}
    r, d, ff, layers = 4, 256, 512, 3
    lora = layers * r * (4 * (d + d) + 3 * (d + ff))
    assert trained_table(fresh) == [
        ("vision tower", 0, n["tower"]),
        ("projector", n["projector"], n["projector"]),
        ("language model (LoRA)", lora, n["rest"]),
    ]
    next(iter(by_part(fresh)["tower"])).requires_grad_(True)
    assert trained_table(fresh)[0][1] > 0


def by_part(model: Any) -> dict[str, list[torch.Tensor]]:
    base = model.get_base_model().model
    parts = {
        "tower": list(base.vision_tower.parameters()),
        "projector": list(base.multi_modal_projector.parameters()),
    }
    known = {id(p) for part in parts.values() for p in part}
    return parts | {"rest": [p for p in model.parameters() if id(p) not in known]}


def test_parameters_that_zero3_has_sharded_are_counted_whole(fresh: Any) -> None:
    whole = trained_table(fresh)
    for parameter in fresh.parameters():
        parameter.ds_numel = parameter.numel()
        parameter.data = torch.empty(0)
    assert trained_table(fresh) == whole


def test_lora_in_the_tower_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a release of peft finds other layers by the same pattern."""
    model, _ = load_base(LlavaBase(tiny), fusion="add", version="v1", dtype=torch.float32)

    def everywhere(model: Any, config: Any, **options: Any) -> Any:
        config.target_modules = "all-linear"
        return get_peft_model(model, config, **options)

    monkeypatch.setattr(adapters, "get_peft_model", everywhere)
    with pytest.raises(RuntimeError, match=r"vision_tower.* would be trained"):
        add_lora(model, r=2, alpha=4, dropout=0.0)


def test_fresh_lora_changes_nothing(fresh: Any, tiny: Path) -> None:
    model, _ = load_base(LlavaBase(tiny), fusion="add", version="v1", dtype=torch.float32)
    assert torch.equal(logits_of(fresh.eval()), logits_of(model.eval()))


def test_what_is_loaded_answers_like_what_was_saved(
    fresh: Any, contract: Contract, tmp_path: Path
) -> None:
    untouched = {k: v.clone() for k, v in fresh.state_dict().items() if "vision_tower" in k}
    fresh.load_state_dict(moved(trained(fresh)), strict=False)
    fresh.eval()
    write_adapter(tmp_path / "runs" / "one", fresh, trained(fresh), contract)
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
        "README.md",
    }
    for path in adapter.iterdir():
        assert path.stat().st_mode == (adapter / "README.md").stat().st_mode
    card = (adapter / "README.md").read_text()
    assert all(name in card for name in (LORA, PROJECTOR, "eegvlm.json", "`add`", "`v1`"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["inference_mode"] is True
    assert config["base_model_name_or_path"] == "tiny"  # and no path of this machine
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


def spoil_one(value: float) -> Callable[[Path], str]:
    """Return what puts one value into the last tensor of a file, and names the tensor."""

    def spoil(path: Path) -> str:
        weights = load_file(path)
        name = sorted(weights)[-1]
        weights[name].view(-1)[-1] = value
        save_file(weights, path)
        return name

    return spoil


@pytest.mark.parametrize("name", [LORA, PROJECTOR])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("merge", [False, True])
def test_one_weight_that_is_no_number_is_refused(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float, merge: bool
) -> None:
    """Before the base is read; its answers would be empty, and merging would blame the precision."""
    tensor = spoil_one(value)(adapter / name)
    monkeypatch.setattr(adapters, "load_base", None)
    with pytest.raises(EegToolError) as caught:
        load_adapter(adapter, base=None, dtype=torch.float16, merge=merge)
    assert f"{adapter / name}: {tensor} has values that are not finite numbers" in caught.value.what
    assert "--dtype" not in caught.value.fix


@pytest.mark.parametrize(("name", "merge"), [(LORA, False), (PROJECTOR, False), (PROJECTOR, True)])
def test_weights_beyond_the_precision_asked_for_are_refused(
    adapter: Path, name: str, merge: bool
) -> None:
    tensor = spoil_one(1e6)(adapter / name)
    with pytest.raises(EegToolError, match=f"{tensor} cannot be held in float16") as caught:
        load_adapter(adapter, base=None, dtype=torch.float16, merge=merge)
    assert "--dtype bfloat16" in caught.value.fix
    assert load_adapter(adapter, base=None, dtype=torch.bfloat16, merge=merge)


def zeroed(adapter: Path, keep: str = "nothing") -> None:
    weights = load_file(adapter / LORA)
    for name, tensor in weights.items():
        if "lora_B" in name and keep not in name:
            tensor.zero_()
    save_file(weights, adapter / LORA)


def all_zero(adapter: Path) -> None:
    save_file({k: v * 0 for k, v in load_file(adapter / LORA).items()}, adapter / LORA)


@pytest.mark.parametrize("spoil", [zeroed, all_zero])
@pytest.mark.parametrize("merge", [False, True])
def test_lora_that_changes_nothing_is_refused(
    adapter: Path, spoil: Callable[[Path], None], merge: bool
) -> None:
    """As a checkpoint within the warm-up has it: the bare base would answer in its name."""
    spoil(adapter)
    with pytest.raises(EegToolError, match=r"LoRA is zero \(.*lora_B") as caught:
        load_adapter(adapter, base=None, dtype=torch.float32, merge=merge)
    assert str(adapter / LORA) in caught.value.what


def test_lora_of_one_layer_is_enough(adapter: Path) -> None:
    zeroed(adapter, keep="layers.1.mlp.up_proj")
    assert load(adapter)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"r": 0}, "r is 0"),
        ({"r": 10**9}, "r is 1000000000, and its largest weights have rank 4"),
        ({"r": "4"}, "r is '4'"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"use_dora": "no"}, "use_dora is 'no', neither true nor false"),
        ({"use_rslora": 1}, "use_rslora is 1, neither true nor false"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', not 'LORA'"),
        ({"peft_type": ["LORA"]}, "peft_type is"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_configuration_of_lora_that_cannot_be_is_refused(
    adapter: Path, values: dict[str, Any], said: str
) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(EegToolError, match=said) as caught:
        load(adapter)
    assert str(path) in caught.value.what


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_configuration_that_is_no_object_is_refused(adapter: Path, text: str) -> None:
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(
        EegToolError, match=r"adapter_config\.json(, line 1: cannot be read| is not a JSON object)"
    ):
        load(adapter)


def test_layers_that_the_base_does_not_have_are_refused(adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["nowhere"]}))
    with pytest.raises(EegToolError, match="does not fit the model: Target modules"):
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


def test_pixels_must_be_those_of_the_tower(adapter: Path) -> None:
    told = json.loads((adapter / "eegvlm.json").read_text())
    told["pixel_spec"]["size"] = 336
    (adapter / "eegvlm.json").write_text(json.dumps(told))
    with pytest.raises(
        EegToolError, match=r"pixel_spec\.size is 336; the vision tower takes .* 64"
    ):
        load(adapter)


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
        write_adapter(tmp_path / "run", fresh, spoil(trained(fresh)), contract)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_may_have_learnt_nothing_yet(
    fresh: Any, contract: Contract, tmp_path: Path
) -> None:
    """Warm-up begins at zero."""
    write_adapter(tmp_path, fresh, trained(fresh), contract, check_learnt=False)
    assert read_contract(tmp_path) == contract
    with pytest.raises(EegToolError, match="diverged"):
        write_adapter(tmp_path, fresh, not_a_number(trained(fresh)), contract, check_learnt=False)


def test_what_else_lies_in_the_folder_stays(fresh: Any, contract: Contract, tmp_path: Path) -> None:
    """Checkpoints and plan of the training."""
    held = {"checkpoint-5/optimizer.bin": "state", "plan.json": "{}", "adapter_model.bin": "mine"}
    for name, text in held.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    write_adapter(tmp_path, fresh, moved(trained(fresh)), contract)
    assert {name: (tmp_path / name).read_text() for name in held} == held
    assert read_contract(tmp_path) == contract
    assert list(tmp_path.glob(".*")) == []


def test_an_adapter_is_replaced_whole(fresh: Any, contract: Contract, adapter: Path) -> None:
    before = adapter_sha256(adapter)
    write_adapter(adapter, fresh, moved(trained(fresh)), replace(contract, version="llava_v1"))
    assert adapter_sha256(adapter) != before
    assert read_contract(adapter).version == "llava_v1"
    assert list(adapter.glob(".*")) == []


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["write_json", "save"])
def test_a_full_disk_leaves_nothing_that_looks_whole(
    fresh: Any, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(adapters, name, full)
    with pytest.raises(OSError, match="No space left"):
        write_adapter(tmp_path / "run", fresh, moved(trained(fresh)), contract)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("stop_at", range(5))
def test_the_card_comes_last(
    fresh: Any,
    contract: Contract,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
) -> None:
    """Wherever a write over an old adapter is stopped, no mixture of the two passes for one."""
    replaced: list[str] = []
    rename = Path.replace

    def stopping(self: Path, target: Path) -> Path:
        if Path(target).parent == adapter:
            if len(replaced) == stop_at:
                raise KeyboardInterrupt
            replaced.append(Path(target).name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_adapter(adapter, fresh, moved(trained(fresh)), contract)
    assert len(replaced) == stop_at
    assert "eegvlm.json" not in replaced
    with pytest.raises(EegToolError, match=r"has no eegvlm\.json"):
        read_contract(adapter)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-100],
        lambda data: data[:-4] + b"\x00\x00\xc0\x7f",  # the last number is none
        lambda data: data.replace(b"lora_A", b"lora_a", 1).replace(b"linear_1", b"linear_3", 1),
    ],
    ids=["cut short", "not a number", "another name"],
)
def test_what_was_written_is_read_again(
    fresh: Any,
    contract: Contract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr(adapters, "save", lambda *args: spoil(save(*args)))
    with pytest.raises(EegToolError):
        write_adapter(tmp_path / "run", fresh, moved(trained(fresh)), contract)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_checkpoint_is_asked_like_an_adapter(adapter: Path, tmp_path: Path) -> None:
    """And an unfinished training says which one to ask."""
    out = tmp_path / "run"
    for step in (20, 100):
        shutil.copytree(adapter, out / f"checkpoint-{step}")
        (out / f"checkpoint-{step}" / "optimizer.bin").write_text("state")
    expected, _, _ = load(adapter)
    loaded, _, _ = load(out / "checkpoint-100")
    assert torch.equal(logits_of(loaded), logits_of(expected))
    with pytest.raises(EegToolError, match="is not an adapter folder") as caught:
        load(out)
    assert "has not ended; ask its checkpoint" in caught.value.fix
    assert str(out / "checkpoint-100") in caught.value.fix


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_that_is_asked_has_the_precision_of_the_base(adapter: Path, dtype: torch.dtype) -> None:
    """LoRA in 32 bits on a base of 16 costs half the speed and tells nothing more."""
    model, _, _ = load_adapter(adapter, base=None, dtype=dtype, device=torch.device("cpu"))
    assert {p.dtype for p in model.parameters()} == {dtype}
    stored = load_file(adapter / LORA) | load_file(adapter / PROJECTOR)
    state = {k.replace(".default", ""): v for k, v in model.state_dict().items()}
    prefix = "base_model.model."
    for name, tensor in stored.items():
        found = state[name if name.startswith(prefix) else prefix + name]
        assert torch.equal(found, tensor.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_rounds_once(adapter: Path, tiny: Path, dtype: torch.dtype) -> None:
    """The sum of base and LoRA's product is made in 32 bits, of LoRA as it was stored."""
    model, _, _ = load_adapter(adapter, base=None, dtype=dtype, merge=True)
    assert type(model) is EEGVLM
    assert not model.training
    base, _ = load_base(LlavaBase(tiny), fusion="add", version="v1", dtype=dtype)
    lora = load_file(adapter / LORA)
    expected = dict(base.state_dict())
    for name in lora:
        if name.endswith("lora_A.weight"):
            product = lora[name.replace("lora_A", "lora_B")] @ lora[name] * (8 / 4)
            weight = name.removeprefix("base_model.model.").replace("lora_A.", "")
            expected[weight] = (expected[weight].float() + product).to(dtype)
    expected |= {k: v.to(dtype) for k, v in load_file(adapter / PROJECTOR).items()}
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert [k for k, v in expected.items() if not torch.equal(v, found[k])] == []


def test_a_merged_model_answers_as_one_with_lora_beside_it(adapter: Path) -> None:
    expected = logits_of(load(adapter)[0])
    found = logits_of(load_adapter(adapter, base=None, dtype=torch.float32, merge=True)[0])
    assert (found - expected).abs().max() < 1e-4


@pytest.fixture
def merged(adapter: Path, tmp_path: Path) -> Path:
    """Base and adapter in one folder, as `eegvlm export` leaves it."""
    model, processor, contract = load(adapter)
    folder = tmp_path / "merged"
    whole = model.merge_and_unload()
    whole.config.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    state = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    spec = {"image_mean": processor.pixel_spec.mean, "image_std": processor.pixel_spec.std}
    (folder / "preprocessor_config.json").write_text(json.dumps(spec))
    told = asdict(replace(contract, merged=True, base="not-here", base_sha256="of what was"))
    (folder / "eegvlm.json").write_text(json.dumps(told))
    return folder


def test_a_merged_model_is_asked_like_an_adapter(merged: Path, adapter: Path) -> None:
    """It needs no base."""
    expected, processor, _ = load(adapter)
    model, same, contract = load(merged)
    assert type(model) is EEGVLM
    assert inner(model) is model
    assert inner(expected) is expected.get_base_model()
    assert contract.merged
    assert not model.training
    assert (logits_of(model) - logits_of(expected)).abs().max() < 1e-4
    prompts = {p.encode_prompt("Which stage?", 2) for p in (processor, same)}
    assert len(prompts) == 1
    assert contract_base(merged, contract) == find_base(str(merged))
    assert load_processor(find_base(str(merged)), fusion="add", version="v1")


def test_a_merged_weight_that_is_no_number_is_refused(merged: Path) -> None:
    tensor = spoil_one(torch.nan)(merged / "model.safetensors")
    with pytest.raises(EegToolError, match=f"{tensor} has values that are not finite"):
        load(merged)


def test_a_merged_model_is_known_by_its_weights(merged: Path) -> None:
    before = adapter_sha256(merged)
    assert before == adapter_sha256(merged)
    weights = load_file(merged / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, merged / "model.safetensors", {"format": "pt"})
    assert adapter_sha256(merged) != before
    (merged / "config.json").unlink()
    with pytest.raises(EegToolError, match=r"has no config\.json"):
        read_contract(merged)
