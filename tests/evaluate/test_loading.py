from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eegtool.core.settings import EvaluateSettings
from eegtool.core.workspace import Workspace
from eegtool.evaluate import loading
from eegtool.evaluate.step import run
from eegtool.model.adapters import load_adapter
from tests.evaluate.conftest import rows_of


@pytest.mark.parametrize("rank", [0, 3])
def test_each_rank_loads_onto_its_own_gpu(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """The weights and whatever a library allocates by itself."""
    chosen: list[torch.device] = []
    model = SimpleNamespace(drop_unread_layers=lambda: None, to=chosen.append)

    def load(*_: Any, device: torch.device, **__: Any) -> Any:
        chosen.append(device)
        return model, None, None

    monkeypatch.setattr(loading, "load_adapter", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    loading.load(adapter, EvaluateSettings(adapter, dtype="float16"), rank)
    assert chosen == [torch.device("cuda", rank)] * 3


def test_lora_is_merged_where_it_is_asked_for(
    settings: EvaluateSettings, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers stay; rows and the terminal say it."""
    found = {}
    for merge in (False, True):
        run(replace(settings, merge=merge, mode="score", overwrite=True))
        said = " ".join(capsys.readouterr().out.split())
        assert ("rounded to float32; answers may differ in the last bits" in said) is merge
        rows = rows_of(workspace.answers)
        assert {row["metadata"]["merged"] for row in rows} == {merge}
        found[merge] = [list(row["metadata"]["log_likelihoods"].values()) for row in rows]
    np.testing.assert_allclose(found[True], found[False], atol=1e-3)


def test_merging_is_how_it_is_computed_and_no_other_run(
    settings: EvaluateSettings, workspace: Workspace
) -> None:
    run(replace(settings, limit=4))
    run(replace(settings, merge=True))
    merged = [row["metadata"]["merged"] for row in rows_of(workspace.answers)]
    assert merged == [False] * 4 + [True] * 6


def test_a_merged_folder_has_nothing_to_merge(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(folder: Path, **how: Any) -> Any:
        model, processor, contract = load_adapter(folder, **how)
        return model, processor, replace(contract, merged=True)

    monkeypatch.setattr(loading, "load_adapter", load)
    loading.load(adapter, EvaluateSettings(adapter, merge=True))
    assert "merged already; there is nothing to merge" in " ".join(capsys.readouterr().out.split())
    loading.load(adapter, EvaluateSettings(adapter, merge=True), rank=1)
    assert not capsys.readouterr().out  # one rank says it for all
