"""stage: seconds and peak memory for a simulated night of 22 h on a CPU, by `tiny`.

    python scripts/bench/stage.py --model-path try/model        # a model that cpu_recipe.sh has trained

Goals: at most 90 s and 2 GB, the start of Python included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from eegtool.prepare.simulate import available_nights, load_twin, write_night

GOALS = {"seconds": 90.0, "peak_mb": 2000.0}

# VmHWM is of this program alone.
PEAK = """
import sys
from pathlib import Path
from eegtool.cli import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def measure(model: Path, folder: Path) -> dict[str, float]:
    """Stage a whole night; return seconds, MB and epochs."""
    recording, _ = write_night(load_twin(available_nights()[-1]), folder, seed=7)
    words = ["stage", recording, "--model-path", model, "--out", folder / "staged", "--smooth"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", PEAK, *map(str, words), "--json"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    (night,) = json.loads(done.stdout)["nights"]
    peak_mb = int(done.stderr.split()[-1]) * 1024 / 1e6
    return {"epochs": night["epochs"], "seconds": seconds, "peak_mb": peak_mb}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--model-path", type=Path, default=Path("try/model"))
    options = parser.parse_args()
    if not (options.model_path / "eegvlm.json").exists():
        print(
            f"{options.model_path} is no model: run scripts/cpu_recipe.sh first. Nothing measured."
        )
        return
    with tempfile.TemporaryDirectory() as name:
        figures = measure(options.model_path.resolve(), Path(name))
    print(f"A night of {figures['epochs']:,} epochs on {os.cpu_count()} cores:")
    for key, goal in GOALS.items():
        verdict = "reached" if figures[key] <= goal else "NOT reached"
        print(f"  {key:<8} {figures[key]:>8,.1f}   <= {goal:g} {verdict}")
    if options.json:
        print(json.dumps({key: round(value, 2) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
