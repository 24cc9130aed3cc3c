"""Everything that waits for a GPU, in one run: see `parts` for what, and `gpu.sh` for how to start it.

Each part has a time limit, and its row is written to OUT/results.jsonl at once. A part that fails, hangs or
runs out of memory is a row; the rest runs all the same. OUT/table.md is the table; OUT/log.txt says
everything. The exit code is 1 if any part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import packages
import table
from parts import Part, parts
from workers import Worker, adopt_orphans, end_orphans

ROOT = Path(__file__).parents[3]
RESERVE_S = 10.0  # to end what hangs, and for the table
HANG_S = 2.0  # limit of a part that is made to hang
INSTALL_S = 90.0
BUDGET_S = 560.0
SLOWER = 5  # a CPU, which others may use and where DeepSpeed's extension may have to be built


@dataclass(slots=True)
class Run:
    """One run: its rows, its clock, its workers."""

    out: Path
    work: Path
    rehearsal: bool
    budget_s: float
    faults: dict[str, str]
    began: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)
    workers: dict[str, Worker] = field(default_factory=dict)
    """By function for those in the background; that of all others is called ``""``."""

    def left_s(self) -> float:
        return self.budget_s - (time.monotonic() - self.began)

    def add(self, name: str, status: str, seconds: float, **more: Any) -> None:
        """Write a row, to the file at once."""
        row = {"part": name, "status": status, "seconds": round(seconds, 2), **more}
        self.rows.append(row)
        with (self.out / "results.jsonl").open("a") as file:
            print(json.dumps(row), file=file, flush=True)
        print(
            f"{self.budget_s - self.left_s():5.0f} s  {name}: {status} {row.get('error', '')}",
            flush=True,
        )

    def worker(self, part: Part) -> Worker:
        """Return the worker of a part; each one in the background has its own."""
        name = part.target.partition(":")[2] if part.background else ""
        if name not in self.workers:
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join((str(self.work / "site"), str(ROOT))),
                "EEGVLM_CACHE": str(self.work / "cache"),
                "COLUMNS": "200",
                "HF_HUB_OFFLINE": "1",
            }
            if self.rehearsal:
                environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
            else:  # one folder for all ranks, and for what is built ahead
                environment["TORCH_EXTENSIONS_DIR"] = str(self.work / "torch_extensions")
            log = self.out / f"log{name and '-'}{name}.txt"
            self.workers[name] = Worker(
                [str(self.work), str(int(self.rehearsal))], environment, log
            )
        return self.workers[name]

    def send(self, part: Part) -> None:
        fault = self.faults.get(part.name, "")
        request = {"target": part.target, "options": part.options, "fault": fault}
        limit_s = part.limit_s * (SLOWER if self.rehearsal else 1)
        limit_s = HANG_S if fault == "hang" else limit_s
        limit_s = min(limit_s, self.left_s() - RESERVE_S)
        self.worker(part).send(request, limit_s)

    def run(self, part: Part) -> None:
        """Run a part, or wait for one in the background, and write its row."""
        began = time.monotonic()
        if not part.background:
            if self.left_s() - RESERVE_S < part.expected_s:
                self.add(part.name, "skipped: no time", 0.0, figures={}, predicted=part.predicted)
                return
            self.send(part)
        worker = self.worker(part)
        reply = {"seconds": 0.0, "predicted": part.predicted} | worker.receive()
        reply["seconds"] = reply["seconds"] or time.monotonic() - began
        if reply["status"] == "failed" and "out of memory" in reply["error"]:
            reply["status"] = "failed: out of memory"
        if part.background or "out of memory" in reply["status"]:
            worker.close()  # its memory is for others
        if reply["status"].startswith("failed"):
            end_orphans({w.process.pid for w in self.workers.values() if w.process})
        self.add(part.name, reply.pop("status"), reply.pop("seconds"), **reply)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


def install(run: Run) -> None:
    """Install the wheels that were carried along, and say what is missing."""
    began, site = time.monotonic(), run.work / "site"
    found = sorted(map(str, packages.FOLDER.glob("*.whl")))
    output = ""
    if found and not run.rehearsal:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command = [*pip, "--no-compile", "--no-cache-dir", "--target", str(site), *found]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
            output = done.stderr.strip() if done.returncode else ""
        except subprocess.TimeoutExpired as late:
            output = str(late)
    names = {d.metadata["Name"] for d in distributions(path=[str(site), *sys.path])}
    lacking = sorted(packages.required() - set(map(packages.normal, filter(None, names))))
    error = output.rpartition("\n")[2] or (f"missing: {', '.join(lacking)}" if lacking else "")
    figures = {"wheels": 0 if run.rehearsal else len(found)}
    status = "failed" if error else "ok"
    run.add("installed", status, time.monotonic() - began, figures=figures, error=error)


def chosen(only: list[str]) -> Iterator[Part]:
    """Yield the parts whose names begin with one of these words; all where there are none."""
    for part in parts():
        if not only or part.name.startswith(tuple(only)):
            yield part


def go(run: Run, only: list[str]) -> None:
    """Run all parts; those in the background begin after the ceilings, which they would spoil."""
    install(run)
    todo = list(chosen(only))
    waiting = [part for part in todo if part.background]
    for part in todo:
        while waiting and part.name != "ceilings":
            run.send(waiting.pop())
        run.run(part)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fetch-wheels", action="store_true", help="fill wheels/, and end")
    parser.add_argument("--rehearse", action="store_true", help="all parts, small, on a CPU")
    parser.add_argument("--only", nargs="+", default=[], help="parts that begin with these words")
    parser.add_argument("--budget", type=float, help="seconds of the whole run")
    parser.add_argument("--break", dest="broken", default="", help="let this part fail")
    parser.add_argument("--hang", default="", help="let this part hang")
    options = parser.parse_args()
    if options.fetch_wheels:
        packages.fetch()
        return
    if not (options.rehearse or shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists()):
        sys.exit("There is no GPU here: give --rehearse.")
    out = Path(os.environ.get("OUT", "gpu_results")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in (out / "results.jsonl", out / "table.md", *out.glob("log*.txt")):
        old.unlink(missing_ok=True)
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    work = Path(tempfile.mkdtemp(prefix="eegvlm-gpu-"))
    faults = {options.broken: "break", options.hang: "hang"}
    budget_s = options.budget or BUDGET_S * (SLOWER if options.rehearse else 1)
    run = Run(out, work, options.rehearse, budget_s, faults)
    try:
        go(run, options.only)
    finally:
        run.close()
        shutil.rmtree(work, ignore_errors=True)
        table.show(run.rows, out / "table.md", rehearsal=options.rehearse)
    sys.exit(any(row["status"].startswith("failed") for row in run.rows))


if __name__ == "__main__":
    main()
