"""Where the pictures of epochs come from: files in an image folder, or stored signals that are drawn when asked.

Whoever looks at pictures asks here, by the name that a row gives them; the pixels and the bytes of the
file are the same either way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image

from eegtool.core.errors import EegToolError, brief
from eegtool.core.pictures import as_rgb, open_picture
from eegtool.core.records import SPLITS
from eegtool.core.workspace import (
    Workspace,
    check_same_pictures,
    fault_of,
    find_picture,
    inside,
    read_json,
)
from eegtool.pictures import RENDERER, STYLES, draw, palette_of, png
from eegtool.pictures.signals import (
    EpochSignals,
    Neighbours,
    StoredNight,
    check_signals,
    read_signals,
)
from eegtool.pictures.spec import PictureSpec

_AGAIN: Final = "Run `eegvlm prepare` again."
_CHECK: Final = "Check --image-folder, or prepare again."
_PAIRS_AT_ONCE: Final = 1 << 12
# As prepare names them: RECORDING/RECORDING-0123.png.
_NAME: Final = re.compile(r"(?P<recording>[^/\\]+)/(?P=recording)-(?P<index>[0-9]{4,9})\.png")


class Picture(Protocol):
    """The picture of an epoch."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""

    def rgb(self) -> Image.Image:
        """Return it as RGB of 8 bits."""

    def array(self) -> np.ndarray:
        """Return it as RGB, uint8 [height, width, 3]; yours to write in."""

    def file(self) -> bytes:
        """Return what is in its file, or would be."""

    def check(self) -> None:
        """Hold its file to the checksums in it, where there is one."""


class PictureSource(Protocol):
    """Gives pictures by their names."""

    def find(self, name: str, whose: str) -> None:
        """Refuse a name that there is no picture of; nothing of it is read.

        Parameters
        ----------
        name : str
            Path of the picture inside the image folder.
        whose : str
            What row it is, for the message, such as ``"sample 'SC4001E0-0123'"``.
        """

    def load(self, name: str, whose: str = "") -> Picture:
        """Return a picture.

        Raises
        ------
        EegToolError
            If it cannot be read or drawn, naming its file.
        """

    def check(self, names: Iterable[str]) -> None:
        """Hold the signals that these pictures are drawn from to their hashes, where there are any."""


@dataclass(frozen=True, slots=True)
class FilePicture:
    """What is in a file, not yet decoded."""

    data: bytes
    called: str
    fix: str

    @property
    def size(self) -> tuple[int, int]:
        """See `Picture`."""
        with open_picture(self.data, self.called, self.fix) as image:
            return image.size

    def rgb(self) -> Image.Image:
        """See `Picture`."""
        with open_picture(self.data, self.called, self.fix) as image:
            return as_rgb(image)

    def array(self) -> np.ndarray:
        """See `Picture`."""
        return np.array(self.rgb())

    def file(self) -> bytes:
        """See `Picture`."""
        return self.data

    def check(self) -> None:
        """See `Picture`."""
        with open_picture(self.data, self.called, self.fix) as image:
            image.verify()


@dataclass(frozen=True, slots=True, eq=False)
class DrawnPicture:
    """What was drawn: uint8 [height, width] of places in a palette."""

    pixels: np.ndarray
    palette: tuple[png.Colour, ...]

    @property
    def size(self) -> tuple[int, int]:
        """See `Picture`."""
        height, width = self.pixels.shape
        return width, height

    def rgb(self) -> Image.Image:
        """See `Picture`."""
        image = Image.frombuffer("P", self.size, self.pixels, "raw", "P", 0, 1)
        image.putpalette(_colours(self.palette).tobytes())
        return image.convert("RGB")

    def array(self) -> np.ndarray:
        """See `Picture`."""
        height, width = self.pixels.shape
        if width % 2:
            return _colours(self.palette).take(self.pixels, axis=0)
        pairs = np.ascontiguousarray(self.pixels).view(np.uint16).ravel()
        rgb = np.empty(height * width * 3 + 2, np.uint8)
        # Eight bytes for each six: the next pair's cover the two that are too many. Few at a time stay in the cache.
        eight = np.ndarray(pairs.shape, np.uint64, rgb, strides=(6,))
        for first in range(0, len(pairs), _PAIRS_AT_ONCE):
            some = slice(first, first + _PAIRS_AT_ONCE)
            eight[some] = _pairs(self.palette).take(pairs[some])
        return rgb[:-2].reshape(height, width, 3)

    def file(self) -> bytes:
        """See `Picture`."""
        return png.encode(self.pixels, self.palette)

    def check(self) -> None:
        """See `Picture`."""


