"""The report's plain sentences: how it was measured, what was counted, what to beware of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from eegtool.core.probabilities import AIMS
from eegtool.report.measures.intervals import BLOCK_MIN, FEWEST, Basis
from eegtool.report.measures.metrics import UNREADABLE, Metrics
from eegtool.report.reading.joins import Known
from eegtool.report.showing.data import ReportData
from eegtool.report.showing.tables import counted, percent

_NOT_RECORDED: Final = "not recorded"
_SHOWN_IDS: Final = 5
_FITTED: Final = ("temperature", "offsets", "subjects")
_NAMED: Final = (
    *("channel", "low_hz", "high_hz", "wake_margin_min", "split", "style", "template"),
    *("base", "fusion"),
)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a reader must know before the figures."""

    level: Literal["warning", "note"]
    text: str


def protocol_sentences(metrics: Metrics, known: Known) -> tuple[str, ...]:
    """Say in plain language what was measured on what, and what the answers do not record."""
    p = {name: _shown(metrics.protocol.get(name)) for name in _NAMED}
    band = f"{p['low_hz']}–{p['high_hz']} Hz"
    wake = f"wake kept to {p['wake_margin_min']} min before and after sleep"
    if p["wake_margin_min"] == _NOT_RECORDED:
        wake = f"wake rule {_NOT_RECORDED}"
    subjects = len(metrics.per_subject)
    nameless = metrics.n - sum(score.n for score in metrics.per_subject.values())
    of_subjects = f" of {_plural(subjects, 'subject')}" if subjects else ""
    if nameless:
        of_subjects += f" ({nameless:,} of them name no subject)"
    return (
        f"Signal: channel {p['channel']}, band-pass "
        f"{_NOT_RECORDED if _NOT_RECORDED in band else band}, {wake}; split {p['split']}.",
        f"Question: picture style {p['style']}, template {p['template']}.",
        f"Model: {metrics.model_id or 'unnamed'}; base model {p['base']}, "
        f"fusion {p['fusion']}, high-level features {_shown(metrics.features)}.",
        f"Figures are pooled over {_plural(metrics.n, 'epoch')}{of_subjects}, not averaged over nights."
        if metrics.n
        else f"{_plural(metrics.answered, 'epoch')} answered, none with a true stage.",
        *_calibration_sentences(metrics, known),
        *_kept_sentences(known),
    )


def _calibration_sentences(metrics: Metrics, known: Known) -> Iterator[str]:
    """Say on whom probabilities were calibrated, and what stages were decided for."""
    if "calibration_temperature" in metrics.how:
        yield f"Stages: {_decision(metrics.how)}."
    if module := known.module_calibration:
        renamed = {f"calibration_{name}": module.get(name) for name in _FITTED}
        yield f"The vision module alone: {_decision({**module, **renamed})}."


def _decision(how: Mapping[str, Any]) -> str:
    """Return how scores became probabilities and stages."""
    temperature, offsets, subjects = (how.get(f"calibration_{name}") for name in _FITTED)
    of_offsets = f", offsets {_shown(offsets)}" if offsets else ""
    found = f"calibrated on {_shown(subjects)} (temperature {_shown(temperature)}{of_offsets})"
    if not (subjects or offsets or temperature != 1):
        found = "not calibrated"
    aim = how.get("decide_for")
    if aim is None:
        return found
    aims = [AIMS.get(_shown(a), _shown(a)) for a in (aim if isinstance(aim, list) else [aim])]
    moved = how.get("decision_offsets")
    by = f", offsets {_shown(moved)}" if moved else ""
    return f"{found}; decided for {' or '.join(aims)}{by}"


def _kept_sentences(known: Known) -> Iterator[str]:
    if kept := known.kept:
        numbers = [f"{n:,} {kind}" for kind, n in sorted(kept.dropped.items()) if n]
        yield (
            f"Epochs of {_plural(kept.recordings, 'recording')}: {kept.kept:,} kept; dropped: "
            f"{', '.join(numbers) or 'none'}; {kept.trimmed:,} cut off as wake far from sleep."
        )


def protocol_facts(metrics: Metrics, known: Known) -> list[tuple[str, str]]:
    """Return the protocol as it was recorded, name by name."""
    stated = {**metrics.protocol, **metrics.how, "features": metrics.features}
    facts = [(name, _shown(value)) for name, value in stated.items()]
    facts.append(("unit", "pooled over epochs" if metrics.n else "none scored"))
    if kept := known.kept:
        facts.append(("epochs kept", f"{kept.kept:,}"))
        facts.append(("epochs trimmed as wake", f"{kept.trimmed:,}"))
        facts += [(f"epochs dropped: {k}", f"{n:,}") for k, n in kept.dropped.items()]
    return facts


def counting_sentences(metrics: Metrics) -> tuple[str, ...]:
    """Say how unreadable answers and epochs without a label were counted."""
    count = counted(metrics.unreadable, metrics.n or metrics.answered)
    read = "Every answer could be read."
    if not metrics.n:
        if metrics.unreadable:
            read = f"{count} of the answers name no stage."
        return read, "No epoch has a true stage: there are sleep statistics and hypnograms only."
    read += " One that cannot counts as wrong in every figure."
    if metrics.unreadable:
        read = (
            f"{count} of the answers name no stage, or several without "
            "a conclusion. They count as wrong in every figure and form an answer of their own in κ and "
            "in the confusion matrix; none is dropped."
        )
    intervals = interval_sentence(metrics.intervals.basis)
    if not metrics.unlabelled:
        return read, intervals
    left = f"{_plural(metrics.unlabelled, 'epoch')} without a true stage"
    be = "is" if metrics.unlabelled == 1 else "are"
    return read, f"{left} {be} left out of the figures.", intervals


