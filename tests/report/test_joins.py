"""What the workspace adds: pictures, missing epochs, the vision module, measured facts."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, write_json
from eegtool.reasons.facts import Facts
from eegtool.report.measures.faithfulness import faithfulness
from eegtool.report.measures.intervals import Sampling
from eegtool.report.measures.metrics import measure
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.joins import look_up
from eegtool.report.reading.protocol import Run
from eegtool.report.showing.words import protocol_sentences

EpochOf = Callable[..., AnsweredEpoch]
FACTS = Facts(
    delta=0.5,
    theta=0.2,
    alpha=0.1,
    sigma=0.1,
    beta=0.1,
    rhythms_hz=(),
    amplitude_uv=30,
    slow_wave_share=0.1,
    n_slow_waves=3,
    n_k_complexes=0,
    n_spindles=2,
)


@pytest.fixture
def answered(epoch: EpochOf, epochs: list[Epoch]) -> list[AnsweredEpoch]:
    return [
        epoch(e.epoch_index, e.stage, e.stage, sample_id=e.sample_id, recording=e.recording)
        for e in epochs
        if e.split == "eval"
    ]


def write_module(path: Path, rows: list[tuple[str, str, str]]) -> None:
    path.mkdir()
    with (path / "eval_stages.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("sample_id", "stage", "predicted"), *rows])


def test_pictures_that_were_drawn_otherwise_are_not_what_the_model_saw(
    workspace: Workspace, answered: list[AnsweredEpoch]
) -> None:
    assert look_up(workspace, answered, {"style": "spectrogram", "size": 64}).images
    known = look_up(workspace, answered, {"style": "waveform", "size": 64})
    assert (known.images, known.module_stages, known.facts) == ({}, {}, {})
    (problem,) = known.problems
    assert "style waveform and spectrogram" in problem


def test_pictures_and_missing_questions(
    workspace: Workspace, answered: list[AnsweredEpoch]
) -> None:
    known = look_up(workspace, answered[2:])
    assert known.missing == tuple(e.sample_id for e in answered[:2])
    assert set(known.images) == {e.sample_id for e in answered[2:]}
    image = workspace.images("eval") / known.images[answered[2].sample_id]
    assert image.exists()
    assert (known.module_stages, known.facts, known.kept, known.problems) == ({}, {}, None, ())


def test_answers_of_elsewhere_and_no_workspace_know_nothing(
    workspace: Workspace, tmp_path: Path, epoch: EpochOf
) -> None:
    for place in (workspace, Workspace(tmp_path / "none")):
        known = look_up(place, [epoch(0, "W", "W")])
        assert (known.images, known.missing, known.problems) == ({}, None, ())


def test_the_vision_module_is_joined_by_id(
    workspace: Workspace, answered: list[AnsweredEpoch]
) -> None:
    rows = [(e.sample_id, e.true or "", "REM") for e in reversed(answered)]
    write_module(workspace.vision_module, [("elsewhere-0", "W", "W"), *rows])
    known = look_up(workspace, answered)
    assert known.module_stages == {e.sample_id: "REM" for e in answered}


@pytest.mark.parametrize(
    ("stage", "predicted", "said"),
    [("other", "REM", "true stage of"), ("same", "REM!", "'REM!' is no stage")],
)
def test_a_module_file_that_does_not_fit_is_left_out_and_said(
    workspace: Workspace, answered: list[AnsweredEpoch], stage: str, predicted: str, said: str
) -> None:
    first = answered[0]
    other = next(s for s in STAGES if s != first.true)
    label = first.true or "" if stage == "same" else other
    write_module(workspace.vision_module, [(first.sample_id, label, predicted)])
    known = look_up(workspace, answered)
    assert known.module_stages == {}
    assert said in known.problems[0]


def test_it_is_known_on_whom_the_module_was_calibrated(
    workspace: Workspace, answered: list[AnsweredEpoch]
) -> None:
    write_module(workspace.vision_module, [(answered[0].sample_id, answered[0].true or "", "N1")])
    assert look_up(workspace, answered).module_calibration == {}
    card = {"weights_sha256": "ab", "calibration": {"subjects": ["S02"], "decide_for": "kappa"}}
    write_json(workspace.vision_module / "card.json", card)
    known = look_up(workspace, answered)
    assert known.module_calibration == {"subjects": ["S02"], "decide_for": "kappa"}
    metrics = measure(answered, Run("m", None, {}))
    said = protocol_sentences(metrics, known)
    assert "The vision module alone: calibrated on S02" in " ".join(said)
    assert "decided for Cohen's κ." in " ".join(said)
    (workspace.vision_module / "card.json").write_text("{")
    assert look_up(workspace, answered).problems


def test_facts_and_what_was_kept(workspace: Workspace, answered: list[AnsweredEpoch]) -> None:
    recording = answered[0].recording
    staged = [[e.epoch_index, e.true] for e in answered]
    card = {"staged": staged, "facts": [FACTS.to_row()] * len(staged)}
    write_json(workspace.night(recording), card)
    told = {"kept": 10, "dropped": {"movement time": 2}, "trimmed": 5}
    stamp = {"protocol": {}, "results": {"recordings": {recording: told, "S01E0": told}}}
    write_json(workspace.prepare_stamp, stamp)
    known = look_up(workspace, answered)
    assert known.facts == {e.sample_id: FACTS for e in answered}
    assert known.kept is not None
    assert (known.kept.recordings, known.kept.kept, known.kept.trimmed) == (1, 10, 5)
    assert known.kept.dropped == {"movement time": 2}

    write_json(workspace.night(recording), card | {"facts": [{"delta": 1}] * len(staged)})
    broken = look_up(workspace, answered)
    assert broken.facts == {}
    assert recording in broken.problems[0]


def test_claims_are_checked_against_what_was_measured(epoch: EpochOf) -> None:
    texts = ["Two spindles, low amplitude.", "No spindles. Delta dominates.", "The stage is N2."]
    epochs = [epoch(i, "N2", "N2", text=t) for i, t in enumerate(texts)]
    epochs.append(epoch(3, "N2", "N2", text="5 spindles"))  # not measured
    found = faithfulness(epochs, {f"e{i}": FACTS for i in range(3)}, Sampling())
    assert found is not None
    assert (found.epochs, found.with_claims, found.share, found.interval) == (3, 2, 0.5, None)
    kinds = {k: (s.true, s.claims) for k, s in found.kinds.items()}
    assert kinds == {"spindles": (1, 2), "low_amplitude": (1, 1), "delta_dominant": (0, 1)}
    assert (found.elsewhere, found.rules) == (
        0.5,
        None,
    )  # all epochs have the same facts; no rule is cited


def test_texts_that_say_what_is_usual_are_as_true_of_another_epoch(epoch: EpochOf) -> None:
    deep = replace(FACTS, n_spindles=0, slow_wave_share=0.6, amplitude_uv=120)
    facts = {f"e{i}": (FACTS, deep)[i >= 4] for i in range(8)}
    own = ["Two spindles. It is rule N2.1.", "No spindles. Rules N3.1 and W.1."]
    true = [epoch(i, "N2", "N2", text=own[i >= 4]) for i in range(8)]
    found = faithfulness(true, facts, Sampling())
    assert found is not None
    assert (found.share, found.elsewhere) == (1.0, 0.0)
    # N2.1 alone holds where it is cited; of N3.1 and W.1 one does.
    assert found.rules == pytest.approx((1 + 1 / 2) / 2)
    usual = [epoch(i, "N2", "N2", text="Two spindles.") for i in range(8)]
    found = faithfulness(usual, facts, Sampling())
    assert found is not None
    assert (found.share, found.elsewhere) == (0.5, 0.5)


def test_nothing_measured_or_claimed_is_no_faithfulness(epoch: EpochOf) -> None:
    epochs = [epoch(0, "N2", "N2", text="Two spindles."), epoch(2, "N2", "N2", text="N2.")]
    assert faithfulness(epochs, {}, Sampling()) is None
    assert faithfulness(epochs[1:], {"e2": FACTS}, Sampling()) is None
