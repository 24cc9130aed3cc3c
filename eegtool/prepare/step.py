"""prepare: raw recordings to pictures, questions and the table of epochs.

Every recording is drawn in the staging directory, a hidden folder of the workspace; when all are done, they are
published. A run that was killed finds its recordings whole or draws them again, so that the workspace
becomes what it would have been without the interruption.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, parallel_config
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError, brief
from eegtool.core.records import SPLITS, Epoch, write_conversations, write_epochs, write_questions
from eegtool.core.registry import check_name
from eegtool.core.stages import DROPPED, STAGES
from eegtool.core.workspace import Workspace, jsonable, run_stamp, write_json
from eegtool.pictures import STYLES, check_bands, visible_hz
from eegtool.prepare.download import download
from eegtool.prepare.nights import (
    Outline,
    Prepared,
    cannot_write,
    estimate,
    open_staging_dir,
    outline,
    prepare_night,
)
from eegtool.prepare.options import EEG_CHANNEL, InspectSettings, PrepareSettings
from eegtool.prepare.protocols import PROTOCOLS
from eegtool.prepare.publishing import is_card, publish_nights
from eegtool.prepare.questions import (
    QUESTION_TEMPLATES,
    RATIONALES,
    asking_about,
    check_rationale,
    conversation,
    question,
)
from eegtool.prepare.recipe import Recipe
from eegtool.prepare.splits import BALANCES, Split, balance, check_no_leak, make_split, write_split
from eegtool.recordings.montages import ChannelSpec, kind_and_name, montage_of
from eegtool.recordings.signals import check_band
from eegtool.scorings.codings import parse_codes
from eegtool.scorings.cohorts import AUTO, Found, Night, find_nights
from eegtool.scorings.scoring import ReadAs


def run(settings: PrepareSettings) -> None:
    """Prepare all recordings and write the workspace.

    A recording that cannot be used is reported and counted; the others continue.

    Raises
    ------
    EegToolError
        If a name or path is wrong, no recording can be used, or a side of the split stays empty.
        The workspace is then as it was.
    """
    console.stderr = settings.json  # standard output is for the JSON object alone
    _check(settings)
    paths = settings.recordings
    if settings.download:
        paths = [
            path
            for folder in settings.recordings
            for path in download(settings.download, settings.subjects, folder)
        ]
    if settings.scheduler:  # workers may stand in another folder
        paths = [path.resolve() for path in paths]
        settings = replace(settings, workspace=settings.workspace.resolve())
    cohort = PROTOCOLS[settings.protocol].cohort if settings.protocol else settings.cohort
    found = find_nights(paths, cohort, settings.subject_pattern, read_as_of(settings))
    nights = _chosen(found, settings)
    console.print(_how_drawn(settings))
    if settings.dry_run:
        _print_json(settings, _dry_run(nights, settings))
        return
    with _staging_dir(settings.workspace) as owner:
        prepared = _prepare_all(nights, settings, owner)
        split = _split(prepared, settings)
        try:
            stamp = _publish(settings, found, prepared, split)
        except OSError as error:
            raise cannot_write(settings.workspace, error) from error
    console.print(summary(prepared, split))
    for difference in stamp["protocol"].get("protocol_differs", ()):
        console.print(f"[yellow]Not as {split.protocol}:[/] {escape(difference)}.", soft_wrap=True)
    if left_out := sum(p.problem is not None for p in prepared):
        console.print(f"[yellow]Left out {left_out} of {len(prepared)} recordings.[/]")
    console.print(f"Workspace: [bold]{escape(str(settings.workspace))}[/]", soft_wrap=True)
    _print_json(settings, {"workspace": str(settings.workspace), **stamp["results"]})


def summary(prepared: Sequence[Prepared], split: Split) -> Table:
    """Return the table of recordings: side, epochs kept per stage, epochs dropped and trimmed."""
    # A whole cohort has six-digit totals: close columns and short words keep it in 80 characters.
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for name in ("recording", "subject", "side"):
        table.add_column(name)
    for name in ("kept", *STAGES, "move", "?", "trimmed"):
        table.add_column(name, justify="right")
    columns = ("kept", *STAGES, *DROPPED, "trimmed")
    total: Counter[str] = Counter()
    for p in (p for p in prepared if not p.problem):
        counts = Counter(stage for _, stage in p.staged) + Counter(p.dropped)
        counts |= Counter({"kept": len(p.staged), "trimmed": p.n_trimmed})
        total += counts
        who = (p.night.recording, p.night.subject, split.side(p.night.subject))
        table.add_row(*who, *(str(counts[name]) for name in columns))
    table.add_section()
    table.add_row("all", "", "", *(str(total[name]) for name in columns), style="bold")
    return table


def _how_drawn(settings: PrepareSettings) -> str:
    recipe = recipe_of(settings)
    strips = ", ".join(f"{c.typed} ({c.style})" for c in recipe.montage)
    shown = f"[bold]{settings.style}[/]" if not strips else f"[bold]{settings.montage}[/]"
    style = next((c.style for c in recipe.montage if c.kind == "eeg"), settings.style)
    text = f"Drawing {shown} pictures of {settings.size} × {settings.size} pixels"
    if not strips or any(c.kind == "eeg" for c in recipe.montage):
        shown_hz = min(visible_hz(style, recipe.spec, len(recipe.channels)), settings.high_hz)
        text += f"; rhythms show up to {shown_hz:.3g} Hz"
    return f"{text}. {escape(strips)}".rstrip()


def _check(settings: PrepareSettings) -> None:
    check_name("style", settings.style, STYLES)
    check_name("question template", settings.template, QUESTION_TEMPLATES)
    check_name("rationale", settings.rationale, RATIONALES)
    check_rationale(settings.template, settings.rationale)
    check_name("--balance", settings.balance, BALANCES)
    _check_protocol(settings)
    if len(settings.recordings) > 1 and settings.download:
        raise EegToolError("--download needs one folder to fetch into.", "Give only that one.")
    if settings.download and settings.dry_run:
        raise EegToolError(
            "--dry-run writes nothing, so it fetches nothing either.", "Leave out --download."
        )
    check_band(settings.low_hz, settings.high_hz)
    recipe = recipe_of(settings)
    for channel in recipe.montage:
        check_name(f"style of {channel.typed}", channel.style, STYLES)
    check_bands(recipe.spec, len(recipe.channels), settings.style)


def _check_protocol(settings: PrepareSettings) -> None:
    if not settings.protocol:
        if settings.protocol_partial:
            raise EegToolError("--protocol-partial needs --protocol.", "Name the published split.")
        return
    check_name("protocol", settings.protocol, PROTOCOLS)
    cohort = PROTOCOLS[settings.protocol].cohort
    if settings.cohort not in (AUTO, cohort):
        raise EegToolError(
            f"--protocol {settings.protocol} is of the cohort '{cohort}', not '{settings.cohort}'.",
            "Leave out --cohort, or --protocol.",
        )


def read_as_of(settings: PrepareSettings | InspectSettings) -> ReadAs:
    """Return what the settings say about scorings."""
    return ReadAs(
        parse_codes(settings.stage_codes),
        settings.scoring_column,
        settings.scorer,
        settings.scoring_epoch,
    )


def recipe_of(settings: PrepareSettings) -> Recipe:
    """Return what the settings say about single recordings; below, nobody knows them."""
    _, montage = _montage(settings)
    names = [channel.typed for channel in montage]
    return Recipe(
        channel=tuple(names or [kind_and_name(c)[1] for c in settings.channel]),
        low_hz=settings.low_hz,
        high_hz=settings.high_hz,
        notch_hz=settings.notch_hz,
        resample_hz=settings.resample_hz,
        style=settings.style,
        size=settings.size,
        amplitude_uv=settings.amplitude_uv,
        marks=settings.marks,
        context_epochs=settings.context_epochs,
        wake_margin=settings.wake_margin,
        strict=settings.strict,
        measured=settings.rationale == "measured",
        pictures=settings.pictures == "png",
        montage=montage,
    )


def _montage(settings: PrepareSettings) -> tuple[str, tuple[ChannelSpec, ...]]:
    """Return name and channels of the montage; no channels where all are EEG and drawn alike."""
    eeg = {
        "band_hz": (settings.low_hz, settings.high_hz),
        "amplitude_uv": settings.amplitude_uv,
        "style": settings.style,
    }
    return montage_of(settings.montage, settings.channel, [EEG_CHANNEL], eeg)


def _chosen(found: Found, settings: PrepareSettings) -> Sequence[Night]:
    """Return the nights to work on, and say what is not."""
    for path in found.orphans:
        what = f"[yellow]no recording[/] for the hypnogram {escape(str(path))}"
        console.print(what, soft_wrap=True)
    for note in found.notes:
        console.print(f"[dim]{escape(note)}[/]", soft_wrap=True)
    nights = found.nights
    if settings.protocol:
        nights = _of_protocol(nights, settings)
    if settings.limit and settings.limit < len(nights):
        console.print(
            f"[bold yellow]--limit: only {settings.limit} of {len(nights)} recordings.[/]"
        )
        # First one night of everybody: a split needs more than one subject.
        earlier = Counter[str]()
        rank: dict[Night, int] = {}
        for night in nights:
            rank[night] = earlier[night.subject]
            earlier[night.subject] += 1
        taken = set(sorted(nights, key=rank.__getitem__)[: settings.limit])
        nights = tuple(night for night in nights if night in taken)
    _make_split({night.subject: Counter() for night in nights}, settings)  # can there be one?
    if settings.protocol:
        _check_nights(len(nights), settings)
    return nights


def _of_protocol(nights: Sequence[Night], settings: PrepareSettings) -> tuple[Night, ...]:
    """Return the nights of the subjects of a published split, and say how many others there are."""
    protocol = PROTOCOLS[settings.protocol]
    subjects = protocol.sides(0).everybody
    chosen = tuple(night for night in nights if night.subject in subjects)
    if others := len(nights) - len(chosen):
        console.print(
            f"[dim]{others} recording{'s' * (others > 1)} of other subjects than those of "
            f"{settings.protocol} passed over.[/]"
        )
    return chosen


def _check_nights(n_nights: int, settings: PrepareSettings) -> None:
    """Refuse a published split of which nights are missing, though every subject has another one."""
    of_all = PROTOCOLS[settings.protocol].n_nights
    if n_nights < of_all and not settings.protocol_partial:
        raise EegToolError(
            f"--protocol {settings.protocol}: only {n_nights} of its {of_all} recordings can be used here.",
            "Add the others; --protocol-partial continues without them, and says so wherever the figures are shown.",
        )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@contextmanager
def _staging_dir(root: Path) -> Iterator[str]:
    """Open the staging directory for this run; whole recordings stay in it when the run fails."""
    workspace = Workspace(root)
    cards = workspace.night("any").parent
    ours = workspace.prepare_stamp.exists() or any(map(is_card, cards.glob("*.json")))
    ours |= any(map(is_card, workspace.staging_dir.glob("*.json")))
    for folder in (cards, workspace.signals, *map(workspace.images, SPLITS)):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise EegToolError(
                f"{folder} is a link or a file; prepare replaces what is in it.",
                "Link the whole workspace to another disk instead, or name one with --workspace.",
            )
        if folder.exists() and any(folder.iterdir()) and not ours:
            raise EegToolError(
                f"{folder} holds files that prepare did not make, and would replace.",
                "Name another folder with --workspace.",
            )
    try:
        owner = open_staging_dir(root)
    except OSError as error:
        raise EegToolError(
            f"The workspace {root} cannot be written: {error.strerror}.",
            "Choose another folder with --workspace.",
        ) from error
    try:
        yield owner
    finally:
        if not any(workspace.staging_dir.glob("*.json")):
            shutil.rmtree(workspace.staging_dir, ignore_errors=True)


@contextmanager
def _workers(settings: PrepareSettings, n_tasks: int) -> Iterator[int]:
    """Give the number of jobs, with joblib knowing where they run."""
    if not settings.scheduler:
        yield min(settings.jobs, n_tasks)
        return
    try:
        from distributed import Client
    except ImportError:
        raise EegToolError("--scheduler needs Dask.", "pip install 'eegvlm[cluster]'") from None
    try:
        client = Client(settings.scheduler, timeout=5)
    except (OSError, ValueError) as error:
        raise EegToolError(
            f"--scheduler: there is no Dask scheduler at {settings.scheduler} ({brief(error)}).",
            "Start one with `dask scheduler`, and workers with `dask worker ADDRESS`.",
        ) from error
    if sum(client.ncores().values()) < 2:
        console.print(
            "[yellow]The cluster has fewer than two threads: joblib works here instead.[/]"
        )
    with client, parallel_config("dask", client=client):
        yield -1


def _prepare_all(nights: Sequence[Night], settings: PrepareSettings, owner: str) -> list[Prepared]:
    """Draw all recordings, in parallel; return them in the order of `nights`."""
    recipe, workspace = recipe_of(settings), Workspace(settings.workspace)

    def n_drawn(result: Prepared) -> int:
        places = (*(result.folder or Path()).parents, *(result.signals or Path()).parents)
        return (
            len(result.staged) if workspace.staging_dir in places else 0
        )  # else it was there already

    tasks = [delayed(prepare_night)(night, recipe, workspace, owner) for night in nights]
    with _workers(settings, len(nights)) as jobs:
        found = in_parallel(tasks, jobs, "Preparing", n_drawn)
    return [found[night] for night in nights]


def in_parallel(
    tasks: Sequence[Any], jobs: int, doing: str, n_drawn: Callable[[Prepared], int]
) -> dict[Night, Prepared]:
    """Work on recordings and say what the user should know of each, with a progress bar.

    Parameters
    ----------
    tasks : sequence
        What `joblib.delayed` makes of a function that returns a `Prepared`.
    jobs : int
        How many at the same time (see `joblib.Parallel`).
    doing : str
        What the bar says.
    n_drawn : callable
        How many pictures of a recording are new.
    """
    found: dict[Night, Prepared] = {}
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    with progress("recordings") as bar:
        task = bar.add_task(doing, total=len(tasks), note="")
        began, n = time.monotonic(), 0
        for result in parallel(tasks):
            found[result.night] = result
            _report(result)
            n += n_drawn(result)
            rate = n / (time.monotonic() - began)
            bar.update(task, advance=1, note=f"{n:,} epochs, {rate:,.0f}/s")
    return found


def say_left_out(recording: str, problem: EegToolError) -> None:
    """Say that a recording cannot be used, and why."""
    text = Text.assemble(("left out ", "yellow"), f"{recording}: {problem}")
    console.print(text, soft_wrap=True)


def _report(result: Prepared | Outline) -> None:
    """Say what the user should know of one recording."""
    problem = getattr(result, "problem", None)
    name = result.night.recording
    if problem:
        say_left_out(name, problem)
    for note in result.notes:
        console.print(Text.assemble(("note ", "cyan"), f"{name}: {note}"), soft_wrap=True)


def _split(prepared: Sequence[Prepared], settings: PrepareSettings) -> Split:
    """Divide the subjects of all recordings that can be used."""
    used = [p for p in prepared if not p.problem]
    if not used:
        raise _refusal(prepared)
    stages_of: dict[str, Counter[str]] = {}
    for p in used:
        of_subject = stages_of.setdefault(p.night.subject, Counter())
        of_subject.update(stage for _, stage in p.staged)
    check_no_leak((p.night.recording, p.night.subject, next(iter(p.inputs.values()))) for p in used)
    for name in _names(settings.eval_subjects):
        if name not in stages_of:
            raise _refusal([p for p in prepared if p.night.subject == name], f"of subject {name} ")
    split = _make_split(stages_of, settings)
    if settings.protocol:
        _check_nights(len(used), settings)
    if split.note:
        console.print(f"[cyan]note[/] {escape(split.note)}", soft_wrap=True)
    return split


def _make_split(stages_of: Mapping[str, Counter[str]], settings: PrepareSettings) -> Split:
    return make_split(
        stages_of,
        named=_names(settings.eval_subjects),
        fraction=settings.eval_fraction,
        folds=settings.folds,
        fold=settings.fold,
        seed=settings.seed,
        split_from=settings.split_from,
        protocol=settings.protocol,
        partial=settings.protocol_partial,
    )


def _refusal(unusable: Sequence[Prepared], whose: str = "") -> EegToolError:
    """Return the error that none of some recordings can be used, with the first few reasons."""
    problems = [(p.night.recording, p.problem) for p in unusable if p.problem]
    if len(problems) == 1 and not whose:
        return problems[0][1]
    lines = [f"{recording}: {problem.what}" for recording, problem in problems[:5]]
    if len(problems) > 5:
        lines.append(f"... and {len(problems) - 5} more.")
    lines += dict.fromkeys(problem.fix for _, problem in problems[:5])  # each advice once
    return EegToolError(
        f"No recording {whose}can be used ({len(problems)} left out).", "\n".join(lines)
    )


def _publish(
    settings: PrepareSettings, found: Found, prepared: Sequence[Prepared], split: Split
) -> dict[str, Any]:
    """Make the workspace that of these recordings. The stamp goes first and comes back last."""
    used = [p for p in prepared if not p.problem]
    epochs = [epoch for p in used for epoch in p.epochs(split.side(p.night.subject))]
    rows = {side: [e for e in epochs if e.split == side] for side in SPLITS}
    rows["ft"] = balance(rows["ft"], settings.balance, settings.seed)
    kept = {epoch.sample_id for side in SPLITS for epoch in rows[side]}
    stamp = _stamp(settings, found, prepared, split, rows)
    facts = {i: f for p in used if p.facts is not None for i, f in p.facts_of().items()}
    reasons = RATIONALES[settings.rationale]

    workspace = Workspace(settings.workspace)
    kinds = [channel.kind for channel in recipe_of(settings).channels]
    template = asking_about(QUESTION_TEMPLATES[settings.template], settings.context_epochs, kinds)
    workspace.prepare_stamp.unlink(missing_ok=True)
    publish_nights(workspace, [(p, split.side(p.night.subject)) for p in used])
    write_split(workspace.split, split)
    write_epochs(workspace.epochs, (epoch for epoch in epochs if epoch.sample_id in kept))
    write_conversations(
        workspace.conversations,
        (conversation(e, template, reasons(e.stage, facts.get(e.sample_id))) for e in rows["ft"]),
    )
    write_questions(workspace.questions, (question(e, template) for e in rows["eval"]))
    shutil.rmtree(workspace.staging_dir)  # with what is left there of runs that were given up
    write_json(workspace.prepare_stamp, stamp)
    return stamp


def transitions(nights: Iterable[Sequence[tuple[int, str]]]) -> list[list[int]]:
    """Count how often each stage is followed by each other one, in the order of `STAGES`.

    Parameters
    ----------
    nights : iterable of sequences of (int, str)
        Index and stage of the epochs of each recording, in order of time. Only epochs that follow
        each other at once are counted.

    Returns
    -------
    list of list of int, [5][5]
        Rows: the earlier epoch.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for staged in nights:
        counts.update((a, b) for (i, a), (j, b) in pairwise(staged) if j == i + 1)
    return [[counts[one, other] for other in STAGES] for one in STAGES]


