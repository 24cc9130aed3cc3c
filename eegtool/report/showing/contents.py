"""Which tables a report has: built once, shown in the terminal, on the page and in files."""

from __future__ import annotations

from typing import Final

from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.report.measures.metrics import NEAR, SPARSE, Agreement, Metrics
from eegtool.report.showing.tables import (
    NOTHING,
    Cell,
    Table,
    cell,
    cells_of,
    counted,
    figure,
    percent,
    text_row,
)

FIGURE_NAMES: Final = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "kappa": "Cohen's κ",
    "weighted_f1": "Weighted F1",
    "mcc": "Matthews correlation",
    "balanced_accuracy": "Balanced accuracy",
}


def summary_table(metrics: Metrics) -> Table:
    """Return the headline figures, each beside what it would be without looking at the signal."""
    chance = metrics.chance
    if chance is None:
        return Table("summary", "Agreement with the scoring", ("",), ())
    at_random = {"accuracy": chance.random_accuracy, "kappa": 0.0, "mcc": 0.0}
    rows = []
    for key, name in FIGURE_NAMES.items():
        value, always = getattr(metrics, key), getattr(chance, key)
        gained = None if value is None or always == 1 else (value - always) / (1 - always)
        rows.append(
            (
                Cell(name),
                cell(value, metrics.intervals.figures.get(key)),
                cell(always),
                Cell(figure(at_random[key]) if key in at_random else ""),
                cell(gained),
            )
        )
    return Table(
        "summary",
        "Agreement with the scoring",
        ("", "Model", f"Always {chance.stage}", "At random", "Gained"),
        tuple(rows),
        "Second lines: 95 % intervals. At random: answers drawn as often as the model gave them. Gained: "
        f"part of the way from always answering {chance.stage} to full agreement. Macro-F1: mean over "
        f"the stages that occur in the labels ({', '.join(metrics.macro_f1_stages)}).",
    )


def counts_table(metrics: Metrics) -> Table:
    """Return how many epochs were answered and scored."""
    of = metrics.n or metrics.answered
    return Table(
        "counts",
        "Epochs and answers",
        ("", "Epochs"),
        (
            text_row(("Epochs answered", f"{metrics.answered:,}")),
            text_row(("Epochs scored", f"{metrics.n:,}")),
            text_row(("Unreadable answers", counted(metrics.unreadable, of))),
            text_row(("Epochs without a label", f"{metrics.unlabelled:,}")),
            text_row(
                (
                    f"Commonest answer ({metrics.most_common_answer})",
                    percent(metrics.most_common_answer_share),
                )
            ),
        ),
    )


def stage_table(metrics: Metrics) -> Table:
    """Return precision, recall, F1 and support of each stage."""
    rows = tuple(
        (
            Cell(stage),
            *cells_of(score, ("precision", "recall", "f1"), metrics.intervals.stages.get(stage)),
            Cell(f"{score.support:,}"),
        )
        for stage, score in metrics.per_stage.items()
    )
    return Table(
        "stages",
        "Per stage",
        ("Stage", "Precision", "Recall", "F1", "Epochs"),
        rows,
        f"{NOTHING} marks a quotient by zero: the stage was never answered, or is never true."
        if any(cell.text == NOTHING for row in rows for cell in row)
        else "",
    )


def confusion_table(metrics: Metrics) -> Table:
    """Return the confusion matrix with counts and shares of each row."""
    rows = []
    for stage, counts in zip(STAGES, metrics.confusion, strict=True):
        total = sum(counts)
        cells = [
            Cell(
                f"{count:,}",
                percent(count / total) if count else "",
                count / total if total else 0.0,
                "right" if answer == stage else "wrong",
            )
            for answer, count in zip(metrics.confusion_labels, counts, strict=True)
        ]
        rows.append((Cell(stage), *cells, Cell(f"{total:,}")))
    return Table(
        "confusion",
        "Confusion matrix",
        ("True", *metrics.confusion_labels, "epochs"),
        tuple(rows) if metrics.n else (),
        "Rows: true stage. Columns: answer. Share of the row below each count.",
    )


