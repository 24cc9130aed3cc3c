"""From scores to probabilities to a stage, and how both steps are fitted on validation subjects.

    probabilities = softmax(scores / temperature + offsets)
    stage         = argmax(log(probabilities) + decision offsets)

The first line is bias-corrected temperature scaling (Alexandari et al. 2020, arXiv 1901.06852; the
temperature: Guo et al. 2017, arXiv 1706.04599), fitted by likelihood. The temperature brings certainty
to how often the model is right, the offsets bring each stage to how common it is: a model that was
trained with stage weights, or on other frequencies, has learnt other ones.

The likeliest stage is right most often, but a rare stage is hardly ever the likeliest. The second line
says what is wanted instead, macro-F1 or Cohen's κ, by offsets under which that figure is expected to be
highest if the probabilities are right (a plug-in classifier: Narasimhan et al. 2015, "Consistent
multiclass algorithms for complex performance measures", ICML). The true stages have no further part in
them. They are kept only where they help on epochs that nothing was fitted on.

Chosen on three tiny models and three subjects of the demo (simulated nights), fitted on one subject and
tested on the other two; means of nine: macro-F1 0.743 as asked, 0.745 of the likeliest stage, 0.766
decided for macro-F1; κ 0.754, 0.756 and, decided for κ, 0.756. Of the one model that never says N1 by
itself: macro-F1 0.674, 0.686, 0.752. Offsets that were sought by the true stages instead: κ 0.720 to
0.754, macro-F1 0.757 to 0.771, by how strongly large ones are held back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

import numpy as np
from scipy.optimize import differential_evolution, minimize
from scipy.special import log_softmax
from sklearn.model_selection import GroupKFold

from eegtool.core.errors import EegToolError
from eegtool.core.options import DecideFor
from eegtool.core.parsing import finite
from eegtool.core.stages import STAGE_INDEX, STAGES

ANCHOR: Final = "N2"
"""Its offsets are 0: only differences between stages count, and N2 is the commonest stage of a night."""

AIMS: Final[dict[str, str]] = {
    "likelihood": "the likeliest stage",
    "macro_f1": "macro-F1",
    "kappa": "Cohen's κ",
}
"""What can be decided for, as a person reads it."""

_NONE: Final = (0.0,) * len(STAGES)
_RANGE: Final = (0.01, 100.0)
"""Where the temperature is sought."""

_FLAT: Final = 1e-6
"""Nats by which the best temperature must beat both ends of the range, else there is no best one."""

_SPREAD: Final = 1.0
"""Standard deviation of the offsets, in nats, before anything was seen (a Gaussian prior around no
offsets): a stage that the validation hardly shows, or does not show at all, is not ruled out."""
_ALIKE: Final = 20
"""Epochs (10 min) that count as one against this prior: neighbours are alike. By one subject of the demo
the NLL of the others is 0.555 so, and 0.583 where every epoch counts (see above)."""

_FURTHEST: Final = 4.0
"""Nats within which the decision offsets are sought: odds of 55."""
_SMALL: Final = 1e-3
"""Of the aim, per nat² of the decision offsets: among offsets of the same figure the smallest are taken."""
_SEED: Final = 0
_CLOSE: Final = 1e-4
"""Spread of the candidates' figures, relative to their mean, at which the search ends ..."""
_ROUNDS: Final = 60
"""... or generations, of 15 candidates for each offset."""
_FOLDS: Final = 5
"""Groups of subjects on which decision offsets are tried that were sought on the others, at most."""
_BLOCK: Final = 60
"""Epochs (30 min) of the stretches into which the night of a single subject is cut for that."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How scores become probabilities, and these a stage; the default changes nothing.

    Attributes
    ----------
    temperature : float
        By which scores are divided; above 1 where the model is too certain.
    offsets : tuple of float
        Added to the divided scores, in nats, in the order of `STAGES`; that of `ANCHOR` is 0.
    decide_for : str
        What the stage is decided for (see `AIMS`).
    decision_offsets : tuple of float
        Added to the log-probabilities when a stage is decided, in nats; that of `ANCHOR` is 0.
    """

    temperature: float = 1.0
    offsets: tuple[float, ...] = _NONE
    decide_for: DecideFor = "likelihood"
    decision_offsets: tuple[float, ...] = _NONE

    def log_probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return float64 ``[..., 5]``, in nats, for scores ``[..., 5]``."""
        scaled = np.asarray(scores, np.float64) / self.temperature + self.offsets
        return np.asarray(log_softmax(scaled, axis=-1))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return float64 ``[..., 5]``, which sum to 1, for scores ``[..., 5]``."""
        return np.exp(self.log_probabilities(scores))

    def decided(self, scores: np.ndarray) -> np.ndarray:
        """Return the index of the stage that is decided for, int ``[...]``, for scores ``[..., 5]``."""
        return np.asarray((self.log_probabilities(scores) + self.decision_offsets).argmax(axis=-1))


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted scaling, and what its decision offsets were worth.

    Attributes
    ----------
    scaling : Scaling
    likeliest, decided : float or None
        The figure that was decided for, on epochs that nothing was fitted on: of the likeliest
        stages, and of the decided ones. None where the likeliest stage was wanted.
    """

    scaling: Scaling
    likeliest: float | None = None
    decided: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the decision offsets help."""
        return (self.decided or 0.0) > (self.likeliest or 0.0)


