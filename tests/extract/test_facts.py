"""The vision module learns to tell what prepare measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eegtool.core.records import Epoch, read_epochs
from eegtool.core.workspace import Workspace, write_json
from eegtool.extract.facts import NUMBERS, targets_of
from eegtool.extract.trained import _is_trained, facts_sha256
from eegtool.extract.trainer import StageTrainer
from eegtool.extract.training import train_module
from eegtool.extract.weights import load_module
from eegtool.pictures.augmentation import Augmentation
from eegtool.reasons.facts import Facts
from eegtool.reasons.stored import stored_facts
from tests.extract.test_training import killed_after, plan_of, same, weights_of

FACTS = Facts(0.6, 0.2, 0.1, 0.05, 0.05, (), 48, 0.1, 3, 0, 0)


def measured(workspace: Workspace, side: list[Epoch]) -> None:
    """Write cards of nights, in which every other epoch has spindles and a higher amplitude."""
    for name in {epoch.recording for epoch in side}:
        own = [epoch for epoch in side if epoch.recording == name]
        rows = [
            replace(FACTS, n_spindles=i % 2, amplitude_uv=40 + 40 * (i % 2)).to_row()
            for i in range(len(own))
        ]
        staged = [[epoch.epoch_index, epoch.stage] for epoch in own]
        write_json(workspace.night(name), {"staged": staged, "facts": rows})


def test_numbers_have_one_scale_and_gaps_where_nothing_was_measured() -> None:
    facts = [replace(FACTS, n_spindles=i % 2, amplitude_uv=10 * i + 20) for i in range(6)]
    facts[0] = replace(facts[0], n_rapid=2, n_blinks=0, chin_db=-8)
    facts[1] = replace(facts[1], n_rapid=0, n_blinks=0, chin_db=3)
    table = targets_of(facts).numpy()
    names = ("amplitude", "spindles", "rapid eyes", "chin")  # the others are the same in all
    assert table.shape == (6, len(names))
    np.testing.assert_allclose(np.nanmean(table, axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(table, axis=0), 1, atol=1e-6)
    assert np.isnan(table[2:, 2:]).all()
    assert not np.isnan(table[:2]).any()
    assert set(names) < set(NUMBERS)


def test_features_tell_the_facts_and_the_weights_are_those_of_a_plain_module(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = [epoch for epoch in read_epochs(workspace.epochs) if epoch.split == "ft"]
    measured(workspace, side)
    losses: list[float] = []
    compute = StageTrainer.compute_loss

    def watched(
        self: StageTrainer,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        *a: object,
        **k: object,
    ) -> object:
        if model.training and self.facts is not None and self.head is not None:
            with torch.no_grad():
                predicted = self.head(model(inputs["pictures"])[0])
            losses.append(float((predicted - self.facts[inputs["numbers"]]).square().mean()))
        return compute(self, model, inputs, *a, **k)  # type: ignore[arg-type]

    monkeypatch.setattr(StageTrainer, "compute_loss", watched)
    plain = plan_of(workspace, tmp_path / "plain")
    train_module(plain)
    assert losses == []
    train_module(replace(plain, out=str(tmp_path / "facts"), facts_sha256="ab", train_epochs=8))
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    one, other = (load_module(tmp_path / name) for name in ("plain", "facts"))
    assert one[0].state_dict().keys() == other[0].state_dict().keys()
    assert [card["facts_sha256"] for _, card in (one, other)] == ["", "ab"]


def test_a_killed_training_continues_with_its_facts(
    stored: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = [epoch for epoch in read_epochs(stored.epochs) if epoch.split == "ft"]
    measured(stored, side)
    how = {"augmentation": Augmentation(), "facts_sha256": "ab"}
    whole = train_module(plan_of(stored, tmp_path / "whole", **how))
    plan = plan_of(stored, tmp_path / "killed", **how)
    killed_after(plan, 2, monkeypatch)
    resumed = train_module(plan)
    assert resumed.resumed_after == 2
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed"))
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


def test_a_module_is_trained_again_where_other_things_were_measured(
    workspace: Workspace, tmp_path: Path
) -> None:
    plan = plan_of(workspace, tmp_path / "out", train_epochs=1)
    train_module(plan)
    assert _is_trained(tmp_path / "out", plan)
    assert not _is_trained(tmp_path / "out", replace(plan, facts_sha256="ab"))
    side = [epoch for epoch in read_epochs(workspace.epochs) if epoch.split == "ft"]
    measured(workspace, side)
    train_module(replace(plan, facts_sha256="ab"))
    assert _is_trained(tmp_path / "out", replace(plan, facts_sha256="ab"))
    assert not _is_trained(tmp_path / "out", replace(plan, facts_sha256="cd"))
    assert not _is_trained(tmp_path / "out", plan)


@pytest.mark.parametrize("nights", ["all", "one", "none"])
def test_facts_are_learnt_where_every_epoch_was_measured(
    nights: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = read_epochs(workspace.epochs)
    names = sorted({epoch.recording for epoch in epochs})
    if nights != "none":
        measured(workspace, [e for e in epochs if nights == "all" or e.recording == names[0]])
    found = facts_sha256(workspace, epochs)
    assert bool(found) is (nights == "all")
    said = capsys.readouterr().out.replace("\n", " ")
    assert ("were not measured" in said) is (nights == "one")
    assert ("learn what was measured in each" in said) is (nights == "all")
    assert facts_sha256(workspace, epochs[::-1]) == found


def test_facts_are_found_by_recording_and_epoch(workspace: Workspace) -> None:
    side = [epoch for epoch in read_epochs(workspace.epochs) if epoch.split == "ft"]
    measured(workspace, side)
    found = stored_facts(workspace, {epoch.recording for epoch in side}, side[::-1])
    assert found.keys() == {epoch.sample_id for epoch in side}
    assert found[side[1].sample_id].n_spindles == 1