def surroundings_table(metrics: Metrics) -> Table:
    """Return the figures at changes of stage and in between, and by how much of the context there is."""
    near = f"a change within {NEAR * EPOCH_S / 60:g} min"
    names = {
        "transition": "At a change",
        "stable": "In between",
        "near": f"… {near}",
        "far": "… further away",
        "full": "Context is there",
        "sparse": "Context is sparse",
    }
    return Table(
        "surroundings",
        "Transitions and stable sleep",
        ("", "Accuracy", "Macro-F1", "κ", "Epochs"),
        tuple(
            (
                Cell(names[name]),
                *cells_of(part.agreement, ("accuracy", "macro_f1", "kappa"), part.intervals),
                Cell(f"{part.agreement.n:,}"),
            )
            for name, part in metrics.surroundings.items()
        ),
        "At a change: the true stage of the epoch before or after, in the same recording, is another one. "
        f"Sparse: less than {SPARSE:.0%} of the epochs that features know of are among these.",
    )


def calibration_table(metrics: Metrics) -> Table:
    """Return how well the probabilities keep what they promise."""
    c = metrics.calibration
    rows = () if c is None else (
        (Cell("Expected calibration error"), cell(c.ece, c.ece_interval)),
        (Cell("Brier score (0 to 2)"), cell(c.brier)),
        (Cell("Negative log-likelihood [nats]"), cell(c.nll)),
        (Cell("Accuracy of the likeliest stage"), cell(c.accuracy)),
        text_row(("Answer is not the likeliest stage", counted(c.differing, c.n))),
    )  # fmt: skip
    return Table(
        "calibration",
        "Calibration",
        ("", "Model"),
        rows,
        f"Over {c.n:,} epochs with probabilities; {len(c.bins)} bins of equal width." if c else "",
    )


def reliability_table(metrics: Metrics) -> Table:
    """Return, by certainty, how often the likeliest stage was right."""
    bins = metrics.calibration.bins if metrics.calibration else ()
    return Table(
        "reliability",
        "Reliability",
        ("Certainty", "Mean certainty", "Right", "Epochs"),
        tuple(
            text_row(
                (
                    f"{b.low:.2f} to {b.high:.2f}",
                    figure(b.certainty),
                    figure(b.accuracy),
                    f"{b.n:,}",
                )
            )
            for b in bins
            if b.n
        ),
        "A model that keeps its promises is right as often as it is certain.",
    )


def coverage_table(metrics: Metrics) -> Table:
    """Return what is gained where the least certain epochs go to a human."""
    return Table(
        "coverage",
        "Least certain epochs to a human",
        ("To a human", "κ of the rest", "Accuracy", "κ together", "Least certainty"),
        tuple(
            (
                Cell(percent(p.to_human)),
                cell(p.kappa, p.kappa_interval),
                cell(p.accuracy),
                cell(p.kappa_together),
                cell(p.certainty),
            )
            for p in metrics.coverage
        ),
        "Together: the human is taken to score as the label does. Unreadable answers go first.",
    )


def group_tables(metrics: Metrics) -> tuple[Table, Table]:
    """Return the figures of each subject, and of each recording where that is not the same."""
    nights = metrics.per_night if len(metrics.per_night) != len(metrics.per_subject) else {}
    return (
        _group_table("subjects", "Per subject", "Subject", metrics.per_subject),
        _group_table("nights", "Per night", "Recording", nights),
    )


def _group_table(key: str, title: str, name: str, groups: dict[str, Agreement]) -> Table:
    return Table(
        key,
        title,
        (name, "Accuracy", "Macro-F1", "κ", "Balanced", "Epochs"),
        tuple(
            (
                Cell(who),
                *cells_of(score, ("accuracy", "macro_f1", "kappa", "balanced_accuracy")),
                Cell(f"{score.n:,}"),
            )
            for who, score in groups.items()
        ),
    )
