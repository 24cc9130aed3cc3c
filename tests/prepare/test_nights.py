from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, write_json
from eegtool.pictures import draw_png, signals
from eegtool.pictures.signals import quantise
from eegtool.prepare import nights
from eegtool.prepare.nights import (
    Outline,
    Prepared,
    draw_epochs,
    estimate,
    open_staging_dir,
    outline,
    prepare_night,
)
from eegtool.prepare.options import PrepareSettings
from eegtool.prepare.recipe import Recipe
from eegtool.prepare.step import recipe_of
from eegtool.reasons.facts import Facts
from eegtool.scorings.cohorts import Night, find_nights


@pytest.fixture
def recipe() -> Recipe:
    return recipe_of(PrepareSettings([], size=32))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture
def night(recordings: Path) -> Night:
    """SC4001E0: W, N1, N1, N2, N3, N3, N2, REM, REM, W."""
    return find_nights([recordings]).nights[0]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the style of every picture that is drawn."""
    styles: list[str] = []

    def draw(style: str, *rest: Any) -> bytes:
        styles.append(style)
        return draw_png(style, *rest)

    monkeypatch.setattr(nights, "draw_png", draw)
    return styles


def test_a_missing_channel_names_those_usual_in_the_data_set(night: Night, recipe: Recipe) -> None:
    for cohort, usual in (("mass", "Usual in mass: --channel 'EEG C4-CLE' or --channel 'EEG C4-LER'."), ("generic", "")):  # fmt: skip
        with pytest.raises(EegToolError, match="no channel 'O2'") as raised:
            outline(replace(night, cohort=cohort), replace(recipe, channel=("O2",)))
        assert raised.value.fix.endswith(usual)
        assert ("Usual in" in raised.value.fix) == bool(usual)


def rescore(night: Night, *runs: tuple[float, float, str]) -> None:
    """Put other annotations into the hypnogram, which then does not say when it starts."""
    assert night.hypnogram_path
    edfio.Edf([], annotations=[edfio.EdfAnnotation(*run) for run in runs]).write(
        night.hypnogram_path
    )


# Outline


def test_outline(night: Night, recipe: Recipe) -> None:
    plan = outline(night, recipe)
    assert plan.night == night
    assert plan.stages == ("W", "N1", "N1", "N2", "N3", "N3", "N2", "REM", "REM", "W")
    assert plan.kept == range(10)
    assert plan.staged == tuple(enumerate(plan.stages))
    assert plan.dropped == {}
    assert plan.first_onset_s == 0
    assert plan.simulated
    assert plan.files == (night.signal_path, night.hypnogram_path)
    assert plan.notes == ()


def test_outline_reads_no_samples(
    night: Night, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nights, "read_recording", lambda *_: pytest.fail("samples are read"))
    path = night.signal_path
    content = path.read_bytes()
    path.write_bytes(content[:768] + bytes(len(content) - 768))
    assert len(outline(night, recipe).staged) == 10


def test_wake_is_trimmed_before_epochs_without_a_stage_are_dropped(
    night: Night, recipe: Recipe
) -> None:
    """The margin is time: movement in it does not bring in more wake."""
    rescore(
        night,
        (0, 60, "Sleep stage W"),
        (60, 30, "Movement time"),
        (90, 60, "Sleep stage 2"),
        (150, 30, "Sleep stage ?"),
        (180, 30, "Sleep stage 2"),
        (240, 60, "Sleep stage W"),  # nobody scored what is before it
    )
    plan = outline(night, replace(recipe, wake_margin=1.0))
    assert plan.kept == range(1, 9)
    assert plan.staged == ((1, "W"), (3, "N2"), (4, "N2"), (6, "N2"), (8, "W"))
    assert plan.dropped == {"movement time": 1, "unscored": 2}
    plan = outline(night, replace(recipe, wake_margin=0.0))
    assert plan.kept == range(3, 7)
    assert plan.dropped == {"unscored": 1}


def test_outline_of_a_scoring_on_a_grid_of_its_own(night: Night, recipe: Recipe) -> None:
    rescore(night, (12.5, 30, "Sleep stage W"), (42.5, 60, "Sleep stage 2"))
    plan = outline(night, recipe)
    assert plan.first_onset_s == 12.5
    assert plan.stages == ("W", "N2", "N2", *["unscored"] * 6)  # nine whole epochs are left
    assert plan.kept == range(9)
    assert plan.dropped == {"unscored": 6}
    assert any("12.5 s" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel": ["C3"]}, "There is no channel 'C3'"),
        ({"high_hz": 50.0}, "--high-hz 50 does not fit a channel sampled at 100 Hz"),
        ({"strict": True}, "The file is cut off"),
    ],
)
def test_outline_of_what_cannot_be_used(
    night: Night, recipe: Recipe, changes: dict[str, Any], message: str
) -> None:
    os.truncate(night.signal_path, night.signal_path.stat().st_size - 12_000)
    assert outline(night, recipe).notes[0] == (
        "The file is cut off: the last 30 s of 300 s are missing."
    )
    with pytest.raises(EegToolError, match=message):
        outline(night, replace(recipe, **changes))


def test_outline_without_a_hypnogram(night: Night, recipe: Recipe) -> None:
    with pytest.raises(EegToolError, match=r"no hypnogram for .*SC4001E0-PSG\.edf"):
        outline(replace(night, hypnogram_path=None), recipe)


def test_outline_without_a_whole_epoch_of_sleep(night: Night, recipe: Recipe) -> None:
    rescore(night, (15, 270, "Sleep stage W"), (285, 30, "Sleep stage 2"))  # 15 s are recorded
    with pytest.raises(EegToolError, match="scores no sleep within the recording"):
        outline(night, recipe)


# From recording to pictures


def test_prepare_night(night: Night, recipe: Recipe, workspace: Workspace) -> None:
    rescore(night, (0, 30, "Movement time"), (30, 240, "Sleep stage 2"), (270, 30, "Sleep stage W"))
    os.truncate(night.signal_path, night.signal_path.stat().st_size - 12_000)
    run = open_staging_dir(workspace.root)
    done = prepare_night(night, replace(recipe, wake_margin=0.5), workspace, run)
    assert done.problem is None
    assert done.channel == "EEG Fpz-Cz"
    assert done.staged == tuple((i, "N2") for i in range(1, 9))
    assert done.dropped == {"movement time": 1}
    assert done.n_trimmed == 0
    assert done.simulated
    assert done.facts is None
    assert set(done.inputs) == {"SC4001E0-PSG.edf", "SC4001EC-Hypnogram.edf"}
    assert done.notes[0] == "The file is cut off: the last 30 s of 300 s are missing."
    assert len(set(done.notes)) == len(done.notes)
    assert done.folder == workspace.staging_dir / "SC4001E0"
    assert sorted(p.name for p in done.folder.iterdir()) == [
        f"SC4001E0-{i:04d}.png" for i in range(1, 9)
    ]
    assert not list(workspace.staging_dir.glob("*.part"))

    epochs = done.epochs("eval")
    assert [e.sample_id for e in epochs] == [f"SC4001E0-{i:04d}" for i in range(1, 9)]
    assert [e.onset_s for e in epochs] == [30.0 * i for i in range(1, 9)]
    assert {(e.subject, e.night, e.cohort, e.split) for e in epochs} == {
        ("SC400", 1, "sleep-edf", "eval")
    }
    assert epochs[0].image == "SC4001E0/SC4001E0-0001.png"


def test_the_whole_recording_is_filtered_once_and_cut_on_the_grid_of_the_scoring(
    night: Night, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    """Notch, band-pass, resample, cut; what is trimmed or dropped is not even cut."""
    rescore(
        night,
        (15, 60, "Sleep stage W"),
        (75, 30, "Sleep stage 2"),
        (105, 30, "Sleep stage ?"),
        (135, 30, "Sleep stage 2"),
        (165, 120, "Sleep stage W"),
    )
    calls: list[Any] = []

    def watched(name: str) -> Callable[..., np.ndarray]:
        function = getattr(where[name], name)

        def watch(data_uv: np.ndarray, *rest: float) -> np.ndarray:
            calls.append((name, len(data_uv), *rest))
            return np.asarray(function(data_uv, *rest))

        return watch

    where: dict[str, Any] = dict.fromkeys(("notch", "band_pass", "resample"), nights)
    where["cut_epoch"] = signals
    for name in where:
        monkeypatch.setattr(where[name], name, watched(name))
    asked = replace(recipe, notch_hz=20.0, resample_hz=80.0, wake_margin=0.5)
    done = prepare_night(night, asked, workspace, open_staging_dir(workspace.root))
    assert calls == [
        ("notch", 30_000, 100.0, 20.0),
        ("band_pass", 30_000, 100.0, 0.3, 35.0),
        ("resample", 30_000, 100.0, 80.0),
        *(("cut_epoch", 24_000, 80.0, onset_s) for onset_s in (45.0, 75.0, 135.0, 165.0)),
    ]
    assert done.n_trimmed == 4
    assert done.dropped == {"unscored": 1}
    assert [e.onset_s for e in done.epochs("ft")] == [45.0, 75.0, 135.0, 165.0]
    assert [e.epoch_index for e in done.epochs("ft")] == [1, 2, 4, 5]


def test_a_band_that_the_new_rate_cannot_hold(
    night: Night, recipe: Recipe, workspace: Workspace
) -> None:
    done = prepare_night(
        night, replace(recipe, resample_hz=64.0), workspace, open_staging_dir(workspace.root)
    )
    assert done.problem
    assert "--high-hz 35 does not fit a channel sampled at 64 Hz" in done.problem.what


def test_what_is_wrong_with_a_recording_is_its_problem(
    night: Night, recipe: Recipe, workspace: Workspace
) -> None:
    night.signal_path.write_text("not EDF")
    done = prepare_night(night, recipe, workspace, open_staging_dir(workspace.root))
    assert done.problem
    assert "no EDF or BDF file" in done.problem.what
    assert done.night == night
    assert done.epochs("ft") == []
    assert [path.name for path in workspace.staging_dir.iterdir()] == [".run"]


def test_signals_are_stacked(night: Night, recipe: Recipe) -> None:
    epochs = Prepared(night, staged=((0, "W"), (1, "N1"))).epochs("ft")
    rng = np.random.default_rng(1)
    channels = [(name, rng.normal(0, 20, 6_000), 100.0) for name in "ab"]
    both, first = (
        list(draw_epochs(epochs, quantise("a", "", 0.0, which), replace(recipe, size=64)))
        for which in (channels, channels[:1])
    )
    assert len(both) == len(first) == 2
    assert len({*both, *first}) == 4


def test_estimate(night: Night, recipe: Recipe, tmp_path: Path, workspace: Workspace) -> None:
    before = sorted(tmp_path.rglob("*"))
    read_s, signal_bytes, picture_s, picture_bytes = estimate(night, recipe, n_pictures=3)
    assert sorted(tmp_path.rglob("*")) == before
    assert 0 < read_s < 10
    assert 0 < picture_s < 1
    done = prepare_night(night, recipe, workspace, open_staging_dir(workspace.root))
    assert done.folder
    sizes = [path.stat().st_size for path in done.folder.iterdir()]
    assert picture_bytes == pytest.approx(sum(sizes) / len(sizes), rel=0.1)
    assert done.signals
    assert 0 < done.signals.stat().st_size - signal_bytes < 200


# Cards, and what is found again


def test_card_round_trip(night: Night, recipe: Recipe, workspace: Workspace) -> None:
    measured = replace(recipe, measured=True)
    done = prepare_night(night, measured, workspace, open_staging_dir(workspace.root))
    assert done.facts is not None
    assert done.folder
    text = json.dumps(done.to_card())
    again = Prepared.from_card(night, json.loads(text), done.folder)
    assert json.dumps(again.to_card()) == text
    assert replace(again, facts=done.facts, signals=done.signals) == done
    assert again.facts_of() == done.facts_of()
    facts = done.facts_of()
    assert list(facts) == [f"SC4001E0-{i:04d}" for i in range(10)]
    assert all(isinstance(f, Facts) for f in facts.values())
    # A card holds nothing about where the files are: workspaces and recordings can be moved.
    assert str(workspace.root.parent) not in text


def test_what_is_whole_is_found_wherever_it_is(
    night: Night, recipe: Recipe, workspace: Workspace, drawn: list[str]
) -> None:
    run = open_staging_dir(workspace.root)
    done = prepare_night(night, recipe, workspace, run)
    assert len(drawn) == 10
    assert prepare_night(night, recipe, workspace, run) == done
    assert done.folder
    for side in ("ft", "eval"):  # while results are published, cards and pictures part
        workspace.images(side).mkdir()
        moved = done.folder.rename(workspace.images(side) / "SC4001E0")
        done = replace(done, folder=moved)
        assert prepare_night(night, recipe, workspace, run) == done
    write_json(workspace.night("SC4001E0"), done.to_card())
    shutil.rmtree(workspace.staging_dir)
    assert prepare_night(night, recipe, workspace, open_staging_dir(workspace.root)) == done
    assert len(drawn) == 10


def edit_card(**changes: Any) -> Callable[[Workspace], None]:
    def harm(workspace: Workspace) -> None:
        path = workspace.staging_dir / "SC4001E0.json"
        write_json(path, json.loads(path.read_text()) | changes)

    return harm


def edit_picture(workspace: Workspace) -> None:
    path = workspace.staging_dir / "SC4001E0" / "SC4001E0-0004.png"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    "harm",
    [
        edit_card(key="0" * 64),
        edit_card(pictures_sha256="0" * 64),
        lambda w: (w.staging_dir / "SC4001E0.json").write_text('{"key": '),
        lambda w: (w.staging_dir / "SC4001E0.json").unlink(),
        edit_picture,
        lambda w: (w.staging_dir / "SC4001E0" / "SC4001E0-0004.png").unlink(),
        lambda w: shutil.rmtree(w.staging_dir / "SC4001E0"),
    ],
    ids=["key", "hash", "cut card", "no card", "picture", "no picture", "no pictures"],
)
def test_what_was_changed_is_drawn_again(
    night: Night,
    recipe: Recipe,
    workspace: Workspace,
    drawn: list[str],
    harm: Callable[[Workspace], object],
) -> None:
    run = open_staging_dir(workspace.root)
    done = prepare_night(night, recipe, workspace, run)
    drawn.clear()
    harm(workspace)
    assert prepare_night(night, recipe, workspace, run) == done
    assert len(drawn) == 10
    assert prepare_night(night, recipe, workspace, run) == done
    assert len(drawn) == 10


def test_facts_are_measured_without_drawing(
    night: Night, recipe: Recipe, drawn: list[str], workspace: Workspace
) -> None:
    measured = replace(recipe, measured=True)
    run = open_staging_dir(workspace.root)
    plain = prepare_night(night, recipe, workspace, run)
    done = prepare_night(night, measured, workspace, run)
    assert len(drawn) == 10
    assert done.facts
    assert len(done.facts) == 10
    assert replace(done, facts=None) == plain
    again = prepare_night(night, recipe, workspace, run)
    assert again.facts_of() == done.facts_of()  # once measured, they are kept
    assert len(drawn) == 10


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("signals", "scored"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "n1.edf").write_text(folder)
    hashes = nights._hashes([tmp_path / "signals" / "n1.edf", tmp_path / "scored" / "n1.edf"])
    assert list(hashes) == ["n1.edf", "scored/n1.edf"]
    assert len(set(hashes.values())) == 2


# The staging_dir


def test_only_the_last_who_opened_the_staging_directory_draws_in_it(
    night: Night, recipe: Recipe, workspace: Workspace
) -> None:
    """A worker of a killed run may still be at it when the next run has begun."""
    first = open_staging_dir(workspace.root)
    second = open_staging_dir(workspace.root)
    assert first != second
    with pytest.raises(EegToolError, match=r"Another `eegvlm prepare` has begun in .*/ws"):
        prepare_night(night, recipe, workspace, first)
    assert not (workspace.staging_dir / "SC4001E0").exists()
    assert not (workspace.staging_dir / "SC4001E0.json").exists()
    done = prepare_night(night, recipe, workspace, second)
    assert done.folder == workspace.staging_dir / "SC4001E0"


def test_the_staging_directory_is_taken_over_while_somebody_draws(
    night: Night, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    run = open_staging_dir(workspace.root)
    n_drawn = []

    def draw(*args: Any) -> bytes:
        n_drawn.append(args)
        if len(n_drawn) == 5:
            open_staging_dir(workspace.root)
        return draw_png(*args)

    monkeypatch.setattr(nights, "draw_png", draw)
    with pytest.raises(EegToolError, match="ws"):
        prepare_night(night, recipe, workspace, run)
    assert {path.name for path in workspace.staging_dir.iterdir()} == {".run", "signals"}


def test_opening_the_staging_directory_keeps_what_is_whole(
    night: Night, recipe: Recipe, workspace: Workspace
) -> None:
    prepare_night(night, recipe, workspace, open_staging_dir(workspace.root))
    (workspace.staging_dir / "SC4012E0.abc.part").mkdir()
    open_staging_dir(workspace.root)
    assert {path.name for path in workspace.staging_dir.iterdir()} == {
        *(".run", "SC4001E0", "SC4001E0.json", "signals")
    }


def test_outline_properties() -> None:
    night = Night("x", "n", "s", 1, Path("n.edf"), None)
    stages = ("W", *STAGES, "unscored", "movement time", "unscored", "W")
    plan = Outline(night, stages, range(1, 9), 0.0, False, (), ())
    assert plan.staged == tuple(enumerate(STAGES, start=1))
    assert plan.dropped == {"movement time": 1, "unscored": 2}
