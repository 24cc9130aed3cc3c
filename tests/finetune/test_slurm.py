"""The Slurm script, run by bash with stand-ins for Slurm and for eegvlm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_finetune.sh"

SCONTROL = """#!/bin/bash
echo "scontrol $*" >> calls
if [ "$1 $2" = "show hostnames" ]; then printf 'n01\\nn02\\n'; fi
"""
EEGVLM = """#!/bin/bash
echo "eegvlm $*" >> calls
while [ $# -gt 0 ]; do if [ "$1" = --hostfile ]; then cp "$2" hosts; fi; shift; done
save() {
    sleep 0.3
    if [ -z "$NO_TIME" ]; then mkdir -p "out dir/checkpoint-4"; touch "out dir/checkpoint-4/whole.json"; fi
    echo stopped >> calls
    exit 143
}
trap save TERM
touch started
for i in $(seq "$TICKS"); do sleep 0.05; done
exit "$CODE"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Put the stand-ins on the path, and return the environment of a job."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("scontrol", SCONTROL), ("eegvlm", EEGVLM)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "n[01-02]",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "TICKS": "2",
        "CODE": "0",
        "NO_TIME": "",
    }


def start(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = ["bash", str(SCRIPT), "flags.yaml", "out dir", "--seed", "7"]
    return subprocess.Popen(command, cwd=folder, env=environment)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 1])
def test_it_trains_on_all_machines(slurm: dict[str, str], tmp_path: Path, code: int) -> None:
    assert start(tmp_path, slurm | {"CODE": str(code)}).wait(timeout=30) == code
    asked, trained = calls(tmp_path)
    assert asked == "scontrol show hostnames n[01-02]"
    assert trained.startswith("eegvlm finetune --config flags.yaml --output-dir out dir --hostfile")
    assert trained.endswith("--resume --stop-patience 540 --seed 7")
    assert (tmp_path / "hosts").read_text() == "n01 slots=8\nn02 slots=8\n"
    assert not list(tmp_path.glob(".hosts-*"))


@pytest.mark.parametrize(
    ("no_time", "queued"), [("", ["scontrol requeue 42"]), ("yes", [])], ids=["saved", "not saved"]
)
def test_when_time_is_up_it_saves_and_queues_again(
    slurm: dict[str, str], tmp_path: Path, no_time: str, queued: list[str]
) -> None:
    """Without a checkpoint it would queue for ever."""
    process = start(tmp_path, slurm | {"TICKS": "400", "NO_TIME": no_time})
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert calls(tmp_path)[2:] == ["stopped", *queued]
    assert not list(tmp_path.glob(".hosts-*"))


def test_the_script_can_be_started() -> None:
    assert os.access(SCRIPT, os.X_OK)
    text = SCRIPT.read_text()
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    # sbatch reads directives up to the first command only.
    assert text.index(directives[-1]) < text.index("set -euo")
    assert "#SBATCH --signal=B:TERM@600" in directives
