"""Epochs at a change of stage and epochs in the midst of one: the former are hard for humans, too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eegtool.report.reading.epochs import AnsweredEpoch


def surroundings(labelled: Sequence[AnsweredEpoch]) -> dict[str, NDArray[np.bool_]]:
    """Tell transition epochs from stable ones.

    An epoch is in transition where the true stage of the epoch before it or after it, in the same
    recording, is another one. It is stable where that is not so. A neighbour that has no label says
    nothing; an epoch without any labelled neighbour is neither.

    Parameters
    ----------
    labelled : sequence of AnsweredEpoch, length n
        Epochs with a true stage.

    Returns
    -------
    dict of str to bool array, shape (n,)
        ``"transition"`` and ``"stable"``.
    """
    n = len(labelled)
    _, recording = np.unique(np.array([e.recording for e in labelled], str), return_inverse=True)
    # Python integers sort by value whatever their size; 64 bits hold any index that is one.
    index = np.array([-1 if e.epoch_index is None else min(e.epoch_index, 2**60) for e in labelled])
    _, stage = np.unique(np.array([e.true for e in labelled], str), return_inverse=True)
    placed = np.array([bool(e.recording) and e.epoch_index is not None for e in labelled], bool)
    order = np.lexsort((index, recording)) if n else np.array([], np.intp)
    changes, stays = np.zeros(n, bool), np.zeros(n, bool)
    here, there = order[:-1], order[1:]
    neighbours = (
        (recording[here] == recording[there])
        & (index[here] + 1 == index[there])
        & placed[here]
        & placed[there]
    )
    differ = stage[here] != stage[there]
    for side in (here, there):
        changes[side[neighbours & differ]] = True
        stays[side[neighbours & ~differ]] = True
    return {"transition": changes, "stable": stays & ~changes}
