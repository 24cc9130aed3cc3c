from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch, read_epochs, write_epochs
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, read_json, write_json
from eegtool.extract import data, training
from eegtool.extract.data import Pictures
from eegtool.extract.plan import TrainPlan, TrainResult
from eegtool.extract.trainer import (
    Monitor,
    PassSampler,
    StageTrainer,
    class_weights,
    history_of,
    score,
    stage_indices,
)
from eegtool.extract.training import split_validation, train_module
from eegtool.extract.weights import load_module
from eegtool.pictures.augmentation import Augmentation, vary
from eegtool.pictures.signals import StoredNight

AUGMENTED = Augmentation()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and on busy cores wait for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plan_of(workspace: Workspace, out: Path, **changes: Any) -> TrainPlan:
    common: dict[str, Any] = {
        "train_subjects": ("S01",),
        "val_subjects": ("S02",),
        "backbone": "test_resnet",
        "train_epochs": 3,
        "batch_size": 5,
        "learning_rate": 3e-3,
    }
    return TrainPlan(
        epochs=str(workspace.epochs),
        folder=str(workspace.images("ft")),
        images_sha256="ab",
        protocol=workspace.protocol(),
        out=str(out),
        **common | changes,
    )


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return load_module(out)[0].state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


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
        ([2, 2], [2, 2], 1.0, 1.0, None),  # κ would be 0/0
    ],
)
def test_score(
    true: list[int], predicted: list[int], accuracy: float, macro_f1: float, kappa: float | None
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


@pytest.mark.parametrize(
    ("named", "held_out"),
    [
        (("S3", "S7"), ("S3", "S7")),
        (("S3", "elsewhere"), ("S3",)),
        (("elsewhere",), ()),
        (tuple(f"S{i}" for i in range(10)), ()),
    ],
)
def test_a_split_may_name_its_validation_subjects(
    epochs: list[Epoch], named: tuple[str, ...], held_out: tuple[str, ...]
) -> None:
    """None of them here, or nobody else: then they are drawn."""
    many = [replace(epochs[0], subject=f"S{i}") for i in range(10)] * 3
    found = split_validation(many, 0.2, 1, named)
    assert found[2] == (held_out or split_validation(many, 0.2, 1)[2])
    assert {e.subject for e in found[1]} == set(found[2])


def test_a_single_subject_cannot_be_held_out(epochs: list[Epoch]) -> None:
    own = [epoch for epoch in epochs if epoch.subject == "S01"]
    assert split_validation(own, 0.5, seed=1) == (own, [], ())


def test_every_epoch_comes_once_in_an_order_of_its_pass() -> None:
    sampler = PassSampler(np.arange(23) % 5, 4, balanced=False, seed=1)
    passes = []
    for number in (0, 1, 0):
        sampler.set_epoch(number)
        passes.append(list(sampler))
    assert len(sampler) == len(passes[0]) == len({index for index, _ in passes[0]}) == 20
    assert len({seed for drawn in passes[:2] for _, seed in drawn}) == 40
    assert passes[0] == passes[2] != passes[1]
    other = PassSampler(np.arange(23) % 5, 4, balanced=False, seed=2)
    assert list(other) != passes[0]


def test_balanced_sampling_draws_all_stages_equally_often() -> None:
    stages = np.repeat([0, 1, 2, 4], [4000, 100, 1500, 400])  # N3 never occurs
    drawn = stages[[i for i, _ in PassSampler(stages, 8, balanced=True, seed=3)]]
    shares = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.25, 0, 0.25], atol=0.03)


def test_plan_comes_back_from_its_file(workspace: Workspace, tmp_path: Path) -> None:
    plan = plan_of(workspace, tmp_path / "out", augmentation=AUGMENTED)
    write_json(tmp_path / "plan.json", asdict(plan))
    assert TrainPlan.of(read_json(tmp_path / "plan.json")) == plan


@pytest.fixture(scope="module")
def learnt(
    workspace_model: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainPlan, TrainResult]:
    torch.set_num_threads(1)
    plan = plan_of(workspace_model, tmp_path_factory.mktemp("learnt"), train_epochs=24)
    return plan, train_module(plan)


