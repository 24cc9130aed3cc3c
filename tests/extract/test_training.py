from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.settings import ExtractSettings
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace
from eegtool.extract import training
from eegtool.extract.module import VisionModule
from eegtool.extract.training import (
    Scores,
    class_weights,
    export,
    score,
    split_validation,
    stage_indices,
    train,
)

CPU = torch.device("cpu")
SETTINGS = ExtractSettings(backbone="test_resnet", train_epochs=2, batch_size=8, learning_rate=3e-3)


@pytest.fixture
def module() -> VisionModule:
    torch.manual_seed(0)
    return VisionModule("test_resnet")


def of_stages(epoch: Epoch, stages: str) -> list[Epoch]:
    return [replace(epoch, stage=stage) for stage in stages.split()]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        # 1/√count, then scaled to a mean of 1 over the epochs: 4·0.5 + 1·1 = 3 → ·5/3
        ("W W W W N1", [5 / 6, 5 / 3, 0, 0, 0]),
        ("W N1 N2 N3 REM", [1, 1, 1, 1, 1]),
        ("N2 N2 N2", [0, 0, 1, 0, 0]),
    ],
)
def test_class_weights(epochs: list[Epoch], stages: str, expected: list[float]) -> None:
    weights = class_weights(of_stages(epochs[0], stages))
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("true", "predicted", "accuracy", "macro_f1", "kappa"),
    [
        # F1 of 0: 2·1·½/(1+½) = ⅔; of 1: 2·⅔·1/(⅔+1) = 0.8; by chance ½·¼ + ½·¾ agree
        ([0, 0, 1, 1], [0, 1, 1, 1], 0.75, (2 / 3 + 0.8) / 2, 0.5),
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], 1.0, 1.0, 1.0),
        ([0, 1], [1, 0], 0.0, 0.0, -1.0),
        ([0, 0], [0, 2], 0.5, 2 / 3, 0.0),  # stage 2 never occurs: it is in no mean
        ([2, 2], [2, 2], 1.0, 1.0, 1.0),  # κ alone would be 0/0
    ],
)
def test_score(
    true: list[int], predicted: list[int], accuracy: float, macro_f1: float, kappa: float
) -> None:
    scores = score(np.array(true), np.array(predicted))
    assert scores.n == len(true)
    assert (scores.accuracy, scores.macro_f1, scores.kappa) == pytest.approx(
        (accuracy, macro_f1, kappa)
    )


@pytest.mark.parametrize(
    ("n_subjects", "fraction", "held_out"),
    [(10, 0.2, 2), (2, 0.2, 1), (3, 0.9, 2), (10, 0.05, 1), (4, 0.5, 2)],
)
def test_validation_holds_out_whole_subjects(
    epochs: list[Epoch], n_subjects: int, fraction: float, held_out: int
) -> None:
    many = [replace(epochs[0], subject=f"S{i}") for i in range(n_subjects)] * 3
    train_epochs, val_epochs, subjects = split_validation(many, fraction, seed=1)
    assert len(subjects) == held_out
    assert {e.subject for e in val_epochs} == set(subjects)
    assert not {e.subject for e in train_epochs} & set(subjects)
    assert len(train_epochs) + len(val_epochs) == len(many)
    assert split_validation(many, fraction, seed=1)[2] == subjects


def test_validation_subjects_are_drawn_by_the_seed(epochs: list[Epoch]) -> None:
    many = [replace(epochs[0], subject=f"S{i}") for i in range(20)]
    assert len({split_validation(many, 0.2, seed)[2] for seed in range(5)}) > 1


def test_a_single_subject_cannot_be_held_out(epochs: list[Epoch]) -> None:
    own = [epoch for epoch in epochs if epoch.subject == "S01"]
    assert split_validation(own, 0.5, seed=1) == (own, [], ())


def test_export_keeps_the_order_of_the_epochs(
    workspace: Workspace, epochs: list[Epoch], module: VisionModule
) -> None:
    side = [epoch for epoch in epochs if epoch.split == "ft"]
    many = [side[i * 7 % len(side)] for i in range(130)]  # more than a batch
    counted: list[int] = []
    folder = workspace.images("ft")
    rows, predicted, manifest = export(module, many, folder, 0, CPU, counted.append)
    assert rows.shape == (130, 1, 1024)
    assert rows.dtype == np.float32
    assert sum(counted) == 130
    assert not module.training
    for i in (0, 1, 127, 128, 129):
        picture, stage, _ = training.Pictures(many, folder)[i]
        assert STAGES[stage] == many[i].stage
        with torch.no_grad():
            features, logits = module(picture[None])
        np.testing.assert_allclose(rows[i], features.numpy(), atol=1e-4)
        assert predicted[i] == int(logits.argmax())

    backwards, _, other = export(module, many[::-1], folder, 0, CPU)
    np.testing.assert_allclose(backwards, rows[::-1], atol=1e-4)
    assert other != manifest


