"""stage: new recordings in; scored nights out, by a model's folder alone.

Each night has a folder of its own, with its results and a workspace. What is drawn and answered there is
kept: a run that was killed is resumed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import torch
from joblib import delayed
from rich.markup import escape
from rich.table import Table

from eegtool import __version__
from eegtool.core.console import console, warn
from eegtool.core.errors import CannotWriteError, EegToolError
from eegtool.core.launching import count_ranks
from eegtool.core.options import AnswerMode, settings_from
from eegtool.core.ranks import call_on_ranks
from eegtool.core.registry import check_name
from eegtool.core.stages import EPOCH_S
from eegtool.core.workspace import jsonable, read_json, run_stamp, sha256_of, write_json
from eegtool.evaluate.task import read_batch_size
from eegtool.model.loading import ATTENTIONS
from eegtool.prepare.nights import Prepared
from eegtool.prepare.step import in_parallel, say_left_out
from eegtool.prepare.unscored import DrawnNight, prepare_unscored, read_drawn, shown
from eegtool.report.reading.lights import Lights, Span, annotated_lights, read_lights
from eegtool.scorings.cohorts import Night, find_recordings
from eegtool.stage.options import StageSettings
from eegtool.stage.results import STAMP, finished, own_folder, words_file, workspace_of, write_night
from eegtool.stage.stager import Stager

_SHOWN = 20
_LOUDEST = 2


def run(settings: StageSettings) -> None:
    """Stage all recordings that can be.

    A recording that cannot be used is reported and counted; the others are staged.

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
    requirements.recipe(settings.channel)  # are there enough channels?
    if settings.smooth:
        requirements.chain()
    for doubt in requirements.doubts():
        warn(doubt)
    nights = find_recordings(settings.recordings)
    identity = requirements.identity(settings.mode, settings.channel)
    with own_folder(settings.out, identity) as lock, _stdout_for_json(settings.json):
        done, problems = _stage_all(nights, settings, stager, lock)
        if not done:
            raise _refusal(problems)
        left_out = {name: str(problem) for name, problem in problems.items()}
        stamp = identity | run_stamp(
            "stage",
            settings,
            inputs={"adapter": requirements.adapter_sha256},
            protocol=requirements.protocol,
            results={"nights": len(done), "left_out": left_out},
        )
        write_json(settings.out / STAMP, stamp)
        _print_table(settings, done, problems)
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


def ask_as_rank(given: Mapping[str, Any], rank: int, ranks: int) -> None:
    """Keep answers to a share of each night beside it, in a process of its own (see `call_on_ranks`)."""
    settings = settings_from(StageSettings, given["settings"])
    stager = open_stager(settings, f"cuda:{rank}" if torch.cuda.is_available() else "cpu")
    for night in find_recordings(settings.recordings):
        if night.recording not in given["recordings"]:
            continue
        workspace = workspace_of(settings.out, night.recording)
        prepared = Prepared.from_card(night, read_json(workspace.night(night.recording)), None)
        drawn = _drawn(prepared, settings, stager)
        asked: list[tuple[AnswerMode, Path]] = [(settings.mode, workspace.answers)]
        if settings.explain == "all" and not stager.requirements.answers.writes(settings.mode):
            asked.append(("generate", words_file(workspace)))
        with suppress(EegToolError):  # the parent meets it again, and leaves this night out
            for mode, answers_file in asked:
                size = read_batch_size(settings.batch_size)
                how: dict[str, Any] = {"mode": mode, "batch_size": size, "rank": rank}
                stager.answers_about(drawn, answers_file=answers_file, ranks=ranks, **how)


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
) -> tuple[list[dict[str, Any]], dict[str, EegToolError]]:
    """Draw all nights, then stage one after the other; return their results, and why some have none."""
    requirements = stager.requirements
    channels = ", ".join(settings.channel or requirements.channels)
    console.print(
        f"Staging {len(nights)} recording{'s' * (len(nights) > 1)} by "
        f"[bold]{escape(str(settings.model_path))}[/]: {escape(channels)}, "
        f"{requirements.drawing['style']} pictures of {requirements.drawing['size']} pixels"
    )
    prepared = {one.night.recording: one for one in _prepare_all(nights, settings, stager)}
    problems = {name: one.problem for name, one in prepared.items() if one.problem}
    usable = [name for name in prepared if name not in problems]
    decided = {name: _made_from(prepared[name], settings, stager) for name in usable}
    found = {name: finished(prepared[name], settings.out, made) for name, made in decided.items()}
    unfinished = [name for name, results in found.items() if not results]
    ranks = count_ranks(settings.num_gpus, torch.cuda.device_count())
    if ranks > 1 and unfinished:
        asked = {"settings": asdict(settings), "recordings": unfinished}
        call_on_ranks("eegtool.stage.step:ask_as_rank", asked, ranks, lock)
    for name, made_from in decided.items():
        console.print(f"\n[bold]{escape(name)}[/]")
        try:
            found[name] = found[name] or _stage_one(prepared[name], settings, stager, made_from)
        except CannotWriteError:  # a full disk: the nights to come would be left out, too
            raise
        except EegToolError as problem:
            problems[name] = problem
            say_left_out(name, problem)
    in_order = {name: problems[name] for name in prepared if name in problems}
    return [results for results in found.values() if results], in_order


