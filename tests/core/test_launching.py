from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from eegtool.core import launching


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


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which programs run")
@pytest.mark.parametrize(
    ("stop", "manner"), [("SIGINT", "polite"), ("SIGTERM", "polite"), ("SIGINT", "stubborn")]
)
def test_stopping_stops_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str, manner: str
) -> None:
    monkeypatch.setattr(launching, "_PATIENCE_S", 0.3)
    note = tmp_path / "rank"

    def interrupt() -> None:
        while not (note.exists() and note.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.Signals[stop])

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launching.launch([sys.executable, "-c", STUBBORN, str(note), manner], dict(os.environ))
    time.sleep(0.1)
    assert not is_running(int(note.read_text()))
    assert time.monotonic() - began < 30  # not because it was done
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_what_the_user_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training under nohup survives the closed terminal."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        program = f"import os, signal; os.kill({os.getpid()}, signal.SIGHUP)"
        assert launching.launch([sys.executable, "-c", program], dict(os.environ)) == 0
    finally:
        signal.signal(signal.SIGHUP, previous)
