"""Pictures of the epochs: where they lie, and which of them travel inside the page."""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.pictures.source import Files, PictureSource, open_source
from eegtool.report.reading.epochs import AnsweredEpoch

PictureMode = Literal["embed", "link", "none"]

BUDGET: Final = 24_000_000
"""Characters of Base64 that a page may hold: it still goes by mail, and opens at once."""

_MOST_CLIMBS: Final = 2
"""How many folders a link may climb: a picture further away does not travel with the page."""

_STRIDE: Final = 0.6180339887498949  # the golden ratio spreads any number of picks evenly
_SIGNATURES: Final = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the page can show of the pictures.

    Attributes
    ----------
    embedded : dict of str to (str, str)
        Media type and Base64 of the pictures inside the page, by sample id.
    linked : dict of str to str
        Relative addresses of the others, by sample id.
    notes : tuple of str
        What a reader must know: why there are none, or not all.
    """

    embedded: dict[str, tuple[str, str]] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def gather(
    folder: Path | None,
    images: Mapping[str, str],
    epochs: Sequence[AnsweredEpoch],
    out: Path,
    mode: PictureMode = "embed",
    budget: int = BUDGET,
) -> Pictures:
    """Load as many pictures of the epochs as the page may hold, and link the others.

    Parameters
    ----------
    folder : Path or None
        Image folder; None where there is none.
    images : mapping of str to str
        Path of the picture of an epoch inside `folder`, by sample id.
    epochs : sequence of AnsweredEpoch
        Epochs of the page.
    out : Path
        Folder of the page.
    mode : str
        ``"embed"`` within `budget` and link the rest, ``"link"`` all, or ``"none"``.
    budget : int
        Characters of Base64.

    Returns
    -------
    Pictures
        What is missing is said, not raised: a report without pictures is still a report.
    """
    if mode == "none":
        return Pictures(notes=("Pictures were not asked for.",))
    wanted = [epoch.sample_id for epoch in epochs if epoch.sample_id in images]
    staying = {sample_id: images[sample_id] for sample_id in wanted if _stays(images[sample_id])}
    strays = len(wanted) - len(staying)
    notes = [f"{strays:,} pictures left out: their paths leave the image folder."] if strays else []
    try:
        source = None if folder is None else open_source(folder)
    except EegToolError as error:  # drawn by another version
        return Pictures(notes=(f"There are no pictures: {error.what}", *notes))
    if source is not None:
        staying = {i: name for i, name in staying.items() if _is_there(source, name)}
    if source is None or not staying:
        return Pictures(notes=("The workspace has no picture of these epochs.", *notes))
    order = (epoch.sample_id for epoch in by_worth(epochs) if epoch.sample_id in staying)
    embedded = _embedded(source, staying, order, budget) if mode == "embed" else {}
    rest = {sample_id: name for sample_id, name in staying.items() if sample_id not in embedded}
    linked = _linked(source, rest, out)
    if rest:
        why = "are too far away to be linked" if isinstance(source, Files) else "have no files"
        notes.insert(0, _spoken(len(staying), len(embedded), len(linked), why))
    return Pictures(embedded, linked, tuple(notes))


def by_worth(epochs: Sequence[AnsweredEpoch]) -> Iterable[AnsweredEpoch]:
    """Return the epochs in the order in which a reader will want to see them.

    Unreadable answers come first, then wrong ones (each pair of true stage and answer in turn, the
    surest mistakes first), then the least certain, then those beside one of these, then the rest, spread
    evenly over the recordings.
    """
    unreadable = [e for e in epochs if e.predicted is None]
    wrong = [e for e in epochs if e.right is False and e.predicted is not None]
    wrong.sort(key=lambda e: -(e.certainty or 0.0))
    seen = Counter[tuple[str | None, str | None]]()
    rounds = []
    for epoch in wrong:
        seen[epoch.true, epoch.predicted] += 1
        rounds.append(seen[epoch.true, epoch.predicted])
    in_turn = [wrong[i] for i in np.argsort(rounds, kind="stable")]
    unsure = sorted((e for e in epochs if e.probabilities), key=lambda e: e.certainty or 0.0)
    unsure = unsure[: len(unsure) // 10]
    beside = {
        (e.recording, e.epoch_index + step)
        for e in (*wrong, *unsure)
        if e.epoch_index is not None
        for step in (-1, 1)
    }
    near = [e for e in epochs if (e.recording, e.epoch_index) in beside]
    spread = (epochs[i] for i in sorted(range(len(epochs)), key=lambda i: i * _STRIDE % 1))
    return {e.sample_id: e for e in (*unreadable, *in_turn, *unsure, *near, *spread)}.values()


def _stays(name: str) -> bool:
    return not (Path(name).is_absolute() or ".." in Path(name).parts)


def _is_there(source: PictureSource, name: str) -> bool:
    try:
        source.find(name, "the page")
    except EegToolError:
        return False
    return True


def _embedded(
    source: PictureSource, images: Mapping[str, str], order: Iterable[str], budget: int
) -> dict[str, tuple[str, str]]:
    """Load pictures until the next one does not fit."""
    found: dict[str, tuple[str, str]] = {}
    for sample_id in order:
        try:
            raw = source.load(images[sample_id]).file()
        except EegToolError:  # it is gone meanwhile
            continue
        media_type = next((m for head, m in _SIGNATURES.items() if raw.startswith(head)), None)
        if media_type is None:
            continue
        budget -= -(-len(raw) // 3) * 4
        if budget < 0:
            break
        found[sample_id] = (media_type, base64.b64encode(raw).decode("ascii"))
    return found


def _linked(source: PictureSource, images: Mapping[str, str], out: Path) -> dict[str, str]:
    """Return the relative addresses of pictures that are files, if their folder is near that of the page."""
    if not isinstance(source, Files):
        return {}
    way = Path(os.path.relpath(source.folder, out))
    if way.parts.count("..") > _MOST_CLIMBS:
        return {}
    return {sample_id: quote((way / name).as_posix()) for sample_id, name in images.items()}


def _spoken(total: int, embedded: int, linked: int, why_not: str) -> str:
    said = f"{embedded:,} of {total:,} pictures are inside this file"
    if linked:
        said += f"; {linked:,} are shown from the image folder as long as this file stays where it was written"
    return f"{said}." if linked == total - embedded else f"{said}; the others {why_not}."
