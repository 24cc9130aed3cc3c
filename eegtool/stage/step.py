"""stage: new recordings in; scored nights out, by a model's folder alone.

Each night has a folder of its own, with its results and a workspace in which the rooms of the five
commands meet. What is drawn, computed and answered there is kept: a run that was killed goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from joblib import Parallel, delayed
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from eegtool.core.console import console, progress
from eegtool.core.errors import CannotWriteError, EegToolError
from eegtool.core.launching import open_locked
from eegtool.core.registry import check_name
from eegtool.core.settings import StageSettings
from eegtool.core.workspace import jsonable, read_json, run_stamp, write_json
from eegtool.evaluate.task import read_batch_size
from eegtool.extract.stored import open_module
from eegtool.model.checkpoints import ATTENTIONS
from eegtool.prepare.blind import prepare_blind
from eegtool.prepare.cohorts import Night, find_recordings
from eegtool.prepare.nights import Prepared
from eegtool.stage.needs import Needs, read_needs
from eegtool.stage.night import Module, stage_night, workspace_of

_STAMP: Final = "stage.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one recording: its results, or why there are none."""

    night: Night
    results: dict[str, Any] | None = None
    problem: EegToolError | None = None


def run(settings: StageSettings) -> None:
    """Stage all recordings that can be.

    A recording that cannot be used is reported and counted; the others go on.

    Raises
    ------
    EegToolError
        If the model cannot be used, the output folder is another run's, two recordings have the same
        name, or none can be staged.
    """
    console.stderr = settings.json  # standard output is for the JSON object alone
    read_batch_size(settings.batch_size)
    check_name("--attention", settings.attention, ATTENTIONS)
    needs = read_needs(settings)
    if needs.contract.features != "real":
        console.print(
            f"[bold yellow]warning:[/] the model was trained with {needs.contract.features} features, "
            "as a sanity check."
        )
    nights = find_recordings(settings.recordings)
    with _own(settings, needs), _stdout_for_json(settings.json):
        outcomes = _stage_all(nights, settings, needs)
        done = [outcome.results for outcome in outcomes if outcome.results]
        if not done:
            raise _refusal(outcomes)
        left_out = {o.night.recording: str(o.problem) for o in outcomes if o.problem}
        stamp = _identity(settings, needs) | run_stamp(
            "stage",
            settings,
            inputs={"adapter": needs.adapter_sha256},
            protocol=needs.protocol,
            results={"nights": len(done), "left_out": left_out},
        )
        write_json(settings.out / _STAMP, stamp)
        _tell(settings, outcomes)
    if settings.json:
        told = {"out": settings.out, "nights": done, "left_out": left_out}
        print(json.dumps(jsonable(told), ensure_ascii=False))


def _identity(settings: StageSettings, needs: Needs) -> dict[str, Any]:
    """Return what all nights of an output folder have in common."""
    return {
        "adapter_sha256": needs.adapter_sha256,
        "mode": settings.mode,
        "channels": list(settings.channel or needs.channels),
    }


@contextmanager
def _own(settings: StageSettings, needs: Needs) -> Iterator[None]:
    """Take over the output folder, if it is a new one or that of a run with the same model.

    Raises
    ------
    EegToolError
        If it holds something else, cannot be written, or another run is at work in it.
    """
    out, identity = settings.out, _identity(settings, needs)
    if out.exists() and not out.is_dir():
        raise EegToolError(f"--out {out} is no folder.", "Name another one with --out.")
    if (out / _STAMP).exists():
        before = read_json(out / _STAMP)
        differing = [
            f"{name.removesuffix('_sha256')} {_brief(before.get(name))} and {_brief(value)}"
            for name, value in identity.items()
            if before.get(name) != value
        ]
        if differing:
            raise EegToolError(
                f"{out} holds nights that were staged otherwise; then and now: {', '.join(differing)}.",
                "Name another folder with --out; nothing is overwritten.",
            )
    elif out.exists() and any(out.iterdir()):
        raise EegToolError(
            f"{out} is not empty and no folder of `eegvlm stage`.",
            "Name another one with --out; nothing in it is overwritten.",
        )
    lock = open_locked(out / ".stage.lock")
    if lock is None:
        raise EegToolError(
            f"Another `eegvlm stage` is running in {out}.", "Wait for it, or name another --out."
        )
    with lock:
        if not (out / _STAMP).exists():
            write_json(out / _STAMP, {"step": "stage", "status": "begun", **identity})
        yield


def _brief(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)[:12]


