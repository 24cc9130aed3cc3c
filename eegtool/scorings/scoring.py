"""What every reader of scorings returns, and how text files are decoded."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path
from typing import Final, NoReturn

from eegtool.core.errors import EegToolError
from eegtool.core.stages import closest_spelling, stage_in_column


@dataclass(frozen=True, slots=True)
class Entry:
    """One scored stretch of time, and where in its file it stands.

    Attributes
    ----------
    onset_s : float
        From `Scoring.start`, or from the first sample of the recording.
    duration_s : float
        Length.
    stage : str
        One of `eegtool.core.stages.STAGES` or `DROPPED`.
    place : str
        Such as ``"line 12"``, for messages; empty once it lies on the time of a recording.
    """

    onset_s: float
    duration_s: float
    stage: str
    place: str = ""

    @property
    def end_s(self) -> float:
        """Where it ends, counted as `onset_s` is."""
        return self.onset_s + self.duration_s


@dataclass(frozen=True, slots=True)
class Scoring:
    """A scoring as its file has it.

    Attributes
    ----------
    entries : tuple of Entry
        In the order of the file.
    start : datetime, time or None
        What the onsets count from: a date and time, a time of day (in which case the first onset is
        0), or the first sample of the recording (None).
    is_absolute : bool
        Whether the file has every onset as a time of day or date; an EDF+ file says only when it
        starts as a whole.
    notes : tuple of str
        What the user should know.
    until_next : bool
        Whether each entry lasts until the next, and the last until the end of the recording.
    inside : bool
        Whether it is in the recording itself.
    is_list : bool
        Whether it tells no times of its own: one entry follows the other from the start of the recording.
    """

    entries: tuple[Entry, ...]
    start: datetime | time | None = None
    is_absolute: bool = False
    notes: tuple[str, ...] = ()
    until_next: bool = False
    inside: bool = False
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class Hypnogram:
    """A scoring on the time of its recording.

    Attributes
    ----------
    runs : tuple of Entry
        In order of time and without overlaps; onsets in seconds from the first sample of the
        recording. Nothing lies outside of the recording.
    first_onset_s : float
        Where the 30-s grid of the scoring begins: at least 0, less than 30.
    notes : tuple of str
        What the user should know.
    start : datetime, time or None
        When the scoring says that it begins.
    """

    runs: tuple[Entry, ...]
    first_onset_s: float = 0.0
    notes: tuple[str, ...] = ()
    start: datetime | time | None = None


CONSENSUS: Final = "consensus"
"""The scorer that stands for the majority of all."""


@dataclass(frozen=True, slots=True)
class ReadAs:
    """What the user says about scorings, where they do not tell it themselves.

    Attributes
    ----------
    codes : tuple of (str, str)
        Entries of a column of stages, and their stage.
    column : str
        Name of the column of stages.
    scorer : str
        Part of the name of the file or column of one scorer, or `CONSENSUS`.
    epoch_s : float
        Length of the epochs that were scored; 0 where nobody says it: they are of 30 s.
    """

    codes: tuple[tuple[str, str], ...] = ()
    column: str = ""
    scorer: str = ""
    epoch_s: float = 0.0


def stage_or_refuse(path: Path, place: str, word: str) -> str:
    """Return the stage of an entry that must be one."""
    return stage_in_column(word) or refuse_word(path, place, word)


def refuse_word(path: Path, place: str, word: str) -> NoReturn:
    """Refuse a file because one of its entries should be a stage and is none that is known."""
    raise EegToolError(
        f"The hypnogram {path} has an unknown stage in {place}: '{word.strip()[:40]}'.",
        "Known are W, N1, N2, N3, REM, R&K's S1 to S4, 'Sleep stage 2', 'Stage 2 sleep' and the like; ? is "
        f"unscored. --stage-codes says what others mean.{closest_spelling(word[:40])}",
    )


# UTF-32 comes first: its little-endian mark begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode(data: bytes, *, whole: bool = True) -> tuple[str, str]:
    """Decode a text file, or its beginning.

    Unicode marked by a byte order mark, UTF-8, and else Latin-1, in which the stages are the same.
    Where `data` is not the whole file, its last character may be cut.

    Returns
    -------
    text : str
        The content.
    encoding : str
        Its name.

    Raises
    ------
    ValueError
        If this is no text: a binary file, or UTF-16 that does not say so.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if encoding:
        decoder = codecs.getincrementaldecoder(encoding)()
        return decoder.decode(data, final=whole), encoding
    if b"\0" in data:
        raise ValueError("it is not text (or UTF-16 without a byte order mark)")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"
