from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import Trainer, TrainingArguments

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_conversations, write_conversations
from eegtool.core.workspace import Workspace, read_json
from eegtool.extract.features import FeatureTable, Sidecar, write_features
from eegtool.finetune import train
from eegtool.finetune.plan import Plan
from eegtool.finetune.trainer import EegTrainer, Monitor, PassOrder, check_trained
from eegtool.model.adapters import add_lora, load_adapter
from eegtool.model.checkpoints import load_base
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.loading import quiet
from tests.finetune.conftest import Planner, run_ranks


def drawn(order: PassOrder, number: int = 0) -> list[int]:
    order.set_pass(number)
    found = list(order)
    assert len(found) == len(order)
    return found


def test_each_pass_draws_every_sample_once_in_an_order_of_its_own() -> None:
    order = PassOrder(50, 4, 1, seed=3)
    first, second = drawn(order), drawn(order, 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == drawn(PassOrder(50, 4, 1, seed=3))
    assert first != drawn(PassOrder(50, 4, 1, seed=4))


def test_ranks_are_filled_up_with_samples_that_teach_nothing() -> None:
    alone, shared = PassOrder(18, 4, 1, seed=3), PassOrder(18, 4, 4, seed=3)
    assert drawn(shared)[:18] == drawn(alone)
    fillers = drawn(shared)[18:]
    assert len(fillers) == 2
    assert all(index < 0 and ~index in drawn(alone)[-4:] for index in fillers)
    assert len(drawn(PassOrder(1, 8, 8, seed=3))) == 8  # fewer samples than ranks


@pytest.mark.parametrize("n", [800, 803])
def test_steps_are_of_similar_length_and_in_random_order(n: int) -> None:
    lengths = np.random.default_rng(0).integers(100, 1000, n)
    order = PassOrder(n, 8, 1, seed=3, lengths=lengths.tolist())
    found = drawn(order)
    assert sorted(found) == list(range(n))
    steps = [lengths[found[i : i + 8]] for i in range(0, n, 8)]
    assert len(steps[-1]) == n % 8 or n % 8 == 0
    spread = np.mean([step.max() - step.min() for step in steps[: n // 8]])
    alone = drawn(PassOrder(n, 8, 1, seed=3))
    random = np.mean([np.ptp(lengths[alone[i : i + 8]]) for i in range(0, n - 8, 8)])
    assert spread < random / 10
    means = [step.mean() for step in steps[:50]]
    assert abs(np.corrcoef(range(50), means)[0, 1]) < 0.5  # not from long to short
    assert drawn(order, 1) != found


Probe = tuple[list[int], list[int]]


@pytest.fixture
def probe(workspace: Workspace, plan_of: Planner, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what trains and tells which picture met which feature row, over two shuffled passes.

    Picture and feature row of sample i both say i: the one by its brightness, the other by its value.
    """
    rows = read_conversations(workspace.conversations)[:18]  # a last batch of 2
    write_conversations(workspace.conversations, rows)
    for i, row in enumerate(rows):
        path = workspace.images("ft") / row.images[0]
        Image.fromarray(np.full((64, 64, 3), 10 * i, np.uint8)).save(path)
    values = np.arange(18, dtype=np.float32)[:, None, None] * np.ones((1, 1, 1024), np.float32)
    ids = tuple(row.sample_id for row in rows)
    write_features(workspace.features("ft"), values, Sidecar(ids, "resnet18", "ab" * 32, ""))
    pictures: list[int] = []
    features: list[int] = []
    embed = EEGVLM.embed

    def look(self: EEGVLM, input_ids: Any, pixels: Any, high: Any) -> Any:
        brightness = (pixels[:, 0, 0, 0] * 0.26862954 + 0.48145466) * 25.5
        pictures.extend(brightness.round().int().tolist())
        features.extend(high[:, 0, 0].int().tolist())
        return embed(self, input_ids, pixels, high)

    monkeypatch.setattr(EEGVLM, "embed", look)

    def probe(**change: Any) -> Probe:
        train.run(plan_of(max_steps=-1, num_train_epochs=2, mm_projector_lr=1e-6, **change))
        return pictures, features

    return probe


@pytest.mark.parametrize(
    "change", [{}, {"group_by_length": True}, {"dataloader_num_workers": 3}], ids=str
)
def test_each_sample_meets_its_own_feature_row(
    probe: Callable[..., Probe], change: dict[str, Any]
) -> None:
    pictures, features = probe(**change)
    assert sorted(pictures) == sorted([*range(18)] * 2)
    assert pictures[:18] != sorted(pictures[:18])
    assert pictures[:18] != pictures[18:]
    assert features == pictures


def test_the_probe_catches_a_counter(
    probe: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows by a running counter, as the reference implementation takes them, are the wrong ones."""
    counter = itertools.count()

    def count(self: FeatureTable, sample_id: str) -> np.ndarray:
        return np.array(self.rows[next(counter) % 18])

    monkeypatch.setattr(FeatureTable, "__getitem__", count)
    pictures, features = probe()
    assert features[:18] == list(range(18))
    assert sum(a != b for a, b in zip(pictures, features, strict=True)) > 18


def losses(plan: Plan) -> list[float]:
    log = read_json(Path(plan.output_dir) / "training_log.json")["log"]
    return [row["loss"] for row in log if "loss" in row]


SHAPES = {"1 x 4": (1, 4, 1), "1 x 2, twice": (1, 2, 2), "2 x 2": (2, 2, 1)}


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("grouped", "shapes"), [(False, SHAPES), (True, list(SHAPES)[:2])], ids=["random", "grouped"]
)
def test_losses_do_not_depend_on_how_a_step_is_shared(
    plan_of: Planner, workspace: Workspace, grouped: bool, shapes: Iterable[str]
) -> None:
    """The last step of a pass has 3 samples, which do not fill two ranks; answers differ in length."""
    rows = read_conversations(workspace.conversations)[:19]
    words = ["", ", light sleep", ", deep sleep with slow waves of high amplitude"]
    rows = [replace(row, answer=row.answer + words[i % 3]) for i, row in enumerate(rows)]
    write_conversations(workspace.conversations, rows)
    ids = tuple(row.sample_id for row in rows)
    values = np.load(workspace.features("ft"))[:19]
    write_features(workspace.features("ft"), values, Sidecar(ids, "resnet18", "ab" * 32, ""))
    found = {}
    for name in shapes:
        ranks, batch, accumulation = SHAPES[name]
        plan = plan_of(
            name.replace(" ", ""),
            max_steps=7,  # over the end of a pass
            lora_dropout=0.0,
            learning_rate=2e-3,
            group_by_length=grouped,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )
        if ranks == 1:
            train.run(plan)
        else:
            run_ranks(plan, ranks, use_deepspeed=False)
        found[name] = losses(plan)
    expected = found.pop("1 x 4")
    assert len(expected) == 7
    for name, other in found.items():
        assert other == pytest.approx(expected, abs=1e-4), name


def rates_of(kind: Any, n_steps: int, **arguments: Any) -> list[float]:
    """The learning rate of each step of a training."""
    it: Any = object.__new__(kind)
    it.args = TrainingArguments(use_cpu=True, report_to="none", **arguments)
    it.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    it.lr_scheduler = None
    scheduler = it.create_scheduler(num_training_steps=n_steps, optimizer=it.optimizer)
    rates = []
    for _ in range(n_steps):
        rates += scheduler.get_last_lr()
        it.optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant_with_warmup", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [0, 0.03, 0.5, 0.99, 1, 5])
def test_some_step_has_a_rate_and_longer_trainings_warm_up_as_ever(
    schedule: str, warmup: float
) -> None:
    how = {"lr_scheduler_type": schedule, "warmup_steps": warmup}
    assert rates_of(EegTrainer, 1, **how) == [1.0]
    for n_steps in (2, 3, 100):
        rates = rates_of(EegTrainer, n_steps, **how)
        assert max(rates) > 0
        assert rates == rates_of(Trainer, n_steps, **how)


@pytest.mark.parametrize("length", [{"max_steps": 1}, {"max_steps": 2}, {"num_train_epochs": 1}])
def test_the_shortest_training_moves_lora(
    plan_of: Planner, workspace: Workspace, length: dict[str, int]
) -> None:
    """The smoke test of everybody, and a data set of one sample."""
    if "num_train_epochs" in length:
        rows = read_conversations(workspace.conversations)[:1]
        write_conversations(workspace.conversations, rows)
        table = np.load(workspace.features("ft"))[:1]
        write_features(workspace.features("ft"), table, Sidecar((rows[0].sample_id,), "", "", ""))
        length = length | {"max_steps": -1}
    plan = plan_of(lr_scheduler_type="cosine", warmup_steps=0.03, **length)
    train.run(plan)
    log = read_json(Path(plan.output_dir) / "training_log.json")["log"]
    assert sum("loss" in entry for entry in log) == max(1, length["max_steps"])
    assert load_adapter(Path(plan.output_dir), base=None, dtype=torch.float32)


def test_nothing_but_lora_and_projector_is_trained(tiny: Path) -> None:
    model, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.float32)
    peft_model = add_lora(model, r=2, alpha=4, dropout=0.0)
    check_trained(peft_model)
    wrong = next(model.model.vision_tower.parameters())
    wrong.requires_grad_(True)
    with pytest.raises(EegToolError, match=r"1 parameters would be trained .*\.vision_tower"):
        check_trained(peft_model)
    wrong.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    with pytest.raises(EegToolError, match="lm_head"):
        check_trained(peft_model)


def test_lora_in_the_tower_is_refused(plan_of: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_everywhere(model: Any, **options: Any) -> Any:
        config = LoraConfig(r=2, target_modules=["q_proj"])  # leaf names: CLIP has it, too
        with quiet():
            return get_peft_model(model, config)

    monkeypatch.setattr(train, "add_lora", add_everywhere)
    with pytest.raises(EegToolError, match=r"parameters would be trained .*\.vision_tower"):
        train.run(plan_of())


def test_checkpointing_is_not_reentrant(plan_of: Planner) -> None:
    plan = plan_of(gradient_checkpointing=True)
    model, _ = train.build_model(plan, TrainingArguments(**plan.arguments))
    layer = model.get_base_model().model.language_model.layers[0]
    assert layer.gradient_checkpointing is True
    function = layer._gradient_checkpointing_func
    assert function.keywords["use_reentrant"] is False


@pytest.mark.parametrize(
    ("change", "dtype"),
    [({}, torch.float32), ({"bf16": True}, torch.bfloat16), ({"fp16": True}, torch.float16)],
    ids=str,
)
def test_weights_are_loaded_in_the_precision_of_the_hardware(
    plan_of: Planner, change: dict[str, bool], dtype: torch.dtype
) -> None:
    arguments = SimpleNamespace(
        bf16=False, fp16=False, deepspeed=None, seed=1, device=torch.device("cpu")
    )
    vars(arguments).update(change)
    model, _ = train.build_model(plan_of(), arguments)
    parameters = dict(model.get_base_model().named_parameters())
    assert parameters["lm_head.weight"].dtype == dtype
    trained = [p for p in parameters.values() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}


def state_at(step: int) -> Any:
    return SimpleNamespace(global_step=step, max_steps=9, is_world_process_zero=True)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_refused(loss: float) -> None:
    with pytest.raises(EegToolError, match="loss of step 4 is not a finite number") as caught:
        Monitor(8).on_log(None, state_at(4), None, {"loss": loss})
    assert "--learning-rate" in caught.value.fix


def test_a_training_that_diverges_is_stopped(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would show the average of the losses before."""
    compute = EegTrainer.compute_loss

    def diverge(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step == 1 else loss

    monkeypatch.setattr(EegTrainer, "compute_loss", diverge)
    with pytest.raises(EegToolError, match="loss of step 2 is not a finite number"):
        train.run(plan_of(max_steps=4))


def test_the_bar_shows_loss_speed_and_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monitor = Monitor(8)
    monitor.on_train_begin(None, state_at(3), None)
    clock[0] += 2.0
    monitor.on_step_end(None, state_at(5), None)
    monitor.on_log(None, state_at(5), None, {"loss": 1.23456})
    monitor.close()
    task = monitor.bar.tasks[0]
    assert (task.completed, task.total) == (5, 9)
    assert task.fields["note"] == "loss 1.235, 8 samples/s"