def interval_sentence(basis: Basis) -> str:
    """Say what the intervals rest on, or why there are none."""
    if basis.unit == "subjects":
        return (
            f"Intervals: 95 %, bootstrap over {basis.units} subjects ({basis.draws:,} draws, seed "
            f"{basis.seed}), its standard error times Student's t."
        )
    if basis.unit == "blocks":
        return (
            f"Intervals: 95 %, bootstrap over {basis.units} blocks of {BLOCK_MIN} min, since there "
            f"are fewer than {FEWEST} subjects: they hold for these subjects, and say nothing about the next."
        )
    if not basis.draws:
        return "No intervals: --draws 0."
    return f"No intervals: fewer than {FEWEST} subjects, and fewer than {FEWEST} blocks of {BLOCK_MIN} min."


def notices(data: ReportData) -> tuple[Notice, ...]:
    """Return what must stand above the figures."""
    warnings = (*_of_the_run(data.metrics), *_of_the_file(data))
    return (
        *(Notice("warning", text) for text in warnings),
        *(Notice("note", text) for text in _notes(data)),
    )


def _of_the_run(metrics: Metrics) -> Iterator[str]:
    """Yield what makes its figures doubtful."""
    if metrics.one_sided:
        same = metrics.most_common_answer
        answers = same if same == UNREADABLE else f"'{same}'"
        yield (
            f"{percent(metrics.most_common_answer_share)} of the answers are {answers}. "
            "Such a model has most likely not looked at the pictures: check the template, and "
            "what it was trained on."
        )
    if metrics.how.get("calibrated_on"):
        fitted = _names(metrics.how.get("calibration_subjects")) & set(metrics.per_subject)
        whose = ", ".join(sorted(fitted)) or "some of these subjects"
        yield (
            f"The calibration was fitted on {whose}: figures that count them look better than the "
            "model is."
        )
    if metrics.features not in (None, "real"):
        yield f"Sanity run: the high-level features are {metrics.features}."


def _of_the_file(data: ReportData) -> Iterator[str]:
    """Yield what is wrong with the answers file, the workspace or the comparison."""
    answers, missing = data.answers, data.known.missing
    if answers.siblings > 1:
        yield (
            f"{answers.siblings} models have answered in this file. They are kept apart: the figures "
            f"are those of {answers.name}, the others are compared with it."
        )
    if answers.broken_line:
        yield (
            f"The last line of the answers file is broken and left out ({answers.broken_line}). All "
            "others are used."
        )
    yield from (f"{note}." for note in answers.label_notes)
    if missing:
        shown = ", ".join(missing[:_SHOWN_IDS])
        more = ", ... (all in metrics.json)" if len(missing) > _SHOWN_IDS else ""
        yield (
            f"{_plural(len(missing), 'question')} of the workspace "
            f"{'has' if len(missing) == 1 else 'have'} no answer here: {shown}{more}. "
            "They are in no figure."
        )
    if odd := answers.odd_probabilities:
        yield f"The probabilities of {_plural(len(odd), 'answer')} are left out; the first: {odd[0]}."
    for comparison in data.findings.comparisons:
        first, other = comparison.first, comparison.other
        if comparison.differs_in:
            yield (
                f"{other} was made under another protocol than {first} "
                f"({', '.join(comparison.differs_in)}): shown, not ranked."
            )
        elif comparison.decided_otherwise:
            yield (
                f"{other} was calibrated or decided otherwise than {first} "
                f"({', '.join(comparison.decided_otherwise)}): a difference may come from that alone."
            )
        elif not comparison.n:
            yield f"{other} and {first} have no labelled epoch in common."
    yield from data.known.problems


def _notes(data: ReportData) -> Iterator[str]:
    """Yield what is not wrong, and yet to be known."""
    if not_drawn := len(data.nights) - len(data.drawings):
        yield (
            f"{_plural(not_drawn, 'further recording')} not drawn; --hypnograms -1 draws all. "
            "Tables and exports have every one."
        )
    simulated = data.metrics.protocol.get("simulated")
    flags = simulated if isinstance(simulated, list) else [simulated]
    if any(flags):
        some = "These are" if all(flags) else "Some of these are"
        yield f"{some} simulated recordings: no figure here is about a real night."


def _shown(value: Any) -> str:
    if value is None or value in ("", []):
        return _NOT_RECORDED
    if isinstance(value, list):
        return ", ".join(_shown(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(
            f"{k} {v:+.2f}" if isinstance(v, float) else f"{k} {_shown(v)}"
            for k, v in value.items()
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _names(value: Any) -> set[str]:
    """Return the names in a list, or in lists of several runs."""
    parts = value if isinstance(value, list) else []
    return {str(n) for part in parts for n in (part if isinstance(part, list) else [part])}


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
