"""stage: new recordings in; scored nights out, by a model's folder alone.

Each night has a folder of its own, with its results and a workspace. What is drawn and answered there is
kept: a run that was killed continues.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from joblib import Parallel, delayed
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from eegtool import __version__
from eegtool.core.console import console, progress
from eegtool.core.errors import CannotWriteError, EegToolError
from eegtool.core.launching import count_ranks
from eegtool.core.registry import check_name
from eegtool.core.settings import StageSettings
from eegtool.core.workspace import jsonable, run_stamp, write_json
from eegtool.evaluate.launcher import launch_ranks
from eegtool.evaluate.task import read_batch_size
from eegtool.inference.loaded import merge_note
from eegtool.model.loading import ATTENTIONS
from eegtool.prepare.cohorts import Night, find_recordings
from eegtool.prepare.nights import Prepared
from eegtool.prepare.unscored import prepare_unscored, read_drawn
from eegtool.stage.results import (
    finished,
    own_folder,
    stamp_of,
    words_file,
    workspace_of,
    write_night,
)
from eegtool.stage.stager import Stager


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
    stager = open_stager(settings)
    requirements = stager.requirements
    requirements.prepare_settings(settings.channel, settings.out)  # are there enough channels?
    if settings.smooth:
        requirements.chain()
    if requirements.contract.features != "real":
        console.print(
            f"[bold yellow]warning:[/] the model was trained with {requirements.contract.features} "
            "features, as a sanity check."
        )
    if requirements.answers.untaught:
        console.print(
            "[bold yellow]warning:[/] the model was taught no sample of "
            f"{', '.join(requirements.answers.untaught)}: how its answer is spelt is a guess."
        )
    nights = find_recordings(settings.recordings)
    identity = {
        "adapter_sha256": requirements.adapter_sha256,
        "mode": settings.mode,
        "channels": list(settings.channel or requirements.channels),
    }
    with own_folder(settings.out, identity) as lock, _stdout_for_json(settings.json):
        outcomes = _stage_all(nights, settings, stager, lock)
        done = [outcome.results for outcome in outcomes if outcome.results]
        if not done:
            raise _refusal(outcomes)
        left_out = {o.night.recording: str(o.problem) for o in outcomes if o.problem}
        stamp = identity | run_stamp(
            "stage",
            settings,
            inputs={"adapter": requirements.adapter_sha256},
            protocol=requirements.protocol,
            results={"nights": len(done), "left_out": left_out},
        )
        write_json(stamp_of(settings.out), stamp)
        _print_table(settings, outcomes)
    if settings.json:
        found = {"out": settings.out, "nights": done, "left_out": left_out}
        print(json.dumps(jsonable(found), ensure_ascii=False))


def open_stager(settings: StageSettings, device: str = "auto") -> Stager:
    """Return the model that the settings name, its weights not loaded yet."""
    return Stager.load(
        settings.model_path,
        settings.model_base,
        device,
        settings.dtype,
        settings.attention,
        settings.merge,
        vision_tower=settings.vision_tower,
        vision_module=settings.vision_module,
        backbone=settings.backbone,
        lazily=True,
    )


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


def _stage_all(
    nights: Sequence[Night], settings: StageSettings, stager: Stager, lock: IO[str]
) -> Sequence[Outcome]:
    """Draw all nights, then stage one after the other."""
    requirements = stager.requirements
    channels = ", ".join(settings.channel or requirements.channels)
    console.print(
        f"Staging {len(nights)} recording{'s' * (len(nights) > 1)} by "
        f"[bold]{escape(str(settings.model_path))}[/]: {escape(channels)}, "
        f"{requirements.drawing['style']} pictures of {requirements.drawing['size']} pixels"
    )
    if settings.merge:
        note = merge_note(settings.model_path, requirements.contract, settings.dtype)
        console.print(note, markup=False)
    prepared = _prepare_all(nights, settings, stager)
    decided = {p.night: _made_from(p, settings, stager) for p in prepared if not p.problem}
    found = {
        p.night: finished(p, settings.out, decided[p.night]) for p in prepared if not p.problem
    }
    ranks = count_ranks(settings.num_gpus, torch.cuda.device_count())
    if ranks > 1 and not all(found.values()):
        unfinished = [night for night, results in found.items() if not results]
        _ask_on_ranks(settings, unfinished, ranks, lock)
    outcomes = []
    for one in prepared:
        if one.problem:
            outcomes.append(Outcome(one.night, problem=one.problem))
            continue
        console.print(f"\n[bold]{escape(one.night.recording)}[/]")
        try:
            results = found[one.night] or _stage_one(one, settings, stager, decided[one.night])
            outcomes.append(Outcome(one.night, results))
        except CannotWriteError:  # a full disk: the nights to come would be left out, too
            raise
        except EegToolError as problem:
            outcomes.append(Outcome(one.night, problem=problem))
            _say_left_out(one.night, problem)
    return outcomes


def _made_from(prepared: Prepared, settings: StageSettings, stager: Stager) -> dict[str, Any]:
    """Return what decides the results of a night."""
    calibration = None if settings.no_calibration else stager.calibration
    return jsonable(
        {
            "recording": next(iter(prepared.inputs.values())),
            "pictures": prepared.pictures_sha256,
            "model": stager.requirements.adapter_sha256,
            "mode": settings.mode,
            "calibration": calibration and asdict(calibration),
            "smooth": settings.smooth and stager.requirements.contract.sequence,
            "version": __version__,
            "explain": [settings.explain, settings.explain_count],
        }
    )


def _stage_one(
    prepared: Prepared, settings: StageSettings, stager: Stager, made_from: dict[str, Any]
) -> dict[str, Any]:
    """Stage a night that is drawn, and write its results."""
    workspace = workspace_of(settings.out, prepared.night.recording)
    night = stager.stage_drawn(
        read_drawn(prepared, workspace, settings.channel or stager.requirements.channels),
        smooth=settings.smooth,
        mode=settings.mode,
        calibrate=not settings.no_calibration,
        batch_size=read_batch_size(settings.batch_size),
        answers_file=workspace.answers,
    )
    wanted = {
        "none": [],
        "uncertain": night.least_certain(settings.explain_count),
        "all": [answer.question_id for answer in night.answers],
    }[settings.explain]
    words = night.words(
        wanted,
        batch_size=read_batch_size(settings.batch_size),
        answers_file=words_file(workspace),
    )
    return write_night(night, settings.out, words, made_from)


def _ask_on_ranks(
    settings: StageSettings, nights: Sequence[Night], ranks: int, lock: IO[str]
) -> None:
    """Let several ranks, each with the whole model, answer their shares of all nights."""
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        path = Path(tmp) / "stage.json"
        names = [night.recording for night in nights]
        write_json(path, {"settings": jsonable(asdict(settings)), "recordings": names})
        launch_ranks("eegtool.stage.rank", path, ranks, kept_open=(lock.fileno(),))


def _prepare_all(
    nights: Sequence[Night], settings: StageSettings, stager: Stager
) -> Sequence[Prepared]:
    """Draw all nights, in parallel; return them in the order of `nights`."""
    requirements = stager.requirements
    prepared: dict[Night, Prepared] = {}
    parallel = Parallel(
        n_jobs=min(settings.jobs, len(nights)), return_as="generator_unordered", batch_size=1
    )
    tasks = (
        delayed(prepare_unscored)(
            night,
            requirements.prepare_settings(
                settings.channel,
                workspace_of(settings.out, night.recording).root,
                strict=settings.strict,
            ),
            requirements.question,
            requirements.protocol,
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


def _print_table(settings: StageSettings, outcomes: Sequence[Outcome]) -> None:
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
