"""Calibration: one temperature that makes the stage probabilities as sure as they are right.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599). A temperature moves no
stage in front of another: the answers stay, only how sure they are changes. It is fitted on subjects
that the model was not trained on and that the report does not count.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from eegtool.core.errors import EegToolError
from eegtool.core.parsing import finite
from eegtool.core.records import Answer
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.core.workspace import read_json, write_json
from eegtool.inference.scoring import probabilities

_FILE: Final = "calibration.json"
_RANGE: Final = (0.01, 100.0)
"""Where the temperature is sought."""

_FLAT: Final = 1e-6
"""Nats by which the best temperature must beat both ends of the range, else there is no best one."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted temperature, what it was fitted on, and what it changed there."""

    temperature: float
    mode: str
    """How the answers were asked for: ``score`` or ``both``."""
    subjects: tuple[str, ...]
    n: int
    """Number of epochs."""
    nll_before: float
    """Mean negative log-likelihood of the true stage, in nats."""
    nll_after: float
    ece_before: float
    """Expected calibration error (see `ece`)."""
    ece_after: float
    adapter_sha256: str
    """Weights whose probabilities these were."""


def calibrate(
    log_likelihood: np.ndarray,
    stages: Sequence[str],
    *,
    mode: str,
    subjects: Sequence[str],
    adapter_sha256: str,
) -> Calibration:
    """Fit the temperature and tell what it changes; see `fit_temperature` and `Calibration`."""
    temperature = fit_temperature(log_likelihood, stages)
    before, after = (probabilities(log_likelihood, t) for t in (1.0, temperature))
    return Calibration(
        temperature=temperature,
        mode=mode,
        subjects=tuple(sorted(set(subjects))),
        n=len(stages),
        nll_before=nll(log_likelihood, stages),
        nll_after=nll(log_likelihood, stages, temperature),
        ece_before=ece(before, stages),
        ece_after=ece(after, stages),
        adapter_sha256=adapter_sha256,
    )


def fit_temperature(log_likelihood: np.ndarray, stages: Sequence[str]) -> float:
    """Find the temperature under which the true stages are likeliest.

    Parameters
    ----------
    log_likelihood : float [N, 5]
        Of the stage answers (see `score.stage_log_likelihoods`).
    stages : sequence of str
        True stage of each epoch.

    Returns
    -------
    float
        Above 1 where the model is too sure of itself, below 1 where it is too cautious.

    Raises
    ------
    EegToolError
        If there is nothing to fit on, or no temperature is the best: every epoch is right by a
        margin, or the scores tell nothing about the stages.
    """
    if not len(stages) or not np.isfinite(log_likelihood).all():
        raise EegToolError(
            "A temperature cannot be fitted: "
            + ("some log-likelihoods are not finite." if len(stages) else "there are no epochs."),
            "Calibrate on epochs of known stage, with --subjects.",
        )
    # The negative log-likelihood is convex in 1/T, so it has one valley in log T, too.
    found = minimize_scalar(
        lambda x: nll(log_likelihood, stages, float(np.exp(x))),
        bounds=np.log(_RANGE),
        method="bounded",
        options={"xatol": 1e-6},
    )
    ends = [nll(log_likelihood, stages, end) for end in _RANGE]
    if min(ends) <= found.fun + _FLAT:
        why = (
            "every one of these epochs is right by a margin, so that it would sink to 0"
            if ends[0] < ends[1]
            else "the scores tell nothing about the stages, so that it would rise without end"
        )
        raise EegToolError(
            f"No temperature is the best one: {why}.",
            "Calibrate on more subjects (--subjects) that the model was not trained on.",
        )
    return float(np.exp(found.x))


