"""How well the vision module and the language model stage sleep, beside what else can be had for the same epochs.

Subjects 00 to 04 are trained on, 05 and 06 evaluated on: nights simulated by ``eegvlm demo --nights-only`` (one of
each subject), or a folder of yours with names of Sleep-EDF (``--recordings``). On the same epochs, one table:

discriminant  A linear discriminant on the logarithms of band powers measured in the recordings: of the drawn channel,
              of both EEG channels, and of both with those of three epochs on either side.
yasa, gssc    Pretrained stagers that read whole nights (gssc where it is installed and its weights can be read).
module        Our vision module alone, of each picture style and seed, without and with ``--context``.
model         The language model on the module's features, fine-tuned and calibrated on the validation subject.
smoothed      … after smoothing over the night (``stage_smoothed``).

What decides anything is the module's own validation subject, one of 00 to 04, never 05 or 06. Of several seeds the
mean stands in the table, and the range; for each evaluated subject its own κ. What is simulated may be easier to read
than sleep is.

    python scripts/bench/staging.py --recordings nights --seeds 42 43 44 --json
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
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import mne
import numpy as np
import yasa
from rich.console import Console
from rich.table import Table
from scipy.integrate import simpson
from scipy.signal import welch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from eegtool.core.answers import read_stage
from eegtool.core.records import Epoch, read_answers, read_epochs
from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.core.workspace import Workspace
from eegtool.simulate.twins import available_nights, simulate_cohort

CHANNELS = ("EEG Fpz-Cz", "EEG Pz-Oz")
EVALUATED = ("SC405", "SC406")
MARGIN_MIN = 60.0  # of wake, simulated; prepare trims it to its 30 min
SIMULATOR_SEED = 42
NEIGHBOURS = 3
BANDS_HZ = (0.5, 1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 25, 30, 35)  # edges
OF_YASA = {"WAKE": "W", "W": "W", "N1": "N1", "N2": "N2", "N3": "N3", "REM": "REM", "R": "REM"}
OF_GSSC = ("W", "N1", "N2", "N3", "REM")

Stages = dict[str, str]
"""What somebody says of each evaluated epoch, by sample id."""


def eegvlm(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "eegtool", *arguments], check=True)


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
    picture = ("--style", style, "--size", str(size), "--channel", CHANNELS[0])
    split = ("--eval-subjects", ",".join(EVALUATED))
    where = ("--workspace", str(root), "--seed", str(seed))
    eegvlm("prepare", str(recordings), *where, *picture, *split)
    return Workspace(root)


# --- rivals -----------------------------------------------------------------------------------------


def raw_of(recordings: Path, night: str) -> mne.io.BaseRaw:
    (path,) = recordings.glob(f"{night}-PSG.edf")
    return mne.io.read_raw_edf(path, include=list(CHANNELS), preload=True, verbose="error")


def powers(recordings: Path, night: str) -> np.ndarray:
    """Return the logarithm of the power in each band, float [n_epochs, n_channels, n_bands]."""
    raw = raw_of(recordings, night)
    sfreq_hz = raw.info["sfreq"]
    width = round(EPOCH_S * sfreq_hz)
    data_uv = raw.get_data(picks=list(CHANNELS)) * 1e6
    epochs_uv = data_uv[:, : data_uv.shape[1] // width * width].reshape(len(CHANNELS), -1, width)
    freqs_hz, density = welch(epochs_uv, sfreq_hz, nperseg=round(4 * sfreq_hz))
    bands = [
        simpson(density[..., (freqs_hz >= low) & (freqs_hz <= high)], dx=freqs_hz[1], axis=-1)
        for low, high in pairwise(BANDS_HZ)
    ]
    return np.log(np.maximum(np.stack(bands, axis=-1), 1e-6)).swapaxes(0, 1)


def discriminants(epochs: Sequence[Epoch], recordings: Path) -> Iterator[tuple[str, Stages]]:
    known = {night: powers(recordings, night) for night in {e.recording for e in epochs}}
    sides = [[e for e in epochs if e.split == side] for side in ("ft", "eval")]
    for name, n_channels, reach in (
        ("discriminant, drawn channel", 1, 0),
        ("discriminant, both channels", 2, 0),
        (f"discriminant, both, ± {NEIGHBOURS} epochs", 2, NEIGHBOURS),
    ):
        trained, asked = (
            np.stack([_row(known[e.recording], e.epoch_index, n_channels, reach) for e in side])
            for side in sides
        )
        model = LinearDiscriminantAnalysis().fit(trained, [e.stage for e in sides[0]])
        yield name, dict(zip((e.sample_id for e in sides[1]), model.predict(asked), strict=True))


def _row(night: np.ndarray, index: int, n_channels: int, reach: int) -> np.ndarray:
    """Return an epoch's powers and those around it; the ends of the night stand for what is beyond."""
    around = np.clip(np.arange(index - reach, index + reach + 1), 0, len(night) - 1)
    return night[around, :n_channels].ravel()


