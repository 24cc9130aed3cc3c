from __future__ import annotations

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.prepare.splits import check_no_leak, choose_eval_subjects

SUBJECTS = [f"SC4{i:02d}" for i in range(8)]


@pytest.mark.parametrize(
    ("n_subjects", "fraction", "n_eval"),
    [(8, 0.25, 2), (8, 0.0, 1), (8, 1.0, 7), (2, 0.25, 1), (3, 0.5, 2), (6, 0.25, 2)],
)
def test_share_of_subjects(n_subjects: int, fraction: float, n_eval: int) -> None:
    subjects = SUBJECTS[:n_subjects]
    chosen = choose_eval_subjects(subjects, [], fraction, seed=1)
    assert len(chosen) == n_eval
    assert chosen < set(subjects)


def test_the_seed_decides_and_the_order_of_files_does_not() -> None:
    draws = [choose_eval_subjects(SUBJECTS, [], 0.25, seed) for seed in range(20)]
    again = [choose_eval_subjects(SUBJECTS[::-1] * 2, [], 0.25, seed) for seed in range(20)]
    assert draws == again
    assert len(set(draws)) > 5


def test_named_subjects() -> None:
    assert choose_eval_subjects(SUBJECTS, ["SC402", "SC407", "SC402"], 0.9, 1) == {"SC402", "SC407"}


def test_unknown_subject_lists_the_known_ones() -> None:
    with pytest.raises(EegToolError) as raised:
        choose_eval_subjects(SUBJECTS, ["SC401", "sc4o2"], 0.25, 1)
    assert raised.value.what == "--eval-subjects: there is no subject 'sc4o2'."
    assert raised.value.fix.startswith("Subjects: SC400, SC401, SC402, ")
    assert raised.value.fix.endswith("Did you mean 'SC402'?")


def test_one_subject_cannot_be_split() -> None:
    with pytest.raises(EegToolError, match="only one subject, SC400"):
        choose_eval_subjects(["SC400", "SC400"], [], 0.25, 1)


def test_nobody_left_to_train_on() -> None:
    with pytest.raises(EegToolError, match="names all subjects"):
        choose_eval_subjects(["SC400", "SC401"], ["SC401", "SC400"], 0.25, 1)


def epoch(subject: str, split: str) -> Epoch:
    return Epoch("id", "sleep-edf", "rec", subject, 1, 0, 0.0, "W", split, "x.png")


def test_leaks_are_found() -> None:
    whole = [epoch("SC400", "ft"), epoch("SC401", "eval"), epoch("SC400", "ft")]
    check_no_leak(whole)
    with pytest.raises(EegToolError, match="Subject SC400 is on both sides"):
        check_no_leak([*whole, epoch("SC400", "eval")])
