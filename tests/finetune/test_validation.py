"""Validation while training: held-out subjects, figures as `evaluate` finds them, the best weights, early stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import cohen_kappa_score, f1_score

from eegtool.core.answers import read_stage
from eegtool.core.errors import EegToolError
from eegtool.core.records import (
    Conversation,
    Epoch,
    Question,
    read_answers,
    read_conversations,
    read_epochs,
    write_conversations,
    write_epochs,
    write_questions,
)
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, read_json, sha256_of
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.options import EvaluateSettings
from eegtool.finetune import calibrating, estimate, held_out, saving, step, train
from eegtool.finetune.launcher import has_cpp_compiler
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import Plan, differences
from eegtool.finetune.planning import make_plan
from eegtool.finetune.trainer import EegTrainer
from eegtool.finetune.validation import best_of, figures
from eegtool.inference.loaded import LoadedModel
from eegtool.model.adapters import read_contract
from eegtool.model.eegvlm import EEGVLM
from tests.finetune.conftest import Planner
from tests.finetune.test_precision import plan_for, train_in_turn

VALIDATED = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 3e-3}


@pytest.fixture
def validated(plan_of: Planner, workspace: Workspace) -> Planner:
    """Return what makes plans of trainings that are validated on S02."""

    def validated(name: str = "run", **change: Any) -> Plan:
        held = {"eval_subjects": ["S02"], "epochs_file": str(workspace.epochs)}
        held["epochs_sha256"] = sha256_of(workspace.epochs)
        return plan_of(name, **held | VALIDATED | change)

    return validated


def history(plan: Plan) -> list[dict[str, float]]:
    """Return the figures of each validation, in order."""
    log = read_json(Path(plan.output_dir) / "training_log.json")["log"]
    names = ("step", "eval_kappa", "eval_macro_f1", "eval_accuracy", "eval_loss")
    return [{name: row[name] for name in names} for row in log if "eval_loss" in row]


def losses(plan: Plan) -> list[float]:
    log = read_json(Path(plan.output_dir) / "training_log.json")["log"]
    return [row["loss"] for row in log if "loss" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    names = ("adapter_model", "projector")
    return {k: v for name in names for k, v in load_file(folder / f"{name}.safetensors").items()}


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def evaluated(
    workspace: Workspace, plan: Plan, *, labels: bool = True, calibrate: bool = False
) -> dict[str, float]:
    """Return what `evaluate` finds with the adapter on the held-out epochs; perhaps its answers are bare labels."""
    epochs = {e.sample_id: e for e in read_epochs(workspace.epochs)}
    rows = read_conversations(workspace.conversations)
    asked = [Question(r.sample_id, r.images, r.question, epochs[r.sample_id].stage) for r in rows]
    write_questions(workspace.root / "held_out.jsonl", asked)
    settings = EvaluateSettings(
        model_path=Path(plan.output_dir),
        workspace=workspace.root,
        question_file=workspace.root / "held_out.jsonl",
        image_folder=workspace.images("ft"),
        features_file=workspace.features("ft"),
        answers_file=workspace.root / "held_out_answers.jsonl",
        subjects=",".join(plan.eval_subjects),
        mode="score",
        dtype="float32",
        overwrite=True,
        calibrate=calibrate,
    )
    evaluate.run(settings)
    answers = read_answers(workspace.root / "held_out_answers.jsonl")
    assert len(answers) == 10
    true, said = [a.label for a in answers], [a.text for a in answers]
    if not labels:
        said = [read_stage(text).stage or "" for text in said]
    macro_f1 = f1_score(true, said, labels=sorted(set(true)), average="macro", zero_division=0)
    scores = [a.metadata["log_likelihoods"] for a in answers]
    told = np.array([[row[stage] for stage in STAGES] for row in scores])
    nll = np.log(np.exp(told).sum(1)) - told[range(10), [STAGES.index(s) for s in true]]
    return {
        "eval_kappa": cohen_kappa_score(true, said),
        "eval_macro_f1": macro_f1,
        "eval_loss": float(nll.mean()),
    }


# --- who is held out --------------------------------------------------------------------------------


def cohort(sizes: dict[str, int]) -> tuple[list[Conversation], list[Epoch]]:
    """Return samples and epochs: of each subject so many, the stages in turn; E01 is on the other side."""
    epochs = [
        Epoch(f"{s}-{i:04d}", "simulated", s, s, 1, i, 30.0 * i, STAGES[i % 5], side, f"{s}{i}.png")
        for s, n in {**sizes, "E01": 4}.items()
        for i in range(n)
        for side in ("eval" if s == "E01" else "ft",)
    ]
    rows = [
        Conversation(e.sample_id, (e.image, e.image), "Which?", e.stage)
        for e in epochs
        if e.split == "ft"
    ]
    return rows, epochs


def drawn(tmp_path: Path, sizes: dict[str, int], **how: Any) -> held_out.Sides:
    rows, epochs = cohort(sizes)
    write_epochs(tmp_path / "epochs.csv", epochs)
    chosen = {"share": 0.1, "limit": 0, "seed": 3} | how
    return held_out.draw(rows, tmp_path / "epochs.csv", **chosen)


@pytest.mark.parametrize(("share", "n"), [(0.01, 1), (0.1, 1), (0.3, 3), (0.9, 9)])
def test_whole_subjects_are_held_out(tmp_path: Path, share: float, n: int) -> None:
    sizes = {f"S{i:02d}": 10 + i for i in range(10)}
    sides = drawn(tmp_path, sizes, share=share)
    assert len(sides.subjects) == n
    assert (sides.of, sides.n_held_out) == (10, sum(sizes[s] for s in sides.subjects))
    trained = Counter(row.sample_id[:3] for row in sides.training)
    scored = Counter(question.sample_id[:3] for question in sides.scored)
    assert dict(scored) == {s: sizes[s] for s in sides.subjects}
    assert dict(trained) == {s: k for s, k in sizes.items() if s not in sides.subjects}
    stages = {e.sample_id: e.stage for e in cohort(sizes)[1]}
    assert all(question.category == stages[question.sample_id] for question in sides.scored)
    assert sides == drawn(tmp_path, sizes, share=share)
    others = {drawn(tmp_path, sizes, share=share, seed=seed).subjects for seed in range(9)}
    assert len(others) > 3


def test_who_is_to_be_held_out_first_is(tmp_path: Path) -> None:
    """Those that the vision module was not trained on; others only where more are asked for."""
    sizes = {f"S{i:02d}": 10 for i in range(10)}
    first = {"S03", "S08", "S99"}
    for seed in range(5):
        assert set(drawn(tmp_path, sizes, first=first, seed=seed).subjects) < first
        assert first - {"S99"} < {
            *drawn(tmp_path, sizes, share=0.4, first=first, seed=seed).subjects
        }
    assert drawn(tmp_path, sizes, first={"S99"}) == drawn(tmp_path, sizes)


def test_a_limit_is_drawn_evenly_over_subjects_and_stages(tmp_path: Path) -> None:
    """One subject is ten times as long as the other; W is cut short in the shorter one."""
    sizes = {"S00": 30, "S01": 300, "S02": 10}
    rows, epochs = cohort(sizes)
    table = {e.sample_id: e for e in epochs}
    asked = [r for r in rows if r.sample_id[:3] != "S02"]
    asked = [r for r in asked if r.sample_id == "S00-0000" or table[r.sample_id].stage != "W"]
    chosen = held_out.evenly(asked, table, 41, 5)
    cells = Counter((table[r.sample_id].subject, table[r.sample_id].stage) for r in chosen)
    assert cells.pop(("S00", "W")) == 1
    assert len(cells) == 8
    assert set(cells.values()) == {5}
    assert [r.sample_id for r in chosen] == sorted(r.sample_id for r in chosen)
    assert chosen == held_out.evenly(asked, table, 41, 5)
    assert chosen != held_out.evenly(asked, table, 41, 6)
    assert held_out.evenly(asked, table, 10**6, 5) == asked


@pytest.mark.parametrize(
    ("sizes", "how", "message"),
    [
        ({"S00": 9}, {}, r"0.1 of 1 subjects \(S00\) leaves no subject to train on"),
        ({"S00": 9, "S01": 9}, {"share": 0.9}, "leaves no subject to train on"),
        ({"S00": 9, "S01": 9}, {"share": 0.0}, "leaves no subject to validate on"),
        ({"S00": 1, "S01": 1}, {}, r"The 1 validation epochs of S0\d have only the stage W"),
        ({"S00": 9, "S01": 9}, {"limit": 1}, "have only the stage"),
    ],
)
def test_a_share_that_cannot_be_validated_on_is_refused(
    tmp_path: Path, sizes: dict[str, int], how: dict[str, Any], message: str
) -> None:
    with pytest.raises(EegToolError, match=message) as caught:
        drawn(tmp_path, sizes, **how)
    assert caught.value.fix


def test_who_the_samples_are_of_must_be_known(tmp_path: Path) -> None:
    rows, epochs = cohort({"S00": 9, "S01": 9})
    file = tmp_path / "epochs.csv"
    with pytest.raises(EegToolError, match=r"epochs\.csv does not exist, which says whose") as e:
        held_out.draw(rows, file, 0.1, 0, 1)
    assert "leave --eval-strategy out" in e.value.fix
    write_epochs(file, epochs[1:])
    with pytest.raises(EegToolError, match=r"does not know the sample 'S00-0000'"):
        held_out.draw(rows, file, 0.1, 0, 1)
    write_epochs(file, [replace(epochs[0], split="eval"), *epochs[1:]])
    with pytest.raises(EegToolError, match=r"counts to the evaluation side the sample 'S00-0000'"):
        held_out.draw(rows, file, 0.1, 0, 1)


def test_of_several_turns_the_one_about_the_stage_is_asked(tmp_path: Path) -> None:
    rows, epochs = cohort({"S00": 9, "S01": 9})
    write_epochs(tmp_path / "epochs.csv", epochs)
    rows = [
        replace(r, question="What do you see?", answer="Waves.", later=(("So?", f"{r.answer}"),))
        for r in rows
    ]
    sides = held_out.draw(rows, tmp_path / "epochs.csv", 0.5, 0, 1)
    assert {question.text for question in sides.scored} == {"So?"}


# --- the parent -------------------------------------------------------------------------------------


@pytest.fixture
def settings(workspace: Workspace) -> FinetuneSettings:
    return FinetuneSettings(
        "tiny", workspace=workspace.root, deepspeed="none", eval_strategy="steps", eval_steps=2
    )


def test_the_plan_names_them_and_the_ranks_find_the_same(
    settings: FinetuneSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(settings, eval_limit=5, early_stopping_patience=3)
    plan = make_plan(settings, tmp_path / "run")
    (subject,) = plan.eval_subjects
    assert (plan.eval_limit, plan.best_metric, plan.early_stopping_patience) == (5, "kappa", 3)
    assert (plan.arguments["eval_strategy"], plan.arguments["eval_steps"]) == ("steps", 2)
    assert plan.answers["answers"] == 10  # what is held out teaches no form of the answers
    sides = held_out.read(plan)
    assert {row.sample_id[:3] for row in sides.training} == {"S01", "S02"} - {subject}
    assert {question.sample_id[:3] for question in sides.scored} == {subject}
    assert sorted(question.category for question in sides.scored) == sorted(STAGES)
    said = " ".join(capsys.readouterr().out.split())
    assert "--eval-limit: epochs are drawn evenly over the stages" in said
    assert "the vision module was trained on this side" in said
    with Path(plan.epochs_file).open("a") as file:
        file.write("\n")
    with pytest.raises(EegToolError, match="has changed since the training was planned"):
        held_out.read(plan)


def test_nothing_changes_where_nothing_is_validated(
    settings: FinetuneSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(settings, eval_strategy="no", eval_limit=7)
    plan = make_plan(settings, tmp_path / "run")
    assert (plan.eval_subjects, plan.best_metric, plan.epochs_file) == ([], "", "")
    assert not [name for name in plan.arguments if name.startswith("eval_")]
    said = " ".join(capsys.readouterr().out.split())
    assert "--eval_steps: nothing is validated" in said
    assert "--eval_limit: nothing is validated" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval_strategy": "step"}, "--eval-strategy 'step'"),
        ({"metric_for_best_model": "f1"}, "--metric-for-best-model 'f1'"),
        ({"eval_strategy": "no", "load_best_model_at_end": True}, "--load-best-model-at-end needs"),
        ({"eval_strategy": "no", "early_stopping_patience": 2}, "--early-stopping-patience needs"),
        ({"eval_strategy": "no", "calibrate": True}, "--calibrate needs"),
        ({"eval_subjects_share": 0.0}, "leaves no subject to validate on"),
        ({"eval_limit": 1}, "have only the stage"),
    ],
)
def test_bad_settings_are_refused(
    settings: FinetuneSettings, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(EegToolError, match=message) as caught:
        make_plan(replace(settings, **change), tmp_path / "run")
    assert caught.value.fix
    assert not (tmp_path / "run").exists()


def test_answers_that_cannot_be_scored_are_refused(
    settings: FinetuneSettings, workspace: Workspace, tmp_path: Path
) -> None:
    rows = read_conversations(workspace.conversations)
    write_conversations(workspace.conversations, [replace(r, answer="Sleep.") for r in rows])
    with pytest.raises(EegToolError, match="no form in common that could be scored"):
        make_plan(settings, tmp_path / "run")


def test_the_cost_is_said_before_it_starts(
    settings: FinetuneSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """10 samples are trained on, 5 a step: 7 steps with 4 validations of 10 epochs, each half a step's work."""
    step.run(
        replace(
            settings,
            output_dir=tmp_path / "run",
            max_steps=7,
            per_device_train_batch_size=5,
            dry_run=True,
        )
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "10 samples, 7 steps" in said
    assert "Validation: 10 of 10 epochs of 1 held-out subject (S0" in said
    assert "4 times: about 57% of the training's time on top (estimate)" in said


def test_how_often_is_validated(validated: Planner) -> None:
    def times(**change: Any) -> int:
        plan = validated(gradient_accumulation_steps=1, **change)
        return estimate.validations(plan, samples=10, ranks=1)

    assert times(max_steps=6, eval_steps=2) == 3
    assert times(max_steps=7, eval_steps=2) == 4  # once more at the end
    per_pass = {"eval_strategy": "epoch", "eval_steps": None}  # 3 steps of 4 samples
    assert times(max_steps=-1, num_train_epochs=2, **per_pass) == 2
    assert times(max_steps=4, **per_pass) == 2


def test_what_decides_the_outcome(validated: Planner) -> None:
    """How is validated decides only where the best weights are chosen by it; who is held out always does."""
    last, best = validated(), validated(best_metric="kappa")
    for plan, decides in ((last, False), (best, True)):
        for change in (
            {"eval_limit": 5},
            {"early_stopping_patience": 1},
            {"epochs_sha256": "0"},
        ):
            assert (replace(plan, **change).fingerprint != plan.fingerprint) == decides
        arguments = plan.arguments | {"eval_steps": 3}
        assert (replace(plan, arguments=arguments).fingerprint != plan.fingerprint) == decides
        other = replace(plan, eval_subjects=["S01"])
        assert other.fingerprint != plan.fingerprint
    assert last.fingerprint != best.fingerprint
    assert differences({"arguments": {}}, {"arguments": {}, "eval_subjects": []}) == []


# --- figures ----------------------------------------------------------------------------------------


def test_figures_are_those_of_the_field() -> None:
    stages = ["W", "W", "N1", "N2", "N2", "N2"]
    said = [0, 0, 2, 2, 2, 3]
    told = np.full((6, 5), -3.0)
    told[range(6), said] = -1.0
    found = figures(told, stages)
    # 4 of 6 right; by chance (2·2 + 1·0 + 3·3) / 36 would be
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["kappa"] == pytest.approx((4 / 6 - 13 / 36) / (1 - 13 / 36))
    assert found["macro_f1"] == pytest.approx((1 + 0 + 2 * 2 / 6) / 3)
    right, wrong = np.log(1 + 4 * np.exp(-2)), np.log(1 + 4 * np.exp(-2)) + 2
    assert found["loss"] == pytest.approx((4 * right + 2 * wrong) / 6)


def row(n: int, kappa: float, loss: float) -> dict[str, float]:
    return {"step": n, "eval_kappa": kappa, "eval_loss": loss, "eval_runtime": 1.0}


def test_the_best_is_read_from_the_log() -> None:
    log = [{"step": 1, "loss": 3.0}, row(2, 0.1, 2.0), row(4, 0.5, 1.5), row(6, 0.5, 1.2)]
    best = best_of(log, "kappa")
    assert best is not None
    assert (best.step, best.value, best.since) == (4, 0.5, 1)  # of equal ones the first
    assert best.figures == {"kappa": 0.5, "loss": 1.5}
    by_loss = best_of(log, "loss")
    assert by_loss is not None
    assert (by_loss.step, by_loss.since) == (6, 0)
    assert best_of(log, "") is None
    assert best_of(log[:1], "kappa") is None


# --- the training -----------------------------------------------------------------------------------


def test_what_is_logged_is_what_evaluate_finds(
    validated: Planner,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With dropout, which must be off in validations and on in between."""
    modes: list[tuple[bool, bool]] = []
    embed = EEGVLM.embed

    def look(self: EEGVLM, *args: Any) -> Any:
        modes.append((self.training, torch.is_grad_enabled()))
        return embed(self, *args)

    monkeypatch.setattr(EEGVLM, "embed", look)
    plan = validated(lora_dropout=0.1, gradient_checkpointing=True)
    train.run(plan)
    one = [(True, True)] * 2 + [(False, False)]  # two steps, and ten epochs as one batch
    assert modes == one * 3
    found = history(plan)
    assert [row["step"] for row in found] == [2, 4, 6]
    assert found[-1]["eval_loss"] < found[0]["eval_loss"]
    expected = evaluated(workspace, plan)
    for name, value in expected.items():
        assert found[-1][name] == pytest.approx(value, abs=1e-5), name
    contract = read_contract(Path(plan.output_dir))
    assert contract.validation == {"subjects": ["S02"], "epochs": 10}
    said = capsys.readouterr().out
    assert f"Step 6: κ {expected['eval_kappa']:.3f}, macro-F1" in said
    assert "validating" not in said.splitlines()[-1]


def test_the_finished_adapter_is_calibrated_as_evaluate_does_it(
    validated: Planner, workspace: Workspace
) -> None:
    """On all held-out epochs, whatever the limit of the validations was."""
    plan = validated(eval_limit=5, sequence={"transitions": [[9] * 5] * 5, "stages": [9] * 5})
    train.run(plan)
    out = Path(plan.output_dir)
    calibrating.calibrate_adapter(out, plan)
    own = read_json(out / "calibration.json")
    assert (own["n"], own["subjects"]) == (10, ["S02"])
    assert own["sequence_weight"] is not None
    (out / "calibration.json").unlink()
    evaluated(workspace, plan, calibrate=True)
    for name, value in read_json(out / "calibration.json").items():
        assert own[name] == (pytest.approx(value, abs=1e-4) if name != "subjects" else value), name


def test_an_adapter_that_cannot_be_calibrated_stays_as_it_is(
    validated: Planner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores that are all alike."""
    alike = np.zeros((10, len(STAGES)))
    monkeypatch.setattr(calibrating, "_scores", lambda *_: alike)
    plan = validated(max_steps=1)
    train.run(plan)
    calibrating.calibrate_adapter(Path(plan.output_dir), plan)
    assert not (Path(plan.output_dir) / "calibration.json").exists()
    said = " ".join(capsys.readouterr().out.split())
    assert "the adapter is not calibrated: No temperature is the best" in said


def test_reasons_are_written_before_the_stage_is_scored(
    validated: Planner, workspace: Workspace
) -> None:
    answers = {
        "stages": {stage: f"The stage is {stage}." for stage in STAGES},
        "lead": "The stage is",
        "place": "end",
        "max_new_tokens": 6,
    }
    plan = validated(answers=answers, eval_steps=6)
    train.run(plan)
    (found,) = history(plan)
    assert found["eval_loss"] == pytest.approx(
        evaluated(workspace, plan, labels=False)["eval_loss"], abs=1e-5
    )


def test_validations_do_not_touch_the_training(validated: Planner) -> None:
    often, once = validated("often", eval_steps=1), validated("once", eval_steps=6)
    never = validated("never", eval_strategy="no")
    for plan in (often, once, never):
        train.run(plan)
    assert [len(history(plan)) for plan in (often, once, never)] == [6, 1, 0]
    assert losses(often) == losses(once) == losses(never)
    assert same(Path(often.output_dir), Path(never.output_dir))
    assert history(often)[-1] == history(once)[-1]


def test_after_each_pass(validated: Planner) -> None:
    """A pass of 10 samples has 3 steps; the last checkpoint of a pass is saved before it is validated."""
    plan = validated(
        max_steps=-1,
        num_train_epochs=2,
        eval_strategy="epoch",
        eval_steps=None,
        save_strategy="epoch",
        best_metric="loss",
    )
    train.run(plan)
    assert [row["step"] for row in history(plan)] == [3, 6]


def test_the_best_weights_are_taken_and_kept(
    validated: Planner, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    """The second validation is the best one; of checkpoints the last one is kept, and that."""
    plan = validated(
        max_steps=8, best_metric="loss", save_strategy="steps", save_steps=3, save_total_limit=1
    )
    rigged = iter([2.0, 0.5, 3.0, 1.0])
    log = EegTrainer.log

    def rig(self: Any, logs: dict[str, float], start: float | None = None) -> None:
        log(self, logs | ({"eval_loss": next(rigged)} if "eval_loss" in logs else {}), start)

    monkeypatch.setattr(EegTrainer, "log", rig)
    train.run(plan)
    out = Path(plan.output_dir)
    assert [p.name for p in saving.checkpoints(out)] == ["checkpoint-4", "checkpoint-8"]
    assert same(out, out / "checkpoint-4")
    assert not same(out, out / "checkpoint-8")
    log_file = read_json(out / "training_log.json")
    assert log_file["best"]["step"] == 4
    assert log_file["best"]["loss"] == 0.5
    chosen = read_contract(out).validation
    assert (chosen["step"], chosen["subjects"]) == (4, ["S02"])
    assert evaluated(workspace, plan)["eval_kappa"] == pytest.approx(chosen["kappa"], abs=1e-9)


def test_a_best_checkpoint_that_is_gone_is_named(
    validated: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = validated(best_metric="loss", max_steps=2)
    monkeypatch.setattr(saving, "is_whole", lambda checkpoint: False)
    with pytest.raises(EegToolError, match="checkpoint-2, which has the best weights, is not"):
        train.run(plan)


@pytest.mark.parametrize("metric", ["kappa", "loss"])
def test_a_ruinous_learning_rate_stops_early(
    validated: Planner, metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 30 make every answer the same; no validation after it is better."""
    plan = validated(
        max_steps=12,
        eval_steps=1,
        learning_rate=30.0,
        best_metric=metric,
        early_stopping_patience=2,
    )
    train.run(plan)
    found = history(plan)
    assert len(found) < 12
    values = [row[f"eval_{metric}"] * (1 if metric == "kappa" else -1) for row in found]
    best = int(np.argmax(values))
    assert best == len(found) - 3
    out = Path(plan.output_dir)
    assert same(out, out / f"checkpoint-{best + 1}")
    said = " ".join(capsys.readouterr().out.split())
    assert f"Stopping early: no better {metric} than that of step {best + 1} in 2" in said
    assert f"The adapter is that of step {best + 1}" in said


CHOSEN = {"best_metric": "loss", "save_strategy": "steps", "save_steps": 3, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def whole() -> list[Any]:
    """What a training that nothing interrupted comes to, once it is made: history, losses, weights."""
    return []


class KilledError(Exception):
    """Stands for SIGKILL: nothing of the training's own code sees it."""


@pytest.mark.parametrize("how", ["killed in a step", "killed in a validation", "stopped in one"])
@pytest.mark.parametrize("at", [4, 6], ids=["in between", "the last one"])
def test_a_training_that_goes_on_has_the_same_history(
    validated: Planner,
    whole: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    how: str,
    at: int,
) -> None:
    if not whole:
        plan = validated("whole", **CHOSEN)
        train.run(plan)
        whole += [history(plan), losses(plan), weights(Path(plan.output_dir))]
    plan = validated(**CHOSEN)
    plan = replace(plan, stop_file=str(tmp_path / "stop"))
    taking, reply = EegTrainer.training_step, LoadedModel.reply
    steps: list[int] = []

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(self.state.global_step + 1)
        if how == "killed in a step" and steps[-1] == at + (at < 6):
            raise KilledError
        return taking(self, *args, **kwargs)

    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        if steps[-1] == at and how == "killed in a validation":
            raise KilledError
        if steps[-1] == at and how == "stopped in one":
            Path(plan.stop_file).touch()
        return reply(self, *args, **kwargs)

    monkeypatch.setattr(EegTrainer, "training_step", step)
    monkeypatch.setattr(LoadedModel, "reply", ask)
    if how == "stopped in one":
        train.run(plan)
        assert (Path(plan.output_dir) / f"checkpoint-{at}").exists()
        Path(plan.stop_file).unlink()
    else:
        with pytest.raises(KilledError):
            train.run(plan)
    assert not (Path(plan.output_dir) / "eegvlm.json").exists()
    monkeypatch.undo()
    train.run(replace(plan, resume=True))
    assert [history(plan), losses(plan)] == whole[:2]
    made = weights(Path(plan.output_dir))
    assert made.keys() == whole[2].keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in whole[2].items())


def test_an_early_stop_whose_adapter_was_not_written_stays_one(
    validated: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruin = {"max_steps": 12, "eval_steps": 1, "learning_rate": 30.0, "save_strategy": "steps"}
    plan = validated(best_metric="loss", early_stopping_patience=2, save_steps=1, **ruin)
    train.run(plan)
    out, found = Path(plan.output_dir), history(plan)
    before = weights(out)
    (out / "eegvlm.json").unlink()
    monkeypatch.setattr(EegTrainer, "training_step", lambda *_: pytest.fail("It trains on."))
    train.run(replace(plan, resume=True))
    assert history(plan) == found
    assert all(torch.equal(weights(out)[name], tensor) for name, tensor in before.items())


# --- ranks ------------------------------------------------------------------------------------------


def stopped(plan: Plan) -> Iterator[Plan]:
    """Yield a training that is stopped after its first step, before its validation, and that continues."""
    stop = Path(f"{plan.output_dir}.stop")
    stop.touch()
    yield replace(plan, stop_file=str(stop))
    yield replace(plan, resume=True)


@pytest.mark.skipif(not has_cpp_compiler(), reason="DeepSpeed needs a C++ compiler on a CPU")
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(("ranks", "modes"), [(1, ("zero3",)), (2, ("zero2", "zero3"))])
def test_under_deepspeed(
    plan_of: Planner, workspace: Workspace, tmp_path: Path, ranks: int, modes: tuple[str, ...]
) -> None:
    """With two ranks of ZeRO-3 and batches of 2, 10 epochs are 3 batches on each, the last ones of a single epoch."""
    held: dict[str, Any] = {
        "eval_subjects": ["S02"],
        "epochs_file": str(workspace.epochs),
        "epochs_sha256": sha256_of(workspace.epochs),
        "best_metric": "loss",
    }
    held |= {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 3e-3}
    held["per_device_train_batch_size"] = 4 // ranks
    plans = [plan_for(plan_of, mode, "whole", zero_stage=int(mode[4]), **held) for mode in modes]
    again = plan_for(plan_of, modes[-1], "resumed", zero_stage=int(modes[-1][4]), **held)
    resumed = stopped(again) if ranks > 1 else ()
    train_in_turn([*plans, *resumed], ranks, tmp_path)
    found = history(plans[-1])
    assert [row["step"] for row in found] == [1, 2, 3]
    for one, other in zip(history(plans[0]), found, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    if resumed:
        assert history(again) == found
        assert same(Path(again.output_dir), Path(plans[-1].output_dir))
    best = read_json(Path(plans[-1].output_dir) / "training_log.json")["best"]
    for name, value in evaluated(workspace, plans[-1]).items():
        assert best[name.removeprefix("eval_")] == pytest.approx(value, abs=1e-4), name
