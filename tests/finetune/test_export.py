"""Merging on the tiny model and on a small one in LLaVA's own layout; the hub is not asked."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessor, LlavaForConditionalGeneration

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import Workspace, read_json, sha256_of, write_json
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.options import EvaluateSettings
from eegtool.finetune import card, export
from eegtool.finetune.options import ExportSettings
from eegtool.model import weights
from eegtool.model.adapters import (
    Contract,
    add_lora,
    inner,
    load_adapter,
    read_contract,
    write_adapter,
)
from eegtool.model.checkpoints import base_sha256, load_base, load_processor
from tests.model.test_llava_layout import Original, write_original

METRICS = {
    "n": 1234,
    "accuracy": 0.8125,
    "macro_f1": 0.7311,
    "kappa": 0.7402,
    "unreadable": 7,
    "features": "real",
    "chance": {"stage": "N2", "accuracy": 0.41, "macro_f1": 0.12, "kappa": 0.0},
    "per_stage": {"W": {"f1": 0.9}, "N1": {"f1": None}, "N2": {"f1": 0.85}},
    "per_subject": {"SC405": {}, "SC406": {}},
    "protocol": {"style": "spectrogram", "base": "tiny", "fusion": "add", "version": "v1"},
}


@pytest.fixture
def settings(adapter: Path, tmp_path: Path) -> ExportSettings:
    return ExportSettings(adapter, tmp_path / "merged", dtype="float32")


@pytest.fixture(scope="module")
def weak(adapter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter as weak as trained ones are: after a strong one, rounding alone moves the logits."""
    folder = Path(shutil.copytree(adapter_model, tmp_path_factory.mktemp("weak") / "adapter"))
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: 0.1 * weight for name, weight in weights.items()}, path)
    return folder


