"""prepare: raw recordings to pictures, questions and the table of epochs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joblib import Parallel, delayed
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.records import SPLITS, write_conversations, write_epochs, write_questions
from eegtool.core.registry import check_name
from eegtool.core.settings import PrepareSettings
from eegtool.core.stages import DROPPED, STAGES
from eegtool.core.workspace import Workspace, run_stamp, write_json
from eegtool.prepare.cohorts import COHORTS, Night, find_nights
from eegtool.prepare.images import STYLES
from eegtool.prepare.images.spec import PictureSpec
from eegtool.prepare.nights import Prepared, find_problem, prepare_night
from eegtool.prepare.questions import QUESTION_TEMPLATES, conversation, question
from eegtool.prepare.recordings import is_simulated
from eegtool.prepare.signals import check_band
from eegtool.prepare.splits import check_no_leak, choose_eval_subjects


def run(settings: PrepareSettings) -> None:
    """Prepare all recordings and write the workspace.

    A recording that cannot be used is reported and counted; the others go on.

    Raises
    ------
    EegToolError
        If a name or path is wrong, no recording can be used, or a side of the split stays empty.
        The workspace is then as it was.
    """
    check_name("cohort", settings.cohort, COHORTS)
    check_name("style", settings.style, STYLES)
    check_name("question template", settings.template, QUESTION_TEMPLATES)
    check_band(settings.low_hz, settings.high_hz)
    spec = PictureSpec(settings.size, settings.amplitude_uv)

    nights = find_nights(settings.recordings, settings.cohort)
    bad = [Prepared(n, "", problem=p) for n in nights if (p := find_problem(n, settings))]
    unusable = {p.night for p in bad}
    good = [n for n in nights if n not in unusable]
    if not good:
        raise _refusal(bad)
    _print_left_out(bad)
    named = [s.strip() for s in settings.eval_subjects.split(",") if s.strip()]
    eval_subjects = choose_eval_subjects(
        (n.subject for n in good), named, settings.eval_fraction, settings.seed
    )
    visible_hz = min(STYLES[settings.style].visible_hz(spec), settings.high_hz)
    console.print(
        f"Drawing [bold]{settings.style}[/] pictures of {settings.size} × {settings.size} pixels; "
        f"rhythms show up to {visible_hz:.3g} Hz."
    )
    with _easel(settings.workspace) as easel:
        jobs = [(night, "eval" if night.subject in eval_subjects else "ft") for night in good]
        drawn = _draw(jobs, settings, spec, easel)
        for split, side in (("ft", "fine-tune"), ("eval", "evaluation")):
            of_side = [p for p in drawn if p.split == split]
            if all(p.problem for p in of_side):
                raise _refusal(of_side, f"of the {side} side ")
        _print_left_out(drawn)
        prepared = sorted(bad + drawn, key=lambda p: p.night.recording)
        _publish(settings, prepared, easel)
    console.print(summary(prepared))
    if left_out := sum(p.problem is not None for p in prepared):
        console.print(f"[yellow]Left out {left_out} of {len(prepared)} recordings.[/]")
    console.print(f"Workspace: [bold]{escape(str(settings.workspace))}[/]", soft_wrap=True)


def summary(prepared: list[Prepared]) -> Table:
    """Return the table of recordings: side, epochs kept per stage, epochs dropped and trimmed."""
    # A whole cohort has six-digit totals: close columns and short words keep it in 80 characters.
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for name in ("recording", "subject", "side"):
        table.add_column(name)
    for name in ("kept", *STAGES, "move", "?", "trimmed"):
        table.add_column(name, justify="right")
    total: Counter[str] = Counter()
    for p in (p for p in prepared if not p.problem):
        counts = Counter(e.stage for e in p.epochs) + Counter(dict(p.dropped))
        counts |= Counter({"kept": len(p.epochs), "trimmed": p.n_trimmed})
        total += counts
        numbers = [str(counts[name]) for name in ("kept", *STAGES, *DROPPED, "trimmed")]
        table.add_row(p.night.recording, p.night.subject, p.split, *numbers)
    numbers = [str(total[name]) for name in ("kept", *STAGES, *DROPPED, "trimmed")]
    table.add_section()
    table.add_row("all", "", "", *numbers, style="bold")
    return table


@contextmanager
def _easel(workspace: Path) -> Iterator[Path]:
    """Give a folder for pictures inside the workspace that is gone when the block is left.

    Whatever happens while pictures are drawn, an earlier workspace stays whole.
    """
    for folder in map(Workspace(workspace).images, SPLITS):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise EegToolError(
                f"{folder} is a link or a file; it is replaced as a whole folder.",
                "Link the whole workspace to another disk instead, or name one with --workspace.",
            )
    easel = workspace / ".prepare.tmp"
    shutil.rmtree(easel, ignore_errors=True)
    try:
        easel.mkdir(parents=True)
    except OSError as error:
        raise EegToolError(
            f"The workspace {workspace} cannot be written: {error.strerror}.",
            "Choose another folder with --workspace.",
        ) from error
    try:
        yield easel
    finally:
        shutil.rmtree(easel, ignore_errors=True)


def _draw(
    jobs: list[tuple[Night, str]], settings: PrepareSettings, spec: PictureSpec, easel: Path
) -> list[Prepared]:
    work = (delayed(prepare_night)(n, split, settings, spec, easel) for n, split in jobs)
    parallel = Parallel(n_jobs=min(settings.jobs, len(jobs)), return_as="generator_unordered")
    drawn: list[Prepared] = []
    with progress("recordings") as bar:
        task = bar.add_task("Preparing", total=len(jobs), note="")
        for result in parallel(work):
            drawn.append(result)
            n_pictures = sum(len(p.epochs) for p in drawn)
            bar.update(task, advance=1, note=f"{n_pictures:,} pictures")
    return drawn


def _publish(settings: PrepareSettings, prepared: list[Prepared], easel: Path) -> None:
    """Make the workspace that of these recordings. The stamp goes first and comes back last."""
    epochs = [epoch for p in prepared for epoch in p.epochs]
    check_no_leak(epochs)
    stamp = _stamp(settings, prepared)
    workspace, template = Workspace(settings.workspace), QUESTION_TEMPLATES[settings.template]
    workspace.prepare_stamp.unlink(missing_ok=True)
    for split in SPLITS:
        if workspace.images(split).exists():
            shutil.rmtree(workspace.images(split))
        (easel / split).rename(workspace.images(split))
    write_epochs(workspace.epochs, epochs)
    write_conversations(
        workspace.conversations, (conversation(e, template) for e in epochs if e.split == "ft")
    )
    write_questions(
        workspace.questions, (question(e, template) for e in epochs if e.split == "eval")
    )
    write_json(workspace.prepare_stamp, stamp)


def _print_left_out(prepared: list[Prepared]) -> None:
    for p in prepared:
        if p.problem:
            text = Text.assemble(("left out ", "yellow"), f"{p.night.recording}: {p.problem}")
            console.print(text, soft_wrap=True)


def _refusal(unusable: list[Prepared], side: str = "") -> EegToolError:
    """Return the error that none of some recordings can be used, with the first few reasons."""
    problems = [(p.night.recording, p.problem) for p in unusable if p.problem]
    if len(problems) == 1 and not side:
        return problems[0][1]
    lines = [f"{recording}: {problem.what}" for recording, problem in problems[:5]]
    if len(problems) > 5:
        lines.append(f"... and {len(problems) - 5} more.")
    lines += dict.fromkeys(problem.fix for _, problem in problems[:5])  # each advice once
    return EegToolError(
        f"No recording {side}can be used ({len(problems)} left out).", "\n".join(lines)
    )


def _stamp(settings: PrepareSettings, prepared: list[Prepared]) -> dict[str, object]:
    used = [p for p in prepared if not p.problem]
    protocol = {
        "cohort": settings.cohort,
        "simulated": any(is_simulated(p.night.signal_path) for p in used),
        "channel": ", ".join(sorted({p.channel for p in used})),
        "low_hz": settings.low_hz,
        "high_hz": settings.high_hz,
        "wake_margin_min": settings.wake_margin,
        "mapping": "AASM (R&K stages 3 and 4 are N3); movement time and unscored epochs dropped",
        "split": "by subject",
        "eval_subjects": sorted({p.night.subject for p in used if p.split == "eval"}),
        "style": settings.style,
        "size": settings.size,
        "amplitude_uv": settings.amplitude_uv,
        "template": settings.template,
    }
    results = {
        "recordings": {
            p.night.recording: {
                "split": p.split,
                "kept": len(p.epochs),
                "stages": dict(Counter(e.stage for e in p.epochs)),
                "dropped": dict(p.dropped),
                "trimmed": p.n_trimmed,
            }
            for p in used
        },
        "left_out": {p.night.recording: str(p.problem) for p in prepared if p.problem},
    }
    paths = [path for p in used for path in (p.night.signal_path, p.night.hypnogram_path)]
    inputs = {path.name: path for path in paths if path}
    return run_stamp("prepare", settings, inputs=inputs, protocol=protocol, results=results)
