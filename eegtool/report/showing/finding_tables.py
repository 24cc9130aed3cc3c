"""The tables beyond the figures of one run: comparisons, sleep statistics, faithfulness, literature."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eegtool.report.measures.compare import Comparison
from eegtool.report.measures.findings import Findings
from eegtool.report.measures.metrics import Metrics
from eegtool.report.measures.scorers import Scorers
from eegtool.report.measures.sleep import STATISTICS
from eegtool.report.showing.contents import (
    FIGURE_NAMES,
    agreement_table,
    group_tables,
    run_tables,
)
from eegtool.report.showing.tables import (
    NOTHING,
    Cell,
    Table,
    Value,
    cell,
    counted,
    figure,
    percent,
    span,
    table,
)


def all_tables(metrics: Metrics, findings: Findings, *, is_part: bool = False) -> tuple[Table, ...]:
    """Return all tables of a report in their order; one without rows is left out.

    Of a part of the split's epochs nothing published is listed: it is not the split.
    """
    tables = (
        *run_tables(metrics),
        *(_comparison(c, f"comparison_{i}") for i, c in enumerate(findings.comparisons, 1)),
        _reviews(findings),
        *(_scorers(findings.scorers) if findings.scorers else ()),
        _faithfulness(findings),
        _sleep(findings),
        _sleep_of_nights(findings),
        *group_tables(metrics),
        *([] if is_part else [literature_table(metrics.protocol)]),
    )
    return tuple(table for table in tables if table.rows)


def _comparison(c: Comparison, key: str) -> Table:
    """Return another run beside the first one, with differences where they may be ranked."""
    rows = []
    for name, title in FIGURE_NAMES.items() if c.n else ():
        found = c.differences.get(name)
        difference = (
            Cell(figure(found.value, "+.3f"), span(found.interval, "+.3f"))
            if found
            else "not ranked"
        )
        both = (getattr(one, name) for one in (c.first_agreement, c.other_agreement))
        rows.append((title, *both, difference))
    notes = " ".join(_comparison_notes(c))
    return table(
        key, f"{c.other} beside {c.first}", ("", c.first, c.other, "Difference"), rows, notes
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
            f"{c.mcnemar.only_other_right:,}; exact McNemar p {_p_value(c.mcnemar.p)} (takes epochs for "
            "independent: too small)."
        )
    if c.wilcoxon:
        notes.append(
            f"Wilcoxon over {c.wilcoxon.subjects} subjects (accuracy): median difference "
            f"{figure(c.wilcoxon.median_difference, '+.3f')}, p {_p_value(c.wilcoxon.p)}."
        )
    else:
        notes.append("Too few subjects (or no difference) for Wilcoxon's test.")
    return notes


def _p_value(p: float) -> str:
    """Return a p value with its sign of equality."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _reviews(findings: Findings) -> Table:
    """Return what reviews took and gave."""
    rows = (
        (
            Cell(r.recording, r.reviewer),
            Cell(f"{r.reviewed:,}", percent(r.reviewed / r.n)),
            r.corrected,
            figure(r.minutes, ".1f"),
            r.before,
            cell(r.after, r.after_interval),
            r.expected,
            r.unchanged,
        )
        for r in findings.reviews
    )
    return table(
        "reviews",
        "What the review gave",
        ("Recording", "Reviewed", "Changed", "Min.", "Before", "After", "Expected", "Model"),
        rows,
        "Before, after: κ of the model and of the reviewed stages with the label. Expected: κ that the coverage curve "
        "promises where this share of the epochs, the least certain ones, goes to a human who scores as the "
        "label does. Model: its κ with the reviewed stages. Minutes: between decisions, pauses above two minutes left out.",
    )


def _scorers(s: Scorers) -> tuple[Table, Table]:
    """Return the model against each scorer and what most of them say, and every two scorers."""
    soft = "" if s.soft_agreement is None else (
        f" Probabilities against the scorers' shares: mean cosine {figure(s.soft_agreement)} (Fiorillo et al. 2023)."
    )  # fmt: skip
    against = agreement_table(
        "scorers",
        "The model against each scorer",
        ("Scorer", "kappa", "accuracy", "macro_f1"),
        ((name, one.agreement, one.intervals) for name, one in s.model.items()),
        f"Consensus: what most say where two or more have scored; {s.ties:,} ties are left out.{soft}",
    )
    pairs = ((p.first, p.other, p.kappa, p.n) for p in s.pairs)
    title, columns = "Scorers among themselves", ("Scorer", "And", "κ", "Epochs")
    return against, table(
        "pairs", title, columns, pairs, "Cohen's κ over the epochs that both staged."
    )


