"""What prepare measured, read back from its cards of nights."""

from __future__ import annotations

from collections.abc import Iterable

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.workspace import Workspace, read_json
from eegtool.reasons.facts import Facts


def stored_facts(
    workspace: Workspace, recordings: Iterable[str], epochs: Iterable[Epoch]
) -> dict[str, Facts]:
    """Return the facts of epochs by sample id, as far as ``prepare --rationale measured`` measured them.

    Raises
    ------
    EegToolError
        If a card holds something else, naming it.
    """
    ids = {(e.recording, e.epoch_index): e.sample_id for e in epochs}
    found = {}
    for recording in recordings:
        path = workspace.night(recording)
        if not path.exists():
            continue
        card = read_json(path)
        try:
            if not card.get("facts"):
                continue
            for (index, _), row in zip(card["staged"], card["facts"], strict=True):
                if sample_id := ids.get((recording, index)):
                    found[sample_id] = Facts.from_row(row)
        except (KeyError, TypeError, ValueError) as error:
            raise EegToolError(
                f"{path}: what was measured in {recording} cannot be read: {error}.",
                "Run `eegvlm prepare` again.",
            ) from error
    return found
