"""stage: seconds and peak memory for a simulated night of 22 h, and what many nights cost together; by `tiny`, on a CPU.

    python scripts/bench/stage.py --model-path try/model        # a model that cpu_recipe.sh has trained

Goals: a whole night takes at most 90 s and 2 GB, the start of Python included. For 1, 4 and 12 short nights
the model is loaded once, the last night takes as long as the second, and all together take at most 1.1 times
one load and what each night takes by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eegtool.core.console import console
from eegtool.model import adapters
from eegtool.simulate.twins import available_nights, load_twin, write_night
from eegtool.stage import step
from eegtool.stage.options import StageSettings
from eegtool.stage.stager import Stager

GOALS = {"seconds": 90.0, "peak_mb": 2000.0}
GOALS_OF_MANY = {"loads": 1.0, "last_vs_second": 1.1, "all_vs_alone": 1.1}
EPOCHS_PER_STAGE = 24
"""Of a short night: 120 epochs."""

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


class Watch:
    """Takes the seconds of each call of some functions: those that this process computed, whatever else runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def timed(self, owner: Any, name: str) -> None:
        """Put a stopwatch around a function."""
        function = getattr(owner, name)

        def run(*args: Any, **how: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **how)
            finally:
                self.seconds.setdefault(name, []).append(time.process_time() - began)

        setattr(owner, name, run)


def many(model: Path, folder: Path, n: int, watch: Watch) -> dict[str, float]:
    """Stage `n` short nights together, and each by itself with a model that is loaded."""
    paths = []
    for i in range(n):
        twin = load_twin(available_nights()[i % len(available_nights())])
        path, _ = write_night(twin.condensed(EPOCHS_PER_STAGE), folder / f"{n}-{i}", seed=i)
        paths.append(path.rename(folder / f"night{n}-{i}.edf"))
    watch.seconds.clear()
    began = time.process_time()
    step.run(StageSettings(paths, model, out=folder / f"together{n}"))
    together_s = time.process_time() - began
    loads, each = len(watch.seconds["load_base"]), watch.seconds["_stage_one"]
    began = time.process_time()
    stager = Stager.load(model)
    alone_s = time.process_time() - began
    for path in paths:
        began = time.process_time()
        stager.stage(path).save(folder / f"alone{n}")
        alone_s += time.process_time() - began
    return {
        "nights": n,
        "loads": loads,
        "seconds": together_s,
        "last_vs_second": statistics.median(each[-3:]) / each[1] if n > 3 else 1.0,
        "all_vs_alone": together_s / alone_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--model-path", type=Path, default=Path("try/model"))
    options = parser.parse_args()
    if not (options.model_path / "eegvlm.json").exists():
        print(
            f"{options.model_path} is not a model: run scripts/cpu_recipe.sh first. Nothing measured."
        )
        return
    model = options.model_path.resolve()
    with tempfile.TemporaryDirectory() as name:
        figures = measure(model, Path(name))
        print(f"A night of {figures['epochs']:,} epochs on {os.cpu_count()} cores:")
        for key, goal in GOALS.items():
            print(f"  {key:<14} {figures[key]:>8,.1f}   <= {goal:g} {verdict(figures[key], goal)}")
        watch = Watch()
        watch.timed(adapters, "load_base")
        watch.timed(step, "_stage_one")
        console.quiet = True
        many(
            model, Path(name), 2, watch
        )  # imports, and what libraries compile when they are first used
        for n in (1, 4, 12):
            found = many(model, Path(name), n, watch)
            print(f"{n} nights of {5 * EPOCHS_PER_STAGE} epochs: {found['seconds']:.1f} s")
            for key, goal in GOALS_OF_MANY.items():
                print(f"  {key:<14} {found[key]:>8.3f}   <= {goal:g} {verdict(found[key], goal)}")
            figures |= {f"{key}_{n}": value for key, value in found.items()}
    if options.json:
        print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


def verdict(figure: float, goal: float) -> str:
    return "reached" if figure <= goal else "NOT reached"


if __name__ == "__main__":
    main()
