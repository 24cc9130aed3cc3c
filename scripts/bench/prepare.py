"""How fast prepare is, as ratios measured in one run.

drawing     One epoch to PNG, 336 x 336, one core. The rival is what users run: a loop that makes a
            figure per epoch with pyplot, saves it as PNG and closes it. Beside it stands the best
            case of matplotlib: one figure is kept, and only its data change. Both draw the same
            curve or spectrogram at the same size, without axes. CPU time, which other programs on
            the machine do not lengthen; median of rounds in which all take turns.
night       `prepare` on simulated nights of 22 h and 7 channels, against what cannot be left out: MNE
            reads the one channel, it is filtered, and the same pictures are encoded as PNG by Pillow.
jobs        The command with --jobs 1 against --jobs 2. Needs two cores that are free.
memory      Largest memory of a process that prepared one night, and many.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import edfio
import matplotlib.pyplot as plt
import mne
import numpy as np
from matplotlib import mlab
from PIL import Image
from rich.console import Console
from rich.table import Table

from eegtool.pictures import STYLES, draw_png, spectrogram, wrapped
from eegtool.pictures.png import encode
from eegtool.pictures.spec import PictureSpec
from eegtool.prepare.options import PrepareSettings
from eegtool.recordings.signals import band_pass
from eegtool.simulate.twins import load_twin, simulate_signal

SFREQ_HZ = 100.0
SPEC = PictureSpec(336)
CHANNEL = "EEG Fpz-Cz"
STYLE = "spectrogram"  # of the nights: what prepare draws by default
TWIN = "SC4001E0"
GOALS = {
    "waveform_vs_matplotlib": (">=", 40),
    "wrapped_vs_matplotlib": (">=", 30),
    "spectrogram_vs_matplotlib": (">=", 15),
    "hybrid_vs_matplotlib": (">=", 15),
    "night_vs_floor": ("<=", 1.5),
    "jobs2_speedup": (">=", 1.7),
    "peak_mb": ("<=", 700),
}

Draw = Callable[[np.ndarray], bytes]


# --- drawing ----------------------------------------------------------------------------------------


def epochs_uv(n: int) -> np.ndarray:
    """Simulate filtered epochs of all stages, float [n, 3000]."""
    night_uv = simulate_signal(load_twin(TWIN).condensed(n // 5), seed=1)[0]
    return band_pass(night_uv, SFREQ_HZ, 0.3, 35.0).reshape(-1, 3000)


class Figure:
    """What both rivals draw: curves in rows, a spectrogram, or one above the other."""

    def __init__(self, style: str) -> None:
        inches = SPEC.size / 100
        both = style == "hybrid"
        self.figure, axes = plt.subplots(
            1 + both, figsize=(inches, inches), dpi=100, squeeze=False,
            height_ratios=[7, 5] if both else None,
        )  # fmt: skip
        self.figure.subplots_adjust(0, 0, 1, 1, hspace=0)
        for ax in axes.flat:
            ax.set_axis_off()
        self.curve = None if style == "spectrogram" else axes[0, 0]
        self.power = axes[-1, 0] if style in ("spectrogram", "hybrid") else None
        height = SPEC.size * 7 // 12 if both else SPEC.size
        self.n_rows = 1 if style == "waveform" else wrapped.n_rows(SPEC.size, height)

    def rows(self, epoch_uv: np.ndarray) -> np.ndarray:
        offsets = -2 * SPEC.amplitude_uv * np.arange(self.n_rows)
        return epoch_uv.reshape(self.n_rows, -1) + offsets[:, None]

    def plot(self, epoch_uv: np.ndarray) -> None:
        low, high = spectrogram.FLOOR_DB, spectrogram.FLOOR_DB + spectrogram.STEP_DB * 94
        if self.curve is not None:
            for row in self.rows(epoch_uv):
                self.curve.plot(row, color="#18274b", linewidth=1.1 * 72 / 100)
            self.curve.set_xlim(0, len(epoch_uv) // self.n_rows - 1)
            self.curve.set_ylim(SPEC.amplitude_uv * (1 - 2 * self.n_rows), SPEC.amplitude_uv)
        if self.power is not None:
            self.power.specgram(epoch_uv, vmin=low, vmax=high, cmap="inferno", **WINDOWS)
            self.power.set_ylim(0, spectrogram.MAX_HZ)

    def change(self, epoch_uv: np.ndarray) -> None:
        if self.curve is not None:
            for line, row in zip(self.curve.lines, self.rows(epoch_uv), strict=True):
                line.set_ydata(row)
        if self.power is not None:
            density = mlab.specgram(epoch_uv, **WINDOWS)[0]
            self.power.images[0].set_data(10 * np.log10(density[::-1]))

    def encode(self) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


# Windows of 2 s every quarter of a second, as ours; one taper, where ours has three.
WINDOWS = {"NFFT": 200, "noverlap": 175, "pad_to": 256, "Fs": SFREQ_HZ}


def loop(style: str) -> Draw:
    def draw(epoch_uv: np.ndarray) -> bytes:
        figure = Figure(style)
        figure.plot(epoch_uv)
        png = figure.encode()
        plt.close(figure.figure)
        return png

    return draw


def reused(style: str) -> Draw:
    figure = Figure(style)
    figure.plot(np.random.default_rng(0).normal(size=3000))

    def draw(epoch_uv: np.ndarray) -> bytes:
        figure.change(epoch_uv)
        return figure.encode()

    return draw


def ours(style: str) -> Draw:
    return lambda epoch_uv: draw_png(style, [(epoch_uv, SFREQ_HZ)], SPEC)


def ms_per_picture(draw: Draw, epochs: np.ndarray) -> float:
    """Draw all epochs, over and over for a quarter of a second."""
    began, n = time.process_time(), 0
    while (spent_s := time.process_time() - began) < 0.25:
        for epoch_uv in epochs:
            draw(epoch_uv)
        n += len(epochs)
    return spent_s / n * 1e3


def drawing(n_epochs: int, n_rounds: int) -> dict[str, float]:
    epochs = epochs_uv(n_epochs)
    figures: dict[str, float] = {}
    for style in STYLES:
        draws = (ours(style), loop(style), reused(style))
        for draw in draws:
            picture = Image.open(io.BytesIO(draw(epochs[0])))  # also makes tables, loads fonts
            if picture.size != (SPEC.size, SPEC.size):
                raise SystemExit(f"A rival drew {picture.size} pixels.")
        rounds = [[ms_per_picture(draw, epochs) for draw in draws] for _ in range(n_rounds)]
        plt.close("all")
        figures[f"{style}_vs_matplotlib"] = statistics.median(b / a for a, b, _ in rounds)
        figures[f"{style}_vs_matplotlib_reused"] = statistics.median(c / a for a, _, c in rounds)
        columns = zip(*rounds, strict=True)
        for name, column in zip(("", "_loop", "_reused"), columns, strict=True):
            figures[f"{style}{name}_ms"] = statistics.median(column)
    return figures


# --- nights -----------------------------------------------------------------------------------------


def write_nights(folder: Path, n: int) -> None:
    """Write nights of 22 h as Sleep-EDF has them: three channels at 100 Hz, four at 1 Hz.

    One is simulated; the others are copies under the names of other subjects.
    """
    folder.mkdir()
    twin = load_twin(TWIN)
    fpz, pz = simulate_signal(twin, seed=1)
    rng = np.random.default_rng(1)
    eog = 1.5 * np.roll(fpz, 7) + rng.normal(0, 5, len(fpz))
    channels = [
        (twin.channels[0], fpz, SFREQ_HZ, "uV"),
        (twin.channels[1], pz, SFREQ_HZ, "uV"),
        ("EOG horizontal", eog, SFREQ_HZ, "uV"),
        *(
            (label, rng.normal(middle, spread, len(fpz) // 100), 1.0, unit)
            for label, middle, spread, unit in (
                ("Resp oro-nasal", 0.0, 300.0, ""),
                ("EMG submental", 3.0, 1.0, "uV"),
                ("Temp rectal", 37.0, 0.1, "DegC"),
                ("Event marker", 900.0, 1.0, ""),
            )
        ),
    ]
    start = {
        "patient": edfio.Patient(code="SIMULATED", name=f"spectral_twin_of_{TWIN}"),
        "recording": edfio.Recording(startdate=twin.start.date(), equipment_code="SIMULATED"),
        "starttime": twin.start.time(),
    }
    signals = []
    for label, data, sfreq_hz, unit in channels:
        reach = 800.0 if sfreq_hz > 1 else float(np.abs(data).max() * 1.1)
        signals.append(
            edfio.EdfSignal(
                np.clip(data, -reach, reach),
                sampling_frequency=sfreq_hz,
                label=label,
                transducer_type="SIMULATED",
                physical_dimension=unit,
                physical_range=(-reach, reach),
            )
        )
    psg, scoring = folder / f"{TWIN}-PSG.edf", folder / f"{TWIN[:-1]}{twin.scorer}-Hypnogram.edf"
    edfio.Edf(signals, data_record_duration=30, **start).write(psg)
    annotations = [edfio.EdfAnnotation(r.onset_s, r.duration_s, r.text) for r in twin.hypnogram]
    edfio.Edf([], annotations=annotations, **start).write(scoring)
    for i in range(1, n):
        for path in (psg, scoring):
            copy = folder / path.name.replace("SC400", f"SC4{i:02d}")
            shutil.copyfile(path, copy)
            with copy.open("r+b") as file:  # prepare refuses one recording under two names
                file.seek(8 + 80 - 2)  # the end of the patient's field
                file.write(f"{i:02d}".encode())


def prepare(nights: Path, workspace: Path, jobs: int = 1) -> float:
    """Run the command in a process of its own and return how many seconds it took."""
    command = [
        *(sys.executable, "-m", "eegtool", "prepare", nights, "--workspace", workspace),
        *("--channel", CHANNEL, "--style", STYLE, "--jobs", jobs),
    ]
    began = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    shutil.rmtree(workspace)
    return seconds


def floor_s(nights: Path, workspace: Path) -> tuple[float, float]:
    """Return the seconds for what cannot be left out: with Pillow's encoder, and with ours."""
    pictures = []
    for path in sorted(workspace.glob("eeg_images_*/*/*.png")):
        with Image.open(path) as image:
            pictures.append(image.copy())
    arrays = [np.asarray(picture) for picture in pictures]
    began = time.perf_counter()
    for path in sorted(nights.glob("*-PSG.edf")):
        raw = mne.io.read_raw_edf(path, include=[CHANNEL], verbose="error")
        band_pass(raw.get_data()[0] * 1e6, SFREQ_HZ, 0.3, 35.0)
    read_s = time.perf_counter() - began
    began = time.perf_counter()
    for picture in pictures:
        picture.save(io.BytesIO(), "png")
    pillow_s = time.perf_counter() - began
    began = time.perf_counter()
    for array in arrays:
        encode(array, STYLES[STYLE].palette)
    return read_s + pillow_s, read_s + time.perf_counter() - began