@pytest.fixture(scope="module")
def merged(weak: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a merged folder in float32: made once, never to be changed."""
    out = tmp_path_factory.mktemp("export") / "merged"
    export.run(ExportSettings(weak, out, dtype="float32"))
    return out


@pytest.fixture
def adapter(weak: Path, tmp_path: Path) -> Path:
    """Return a copy of the adapter that a test may spoil."""
    return Path(shutil.copytree(weak, tmp_path / "adapter"))


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@torch.no_grad()
def logits_of(loaded: tuple[Any, Any, Any], seed: int = 0) -> torch.Tensor:
    """Ask a model about two samples of different length."""
    model, processor, _ = loaded
    network: Any = inner(model)
    network.fusion = "add"
    generator = torch.Generator().manual_seed(seed)
    size = processor.pixel_spec.size
    found = []
    for text in ("Which stage?", "Which sleep stage does this epoch show, W or REM?"):
        found.append(
            model(
                input_ids=torch.tensor([processor.encode_prompt(text, 2)]),
                pixel_values=torch.randn(1, 3, size, size, generator=generator),
                high_level_features=torch.randn(1, 1, 1024, generator=generator),
            ).logits[0]
        )
    return torch.cat(found)


def load(folder: Path, base: str | None = None, tower: str = "") -> Any:
    return load_adapter(folder, base=base, dtype=torch.float32, vision_tower=tower)


def test_it_answers_as_base_and_adapter_do(merged: Path, weak: Path, tiny: Path) -> None:
    expected = logits_of(load(weak))
    assert (logits_of(load(merged)) - expected).abs().max() < 1e-5
    base = load_base(tiny, fusion="add", version="v1", dtype=torch.float32)
    assert (logits_of((*base, None)) - expected).abs().max() > 0.1  # the adapter says something


def test_weights_are_those_of_the_formula(merged: Path, weak: Path, tiny: Path) -> None:
    """W + α/r · B A in the language model, the trained projector, and the tower as it was."""
    base, found = load_file(tiny / "model.safetensors"), load_file(merged / "model.safetensors")
    lora = load_file(weak / "adapter_model.safetensors")
    projector = load_file(weak / "projector.safetensors")
    assert found.keys() == base.keys()
    n_merged = 0
    for name, weight in found.items():
        expected = projector.get(name, base[name])
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in lora:
            b, a = lora[f"{key}.lora_B.weight"], lora[f"{key}.lora_A.weight"]
            expected = expected + 8 / 4 * b @ a
            n_merged += 1
        assert torch.allclose(weight, expected, atol=1e-6), name
    assert n_merged == len(lora) / 2 == 21


@pytest.mark.parametrize("damaged", [False, True])
def test_the_vision_module_goes_along(settings: ExportSettings, damaged: bool) -> None:
    folder = settings.model_path / "vision_module"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    weights = sha256_of(folder / "model.safetensors")
    write_json(folder / "card.json", {"weights_sha256": weights})
    contract = read_json(settings.model_path / "eegvlm.json")
    write_json(settings.model_path / "eegvlm.json", contract | {"features_weights_sha256": weights})
    if damaged:
        (folder / "model.safetensors").write_bytes(b"weighs")
    export.run(settings)
    merged = settings.out / "vision_module"
    assert merged.exists() is not damaged
    if not damaged:
        assert files_below(merged) == ["card.json", "model.safetensors"]
        assert sha256_of(merged / "model.safetensors") == weights


def test_all_that_staging_needs_goes_along(settings: ExportSettings) -> None:
    path = settings.model_path / "eegvlm.json"
    told = {
        "sequence": {"transitions": np.eye(5, dtype=int).tolist(), "stages": [5, 4, 3, 2, 1]},
        "answers": {"stages": {"W": "Wake"}, "lead": "", "max_new_tokens": 9},
        "protocol": {"channel": "EEG Fpz-Cz", "style": "hybrid"},
    }
    write_json(path, read_json(path) | told)
    export.run(settings)
    found = read_contract(settings.out)
    assert {name: getattr(found, name) for name in told} == told


def test_the_folder_needs_no_base_and_explains_itself(merged: Path) -> None:
    assert files_below(merged) == [
        "README.md",
        "config.json",
        "eegvlm.json",
        "model.safetensors",
        "preprocessor_config.json",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    modes = {stat.S_IMODE(path.stat().st_mode) for path in merged.iterdir()}
    assert len(modes) == 1
    assert files_below(merged.parent) == ["merged"]
    contract = read_contract(merged)
    assert (contract.merged, contract.fusion, contract.version) == (True, "add", "v1")
    stamp = json.loads((merged / "run.json").read_text())
    assert stamp["step"] == "export"
    assert stamp["results"]["bytes"] == (merged / "model.safetensors").stat().st_size


def test_transformers_loads_it_as_a_plain_llava(merged: Path) -> None:
    model, info = LlavaForConditionalGeneration.from_pretrained(merged, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    own = load_file(merged / "model.safetensors")
    assert all(torch.equal(weight, own[name]) for name, weight in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")  # whatever transformers' image processors say
def test_transformers_makes_the_same_pixels(merged: Path, workspace: Workspace) -> None:
    from PIL import Image

    picture = next(workspace.images("eval").iterdir())
    theirs = CLIPImageProcessor.from_pretrained(merged)(
        Image.open(picture).convert("RGB"), return_tensors="pt"
    )["pixel_values"][0]
    ours = torch.from_numpy(read_contract(merged).pixel_spec.pixels(picture))
    assert (theirs - ours).abs().max() < 0.02


def test_evaluate_asks_it_like_the_adapter(
    merged: Path, adapter: Path, workspace: Workspace, tmp_path: Path
) -> None:
    texts = []
    for folder in (adapter, merged):
        path = tmp_path / f"{folder.name}.jsonl"
        evaluate.run(EvaluateSettings(folder, workspace=workspace.root, answers_file=path))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        texts.append([row["text"] for row in rows])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 10
    assert any(texts[0])


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_weights_have_the_precision_asked_for(
    settings: ExportSettings, adapter: Path, name: Any
) -> None:
    export.run(replace(settings, dtype=name))
    weights = load_file(settings.out / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {getattr(torch, name)}
    near = logits_of(load(settings.out)) - logits_of(load(adapter))
    assert 0 < near.abs().max() < 0.3  # logits are up to 10


def test_large_models_are_written_in_shards(
    settings: ExportSettings, merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SHARD", "20MB")
    export.run(settings)
    shards = sorted(settings.out.glob("model-*.safetensors"))
    assert len(shards) >= 3
    assert all(path.stat().st_size < 20e6 for path in shards)
    index = json.loads((settings.out / "model.safetensors.index.json").read_text())
    whole = load_file(merged / "model.safetensors")
    assert index["weight_map"].keys() == whole.keys()
    for name, shard in index["weight_map"].items():
        assert torch.equal(load_file(settings.out / shard)[name], whole[name])
    assert load(settings.out)


# --- LLaVA's own layout ---


class Trained(NamedTuple):
    """A small LLaVA in its authors' layout, and an adapter for it."""

    base: Original
    adapter: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, contract: Contract) -> Trained:
    root = tmp_path_factory.mktemp("original")
    original = write_original(root)
    base = original.find
    model, processor = load_base(base, fusion="add", version="v1", dtype=torch.float32)
    peft_model = add_lora(model, r=4, alpha=8, dropout=0.0)
    generator = torch.Generator().manual_seed(6)
    state = {
        name: ("lora_" not in name) * parameter.detach()
        + 0.03 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in peft_model.named_parameters()
        if parameter.requires_grad
    }
    told = replace(
        contract,
        base=str(original.folder),
        vision_tower=str(original.tower),
        base_sha256=base_sha256(base),
        pixel_spec=processor.pixel_spec,
    )
    write_adapter(root / "adapter", peft_model, state, told)
    return Trained(original, root / "adapter")


