"""A review that lies beside its recording in a folder of Sleep-EDF."""

from __future__ import annotations

from pathlib import Path

import pytest

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.records import read_epochs
from eegtool.prepare import step as prepare
from eegtool.prepare.nights import outline
from eegtool.prepare.options import PrepareSettings
from eegtool.scorings.cohorts import find_nights
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch
from eegtool.simulate.twins import load_twin, write_night

HEAD = "recording,epoch_index,onset_s,duration_s,stage,model,certainty,reviewed_by,reviewed_at,note,epochs"


def test_a_reviewed_night_needs_no_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "quiet", True)
    nights = [
        write_night(load_twin(n).condensed(4), tmp_path, seed=1) for n in ("SC4001E0", "SC4012E0")
    ]
    psg, scored = nights[0]
    recording = psg.name.partition("-")[0]
    hypnogram = read_hypnogram(scored, None)
    n_epochs = int(hypnogram.runs[-1].end_s // 30)
    stages = [s if s != "N1" else "N2" for s in stage_per_epoch(hypnogram, n_epochs)]
    rows = [
        f"{recording},{i},{30 * i},30,{s if s in ('W', 'N2', 'N3', 'REM') else '?'},W,0.9,Anna,2026-01-01T00:00:00Z,,{n_epochs}"
        for i, s in enumerate(stages)
    ]
    (tmp_path / f"{recording}_reviewed.csv").write_text("\n".join([HEAD, *rows]) + "\n")

    def run(name: str, scorer: str = "") -> dict[int, str]:
        root = tmp_path / "workspaces" / name
        prepare.run(
            PrepareSettings(
                [tmp_path], workspace=root, size=32, eval_subjects="SC401", scorer=scorer
            )
        )
        epochs = read_epochs(root / "epochs.csv")
        return {e.epoch_index: e.stage for e in epochs if e.recording == recording}

    with pytest.raises(EegToolError) as refused:
        outline(find_nights([psg]).nights[0], prepare.recipe_of(PrepareSettings([psg])))
    assert f"{scored.name}, {recording}_reviewed.csv" in str(refused.value)
    assert "--scorer" in refused.value.fix
    reviewed = run("reviewed", "reviewed")
    assert "N1" not in reviewed.values()
    assert reviewed == {i: stages[i] for i in reviewed}
    scored.unlink()
    assert run("alone") == reviewed
