"""Each family through the steps of the recipe: fine-tuned, asked, merged, and asked untrained."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_answers
from eegtool.core.workspace import Workspace
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.options import EvaluateSettings
from eegtool.finetune import export, train
from eegtool.finetune.options import ExportSettings, FinetuneSettings
from eegtool.finetune.planning import make_plan
from eegtool.model.adapters import load_adapter, read_contract
from eegtool.model.checkpoints import base_in
from tests.finetune.conftest import run_ranks
from tests.finetune.test_precision import needs_compiler
from tests.model.families.tiny import SIDE, TINY, UNTRIED, build

STEPS = 30


@dataclass(frozen=True)
class Trained:
    """A small model of a family, fine-tuned."""

    name: str
    base: Path
    adapter: Path
    workspace: Workspace


@pytest.fixture(scope="module", params=[*TINY, *UNTRIED])
def trained(
    request: pytest.FixtureRequest,
    workspace_model: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    base = build(request.param, folder / "base")
    train.run(make_plan(settings_of(base, workspace_model), folder / "run"))
    return Trained(request.param, base, folder / "run", workspace_model)


def settings_of(base: Path, workspace: Workspace, **change: Any) -> FinetuneSettings:
    settings = FinetuneSettings(
        str(base),
        workspace=workspace.root,
        deepspeed="none",
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        mm_projector_lr=5e-3,
        lora_r=4,
        logging_steps=1,
        report_to="none",
    )
    return replace(settings, **change)


def answers(trained: Trained, model: Path, out: Path, **change: Any) -> dict[str, Any]:
    settings = EvaluateSettings(
        model,
        workspace=trained.workspace.root,
        answers_file=out / f"{len(list(out.iterdir()))}.jsonl",
        mode="both",
        limit=9,
        num_gpus=1,
        batch_size="8",
    )
    settings = replace(settings, **change)
    evaluate.run(settings)
    assert settings.answers_file is not None
    return {row.question_id: row for row in read_answers(settings.answers_file)}


def probabilities(rows: dict[str, Any]) -> np.ndarray:
    return np.array([list(rows[i].metadata["stage_probabilities"].values()) for i in sorted(rows)])


def test_it_learns_and_is_saved_whole(trained: Trained) -> None:
    log = json.loads((trained.adapter / "training_log.json").read_text())["log"]
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == STEPS
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    contract = read_contract(trained.adapter)
    assert (contract.family, contract.version) == (base_in(trained.base).name, "chat")
    assert contract.pixel_spec.size == SIDE
    model, _, _ = load_adapter(trained.adapter, base=None, dtype=torch.float32)
    projector = {n: p for n, p in model.named_parameters() if ".feature_projector." in n}
    assert len(projector) == 4
    assert all(bool(p.any()) for p in projector.values())  # its last layer began at zero


def test_answers_do_not_depend_on_the_batch(trained: Trained, tmp_path: Path) -> None:
    one, eight = (
        answers(trained, trained.adapter, tmp_path, batch_size=size) for size in ("1", "8")
    )
    assert [one[i].text for i in one] == [eight[i].text for i in one]
    np.testing.assert_allclose(probabilities(one), probabilities(eight), atol=1e-4)
    assert np.ptp(probabilities(one), axis=0).max() > 1e-3  # epochs are told apart


def test_drawn_words_are_the_same_in_any_batch(trained: Trained, tmp_path: Path) -> None:
    drawn = {"mode": "generate", "temperature": 1.0, "max_new_tokens": 4}
    one, four = (
        answers(trained, trained.adapter, tmp_path, batch_size=size, **drawn) for size in ("1", "4")
    )
    assert [one[i].text for i in one] == [four[i].text for i in one]
    other = answers(trained, trained.adapter, tmp_path, seed=7, **drawn)
    assert [one[i].text for i in one] != [other[i].text for i in one]


def test_the_merged_folder_is_a_plain_model_of_the_family(trained: Trained, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    export.run(ExportSettings(trained.adapter, out=merged, dtype="float32", licence="mit"))
    _, info = AutoModelForImageTextToText.from_pretrained(merged, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    (tmp_path / "answers").mkdir()
    before, after = (
        answers(trained, model, tmp_path / "answers") for model in (trained.adapter, merged)
    )
    np.testing.assert_allclose(probabilities(before), probabilities(after), atol=1e-4)


def test_the_base_is_asked_as_it_is(trained: Trained, tmp_path: Path) -> None:
    rows = answers(trained, trained.base, tmp_path)
    assert len(rows) == 9
    np.testing.assert_allclose(probabilities(rows).sum(axis=1), 1, atol=1e-5)
    contract = read_contract(trained.base)
    assert (contract.fusion, contract.version, contract.merged) == ("none", "chat", True)


def test_a_base_of_another_family_is_refused(trained: Trained, tiny: Path) -> None:
    with pytest.raises(EegToolError, match=r"was trained on a '\w+' model; .* is a 'llava' model"):
        load_adapter(trained.adapter, base=str(tiny), dtype=torch.float32)


def test_shuffled_features_change_the_probabilities(trained: Trained, tmp_path: Path) -> None:
    real, shuffled = (
        answers(trained, trained.adapter, tmp_path, features=source)
        for source in ("real", "shuffled")
    )
    assert np.abs(probabilities(real) - probabilities(shuffled)).max() > 1e-3


def losses_of(run: Path) -> list[float]:
    log = json.loads((run / "training_log.json").read_text())["log"]
    return [row["loss"] for row in log if "loss" in row]


@needs_compiler
@pytest.mark.usefixtures("warm")
def test_two_ranks_of_zero3_learn_what_one_learns(workspace: Workspace, tmp_path: Path) -> None:
    """Its positions have three dimensions, and its deeper layers get features of the picture, too."""
    base = build("qwen3_vl", tmp_path / "base")
    settings = settings_of(base, workspace, max_steps=6, lora_dropout=0.0)
    train.run(make_plan(settings, tmp_path / "one"))
    shared = replace(settings, deepspeed="zero3", per_device_train_batch_size=2)
    run_ranks(make_plan(shared, tmp_path / "two", 2), 2, use_deepspeed=True)
    one, two = losses_of(tmp_path / "one"), losses_of(tmp_path / "two")
    np.testing.assert_allclose(one, two, rtol=2e-3)
    assert one[-1] < one[0]
    load_adapter(tmp_path / "two", base=None, dtype=torch.float32)


@pytest.mark.parametrize("name", ["smolvlm", "gemma3"])
def test_it_is_validated_and_calibrated(name: str, workspace: Workspace, tmp_path: Path) -> None:
    base = build(name, tmp_path / "base")
    settings = settings_of(
        base,
        workspace,
        max_steps=8,
        eval_strategy="steps",
        eval_steps=4,
        eval_subjects_share=0.5,
        load_best_model_at_end=True,
    )
    train.run(make_plan(settings, tmp_path / "run"))
    contract = read_contract(tmp_path / "run")
    log = json.loads((tmp_path / "run/training_log.json").read_text())["log"]
    logged = {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}
    assert sorted(logged) == [4, 8]
    asked = EvaluateSettings(
        tmp_path / "run",
        workspace=workspace.root,
        answers_file=tmp_path / "answers.jsonl",
        num_gpus=1,
        mode="score",
        calibrate=True,
    )
    evaluate.run(asked)
    assert (tmp_path / "run/calibration.json").is_file()
    assert contract.validation["step"] in logged


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5_vl"])
def test_packed_weights_learn(name: str, workspace: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = build(name, tmp_path / "base")
    train.run(make_plan(settings_of(base, workspace, bits=4, max_steps=8), tmp_path / "run"))
    losses = losses_of(tmp_path / "run")
    assert losses[-1] < losses[0]
    assert read_contract(tmp_path / "run").bits == 4


def test_a_training_is_resumed(workspace: Workspace, tmp_path: Path) -> None:
    base = build("internvl", tmp_path / "base")
    settings = settings_of(base, workspace, max_steps=6, save_steps=3)
    train.run(make_plan(settings, tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    for name in ("eegvlm.json", "projector.safetensors", "training_log.json"):
        (tmp_path / "torn" / name).unlink()
    shutil.rmtree(tmp_path / "torn/checkpoint-6")
    plan = make_plan(settings, tmp_path / "whole2")
    plan.write(tmp_path / "torn/plan.json")
    train.run(
        replace(
            plan,
            output_dir=str(tmp_path / "torn"),
            resume=True,
            arguments=plan.arguments | {"output_dir": str(tmp_path / "torn")},
        )
    )
    for name in ("projector", "adapter_model"):
        whole, torn = (
            load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "torn")
        )
        assert whole.keys() == torn.keys()
        assert all(torch.equal(whole[key], torn[key]) for key in whole)
