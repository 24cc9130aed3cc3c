"""Every kind of vision module, trained for a few steps and exported by ``eegvlm extract``.

One row each: the paper's two CNNs, a transformer, a MambaOut, the state-space encoder, and an own module
(`Rhythms`, given as ``modules:Rhythms``). Checked are shape, type and finiteness of both files of
features, that they are what the module loaded back from its weights exports, and that a module which was
never on disk exports the same numbers before it is saved and after it is loaded.

    python scripts/bench/modules.py --json
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from eegtool.core.records import Epoch, read_epochs
from eegtool.core.workspace import Workspace
from eegtool.extract.export import export
from eegtool.extract.module import VisionModule
from eegtool.extract.weights import load_module, save_module
from eegtool.simulate.twins import available_nights, load_twin, write_night

HERE = Path(__file__).parent
BACKBONES = (
    "resnet18",
    "convnext_base",
    "vit_tiny_patch16_224",
    "mambaout_femto",
    "vision_mamba",
    "modules:Rhythms",
)
BATCH = 16
N_NIGHTS = 4  # one of them is evaluated on, one validates


class Rhythms(nn.Module):
    """An own module: short waves, and the strongest answer of each row of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.waves = nn.Conv2d(3, 32, kernel_size=7, stride=2, padding=3)
        self.groups = nn.Conv2d(32, 64, kernel_size=5, stride=4, padding=2)

    def pixels(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float() / 255 - 0.5

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.groups(torch.relu(self.waves(pixels))).relu()

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        return features.amax(dim=3).mean(dim=2)


def eegvlm(*arguments: str) -> None:
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-m", "eegtool", *arguments], check=True, env=environment)


def prepared(out: Path, size: int, epochs_per_stage: int) -> Workspace:
    for name in available_nights()[:N_NIGHTS]:
        write_night(load_twin(name).condensed(epochs_per_stage), out / "recordings", seed=42)
    workspace = Workspace(out / "workspace")
    eegvlm("prepare", str(out / "recordings"), "-w", str(workspace.root), "--size", str(size))
    return workspace


def exported(module: VisionModule, epochs: list[Epoch], folder: Path, out: Path) -> np.ndarray:
    export(module, epochs, folder, out, device=torch.device("cpu"))
    rows: np.ndarray = np.load(out, allow_pickle=False)
    return rows


def saved_is_loaded(name: str, workspace: Workspace, sides: dict[str, list[Epoch]]) -> bool:
    some, folder = sides["eval"][:BATCH], workspace.images("eval")
    out = workspace.root / "module"
    module = VisionModule(name, size=workspace.protocol()["size"])
    before = exported(module, some, folder, workspace.root / "again.npy")
    save_module(out, module, {})
    loaded, _ = load_module(out, backbone=name)
    return np.array_equal(before, exported(loaded, some, folder, workspace.root / "again.npy"))


def check(name: str, workspace: Workspace, sides: dict[str, list[Epoch]]) -> dict[str, Any]:
    began = time.perf_counter()
    eegvlm(
        *("extract", "-w", str(workspace.root), "--backbone", name),
        *("--train-epochs", "1", "--batch-size", str(BATCH)),
    )
    seconds = time.perf_counter() - began
    module, card = load_module(workspace.vision_module, backbone=name)
    row: dict[str, Any] = {"backbone": name, "seconds": round(seconds, 1)}
    row |= {"parameters": card["parameters"], "width": card["width"]}
    row["steps"] = card["training"]["n_train"] // BATCH
    row["shapes"], row["finite"], row["same"] = [], True, saved_is_loaded(name, workspace, sides)
    for side, epochs in sides.items():
        rows = np.load(workspace.features(side), allow_pickle=False)
        again = workspace.root / "again.npy"
        exported(module, epochs, workspace.images(side), again)
        row["shapes"].append(list(rows.shape))
        row["dtype"] = str(rows.dtype)
        row["finite"] &= bool(np.isfinite(rows).all())
        row["same"] &= bool(np.array_equal(rows, np.load(again, allow_pickle=False)))
        again.unlink()
    expected = [[len(epochs), 1, 1024] for epochs in sides.values()]
    row["passed"] = row["shapes"] == expected and row["dtype"] == "float32"
    row["passed"] &= row["finite"] and row["same"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures")
    parser.add_argument("--epochs-per-stage", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        workspace = prepared(Path(tmp), options.size, options.epochs_per_stage)
        epochs = read_epochs(workspace.epochs)
        sides = {side: [e for e in epochs if e.split == side] for side in ("ft", "eval")}
        rows = [check(name, workspace, sides) for name in options.backbones]
    table = Table(title=f"a pass of training and the export, {options.size} × {options.size} px")
    table.add_column("backbone")
    for name in ("parameters", "width", "steps", "features", "dtype", "finite", "same", "s"):
        table.add_column(name, justify="right")
    for row in rows:
        parameters = f"{row['parameters'] / 1e6:.1f} M"
        shapes = " ".join(str(shape) for shape in row["shapes"])
        told = (row["dtype"], row["finite"], row["same"], row["seconds"])
        numbers = (parameters, row["width"], row["steps"], shapes, *told)
        table.add_row(row["backbone"], *map(str, numbers))
    Console(width=120).print(table)
    if options.json:
        print(json.dumps({"rows": rows}))
    if not all(row["passed"] for row in rows):
        raise SystemExit("some module did not pass")


if __name__ == "__main__":
    main()
