"""Running a launcher of several processes: when this process is stopped, so are all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

_PATIENCE_S: Final = 5.0
_STOPS: Final = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def launch(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command and return its exit code; when this process is stopped, so are all its ranks."""
    # In a group of its own, so that Ctrl-C comes here and not to launcher and ranks, which would
    # each print a traceback; SIGTERM and a closed terminal are passed on in the same way.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    stops = [s for s in _STOPS if signal.getsignal(s) != signal.SIG_IGN]  # nohup ignores one
    previous = {stop: signal.signal(stop, signal.default_int_handler) for stop in stops}
    try:
        return process.wait()
    except KeyboardInterrupt:
        _stop(process)
        raise
    finally:
        for stop, handler in previous.items():
            signal.signal(stop, handler)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and all its ranks: politely, and by force where that does not help."""
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
