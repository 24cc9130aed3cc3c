"""Pictures as files against pictures that are drawn from stored signals when they are loaded.

storage     `prepare` on N simulated nights, with PNG files and with `--pictures none`: files, bytes, seconds.
batch       Pictures of a training batch as tensors, normalised: decoded from files against drawn from
            signals, and drawn from varied signals. One core; CPU time, which other programs on the machine
            do not lengthen; median over rounds in which all take turns. Files lie in the page cache.
strips      One PNG of one channel, of the six strips of the montage `aasm`, and of an epoch between two neighbours.
memory      Largest memory of a process that draws from N nights, and from a quarter of them.

    python scripts/bench/pictures.py --nights 20 --json
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from eegtool.core.console import console
from eegtool.core.records import read_epochs
from eegtool.core.workspace import Workspace
from eegtool.extract.data import Pictures
from eegtool.pictures import STYLES, draw_png
from eegtool.pictures.augmentation import Augmentation
from eegtool.pictures.signals import quantise
from eegtool.pictures.spec import PictureSpec, Strip
from eegtool.prepare import step
from eegtool.prepare.options import EEG_CHANNEL, PrepareSettings
from eegtool.recordings.montages import montage_of
from eegtool.simulate.twins import load_twin, simulate_psg, write_night

TWINS = ("SC4001E0", "SC4012E0", "SC4021E0", "SC4031E0")
SIZES = (224, 336)
BATCH = 32


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep prepare's tables off the screen."""
    console.quiet = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        console.quiet = False


def make_nights(folder: Path, n: int, epochs_per_stage: int) -> None:
    """Write `n` simulated nights of as many subjects, named as Sleep-EDF names them."""
    made = folder.with_name("made")
    folder.parent.mkdir(exist_ok=True)
    for name in TWINS:
        write_night(load_twin(name).condensed(epochs_per_stage), made, seed=1)
    folder.mkdir()
    for i in range(n):
        twin = TWINS[i % len(TWINS)]
        for path in made.glob(f"{twin[:7]}*"):
            name = path.name.replace(twin[:6], f"SC4{i // 10 % 10}{i % 10}{1 + i // 100}")
            content = bytearray(path.read_bytes())
            content[8:88] = f"S{i:03d} X X X".ljust(80).encode()  # no two recordings are the same
            (folder / name).write_bytes(content)


def settings_of(nights: Path, root: Path, **changes: Any) -> PrepareSettings:
    return replace(PrepareSettings([nights], root, eval_fraction=0.1), **changes)


def storage(nights: Path, root: Path) -> dict[str, Any]:
    """Prepare with and without files."""
    found: dict[str, Any] = {}
    ways: tuple[Literal["png", "none"], ...] = ("png", "none")
    for pictures in ways:
        workspace = root / pictures
        began = time.perf_counter()
        with quiet():
            step.run(settings_of(nights, workspace, pictures=pictures))
        seconds = time.perf_counter() - began
        files = [path for path in workspace.rglob("*") if path.is_file()]
        found[pictures] = {
            "files": len(files),
            "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
            "seconds": round(seconds, 1),
        }
    return found


def normalised(pictures: Pictures, indices: list[Any]) -> torch.Tensor:
    """Return a batch as a backbone would get it."""
    batch = torch.stack([pictures[i][0] for i in indices])
    return (batch.float() / 255 - 0.45) / 0.22


