"""The tables beyond the figures of one run: comparisons, sleep statistics, faithfulness, literature."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eegtool.report.measures.compare import Comparison
from eegtool.report.measures.findings import Findings
from eegtool.report.measures.metrics import Metrics
from eegtool.report.measures.sleep import STATISTICS
from eegtool.report.showing import contents
from eegtool.report.showing.tables import (
    NOTHING,
    Cell,
    Table,
    cell,
    cells_of,
    counted,
    figure,
    percent,
    signed_span,
    text_row,
)


def all_tables(metrics: Metrics, findings: Findings) -> tuple[Table, ...]:
    """Return all tables of a report in their order; one without rows is left out."""
    tables = (
        contents.summary_table(metrics),
        contents.counts_table(metrics),
        contents.stage_table(metrics),
        contents.confusion_table(metrics),
        contents.surroundings_table(metrics),
        contents.calibration_table(metrics),
        contents.reliability_table(metrics),
        contents.coverage_table(metrics),
        *(comparison_table(c, f"comparison_{i}") for i, c in enumerate(findings.comparisons, 1)),
        review_table(findings),
        scorers_table(findings),
        pairs_table(findings),
        faithfulness_table(findings),
        sleep_table(findings),
        night_sleep_table(findings),
        *contents.group_tables(metrics),
        # Nor is a part of the split's epochs the split.
        *([] if findings.missing else [literature_table(metrics.protocol)]),
    )
    return tuple(table for table in tables if table.rows)


def comparison_table(comparison: Comparison, key: str = "comparison") -> Table:
    """Return another run beside the first one, with differences where they may be ranked."""
    c = comparison
    rows = []
    if c.first_agreement and c.other_agreement:
        for name, title in contents.FIGURE_NAMES.items():
            difference = c.differences.get(name)
            rows.append(
                (
                    Cell(title),
                    cell(getattr(c.first_agreement, name)),
                    cell(getattr(c.other_agreement, name)),
                    Cell(figure(difference.value, "+.3f"), signed_span(difference.interval))
                    if difference
                    else Cell("not ranked"),
                )
            )
    return Table(
        key,
        f"{c.other} beside {c.first}",
        ("", c.first, c.other, "Difference"),
        tuple(rows),
        " ".join(_comparison_notes(c)),
    )


def _comparison_notes(c: Comparison) -> list[str]:
    notes = [f"{c.n:,} labelled epochs that both have answered"]
    left = [
        f"{n:,} only in {name}"
        for n, name in ((c.only_first, c.first), (c.only_other, c.other))
        if n
    ]
    notes[0] += f" ({', '.join(left)})." if left else "."
    if c.differs_in:
        return [*notes, f"Not ranked: the protocols differ in {', '.join(c.differs_in)}."]
    notes.append(f"Difference: {c.other} less {c.first}, 95 % interval below.")
    if c.mcnemar:
        notes.append(
            f"Only {c.first} right: {c.mcnemar.only_first_right:,}; only {c.other}: "
            f"{c.mcnemar.only_other_right:,}; exact McNemar p {p_value(c.mcnemar.p)} (takes epochs for "
            "independent: too small)."
        )
    if c.wilcoxon:
        notes.append(
            f"Wilcoxon over {c.wilcoxon.subjects} subjects (accuracy): median difference "
            f"{figure(c.wilcoxon.median_difference, '+.3f')}, p {p_value(c.wilcoxon.p)}."
        )
    else:
        notes.append("Too few subjects (or no difference) for Wilcoxon's test.")
    return notes


def p_value(p: float) -> str:
    """Return a p value with its sign of equality."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def review_table(findings: Findings) -> Table:
    """Return what reviews took and gave."""
    return Table(
        "reviews",
        "What the review gave",
        (*("Recording", "Reviewed", "Changed", "Min.", "Before", "After", "Expected", "Model"),),
        tuple(
            (
                Cell(r.recording, r.reviewer),
                Cell(f"{r.reviewed:,}", percent(r.reviewed / r.n)),
                Cell(f"{r.corrected:,}"),
                Cell(figure(r.minutes, ".1f")),
                cell(r.before),
                cell(r.after, r.after_interval),
                cell(r.expected),
                cell(r.unchanged),
            )
            for r in findings.reviews
        ),
        "Before, after: κ of the model and of the reviewed stages with the label. Expected: κ that the coverage curve "
        "promises where this share of the epochs, the least certain ones, goes to a human who scores as the "
        "label does. Model: its κ with the reviewed stages. Minutes: between decisions, pauses above two minutes left out.",
    )


def scorers_table(findings: Findings) -> Table:
    """Return the model against each scorer and against what most of them say."""
    s = findings.scorers
    soft = "" if s is None or s.soft_agreement is None else (
        f" Probabilities against the scorers' shares: mean cosine {figure(s.soft_agreement)} (Fiorillo et al. 2023)."
    )  # fmt: skip
    return Table(
        "scorers",
        "The model against each scorer",
        ("Scorer", "κ", "Accuracy", "Macro-F1", "Epochs"),
        tuple(
            (
                Cell(name),
                *cells_of(one.agreement, ("kappa", "accuracy", "macro_f1"), one.intervals),
                Cell(f"{one.agreement.n:,}"),
            )
            for name, one in (s.model.items() if s else ())
        ),
        f"Consensus: what most say where two or more have scored; {s.ties if s else 0:,} ties are left out.{soft}",
    )


