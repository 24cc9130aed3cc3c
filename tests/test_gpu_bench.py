"""The run for a GPU machine, rehearsed on a CPU: every part is a row, and one that fails does not end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eegtool.finetune import launcher

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench" / "gpu.sh"
needs_compiler = pytest.mark.skipif(
    not launcher.has_cpp_compiler(), reason="DeepSpeed needs one on a CPU"
)


def rehearse(out: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code, and the rows."""
    done = subprocess.run(
        ["bash", str(SCRIPT), "--rehearse", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OUT": str(out), "PYTHON": sys.executable},
    )
    assert (out / "results.jsonl").exists(), done.stdout + done.stderr
    lines = (out / "results.jsonl").read_text().splitlines()
    return done.returncode, [json.loads(line) for line in lines]


@needs_compiler
def test_a_part_that_fails_is_a_row_and_the_rest_runs(tmp_path: Path) -> None:
    code, rows = rehearse(tmp_path, "--break", "tiny: export")
    failed = {row["part"]: (row["status"], row["error"]) for row in rows if row["error"]}
    assert failed == {"tiny: export": ("failed", "failed: broken as asked")}
    assert code == 1
    found = {row["part"]: row for row in rows}
    skipped = [name for name, row in found.items() if row["status"].startswith("skipped")]
    assert skipped == ["DeepSpeed's Adam for the CPU built", "13B: Liger"]  # these need a GPU
    assert len(rows) == len(found) > 35
    for name in ("zero2", "zero3", "zero3_offload", "none", "the resumed"):
        largest = found[f"tiny: losses of {name}"]["figures"]["largest_difference"]
        assert 0 < largest < 0.05
    against_bare = found["13B: zero2 against bare"]["figures"]
    seconds = against_bare["bare_seconds"] / against_bare["seconds"]
    assert against_bare["step"] == pytest.approx(seconds)
    table = (tmp_path / "table.md").read_text()
    for name, row in found.items():
        assert f"| {name} | {row['status']} |" in table


def test_all_is_well(tmp_path: Path) -> None:
    code, rows = rehearse(tmp_path, "--only", "ceilings", "attention")
    assert [row["status"] for row in rows] == ["ok", "ok", "ok"]
    assert rows[1]["figures"]["torch"]
    assert code == 0


def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code, rows = rehearse(tmp_path, "--only", "attention", "--hang", "attention")
    assert [(row["status"], row["error"]) for row in rows[1:]] == [("failed", "timeout")]
    assert code == 1
    pid = (tmp_path / "log.txt").read_text().removeprefix("asleep: ").strip()
    command = Path("/proc", pid, "cmdline")
    assert not command.exists() or not command.read_bytes()  # one that is dead has none


def test_what_does_not_fit_the_time_is_skipped(tmp_path: Path) -> None:
    code, rows = rehearse(tmp_path, "--only", "ceilings", "--budget", "15")
    assert [row["status"] for row in rows] == ["ok", "skipped: no time"]
    assert code == 0