def fit(
    scores: np.ndarray,
    stages: Sequence[str],
    subjects: Sequence[str],
    decide_for: DecideFor = "likelihood",
) -> Fit:
    """Fit a scaling on epochs of known stage that the model was not trained on.

    Parameters
    ----------
    scores : float [N, 5]
        Logits or log-likelihoods of the stages.
    stages, subjects : sequence of str
        True stage of each epoch, and whose it is, in order of time for each subject.
    decide_for : str
        What stages are to be decided for; other than by likelihood, offsets are sought with
        scipy's differential evolution, and tried on subjects (of a single one: on other half hours)
        that nothing was fitted on. Where they do not help there, stages are the likeliest ones.

    Returns
    -------
    Fit
        The same for the same epochs, always.

    Raises
    ------
    EegToolError
        If there is nothing to fit on, or no temperature is the best: every epoch is right by a
        margin, or the scores tell nothing about the stages.
    """
    _check(scores, stages)
    true = indices(stages)
    _check_best(scores, true)
    scaling = _scaling(scores, true)
    if decide_for == "likelihood":
        return Fit(scaling)
    likeliest, decided = _tried(scores, true, subjects, decide_for)
    found = Fit(scaling, likeliest, decided)
    if not found.is_kept:
        return found
    offsets = _decision_offsets(scaling.log_probabilities(scores), set(true.tolist()), decide_for)
    return replace(found, scaling=replace(scaling, decide_for=decide_for, decision_offsets=offsets))


def nll(scores: np.ndarray, stages: Sequence[str], scaling: Scaling | None = None) -> float:
    """Return the mean negative log-likelihood of the true stages, in nats."""
    rows = (scaling or Scaling()).log_probabilities(scores)
    return float(-rows[np.arange(len(stages)), indices(stages)].mean())


def ece(probabilities: np.ndarray, stages: Sequence[str], bins: int = 15) -> float:
    """Return the expected calibration error.

    Epochs are sorted into bins of equal width by the probability of their likeliest stage; the error is
    how far that is, on average, from the share of right answers (Guo et al. 2017, eq. 3).

    Parameters
    ----------
    probabilities : float [N, 5]
        Of the stages; rows sum to 1.
    stages : sequence of str
        True stage of each epoch.
    bins : int
        Number of bins over (0, 1]; a bin includes its upper end.

    Examples
    --------
    >>> ece(np.array([[0.8, 0.2, 0, 0, 0]] * 4), ["W", "W", "W", "N1"]).__round__(3)
    0.05
    """
    certainty = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == indices(stages)
    # Rounded, so that 0.2, which as a float may lie a hair above its edge, stays in its bin.
    bin_of = np.clip(np.ceil(np.round(certainty * bins, 9)).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right - certainty)
    return float(np.abs(gaps).sum() / len(certainty))