def drawn_at(night: StoredNight, onset_s: float, style: str, spec: PictureSpec) -> DrawnPicture:
    """Draw the epoch of a night that begins at `onset_s`, with as many neighbours as the spec says."""
    around = night.around(onset_s, spec.context_epochs)
    return DrawnPicture(draw(style, night.cut_uv(onset_s), spec, around), palette_of(style, spec))


@cache
def _colours(palette: tuple[png.Colour, ...]) -> np.ndarray:
    """Return red, green and blue of each place in a palette, uint8 [n, 3]."""
    return np.array(palette, np.uint8)


@cache
def _pairs(palette: tuple[png.Colour, ...]) -> np.ndarray:
    """Return the colours of each pair of pixels side by side: six bytes and two of zero as one number, uint64 [65536]."""
    colours = np.resize(_colours(palette), (256, 3))
    left_right = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    six = colours[left_right].reshape(-1, 6)
    return np.pad(six, ((0, 0), (0, 2))).view(np.uint64)[:, 0]


@dataclass(frozen=True, slots=True)
class Files:
    """Pictures that are files of an image folder; links in it are followed."""

    folder: Path
    fix: str = _CHECK

    def find(self, name: str, whose: str) -> None:
        """See `PictureSource`."""
        find_picture(self.folder, name, whose)

    def load(self, name: str, whose: str = "") -> FilePicture:
        """See `PictureSource`."""
        path = inside(self.folder, name)
        called = f"The picture {path}{f' of {whose}' if whose else ''}"
        try:
            return FilePicture(path.read_bytes(), called, self.fix)
        except (OSError, ValueError) as error:
            why = f"it {fault}" if (fault := fault_of(path)) else brief(error)
            raise EegToolError(f"{called} cannot be read: {why}.", self.fix) from error

    def check(self, names: Iterable[str]) -> None:
        """See `PictureSource`."""


