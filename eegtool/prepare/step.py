"""prepare: raw recordings to pictures, questions and the table of epochs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed
from rich.table import Table

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch, write_conversations, write_epochs, write_questions
from eegtool.core.registry import check_name
from eegtool.core.settings import PrepareSettings
from eegtool.core.stages import DROPPED, STAGES
from eegtool.core.workspace import Workspace, run_stamp, write_json
from eegtool.prepare.cohorts import COHORTS, Night, find_nights
from eegtool.prepare.hypnograms import EPOCH_S, read_hypnogram, stage_per_epoch
from eegtool.prepare.images import STYLES, draw_png
from eegtool.prepare.images.spec import PictureSpec
from eegtool.prepare.questions import QUESTION_TEMPLATES, conversation, question
from eegtool.prepare.recordings import channel_names, find_channel, is_simulated, read_recording
from eegtool.prepare.signals import band_pass, cut_epoch, trim_wake, whole_epochs
from eegtool.prepare.splits import check_no_leak, choose_eval_subjects


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of one recording."""

    night: Night
    split: str
    epochs: tuple[Epoch, ...] = ()
    n_trimmed: int = 0
    """Epochs cut off as wake far from sleep."""
    dropped: tuple[tuple[str, int], ...] = ()
    """Epochs within the trimmed night that have no stage, by kind."""
    problem: EegToolError | None = None
    """Why the recording could not be used."""


def run(settings: PrepareSettings) -> None:
    """Prepare all recordings and write the workspace.

    A recording that cannot be used is reported and counted; the others go on.

    Raises
    ------
    EegToolError
        If a name or path is wrong, no recording can be used, or a side of the split stays empty.
    """
    check_name("cohort", settings.cohort, COHORTS)
    check_name("style", settings.style, STYLES)
    check_name("question template", settings.template, QUESTION_TEMPLATES)
    spec = PictureSpec(settings.size, settings.amplitude_uv)
    workspace = Workspace(settings.workspace)

    nights = find_nights(settings.recordings, settings.cohort)
    problems = [_problem(night, settings.channel) for night in nights]
    bad = [Prepared(n, "", problem=p) for n, p in zip(nights, problems, strict=True) if p]
    good = [n for n, p in zip(nights, problems, strict=True) if not p]
    if not good:
        _refuse(bad)
    named = [s.strip() for s in settings.eval_subjects.split(",") if s.strip()]
    eval_subjects = choose_eval_subjects(
        (n.subject for n in good), named, settings.eval_fraction, settings.seed
    )
    console.print(
        f"Drawing [bold]{settings.style}[/] pictures of {settings.size} × {settings.size} pixels "
        f"(frequencies up to {STYLES[settings.style].visible_hz(spec):.1f} Hz can be seen)"
    )
    jobs = [(night, "eval" if night.subject in eval_subjects else "ft") for night in good]
    prepared = bad
    with progress("recordings") as bar:
        task = bar.add_task("Preparing", total=len(jobs), note="")
        drawn = 0
        for result in _in_parallel(jobs, settings, spec, workspace):
            prepared.append(result)
            drawn += len(result.epochs)
            bar.update(task, advance=1, note=f"{drawn:,} pictures")
    prepared.sort(key=lambda p: p.night.recording)

    epochs = [epoch for p in prepared for epoch in p.epochs]
    if not epochs:
        _refuse(prepared)
    for split, side in (("ft", "fine-tune"), ("eval", "evaluation")):
        if not any(epoch.split == split for epoch in epochs):
            raise EegToolError(f"No recording of the {side} side can be used.", _reasons(prepared))
    check_no_leak(epochs)
    template = QUESTION_TEMPLATES[settings.template]
    workspace.prepare_stamp.unlink(missing_ok=True)  # comes back last: a workspace with it is whole
    write_epochs(workspace.epochs, epochs)
    write_conversations(
        workspace.conversations, (conversation(e, template) for e in epochs if e.split == "ft")
    )
    write_questions(
        workspace.questions, (question(e, template) for e in epochs if e.split == "eval")
    )
    write_json(workspace.prepare_stamp, _stamp(settings, prepared, eval_subjects))
    console.print(summary(prepared))
    for p in prepared:
        if p.problem:
            console.print(f"[yellow]left out[/] {p.night.recording}: {p.problem.what}")
    console.print(f"Workspace: [bold]{workspace.root}[/]")


