"""What was measured in epochs, as numbers that a vision module learns to predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch

from eegtool.reasons.facts import Facts

_LEAST_SPREAD: Final = 1e-6

NUMBERS: Final[dict[str, Callable[[Facts], float | None]]] = {
    "amplitude": lambda f: float(np.log2(max(f.amplitude_uv, 1))),
    "delta": lambda f: f.delta,
    "theta": lambda f: f.theta,
    "alpha": lambda f: f.alpha,
    "slow waves": lambda f: f.slow_wave_share,
    "few slow waves": lambda f: f.slow_wave_share > 0,
    "spindles": lambda f: f.n_spindles > 0,
    "K-complexes": lambda f: f.n_k_complexes > 0,
    "theta rhythm": lambda f: "theta" in f.rhythms,
    "alpha rhythm": lambda f: "alpha" in f.rhythms,
    "sigma rhythm": lambda f: "sigma" in f.rhythms,
    "alpha over time": lambda f: f.alpha_cover,
    "rapid eyes": lambda f: None if f.n_rapid is None else f.n_rapid > 0,
    "blinks": lambda f: None if f.n_blinks is None else f.n_blinks > 0,
    "slow eyes": lambda f: f.slow_eyes,
    "chin": lambda f: f.chin_db,
}
"""What reasons speak of, as a number of an epoch; None where it was not measured."""


def targets_of(facts: Sequence[Facts]) -> torch.Tensor:
    """Return float32 ``[N, K]``: each of `NUMBERS` with mean 0 and variance 1, NaN where it was not measured.

    What was measured in none of the epochs, or is the same in all, is left out.
    """
    table = np.array([[number(f) for number in NUMBERS.values()] for f in facts], np.float32)
    spread = np.array(
        [column[~np.isnan(column)].std() if (~np.isnan(column)).any() else 0 for column in table.T]
    )
    table = table[:, spread > _LEAST_SPREAD]
    return torch.from_numpy((table - np.nanmean(table, axis=0)) / np.nanstd(table, axis=0))