def _made_from(prepared: Prepared, settings: StageSettings, stager: Stager) -> dict[str, Any]:
    """Return what decides the results of a night."""
    calibration = None if settings.no_calibration else stager.calibration
    return jsonable(
        {
            "recording": next(iter(prepared.inputs.values())),
            "pictures": shown(prepared),
            "model": stager.requirements.adapter_sha256,
            "mode": settings.mode,
            "calibration": calibration and asdict(calibration),
            "smooth": settings.smooth and stager.requirements.contract.sequence,
            "version": __version__,
            "explain": [settings.explain, settings.explain_count],
            "lights": [settings.lights_off, settings.lights_on, *map(sha256_of, settings.lights)],
        }
    )


def _stage_one(
    prepared: Prepared, settings: StageSettings, stager: Stager, made_from: dict[str, Any]
) -> dict[str, Any]:
    """Stage a night that is drawn, and write its results."""
    workspace = workspace_of(settings.out, prepared.night.recording)
    size = read_batch_size(settings.batch_size)
    night = stager.stage(
        _drawn(prepared, settings, stager),
        smooth=settings.smooth,
        mode=settings.mode,
        calibrate=not settings.no_calibration,
        batch_size=size,
        answers_file=workspace.answers,
    )
    for note in night.notes[len(prepared.notes) :]:
        warn(note)
    wanted = {
        "none": [],
        "uncertain": night.least_certain(settings.explain_count),
        "all": [answer.question_id for answer in night.answers],
    }[settings.explain]
    words = night.words(wanted, batch_size=size, answers_file=words_file(workspace))
    lights = _lights(prepared, night.drawn.start, settings)
    return write_night(night, settings.out, words, made_from, lights, full=settings.full)


def _lights(prepared: Prepared, start: datetime | None, settings: StageSettings) -> Lights | None:
    """Return when the lights went off and on, by the settings, else by the recording's annotations."""
    name = prepared.night.recording
    n_epochs = len(prepared.staged) + len(prepared.flagged)
    span = {name: Span(start, 0.0, float(n_epochs * EPOCH_S))}
    off, on = annotated_lights(prepared.night.signal_path)
    off, on = settings.lights_off or off, settings.lights_on or on
    return read_lights(span, off, on, settings.lights).get(name)


def _drawn(prepared: Prepared, settings: StageSettings, stager: Stager) -> DrawnNight:
    """Open what is stored of a recording."""
    workspace = workspace_of(settings.out, prepared.night.recording)
    recipe = stager.requirements.recipe(settings.channel, strict=settings.strict)
    return read_drawn(prepared, workspace, recipe)


def _prepare_all(
    nights: Sequence[Night], settings: StageSettings, stager: Stager
) -> Sequence[Prepared]:
    """Filter and store all nights, in parallel; return them in the order of `nights`."""
    requirements = stager.requirements
    recipe = requirements.recipe(settings.channel, strict=settings.strict)
    tasks = [
        delayed(prepare_unscored)(
            night,
            recipe,
            workspace_of(settings.out, night.recording),
            requirements.answers.question,
            requirements.protocol,
        )
        for night in nights
    ]
    jobs = min(settings.jobs, len(nights))
    found = in_parallel(tasks, jobs, "Filtering", lambda one: len(one.staged))
    return [found[night] for night in nights]


def _refusal(problems: Mapping[str, EegToolError]) -> EegToolError:
    """Return the error that no recording could be staged, with the first few reasons."""
    if len(problems) == 1:
        return next(iter(problems.values()))
    lines = [f"{name}: {problem}" for name, problem in problems.items()]
    more = [f"... and {len(lines) - 5} more."] if len(lines) > 5 else []
    return EegToolError(
        f"None of {len(lines)} recordings could be staged.", "\n".join([*lines[:5], *more])
    )


def _print_table(
    settings: StageSettings, done: Sequence[Mapping[str, Any]], problems: Mapping[str, EegToolError]
) -> None:
    """Print what there is now, and loudly what there is not."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("recording")
    for name in ("epochs", "staged", "no EEG", "sleep", "efficiency", "certainty"):
        table.add_column(name, justify="right")
    for found in done if settings.full else done[:_SHOWN]:
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
    if len(done) > _SHOWN and not settings.full:
        console.print(f"{len(done) - _SHOWN} further nights: --full")
    loud = list(dict.fromkeys(text for found in done for text in found.get("warnings", ())))
    for text in loud[:_LOUDEST]:
        console.print(f"[bold red]warning:[/] {escape(text)}")
    console.print(
        "Figures, and a page to correct epochs: report.html and review.html in NIGHT/report."
    )
    console.print(f"Results: [bold]{escape(str(settings.out))}[/]", soft_wrap=True)
    if problems:
        names = escape(", ".join([*problems][:5])) + ", …" * (len(problems) > 5)
        console.print(
            f"[bold red]Left out {len(problems)} of {len(done) + len(problems)} recordings:[/] {names}. "
            "The reasons stand above."
        )


def _hours(minutes: float | None) -> str:
    if minutes is None:
        return "–"
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest:02d} min"
