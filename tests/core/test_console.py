"""Progress: a bar on a terminal, lines in a file."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from eegtool.core import console as module
from eegtool.core.console import PlainProgress, next_line_s, progress


def controls(text: str) -> set[str]:
    """Return what is neither text nor the end of a line."""
    return {c for c in text if not c.isprintable() and c != "\n"}


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let the console write to a file, as under nohup."""
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8") as file:
        monkeypatch.setattr(module, "console", Console(file=file, highlight=False))
        yield path


class Clock:
    """A clock that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_intervals_grow() -> None:
    starts, elapsed = [], 0.0
    for n in range(200):
        starts.append(next_line_s(n, elapsed))
        elapsed += starts[-1]
    assert starts[:5] == [10, 20, 40, 60, 60]
    assert starts == sorted(starts)
    assert starts[-1] == 300
    times = list(accumulate(starts))
    assert max(w for w, t in zip(starts, times, strict=True) if t <= 3600) == 60
    assert next_line_s(10**6, 1e9) == 300


def test_a_file_gets_lines_while_the_work_goes_on(log: Path) -> None:
    """Each is in the file as soon as it is printed, though nothing closes the file."""
    clock = Clock()
    bar = PlainProgress("epochs", module.console, lambda n, elapsed_s: 0.01)
    bar.get_time = clock
    with bar:
        task = bar.add_task("Exporting", total=1200, completed=200, note="")
        assert log.read_text() == "  Exporting: 200 of 1,200 epochs\n"
        clock.now_s = 20.0
        bar.update(task, advance=400, note="loss 0.31 [low]")
        expected = "  Exporting: 600 of 1,200 epochs, 20 epochs/s, 0:00:30 left, loss 0.31 [low]\n"
        wait_for(lambda: expected in log.read_text())  # it comes by itself
        clock.now_s = 75.0
        bar.update(task, completed=1200)
        clock.now_s = 99.0
    text = log.read_text()
    assert text.endswith("  Exporting: 1,200 of 1,200 epochs, 0:01:15 taken, loss 0.31 [low]\n")
    assert not controls(text)
    time.sleep(0.05)
    assert log.read_text() == text  # nothing follows


def test_lines_come_before_anything_has_moved(log: Path) -> None:
    with PlainProgress("steps", module.console, lambda n, elapsed_s: 0.01) as bar:
        bar.add_task("Training", total=4, note="")
        wait_for(lambda: log.read_text().count("  Training: 0 of 4 steps\n") >= 3)


def fail_after_one() -> None:
    with progress("nights") as bar:
        bar.advance(bar.add_task("Drawing", total=3, note=""))
        raise ZeroDivisionError


def test_work_that_fails_says_how_far_it_came(log: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after_one()
    assert log.read_text().splitlines()[1] == "  Drawing: 1 of 3 nights, 0:00:00 taken"


def test_a_trainer_stops_it_twice(log: Path) -> None:
    bar = progress("steps")
    bar.add_task("Training", total=2, note="")
    bar.start()
    bar.stop()
    bar.stop()
    assert len(log.read_text().splitlines()) == 2


def test_further_ranks_are_silent(log: Path) -> None:
    bar = progress("steps")
    bar.disable = True
    with bar:
        bar.update(bar.add_task("Training", total=2, note=""), completed=1)
    assert log.read_text() == ""


@pytest.mark.parametrize("colour", ["", "1"])
def test_a_file_never_gets_a_bar(log: Path, monkeypatch: pytest.MonkeyPatch, colour: str) -> None:
    """FORCE_COLOR, which CI sets, makes rich take every file for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", colour)
    forced = Console(file=module.console.file, highlight=False)
    assert forced.is_terminal == bool(colour)
    monkeypatch.setattr(module, "console", forced)
    with progress("epochs") as bar:
        bar.update(bar.add_task("Asking", total=1, note=""), advance=1)
    assert len(log.read_text().splitlines()) == 2
    assert not controls(log.read_text())


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_terminal_gets_a_bar_if_it_can_show_one(
    monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(module, "console", Console(file=screen, _environ={"TERM": term}))
    bar = progress("epochs")
    assert isinstance(bar, Progress)
    assert isinstance(bar, PlainProgress) == (term == "dumb")


def test_a_spinner_leaves_nothing_in_a_file(log: Path) -> None:
    with module.console.status("Loading ..."):
        time.sleep(0.2)
    assert not controls(log.read_text())
