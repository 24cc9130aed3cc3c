"""The vision module's own stages: calibrated on the subjects that validated its training.

Trained with stage weights (``--imbalance``), its classifier takes rare stages for more common than they
are. How that is put right is in `eegtool.core.probabilities`; it is kept on the module's card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.options import DecideFor
from eegtool.core.probabilities import AIMS, Scaling, by_stage, fit, read_scaling
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES

_LEAST: Final = 1e-30
"""Of a probability in float32: what was rounded to nothing has a logarithm, too."""


def fit_module(
    card: Mapping[str, Any],
    epochs: Sequence[Epoch],
    probabilities: np.ndarray,
    decide_for: DecideFor,
) -> dict[str, Any] | None:
    """Fit how the module's probabilities become calibrated ones, and these a stage.

    Parameters
    ----------
    card : mapping
        Of the module; it names the subjects that validated its training.
    epochs : sequence of Epoch
        The fine-tune side.
    probabilities : float [N, 5]
        The module's own, of these epochs.
    decide_for : str
        What stages are to be decided for.

    Returns
    -------
    dict or None
        For the card. Where nobody validated, or nobody of them is here, what is on it already; None if
        nothing is, or nothing can be fitted.
    """
    subjects = sorted({*card.get("val_subjects", ())} & {epoch.subject for epoch in epochs})
    own = np.array([epoch.subject in subjects and epoch.stage in STAGES for epoch in epochs], bool)
    if not own.any():
        before = card.get("calibration")
        return None if before is None else {**before, "asked_for": decide_for}
    chosen = [epoch for epoch, is_own in zip(epochs, own, strict=True) if is_own]
    stages = [epoch.stage for epoch in chosen]
    whose = [epoch.subject for epoch in chosen]
    try:
        found = fit(_scores(probabilities[own]), stages, whose, decide_for)
    except EegToolError as error:
        console.print(f"The vision module alone is not calibrated: {error.what}", markup=False)
        return None
    scaling, names = found.scaling, ", ".join(subjects)
    console.print(
        f"The vision module alone is calibrated on {names} ({len(stages):,} epochs): temperature "
        f"{scaling.temperature:.2f}, an offset per stage, decided for {AIMS[scaling.decide_for]}"
        + ("." if scaling.decide_for == decide_for else f": {AIMS[decide_for]} gains nothing."),
        markup=False,
    )
    return {
        "temperature": scaling.temperature,
        "offsets": by_stage(scaling.offsets),
        "decide_for": scaling.decide_for,
        "decision_offsets": by_stage(scaling.decision_offsets),
        "asked_for": decide_for,
        "subjects": subjects,
        "n": len(stages),
    }


def stages_and_probabilities(
    calibration: Mapping[str, Any] | None, probabilities: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Return the stage of each epoch and its probabilities ``[N, 5]``, by a calibration if there is one."""
    scaling, scores = scaling_of(calibration), _scores(probabilities)
    return [STAGES[i] for i in scaling.decided(scores)], scaling.probabilities(scores)


def scaling_of(calibration: Mapping[str, Any] | None) -> Scaling:
    """Read what `fit_module` returned.

    Raises
    ------
    EegToolError
        If it is something else.
    """
    if calibration is None:
        return Scaling()
    try:
        return read_scaling(calibration)
    except ValueError as error:
        raise EegToolError(
            "The calibration on the card of the vision module cannot be read.",
            "Run `eegvlm extract` again, without --weights, or take it off the card.",
        ) from error


def _scores(probabilities: np.ndarray) -> np.ndarray:
    """Return log-probabilities, float64 ``[N, 5]``."""
    return np.log(np.maximum(probabilities.astype(np.float64), _LEAST))
