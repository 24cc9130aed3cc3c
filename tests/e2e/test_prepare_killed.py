"""prepare killed at some moment and run again leaves the bytes of a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.simulate.twins import load_twin, write_night

NIGHTS = ("SC4001E0", "SC4012E0", "SC4021E0", "SC4031E0")
EPOCHS_PER_STAGE = 10
N_PICTURES = len(NIGHTS) * EPOCHS_PER_STAGE * 5


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nights")
    for name in NIGHTS:
        write_night(load_twin(name).condensed(EPOCHS_PER_STAGE), folder, seed=3)
    return folder


def command(nights: Path, workspace: Path, *options: str) -> list[str]:
    how = ("--style", "hybrid", "--template", "cot", "--rationale", "measured", *options)
    return ["prepare", str(nights), "-w", str(workspace), *how]


def start(nights: Path, workspace: Path, *options: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "eegtool", *command(nights, workspace, *options)]
    with log_of(workspace).open("w") as log:
        return subprocess.Popen(
            program, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def log_of(workspace: Path) -> Path:
    return workspace.with_suffix(".log")


def run(nights: Path, workspace: Path, *options: str) -> None:
    """Run it to its end, in this process, where yasa is loaded already."""
    done = CliRunner().invoke(app, command(nights, workspace, *options), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def finish(process: subprocess.Popen[bytes], workspace: Path) -> None:
    assert process.wait(timeout=120) == 0, log_of(workspace).read_text()


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill it and all its workers, as a batch system does; on a busy machine it may have ended meanwhile."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def files(workspace: Path) -> dict[str, bytes]:
    found = (path for path in workspace.rglob("*") if path.is_file())
    return {str(path.relative_to(workspace)): path.read_bytes() for path in found}


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not ready() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)


def pictures(workspace: Path) -> int:
    """Count pictures; folders come and go while this looks."""
    try:
        return sum(1 for _ in workspace.rglob("*.png"))
    except FileNotFoundError:
        return 0


def assert_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_killed_and_run_again(nights: Path, tmp_path: Path, jobs: str) -> None:
    workspace = tmp_path / "workspace"
    run(nights, workspace, "--jobs", jobs)
    expected = files(workspace)
    assert sum(name.endswith(".png") for name in expected) == N_PICTURES
    workspace.rename(tmp_path / "undisturbed")

    for moment in (1, N_PICTURES // 2, N_PICTURES - 1):
        process = start(nights, workspace, "--jobs", jobs)
        wait_for(lambda moment=moment: pictures(workspace) >= moment, process)  # type: ignore[misc]
        kill_all(process)
        assert not (workspace / "prepare.json").exists()
    run(nights, workspace, "--jobs", jobs)
    assert_same(files(workspace), expected)


def test_killed_while_signals_are_written(nights: Path, tmp_path: Path) -> None:
    """With each further file of signals, half-written ones included; no picture is drawn at all."""
    workspace, none = tmp_path / "workspace", ("--pictures", "none")
    run(nights, workspace, *none)
    expected = files(workspace)
    assert sum(name.endswith(".npy") for name in expected) == len(NIGHTS)
    assert not any(name.endswith((".png", ".tmp")) for name in expected)
    workspace.rename(tmp_path / "undisturbed")
    staged = workspace / ".prepare.tmp" / "signals"
    for moment in range(1, len(NIGHTS)):
        process = start(nights, workspace, *none)
        wait_for(lambda n=moment: len([*staged.glob("*.npy")]) >= n, process)  # type: ignore[misc]
        kill_all(process)
        assert not (workspace / "prepare.json").exists()
    for path in staged.glob("*.npy"):  # what a killed writer leaves beside
        path.with_name(f".{path.name}.0123abcd.tmp").write_bytes(path.read_bytes()[:99])
    run(nights, workspace, *none)
    assert_same(files(workspace), expected)


def test_killed_while_it_publishes(nights: Path, tmp_path: Path) -> None:
    """Another split moves every picture; the moment is when the first ones have been moved."""
    workspace = tmp_path / "workspace"
    run(nights, workspace, "--eval-subjects", "SC400")
    expected = files(workspace)
    run(nights, workspace, "--eval-subjects", "SC401,SC402")
    process = start(nights, workspace, "--eval-subjects", "SC400")
    wait_for(lambda: not (workspace / "prepare.json").exists(), process)
    kill_all(process)
    run(nights, workspace, "--eval-subjects", "SC400")
    assert_same(files(workspace), expected)


def test_a_worker_of_a_killed_run_stops(nights: Path, tmp_path: Path) -> None:
    """Only the parent is killed: its workers continue, and must not disturb the next run."""
    workspace = tmp_path / "workspace"
    run(nights, workspace, "--jobs", "2")
    expected = files(workspace)
    workspace.rename(tmp_path / "undisturbed")
    process = start(nights, workspace, "--jobs", "2")
    wait_for(lambda: pictures(workspace) >= 10, process)
    process.kill()
    process.wait()
    run(nights, workspace, "--jobs", "2")
    assert_same(files(workspace), expected)


@contextmanager
def cluster() -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """Start a Dask cluster of two workers; give its address and how to list the workers."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as made:
        nannies = made.workers.values()
        yield made.scheduler_address, lambda: [nanny.pid for nanny in nannies if nanny.pid]


@pytest.mark.filterwarnings("ignore")  # Dask's own
def test_a_dask_worker_is_killed(nights: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    with cluster() as (address, workers):
        finish(start(nights, workspace, "--scheduler", address), workspace)
        expected = files(workspace)
        workspace.rename(tmp_path / "undisturbed")
        process = start(nights, workspace, "--scheduler", address)
        wait_for(lambda: pictures(workspace) >= 10, process)
        assert process.poll() is None
        os.kill(workers()[0], signal.SIGKILL)
        finish(process, workspace)
    assert_same(files(workspace), expected)


def test_without_a_scheduler_it_says_so(nights: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    process = start(nights, workspace, "--scheduler", "tcp://127.0.0.1:9")
    assert process.wait(timeout=60) == 1
    assert "no Dask scheduler at tcp://127.0.0.1:9" in log_of(workspace).read_text()
