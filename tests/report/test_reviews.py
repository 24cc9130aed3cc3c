"""What review.html saved, and other scorings, read as scorers: whole ones of these nights, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.report.measures.intervals import Sampling
from eegtool.report.measures.scorers import CONSENSUS, compare_scorers, measure_review
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.nights import lay_out
from eegtool.report.reading.reviews import COLUMNS, read_scorings
from eegtool.scorings.hypnograms import read_hypnogram

Build = Callable[..., AnsweredEpoch]
NIGHT = "SC4031E0"
SAID = ["W", "N1", "N2", "N2", "N3", "REM"] * 20


def row(i: int, after: str, before: str, by: str = "", at: str = "", total: int = 120) -> str:
    return f"{NIGHT},{i},{30 * i},30,{after},{before},0.5,{by},{at},,{total}"


def review(path: Path, change: Callable[[list[str]], list[str]] = list) -> Path:
    """Write a review in which every tenth epoch was corrected, 20 s after the one before."""
    lines = [row(i, s, s) for i, s in enumerate(SAID)]
    for k, i in enumerate(range(0, 120, 10)):
        time = f"2026-01-02T03:{k // 3:02d}:{k % 3 * 20:02d}Z"
        lines[i] = row(i, "REM" if SAID[i] != "REM" else "W", SAID[i], "Anna", time)
    path.write_text("\n".join([",".join(COLUMNS), *change(lines)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def answered(epoch: Build) -> list[AnsweredEpoch]:
    """Return a night of which the model is surest where it is right."""
    rng = np.random.default_rng(3)
    epochs = []
    for i, said in enumerate(SAID):
        true = said if rng.random() < 0.8 else STAGES[(STAGES.index(said) + 1) % 5]
        p = rng.uniform(0.6, 1) if said == true else rng.uniform(0.3, 0.7)
        shares = tuple(p if s == said else (1 - p) / 4 for s in STAGES)
        epochs.append(replace(epoch(i, true, said), probabilities=shares))
    return epochs


def test_a_review_is_read_measured_and_a_scoring(
    tmp_path: Path, answered: list[AnsweredEpoch]
) -> None:
    path = review(tmp_path / f"{NIGHT}_reviewed.csv")
    (scoring,) = read_scorings([path], lay_out(answered)[0])
    final = [scoring.stages[i] for i in range(120)]
    assert (scoring.scorer, scoring.recording) == ("Anna", NIGHT)
    assert sum(a != b for a, b in zip(final, SAID, strict=True)) == 12
    found = measure_review(answered, scoring, Sampling(draws=50))
    assert (found.n, found.reviewed, found.corrected) == (120, 12, 12)
    assert found.minutes == pytest.approx(12 * 20 / 60)
    true = [e.true for e in answered]
    assert found.before == pytest.approx(cohen_kappa_score(true, SAID), abs=1e-9)
    assert found.after == pytest.approx(cohen_kappa_score(true, final), abs=1e-9)
    assert found.unchanged == pytest.approx(cohen_kappa_score(SAID, final), abs=1e-9)
    runs = read_hypnogram(path, None).runs
    assert [r.stage for r in runs for _ in range(round(r.duration_s / 30))] == final


def test_least_certain_epochs_corrected_to_the_truth_give_what_the_coverage_curve_promised(
    tmp_path: Path, answered: list[AnsweredEpoch]
) -> None:
    least = sorted(range(120), key=lambda i: answered[i].certainty or 0)[:12]

    def to_the_truth(_: list[str]) -> list[str]:
        at = "2026-01-02T03:04:05.678Z"
        return [
            row(i, e.true or "", SAID[i], *(("Anna", at) if i in least else ("", "")))
            if i in least
            else row(i, SAID[i], SAID[i])
            for i, e in enumerate(answered)
        ]

    path = review(tmp_path / "a.csv", to_the_truth)
    (scoring,) = read_scorings([path], lay_out(answered)[0])
    found = measure_review(answered, scoring, Sampling(draws=50))
    assert found.expected == pytest.approx(found.after, abs=1e-12)
    assert found.before is not None
    assert found.after is not None
    assert found.after > found.before


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: r[:-3], "is not whole: it has 117 of 120 epochs"),
        (lambda r: [*r[:-1], r[-1][:20]], "line 121: it has 4 of 11 columns"),
        (lambda r: [x.replace(NIGHT, "SC4999E0") for x in r], "'SC4999E0', which these answers"),
        (lambda r: [*r[:-1], r[-1].replace(NIGHT, "SC4999E0")], "line 121: it is about 'SC4999E0'"),
        (lambda r: [r[0], r[1].replace(",N1,N1", ",N9,N1"), *r[2:]], "line 3: 'N9' is not a stage"),
        (lambda r: [r[0], r[1].replace(",N1,N1", ",N2,N1"), *r[2:]], "changed without saying by"),
        (lambda r: [r[0], r[1].replace(",N1,N1", ",N2,N2"), *r[2:]], "a review of other answers"),
        (lambda r: [r[0].replace("Anna", ""), *r[1:]], "line 2: it was changed without"),
        (lambda r: [r[0].replace("2026-01-02T03", "noon"), *r[1:]], "'noon:00:00Z' is not a time"),
        (lambda r: [r[0].replace(":00Z", ":00"), *r[1:]], "does not say its time zone"),
        (lambda r: [r[0], r[0], *r[2:]], "line 3: epoch 0 is there twice"),
        (lambda r: [r[0], r[1].replace(",1,", ",one,", 1), *r[2:]], "'one' is not the index"),
        (lambda r: [], "is not whole: it has 0 of some epochs"),
    ],
)
def test_what_is_not_a_whole_review_of_these_answers_is_refused(
    tmp_path: Path,
    answered: list[AnsweredEpoch],
    change: Callable[[list[str]], list[str]],
    what: str,
) -> None:
    path = review(tmp_path / "x.csv", change)
    with pytest.raises(EegToolError) as caught:
        read_scorings([path], lay_out(answered)[0])
    assert what in caught.value.what
    assert str(path) in caught.value.what


def test_a_cut_or_misplaced_review_is_no_scoring(tmp_path: Path) -> None:
    cut = review(tmp_path / f"{NIGHT}_reviewed.csv", lambda rows: rows[:50])
    with pytest.raises(EegToolError, match="not whole: it has 50 of 120 epochs"):
        read_hypnogram(cut, None)
    other = review(tmp_path / "night2_reviewed.csv")
    with pytest.raises(EegToolError, match=f"is a review of {NIGHT}"):
        read_hypnogram(other, None)


def test_other_scorings_are_named_after_recording_and_scorer(
    tmp_path: Path, answered: list[AnsweredEpoch]
) -> None:
    nights = lay_out(answered)[0]
    stages = {name: list(SAID) for name in ("anna", "ben")}
    stages["anna"][:6] = ["REM"] * 6
    stages["ben"][100] = "?"
    paths = [tmp_path / f"{NIGHT}_{name}.csv" for name in stages]
    for path, scored in zip(paths, stages.values(), strict=True):
        path.write_text("\n".join(scored))
    scorings = read_scorings(paths, nights)
    assert [s.scorer for s in scorings] == ["anna", "ben"]
    assert len(scorings[1].stages) == 119
    found = compare_scorers(answered, scorings, Sampling(draws=20))
    assert found
    assert {(p.first, p.other): p.n for p in found.pairs} == {
        ("label", "anna"): 120,
        ("label", "ben"): 119,
        ("anna", "ben"): 119,
    }
    both = [i for i in range(120) if i != 100]
    (kappa,) = (p.kappa for p in found.pairs if (p.first, p.other) == ("anna", "ben"))
    columns = [[stages[name][i] for i in both] for name in ("anna", "ben")]
    assert kappa == pytest.approx(cohen_kappa_score(*columns), abs=1e-9)
    assert list(found.model) == ["label", "anna", "ben", CONSENSUS]
    assert found.model["anna"].agreement.kappa == pytest.approx(
        cohen_kappa_score(stages["anna"], SAID), abs=1e-9
    )
    alone = compare_scorers(
        [*answered, replace(answered[0], sample_id="x", recording="B")], scorings, Sampling(draws=0)
    )
    assert alone
    assert alone.model["label"].agreement.n == 121
    assert alone.model[CONSENSUS].agreement.n == found.model[CONSENSUS].agreement.n
    assert found.soft_agreement
    assert 0.5 < found.soft_agreement < 1
    assert (
        compare_scorers([replace(e, true=None) for e in answered], scorings[:1], Sampling()) is None
    )

    paths[0].write_text("\n".join(SAID[:-1]))
    with pytest.raises(EegToolError, match=r"has 119 epochs, but .* up to epoch 120"):
        read_scorings(paths, nights)
    paths[0].rename(tmp_path / "anna.csv")
    with pytest.raises(EegToolError, match="does not begin with the name of an answered recording"):
        read_scorings([tmp_path / "anna.csv"], nights)
    with pytest.raises(EegToolError, match="Two of the scorings of SC4031E0 are by 'ben'"):
        read_scorings([paths[1], paths[1]], nights)
