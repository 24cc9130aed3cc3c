"""Programs that tests start, forked from a process that has imported PyTorch and the like already.

Their import costs every program that trains or asks a model eight seconds, and a training on two ranks starts
four. With the fixture `warm`, ``sys.executable`` is a stand-in for Python. It hands ``-m MODULE`` and its
arguments, folder, environment and open files to a server, which forks a process that runs the module as Python
would: all of eegtool is imported there. The stand-in stays as long as that process: it passes signals
on to it and ends with its exit code, and if the stand-in is killed, so are the process and its group.
Whatever else it is asked to run, it runs with Python itself.

The server ends when the process that started it closes its standard input.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

LIBRARIES: Final = (
    *("torch", "torch.distributed.run", "torch.utils.tensorboard", "scipy.signal", "peft"),
    *("transformers.trainer", "transformers.integrations.deepspeed", "deepspeed"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llava", "llama", "clip")),
    *("typer", "rich.progress", "PIL.Image", "timm", "mne", "joblib", "sklearn.metrics"),
)
PROGRAMS: Final = ("eegtool", "deepspeed.launcher", "torch.distributed.run", "tests")

STAND_IN: Final = """#!{python} -IS
import os, sys
words = [word for word in sys.argv[1:] if word != "-u"]
is_module = words[:1] == ["-m"] and words[1].startswith({programs!r})
if not (is_module or words[:1] and words[0].endswith(".py")):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
import json, signal, socket
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: server.send(bytes([number])))
server.connect({address!r})
asked = {{
    "words": words, "folder": os.getcwd(), "environment": dict(os.environ),
    "executable": __file__, "stands_for": os.getpid(), "unbuffered": "-u" in sys.argv[1:3],
}}
socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
code = int(server.recv(99) or 1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


# --- what tests use ---


@contextlib.contextmanager
def stand_in(folder: Path) -> Iterator[Path]:
    """Start a server, and give the path of the stand-in for Python."""
    python, address = folder / "python", folder / "server"
    words = {"python": sys.executable, "programs": PROGRAMS, "address": str(address)}
    python.write_text(STAND_IN.format(**words))
    python.chmod(0o755)
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(address)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as server:
        assert server.stdin
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        yield python
        server.stdin.close()


def children(pid: int) -> list[int]:
    """Return the processes that a program has started, be it warm or not."""
    for note in Path(sys.executable).parent.glob(f"{pid}.pid"):
        pid = int(note.read_text())
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- the server ---


@dataclass
class _Program:
    """A stand-in, and what runs for it."""

    stand_in: socket.socket
    pid: int = 0
    ended: int = -1  # readable when the process has ended


@dataclass
class Server:
    """Forks a process for each stand-in that calls."""

    address: str
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def serve(self) -> dict[str, Any]:
        """Return, in each forked process, what it was asked to run; never in the server itself."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.address)
        listener.listen()
        self.selector.register(listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in self.selector.select():
                program: _Program | None = key.data
                if key.fileobj == 0:
                    self._end()
                elif program is None:
                    stand_in, _ = listener.accept()
                    self.selector.register(stand_in, selectors.EVENT_READ, _Program(stand_in))
                elif key.fileobj is not program.stand_in:
                    self._report(program)
                elif not program.pid:
                    if asked := self._fork(program):
                        return asked
                else:
                    self._signal(program)

    def _fork(self, program: _Program) -> dict[str, Any] | None:
        message, files, *_ = socket.recv_fds(program.stand_in, 1 << 20, 3)
        if not files:  # killed before it could ask
            self._forget(program.stand_in)
            return None
        asked: dict[str, Any] = json.loads(message)
        program.pid = os.fork()
        if program.pid == 0:
            os.setsid()
            for target, file in enumerate(files):
                os.dup2(file, target)
                os.close(file)
            for key in [*self.selector.get_map().values()]:
                if key.fd > 0:
                    os.close(key.fd)
            self.selector.close()
            return asked
        note = Path(self.address).parent / f"{asked['stands_for']}.pid"
        note.write_text(str(program.pid))
        for file in files:
            os.close(file)
        program.ended = os.pidfd_open(program.pid)
        self.selector.register(program.ended, selectors.EVENT_READ, program)
        return None

    def _signal(self, program: _Program) -> None:
        """Pass on what the stand-in got; its own end is that of the process's group."""
        with contextlib.suppress(ProcessLookupError, ConnectionResetError):
            if number := program.stand_in.recv(1):
                os.kill(program.pid, number[0])
                return
        self._forget(program.stand_in)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)

    def _report(self, program: _Program) -> None:
        _, status = os.waitpid(program.pid, 0)
        with contextlib.suppress(OSError):  # the stand-in has been killed
            program.stand_in.send(str(os.waitstatus_to_exitcode(status)).encode())
        self._forget(program.stand_in)
        self.selector.unregister(program.ended)
        os.close(program.ended)

    def _forget(self, stand_in: socket.socket) -> None:
        if stand_in.fileno() >= 0:
            self.selector.unregister(stand_in)
            stand_in.close()

    def _end(self) -> None:
        programs = {key.data.pid for key in self.selector.get_map().values() if key.data}
        for pid in programs - {0}:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        os._exit(0)


# --- the process that it forks ---


def become(asked: dict[str, Any]) -> None:
    """Run the module or file as Python would."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.executable = asked["executable"]
    for stream in (sys.stdout, sys.stderr):
        _refresh(stream, unbuffered=asked["unbuffered"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.modules.pop("sitecustomize", None)
    with contextlib.suppress(ImportError):
        importlib.import_module("sitecustomize")
    words = asked["words"]
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[0] = asked["folder"]
        sys.modules.pop(words[1], None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0] = str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


def _refresh(stream: Any, *, unbuffered: bool) -> None:
    text: TextIO = stream
    line_buffering = text is sys.stderr or text.isatty()
    stream.reconfigure(line_buffering=line_buffering or unbuffered, write_through=unbuffered)


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    become(Server(sys.argv[1]).serve())
