"""How fast pictures are drawn: our renderer against matplotlib, same epochs, same size, one core.

Both sides draw an epoch and encode it as PNG at the same compression. matplotlib is given its best
case: one figure is kept and only its data change; its spectrogram is handed our multitaper values,
so that drawing alone is compared.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from eegtool.prepare.images import STYLES, draw_png
from eegtool.prepare.images.spec import PictureSpec
from eegtool.prepare.signals import band_pass
from eegtool.prepare.simulate import load_twin, simulate_signal

SFREQ_HZ = 100.0
SPEC = PictureSpec(336)

Draw = Callable[[np.ndarray], bytes]


def epochs_uv(n: int) -> np.ndarray:
    """Simulate filtered epochs of all stages, float [n, 3000]."""
    night_uv = simulate_signal(load_twin("SC4001E0").condensed(n // 5), seed=1)[0]
    return band_pass(night_uv, SFREQ_HZ, 0.3, 35.0).reshape(-1, 3000)


def ours(style: str) -> Draw:
    return lambda epoch_uv: draw_png(style, epoch_uv, SFREQ_HZ, SPEC)


def canvas() -> tuple[Axes, Callable[[], bytes]]:
    """Return axes that fill a figure of the size of our pictures, and how to encode it."""
    figure = Figure(figsize=(SPEC.size / 100, SPEC.size / 100), dpi=100)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()

    def encode() -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 6})
        return buffer.getvalue()

    return axes, encode


def matplotlib_waveform() -> Draw:
    axes, encode = canvas()
    (line,) = axes.plot(np.arange(3000), np.zeros(3000), color="#18274b", linewidth=1.1 * 72 / 100)
    axes.set(xlim=(0, 2999), ylim=(-SPEC.amplitude_uv, SPEC.amplitude_uv))

    def draw(epoch_uv: np.ndarray) -> bytes:
        line.set_ydata(epoch_uv)
        return encode()

    return draw


def matplotlib_spectrogram() -> Draw:
    axes, encode = canvas()
    style = STYLES["spectrogram"]
    colours = LinearSegmentedColormap.from_list("ours", np.array(style.anchors) / 255.0)
    blank = np.zeros((SPEC.size, SPEC.size), np.uint8)
    image = axes.imshow(blank, cmap=colours, vmin=0, vmax=255, aspect="auto")

    def draw(epoch_uv: np.ndarray) -> bytes:
        image.set_data(style.draw(epoch_uv, SFREQ_HZ, SPEC))
        return encode()

    return draw


def ms_per_picture(draw: Draw, epochs: np.ndarray) -> float:
    """CPU time, which other programs on the machine do not lengthen."""
    began = time.process_time()
    for epoch_uv in epochs:
        draw(epoch_uv)
    return (time.process_time() - began) / len(epochs) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--epochs", type=int, default=20, help="epochs per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts")
    options = parser.parse_args()

    epochs = epochs_uv(options.epochs)
    rivals = {"waveform": matplotlib_waveform(), "spectrogram": matplotlib_spectrogram()}
    figures: dict[str, float] = {}
    table = Table(title=f"Drawing one epoch as PNG, {SPEC.size} × {SPEC.size} pixels, one core")
    for name in ("style", "eegvlm", "matplotlib", "times as fast"):
        table.add_column(name, justify="left" if name == "style" else "right")
    for style, rival in rivals.items():
        for draw in (ours(style), rival):
            draw(epochs[0])  # tapers, palettes and fonts are made once
        pairs = [
            (ms_per_picture(ours(style), epochs), ms_per_picture(rival, epochs))
            for _ in range(options.rounds)
        ]
        our_ms, rival_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(rival_ms / our_ms for our_ms, rival_ms in pairs)
        figures[f"{style}_vs_matplotlib"] = round(ratio, 2)
        figures[f"{style}_ms"] = round(our_ms, 3)
        table.add_row(style, f"{our_ms:.2f} ms", f"{rival_ms:.2f} ms", f"{ratio:.1f}")
    Console().print(table)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
