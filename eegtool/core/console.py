"""Terminal output: one console for all steps, one look for all progress bars."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(highlight=False)


def progress(unit: str) -> Progress:
    """Return a progress bar that counts in `unit` and shows elapsed and remaining time.

    Every task has a note at the end of its line: ``bar.add_task("Drawing", total=9, note="")``.
    """
    return Progress(
        TextColumn("  {task.description:<22}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
    )