def _faithfulness(findings: Findings) -> Table:
    """Return how many claims of each kind are true of what was measured."""
    rows: list[Sequence[Value]] = []
    note = ""
    if f := findings.faithfulness:
        rows += [
            (k.replace("_", " "), s.true / s.claims, s.true, s.claims) for k, s in f.kinds.items()
        ]
        true, claims = (sum(getattr(s, k) for s in f.kinds.values()) for k in ("true", "claims"))
        rows.append(("all", cell(f.share, f.interval), true, claims))
        rows.append(("all, of another epoch", f.elsewhere, None, claims))
        if f.rules is not None:
            rows.append(
                ("rules cited and holding, overlap", cell(f.rules, f.rules_interval), None, None)
            )
        note = (
            f"{counted(f.with_claims, f.epochs)} of the measured epochs have an answer that claims something. "
            "True: as prepare measured it, within what two scorers would call the same. Of another epoch: the same "
            "claims held against an epoch elsewhere. Overlap: intersection over union of the rules cited and those "
            "that hold by what was measured."
        )
    columns = ("Claim", "Share true", "True", "Claims")
    return table("faithfulness", "Claims against the signal", columns, rows, note)


def _sleep(findings: Findings) -> Table:
    """Return bias and limits of agreement of the sleep statistics."""
    few = all(d.nights < 10 for d in findings.sleep_deviations.values())
    rows = (
        (
            Cell(*STATISTICS[name][:2]),
            figure(d.true_mean, ".1f"),
            figure(d.bias, "+.1f"),
            NOTHING if d.low is None or d.high is None else span((d.low, d.high), "+.1f"),
            d.nights,
        )
        for name, d in findings.sleep_deviations.items()
    )
    return table(
        "sleep",
        "Sleep statistics: answered less scored",
        ("", "Scored", "Bias", "Limits of agreement", "Nights"),
        rows,
        "From lights off to lights on where that is known, else over what was answered. Scored: mean. Limits: bias ± 1.96 standard "
        "deviations over nights (Bland & Altman)"
        + (", far too uncertain with so few nights." if few else "."),
    )


def _sleep_of_nights(findings: Findings) -> Table:
    """Return the sleep statistics of each night, scored below answered."""
    columns = {
        **{"tib_min": "TIB", "tst_min": "TST", "se_percent": "SE [%]", "sol_min": "SOL"},
        **{"waso_min": "WASO", "rem_latency_min": "REM lat.", "cycles": "Cycles"},
    }
    nights = findings.sleep_statistics
    rows: list[Sequence[Value]] = []
    for night in nights:
        said, true = night.predicted, night.true
        cells = (
            Cell(figure(said[k], ".1f"), figure(true[k], ".1f") if true else "") for k in columns
        )
        rows.append((night.recording, *cells))
    return table(
        "sleep_nights",
        "Sleep statistics of each night",
        ("Recording", *columns.values()),
        rows,
        ("Answered, and scored below. " if any(night.true for night in nights) else "")
        + "In minutes: TIB time in bed, from lights off to lights on where that is known, else what was "
        "answered; TST total sleep time, SE sleep efficiency, SOL sleep onset latency, WASO wake after "
        "sleep onset, REM lat. from sleep onset. All in metrics.json.",
    )


def literature_table(protocol: Mapping[str, Any]) -> Table:
    """Return published figures of the very protocol of a run; no rows if it has none, or differs from it."""
    name = "" if protocol.get("protocol_differs") else protocol.get("protocol")
    with Path(__file__).with_name("literature.csv").open(encoding="utf-8", newline="") as file:
        works = [row for row in csv.DictReader(file) if name and row["same_as"] == name]
    rows = []
    for work in works:
        second = " †" if work["source"] == "second-hand" else ""
        how = f"{work['input']}; {work['protocol']}; {work['unit']}"
        figures = (work[key] or NOTHING for key in ("accuracy", "macro_f1", "kappa"))
        rows.append((Cell(work["work"] + second, how), work["data"], *figures))
    return table(
        "literature",
        f"Published under the same protocol ({name}), not measured here",
        ("Work", "Data", "Acc.", "MF1", "κ"),
        rows,
        f"Over all folds, where there are folds; this run: {protocol.get('split')}. Channel and unit must be the "
        "same, too. † second-hand: taken from lists, not from the authors.",
    )
