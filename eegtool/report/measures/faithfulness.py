"""Whether what the answers say of the signal is true of what prepare measured in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from eegtool.reasons.claims import claims_in, holds
from eegtool.reasons.facts import Facts
from eegtool.report.measures.intervals import Bootstrap, Interval, Sampling
from eegtool.report.reading.epochs import AnsweredEpoch


@dataclass(frozen=True, slots=True)
class ClaimScore:
    """How many claims of a kind the answers make, and how many of them are true."""

    claims: int
    true: int


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Claims of the answers, checked against what was measured in their epochs.

    Attributes
    ----------
    epochs : int
        Epochs in which something was measured.
    with_claims : int
        Those of them whose answer claims anything.
    share : float
        Part of all claims that are true.
    interval : tuple of float, or None
        95 % interval of `share`, over subjects.
    kinds : dict of str to ClaimScore
        By kind of claim (see `eegtool.reasons.claims.CLAIM_KINDS`), the commonest first.
    """

    epochs: int
    with_claims: int
    share: float
    interval: Interval | None
    kinds: dict[str, ClaimScore]


def faithfulness(
    epochs: Sequence[AnsweredEpoch], facts: Mapping[str, Facts], sampling: Sampling
) -> Faithfulness | None:
    """Check all claims of the answers.

    Parameters
    ----------
    epochs : sequence of AnsweredEpoch
        The answers.
    facts : mapping of str to Facts
        What was measured, by sample id.
    sampling : Sampling
        How the interval is made.

    Returns
    -------
    Faithfulness or None
        None where nothing was measured or nothing is claimed.
    """
    measured = [e for e in epochs if e.sample_id in facts]
    read = cache(claims_in)
    said, right = Counter[str](), Counter[str]()
    counts = np.zeros((2, len(measured)))
    for i, epoch in enumerate(measured):
        for claim in read(epoch.text):
            true = holds(claim, facts[epoch.sample_id])
            said[claim.kind] += 1
            right[claim.kind] += true
            counts[:, i] += true, 1
    if not said:
        return None
    bootstrap = Bootstrap(measured, sampling)
    everywhere = np.zeros(len(measured), np.intp)
    per_unit = np.concatenate([bootstrap.sums(everywhere, (1,), n) for n in counts], axis=1)
    with np.errstate(invalid="ignore"):
        share, interval = bootstrap.estimate(per_unit, lambda sums: sums[..., 0] / sums[..., 1])
    return Faithfulness(
        epochs=len(measured),
        with_claims=int((counts[1] > 0).sum()),
        share=share or 0.0,
        interval=interval,
        kinds={kind: ClaimScore(n, right[kind]) for kind, n in said.most_common()},
    )