def by_stage(values: Sequence[float], digits: int = 6) -> dict[str, float]:
    """Return one number for each stage, as files have it."""
    return {stage: round(float(v), digits) for stage, v in zip(STAGES, values, strict=True)}


def of_stages(values: object) -> tuple[float, ...] | None:
    """Return what `by_stage` made, in the order of `STAGES`; None if it is not one finite number for each."""
    if not isinstance(values, Mapping) or set(values) != set(STAGES):
        return None
    numbers = [finite(values[stage]) for stage in STAGES]
    return None if None in numbers else tuple(n for n in numbers if n is not None)


def read_scaling(raw: Mapping[str, Any]) -> Scaling:
    """Read a scaling by the names of its fields, its offsets as `by_stage` writes them.

    Earlier versions had a temperature only: what is missing changes nothing.

    Raises
    ------
    ValueError
        Saying what is wrong with it.
    """
    temperature = finite(raw.get("temperature"))
    if temperature is None or temperature <= 0:
        raise ValueError(f"it has the temperature {raw.get('temperature')}")
    none = by_stage(_NONE)
    offsets, decision = (of_stages(raw.get(k, none)) for k in ("offsets", "decision_offsets"))
    if offsets is None or decision is None:
        raise ValueError("it does not have one number for each stage")
    aims: tuple[DecideFor, ...] = get_args(DecideFor)
    wanted = raw.get("decide_for", "likelihood")
    decide_for = next((aim for aim in aims if aim == wanted), None)
    if decide_for is None:
        raise ValueError(f"it decides for '{wanted}'")
    return Scaling(temperature, offsets, decide_for, decision)


def indices(stages: Sequence[str]) -> np.ndarray:
    """Return the column of each stage.

    Raises
    ------
    EegToolError
        If one is not a stage.
    """
    if unknown := sorted(set(stages) - set(STAGES)):
        raise EegToolError(
            f"'{unknown[0]}' is not a stage; allowed are {', '.join(STAGES)}.",
            "Calibrate on epochs whose true stage is known.",
        )
    return np.array([STAGE_INDEX[stage] for stage in stages], np.intp)


def _check(scores: np.ndarray, stages: Sequence[str]) -> None:
    if len(stages) and np.isfinite(scores).all():
        return
    raise EegToolError(
        "A temperature cannot be fitted: "
        + ("some scores are not finite." if len(stages) else "there are no epochs."),
        "Calibrate on epochs of known stage, with --subjects.",
    )


def _scaling(scores: np.ndarray, true: np.ndarray) -> Scaling:
    """Fit temperature and offsets by likelihood."""
    _, inverse, offsets = _likeliest(scores, true, (1 / _RANGE[1], 1 / _RANGE[0]))
    return Scaling(1 / inverse, tuple((offsets - offsets[STAGE_INDEX[ANCHOR]]).tolist()))


def _check_best(scores: np.ndarray, true: np.ndarray) -> None:
    """Refuse where no temperature is the best, but one end of the range is as good."""
    slowest, fastest = 1 / _RANGE[1], 1 / _RANGE[0]
    loss, sharp, blunt = (
        _likeliest(scores, true, ends)[0]
        for ends in ((slowest, fastest), (fastest, fastest), (slowest, slowest))
    )
    if min(sharp, blunt) > loss + _FLAT:
        return
    why = (
        "every one of these epochs is right by a margin, so that it would sink to 0"
        if sharp < blunt
        else "the scores tell nothing about the stages, so that it would rise without end"
    )
    raise EegToolError(
        f"No temperature is the best one: {why}.",
        "Calibrate on more subjects (--subjects) that the model was not trained on.",
    )


