"""Sleep stages: the five AASM stages, their order and colours everywhere, and how scorings spell them."""

from __future__ import annotations

from typing import Final

STAGES: Final = ("W", "N1", "N2", "N3", "REM")
"""The AASM stages in the order used by every table, matrix and class index."""

EPOCH_S: Final = 30
"""Length of a scoring epoch in seconds (R&K 1968 and the AASM Manual alike)."""

SLEEP_STAGES: Final = STAGES[1:]

STAGE_INDEX: Final = {stage: i for i, stage in enumerate(STAGES)}

STAGE_COLOURS: Final = {
    "W": "#e8a33d",
    "N1": "#8fc1e3",
    "N2": "#4a86c5",
    "N3": "#1f3f77",
    "REM": "#c2455d",
}

MOVEMENT: Final = "movement time"
UNSCORED: Final = "unscored"
DROPPED: Final = (MOVEMENT, UNSCORED)
"""Kinds of scored time that are no stage: such epochs are dropped, and counted by kind."""

# Rechtschaffen & Kales stages 3 and 4 are both AASM N3 (AASM Manual, Berry et al. 2012). The
# spellings are those of Sleep-EDF's EDF+ annotations, compared without case and outer blanks.
_SPELLINGS: Final = {
    "sleep stage w": "W",
    "sleep stage 1": "N1",
    "sleep stage 2": "N2",
    "sleep stage 3": "N3",
    "sleep stage 4": "N3",
    "sleep stage r": "REM",
    "sleep stage n1": "N1",
    "sleep stage n2": "N2",
    "sleep stage n3": "N3",
    "sleep stage ?": UNSCORED,
    "movement time": MOVEMENT,
}


def stage_of(description: str) -> str | None:
    """Translate one scoring annotation.

    Parameters
    ----------
    description : str
        Text of the annotation, such as ``"Sleep stage 4"``.

    Returns
    -------
    str or None
        One of `STAGES` or `DROPPED`; None for an annotation that is not about sleep stages
        (an arousal, lights off).
    """
    return _SPELLINGS.get(" ".join(description.split()).casefold())