def _dry_run(nights: Sequence[Night], settings: PrepareSettings) -> dict[str, Any]:
    """Say what a run would make, from headers, scorings and a few pictures drawn in memory."""
    outlines: list[Outline] = []
    unusable: list[Prepared] = []
    cost, recipe = None, recipe_of(settings)
    for night in nights:
        try:
            plan = outline(night, recipe)
            cost = cost or estimate(night, recipe)
            outlines.append(plan)
            _report(plan)
        except EegToolError as problem:
            unusable.append(Prepared(night, problem=problem))
            _report(unusable[-1])
    if cost is None:
        raise _refusal(unusable)
    read_s, signal_bytes, picture_s, picture_bytes = cost
    n_pictures = sum(len(plan.staged) for plan in outlines)
    stages = Counter(stage for plan in outlines for _, stage in plan.staged)
    if not recipe.pictures:
        picture_s = picture_bytes = 0.0
    n_bytes = n_pictures * picture_bytes + len(outlines) * signal_bytes
    seconds = (read_s * len(outlines) + picture_s * n_pictures) / settings.jobs
    console.print(
        f"Would {'draw' if recipe.pictures else 'store the signals of'} [bold]{n_pictures:,}[/] "
        f"{'pictures' if recipe.pictures else 'epochs'} of {len(outlines)} recordings: about "
        f"{n_bytes / 1e6:,.0f} MB in about {seconds:,.0f} s with "
        f"{settings.jobs} job{'s' * (settings.jobs > 1)}."
    )
    console.print("  ".join(f"{stage} {stages[stage]:,}" for stage in STAGES))
    return {
        "recordings": len(outlines),
        "left_out": {p.night.recording: str(p.problem) for p in unusable},
        "pictures": n_pictures,
        "stages": {stage: stages[stage] for stage in STAGES},
        "bytes": round(n_bytes),
        "seconds": round(seconds, 1),
    }