def test_the_original_layout_becomes_one_folder(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    export.run(ExportSettings(trained.adapter, out, dtype="float32"))
    expected = logits_of(load(trained.adapter))
    found = logits_of(load(out))
    n = expected.shape[-1]
    assert (found[:, :n] - expected).abs().max() < 1e-5
    # <image> has got a row, which is never likelier than <unk>.
    assert found.shape[-1] == n + 1
    assert torch.equal(found[:, n], found[:, 0])
    contract = read_contract(out)
    assert (contract.base, contract.vision_tower) == ("LLaVA-v1.5-13b", "clip")

    plain, info = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert plain.config.image_token_id == n
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids("<image>") == n
    assert plain.get_input_embeddings()(torch.tensor([n])).isfinite().all()


# --- what is refused ---


def fill(settings: ExportSettings) -> ExportSettings:
    settings.out.mkdir()
    (settings.out / "thesis.txt").write_text("mine")
    return settings


def occupy(settings: ExportSettings) -> ExportSettings:
    settings.out.write_text("mine")
    return settings


def lose_adapter(settings: ExportSettings) -> ExportSettings:
    (settings.model_path / "adapter_model.safetensors").unlink()
    return settings


def other_base(settings: ExportSettings) -> ExportSettings:
    contract = json.loads((settings.model_path / "eegvlm.json").read_text())
    write_json(settings.model_path / "eegvlm.json", contract | {"base_sha256": "0" * 64})
    return settings


def wrong_name(settings: ExportSettings) -> ExportSettings:
    return replace(settings, push_to_hub="not a name")


def no_metrics(settings: ExportSettings) -> ExportSettings:
    path = settings.out.parent / "metrics.json"
    write_json(path, {"n": 3})
    return replace(settings, metrics=path)


def metrics_of_another(settings: ExportSettings) -> ExportSettings:
    path = settings.out.parent / "metrics.json"
    protocol = {"style": "hybrid", "base": "/elsewhere/tiny", "fusion": "none"}
    write_json(path, METRICS | {"protocol": protocol})
    return replace(settings, metrics=path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (fill, "merged is not an empty folder"),
        (occupy, "merged is not an empty folder"),
        (lose_adapter, "it has no adapter_model.safetensors"),
        (other_base, "trained on the base model 'tiny'"),
        (wrong_name, "not a name is no name on the hub"),
        (no_metrics, "is no metrics.json of `eegvlm report`: it has no accuracy"),
        (metrics_of_another, "style hybrid instead of spectrogram, fusion none instead of add"),
    ],
)
def test_what_is_wrong_is_said_before_weights_are_read(
    settings: ExportSettings,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[ExportSettings], ExportSettings],
    message: str,
) -> None:
    monkeypatch.setattr(export, "load_adapter", lambda *_, **__: pytest.fail("weights were read"))
    settings = spoil(settings)
    before = files_below(settings.out.parent)
    with pytest.raises(EegToolError, match=message):
        export.run(settings)
    assert files_below(settings.out.parent) == before