def _likeliest(
    scores: np.ndarray, true: np.ndarray, bounds: tuple[float, float]
) -> tuple[float, float, np.ndarray]:
    """Minimise the penalised mean negative log-likelihood, which is convex; return it, 1/T and offsets."""
    n = len(true)
    # Centred, so that rows which are as a whole less likely weigh no more in the slope of 1/T.
    centred = np.asarray(scores, np.float64) - np.mean(scores, axis=1, keepdims=True)
    own = centred[np.arange(n), true].mean()
    shares = np.bincount(true, minlength=len(STAGES)) / n
    prior = _ALIKE / (n * _SPREAD**2)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        inverse, offsets = x[0], x[1:]
        rows = inverse * centred + offsets
        norms = np.logaddexp.reduce(rows, axis=1)
        p = np.exp(rows - norms[:, None])
        value = norms.mean() - inverse * own - offsets @ shares
        slope = np.concatenate([[(p * centred).sum(axis=1).mean() - own], p.mean(axis=0) - shares])
        slope[1:] += prior * offsets
        return float(value + prior * (offsets @ offsets) / 2), slope

    start = np.concatenate([[np.clip(1.0, *bounds)], _NONE])
    free = [(None, None)] * len(STAGES)
    options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, bounds=[bounds, *free], options=options)
    return float(found.fun), float(found.x[0]), np.array(found.x[1:])


def _decision_offsets(
    log_probabilities: np.ndarray, present: Set[int], decide_for: DecideFor
) -> tuple[float, ...]:
    """Seek the offsets whose decisions are expected to reach the highest figure; absent stages get none."""
    anchor = STAGE_INDEX[ANCHOR]
    free = sorted(set(present) - {anchor})
    shares = np.exp(log_probabilities)
    expected = shares.sum(axis=0)
    offsets = np.zeros(len(STAGES))
    if not free:
        return _NONE

    def loss(x: np.ndarray) -> float:
        offsets[free] = x
        decided = (log_probabilities + offsets).argmax(axis=1)
        own = np.take_along_axis(shares, decided[:, None], axis=1)[:, 0]
        said, right = (np.bincount(decided, w, len(STAGES)) for w in (None, own))
        return _SMALL * float(x @ x) - _figure(expected, said, right, present, decide_for)

    found = differential_evolution(
        loss,
        [(-_FURTHEST, _FURTHEST)] * len(free),
        x0=np.zeros(len(free)),
        seed=_SEED,
        tol=_CLOSE,
        maxiter=_ROUNDS,
        polish=False,
    )
    offsets[free] = found.x
    return tuple(offsets.tolist())


def _tried(
    scores: np.ndarray, true: np.ndarray, subjects: Sequence[str], decide_for: DecideFor
) -> tuple[float, float]:
    """Return the figure of the likeliest and of the decided stages, each by what other epochs taught."""
    likeliest, decided = (np.empty(len(true), np.intp) for _ in range(2))
    for others, own in _parts(subjects):
        scaling = _scaling(scores[others], true[others])
        present = set(true[others].tolist())
        offsets = _decision_offsets(scaling.log_probabilities(scores[others]), present, decide_for)
        likeliest[own] = scaling.decided(scores[own])
        decided[own] = replace(scaling, decision_offsets=offsets).decided(scores[own])
    counts = (_counts(true, said) for said in (likeliest, decided))
    before, after = (_figure(*some, set(true.tolist()), decide_for) for some in counts)
    return before, after


def _parts(subjects: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield epochs to fit on and others to try on: by subjects, or by the half hours of a single one.

    Every other half hour, as the first half of a night has other stages than the second.
    """
    names, groups = np.unique(np.array(subjects, str), return_inverse=True)
    if len(names) == 1:
        groups = np.arange(len(subjects)) // max(1, min(_BLOCK, len(subjects) // 4)) % 2
    folds = GroupKFold(max(2, min(_FOLDS, len(names))))
    yield from folds.split(groups, groups=groups)


def _counts(true: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count by stage what is true, what is said, and what is both."""
    stages = (true, said, true[true == said])
    one, other, both = (np.bincount(some, minlength=len(STAGES)) for some in stages)
    return one, other, both


def _figure(
    true: np.ndarray,
    said: np.ndarray,
    right: np.ndarray,
    present: Set[int],
    decide_for: DecideFor,
) -> float:
    """Return macro-F1 over the stages that are present, or Cohen's κ (0 where it is 0/0), out of `_counts`."""
    if decide_for == "macro_f1":
        own = sorted(present)
        return float((2 * right[own] / (true + said)[own]).mean())
    n = float(true.sum())
    chance = float(true @ said) / n
    return float((right.sum() - chance) / (n - chance)) if chance < n else 0.0
