"""Terminal output: one console for all steps, one look for all progress bars."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

console = Console(highlight=False)


def progress(unit: str) -> Progress:
    """Return a progress bar that counts in `unit` and shows the time left (the time taken, once done).

    Every task has a note at the end of its line: ``bar.add_task("Drawing", total=9, note="")``.
    Words and notes are short, so that the line fits 80 columns.
    """
    return Progress(
        TextColumn("  {task.description:<11}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
    )