def test_metrics_of_other_recordings_than_a_published_split_are_shown(
    settings: ExportSettings,
) -> None:
    """A model that was trained on a published split may be evaluated elsewhere."""
    path, metrics = settings.model_path / "eegvlm.json", settings.out.parent / "metrics.json"
    contract = read_json(path)
    split = {"protocol": "sleep-edf-20", "protocol_differs": []}
    write_json(path, contract | {"protocol": contract["protocol"] | split})
    differs = split | {"protocol_differs": ["trained and evaluated on different splits"]}
    write_json(metrics, METRICS | {"protocol": differs})
    assert (
        card.read_metrics(metrics, read_contract(settings.model_path))["kappa"] == METRICS["kappa"]
    )


def test_a_merged_folder_is_not_merged_again(merged: Path, tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="is merged already"):
        export.run(ExportSettings(merged, tmp_path / "again"))


def test_a_full_disk_is_noticed_before(
    settings: ExportSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(EegToolError, match=r"needs 0\.1 GB; .* has 0\.0 GB free"):
        export.run(settings)


def test_an_empty_folder_is_taken(settings: ExportSettings) -> None:
    settings.out.mkdir()
    export.run(settings)
    assert read_contract(settings.out).merged


def test_weights_beyond_float16_are_refused(
    settings: ExportSettings, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    weights[next(name for name in weights if "lora_B" in name)] += 1e8
    save_file(weights, path)
    with pytest.raises(EegToolError, match="cannot be held in float16"):
        export.run(replace(settings, dtype="float16"))
    assert files_below(settings.out.parent) == ["adapter"]


def broken_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    read = load_file
    monkeypatch.setattr(weights, "load_file", lambda p: {k: v + 1 for k, v in read(p).items()})


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "eegvlm.json")

    monkeypatch.setattr(export, "write_json", full)


def other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        export,
        "load_processor",
        lambda base, **how: load_processor(base, **how | {"version": "llava_v1"}),
    )


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(broken_disk, EegToolError), (full_disk, OSError), (other_tokens, RuntimeError)],
)
def test_it_is_whole_or_not_there(
    settings: ExportSettings,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    error: type[Exception],
) -> None:
    spoil(monkeypatch)
    before = files_below(settings.out.parent)
    with pytest.raises(error):
        export.run(settings)
    assert files_below(settings.out.parent) == before


# --- the card ---


def a_card(contract: Contract, licence: str = "llama2", metrics: Any = None) -> str:
    lora = {"r": 128, "lora_alpha": 256}
    return card.Card("me/sleeper", contract, lora, licence, "bfloat16", metrics).text()


def front(text: str) -> Any:
    """Return the metadata as the hub reads them."""
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_tells_protocol_results_and_licence(contract: Contract) -> None:
    contract = replace(
        contract,
        base="llava-hf/llava-1.5-13b-hf",
        protocol={"channel": "EEG Fpz-Cz", "note": "a | b", "wake_margin_min": 30.0},
    )
    text = a_card(contract, metrics=METRICS)
    assert front(text) == {
        "license": "llama2",
        "base_model": "llava-hf/llava-1.5-13b-hf",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["eeg", "sleep-staging", "polysomnography", "llava", "eegvlm"],
    }
    for line in (
        "| channel | EEG Fpz-Cz |",
        r"| note | a \| b |",
        "| LoRA | rank 128, alpha 256, merged |",
        "| Cohen's κ | 0.740 | 0.000 |",
        "| N1 | - |",
        "1,234 scored epochs of 2 subjects",
        "(licence: llama2)",
        "not a medical device",
    ):
        assert line in text, line
    assert "SC405" not in text  # who was recorded is nobody's business
    assert "None given" in a_card(contract)


