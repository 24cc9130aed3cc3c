"""Terminal output: one console for all steps, one look for all progress; plain lines where there is no terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(highlight=False)


def warn(text: str) -> None:
    """Say loudly what a user should know; it stops nothing."""
    console.print(f"[bold yellow]warning:[/] {escape(text)}")


def progress(unit: str) -> Progress:
    """Return a progress bar that counts in `unit` and shows the time left (the time taken, once done).

    Every task has a note at the end of its line: ``bar.add_task("Drawing", total=9, note="")``.
    Words and notes are short, so that the line fits 80 columns. In a file or pipe, as under Slurm, nohup
    or CI, plain lines take the place of the bar (see `PlainProgress`).
    """
    if not _on_terminal():
        return PlainProgress(unit, console)
    return Progress(
        TextColumn("  {task.description:<11}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
    )


def _on_terminal() -> bool:
    """Say whether somebody looks on: FORCE_COLOR makes rich believe it of any file."""
    return console.is_jupyter or (console.file.isatty() and not console.is_dumb_terminal)


def next_line_s(n_lines: int, elapsed_s: float) -> float:
    """Return how long to wait for the next line of a log, in seconds.

    10, 20, 40, then 60: one line a minute for the first hour; later a 60th of the time that has passed,
    up to 5 minutes, which it reaches after 5 hours.

    Parameters
    ----------
    n_lines : int
        Lines since the first one.
    elapsed_s : float
        Seconds since the start.
    """
    longest = min(max(60.0, elapsed_s / 60), 300.0)
    return min(10.0 * 2 ** min(n_lines, 5), longest)


class PlainProgress(Progress):
    """A progress bar's stand-in for files and pipes: lines of text, without control characters.

    One line when a task is added, one when it is stopped, and more in growing intervals, whether or not
    anything has moved: done, total, speed, time left, note.

    Parameters
    ----------
    unit : str
        What is counted.
    console : Console
        Where to print; it flushes every line.
    wait_s : callable
        The interval before the next line (see `next_line_s`).
    """

    def __init__(
        self, unit: str, console: Console, wait_s: Callable[[int, float], float] = next_line_s
    ) -> None:
        super().__init__(console=console)
        self.unit = unit
        self._wait_s = wait_s
        self._done_before: dict[TaskID, float] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to print lines."""
        if self.disable or self._thread is not None:
            return
        self._stopped.clear()
        self._thread = threading.Thread(target=self._print_in_intervals, daemon=True)
        for task in self.tasks:
            self._print(self._line(task))
        self._thread.start()

    def stop(self) -> None:
        """Print how far each task came; nothing follows."""
        if self._thread is None:
            return
        self._stopped.set()
        self._thread.join()
        self._thread = None
        for task in self.tasks:
            self._print(self._last_line(task))

    def add_task(
        self,
        description: str,
        start: bool = True,
        total: float | None = 100.0,
        completed: int = 0,
        visible: bool = True,
        **fields: Any,
    ) -> TaskID:
        """Add a task and say that it begins."""
        task_id = super().add_task(description, start, total, completed, visible, **fields)
        self._done_before[task_id] = completed
        if self._thread is not None:
            self._print(self._line(self._tasks[task_id]))
        return task_id

    def _print_in_intervals(self) -> None:
        """Print a line of each task that is not done, until stopped."""
        began, n = self.get_time(), 0
        while not self._stopped.wait(self._wait_s(n, self.get_time() - began)):
            n += 1
            for task in self.tasks:
                if not task.finished:
                    self._print(self._line(task))

    def _line(self, task: Task) -> str:
        """Return where a task is: its speed is the mean since it was added."""
        rate = (task.completed - self._done_before[task.id]) / max(task.elapsed or 0.0, 1e-9)
        if task.total is None or rate <= 0:
            return self._joined(task)
        speed = f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"
        left = timedelta(seconds=round(max(task.total - task.completed, 0.0) / rate))
        return self._joined(task, f"{speed} {self.unit}/s", f"{left} left")

    def _last_line(self, task: Task) -> str:
        """Return how far a task came, and in what time."""
        took = task.elapsed if task.finished_time is None else task.finished_time
        return self._joined(task, f"{timedelta(seconds=round(took or 0.0))} taken")

    def _joined(self, task: Task, *facts: str) -> str:
        of = "" if task.total is None else f" of {task.total:,.0f}"
        done = f"{task.completed:,.0f}{of} {self.unit}"
        note = str(task.fields.get("note", ""))
        return f"  {task.description}: " + ", ".join(part for part in (done, *facts, note) if part)

    def _print(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)
