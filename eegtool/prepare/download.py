"""Fetching a public cohort, through MNE's own fetcher."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from eegtool.core.console import progress
from eegtool.core.errors import EegToolError, brief
from eegtool.core.registry import check_name

CASSETTE_SUBJECTS: Final = tuple(n for n in range(83) if n not in (39, 68, 69, 78, 79))
"""Subjects of Sleep-EDF's cassette study: five numbers have no recording (PhysioNet, SC-subjects.xls)."""

_CASSETTE_URL: Final = "https://physionet.org/files/sleep-edfx/1.0.0/sleep-cassette/"


def parse_subjects(text: str) -> tuple[int, ...]:
    """Read numbers and ranges such as ``"0-4,7"``.

    Returns
    -------
    tuple of int
        Each number once, in order.

    Raises
    ------
    EegToolError
        If the text is anything else.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise EegToolError(
                f"--subjects '{text}': '{part.strip()}' is neither a number nor a range.",
                "Write numbers and ranges with commas between them, such as 0-4,7.",
            )
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def download(cohort: str, subjects: str, folder: Path) -> list[Path]:
    """Fetch all nights of some subjects; what is there already is not fetched again.

    Parameters
    ----------
    cohort : str
        One of `DOWNLOADS`.
    subjects : str
        Their numbers, as `parse_subjects` reads them.
    folder : Path
        Where to keep the files.

    Returns
    -------
    list of Path
        Recordings and hypnograms, which `find_nights` pairs.

    Raises
    ------
    EegToolError
        If the cohort or a subject does not exist, there is no network, or the folder cannot be
        written. It says how to get the files by hand.
    """
    check_name("cohort to download", cohort, DOWNLOADS)
    return DOWNLOADS[cohort](parse_subjects(subjects), folder)


def _sleep_edf(subjects: tuple[int, ...], folder: Path) -> list[Path]:
    """Fetch cassette nights of Sleep-EDF Database Expanded (20 hours, about 50 MB each)."""
    from mne.datasets.sleep_physionet import age

    if unknown := sorted(set(subjects) - set(CASSETTE_SUBJECTS)):
        raise EegToolError(
            f"--subjects: the cassette study of Sleep-EDF has no subject "
            f"{', '.join(map(str, unknown))}.",
            "It has 0-38, 40-67, 70-77 and 80-82.",
        )
    files: list[Path] = []
    with progress("subjects") as bar:
        task = bar.add_task("Fetching", total=len(subjects), note="")
        for subject in subjects:
            try:
                # Three subjects have but one night, which 'ignore' takes as it is.
                pairs = age.fetch_data(
                    [subject], path=str(folder), on_missing="ignore", verbose="ERROR"
                )
            except (OSError, ValueError) as error:
                raise _failed(subject, folder, error) from error
            files += [Path(path) for pair in pairs for path in pair]
            bar.update(task, advance=1, note=f"{len(files) // 2} nights")
    return files


def _failed(subject: int, folder: Path, error: OSError | ValueError) -> EegToolError:
    if (
        isinstance(error, OSError) and error.errno is not None
    ):  # the disk; those of the net have none
        return EegToolError(
            f"{folder} cannot be written: {error.strerror}.",
            "Check its permissions and the disk, or choose another folder.",
        )
    response = getattr(error, "response", None)
    if isinstance(error, ValueError):
        reason = f"a file came damaged ({brief(error)[:100]})"
    elif response is not None:
        reason = f"physionet.org answers {response.status_code}"
    else:
        reason = "there is no network connection to physionet.org"
    return EegToolError(
        f"Subject {subject} of Sleep-EDF cannot be fetched: {reason}.",
        "Run it again when there is a network; files that came are kept. Or fetch them elsewhere:\n"
        f"  wget -r -np -nd -A 'SC4{subject:02d}*.edf' -P sleep-cassette {_CASSETTE_URL}\n"
        "copy that folder here and give it to `eegvlm prepare sleep-cassette`.",
    )


DOWNLOADS: Final[dict[str, Callable[[tuple[int, ...], Path], list[Path]]]] = {
    "sleep-edf": _sleep_edf
}