@pytest.mark.parametrize(
    ("licence", "told"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ('The "Own" Licence', {"license": "other", "license_name": 'The "Own" Licence'}),
        ("", {}),
    ],
)
def test_licences_are_told_as_the_hub_wants_them(
    contract: Contract, licence: str, told: dict[str, str]
) -> None:
    found = front(a_card(contract, licence))
    assert {k: v for k, v in found.items() if k.startswith("license")} == told
    assert "base_model" not in found  # 'tiny' is on no hub


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({}, ""),
        ({"README.md": "# A model\nlicense: mit\n"}, ""),
        ({"README.md": "---\nlicense: [\n---\n# M", "LICENSE": "Mine"}, "Mine"),
        ({"README.md": "---\ntags: [a]\nlicense: llama2\n---\n# M", "LICENSE": "x"}, "llama2"),
        (
            {"README.md": "---\ntags: [a]\n---\n# M", "LICENSE": "\n# My Licence\nmore"},
            "My Licence",
        ),
    ],
)
def test_the_licence_is_read_from_the_base(
    tmp_path: Path, files: dict[str, str], licence: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert card.licence_of(str(tmp_path), tmp_path) == licence
    assert card.licence_of("tiny", tmp_path) == "apache-2.0"


def test_the_folder_has_its_card(settings: ExportSettings) -> None:
    path = settings.out.parent / "metrics.json"
    write_json(path, METRICS)
    export.run(replace(settings, metrics=path, licence="cc-by-4.0"))
    text = (settings.out / "README.md").read_text()
    assert front(text)["license"] == "cc-by-4.0"
    assert "| accuracy | 0.812 | 0.410 |" in text


# --- the hub ---


class FakeHub:
    """Stands in for HfApi: keeps what it was asked, and what lay in the folder then."""

    calls: list[tuple[str, Any]] = []  # noqa: RUF012  - each test makes its own
    fails: str = ""

    def _called(self, name: str, told: Any) -> str:
        if name == self.fails:
            raise OSError(f"{name} is down")
        self.calls.append((name, told))
        return f"https://hub/{name}"

    def whoami(self) -> str:
        return self._called("whoami", "me")

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        return self._called("create_repo", (repo_id, private, exist_ok))

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, ignore_patterns: list[str], commit_message: str
    ) -> str:
        kept = [p for p in folder_path.iterdir() if p.name not in ignore_patterns]
        return self._called("upload_folder", (repo_id, {p.name: p.read_bytes() for p in kept}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(FakeHub, "fails", "")
    monkeypatch.setattr(export, "HfApi", FakeHub)
    return FakeHub


def test_it_is_shared_in_private_and_names_no_place(
    trained: Trained, tmp_path: Path, hub: type[FakeHub]
) -> None:
    out = tmp_path / "merged"
    export.run(ExportSettings(trained.adapter, out, push_to_hub="me/sleeper", licence="llama2"))
    names = [name for name, _ in hub.calls]
    assert names == ["whoami", "create_repo", "upload_folder"]
    assert hub.calls[1][1] == ("me/sleeper", True, True)
    repo, files = hub.calls[2][1]
    assert repo == "me/sleeper"
    assert {"README.md", "config.json", "eegvlm.json", "model.safetensors"} <= files.keys()
    assert "run.json" not in files
    texts = [content for name, content in files.items() if not name.endswith(".safetensors")]
    for place in (trained.base.folder.parent, tmp_path):
        assert not any(str(place).encode() in content for content in texts)
    assert b"# me/sleeper" in files["README.md"]


def test_nothing_is_shared_unasked(settings: ExportSettings, hub: type[FakeHub]) -> None:
    export.run(settings)
    assert hub.calls == []


def test_without_a_licence_nothing_is_shared(
    trained: Trained, tmp_path: Path, hub: type[FakeHub], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ExportSettings(trained.adapter, tmp_path / "merged", push_to_hub="me/sleeper")
    with pytest.raises(EegToolError, match="does not say its licence"):
        export.run(settings)
    assert not settings.out.exists()
    export.run(replace(settings, push_to_hub=""))
    assert hub.calls == []
    assert "licence of the base is not known" in capsys.readouterr().out


def test_who_is_not_logged_in_learns_it_first(
    settings: ExportSettings, hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "fails", "whoami")
    monkeypatch.setattr(export, "load_adapter", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(EegToolError, match=r"(?s)whoami is down.*hf auth login"):
        export.run(replace(settings, push_to_hub="me/sleeper"))


@pytest.mark.parametrize("fails", ["create_repo", "upload_folder"])
def test_what_was_merged_stays_when_the_hub_fails(
    settings: ExportSettings, hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(hub, "fails", fails)
    with pytest.raises(EegToolError, match=rf"(?s)is whole.*{fails} is down.*hf upload me/sleeper"):
        export.run(replace(settings, push_to_hub="me/sleeper"))
    assert read_contract(settings.out).merged