def prepare_night(
    night: Night, split: str, settings: PrepareSettings, spec: PictureSpec, workspace: Workspace
) -> Prepared:
    """Read, filter, trim, cut and draw one recording; its pictures appear all at once."""
    assert night.hypnogram_path is not None  # noqa: S101 - checked when the work was planned
    try:
        recording = read_recording(night.signal_path, settings.channel)
        runs = read_hypnogram(night.hypnogram_path)
        stages = stage_per_epoch(runs, whole_epochs(len(recording.data_uv), recording.sfreq_hz))
        kept = trim_wake(stages, settings.wake_margin)
        if not kept:
            raise EegToolError(
                f"The hypnogram {night.hypnogram_path} scores no sleep within the recording.",
                "Check that it belongs to this recording.",
            )
        data_uv = band_pass(
            recording.data_uv, recording.sfreq_hz, settings.low_hz, settings.high_hz
        )
    except EegToolError as problem:
        return Prepared(night, split, problem=problem)

    epochs = tuple(
        Epoch(
            sample_id=(sample_id := f"{night.recording}-{i:04d}"),
            cohort=night.cohort,
            recording=night.recording,
            subject=night.subject,
            night=night.night,
            epoch_index=i,
            onset_s=i * EPOCH_S,
            stage=stages[i],
            split=split,
            image=f"{night.recording}/{sample_id}.png",
        )
        for i in kept
        if stages[i] in STAGES
    )
    folder = workspace.images(split) / night.recording
    made = folder.with_name(f".{night.recording}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for epoch in epochs:
        epoch_uv = cut_epoch(data_uv, recording.sfreq_hz, epoch.epoch_index)
        png = draw_png(settings.style, epoch_uv, recording.sfreq_hz, spec)
        (made / Path(epoch.image).name).write_bytes(png)
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    dropped = Counter(stages[i] for i in kept if stages[i] in DROPPED)
    n_trimmed = len(stages) - len(kept)
    return Prepared(night, split, epochs, n_trimmed, tuple(sorted(dropped.items())))


def summary(prepared: list[Prepared]) -> Table:
    """Return the table of recordings: side, epochs kept per stage, epochs dropped and trimmed."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("recording", "subject", "side"):
        table.add_column(name)
    for name in ("kept", *STAGES, *DROPPED, "trimmed"):
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


def _problem(night: Night, channel: str) -> EegToolError | None:
    """Find out from names and headers alone what is wrong with a recording."""
    if night.hypnogram_path is None:
        return EegToolError(
            f"There is no hypnogram for {night.signal_path}.",
            f"Sleep-EDF has it beside the recording, as {night.recording[:7]}?-Hypnogram.edf.",
        )
    try:
        find_channel(night.signal_path, channel_names(night.signal_path), channel)
        read_hypnogram(night.hypnogram_path)
    except EegToolError as problem:
        return problem
    return None


def _in_parallel(
    jobs: list[tuple[Night, str]],
    settings: PrepareSettings,
    spec: PictureSpec,
    workspace: Workspace,
) -> Iterator[Prepared]:
    work = (delayed(prepare_night)(n, split, settings, spec, workspace) for n, split in jobs)
    parallel = Parallel(n_jobs=min(settings.jobs, len(jobs)), return_as="generator_unordered")
    yield from parallel(work)


def _refuse(prepared: list[Prepared]) -> None:
    first = next(p.problem for p in prepared if p.problem)
    if len(prepared) == 1:
        raise first
    raise EegToolError(f"None of {len(prepared)} recordings can be used.", _reasons(prepared))


def _reasons(prepared: list[Prepared]) -> str:
    return "\n".join(f"{p.night.recording}: {p.problem}" for p in prepared if p.problem)


def _stamp(
    settings: PrepareSettings, prepared: list[Prepared], eval_subjects: frozenset[str]
) -> dict[str, object]:
    used = [p for p in prepared if not p.problem]
    protocol = {
        "cohort": settings.cohort,
        "simulated": any(is_simulated(p.night.signal_path) for p in used),
        "channel": settings.channel,
        "low_hz": settings.low_hz,
        "high_hz": settings.high_hz,
        "wake_margin_min": settings.wake_margin,
        "mapping": "AASM (R&K stages 3 and 4 are N3); movement time and unscored epochs dropped",
        "split": "by subject",
        "eval_subjects": sorted(eval_subjects),
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
