"""A model of another family, asked about a night in memory and about one picture."""

from __future__ import annotations

import json
from pathlib import Path

import mne
import pytest

import eegtool
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace
from eegtool.evaluate import ask
from eegtool.evaluate.options import AskSettings
from eegtool.extract.stored import STORED, store_module
from eegtool.finetune import train
from eegtool.finetune.planning import make_plan
from tests.e2e.test_families import settings_of
from tests.model.families.tiny import build
from tests.stage.conftest import describe, noise


def test_a_night_is_staged_and_a_picture_asked_about(
    stage_model: Path, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = build("llava_onevision", tmp_path / "base")
    train.run(make_plan(settings_of(base, workspace, max_steps=4), tmp_path / "run"))
    said = ("features_weights_sha256", "protocol", "answers", "sequence")
    contract = json.loads((stage_model / "eegvlm.json").read_text())
    describe(tmp_path / "run", **{name: contract[name] for name in said})
    weights = contract["features_weights_sha256"]
    assert store_module(stage_model / STORED, tmp_path / "run", weights)
    info = mne.create_info(["EEG Fpz-Cz"], 100.0, "eeg")
    raw = mne.io.RawArray(noise(10)[None] * 1e-6, info, verbose="error")
    night = eegtool.Stager.load(tmp_path / "run", device="cpu").stage(raw)
    assert len(night.stages) == 10
    assert night.probabilities.notna().all().all()
    assert len(night.explain([2])) == 1
    picture = next(workspace.images("eval").glob("*.png"))
    capsys.readouterr()
    ask.run(AskSettings(picture, model_path=tmp_path / "run", json=True))
    reply = json.loads(capsys.readouterr().out)
    assert reply["stage"] in STAGES
    assert sum(reply["stage_probabilities"].values()) == pytest.approx(1, abs=1e-5)