def by_yasa(raw: mne.io.BaseRaw) -> Sequence[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another version of scikit-learn
        staged = yasa.SleepStaging(raw, eeg_name=CHANNELS[0]).predict()
    words = getattr(staged, "hypno", staged)  # yasa >= 0.7 gives a Hypnogram
    return [OF_YASA[str(word)] for word in words]


def by_gssc(raw: mne.io.BaseRaw) -> Sequence[str]:
    from gssc.infer import EEGInfer

    found, _ = EEGInfer(use_cuda=False).mne_infer(raw, eeg=list(CHANNELS), eog=[])
    return [OF_GSSC[int(stage)] for stage in found]


def pretrained(
    stage: Callable[[mne.io.BaseRaw], Sequence[str]], epochs: Sequence[Epoch], recordings: Path
) -> Stages:
    """Return what a stager that reads whole nights says of the evaluated epochs, given the hours that these span."""
    nights: dict[str, list[Epoch]] = {}
    for epoch in epochs:
        if epoch.split == "eval":
            nights.setdefault(epoch.recording, []).append(epoch)
    said: Stages = {}
    for night, asked in nights.items():
        first = min(e.epoch_index for e in asked)
        last = max(e.epoch_index for e in asked) + 1
        raw = raw_of(recordings, night)
        raw.crop(first * EPOCH_S, min(last * EPOCH_S, raw.times[-1]))
        found = stage(raw)
        said |= {e.sample_id: found[min(e.epoch_index - first, len(found) - 1)] for e in asked}
    return said


# --- ours -------------------------------------------------------------------------------------------


def of_module(workspace: Workspace) -> Stages:
    with (workspace.vision_module / "eval_stages.csv").open(encoding="utf-8", newline="") as file:
        return {row["sample_id"]: row["predicted"] for row in csv.DictReader(file)}


def of_model(
    workspace: Workspace, name: str, options: argparse.Namespace, seed: int
) -> list[Stages]:
    """Fine-tune on the workspace's features; return what the model says, and the same smoothed."""
    where = ("--workspace", str(workspace.root), "--seed", str(seed))
    adapter = workspace.checkpoints / name
    if not (adapter / "eegvlm.json").exists():
        steps = str(options.steps)
        base = ("--model-name-or-path", options.model, "--output-dir", str(adapter))
        lora = ("--lora-r", "16", "--lora-alpha", "32", "--learning-rate", "2e-3")
        held = ("--eval-strategy", "steps", "--eval-steps", steps, "--eval-limit", "200")
        plain = ("--deepspeed", "none", "--max-steps", steps, "--calibrate")
        eegvlm("finetune", *where, *base, *lora, *held, *plain)
    out = workspace.answers.with_name(f"{name}.jsonl")
    asked = ("--model-path", str(adapter), "--answers-file", str(out))
    eegvlm("evaluate", *where, *asked, "--mode", "score")
    rows = read_answers(out)
    said = {row.question_id: read_stage(row.text).stage or "" for row in rows}
    return [said, {row.question_id: str(row.metadata["stage_smoothed"]) for row in rows}]


def ours(
    workspace: Workspace, style: str, options: argparse.Namespace, seed: int
) -> Iterator[tuple[str, Stages]]:
    where = ("--workspace", str(workspace.root), "--seed", str(seed))
    training = ("--backbone", options.backbone, "--train-epochs", str(options.train_epochs))
    for context in (0, options.context):
        eegvlm("extract", *where, *training, "--context", str(context))
        about = f"{style}, {f'context {context} min' if context else 'no context'}"
        yield f"module, {about}", of_module(workspace)
        if options.model:
            said, smoothed = of_model(workspace, f"{style}-{context}", options, seed)
            yield f"model, {about}", said
            yield "… smoothed", smoothed


# --- the table --------------------------------------------------------------------------------------


def scored(epochs: Mapping[str, Epoch], said: Stages) -> dict[str, float]:
    if said.keys() != epochs.keys():
        raise SystemExit(f"{len(said)} epochs were staged, {len(epochs)} asked about")
    ids = list(epochs)
    true, found = [epochs[i].stage for i in ids], [said[i] for i in ids]
    f1 = f1_score(true, found, labels=STAGES, average=None, zero_division=0.0)
    figures = {
        "kappa": cohen_kappa_score(true, found),
        "macro_f1": float(np.mean(f1)),
        "accuracy": accuracy_score(true, found),
    } | {f"f1_{stage}": float(value) for stage, value in zip(STAGES, f1, strict=True)}
    for subject in EVALUATED:
        own = [i for i in ids if epochs[i].subject == subject]
        pair = [epochs[i].stage for i in own], [said[i] for i in own]
        figures[f"kappa_{subject}"] = cohen_kappa_score(*pair)
    return figures


def measure(
    options: argparse.Namespace, out: Path
) -> tuple[dict[str, list[dict[str, float]]], int]:
    """Return the figures of everybody, one for each seed, by name; and the number of epochs."""
    recordings = options.recordings or simulated(out)
    rows: dict[str, list[dict[str, float]]] = {}
    asked: dict[str, Epoch] = {}
    for seed in options.seeds:
        for style in options.styles:
            workspace = prepared(recordings, out / f"{style}-{seed}", style, options.size, seed)
            epochs = read_epochs(workspace.epochs)
            asked = {e.sample_id: e for e in epochs if e.split == "eval"}
            if not rows:
                for name, said in rivals(epochs, recordings):
                    rows[name] = [scored(asked, said)]
                    print(name, json.dumps(rows[name][0]), flush=True)
            above = ""
            for name, said in ours(workspace, style, options, seed):
                above, key = (above, f"{above} {name}") if name.startswith("…") else (name, name)
                rows.setdefault(key, []).append(scored(asked, said))
                print(key, seed, json.dumps(rows[key][-1]), flush=True)
    return rows, len(asked)


def rivals(epochs: Sequence[Epoch], recordings: Path) -> Iterator[tuple[str, Stages]]:
    yield from discriminants(epochs, recordings)
    yield "yasa, pretrained", pretrained(by_yasa, epochs, recordings)
    try:
        yield "gssc, pretrained", pretrained(by_gssc, epochs, recordings)
    except Exception as error:
        print(f"gssc left out: {str(error).splitlines()[0]}")


def show(
    rows: Mapping[str, Sequence[Mapping[str, float]]], n: int, options: argparse.Namespace
) -> None:
    table = Table(
        title=f"{n:,} epochs of {' and '.join(EVALUATED)}, trained on 00 to 04; {options.backbone}, "
        f"{options.size} × {options.size} px, {options.train_epochs} passes; seeds "
        f"{', '.join(map(str, options.seeds))}: mean (lowest to highest)"
    )
    table.add_column("who")
    columns = {"kappa": "κ", "macro_f1": "macro-F1", "accuracy": "accuracy"}
    columns |= {f"f1_{stage}": stage for stage in STAGES}
    columns |= {f"kappa_{subject}": f"κ {subject}" for subject in EVALUATED}
    for name in columns.values():
        table.add_column(name, justify="right")
    for who, runs in rows.items():
        cells = []
        for name in columns:
            values = [run[name] for run in runs]
            spread = f" ({min(values):.3f}–{max(values):.3f})" if len(runs) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread if name in ('kappa', 'macro_f1') else ''}")
        table.add_row(who, *cells)
    Console(width=200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recordings", type=Path, help="nights with names of Sleep-EDF")
    parser.add_argument("--styles", nargs="+", default=["spectrogram"])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures")
    parser.add_argument("--train-epochs", type=int, default=4, help="passes of the module")
    parser.add_argument("--context", type=float, default=10, help="minutes on either side")
    parser.add_argument("--model", default="tiny", help="base of the language model; '' for none")
    parser.add_argument("--steps", type=int, default=450, help="of its fine-tuning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--out", type=Path, help="keep the workspaces here, and resume with them")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        rows, n = measure(options, options.out or Path(tmp))
    show(rows, n, options)
    best = max(
        np.mean([run["kappa"] for run in runs]) for who, runs in rows.items() if "module" in who
    )
    lda = rows["discriminant, drawn channel"][0]["kappa"]
    verdict = "at least as good as" if best >= lda else "WORSE than"
    print(f"Our best module (κ {best:.3f}) is {verdict} the linear discriminant (κ {lda:.3f}).")
    if options.json:
        print(
            json.dumps({"n": n, "rows": rows, "best_module_minus_discriminant_kappa": best - lda})
        )
    if best < lda:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
