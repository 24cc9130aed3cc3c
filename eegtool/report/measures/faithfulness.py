"""Whether what the answers say of the signal is true of what prepare measured in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from eegtool.reasons.claims import claims_in, holds
from eegtool.reasons.facts import Facts
from eegtool.reasons.rules import cited, holding
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
    elsewhere : float
        The same part where each answer is held against the epoch half of the list away: what texts reach that
        say what is usually true.
    rules : float or None
        Mean overlap (intersection over union) of the rules that an answer cites and those that hold by what was
        measured, over answers that cite any; None where none does.
    rules_interval : tuple of float, or None
        95 % interval of `rules`, over subjects.
    kinds : dict of str to ClaimScore
        By kind of claim (see `eegtool.reasons.claims.CLAIM_KINDS`), the commonest first.
    """

    epochs: int
    with_claims: int
    share: float
    interval: Interval | None
    elsewhere: float
    rules: float | None
    rules_interval: Interval | None
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
    claims = np.zeros((2, len(measured)))  # true ones, all
    rules = np.zeros((2, len(measured)))  # overlap, whether any is cited
    elsewhere = 0
    for i, epoch in enumerate(measured):
        own = facts[epoch.sample_id]
        other = facts[measured[i - len(measured) // 2].sample_id]
        for claim in read(epoch.text):
            true = holds(claim, own)
            said[claim.kind] += 1
            right[claim.kind] += true
            claims[:, i] += true, 1
            elsewhere += holds(claim, other)
        if named := set(cited(epoch.text)):
            true_rules = set(holding(own))
            rules[:, i] = len(named & true_rules) / len(named | true_rules), 1
    if not said:
        return None
    bootstrap = Bootstrap(measured, sampling)
    everywhere = np.zeros(len(measured), np.intp)

    def mean(sums_and_counts: np.ndarray) -> tuple[float | None, Interval | None]:
        per_unit = [bootstrap.sums(everywhere, (1,), n) for n in sums_and_counts]
        with np.errstate(invalid="ignore"):
            return bootstrap.estimate(
                np.concatenate(per_unit, axis=1), lambda sums: sums[..., 0] / sums[..., 1]
            )

    share, interval = mean(claims)
    overlap, rules_interval = mean(rules) if rules[1].any() else (None, None)
    return Faithfulness(
        epochs=len(measured),
        with_claims=int((claims[1] > 0).sum()),
        share=share or 0.0,
        interval=interval,
        elsewhere=elsewhere / said.total(),
        rules=overlap,
        rules_interval=rules_interval,
        kinds={kind: ClaimScore(n, right[kind]) for kind, n in said.most_common()},
    )