def night(folder: Path, n_rounds: int) -> dict[str, float]:
    """Prepare two nights, so that both sides of the split have one; start-up is not counted."""
    from eegtool.prepare.step import run

    nights = folder / "two_nights"
    write_nights(nights, 2)
    rounds = []
    for i in range(n_rounds):
        workspace = folder / f"night_{i}"
        settings = PrepareSettings(
            [nights], workspace, channel=[CHANNEL], style=STYLE, eval_fraction=0.5
        )
        began = time.perf_counter()
        run(settings)
        total_s = time.perf_counter() - began
        rounds.append((total_s, *floor_s(nights, workspace)))
    return {
        "night_vs_floor": statistics.median(total / floor for total, floor, _ in rounds),
        "night_vs_floor_own_png": statistics.median(total / floor for total, _, floor in rounds),
        "night_s": statistics.median(total for total, *_ in rounds) / 2,
    }


def jobs(folder: Path, n_nights: int, n_rounds: int) -> dict[str, float]:
    """Compare one job with two, start-up included, on as many nights as make that small."""
    nights = folder / "nights_for_jobs"
    write_nights(nights, n_nights)
    ratios = [
        prepare(nights, folder / f"one_{i}", 1) / prepare(nights, folder / f"two_{i}", 2)
        for i in range(n_rounds)
    ]
    return {"jobs2_speedup": statistics.median(ratios)}


