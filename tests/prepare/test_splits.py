from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES
from eegtool.prepare.splits import (
    Split,
    balance,
    check_no_leak,
    make_split,
    read_split,
    write_split,
)


def alike(n_subjects: int) -> dict[str, Counter[str]]:
    """Subjects who all sleep alike."""
    return {f"SC4{i:02d}": Counter(dict.fromkeys(STAGES, 10)) for i in range(n_subjects)}


def various(n_subjects: int) -> dict[str, Counter[str]]:
    """Subjects each with a stage mix of their own."""
    rng = np.random.default_rng(4)
    return {
        f"S{i:03d}": Counter(
            dict(
                zip(
                    STAGES, rng.multinomial(900, rng.dirichlet(np.full(5, 2))).tolist(), strict=True
                )
            )
        )
        for i in range(n_subjects)
    }


def oddness(stages_of: Mapping[str, Counter[str]], subjects: tuple[str, ...]) -> float:
    """Total variation distance between the stage mix of some subjects and that of all."""
    whole, part = (
        sum(stages_of.values(), Counter()),
        sum((stages_of[s] for s in subjects), Counter()),
    )
    return sum(abs(whole[s] / whole.total() - part[s] / part.total()) for s in STAGES) / 2


@pytest.mark.parametrize(
    ("n_subjects", "fraction", "n_eval"),
    [(8, 0.25, 2), (8, 0.0, 1), (8, 1.0, 7), (2, 0.25, 1), (3, 0.5, 2), (6, 0.25, 2)],
)
def test_share_of_subjects(n_subjects: int, fraction: float, n_eval: int) -> None:
    subjects = alike(n_subjects)
    split = make_split(subjects, fraction=fraction, seed=1)
    assert (split.method, split.seed) == ("drawn", 1)
    assert len(split.eval_subjects) == n_eval
    assert sorted(split.eval_subjects + split.ft_subjects) == list(subjects)


def test_the_seed_decides_and_the_order_of_files_does_not() -> None:
    subjects = various(20)
    reverse = dict(reversed(subjects.items()))
    draws = [make_split(subjects, seed=seed) for seed in range(20)]
    assert draws == [make_split(reverse, seed=seed) for seed in range(20)]
    assert len({split.digest for split in draws}) > 10


def test_drawn_sides_resemble_the_whole() -> None:
    subjects = various(30)
    drawn = [oddness(subjects, make_split(subjects, seed=i).eval_subjects) for i in range(20)]
    rng = np.random.default_rng(0)
    random = [oddness(subjects, tuple(rng.permutation(list(subjects))[:8])) for _ in range(400)]
    assert max(drawn) < np.quantile(random, 0.2)


def test_folds_evaluate_everybody_once() -> None:
    subjects = various(23)
    splits = [make_split(subjects, folds=5, fold=i, seed=3) for i in range(5)]
    assert sorted(s for split in splits for s in split.eval_subjects) == list(subjects)
    assert sorted(len(split.eval_subjects) for split in splits) == [4, 4, 5, 5, 5]
    for i, split in enumerate(splits):
        assert (split.method, split.seed) == (f"fold {i} of 5", 3)
        assert set(split.ft_subjects) == set(subjects) - set(split.eval_subjects)
    worst = max(oddness(subjects, split.eval_subjects) for split in splits)
    rng = np.random.default_rng(0)
    groups = [np.array_split(rng.permutation(list(subjects)), 5) for _ in range(200)]
    random = [max(oddness(subjects, tuple(group)) for group in five) for five in groups]
    assert worst < np.quantile(random, 0.2)


def test_leave_one_subject_out() -> None:
    subjects = alike(4)
    left_out = [make_split(subjects, folds=4, fold=i).eval_subjects for i in range(4)]
    assert sorted(left_out) == [(name,) for name in subjects]