def test_stages_that_can_be_seen_are_learnt(
    learnt: tuple[TrainPlan, TrainResult], workspace_model: Workspace
) -> None:
    plan, result = learnt
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    side = [epoch for epoch in read_epochs(workspace_model.epochs) if epoch.split == "eval"]
    pictures = Pictures(side, workspace_model.images("eval"))
    module, _ = load_module(Path(plan.out))
    with torch.no_grad():
        _, logits = module(torch.stack([pictures[i][0] for i in range(len(side))]))
    assert score(stage_indices(side), logits.argmax(1).numpy()).accuracy >= 0.8


def test_log_card_and_result_tell_the_same(learnt: tuple[TrainPlan, TrainResult]) -> None:
    plan, result = learnt
    out = Path(plan.out)
    assert sorted(path.name for path in out.iterdir()) == [
        "card.json",
        "log.csv",
        "model.safetensors",
    ]
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["pass"]) for row in rows] == list(range(1, 25))
    for row, told in zip(rows, result.history, strict=True):
        assert {k: float(v) for k, v in row.items()} == told
        assert told["images_per_s"] > 0
    best = max(row["val_macro_f1"] for row in result.history)
    assert result.history[result.best_pass - 1]["val_macro_f1"] == best
    _, card = load_module(out)
    assert TrainResult.of_card(card) == result
    assert (card["train_subjects"], card["val_subjects"]) == (["S01"], ["S02"])
    assert card["settings"]["learning_rate"] == 3e-3