def batches(nights: Path, root: Path, rounds: int) -> list[dict[str, Any]]:
    """Load batches of every style and size in each way."""
    rows = []
    for style in STYLES:
        for size in SIZES:
            sources: dict[str, Pictures] = {}
            for pictures in ("png", "none"):
                workspace = Workspace(root / f"{style}-{size}-{pictures}")
                with quiet():
                    step.run(
                        settings_of(
                            nights, workspace.root, style=style, size=size, pictures=pictures
                        )
                    )
                side = [e for e in read_epochs(workspace.epochs) if e.split == "ft"]
                sources[pictures] = Pictures(side, workspace.images("ft"), size)
            varied = Pictures(side, workspace.images("ft"), size, Augmentation())
            chosen = np.random.default_rng(1).permutation(len(side))[:BATCH].tolist()
            same = [normalised(source, chosen) for source in sources.values()]
            if not torch.equal(*same):
                raise SystemExit(f"{style} at {size} px: drawn and decoded pictures differ")
            ways: dict[str, Callable[[], object]] = {
                "decoded": lambda s=sources, c=chosen: normalised(s["png"], c),
                "drawn": lambda s=sources, c=chosen: normalised(s["none"], c),
                "varied": lambda v=varied, c=chosen: normalised(v, [(i, i) for i in c]),
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            for name in islice(cycle(ways), len(ways) * rounds):
                began = time.process_time()
                ways[name]()
                times[name].append((time.process_time() - began) / BATCH * 1e3)
            ms = {name: round(statistics.median(values), 3) for name, values in times.items()}
            ratio = statistics.median(
                a / b for a, b in zip(times["drawn"], times["decoded"], strict=True)
            )
            rows.append({"style": style, "size": size, **ms, "drawn_vs_decoded": round(ratio, 3)})
    return rows


def strips(rounds: int) -> list[dict[str, Any]]:
    """Draw one channel, six strips and neighbours in every style of EEG and size; ms per PNG."""
    twin = load_twin(TWINS[0]).condensed(2)
    eeg, other, left, right, chin = simulate_psg(twin, seed=1).values()
    signals = ((eeg, eeg, other, left, right, chin), (eeg,))
    six, one = (quantise("night", "", 0.0, [("", x, 100.0) for x in some]) for some in signals)
    rows = []
    for style in (name for name in STYLES if name != "level"):
        eeg_style = {"style": style}
        _, specs = montage_of("aasm", [EEG_CHANNEL], [EEG_CHANNEL], eeg_style)
        drawn = tuple(Strip(s.style, s.amplitude_uv, s.height) for s in specs)
        for size in SIZES:
            looks = {
                "one": (one, PictureSpec(size)),
                "aasm": (six, PictureSpec(size, strips=drawn)),
                "neighbours": (one, PictureSpec(size, context_epochs=1)),
            }
            times: dict[str, list[float]] = {name: [] for name in looks}
            for name in islice(cycle(looks), len(looks) * rounds):
                night, spec = looks[name]
                began = time.process_time()
                for epoch in range(1, 9):
                    around = night.around(30.0 * epoch, spec.context_epochs)
                    draw_png(style, night.cut_uv(30.0 * epoch), spec, around)
                times[name].append((time.process_time() - began) / 8 * 1e3)
            ms = {name: statistics.median(values) for name, values in times.items()}
            rows.append(
                {
                    "style": style,
                    "size": size,
                    **{name: round(value, 2) for name, value in ms.items()},
                    "aasm_vs_one": round(ms["aasm"] / ms["one"], 2),
                }
            )
    return rows


def peak(root: Path, share: float) -> float:
    """Draw an epoch of a share of all nights, many times over, and return the largest memory in MB."""
    workspace = Workspace(root)
    side = [e for e in read_epochs(workspace.epochs) if e.split == "ft"]
    names = sorted({e.recording for e in side})
    wanted = set(names[: max(round(len(names) * share), 1)])
    pictures = Pictures([e for e in side if e.recording in wanted], workspace.images("ft"))
    for i in np.random.default_rng(1).integers(len(pictures), size=3000).tolist():
        pictures[i]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(root: Path) -> dict[str, float]:
    """Measure `peak` in processes of their own."""
    found = {}
    for name, share in (("quarter", 0.25), ("all", 1.0)):
        command = [sys.executable, __file__, "--peak", str(root), "--share", str(share)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = round(float(out), 1)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--nights", type=int, default=20, help="simulated nights of the storage part"
    )
    parser.add_argument("--epochs", type=int, default=50, help="epochs per stage of each")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak(options.peak, options.share))
        return
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        make_nights(root / "nights", options.nights, options.epochs)
        make_nights(root / "few" / "nights", 4, 10)
        found = {
            "nights": options.nights,
            "storage": storage(root / "nights", root),
            "batch_ms_per_picture": batches(root / "few" / "nights", root, options.rounds),
            "strips_ms": strips(options.rounds),
            "peak_mb": memory(root / "none"),
        }
    show(found)
    if options.json:
        print(json.dumps(found))


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    out = Console()
    table = Table("pictures", "files", "MB", "seconds", title=f"prepare, {found['nights']} nights")
    for name, row in found["storage"].items():
        table.add_row(name, *(f"{row[key]:,}" for key in ("files", "megabytes", "seconds")))
    out.print(table)
    table = Table(
        "style",
        "px",
        "decoded",
        "drawn",
        "varied",
        "drawn / decoded",
        title="ms per picture, one core",
    )
    for row in found["batch_ms_per_picture"]:
        table.add_row(*(str(value) for value in row.values()))
    out.print(table)
    table = Table(
        "style", "px", "one", "aasm", "neighbours", "aasm / one", title="ms per PNG, one core"
    )
    for row in found["strips_ms"]:
        table.add_row(*(str(value) for value in row.values()))
    out.print(table)
    out.print("peak memory, MB:", found["peak_mb"])


if __name__ == "__main__":
    main()
