"""The tables of one run: its agreement with the scoring, calibration, coverage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.report.measures.metrics import NEAR, SPARSE, Agreement, Metrics
from eegtool.report.showing.tables import (
    NOTHING,
    Cell,
    Table,
    Value,
    cell,
    counted,
    figures_of,
    percent,
    table,
)

FIGURE_NAMES: Final = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro-F1",
    "kappa": "Cohen's κ",
    "weighted_f1": "Weighted F1",
    "mcc": "Matthews correlation",
    "balanced_accuracy": "Balanced accuracy",
}
_HEADS: Final = FIGURE_NAMES | {"kappa": "κ", "balanced_accuracy": "Balanced"}

_SURROUNDINGS: Final = {
    "transition": "At a change",
    "stable": "In between",
    "near": f"… a change within {NEAR * EPOCH_S / 60:g} min",
    "far": "… further away",
    "full": "Context is there",
    "sparse": "Context is sparse",
}


def run_tables(metrics: Metrics) -> list[Table]:
    """Return the tables of a run's own figures, in their order."""
    return [
        summary_table(metrics),
        _counts(metrics),
        _stages(metrics),
        confusion_table(metrics),
        agreement_table(
            "surroundings",
            "Transitions and stable sleep",
            ("", "accuracy", "macro_f1", "kappa"),
            (
                (_SURROUNDINGS[name], part.agreement, part.intervals)
                for name, part in metrics.surroundings.items()
            ),
            "At a change: the true stage of the epoch before or after, in the same recording, is another one. "
            f"Sparse: less than {SPARSE:.0%} of the epochs that features know of are among these.",
        ),
        *_probability_tables(metrics),
    ]


def summary_table(metrics: Metrics) -> Table:
    """Return the headline figures, each beside what it would be without looking at the signal."""
    chance = metrics.chance
    title = "Agreement with the scoring"
    if chance is None:
        return table("summary", title, (), ())
    at_random = {"accuracy": chance.random_accuracy, "kappa": 0.0, "mcc": 0.0}
    rows = []
    for key, name in FIGURE_NAMES.items():
        value, always = getattr(metrics, key), getattr(chance, key)
        gained = None if value is None or always == 1 else (value - always) / (1 - always)
        shown = cell(value, metrics.intervals.figures.get(key))
        rows.append((name, shown, always, at_random.get(key, ""), gained))
    return table(
        "summary",
        title,
        ("", "Model", f"Always {chance.stage}", "At random", "Gained"),
        rows,
        "Second lines: 95 % intervals. At random: answers drawn as often as the model gave them. Gained: "
        f"part of the way from always answering {chance.stage} to full agreement. Macro-F1: mean over "
        f"the stages that occur in the labels ({', '.join(metrics.macro_f1_stages)}).",
    )


def _counts(metrics: Metrics) -> Table:
    """Return how many epochs were answered and scored."""
    share = percent(metrics.most_common_answer_share)
    rows = (
        ("Epochs answered", metrics.answered),
        ("Epochs scored", metrics.n),
        ("Unreadable answers", counted(metrics.unreadable, metrics.n or metrics.answered)),
        ("Epochs without a label", metrics.unlabelled),
        (f"Commonest answer ({metrics.most_common_answer})", share),
    )
    return table("counts", "Epochs and answers", ("", "Epochs"), rows)


def _stages(metrics: Metrics) -> Table:
    """Return precision, recall, F1 and support of each stage."""
    names = ("precision", "recall", "f1")
    rows: list[Sequence[Value]] = [
        (stage, *figures_of(score, names, metrics.intervals.stages.get(stage)), score.support)
        for stage, score in metrics.per_stage.items()
    ]
    undefined = any(getattr(s, name) is None for s in metrics.per_stage.values() for name in names)
    note = f"{NOTHING} marks a quotient by zero: the stage was never answered, or is never true."
    columns = ("Stage", "Precision", "Recall", "F1", "Epochs")
    return table("stages", "Per stage", columns, rows, note if undefined else "")


def confusion_table(metrics: Metrics) -> Table:
    """Return the confusion matrix with counts and shares of each row."""
    rows: list[Sequence[Value]] = []
    for stage, counts in zip(STAGES, metrics.confusion if metrics.n else (), strict=False):
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
        rows.append([stage, *cells, total])
    return table(
        "confusion",
        "Confusion matrix",
        ("True", *metrics.confusion_labels, "epochs"),
        rows,
        "Rows: true stage. Columns: answer. Share of the row below each count.",
    )


def _probability_tables(metrics: Metrics) -> list[Table]:
    """Return how well probabilities keep what they promise, and what is gained by leaving some to a human."""
    found, c = [], metrics.calibration
    if c is not None:
        rows = (
            ("Expected calibration error", cell(c.ece, c.ece_interval)),
            ("Brier score (0 to 2)", c.brier),
            ("Negative log-likelihood [nats]", c.nll),
            ("Accuracy of the likeliest stage", c.accuracy),
            ("Answer is not the likeliest stage", counted(c.differing, c.n)),
        )
        note = f"Over {c.n:,} epochs with probabilities; {len(c.bins)} bins of equal width."
        found.append(table("calibration", "Calibration", ("", "Model"), rows, note))
        bins = [
            (f"{b.low:.2f} to {b.high:.2f}", b.certainty, b.accuracy, b.n) for b in c.bins if b.n
        ]
        columns = ("Certainty", "Mean certainty", "Right", "Epochs")
        note = "A model that keeps its promises is right as often as it is certain."
        found.append(table("reliability", "Reliability", columns, bins, note))
    points = (
        (
            percent(p.to_human),
            cell(p.kappa, p.kappa_interval),
            p.accuracy,
            p.kappa_together,
            p.certainty,
        )
        for p in metrics.coverage
    )
    over = table(
        "coverage",
        "Least certain epochs to a human",
        ("To a human", "κ of the rest", "Accuracy", "κ together", "Least certainty"),
        points,
        "Together: the human is taken to score as the label does. Unreadable answers go first.",
    )
    return [*found, over]


def group_tables(metrics: Metrics) -> list[Table]:
    """Return the figures of each subject, and of each recording where that is not the same."""
    nights = metrics.per_night if len(metrics.per_night) != len(metrics.per_subject) else {}
    return [
        agreement_table(
            key,
            title,
            (name, "accuracy", "macro_f1", "kappa", "balanced_accuracy"),
            ((who, agreement, {}) for who, agreement in groups.items()),
        )
        for key, title, name, groups in (
            ("subjects", "Per subject", "Subject", metrics.per_subject),
            ("nights", "Per night", "Recording", nights),
        )
    ]


def agreement_table(
    key: str,
    title: str,
    columns: Sequence[str],
    rows: Iterable[tuple[str, Agreement, Mapping[str, tuple[float, float] | None]]],
    note: str = "",
) -> Table:
    """Return named agreements, a row each: those figures that `columns` names, and their epochs."""
    figures = columns[1:]
    return table(
        key,
        title,
        (columns[0], *(_HEADS[name] for name in figures), "Epochs"),
        ((name, *figures_of(one, figures, intervals), one.n) for name, one, intervals in rows),
        note,
    )
