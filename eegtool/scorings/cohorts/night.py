"""What every cohort gives: nights, before anything is read, and what was left over."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eegtool.core.errors import EegToolError
from eegtool.scorings.scoring import ReadAs

FETCH: Final = "Fetch the content of the data set first: `datalad get` or `git annex get`."
_LONGEST: Final = 160  # bytes; file systems allow 255
PAIRING_FIX: Final = "Leave the right hypnogram beside the recording, or name it in a pairs.csv."
"""How to fix a `Night.problem`."""


_AS_IT_IS: Final = ReadAs()


@dataclass(frozen=True, slots=True)
class Night:
    """One recording with its hypnogram, before anything is read."""

    cohort: str
    recording: str
    """Name of the recording, fit for a folder and for the start of a sample id."""
    subject: str
    night: int
    signal_path: Path
    hypnogram_path: Path | None
    """None where no hypnogram was found; the recording itself where the scoring is inside it."""
    problem: str = ""
    """Why no hypnogram was taken although there are some, naming them; `PAIRING_FIX` fixes it."""
    rivals: tuple[Path, ...] = ()
    """Several hypnograms that go with it equally well: of several scorers, or the same twice."""
    read_as: ReadAs = _AS_IT_IS
    """What is known of how to read them."""

    @property
    def scorings(self) -> tuple[Path, ...]:
        """The hypnograms to read: the one, or where that is not clear, or a scorer is asked for, all."""
        if self.rivals and (self.read_as.scorer or not self.hypnogram_path):
            return self.rivals
        return (self.hypnogram_path,) if self.hypnogram_path else ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a cohort makes of some files.

    Attributes
    ----------
    nights : tuple of Night
        In the order of their paths.
    orphans : tuple of Path
        Hypnograms that belong to no recording.
    cohort : str
        Name of the cohort, also where it was found automatically.
    notes : tuple of str
        What the user should know.
    """

    nights: tuple[Night, ...]
    orphans: tuple[Path, ...]
    cohort: str
    notes: tuple[str, ...] = ()


def safe_name(text: str, path: Path) -> str:
    """Make a name that may be a folder and part of a sample id: letters, digits, ``.``, ``_``, ``-``.

    Parameters
    ----------
    text : str
        Any text; everything else in it becomes ``_``.
    path : Path
        Where it comes from, for the message.

    Raises
    ------
    EegToolError
        If no letter or digit is left.
    """
    # Names typed on a Mac come decomposed (a + ¨); composed they are the same name everywhere.
    name = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).strip("._-")
    if len(name.encode()) > _LONGEST:  # files are called after it, with more behind it
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: _LONGEST - 9].decode(errors='ignore')}-{digest}"
    if not name:
        raise EegToolError(
            f"{path}: '{text}' has no letter or digit to make a name of.",
            "Give it a name of letters and digits.",
        )
    return name


def stem_of(path: Path) -> str:
    """Return the name of a file without its suffix, which may be a double one (``.fif.gz``)."""
    return Path(path.stem).stem if path.suffix.casefold() == ".gz" else path.stem


def dangling(path: Path) -> str:
    """Say where a link leads to that is not there; empty for everything else."""
    if not path.is_symlink() or path.exists():
        return ""
    return f"{path} is a link to {path.readlink()}, which is not here"


def several_hypnograms(recording: Path, hypnograms: Sequence[Path]) -> str:
    """Return the problem that it is not clear which scoring is meant."""
    return f"{recording} has more than one hypnogram: {', '.join(str(p) for p in hypnograms)}."
