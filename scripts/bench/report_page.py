"""How large the review of a report is and how fast it opens, in headless Chromium.

open        From navigation to the end of loading, and until the first epoch is shown: median of the runs.
key         From a key press to the next epoch drawn, filter: from a click to the list drawn (layout included).
nodes       Elements of the page, and of them in the browser of epochs.

Answers are those of `report.py`, with hypnograms of all nights; pictures are noise that takes as much
room as a spectrogram of 336 px does. Needs chromium and chromium-driver.

    python scripts/bench/report_page.py --rows 20000 --subjects 20 --json
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import report as generator
from PIL import Image
from rich.console import Console
from rich.table import Table
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from eegtool.core.records import Epoch, write_epochs
from eegtool.core.workspace import Workspace
from eegtool.report.options import ReportSettings
from eegtool.report.step import run

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DRAWN = 300  # different pictures; more epochs than these share them
OPENED = """
const t = performance.timing;
return [t.loadEventEnd - t.navigationStart, performance.getEntriesByName('browser-ready')[0].startTime]
"""
NODES = "return ['*', '#epochs *'].map(s => document.querySelectorAll(s).length)"
STEPS = """
const began = performance.now();
for (let i = 0; i < 200; i++) {
  document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}));
  document.querySelector('.detail').offsetHeight;
}
return (performance.now() - began) / 200
"""
FILTERS = """
const began = performance.now();
const chip = document.querySelector('[data-facet=verdict] [data-value=wrong]');
for (let i = 0; i < 20; i++) { chip.click(); document.querySelector('.list').offsetHeight; }
return (performance.now() - began) / 20
"""


def make_workspace(root: Path, rows: int, subjects: int) -> Workspace:
    """Write answers, a table of epochs and pictures."""
    workspace = Workspace(root)
    workspace.answers.parent.mkdir(parents=True)
    generator.write(workspace.answers, rows, subjects)
    rng = np.random.default_rng(0)
    folder = workspace.images("eval")
    folder.mkdir()
    for i in range(DRAWN):
        noise = rng.integers(0, 96, (336, 225), dtype=np.uint8)
        Image.fromarray(np.pad(noise, ((0, 0), (0, 111)))).save(folder / f"{i}.png")
    rows_written = (json.loads(line) for line in workspace.answers.open(encoding="utf-8"))
    write_epochs(workspace.epochs, [epoch(i, row) for i, row in enumerate(rows_written)])
    return workspace


def epoch(i: int, row: dict[str, Any]) -> Epoch:
    names = ("recording", "subject", "night", "epoch_index", "onset_s")
    return Epoch(
        sample_id=row["question_id"],
        cohort="generated",
        stage=row["label"],
        split="eval",
        image=f"{i % DRAWN}.png",
        **{name: row["metadata"][name] for name in names},
    )


def open_page(chrome: Chrome, page: Path, runs: int) -> dict[str, Any]:
    times = []
    for _ in range(runs):
        chrome.get("about:blank")
        chrome.get(page.as_uri())
        times.append(chrome.execute_script(OPENED))
    loaded, ready = (statistics.median(column) for column in zip(*times, strict=True))
    everything, browser = chrome.execute_script(NODES)
    return {
        "open_ms": loaded,
        "ready_ms": round(ready),
        "slowest_ms": max(t[0] for t in times),
        "nodes": everything,
        "browser_nodes": browser,
        "key_ms": round(chrome.execute_script(STEPS), 2),
        "filter_ms": round(chrome.execute_script(FILTERS), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    driver = shutil.which("chromedriver")
    if driver is None:
        parser.error("there is no chromedriver: apt install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as scratch:
        workspace = make_workspace(Path(scratch) / "workspace", options.rows, options.subjects)
        began = time.monotonic()
        run(ReportSettings(workspace=workspace.root))
        seconds = time.monotonic() - began
        page = workspace.report / "review.html"
        chrome_options = ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={scratch}/chrome"):
            chrome_options.add_argument(flag)
        chrome = Chrome(chrome_options, Service(driver))
        try:
            found = open_page(chrome, page, options.runs)
        finally:
            chrome.quit()
        found |= {
            "rows": options.rows,
            "mb": round(page.stat().st_size / 1e6, 1),
            "report_s": round(seconds, 1),
        }
    table = Table("figure", "measured")
    for name, value in found.items():
        table.add_row(name, str(value))
    Console().print(table)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
