"""The whole chain without picture files: the same features, adapter, answers and figures, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.console import console
from eegtool.core.workspace import Workspace, read_json
from eegtool.evaluate import ask
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.options import AskSettings, EvaluateSettings
from eegtool.extract import step as extract
from eegtool.extract.options import ExtractSettings
from eegtool.finetune import train
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.planning import make_plan
from eegtool.prepare import step as prepare
from eegtool.prepare.options import PrepareSettings
from eegtool.report import step as report
from eegtool.report.options import ReportSettings
from eegtool.simulate.twins import load_twin, write_night

NIGHTS = ("SC4001E0", "SC4012E0", "SC4021E0", "SC4031E0")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Workspace, Workspace]:
    root = tmp_path_factory.mktemp("both")
    for name in NIGHTS:
        write_night(load_twin(name).condensed(2), root / "recordings", seed=1)
    return _walk(root, "png"), _walk(root, "none")


def _walk(root: Path, pictures: Any) -> Workspace:
    """Prepare, extract, finetune, evaluate and report, in this process."""
    workspace = Workspace(root / pictures)
    console.quiet = True
    try:
        prepare.run(
            PrepareSettings(
                [root / "recordings"],
                workspace.root,
                eval_subjects="SC403",
                style="hybrid",
                size=64,
                pictures=pictures,
            )
        )
        module: dict[str, Any] = {"backbone": "test_resnet", "train_epochs": 2, "batch_size": 8}
        extract.run(ExtractSettings(workspace.root, augment=False, **module))
        adapter = workspace.checkpoints / "run"
        settings = FinetuneSettings(
            "tiny",
            workspace=workspace.root,
            output_dir=adapter,
            deepspeed="none",
            max_steps=2,
            per_device_train_batch_size=4,
            eval_strategy="steps",
            eval_steps=2,
            eval_limit=4,
        )
        train.run(make_plan(settings, adapter))
        evaluate.run(EvaluateSettings(adapter, workspace=workspace.root, mode="score", num_gpus=1))
        report.run(ReportSettings(workspace=workspace.root))
    finally:
        console.quiet = False
    return workspace


def test_there_are_no_files(both: tuple[Workspace, Workspace]) -> None:
    png, none = both
    assert len([*png.root.glob("eeg_images_*/*/*.png")]) == 40
    assert not [*none.root.glob("eeg_images_*/*")]


def test_features_and_adapter_are_the_same(both: tuple[Workspace, Workspace]) -> None:
    names = [
        "train_high_level_features.npy",
        "eval_high_level_features.npy",
        "eval_high_level_features.json",
        "vision_module/model.safetensors",
        "vision_module/eval_stages.csv",
        "checkpoints/run/adapter_model.safetensors",
    ]
    png, none = ([(w.root / name).read_bytes() for name in names] for w in both)
    assert [name for name, a, b in zip(names, png, none, strict=True) if a != b] == []


def test_answers_and_figures_are_the_same(both: tuple[Workspace, Workspace]) -> None:
    def answers(workspace: Workspace) -> list[dict[str, Any]]:
        rows = map(json.loads, workspace.answers.read_text().splitlines())
        return [{k: v for k, v in row.items() if k != "answer_id"} for row in rows]

    png, none = both
    assert len(answers(png)) == 10
    assert answers(png) == answers(none)
    figures = [read_json(w.report / "metrics.json") for w in both]
    assert figures[0] == figures[1]


def test_one_picture_is_asked_about_by_its_name(
    both: tuple[Workspace, Workspace], capsys: pytest.CaptureFixture[str]
) -> None:
    replies = []
    for workspace in both:
        image = workspace.images("eval") / "SC4031E0" / "SC4031E0-0004.png"
        ask.run(
            AskSettings(image, workspace.checkpoints / "run", workspace=workspace.root, json=True)
        )
        replies.append(json.loads(capsys.readouterr().out) | {"image": ""})
    assert replies[0] == replies[1]
    assert replies[0]["log_likelihoods"]


def test_the_report_shows_the_same_pictures(both: tuple[Workspace, Workspace]) -> None:
    pages = [(w.report / "review.html").read_text() for w in both]
    shown = [page.count("iVBORw0KGgo") for page in pages]  # Base64 of how a PNG begins
    assert shown == [10, 10]
