"""Pictures of the epochs: where they lie, and which of them travel inside the page."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_epochs, read_questions
from eegtool.core.workspace import Workspace, check_same_pictures, inside
from eegtool.report.epochs import AnsweredEpoch
from eegtool.report.plain import plain_text

PictureMode = Literal["embed", "link", "none"]

BUDGET: Final = 24_000_000
"""Characters of Base64 that a page may hold: it still goes by mail, and opens at once."""

_MOST_CLIMBS: Final = 2
"""How many folders a link may climb: a picture further away does not travel with the page."""

_File = tuple[Path, str]  # image folder, and the path inside it

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
    workspace: Workspace,
    epochs: Sequence[AnsweredEpoch],
    protocol: Mapping[str, Any],
    out: Path,
    mode: PictureMode,
    budget: int = BUDGET,
) -> Pictures:
    """Find the pictures of answered epochs and load as many as the page may hold.

    Parameters
    ----------
    workspace : Workspace
        Where the pictures were made.
    epochs : sequence of AnsweredEpoch
        Epochs of the page.
    protocol : mapping
        What the answers say about how their pictures were drawn.
    out : Path
        Folder of the page.
    mode : str
        ``"embed"`` within `budget` and link the rest, ``"link"`` all, or ``"none"``.
    budget : int
        Characters of Base64.

    Returns
    -------
    Pictures
        Never an error: a report without pictures is still a report, and says why it has none.
    """
    if mode == "none":
        return Pictures()
    try:
        check_same_pictures(
            protocol, workspace.protocol(), "The answers and the workspace's pictures"
        )
        files, strays = _files(workspace, {epoch.sample_id for epoch in epochs})
    except EegToolError as error:
        return Pictures(notes=(f"No pictures. {plain_text(error.what)}",))
    notes = [f"{strays:,} left out: the paths leave the image folder."] if strays else []
    if not files:
        return Pictures(notes=("The workspace has no picture of these epochs.", *notes))
    embedded = _embedded(files, by_worth(epochs), budget) if mode == "embed" else {}
    rest = {name: file for name, file in files.items() if name not in embedded}
    linked = _linked(rest, out)
    if rest:
        notes.insert(0, _spoken(len(files), len(embedded), len(linked)))
    return Pictures(embedded, linked, tuple(notes))


def by_worth(epochs: Sequence[AnsweredEpoch]) -> Iterator[AnsweredEpoch]:
    """Yield the epochs in the order in which a reader will want to see them.

    Unreadable answers come first, then wrong ones (each pair of true stage and answer in turn, the
    surest mistakes first), then the least certain, then those beside a mistake, then the rest, spread
    evenly over the recordings.
    """
    told: set[str] = set()
    for epoch in _in_order_of_worth(epochs):
        if epoch.sample_id not in told:
            told.add(epoch.sample_id)
            yield epoch


def _in_order_of_worth(epochs: Sequence[AnsweredEpoch]) -> Iterator[AnsweredEpoch]:
    yield from (epoch for epoch in epochs if epoch.predicted is None)
    wrong = [epoch for epoch in epochs if epoch.right is False and epoch.predicted is not None]
    pairs: dict[tuple[str | None, str | None], list[AnsweredEpoch]] = {}
    for epoch in sorted(wrong, key=lambda e: -(e.certainty or 0.0)):
        pairs.setdefault((epoch.true, epoch.predicted), []).append(epoch)
    yield from _in_turn(pairs.values())
    unsure = sorted(
        (e for e in epochs if e.certainty is not None), key=lambda e: e.certainty or 0.0
    )
    yield from unsure[: len(unsure) // 10]
    beside = {
        (e.recording, e.epoch_index + step)
        for e in wrong
        if e.epoch_index is not None
        for step in (-1, 1)
    }
    yield from (epoch for epoch in epochs if (epoch.recording, epoch.epoch_index) in beside)
    yield from (epochs[i] for i in sorted(range(len(epochs)), key=lambda i: i * _STRIDE % 1))


def _in_turn(groups: Iterable[list[AnsweredEpoch]]) -> Iterator[AnsweredEpoch]:
    waiting = [iter(group) for group in groups]
    while waiting:
        still = []
        for group in waiting:
            if (epoch := next(group, None)) is not None:
                yield epoch
                still.append(group)
        waiting = still


def _files(workspace: Workspace, wanted: set[str]) -> tuple[dict[str, _File], int]:
    """Return the picture of each epoch that has one, and how many paths leave the image folder."""
    named: dict[str, _File] = {}
    if workspace.epochs.exists():
        named = {
            e.sample_id: (workspace.images(e.split), e.image) for e in read_epochs(workspace.epochs)
        }
    if workspace.questions.exists():  # what was asked counts more than what could be asked
        asked = (q for q in read_questions(workspace.questions) if q.images)
        named |= {q.sample_id: (workspace.images("eval"), q.images[0]) for q in asked}
    named = {sample_id: file for sample_id, file in named.items() if sample_id in wanted}
    files = {sample_id: file for sample_id, file in named.items() if _stays(file[1])}
    there = {sample_id: (d, name) for sample_id, (d, name) in files.items() if (d / name).is_file()}
    return there, len(named) - len(files)


def _stays(name: str) -> bool:
    return not (Path(name).is_absolute() or ".." in Path(name).parts)


def _embedded(
    files: Mapping[str, _File], order: Iterable[AnsweredEpoch], budget: int
) -> dict[str, tuple[str, str]]:
    """Load pictures until the next one does not fit."""
    found: dict[str, tuple[str, str]] = {}
    for epoch in order:
        if epoch.sample_id not in files:
            continue
        try:
            raw = inside(*files[epoch.sample_id]).read_bytes()
        except (EegToolError, OSError):  # a symbolic link to elsewhere, or gone meanwhile
            continue
        media_type = next((m for head, m in _SIGNATURES.items() if raw.startswith(head)), None)
        if media_type is None:
            continue
        budget -= -(-len(raw) // 3) * 4
        if budget < 0:
            break
        found[epoch.sample_id] = (media_type, base64.b64encode(raw).decode("ascii"))
    return found


def _linked(files: Mapping[str, _File], out: Path) -> dict[str, str]:
    """Return relative addresses of the pictures whose folder is near the page's."""
    links = {}
    near: dict[Path, str | None] = {}
    for sample_id, (folder, name) in files.items():
        if folder not in near:
            way = Path(os.path.relpath(folder, out))
            climbs = way.is_absolute() or way.parts.count("..") > _MOST_CLIMBS
            near[folder] = None if climbs else way.as_posix()
        if (start := near[folder]) is not None:
            links[sample_id] = quote(f"{start}/{Path(name).as_posix()}")
    return links


def _spoken(total: int, embedded: int, linked: int) -> str:
    said = f"{embedded:,} of {total:,} pictures are inside this file"
    if linked:
        said += f"; {linked:,} are shown from the image folder as long as this file stays where it was written"
    return (
        f"{said}."
        if linked == total - embedded
        else f"{said}; the others are too far away to be linked."
    )