@pytest.mark.parametrize(
    ("folds", "fold", "what"),
    [
        (1, 0, "--folds 1: 3 subjects can be cut into 2 to 3 folds"),
        (4, 0, "--folds 4: 3 subjects can be cut into 2 to 3 folds"),
        (-2, 0, "--folds -2"),
        (3, 3, "--fold 3: 3 folds are numbered 0 to 2"),
        (3, -1, "--fold -1"),
    ],
)
def test_impossible_folds(folds: int, fold: int, what: str) -> None:
    with pytest.raises(EegToolError) as raised:
        make_split(alike(3), folds=folds, fold=fold)
    assert what in raised.value.what
    assert raised.value.fix


def test_subjects_without_epochs_can_be_split() -> None:
    nobody: dict[str, Counter[str]] = {name: Counter() for name in "abcd"}
    assert len(make_split(nobody, fraction=0.5).eval_subjects) == 2


def test_named_subjects() -> None:
    split = make_split(alike(8), named=["SC407", "SC402", "SC407"], fraction=0.9)
    assert (split.method, split.seed) == ("named", None)
    assert split.eval_subjects == ("SC402", "SC407")
    assert len(split.ft_subjects) == 6


def test_unknown_subject_lists_the_known_ones() -> None:
    with pytest.raises(EegToolError) as raised:
        make_split(alike(8), named=["SC401", "sc4o2"])
    assert raised.value.what == "--eval-subjects: there is no subject 'sc4o2'."
    assert raised.value.fix.startswith("Subjects: SC400, SC401, SC402, ")
    assert raised.value.fix.endswith("Did you mean 'SC402'?")


@pytest.mark.parametrize("n_subjects", [0, 1])
def test_too_few_subjects(n_subjects: int) -> None:
    with pytest.raises(EegToolError, match=r"no subject to split|only one subject, SC400"):
        make_split(alike(n_subjects), folds=2)


def test_nobody_left_to_train_on() -> None:
    with pytest.raises(EegToolError, match="names all subjects"):
        make_split(alike(2), named=["SC401", "SC400"])


def test_contradicting_flags() -> None:
    with pytest.raises(EegToolError, match="--eval-subjects and --folds each say who"):
        make_split(alike(4), named=["SC401"], folds=2)


def test_digest_is_of_the_two_sides_alone() -> None:
    drawn = make_split(alike(8), seed=2)
    named = make_split(alike(8), named=drawn.eval_subjects)
    assert drawn != named
    assert drawn.digest == named.digest
    assert len(drawn.digest) == 64
    others = [make_split(alike(8), named=[name]).digest for name in alike(8)]
    assert len({drawn.digest, *others}) == 9
    assert make_split(alike(9), named=["SC401"]).digest not in others


# --- stored ---


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Split]:
    split = make_split(alike(8), folds=4, fold=1, seed=7)
    path = tmp_path / "split.json"
    write_split(path, split)
    return path, split


def test_round_trip(stored: tuple[Path, Split]) -> None:
    path, split = stored
    assert read_split(path) == split
    text = path.read_text(encoding="utf-8")
    write_split(path, read_split(path))
    assert path.read_text(encoding="utf-8") == text


def test_used_again(stored: tuple[Path, Split]) -> None:
    path, split = stored
    again = make_split(alike(8), split_from=path, seed=99, fraction=0.9)
    assert (again.method, again.seed, again.note) == ("file", None, "")
    assert again.eval_subjects == split.eval_subjects
    assert again.ft_subjects == split.ft_subjects
    assert again.digest == split.digest


def test_absent_subjects_are_noted(stored: tuple[Path, Split]) -> None:
    path, split = stored
    absent = {split.eval_subjects[0], split.ft_subjects[0]}
    here = {name: c for name, c in alike(8).items() if name not in absent}
    again = make_split(here, split_from=path)
    assert again.eval_subjects == split.eval_subjects[1:]
    assert again.ft_subjects == split.ft_subjects[1:]
    assert again.digest != split.digest
    assert ", ".join(sorted(absent)) in again.note


def test_unknown_subjects_are_refused(stored: tuple[Path, Split]) -> None:
    path, _ = stored
    with pytest.raises(EegToolError) as raised:
        make_split(alike(10), split_from=path)
    assert raised.value.what == f"--split-from {path} does not know these subjects: SC408, SC409."
    assert "new split" in raised.value.fix


