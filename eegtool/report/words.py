"""The report's plain sentences: how it was measured, what was counted, what to beware of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from eegtool.report.metrics import UNREADABLE, Metrics
from eegtool.report.tables import counted, percent

_NOT_RECORDED: Final = "not recorded"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a reader must know before the figures."""

    level: Literal["warning", "note"]
    text: str


def protocol_sentences(metrics: Metrics) -> tuple[str, ...]:
    """Say in plain language what was measured on what, and what the answers do not record."""
    p = metrics.protocol
    low, high = _shown(p.get("low_hz")), _shown(p.get("high_hz"))
    margin = _shown(p.get("wake_margin_min"))
    band = _NOT_RECORDED if _NOT_RECORDED in (low, high) else f"{low}–{high} Hz"
    wake = (
        f"wake rule {_NOT_RECORDED}"
        if margin == _NOT_RECORDED
        else f"wake kept to {margin} min before and after sleep"
    )
    subjects = len(metrics.per_subject)
    nameless = metrics.n - sum(score.n for score in metrics.per_subject.values())
    of_subjects = f" of {_plural(subjects, 'subject')}" if subjects else ""
    if nameless:
        of_subjects += f" ({nameless:,} of them name no subject)"
    return (
        f"Signal: channel {_shown(p.get('channel'))}, band-pass {band}, {wake}; "
        f"split {_shown(p.get('split'))}.",
        f"Question: picture style {_shown(p.get('style'))}, template {_shown(p.get('template'))}.",
        f"Model: {metrics.model_id or 'unnamed'}; base model {_shown(p.get('base'))}, "
        f"fusion {_shown(p.get('fusion'))}, high-level features {_shown(metrics.features)}.",
        f"Figures are pooled over {_plural(metrics.n, 'epoch')}{of_subjects}, not averaged over nights.",
    )


def protocol_facts(metrics: Metrics) -> tuple[tuple[str, str], ...]:
    """Return the protocol as it was recorded, name by name."""
    return tuple((name, _shown(value)) for name, value in metrics.protocol.items())


def counting_sentences(metrics: Metrics) -> tuple[str, ...]:
    """Say how unreadable answers and epochs without a label were counted."""
    unreadable = (
        f"{counted(metrics.unreadable, metrics.n)} of the answers name no stage, or several without "
        "a conclusion. They count as wrong in every figure and form an answer of their own in κ and "
        "in the confusion matrix; none is dropped."
        if metrics.unreadable
        else "Every answer could be read. One that cannot counts as wrong in every figure."
    )
    unlabelled = (
        f"{_plural(metrics.unlabelled, 'epoch')} without a true stage "
        f"{'is' if metrics.unlabelled == 1 else 'are'} left out of the figures."
    )
    return (unreadable, unlabelled) if metrics.unlabelled else (unreadable,)


def notices(metrics: Metrics) -> tuple[Notice, ...]:
    """Return what must stand above the figures."""
    found = []
    if metrics.one_sided:
        same = metrics.most_common_answer
        answers = same if same == UNREADABLE else f"'{same}'"
        found.append(
            Notice(
                "warning",
                f"{percent(metrics.most_common_answer_share)} of the answers are {answers}. "
                "Such a model has most likely not looked at the pictures: check the template, and "
                "what it was trained on.",
            )
        )
    if metrics.features not in (None, "real"):
        found.append(
            Notice("warning", f"Sanity run: the high-level features are {metrics.features}.")
        )
    if _any_true(metrics.protocol.get("simulated")):
        some = "Some of these are" if _is_mixed(metrics.protocol["simulated"]) else "These are"
        found.append(
            Notice("note", f"{some} simulated recordings: no figure here is about a real night.")
        )
    return tuple(found)


def _shown(value: Any) -> str:
    if value is None or value in ("", []):
        return _NOT_RECORDED
    if isinstance(value, list):
        return ", ".join(_shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _any_true(value: Any) -> bool:
    return any(value) if isinstance(value, list) else bool(value)


def _is_mixed(value: Any) -> bool:
    return isinstance(value, list) and not all(value)