@contextmanager
def _stdout_for_json(wanted: bool) -> Iterator[None]:
    """Send to the error stream whatever is printed meanwhile, by whichever process, if JSON is wanted."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def _stage_all(nights: Sequence[Night], settings: StageSettings, needs: Needs) -> Sequence[Outcome]:
    """Draw all nights, then stage one after the other."""
    channels = ", ".join(settings.channel or needs.channels)
    console.print(
        f"Staging {len(nights)} recording{'s' * (len(nights) > 1)} by "
        f"[bold]{escape(str(settings.model_path))}[/]: {escape(channels)}, "
        f"{needs.drawing['style']} pictures of {needs.drawing['size']} pixels"
    )
    prepared = _prepare_all(nights, settings, needs)
    usable = [p for p in prepared if not p.problem]
    module: Module | None = None
    if needs.module and usable:
        module = open_module(needs.module, settings.backbone or None)
    outcomes = []
    for one in prepared:
        if one.problem:
            outcomes.append(Outcome(one.night, problem=one.problem))
            continue
        console.print(f"\n[bold]{escape(one.night.recording)}[/]")
        try:
            outcomes.append(Outcome(one.night, stage_night(one, settings, needs, module)))
        except CannotWriteError:  # a full disk: the nights to come would be left out, too
            raise
        except EegToolError as problem:
            outcomes.append(Outcome(one.night, problem=problem))
            _say_left_out(one.night, problem)
    return outcomes


def _prepare_all(
    nights: Sequence[Night], settings: StageSettings, needs: Needs
) -> Sequence[Prepared]:
    """Draw all nights, in parallel; return them in the order of `nights`."""
    prepared: dict[Night, Prepared] = {}
    parallel = Parallel(
        n_jobs=min(settings.jobs, len(nights)), return_as="generator_unordered", batch_size=1
    )
    tasks = (
        delayed(prepare_blind)(
            night,
            needs.prepare_settings(settings, workspace_of(settings.out, night.recording)),
            needs.question,
            needs.protocol,
        )
        for night in nights
    )
    with progress("recordings") as bar:
        task = bar.add_task("Drawing", total=len(nights), note="")
        n_drawn = 0
        for one in parallel(tasks):
            prepared[one.night] = one
            n_drawn += len(one.staged)
            bar.update(task, advance=1, note=f"{n_drawn:,} epochs")
            if one.problem:
                _say_left_out(one.night, one.problem)
            for note in one.notes:
                name = one.night.recording
                console.print(Text.assemble(("note ", "cyan"), f"{name}: {note}"), soft_wrap=True)
    return [prepared[night] for night in nights]


def _say_left_out(night: Night, problem: EegToolError) -> None:
    text = Text.assemble(("left out ", "yellow"), f"{night.recording}: {problem}")
    console.print(text, soft_wrap=True)


def _refusal(outcomes: Sequence[Outcome]) -> EegToolError:
    """Return the error that no recording could be staged, with the first few reasons."""
    problems = [(o.night.recording, o.problem) for o in outcomes if o.problem]
    if len(problems) == 1:
        return problems[0][1]
    lines = [f"{recording}: {problem}" for recording, problem in problems[:5]]
    more = [f"... and {len(problems) - 5} more."] if len(problems) > 5 else []
    return EegToolError(
        f"None of {len(problems)} recordings could be staged.", "\n".join([*lines, *more])
    )


def _tell(settings: StageSettings, outcomes: Sequence[Outcome]) -> None:
    """Print what there is now, and loudly what there is not."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recording")
    for name in ("epochs", "staged", "no EEG", "sleep", "efficiency", "certainty"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        if outcome.results is None:
            continue
        found = outcome.results
        shown = found["statistics"]
        table.add_row(
            escape(found["recording"]),
            f"{found['epochs']:,}",
            f"{found['staged']:,}",
            f"{sum(found['flagged'].values()):,}",
            _hours(shown["tst_min"]),
            "–" if shown["se_percent"] is None else f"{shown['se_percent']:.0f} %",
            "–" if found["certainty"] is None else f"{found['certainty']:.0%}".replace("%", " %"),
        )
    console.print()
    console.print(table)
    console.print(f"Results: [bold]{escape(str(settings.out))}[/]", soft_wrap=True)
    if failed := [o for o in outcomes if o.problem]:
        names = escape(", ".join(o.night.recording for o in failed[:5])) + ", …" * (len(failed) > 5)
        console.print(
            f"[bold red]Left out {len(failed)} of {len(outcomes)} recordings:[/] {names}. "
            "The reasons stand above."
        )


def _hours(minutes: float | None) -> str:
    if minutes is None:
        return "–"
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest:02d} min"
