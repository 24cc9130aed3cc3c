"""What a report finds beside the figures of its run: comparisons, sleep, faithfulness, what is missing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from eegtool.core.workspace import jsonable
from eegtool.report.measures.compare import Comparison
from eegtool.report.measures.faithfulness import Faithfulness
from eegtool.report.measures.scorers import Review, Scorers
from eegtool.report.measures.sleep import Deviation, NightStatistics
from eegtool.report.reading.joins import Kept


@dataclass(frozen=True, slots=True)
class Findings:
    """The rest of ``metrics.json``.

    Attributes
    ----------
    name : str
        What the run goes by in comparisons.
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
    kept : Kept or None
        What prepare kept and dropped of these recordings; None where the workspace does not know.
    missing : tuple of str or None
        Questions without an answer; None where there are no questions to compare with.
    broken_line : str
        What is wrong with the last line of the answers file.
    odd_probabilities : tuple of str
        Answers whose probabilities are none.
    models_in_file : int
        Models that have answered in the file; each is a run of its own.
    problems : tuple of str
        Files of the workspace that could not be used, and why.
    not_drawn : int
        Recordings that are not drawn, for ``--hypnograms``.
    label_notes : tuple of str
        What must be said of the true stages.
    module_calibration : dict
        On whom the vision module alone was calibrated, and what it decides for; empty if it was not.
    """

    name: str = ""
    comparisons: tuple[Comparison, ...] = ()
    sleep_statistics: tuple[NightStatistics, ...] = ()
    sleep_deviations: dict[str, Deviation] | None = None
    scorers: Scorers | None = None
    reviews: tuple[Review, ...] = ()
    faithfulness: Faithfulness | None = None
    kept: Kept | None = None
    missing: tuple[str, ...] | None = None
    broken_line: str = ""
    odd_probabilities: tuple[str, ...] = ()
    models_in_file: int = 1
    problems: tuple[str, ...] = ()
    not_drawn: int = 0
    label_notes: tuple[str, ...] = ()
    module_calibration: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the form of ``metrics.json``."""
        return dict(jsonable(asdict(self)))