def nll(log_likelihood: np.ndarray, stages: Sequence[str], temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of the true stages, in nats."""
    told = log_softmax(np.asarray(log_likelihood, np.float64) / temperature, axis=1)
    return float(-told[np.arange(len(stages)), _indices(stages)].mean())


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
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == _indices(stages)
    # Rounded, so that 0.2, which as a float may lie a hair above its edge, stays in its bin.
    bin_of = np.clip(np.ceil(np.round(sure * bins, 9)).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right - sure)
    return float(np.abs(gaps).sum() / len(sure))


@dataclass(frozen=True, slots=True)
class Sureness:
    """How sure answers are of epochs that no temperature was fitted on, and how often they are right."""

    _scored: array[float] = field(default_factory=lambda: array("d"))
    """Log-likelihoods, one epoch behind the other."""
    _temperatures: array[float] = field(default_factory=lambda: array("d"))
    _stages: list[str] = field(default_factory=list)

    def add(self, row: Answer) -> None:
        """Look at a row; without log-likelihoods or a true stage it tells nothing."""
        scores = as_scores(row.metadata.get("log_likelihoods"))
        temperature = finite(row.metadata.get("calibration_temperature", 1.0)) or 0.0
        if scores is None or temperature <= 0:
            return  # somebody else's row, read again
        if row.label in STAGES and not row.metadata.get("calibrated_on"):
            self._scored.extend(scores)
            self._temperatures.append(temperature)
            self._stages.append(row.label)

    def figures(self) -> dict[str, float]:
        """Return the number of epochs and their ECE without and, where there is one, with the temperature."""
        if not self._stages:
            return {}
        scored = np.array(self._scored).reshape(-1, len(STAGES))
        temperatures = np.array(self._temperatures)[:, None]
        found = {"n": len(self._stages), "before": ece(probabilities(scored), self._stages)}
        if (temperatures != 1).any():
            found["after"] = ece(probabilities(scored / temperatures), self._stages)
        return found


def as_scores(log_likelihoods: object) -> list[float] | None:
    """Return log-likelihoods in the order of `STAGES`; None if they are not one finite number for each."""
    if not isinstance(log_likelihoods, dict) or set(log_likelihoods) != set(STAGES):
        return None
    scores = [finite(log_likelihoods[stage]) for stage in STAGES]
    return None if None in scores else [score for score in scores if score is not None]


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write ``calibration.json`` beside the adapter."""
    write_json(folder / _FILE, asdict(calibration))


def read_calibration(folder: Path, adapter_sha256: str = "") -> Calibration | None:
    """Read the calibration of an adapter; None where it has none.

    Parameters
    ----------
    folder : Path
        The adapter folder.
    adapter_sha256 : str, optional
        Weights that are asked.

    Raises
    ------
    EegToolError
        If it cannot be read, or was fitted on the probabilities of other weights.
    """
    path, fix = folder / _FILE, "Fit it again with --calibrate, or ask with --no-calibration."
    if not path.exists():
        return None
    raw = read_json(path)
    try:
        calibration = Calibration(**raw | {"subjects": tuple(raw["subjects"])})
    except (KeyError, TypeError) as error:
        raise EegToolError(f"{path} is not readable as a calibration: {error}.", fix) from error
    if (finite(calibration.temperature) or 0.0) <= 0:
        reason = f"it has the temperature {calibration.temperature}"
        raise EegToolError(f"{path} is not readable as a calibration: {reason}.", fix)
    if adapter_sha256 and calibration.adapter_sha256 != adapter_sha256:
        raise EegToolError(
            f"{path} belongs to other weights ({calibration.adapter_sha256[:12]}) than those that are "
            f"asked ({adapter_sha256[:12]}).",
            fix,
        )
    return calibration


def _indices(stages: Sequence[str]) -> np.ndarray:
    """Return the column of each stage.

    Raises
    ------
    EegToolError
        If one is no stage.
    """
    if unknown := sorted(set(stages) - set(STAGES)):
        raise EegToolError(
            f"'{unknown[0]}' is no stage; allowed are {', '.join(STAGES)}.",
            "Calibrate on epochs whose true stage is known.",
        )
    return np.array([STAGE_INDEX[stage] for stage in stages])