@pytest.mark.parametrize("side", ["eval", "ft"])
def test_a_side_that_is_not_here(stored: tuple[Path, Split], side: str) -> None:
    path, split = stored
    left = split.ft_subjects if side == "eval" else split.eval_subjects
    here = {name: c for name, c in alike(8).items() if name in left}
    with pytest.raises(EegToolError, match="none is here"):
        make_split(here, split_from=path)


def test_a_split_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"eval_subjects": ["SC401"], "ft_subjects": ["SC402", "SC400"]}))
    split = make_split(alike(3), split_from=path)
    assert (split.eval_subjects, split.ft_subjects) == (("SC401",), ("SC400", "SC402"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"ft_subjects": ["SC400"]}, "was changed"),
        ({"digest": "0" * 64}, "was changed"),
        ({"eval_subjects": None}, "'eval_subjects' must be a list of subjects"),
        ({"eval_subjects": []}, "'eval_subjects' must be a list of subjects"),
        ({"ft_subjects": "SC400"}, "'ft_subjects' must be a list of subjects"),
        ({"ft_subjects": [1]}, "'ft_subjects' must be a list of subjects"),
        ({"ft_subjects": ["a", "b"], "eval_subjects": ["b"]}, "subject b is there twice"),
    ],
)
def test_bad_split_files(stored: tuple[Path, Split], change: dict[str, object], what: str) -> None:
    path, _ = stored
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EegToolError) as raised:
        read_split(path)
    assert what in raised.value.what
    assert str(path) in raised.value.what
    assert raised.value.fix


def test_missing_split_file(tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="does not exist"):
        make_split(alike(3), split_from=tmp_path / "none.json")


# --- epochs ---


def epoch(subject: str, split: str, stage: str = "W", index: int = 0) -> Epoch:
    sample_id = f"{subject}-{index:04d}"
    return Epoch(sample_id, "sleep-edf", subject, subject, 1, index, 0.0, stage, split, "x.png")


def test_leaks_are_found() -> None:
    nights = [("n1", "SC400", "aa"), ("n2", "SC401", "bb"), ("n1_copy", "SC400", "aa")]
    check_no_leak(nights)  # twice the same subject stays on one side
    with pytest.raises(EegToolError, match="n2 of subject SC401 and n3 of subject SC402"):
        check_no_leak([*nights, ("n3", "SC402", "bb")])


@pytest.fixture
def night() -> list[Epoch]:
    """Epochs of both sides: 40 W, 30 N2 and 7 N3 to fine-tune on, 9 W and 2 REM to evaluate."""
    ft = ["W"] * 40 + ["N2"] * 30 + ["N3"] * 7
    return [epoch("A", "ft", stage, i) for i, stage in enumerate(ft)] + [
        epoch("B", "eval", stage, i) for i, stage in enumerate(["W"] * 9 + ["REM"] * 2)
    ]


def test_undersampling(night: list[Epoch]) -> None:
    kept = balance(night, "undersample", seed=1)
    assert Counter(e.stage for e in kept if e.split == "ft") == {"W": 7, "N2": 7, "N3": 7}
    assert [e for e in kept if e.split == "eval"] == night[77:]
    places = [night.index(e) for e in kept]
    assert all(a < b for a, b in pairwise(places))


def test_undersampling_is_drawn_by_the_seed_alone(night: list[Epoch]) -> None:
    kept = balance(night, "undersample", seed=1)
    assert balance(night[::-1], "undersample", seed=1) == kept[::-1]
    assert balance(night, "undersample", seed=2) != kept


def test_no_balancing(night: list[Epoch]) -> None:
    assert balance(night, "none", seed=1) == night
    assert balance([], "undersample", seed=1) == []
    assert balance(night[77:], "undersample", seed=1) == night[77:]


def test_unknown_balance(night: list[Epoch]) -> None:
    with pytest.raises(EegToolError, match="Unknown balance 'undersampel'"):
        balance(night, "undersampel", seed=1)