def test_same_plan_same_weights_other_seed_others(
    stored: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        plan = plan_of(stored, tmp_path / name, seed=seed, train_epochs=1, augmentation=AUGMENTED)
        train_module(plan)
        outcomes.append(weights_of(tmp_path / name))
    assert same(outcomes[0], outcomes[1])
    assert not same(outcomes[0], outcomes[2])
    assert "steps" in capsys.readouterr().out


class KilledError(Exception):
    pass


def killed_after(plan: TrainPlan, number: int, patch: pytest.MonkeyPatch) -> None:
    """Train, and be killed in the midst of the pass after pass `number`."""

    def step_end(self: Monitor, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.epoch > number:
            raise KilledError

    with patch.context() as now:
        now.setattr(Monitor, "on_step_end", step_end)
        with pytest.raises(KilledError):
            train_module(plan)


@pytest.mark.parametrize(
    "changes",
    [
        {"augmentation": AUGMENTED},
        {"imbalance": "sampling", "backbone": "test_vit", "workers": 1},
        {"val_subjects": (), "imbalance": "none"},
    ],
    ids=["augmented", "sampled", "without validation"],
)
def test_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    stored: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = train_module(plan_of(stored, whole, **changes)).history
    plan = plan_of(stored, killed, **changes)
    killed_after(plan, 2, monkeypatch)
    assert not list(killed.glob("*.safetensors"))
    assert [path.name[:10] for path in killed.glob(".*")] == [".training-"]
    capsys.readouterr()
    result = train_module(plan)
    assert "Continuing after pass 2" in capsys.readouterr().out
    assert result.resumed_after == 2
    assert same(weights_of(whole), weights_of(killed))
    assert [{**row, "images_per_s": 0} for row in result.history] == [
        {**row, "images_per_s": 0} for row in expected
    ]
    assert not list(killed.glob(".*"))


def test_another_plan_does_not_go_on_with_it(
    stored: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(stored, tmp_path / "out")
    killed_after(plan, 1, monkeypatch)
    others: dict[str, Any] = {
        "learning_rate": 1e-3,
        "images_sha256": "cd",
        "augmentation": AUGMENTED,
    }
    for name, value in others.items():
        other = replace(plan, **{name: value}, train_epochs=3)
        killed_after(other, 0, monkeypatch)  # in its first pass: it began again
    hidden = list((tmp_path / "out").glob(".training-*"))
    assert len(hidden) == 1  # of what did not finish a pass, nothing is left
    result = train_module(replace(plan, workers=1, log="csv"))  # decides nothing
    assert result.resumed_after == 1
    assert not list((tmp_path / "out").glob(".*"))


def test_checkpoint_that_was_cut_off_itself_is_passed_over(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(workspace, tmp_path / "out")
    killed_after(plan, 1, monkeypatch)
    (hidden,) = (tmp_path / "out").glob(".training-*")
    (hidden / "checkpoint-4").mkdir()
    (hidden / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    (hidden / "checkpoint-4" / "trainer_state.json").write_text("{")
    assert train_module(plan).resumed_after == 1


def said(f1: list[float], patch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Let validation find these macro-F1, and keep the classifier that it looked at."""
    seen: list[torch.Tensor] = []

    def evaluation_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        outcome = loop(self, *args, **kwargs)
        outcome.metrics["eval_macro_f1"] = f1[len(seen)]
        seen.append(self.model.classifier.weight.detach().clone())
        return outcome

    loop = Trainer.evaluation_loop
    patch.setattr(StageTrainer, "evaluation_loop", evaluation_loop)
    return seen


@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_best_state_is_restored(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    seen = said([0.9 if i == best else 0.1 for i in (1, 2, 3)], monkeypatch)
    result = train_module(plan_of(workspace, tmp_path))
    assert (result.best_pass, result.stopped_early) == (best, False)
    kept = weights_of(tmp_path)["classifier.weight"]
    assert [torch.equal(kept, one) for one in seen] == [i == best for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("f1", "patience", "passes"),
    [
        ([0.5, 0.6, 0.4, 0.5, 0.9, 0.9], 2, 4),
        ([0.5, 0.6, 0.6, 0.6, 0.9, 0.9], 2, 4),  # as good is not better
        ([0.5, 0.4, 0.6, 0.5, 0.3, 0.2], 0, 6),
    ],
)
def test_early_stopping(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    f1: list[float],
    patience: int,
    passes: int,
) -> None:
    seen = said(f1, monkeypatch)
    plan = plan_of(workspace, tmp_path, train_epochs=6, patience=patience, batch_size=10)
    result = train_module(plan)
    assert len(result.history) == passes
    assert result.stopped_early == (passes < 6)
    assert result.best_pass == 1 + f1.index(max(f1[:passes]))
    kept = weights_of(tmp_path)["classifier.weight"]
    assert torch.equal(kept, seen[result.best_pass - 1])


def test_killed_after_it_stopped_early_does_not_train_on(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(workspace, tmp_path, train_epochs=6, patience=1)

    def full(*_: Any) -> str:
        raise KilledError

    with monkeypatch.context() as patch:
        seen = said([0.5, 0.9, 0.1], patch)
        patch.setattr(training, "save_module", full)
        with pytest.raises(KilledError):
            train_module(plan)
    assert len(seen) == 3
    result = train_module(plan)
    assert (result.resumed_after, result.best_pass, result.stopped_early) == (3, 2, True)
    assert torch.equal(weights_of(tmp_path)["classifier.weight"], seen[1])


def test_without_validation_the_last_state_is_kept_and_a_warning_given(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train_module(plan_of(workspace, tmp_path, val_subjects=(), patience=1))
    assert result.best_pass == len(result.history) == 3
    assert (result.n_train, result.n_val) == (10, 0)
    assert set(result.history[0]) == {"pass", "loss", "images_per_s"}
    assert "Nobody is held out" in capsys.readouterr().out


def test_absent_stages_are_named(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = [replace(e, stage="W") if e.stage in ("N1", "REM") else e for e in read_all(workspace)]
    write_epochs(workspace.epochs, epochs)
    train_module(plan_of(workspace, tmp_path, train_epochs=1))
    assert "Stages absent from training: N1, REM." in capsys.readouterr().out


def read_all(workspace: Workspace) -> list[Epoch]:
    return list(read_epochs(workspace.epochs))


def test_subjects_of_the_evaluation_are_never_trained_or_validated_on(
    workspace: Workspace, tmp_path: Path
) -> None:
    plan = plan_of(workspace, tmp_path, val_subjects=("S02", "S03"), train_epochs=1)
    assert train_module(plan).n_val == 10
    with pytest.raises(EegToolError, match="none of the fine-tune side is of the subjects S03"):
        train_module(replace(plan, train_subjects=("S03",), val_subjects=()))
    with pytest.raises(EegToolError, match="and to validate on: S02"):
        train_module(replace(plan, train_subjects=("S01", "S02")))


def test_picture_that_cannot_be_read_is_named(workspace: Workspace, tmp_path: Path) -> None:
    epoch = read_all(workspace)[3]
    (workspace.images("ft") / epoch.image).write_bytes(b"\x89PNG, or not")
    with pytest.raises(EegToolError) as caught:
        train_module(plan_of(workspace, tmp_path / "out"))
    assert caught.value.what.startswith("The picture ")
    assert f"epoch '{epoch.sample_id}' cannot be read" in caught.value.what
    assert not (tmp_path / "out").exists()


def test_picture_of_another_size_than_prepare_says_is_named(
    workspace: Workspace, tmp_path: Path
) -> None:
    plan = plan_of(workspace, tmp_path)
    with pytest.raises(EegToolError, match=r"64 x 64 pixels; prepare.json says 96 x 96"):
        train_module(replace(plan, protocol={"style": "spectrogram", "size": 96}))


def test_loss_that_is_no_number_ends_it(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="not a finite number") as caught:
        train_module(plan_of(workspace, tmp_path, learning_rate=1e30, warmup=0.0))
    assert "--learning-rate" in caught.value.fix


def test_the_only_step_of_a_training_is_not_lost_to_the_warm_up(
    workspace: Workspace, tmp_path: Path
) -> None:
    """As where one batch holds all pictures; the first step of a warm-up has a rate of 0."""
    weights = []
    for rate in (1e-12, 1e-2):
        plan = plan_of(
            workspace, tmp_path / str(rate), train_epochs=1, batch_size=10, learning_rate=rate
        )
        assert plan.warmup > 0
        train_module(plan)
        learnt = weights_of(tmp_path / str(rate))
        weights.append({k: v for k, v in learnt.items() if "running" not in k and v.ndim > 1})
    moved = [(weights[1][name] - before).abs().max() for name, before in weights[0].items()]
    assert max(moved) > 1e-3


@pytest.mark.parametrize(("name", "value"), [("imbalance", "wieghts"), ("log", "tensorbord")])
def test_misspelt_choice_names_the_closest(
    workspace: Workspace, tmp_path: Path, name: str, value: str
) -> None:
    with pytest.raises(EegToolError, match="Did you mean"):
        train_module(plan_of(workspace, tmp_path, **{name: value}))


def test_tensorboard_that_is_not_installed_is_an_error_of_the_user(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EegToolError, match="TensorBoard is not installed") as caught:
        train_module(plan_of(workspace, tmp_path, log="tensorboard"))
    assert "eegvlm[track]" in caught.value.fix


def test_augmentation_is_off_in_validation(
    stored: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []

    def varied(night: StoredNight, onset_s: float, *how: Any) -> Any:
        seen.append((night.recording, onset_s))
        return vary(night, onset_s, *how)

    monkeypatch.setattr(data, "vary", varied)
    train_module(plan_of(stored, tmp_path, train_epochs=2, augmentation=AUGMENTED))
    # Two passes over ten epochs of the subject that is trained on.
    assert sorted(seen) == sorted([("S01E0", 30.0 * i) for i in range(10)] * 2)


def test_an_epoch_is_varied_by_its_seed_alone(stored: Workspace, epochs: list[Epoch]) -> None:
    side = [epoch for epoch in epochs if epoch.split == "ft"]
    pictures = Pictures(side, stored.images("ft"), 64, Augmentation())
    (one, stage, _), (other, *_), (again, *_) = (pictures[3, seed] for seed in (5, 6, 5))
    assert (one.dtype, one.shape, stage) == (torch.uint8, (3, 64, 64), 3)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    same_epoch = Pictures(side[3:4], stored.images("ft"), 64, Augmentation())
    assert torch.equal(same_epoch[0, 5][0], one)


def test_without_signals_there_is_nothing_to_vary(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="stores no signals, which augmentation varies"):
        train_module(plan_of(workspace, tmp_path, augmentation=AUGMENTED))


def test_history_of_the_trainers_log() -> None:
    log = [
        {"loss": 1.5, "learning_rate": 1e-3, "images_per_s": 100.0, "step": 3},
        {"eval_macro_f1": 0.5, "eval_accuracy": 0.6, "eval_kappa": 0.4, "eval_loss": 1.0},
        {"loss": 1.0, "learning_rate": 0.0, "images_per_s": 120.0, "step": 6},
        {"train_runtime": 3.0},
    ]
    assert history_of(log) == [
        {
            "pass": 1,
            "loss": 1.5,
            "images_per_s": 100.0,
            "val_accuracy": 0.6,
            "val_macro_f1": 0.5,
            "val_kappa": 0.4,
        },
        {"pass": 2, "loss": 1.0, "images_per_s": 120.0},
    ]


def test_stages_are_in_the_order_of_the_table(epochs: list[Epoch]) -> None:
    assert [STAGES[i] for i in stage_indices(epochs)] == [epoch.stage for epoch in epochs]