def test_manifest_changes_with_a_picture(
    workspace: Workspace, epochs: list[Epoch], module: VisionModule
) -> None:
    side, folder = [e for e in epochs if e.split == "eval"], workspace.images("eval")
    manifests = [export(module, side, folder, 0, CPU)[2] for _ in range(2)]
    (folder / side[3].image).write_bytes((folder / side[4].image).read_bytes())
    manifests.append(export(module, side, folder, 0, CPU)[2])
    assert manifests[0] == manifests[1] != manifests[2]


def test_unreadable_picture_is_named(
    workspace: Workspace, epochs: list[Epoch], module: VisionModule
) -> None:
    (workspace.images("ft") / epochs[3].image).write_bytes(b"\x89PNG, or not")
    with pytest.raises(EegToolError, match=f"{epochs[3].image} of epoch '{epochs[3].sample_id}'"):
        export(module, epochs[:5], workspace.images("ft"), 0, CPU)


def trained(
    module: VisionModule, workspace: Workspace, epochs: list[Epoch], settings: ExtractSettings
) -> tuple[list[dict[str, Any]], list[tuple[float, Scores | None]]]:
    parts = tuple([e for e in epochs if e.subject == subject] for subject in ("S01", "S02"))
    reported: list[tuple[float, Scores | None]] = []
    history = train(
        module,
        (parts[0], parts[1]),
        workspace.images("ft"),
        settings,
        CPU,
        lambda loss, scores: reported.append((loss, scores)),
    )
    return history, reported


@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_best_state_is_restored(
    workspace: Workspace,
    epochs: list[Epoch],
    module: VisionModule,
    monkeypatch: pytest.MonkeyPatch,
    best: int,
) -> None:
    """After pass `best` the module is said to be right about everything, else about nothing."""
    states: list[torch.Tensor] = []

    def said(module: VisionModule, epochs: list[Epoch], *_: object) -> tuple[Any, Any, str]:
        states.append(module.classifier.weight.detach().clone())
        true = stage_indices(epochs)
        return None, true if len(states) == best else (true + 1) % 5, ""

    monkeypatch.setattr(training, "export", said)
    history, _ = trained(module, workspace, epochs, replace(SETTINGS, train_epochs=3))
    assert not torch.equal(states[0], states[1])
    assert torch.equal(module.classifier.weight, states[best - 1])
    assert [row["val_macro_f1"] == 1 for row in history] == [best == 1, best == 2, best == 3]


def test_without_validation_the_last_state_is_kept(
    workspace: Workspace, epochs: list[Epoch], module: VisionModule
) -> None:
    before = module.classifier.weight.detach().clone()
    reported: list[Scores | None] = []
    history = train(
        module,
        (epochs[:10], []),
        workspace.images("ft"),
        SETTINGS,
        CPU,
        lambda _, scores: reported.append(scores),
    )
    assert not torch.equal(module.classifier.weight, before)
    assert reported == [None, None]  # a step per pass: 10 epochs, batches of 8, none smaller
    assert [sorted(row) for row in history] == [["loss", "train_epoch"]] * 2


@pytest.fixture(scope="module")
def learnt(workspace_model: Workspace) -> tuple[VisionModule, list[dict[str, Any]], Any, Any]:
    from eegtool.core.records import read_epochs

    torch.manual_seed(0)
    module = VisionModule("test_resnet")
    settings = replace(SETTINGS, train_epochs=12, batch_size=5)
    epochs = read_epochs(workspace_model.epochs)
    return module, *trained(module, workspace_model, epochs, settings), epochs


def test_stages_that_can_be_seen_are_learnt(
    learnt: tuple[VisionModule, list[dict[str, Any]], Any, Any], workspace_model: Workspace
) -> None:
    module, history, _, epochs = learnt
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    side = [epoch for epoch in epochs if epoch.split == "eval"]
    _, predicted, _ = export(module, side, workspace_model.images("eval"), 0, CPU)
    assert score(stage_indices(side), predicted).accuracy >= 0.8


def test_every_step_and_every_pass_is_reported(
    learnt: tuple[VisionModule, list[dict[str, Any]], Any, Any],
) -> None:
    _, history, reported, _ = learnt
    assert [row["train_epoch"] for row in history] == list(range(1, 13))
    assert [scores is None for _, scores in reported] == [True, True, False] * 12
    assert max(row["val_macro_f1"] for row in history) == max(
        scores.macro_f1 for _, scores in reported if scores
    )
