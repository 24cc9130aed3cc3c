from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eegtool.core.errors import EegToolError
from eegtool.core.pictures import read_rgb


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, extra: bytes = b"") -> bytes:
    """A PNG of any kind, which Pillow cannot write itself."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pixels(path: Path) -> list[list[int]]:
    """The first row of a picture, as it is read."""
    image = read_rgb(path, "Give another.")
    assert image.mode == "RGB"
    found: list[list[int]] = np.asarray(image)[0].tolist()
    return found


WHITE, BLACK = [255] * 3, [0] * 3
RED, GREY = [200, 0, 0], [128] * 3
SEE_THROUGH = chunk(b"tRNS", struct.pack(">H", 0))
PALETTE = chunk(b"PLTE", bytes([200, 0, 0, 0, 0, 0]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png(2, 1, 8, 6, bytes([0, *RED, 255, 0, 0, 0, 0])), [RED, WHITE], id="RGBA"),
        pytest.param(png(1, 1, 8, 6, bytes([0, 0, 0, 0, 127])), [GREY], id="half"),
        pytest.param(png(2, 1, 8, 4, bytes([0, 128, 255, 0, 0])), [GREY, WHITE], id="LA"),
        pytest.param(
            png(2, 1, 8, 3, bytes([0, 0, 1]), PALETTE + chunk(b"tRNS", b"\xff\0")),
            [RED, WHITE],
            id="palette",
        ),
        pytest.param(
            png(2, 1, 8, 3, bytes([0, 0, 1]), PALETTE + chunk(b"tRNS", b"\x80\0")),
            [[227, 127, 127], WHITE],
            id="palette with shades",
        ),
        pytest.param(
            png(2, 1, 8, 0, bytes([0, 128, 0]), SEE_THROUGH), [GREY, WHITE], id="a clear grey"
        ),
        pytest.param(
            png(2, 1, 16, 0, struct.pack(">xHH", 32768, 0), SEE_THROUGH),
            [GREY, WHITE],
            id="a clear grey of 16 bits",
        ),
        pytest.param(
            png(2, 1, 8, 2, bytes([0, *RED, *BLACK]), chunk(b"tRNS", bytes(6))),
            [RED, WHITE],
            id="a clear colour",
        ),
        pytest.param(
            png(2, 1, 16, 4, struct.pack(">x4H", 32768, 65535, 0, 0)),
            [GREY, WHITE],
            id="LA of 16 bits",
        ),
    ],
)
def test_what_is_transparent_shows_white(
    tmp_path: Path, data: bytes, expected: list[list[int]]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert pixels(path) == expected


def image_of(values: list[float], dtype: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("16.png", image_of([0, 32768, 65535], "<u2"), [BLACK, GREY, WHITE]),
        ("16.tif", image_of([0, 32768, 65535], "<u2"), [BLACK, GREY, WHITE]),
        ("swapped.tif", image_of([0, 32768, 65535], ">u2"), [BLACK, GREY, WHITE]),
        ("32.tif", image_of([0, 32768, 65535], "<i4"), [BLACK, GREY, WHITE]),
        ("float.tif", image_of([0, 0.5, 1], "<f4"), [BLACK, GREY, WHITE]),
        ("black.png", image_of([0, 0], "<u2"), [BLACK, BLACK]),
        ("1.png", Image.frombytes("1", (2, 1), b"\x40"), [BLACK, WHITE]),
        ("1.tif", Image.frombytes("1", (2, 1), b"\x40"), [BLACK, WHITE]),
        ("cmyk.tif", Image.frombytes("CMYK", (2, 1), bytes([0] * 4 + [0, 0, 0, 255])), [WHITE, BLACK]),
        ("P.gif", Image.frombytes("L", (2, 1), bytes([0, 128])).convert("P"), [BLACK, GREY]),
        ("deep.pgm", image_of([0, 32768, 65535], "<u2"), [BLACK, GREY, WHITE]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_any_depth_and_colour_comes_out_as_it_looks(
    tmp_path: Path, name: str, image: Image.Image, expected: list[list[int]]
) -> None:
    image.save(tmp_path / name)
    assert pixels(tmp_path / name) == expected


def test_a_jpeg_in_printers_colours_keeps_them(tmp_path: Path) -> None:
    """Adobe's are stored inverted."""
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(np.array(pixels(tmp_path / "a.jpg")[0]) - [255, 0, 0]).max() < 10


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (image_of([0, 300], "<f4"), r"0 to 300, where black is 0 and white 1;"),
        (image_of([-0.5, 0.5], "<f4"), r"-0\.5 to 0\.5, where"),
        (image_of([np.nan, 0.5], "<f4"), r"nan to nan, where"),
        (image_of([0, 200], "<i4"), r"0 to 200, where black is 0 and white 65535;"),
        (image_of([0, 200], "<u2"), r"0 to 200, where black is 0 and white 65535;"),
        (image_of([0, 70000], "<i4"), r"0 to 70000, where"),
    ],
)
def test_grey_of_an_unknown_scale_is_refused(tmp_path: Path, image: Image.Image, said: str) -> None:
    image.save(tmp_path / "a.tif")
    with pytest.raises(EegToolError, match=rf"a\.tif cannot be read: its grey values are {said}"):
        read_rgb(tmp_path / "a.tif", "Give another.")


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_small_file_of_a_huge_picture_is_refused(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(side, side, 1, 0, bytes(side // 8 + 1)))
    with pytest.raises(
        EegToolError, match=f"cannot be read: Image size .{side * side} pixels"
    ) as e:
        read_rgb(path, "Give another.")
    assert e.value.fix == "Give another."
    assert "\n" not in e.value.what


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangle(path: Path) -> None:
    path.symlink_to("../annex/objects/a")


def behind_a_link(path: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to("/scratch/gone")


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, r"a\.png does not exist"),
    "a loop": (loop, r"a\.png is a link that leads back to itself"),
    "dangling": (dangle, r"a\.png is a link to \.\./annex/objects/a, which does not exist"),
    "its folder dangles": (behind_a_link, r"lies behind the link .*images to /scratch/gone, which"),
    "a folder": (Path.mkdir, r"a\.png is a folder"),
    "a pipe": (os.mkfifo, r"a\.png is not a file"),
    "no picture": (lambda path: path.write_text("<svg/>"), r"a\.png cannot be read: cannot identify"),
    "empty": (Path.touch, r"a\.png cannot be read: cannot identify"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "said"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_not_a_picture_is_said(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    make(path)
    with pytest.raises(EegToolError, match=said):
        read_rgb(path, "Give another.")


def test_links_are_followed(tmp_path: Path) -> None:
    image_of([0, 65535], "<u2").save(tmp_path / "object.png")
    (tmp_path / "a.png").symlink_to("object.png")
    assert pixels(tmp_path / "a.png") == [BLACK, WHITE]
