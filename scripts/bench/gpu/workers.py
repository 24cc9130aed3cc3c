"""Programs that are started here, and ended with all that they have started."""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

# What says why a part failed, the best first: the end of a traceback, of a rank too; eegvlm; the part itself.
ERRORS = (r"(\[rank\d+\]: )?[\w.]+(Error|Exception|Exit): ", r"error: ", r"failed: ")


def adopt_orphans() -> None:
    """Let what outlives its parent become a child of this process, which will then find and end it."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER of Linux


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it, in whichever group or session they are."""
    _kill(process.pid)
    process.wait()


def end_orphans(ours: set[int]) -> None:
    """Kill the children of this process that it has not started itself, such as ranks whose launcher died."""
    for child in psutil.Process().children():
        if child.pid not in ours:
            _kill(child.pid)


def _kill(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        below = process.children(recursive=True)
        for member in (process, *below):
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(below, timeout=5)


class Worker:
    """A process that runs parts (see `worker`); another one is started when it was ended.

    Parameters
    ----------
    arguments : list of str
        Where it works.
    environment : mapping of str
        Its environment.
    log : Path
        Where its output goes, and that of all that it starts.
    """

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path):
        self.arguments = arguments
        self.environment = environment
        self.log = log
        self.log.touch()
        self.process: subprocess.Popen[bytes] | None = None
        self.until = 0.0
        self.read_from = 0

    def send(self, request: dict[str, Any], limit_s: float) -> None:
        """Begin a part, which has so many seconds from now."""
        self.until = time.monotonic() + limit_s
        self.read_from = self.log.stat().st_size
        if self.process is None:
            self._start()
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self.requests, flush=True)

    def receive(self) -> dict[str, Any]:
        """Wait for the reply; where there is none in time, or ever, the process is ended."""
        left = max(0.0, self.until - time.monotonic())
        if not select.select([self.replies], [], [], left)[0]:
            self.close()
            return {"status": "failed", "figures": {}, "error": "timeout"}
        line = self.replies.readline()
        if line:
            reply = json.loads(line)
            return reply | {"error": self._error() if reply["status"] == "failed" else ""}
        self.close()
        return {"status": "failed", "figures": {}, "error": self._error() or "its process died"}

    def _error(self) -> str:
        """Return the line of the output since the part began that says why it failed."""
        with self.log.open("rb") as file:
            file.seek(self.read_from)
            lines = file.read().decode(errors="replace").splitlines()
        for pattern in ERRORS:
            if found := [line.strip() for line in lines if re.match(pattern, line)]:
                return found[-1]
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _start(self) -> None:
        theirs, ours = os.pipe()
        self.requests = os.fdopen(ours, "w")
        ours, replies = os.pipe()
        self.replies = os.fdopen(ours)
        program = Path(__file__).with_name("worker.py")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(program), *self.arguments, str(theirs), str(replies)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                pass_fds=(theirs, replies),
                start_new_session=True,
            )
        os.close(theirs)
        os.close(replies)

    def close(self) -> None:
        """End the process and whatever it has started."""
        if self.process is not None:
            end(self.process)
            with suppress(BrokenPipeError):
                self.requests.close()
            self.replies.close()
            self.process = None