def pairs_table(findings: Findings) -> Table:
    """Return the agreement of every two scorers."""
    return Table(
        "pairs",
        "Scorers among themselves",
        ("Scorer", "And", "κ", "Epochs"),
        tuple(
            (Cell(p.first), Cell(p.other), cell(p.kappa), Cell(f"{p.n:,}"))
            for p in (findings.scorers.pairs if findings.scorers else ())
        ),
        "Cohen's κ over the epochs that both staged.",
    )


def faithfulness_table(findings: Findings) -> Table:
    """Return how many claims of each kind are true of what was measured."""
    f = findings.faithfulness
    if f is None:
        return Table("faithfulness", "Claims against the signal", ("",), ())
    total = sum(score.claims for score in f.kinds.values())
    rows = [
        (
            Cell(kind.replace("_", " ")),
            Cell(figure(score.true / score.claims)),
            Cell(f"{score.true:,}"),
            Cell(f"{score.claims:,}"),
        )
        for kind, score in f.kinds.items()
    ]
    whole = sum(score.true for score in f.kinds.values())
    rows.append((Cell("all"), cell(f.share, f.interval), Cell(f"{whole:,}"), Cell(f"{total:,}")))
    return Table(
        "faithfulness",
        "Claims against the signal",
        ("Claim", "Share true", "True", "Claims"),
        tuple(rows),
        f"{counted(f.with_claims, f.epochs)} of the measured epochs have an answer that claims something. "
        "True: as prepare measured it, its number within half of the last digit quoted.",
    )


def sleep_table(findings: Findings) -> Table:
    """Return bias and limits of agreement of the sleep statistics."""
    deviations = findings.sleep_deviations or {}
    nights = sorted({d.nights for d in deviations.values()})
    return Table(
        "sleep",
        "Sleep statistics: answered less scored",
        ("", "Scored", "Bias", "Limits of agreement", "Nights"),
        tuple(
            (
                Cell(*STATISTICS[name]),
                Cell(figure(d.true_mean, ".1f")),
                Cell(figure(d.bias, "+.1f")),
                Cell(
                    f"{figure(d.low, '+.1f')} to {figure(d.high, '+.1f')}"
                    if d.nights > 1
                    else NOTHING
                ),
                Cell(f"{d.nights}"),
            )
            for name, d in deviations.items()
        ),
        "From lights off to lights on where that is known, else over what was answered. Scored: mean. Limits: bias ± 1.96 standard "
        "deviations over nights (Bland & Altman)"
        + (", far too uncertain with so few nights." if nights and nights[-1] < 10 else "."),
    )


def night_sleep_table(findings: Findings) -> Table:
    """Return the sleep statistics of each night, scored below answered."""
    names = (
        *("tib_min", "tst_min", "se_percent", "sol_min", "waso_min", "rem_latency_min"),
        "cycles",
    )
    rows = []
    for night in findings.sleep_statistics:
        cells = [
            Cell(
                figure(night.predicted[name], ".1f"),
                "" if night.true is None else figure(night.true[name], ".1f"),
            )
            for name in names
        ]
        rows.append((Cell(night.recording), *cells))
    scored = any(night.true for night in findings.sleep_statistics)
    return Table(
        "sleep_nights",
        "Sleep statistics of each night",
        ("Recording", "TIB", "TST", "SE [%]", "SOL", "WASO", "REM lat.", "Cycles"),
        tuple(rows),
        ("Answered, and scored below. " if scored else "")
        + "In minutes: TIB time in bed, from lights off to lights on where that is known, else what was "
        "answered; TST total sleep time, SE sleep efficiency, SOL sleep onset latency, WASO wake after "
        "sleep onset, REM lat. from sleep onset. All in metrics.json.",
    )


def literature_table(protocol: Mapping[str, Any]) -> Table:
    """Return published figures of the very protocol of a run; no rows if it has none, or differs from it."""
    name = "" if protocol.get("protocol_differs") else protocol.get("protocol")
    rows = []
    with Path(__file__).with_name("literature.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not name or row["same_as"] != name:
                continue
            second = " †" if row["source"] == "second-hand" else ""
            how = f"{row['input']}; {row['protocol']}; {row['unit']}"
            figures = [row[key] or NOTHING for key in ("accuracy", "macro_f1", "kappa")]
            rows.append((Cell(row["work"] + second, how), *text_row([row["data"], *figures])))
    return Table(
        "literature",
        f"Published under the same protocol ({name}), not measured here",
        ("Work", "Data", "Acc.", "MF1", "κ"),
        tuple(rows),
        f"Over all folds, where there are folds; this run: {protocol.get('split')}. Channel and unit must be the "
        "same, too. † second-hand: taken from lists, not from the authors.",
    )
