"""Running a launcher of several processes: when this process is stopped, so are all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from eegtool.core.console import console
from eegtool.core.errors import EegToolError

_PATIENCE_S: Final = 5.0
_STOPS: Final = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Stopped(KeyboardInterrupt):
    """A signal stopped the launched processes; Ctrl-C is only the most common one."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def count_ranks(num_gpus: int, available: int) -> int:
    """Return how many ranks to start: as asked, else one per GPU that is available, else one.

    Raises
    ------
    EegToolError
        If there are not so many GPUs.
    """
    if available and num_gpus > available:
        raise EegToolError(
            f"--num-gpus {num_gpus}: this machine has {available}.", "Ask for fewer."
        )
    return num_gpus or available or 1


def is_first_rank() -> bool:
    """Say whether this process is the only one or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def open_locked(path: Path) -> IO[str] | None:
    """Open a file that is locked for all others until it is closed; None if it is locked already.

    The lock is the open file's and not this process's: a launcher that inherits it (`launch`,
    ``kept_open``) holds it as long as it runs, though its parent be killed.
    """
    import fcntl  # not on Windows, where neither DeepSpeed nor several ranks are

    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        lock = path.open("a")  # what somebody else has in it stays
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        except BlockingIOError:
            lock.close()
            return None
        except FileNotFoundError:
            pass
        except OSError as error:  # a disk that locks nothing
            lock.close()
            raise OSError(error.errno, error.strerror, str(path)) from error
        lock.close()  # its holder removed it before we had it: that lock would keep nobody out


def take_lock(path: Path, what: str, fix: str) -> IO[str]:
    """Open a file that is locked for all others (see `open_locked`).

    Raises
    ------
    EegToolError
        With these words, if somebody else has it.
    """
    if lock := open_locked(path):
        return lock
    raise EegToolError(what, fix)


def launch(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stop_file: Path | None = None,
    patience: float = 60.0,
    kept_open: Sequence[int] = (),
) -> int:
    """Run the command and return its exit code; when this process is stopped, so are all its ranks.

    Parameters
    ----------
    command, environment : sequence and mapping of str
        What to run, and where.
    kept_open : sequence of int
        Files that stay open in the launcher: a lock on one holds as long as it runs, though this
        process be killed.
    stop_file : Path or None
        File that asks the ranks to save what they have and to end. It is made at the first signal;
        at the second one, or when patience is over, they are ended. None: at the first one.
    patience : float
        Seconds that they have for it.

    Raises
    ------
    Stopped
        If a signal asked this process to stop, once all processes have ended; whether by themselves
        or not, the file system tells.
    """
    with _raising_stops():
        # In a group of its own, so that Ctrl-C comes here and not to launcher and ranks, which would
        # each print a traceback; SIGTERM and a closed terminal are passed on in the same way.
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, pass_fds=kept_open
        )
        try:
            return process.wait()
        except Stopped:
            if stop_file is not None:
                _ask_to_stop(process, stop_file, patience)
            raise
        finally:
            if process.returncode != 0:  # a launcher that was killed leaves its ranks behind
                _stop(process)


def _ask_to_stop(process: subprocess.Popen[bytes], stop_file: Path, patience: float) -> None:
    """Let the ranks save what they have; a second signal, or no patience, ends the waiting."""
    with suppress(subprocess.TimeoutExpired, Stopped):
        stop_file.touch()
        console.print("Stopping after this step, with a checkpoint; once more stops at once.")
        process.wait(patience)


@contextmanager
def _raising_stops() -> Iterator[None]:
    """Let the signals that stop a program raise `Stopped`."""

    def stop(signum: int, frame: Any) -> None:
        raise Stopped(signum)

    stops = [s for s in _STOPS if signal.getsignal(s) != signal.SIG_IGN]  # nohup ignores one
    previous = {number: signal.signal(number, stop) for number in stops}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a launcher and its ranks: politely, and by force where that does not help."""
    with suppress(ProcessLookupError):  # the group is gone
        try:
            os.killpg(process.pid, signal.SIGTERM)
            patient_until = time.monotonic() + _PATIENCE_S
            while time.monotonic() < patient_until:
                time.sleep(0.05)
                process.poll()
                os.killpg(process.pid, 0)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
