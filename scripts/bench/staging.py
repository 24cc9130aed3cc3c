"""How well the vision module stages sleep, beside what else can be had for the same epochs.

Simulated nights (spectral twins) of subjects 00 to 04 are trained on, 05 and 06 evaluated on; each
subject gives one night, with 30 min of wake around sleep. On the same epochs, one table:

discriminant  A linear discriminant on the logarithms of the band powers that the twins were made from:
              powers as measured in the real nights, of the drawn channel (and of both channels).
yasa          yasa's pretrained stager, which reads the simulated EDF; it has seen real nights only.
module        Our vision module alone, one row per picture style, as ``eegvlm extract`` trains it. What
              decides is its own validation subject, never 05 or 06.

What is simulated may be easier to read than sleep is: waveforms are drawn by the true stage.

    python scripts/bench/staging.py --styles spectrogram hybrid --size 64 --json
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import mne
import numpy as np
import yasa
from rich.console import Console
from rich.table import Table
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score

from eegtool.core.records import Epoch, read_epochs
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.core.workspace import Workspace
from eegtool.extract.trainer import score
from eegtool.simulate.twins import available_nights, load_twin, simulate_cohort

CHANNEL = "EEG Fpz-Cz"
EVALUATED = ("SC405", "SC406")
MARGIN_MIN = 60.0  # of wake, simulated; prepare trims it to its 30 min
SIMULATOR_SEED = 42
OF_YASA = {"WAKE": "W", "W": "W", "N1": "N1", "N2": "N2", "N3": "N3", "REM": "REM", "R": "REM"}

Row = dict[str, float | str]


def eegvlm(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "eegtool", *arguments], check=True)


def scored(name: str, true: np.ndarray, predicted: np.ndarray, seconds: float) -> Row:
    found = score(true, predicted)
    per_stage = f1_score(
        true, predicted, labels=range(len(STAGES)), average=None, zero_division=0.0
    )
    row: Row = {"name": name, "kappa": found.kappa, "macro_f1": found.macro_f1}
    row |= {"accuracy": found.accuracy, "n": found.n, "seconds": seconds}
    return row | {f"f1_{stage}": float(f1) for stage, f1 in zip(STAGES, per_stage, strict=True)}


def indices(epochs: Sequence[Epoch]) -> np.ndarray:
    return np.array([STAGE_INDEX[epoch.stage] for epoch in epochs])


def powers(epochs: Sequence[Epoch], channels: slice) -> np.ndarray:
    """Return the logarithms of the band powers that these epochs were simulated with."""
    of_night = {
        name: load_twin(name).cropped_around_sleep(MARGIN_MIN).psd_uv2_per_hz
        for name in {epoch.recording for epoch in epochs}
    }
    rows = [of_night[epoch.recording][epoch.epoch_index, channels].ravel() for epoch in epochs]
    return np.log(np.stack(rows))


def discriminant(ft: Sequence[Epoch], other: Sequence[Epoch], channels: slice) -> np.ndarray:
    model = LinearDiscriminantAnalysis().fit(powers(ft, channels), indices(ft))
    predicted: np.ndarray = model.predict(powers(other, channels))
    return predicted


def pretrained(epochs: Sequence[Epoch], recordings: Path) -> np.ndarray:
    """Return what yasa says of these epochs; it reads whole nights, as it was made to."""
    said = {}
    for name in sorted({epoch.recording for epoch in epochs}):
        raw = mne.io.read_raw_edf(
            recordings / f"{name}-PSG.edf", include=[CHANNEL], preload=True, verbose="error"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another version of scikit-learn
            staged = yasa.SleepStaging(raw, eeg_name=CHANNEL).predict()
        words = getattr(staged, "hypno", staged)  # yasa >= 0.7 gives a Hypnogram
        said[name] = [STAGE_INDEX[OF_YASA[str(word)]] for word in words]
    return np.array([said[epoch.recording][epoch.epoch_index] for epoch in epochs])


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def simulated(out: Path) -> Path:
    """Return a folder of simulated nights, one per subject, made if need be."""
    recordings = out / "recordings"
    if not recordings.exists():
        for path in simulate_cohort(
            recordings, available_nights(), SIMULATOR_SEED, margin_min=MARGIN_MIN
        ):
            print("simulated", path.name, flush=True)
    return recordings


def prepared(recordings: Path, root: Path, style: str, size: int, seed: int) -> Workspace:
    """Draw them in one style, by the command that a user types."""
    picture = ("--style", style, "--size", str(size), "--channel", CHANNEL)
    split = ("--eval-subjects", ",".join(EVALUATED))
    where = ("--workspace", str(root), "--seed", str(seed))
    eegvlm("prepare", str(recordings), *where, *picture, *split)
    return Workspace(root)


def predictions(workspace: Workspace) -> dict[str, int]:
    with (workspace.vision_module / "eval_stages.csv").open(encoding="utf-8", newline="") as file:
        return {row["sample_id"]: STAGE_INDEX[row["predicted"]] for row in csv.DictReader(file)}


def measure(options: argparse.Namespace, out: Path) -> list[Row]:
    recordings = simulated(out)
    modules: list[Row] = []
    asked: list[str] = []
    for style in options.styles:
        began = time.perf_counter()
        workspace = prepared(recordings, out / style, style, options.size, options.seed)
        where = ("--workspace", str(workspace.root), "--seed", str(options.seed))
        training = ("--backbone", options.backbone, "--train-epochs", str(options.train_epochs))
        eegvlm("extract", *where, *training)
        seconds = time.perf_counter() - began
        epochs = read_epochs(workspace.epochs)
        ft, other = ([e for e in epochs if e.split == side] for side in ("ft", "eval"))
        ids = [epoch.sample_id for epoch in other]
        if asked and ids != asked:
            raise SystemExit(f"the epochs of {style} are not those of {options.styles[0]}")
        asked = ids
        found = predictions(workspace)
        predicted = np.array([found[sample_id] for sample_id in ids])
        modules.append(scored(f"module, {style}", indices(other), predicted, seconds))
    true = indices(other)
    rows = []
    for name, work in {
        "discriminant, drawn channel": lambda: discriminant(ft, other, slice(0, 1)),
        "discriminant, both channels": lambda: discriminant(ft, other, slice(0, 2)),
        "yasa, pretrained": lambda: pretrained(other, recordings),
    }.items():
        rows.append(scored(name, true, *timed(work)))
    return rows + modules


def show(rows: Sequence[Row], options: argparse.Namespace) -> None:
    table = Table(
        title=f"{rows[0]['n']:,} simulated epochs of {' and '.join(EVALUATED)}; module: "
        f"{options.backbone}, {options.size} × {options.size} px, {options.train_epochs} passes"
    )
    table.add_column("who")
    numbers = ("kappa", "macro_f1", "accuracy", *(f"f1_{stage}" for stage in STAGES))
    for name in (*numbers, "s"):
        table.add_column(name.replace("kappa", "κ").replace("f1_", "F1 "), justify="right")
    for row in rows:
        table.add_row(
            str(row["name"]), *(f"{row[name]:.3f}" for name in numbers), f"{row['seconds']:.0f}"
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--styles", nargs="+", default=["spectrogram", "hybrid"])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures")
    parser.add_argument("--train-epochs", type=int, default=4, help="passes")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, help="keep the workspaces here, and go on with them")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        rows = measure(options, options.out or Path(tmp))
    show(rows, options)
    best = max(float(row["kappa"]) for row in rows if str(row["name"]).startswith("module"))
    lda = float(rows[0]["kappa"])
    verdict = "at least as good as" if best >= lda else "WORSE than"
    print(f"Our best module (κ {best:.3f}) is {verdict} the linear discriminant (κ {lda:.3f}).")
    if options.json:
        print(json.dumps({"rows": rows, "best_module_minus_discriminant_kappa": best - lda}))
    if best < lda:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