@dataclass(frozen=True, slots=True)
class Signals:
    """Pictures that are drawn from the stored signals of a workspace.

    Attributes
    ----------
    workspace : Workspace
        Whose signals.
    style : str
        One of `STYLES`.
    spec : PictureSpec
        Size and scale.
    sha256 : mapping of str to str
        Hash of the signals of each recording, as prepare stamped it.
    """

    workspace: Workspace
    style: str
    spec: PictureSpec
    sha256: Mapping[str, str]

    def night(self, recording: str) -> StoredNight:
        """Return the signals of a recording.

        Raises
        ------
        EegToolError
            If they are not there, or are not those of this workspace.
        """
        if recording not in self.sha256:
            raise EegToolError(f"{self.workspace.root} stores no signals of {recording}.", _AGAIN)
        night = read_signals(self._path(recording), recording)
        if night.sha256 != self.sha256[recording]:
            raise EegToolError(
                f"{self._path(recording)} is not what {self.workspace.prepare_stamp} names: these "
                f"signals are {night.sha256[:12]}, those of the workspace {self.sha256[recording][:12]}.",
                f"They were copied from elsewhere, or filtered otherwise. {_AGAIN}",
            )
        return night

    def epoch(self, recording: str, epoch_index: int) -> tuple[StoredNight, float]:
        """Return the signals of a recording, and where in them an epoch begins, in seconds; see `night`."""
        night = self.night(recording)
        return night, night.onset_s(epoch_index)

    def find(self, name: str, whose: str) -> None:
        """See `PictureSource`."""
        self._named(name, whose)

    def load(self, name: str, whose: str = "") -> DrawnPicture:
        """See `PictureSource`."""
        return drawn_at(*self._named(name, whose), self.style, self.spec)

    def drawn(self, signals: EpochSignals, around: Neighbours) -> DrawnPicture:
        """Draw the signals of an epoch and its neighbours as the pictures of the workspace are drawn."""
        pixels = draw(self.style, signals, self.spec, around)
        return DrawnPicture(pixels, palette_of(self.style, self.spec))

    def _named(self, name: str, whose: str) -> tuple[StoredNight, float]:
        """Return what a picture shows, by its name."""
        match = _NAME.fullmatch(name)
        if match is None or match["recording"] not in self.sha256:
            raise EegToolError(
                f"{self.workspace.root} stores no signals of the picture '{name}'"
                f"{f' of {whose}' if whose else ''}.",
                f"It holds no picture files either (`prepare --pictures none`). {_AGAIN}",
            )
        return self.epoch(match["recording"], int(match["index"]))

    def check(self, names: Iterable[str]) -> None:
        """See `PictureSource`."""
        for recording in sorted({name.partition("/")[0] for name in names} & self.sha256.keys()):
            check_signals(self._path(recording), recording)

    def _path(self, recording: str) -> Path:
        return _signals_path(self.workspace.signals, recording)


@lru_cache(maxsize=1 << 14)
def _signals_path(folder: Path, recording: str) -> Path:
    return (
        folder / f"{recording}.npy"
    )  # for every picture: putting paths together takes longer than a look


def open_source(folder: Path, fix: str = _CHECK) -> PictureSource:
    """Return where the pictures of an image folder come from.

    Parameters
    ----------
    folder : Path
        One of prepare's image folders, or anybody's.
    fix : str
        What to do where a file cannot be read.

    Raises
    ------
    EegToolError
        See `open_signals`.
    """
    workspace = _workspace_of(folder)
    if workspace and _stamp(workspace).get("pictures") == "none":
        return _signals_of(workspace)
    return Files(folder, fix)


def open_signals(folder: Path) -> Signals | None:
    """Return the stored signals behind the pictures of an image folder; None if there are none.

    Raises
    ------
    EegToolError
        If the pictures were drawn by another renderer than this one, or in a way that it does not know.
    """
    workspace = _workspace_of(folder)
    return _signals_of(workspace) if workspace and workspace.signals.is_dir() else None


def _workspace_of(folder: Path) -> Workspace | None:
    """Return the workspace that an image folder belongs to."""
    workspace = Workspace(folder.parent)
    ours = folder in map(workspace.images, SPLITS) and workspace.prepare_stamp.exists()
    return workspace if ours else None


def _stamp(workspace: Workspace) -> dict[str, Any]:
    return read_json(workspace.prepare_stamp)


def _signals_of(workspace: Workspace) -> Signals:
    stamp = _stamp(workspace)
    try:
        protocol, recordings = dict(stamp["protocol"]), dict(stamp["results"]["recordings"])
        check_same_pictures(
            {"renderer": protocol["renderer"]},
            {"renderer": RENDERER},
            f"{workspace.root} and this eegvlm",
        )
        spec = PictureSpec.from_protocol(protocol)
        if not {protocol["style"], *(strip.style for strip in spec.strips)} <= STYLES.keys():
            raise ValueError
        return Signals(
            workspace,
            protocol["style"],
            spec,
            {name: str(row["signals_sha256"]) for name, row in recordings.items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EegToolError(
            f"{workspace.prepare_stamp} does not say how its signals are drawn.", _AGAIN
        ) from error
