"""Published splits by name: who is trained on and who is tested, so that figures may stand beside the literature's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from eegtool.prepare.download import CASSETTE_SUBJECTS


@dataclass(frozen=True, slots=True)
class Sides:
    """Subjects of a published split; those of the validation are of the fine-tune side, too."""

    evaluated: tuple[str, ...]
    trained: tuple[str, ...]
    validated: tuple[str, ...] = ()

    @property
    def everybody(self) -> frozenset[str]:
        """All subjects."""
        return frozenset((*self.evaluated, *self.trained, *self.validated))


@dataclass(frozen=True, slots=True)
class Protocol:
    """A published split.

    Attributes
    ----------
    cohort : str
        Data set, one of `eegtool.scorings.cohorts.COHORTS`.
    n_folds : int
        How many folds there are; 1 where there is one split.
    n_nights : int
        Recordings of all its subjects.
    wake_margin_min : float
        Minutes of wake that are kept around sleep; infinite for the whole night.
    sides : callable
        ``fold -> Sides``.
    """

    cohort: str
    n_folds: int
    n_nights: int
    wake_margin_min: float
    sides: Callable[[int], Sides]


# 20 are the subjects of Sleep-EDF's version of 2013 (39 nights), 78 all of 2018 (153 nights).
_SLEEP_EDF_78: Final = tuple(f"SC4{i:02d}" for i in CASSETTE_SUBJECTS)
_SLEEP_EDF_20: Final = _SLEEP_EDF_78[:20]
# MASS-SS3 has 62 subjects, numbered to 64 without these two, SS1 has 53 (O'Reilly et al. 2014).
_SS3: Final = tuple(f"01-03-{i:04d}" for i in range(1, 65) if i not in (43, 49))
_SS1: Final = tuple(f"01-01-{i:04d}" for i in range(1, 54))


def _in_folds(subjects: tuple[str, ...], n_folds: int) -> Callable[[int], Sides]:
    """Test a fold of neighbours in the order of their numbers; the literature names no other order."""

    def sides(fold: int) -> Sides:
        tested = np.array_split(np.arange(len(subjects)), n_folds)[fold].tolist()
        rest = (name for i, name in enumerate(subjects) if i not in tested)
        return Sides(tuple(subjects[i] for i in tested), tuple(rest))

    return sides


def _drawn(subjects: tuple[str, ...], share: float, seed: int) -> Callable[[int], Sides]:
    """Draw a share for the test, then as many for the validation, as scikit-learn's ``train_test_split`` does twice."""

    def draw(names: list[str], n: int) -> tuple[list[str], list[str]]:
        shuffled = [names[i] for i in np.random.RandomState(seed).permutation(len(names))]
        return shuffled[:n], shuffled[n:]

    tested, rest = draw(list(subjects), math.ceil(share * len(subjects)))
    validated, trained = draw(rest, math.ceil(share / (1 - share) * len(rest)))
    split = Sides(*(tuple(sorted(side)) for side in (tested, trained, validated)))
    return lambda fold: split


PROTOCOLS: Final[dict[str, Protocol]] = {
    # Supratak et al. 2017 (DeepSleepNet) and most who follow: leave one subject out, wake cut to half an hour.
    "sleep-edf-20": Protocol("sleep-edf", 20, 39, 30.0, _in_folds(_SLEEP_EDF_20, 20)),
    # Supratak & Guo 2020 (TinySleepNet) and most who follow: ten folds of whole subjects.
    "sleep-edf-78": Protocol("sleep-edf", 10, 153, 30.0, _in_folds(_SLEEP_EDF_78, 10)),
    # NeuralBench (Meta), its task "sleep stage": subjects 60/20/20, seed 33, wake cut to half an hour.
    "kemp2000": Protocol("sleep-edf", 1, 153, 30.0, _drawn(_SLEEP_EDF_78, 0.2, 33)),
    # SleepVLM (arXiv 2603.26738): SS3 0001 to 0052 trained, 0053 to 0064 validated, SS1 tested; whole nights.
    "sleepvlm-mass": Protocol(
        "mass", 1, 115, math.inf, lambda fold: Sides(_SS1, _SS3[:50], _SS3[50:])
    ),
}