def _print_json(settings: PrepareSettings, value: dict[str, Any]) -> None:
    if settings.json:
        print(json.dumps(jsonable(value), ensure_ascii=False))


def _differences(split: Split, used: Sequence[Prepared], settings: PrepareSettings) -> list[str]:
    """Say in what a run is not as its published split was."""
    protocol = PROTOCOLS[split.protocol]
    found = [f"without {', '.join(split.absent)}"] if split.absent else []
    if len(used) < protocol.n_nights:
        found.append(f"{len(used)} of {protocol.n_nights} recordings")
    if math.isinf(protocol.wake_margin_min):
        if any(p.n_trimmed for p in used):
            found.append(
                f"wake kept {settings.wake_margin:g} min around sleep, not the whole night"
            )
    elif settings.wake_margin != protocol.wake_margin_min:
        found.append(
            f"wake kept {settings.wake_margin:g} min around sleep, not {protocol.wake_margin_min:g}"
        )
    return found


def _stamp(
    settings: PrepareSettings,
    found: Found,
    prepared: Sequence[Prepared],
    split: Split,
    rows: dict[str, list[Epoch]],
) -> dict[str, Any]:
    used = [p for p in prepared if not p.problem]
    recipe, spelt = recipe_of(settings), {p.channel for p in used}
    if recipe.montage or len(spelt) > 1:  # recordings may lack channels of a montage
        spelt = {", ".join(recipe.channel)}
    protocol = {
        "cohort": found.cohort,
        "simulated": any(p.simulated for p in used),
        "channel": spelt.pop(),
        "montage": _montage(settings)[0],
        "strips": recipe.strips(),
        **{name: value for name, value in asdict(recipe).items() if name.endswith("_hz")},
        "wake_margin_min": settings.wake_margin,
        "mapping": "AASM (R&K stages 3 and 4 are N3); movement time and unscored epochs dropped",
        "split": f"by subject, {split.method}",
        "split_sha256": split.digest,
        "eval_subjects": sorted(
            {p.night.subject for p in used if split.side(p.night.subject) == "eval"}
        ),
        "balance": settings.balance,
        **{name: value for name, value in recipe.drawing().items() if name != "strips"},
        "template": settings.template,
        "rationale": settings.rationale,
    }
    if split.protocol:
        protocol["protocol"] = split.protocol
        protocol["protocol_differs"] = _differences(split, used, settings)
    results = {
        "epochs": {side: len(rows[side]) for side in SPLITS},
        "recordings": {
            p.night.recording: {
                "split": split.side(p.night.subject),
                "channel": p.channel,
                "signals_sha256": p.signals_sha256,
                "kept": len(p.staged),
                "stages": dict(Counter(stage for _, stage in p.staged)),
                "dropped": p.dropped,
                "trimmed": p.n_trimmed,
                "notes": p.notes,
            }
            for p in used
        },
        "left_out": {p.night.recording: str(p.problem) for p in prepared if p.problem},
        "orphans": [path.name for path in found.orphans],
    }
    inputs = {
        f"{p.night.recording}: {name}": sha256 for p in used for name, sha256 in p.inputs.items()
    }
    stamp = run_stamp("prepare", settings, inputs=inputs, protocol=protocol, results=results)
    stamp["pictures"] = settings.pictures
    stamp["sequence"] = {
        # Before balancing: thinned out, hardly an epoch is followed by its neighbour.
        "transitions": transitions(p.staged for p in used if split.side(p.night.subject) == "ft"),
        "stages": [Counter(epoch.stage for epoch in rows["ft"])[stage] for stage in STAGES],
    }
    del stamp["finished"]  # an interrupted run ends with the bytes of an uninterrupted one
    return stamp
