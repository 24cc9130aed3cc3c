"""The rows as a table: on the screen, and as Markdown for the README of the benches."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("part", "status", "seconds", "measured", "predicted")
ABOUT = ("card", "cores", "python", "torch", "transformers", "peft", "deepspeed", "accelerate")


def show(rows: list[dict[str, Any]], path: Path, *, rehearsal: bool) -> None:
    """Print the rows and write them to `path`."""
    cells = [_cells(row) for row in rows]
    title = _title(rows, rehearsal)
    shown = Table(title=title)
    for column in COLUMNS:
        shown.add_column(column, justify="right" if column == "seconds" else "left")
    for line in cells:
        shown.add_row(*line)
    Console(width=160, markup=False).print(shown)
    marked = ["| " + " | ".join(_plain(c) for c in line) + " |" for line in (COLUMNS, *cells)]
    marked.insert(1, "|" + "---|" * len(COLUMNS))
    path.write_text(f"## `gpu.sh` ({title})\n\n" + "\n".join(marked) + "\n")


def _title(rows: list[dict[str, Any]], rehearsal: bool) -> str:
    found = next((row["figures"] for row in rows if row["part"] == "ceilings"), {})
    about = [f"{name} {found[name]}" for name in ABOUT if name in found]
    kind = ["a rehearsal: no figure means anything"] if rehearsal else []
    return ", ".join([datetime.now(UTC).date().isoformat(), *about, *kind])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    figures = row.get("figures", {})
    kept = {n: v for n, v in figures.items() if n not in ABOUT}
    measured = row.get("error") or ", ".join(f"{n} {_number(v)}" for n, v in kept.items())
    seconds = f"{row['seconds']:.1f}"
    return row["part"], row["status"], seconds, measured[:300], row.get("predicted", "")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(cell: str) -> str:
    """Keep a cell in its cell."""
    return " ".join(cell.replace("|", "\\|").split())