# VmHWM is of this program alone; getrusage would also count its parent, this bench.
PEAK = """
import sys
from pathlib import Path
from eegtool.prepare.options import PrepareSettings
from eegtool.prepare.step import run
nights, workspace, channel, style = sys.argv[1:]
run(PrepareSettings([Path(nights)], Path(workspace), channel=[channel], style=style))
status = Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0])
"""


def memory(folder: Path, n_nights: int) -> dict[str, float]:
    peaks_mb = []
    for n in (2, n_nights):  # two, one for each side of the split, are the fewest
        nights = folder / f"nights_for_memory_{n}"
        write_nights(nights, n)
        words = (PEAK, nights, folder / f"memory_{n}", CHANNEL, STYLE)
        command = [sys.executable, "-c", *map(str, words)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks_mb.append(int(done.stdout.split()[-1]) / 1024)
    return {"peak_mb": peaks_mb[1], "peak_mb_few_nights": peaks_mb[0]}


# --- table ------------------------------------------------------------------------------------------


def show(figures: dict[str, float]) -> None:
    console = Console()
    table = Table(title=f"One epoch as PNG, {SPEC.size} × {SPEC.size} pixels, one core")
    table.add_column("style", no_wrap=True)
    for name in ("eegvlm", "pyplot loop", "figure reused", "times as fast", "than reused", "goal"):
        table.add_column(name, justify="right")
    for style in STYLES:
        key = f"{style}_vs_matplotlib"
        if key in figures:
            times = [figures[f"{style}{name}_ms"] for name in ("", "_loop", "_reused")]
            ratios = [figures[key], figures[f"{key}_reused"]]
            cells = [f"{ms:.2f} ms" for ms in times] + [f"{ratio:.0f}" for ratio in ratios]
            table.add_row(style, *cells, _goal(key))
    if table.rows:
        console.print(table)
    table = Table(title="Nights of 22 h, 7 channels")
    for name in ("figure", "measured", "goal"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for key, value in figures.items():
        if key.startswith(("night", "jobs", "peak")):
            table.add_row(key, f"{value:.4g}", _goal(key))
    if table.rows:
        console.print(table)


def _goal(key: str) -> str:
    return "{} {}".format(*GOALS[key]) if key in GOALS else ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parts = ("drawing", "night", "jobs", "memory")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--epochs", type=int, default=20, help="epochs per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts")
    parser.add_argument(
        "--nights", type=int, default=20, help="nights for memory; twice as many for jobs"
    )
    options = parser.parse_args(arguments)

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "drawing" in options.only:
            figures |= drawing(options.epochs, options.rounds)
        if "night" in options.only:
            figures |= night(folder, min(options.rounds, 3))
        if "jobs" in options.only:
            figures |= jobs(folder, 2 * options.nights, min(options.rounds, 3))
        if "memory" in options.only:
            figures |= memory(folder, options.nights)
    show(figures)
    if options.json:
        print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
