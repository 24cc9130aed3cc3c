"""What was run: the model, its features and the protocol, gathered from the metadata of the answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eegtool.core.records import Answer
from eegtool.report.plain import plain_text, plain_value


@dataclass(frozen=True, slots=True)
class Run:
    """How the answers came about, as far as they say it.

    Attributes
    ----------
    model_id : str
        Model that answered; several names are joined by commas.
    features : str or None
        ``"real"``, ``"shuffled"`` or ``"zero"``; None where no answer says it.
    protocol : dict
        What decides which epochs and pictures there are. A key on which the rows differ holds the
        list of its values.
    """

    model_id: str
    features: str | None
    protocol: dict[str, Any]


def describe_run(answers: Sequence[Answer]) -> Run:
    """Gather what the answers say about the run that made them."""
    metadata = [a.metadata for a in answers]
    features = {plain_text(m["features"]) for m in metadata if m.get("features") is not None}
    return Run(
        model_id=", ".join(sorted({plain_text(a.model_id) for a in answers})),
        features=", ".join(sorted(features)) or None,
        protocol=_merged(m["protocol"] for m in metadata if isinstance(m.get("protocol"), dict)),
    )


def _merged(protocols: Iterable[dict[str, Any]]) -> dict[str, Any]:
    # Nearly always there is one protocol for all rows, so rows are compared as wholes first.
    distinct = {json.dumps(p, sort_keys=True): p for p in protocols}
    values: dict[str, list[Any]] = {}
    for protocol in distinct.values():
        for key, value in plain_value(protocol).items():
            seen = values.setdefault(key, [])
            if value not in seen:
                seen.append(value)
    return {key: seen[0] if len(seen) == 1 else seen for key, seen in values.items()}
