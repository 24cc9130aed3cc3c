"""What was run: the model, its features and the protocol, gathered from the metadata of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from eegtool.core.records import Answer
from eegtool.report.reading.plain import plain_text, plain_value

_HOW: Final = (
    *("adapter_sha256", "mode", "conv_mode", "decoding", "calibration_temperature"),
    *("calibration_offsets", "calibration_subjects", "calibrated_on"),
    *("decide_for", "decision_offsets"),
)
"""What the rows say beside the protocol about how the answers were got."""

_DECIDED: Final = ("calibration_subjects", "decide_for")
"""What of it puts one stage in front of another, whatever the model has learnt."""

COMPARED_ON: Final = (
    *("cohort", "simulated", "channel", "low_hz", "high_hz", "notch_hz", "resample_hz"),
    *("wake_margin_min", "mapping", "split", "split_sha256", "eval_subjects"),
)
"""What makes two runs comparable: the signal, the epochs and the subjects. Style, template, base, adapter
and fusion are what runs are compared for."""


@dataclass(frozen=True, slots=True)
class Run:
    """How the answers came about, as far as they say it.

    Attributes
    ----------
    model_id : str
        Model that answered.
    features : str or None
        ``"real"``, ``"shuffled"`` or ``"zero"``; None where no answer says it.
    protocol : dict
        What decides which epochs and pictures there are. A key on which the rows differ holds the
        list of its values.
    how : dict
        How the answers were got: adapter, mode, decoding; in the same form.
    """

    model_id: str
    features: str | None
    protocol: dict[str, Any]
    how: dict[str, Any] = field(default_factory=dict)

    def differs_in(self, other: Run) -> tuple[str, ...]:
        """Name what keeps two runs from being ranked; what either does not say is not compared."""
        both = [k for k in COMPARED_ON if k in self.protocol and k in other.protocol]
        found: list[str] = [k for k in both if self.protocol[k] != other.protocol[k]]
        aims = {str(run.how["decide_for"]) for run in (self, other) if "decide_for" in run.how}
        # Two models are ranked if they were to reach the same; one model, decided in two ways, is.
        if len(aims) > 1 and self.how.get("adapter_sha256") != other.how.get("adapter_sha256"):
            found.append("decide_for")
        return tuple(found)

    def decided_otherwise(self, other: Run) -> tuple[str, ...]:
        """Name in what two scored runs were calibrated or decided otherwise; others decide nothing."""
        if "decide_for" not in self.how or "decide_for" not in other.how:
            return ()
        return tuple(k for k in _DECIDED if self.how.get(k) != other.how.get(k))


class RunGatherer:
    """Gathers what the answers say about the run that made them, one by one."""

    def __init__(self) -> None:
        self._distinct: dict[str, dict[str, Any]] = {}
        self._last: dict[str, Any] = {}

    def add(self, answer: Answer) -> None:
        """Take note of one answer."""
        metadata, protocol = answer.metadata, answer.metadata.get("protocol")
        said = {
            "model": answer.model_id,
            "features": metadata.get("features"),
            "how": {name: metadata[name] for name in _HOW if metadata.get(name) is not None},
            "protocol": protocol if isinstance(protocol, dict) else {},
        }
        if said != self._last:  # nearly always all rows say the same
            self._last = said
            self._distinct.setdefault(json.dumps(said, sort_keys=True), said)

    def run(self) -> Run:
        """Return what was gathered."""
        models, features, how, protocols = (
            [said[name] for said in self._distinct.values()]
            for name in ("model", "features", "how", "protocol")
        )
        return Run(_joined(models), _joined(features) or None, _merged(protocols), _merged(how))


def _joined(names: Iterable[Any]) -> str:
    return ", ".join(sorted({plain_text(name) for name in names if name is not None}))


def _merged(distinct: Iterable[dict[str, Any]]) -> dict[str, Any]:
    values: dict[str, list[Any]] = {}
    for protocol in distinct:
        for key, value in plain_value(protocol).items():
            seen = values.setdefault(key, [])
            if value not in seen:
                seen.append(value)
    return {key: seen[0] if len(seen) == 1 else seen for key, seen in values.items()}
