"""What a report finds beside the figures of its run: comparisons, scorers, sleep, faithfulness."""

from __future__ import annotations

from dataclasses import dataclass, field

from eegtool.report.measures.compare import Comparison
from eegtool.report.measures.faithfulness import Faithfulness
from eegtool.report.measures.scorers import Review, Scorers
from eegtool.report.measures.sleep import Deviation, NightStatistics


@dataclass(frozen=True, slots=True)
class Findings:
    """What stands beside the figures in ``metrics.json``.

    Attributes
    ----------
    comparisons : tuple of Comparison
        Other runs, and the vision module alone, beside this one.
    sleep_statistics : tuple of NightStatistics
        Of each recording that can be laid out in time.
    sleep_deviations : dict of str to Deviation
        Bias and limits of agreement by statistic; empty without labels.
    scorers : Scorers or None
        Several scorers, and the model against each; None where there is one.
    reviews : tuple of Review
        What reviews of these answers took and gave.
    faithfulness : Faithfulness or None
        None where nothing was measured or claimed.
    """

    comparisons: tuple[Comparison, ...] = ()
    sleep_statistics: tuple[NightStatistics, ...] = ()
    sleep_deviations: dict[str, Deviation] = field(default_factory=dict)
    scorers: Scorers | None = None
    reviews: tuple[Review, ...] = ()
    faithfulness: Faithfulness | None = None
