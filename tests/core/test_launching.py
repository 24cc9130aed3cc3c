from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eegtool.core import launching
from eegtool.core.errors import EegToolError

on_linux = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="asks Linux which programs run"
)


@pytest.mark.parametrize("code", [0, 3])
def test_launch_returns_the_exit_code(code: int) -> None:
    program = f"import os; raise SystemExit({code} if os.environ['WORD'] == 'x' else 9)"
    assert launching.launch([sys.executable, "-c", program], {"WORD": "x"}) == code


# A launcher that ignores polite words, and its rank.
STUBBORN = """
import signal, subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(str(rank.pid))
time.sleep(60)
"""

# A rank that looks for a file between its steps, saves and ends.
OBEDIENT = """
import pathlib, sys, time
note, stop = map(pathlib.Path, sys.argv[1:])
note.write_text("here")
while not stop.exists():
    time.sleep(0.02)
time.sleep(0.2)
note.write_text("saved")
"""


@pytest.fixture(autouse=True)
def _heeded() -> Iterator[None]:
    """Heed the signals that are sent here, also where the tests run under nohup or in the background."""
    heeded: dict[int, Any] = {
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    previous = {number: signal.signal(number, handler) for number, handler in heeded.items()}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def send(stop: str, *when: Callable[[], bool]) -> None:
    """Send a signal to this process each time that one more condition is met."""

    def run() -> None:
        for met in when:
            while not met():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.Signals[stop])

    threading.Thread(target=run, daemon=True).start()


def written(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text() != ""


@on_linux
@pytest.mark.parametrize(
    ("stop", "manner"), [("SIGINT", "polite"), ("SIGTERM", "polite"), ("SIGINT", "stubborn")]
)
def test_stopping_stops_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str, manner: str
) -> None:
    monkeypatch.setattr(launching, "_PATIENCE_S", 0.3)
    note = tmp_path / "rank"
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    send(stop, written(note))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launching.launch([sys.executable, "-c", STUBBORN, str(note), manner], dict(os.environ))
    time.sleep(0.1)
    assert not is_running(int(note.read_text()))
    assert time.monotonic() - began < 30  # not because it was done
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_with_a_stop_file_the_ranks_may_save(tmp_path: Path, stop: str) -> None:
    note, stop_file = tmp_path / "note", tmp_path / "stop"
    send(stop, written(note))
    command = [sys.executable, "-c", OBEDIENT, str(note), str(stop_file)]
    with pytest.raises(launching.Stopped) as caught:
        launching.launch(command, dict(os.environ), stop_file=stop_file)
    assert note.read_text() == "saved"
    assert caught.value.signum == signal.Signals[stop]


@on_linux
@pytest.mark.parametrize("patience", [0.3, 60.0])
def test_patience_ends_with_time_or_a_second_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(launching, "_PATIENCE_S", 0.3)
    note, stop_file = tmp_path / "rank", tmp_path / "stop"
    conditions = [written(note), *([stop_file.exists] if patience > 1 else [])]
    send("SIGTERM", *conditions)
    command = [sys.executable, "-c", STUBBORN, str(note), "polite"]
    began = time.monotonic()
    with pytest.raises(launching.Stopped):
        launching.launch(command, dict(os.environ), stop_file=stop_file, patience=patience)
    time.sleep(0.1)
    assert not is_running(int(note.read_text()))
    assert time.monotonic() - began < 20


@on_linux
def test_ranks_of_a_launcher_that_was_killed_are_ended(tmp_path: Path) -> None:
    note = tmp_path / "rank"
    program = STUBBORN.replace("time.sleep(60)\n", "import os; os.kill(os.getpid(), 9)\n")
    code = launching.launch([sys.executable, "-c", program, str(note), "polite"], dict(os.environ))
    assert code == -signal.SIGKILL
    time.sleep(0.1)
    assert not is_running(int(note.read_text()))


def test_what_the_user_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training under nohup survives the closed terminal."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        program = f"import os, signal; os.kill({os.getpid()}, signal.SIGHUP)"
        assert launching.launch([sys.executable, "-c", program], dict(os.environ)) == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize(("asked", "gpus", "ranks"), [(0, 0, 1), (3, 0, 3), (0, 4, 4), (2, 4, 2)])
def test_ranks(asked: int, gpus: int, ranks: int) -> None:
    assert launching.count_ranks(asked, gpus) == ranks


def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(EegToolError, match="--num-gpus 3: this machine has 2"):
        launching.count_ranks(3, 2)


@on_linux
def test_launched_programs_hold_a_lock_though_their_parent_is_gone(tmp_path: Path) -> None:
    path, program = (
        tmp_path / "below" / ".lock",
        "import time; print('here', flush=True); time.sleep(60)",
    )
    lock = launching.open_locked(path)
    assert lock is not None
    assert launching.open_locked(path) is None
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, pass_fds=(lock.fileno(),)
    ) as left:
        assert left.stdout is not None
        assert left.stdout.readline() == b"here\n"
        lock.close()
        assert launching.open_locked(path) is None
        left.kill()
    again = launching.open_locked(path)
    assert again is not None
    again.close()


def test_a_lock_leaves_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("of another one")
    with launching.open_locked(path) or pytest.fail("nobody has it"):
        assert launching.open_locked(path) is None
    assert path.read_text() == "of another one"


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    locked = fcntl.flock

    def late(file: Any, how: int) -> None:
        monkeypatch.undo()
        path.unlink()  # its holder ends between our opening and our locking
        locked(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with launching.open_locked(path) or pytest.fail("nobody has it"):
        assert launching.open_locked(path) is None
