"""``eegvlm inspect``: what is in recordings and hypnograms, and what prepare would make of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.stages import DROPPED, EPOCH_S, SLEEP_STAGES, STAGES
from eegtool.core.workspace import jsonable
from eegtool.prepare.nights import outline
from eegtool.prepare.options import EEG_CHANNEL, InspectSettings, PrepareSettings
from eegtool.prepare.step import read_as_of, recipe_of
from eegtool.recordings.channels import resolve, usual_eeg
from eegtool.recordings.header import Header
from eegtool.recordings.montages import MONTAGES, montage_of, spec_of
from eegtool.recordings.reading import (
    find_signals,
    is_recording,
    read_header,
    read_recording,
)
from eegtool.scorings.cohorts import COHORTS, Night, find_nights, find_recordings
from eegtool.scorings.hypnograms import is_hypnogram, read_hypnogram
from eegtool.scorings.scoring import ReadAs


def run(settings: InspectSettings) -> None:
    """Describe every file; one that cannot be read is described by its error.

    Raises
    ------
    EegToolError
        If there is nothing to look at, or nothing at all could be read.
    """
    console.stderr = settings.json
    files = _files(settings.files)
    nights, unpaired = _nights(files, settings)
    facts = [_look(path, nights.get(path), unpaired, settings) for path in files]
    if settings.json:
        print(json.dumps(jsonable({"files": facts}), ensure_ascii=False))
    else:
        for fact in facts:
            _print(fact)
    if all("error" in fact for fact in facts):
        raise EegToolError(f"None of {len(facts)} files could be read.", "The reasons stand above.")


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return the files named, and of folders the recordings in them."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.is_file() and is_recording(p))
        elif path.is_file():
            files.append(path)
        else:
            raise EegToolError(f"{path} does not exist.", "Give files or folders.")
    return files or [
        night.signal_path for night in find_recordings(paths)
    ]  # says why there is none


def _nights(files: Sequence[Path], settings: InspectSettings) -> tuple[dict[Path, Night], str]:
    """Pair the recordings among files with their scorings; say why, where no cohort can."""
    try:
        found = find_nights(files, settings.cohort, settings.subject_pattern, read_as_of(settings))
        return {night.signal_path: night for night in found.nights}, ""
    except EegToolError as error:  # hypnograms alone, say; each file is then looked at by itself
        return {}, str(error)


def _look(
    path: Path, night: Night | None, unpaired: str, settings: InspectSettings
) -> dict[str, Any]:
    fact: dict[str, Any] = {"file": str(path)}
    try:
        if night is None and is_hypnogram(path):
            return fact | _scoring(path, read_as_of(settings))
        header = read_header(path, strict=settings.strict)
        fact |= _header(header)
        if suggested := _suggested(header, night, settings):
            settings = replace(settings, channel=[suggested])
            fact["suggested_channel"] = suggested
        fact["montages"] = _montages(header, settings.channel)
        fact["prepare"] = _outlook(night, header, unpaired, settings)
    except EegToolError as error:
        fact["error"] = str(error)
    return fact


def _header(header: Header) -> dict[str, Any]:
    return {
        "format": header.format,
        "start": header.start.isoformat(sep=" ") if header.start else None,
        "duration_s": header.duration_s,
        "simulated": header.simulated,
        "channels": [
            {"name": c.name, "sfreq_hz": c.sfreq_hz, "unit": c.unit} for c in header.channels
        ],
        "notes": list(header.notes),
    }


def _suggested(header: Header, night: Night | None, settings: InspectSettings) -> str:
    """Name an EEG channel to look at where there is not the usual one; empty where there is, or none can be told."""
    present = [channel.name for channel in header.channels]
    usual = COHORTS[night.cohort].channels if night else ()
    if settings.channel == [EEG_CHANNEL]:
        for name in (EEG_CHANNEL, *usual):
            with suppress(EegToolError):
                resolve(name, present)
                return "" if name == EEG_CHANNEL else name
        return usual_eeg(present)
    return ""


def _montages(header: Header, channels: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Say of each montage which channel of the recording each of its strips would show; None where none would."""
    found: dict[str, dict[str, str | None]] = {}
    for montage in MONTAGES:
        named = [EEG_CHANNEL] if montage == "aasm" else channels
        _, specs = montage_of(montage, named, [EEG_CHANNEL], {})
        wanted = specs or [spec_of(channel) for channel in named]
        try:
            strips = find_signals(header, wanted)
        except EegToolError:
            found[montage] = {spec.typed: None for spec in wanted}
        else:
            found[montage] = {
                s.spec.typed: s.derivation.name if s.derivation else None for s in strips
            }
    return found


def _scoring(path: Path, read_as: ReadAs) -> dict[str, Any]:
    """Describe a hypnogram without its recording."""
    hypnogram = read_hypnogram(path, None, read_as=read_as)
    seconds = dict.fromkeys((*STAGES, *DROPPED), 0.0)
    for run in hypnogram.runs:
        seconds[run.stage] += run.duration_s
    asleep = [run for run in hypnogram.runs if run.stage in SLEEP_STAGES]
    return {
        "format": "hypnogram",
        "start": str(hypnogram.start) if hypnogram.start else None,
        "duration_s": max(run.end_s for run in hypnogram.runs),
        "stages": {stage: round(s / EPOCH_S) for stage, s in seconds.items() if s},
        "first_sleep_s": asleep[0].onset_s,
        "last_sleep_s": asleep[-1].end_s,
    }


def _outlook(
    night: Night | None, header: Header, unpaired: str, settings: InspectSettings
) -> dict[str, Any]:
    """Say what prepare would make of a recording; an error is what it would say."""
    try:
        recording = read_recording(header.path, settings.channel, strict=settings.strict)
        if night is None:
            raise EegToolError(
                unpaired or f"No cohort knows how to pair {header.path.name} with a hypnogram.",
                "" if unpaired else "Put one beside it, or pair them in a pairs.csv.",
            )
        as_prepare = PrepareSettings(
            [header.path],
            channel=settings.channel,
            wake_margin=settings.wake_margin,
            strict=settings.strict,
        )
        plan = outline(night, recipe_of(as_prepare))
    except EegToolError as error:
        return {"error": str(error)}
    asleep = [i for i, stage in enumerate(plan.stages) if stage in SLEEP_STAGES]
    return {
        "cohort": night.cohort,
        "recording": night.recording,
        "subject": night.subject,
        "night": night.night,
        "hypnogram": ", ".join(map(str, night.scorings)),
        "stages": dict(Counter(plan.stages)),
        "first_onset_s": plan.first_onset_s,
        "first_sleep_s": plan.first_onset_s + asleep[0] * EPOCH_S,
        "kept": dict(Counter(stage for _, stage in plan.staged)),
        "dropped": plan.dropped,
        "trimmed": len(plan.stages) - len(plan.kept),
        "notes": list(dict.fromkeys(plan.notes + recording.notes)),
    }


def _print(fact: dict[str, Any]) -> None:
    console.print(Text(f"\n{fact['file']}", "bold"), soft_wrap=True)
    if "error" in fact:
        console.print(Text.assemble(("cannot be read ", "red"), fact["error"]), soft_wrap=True)
        return
    rows: list[tuple[str, str | Text]] = []
    simulated = ", simulated" if fact.get("simulated") else ""
    rows.append(("format", f"{fact['format']}{simulated}"))
    if fact.get("start"):
        rows.append(("start", fact["start"]))
    rows.append(("duration", clock(fact["duration_s"])))
    for channel in fact.get("channels", ()):
        unit = channel["unit"] or "unit not given"
        rows.append(("channel", f"{channel['name']}  {channel['sfreq_hz']:g} Hz  {unit}"))
    for montage, strips in fact.get("montages", {}).items():
        there = [f"{typed} ← {name}" for typed, name in strips.items() if name]
        lacking = [typed for typed, name in strips.items() if not name]
        text = (
            "cannot be served"
            if not there
            else f"{len(there)} of {len(strips)}: {', '.join(there)}"
        )
        text += f"; no {', '.join(lacking)}" if lacking else ""
        rows.append((f"montage {montage}", text if there else Text(text, "dim")))
    if "stages" in fact:
        rows.append(("epochs", _counts(fact["stages"])))
        rows.append(("first sleep", f"after {clock(fact['first_sleep_s'])}"))
    plan, given = fact.get("prepare", {}), ""
    if name := fact.get("suggested_channel"):
        given = f"with --channel '{name}' (there is no '{EEG_CHANNEL}', its default) it "
    if "error" in plan:
        rows.append(("prepare", Text(f"{given}would leave it out: {plan['error']}", "yellow")))
    elif plan:
        rows.append(("hypnogram", plan["hypnogram"]))
        rows.append(("subject", f"{plan['subject']}, night {plan['night']} ({plan['cohort']})"))
        rows.append(("epochs", _counts(plan["stages"])))
        rows.append(("first sleep", f"after {clock(plan['first_sleep_s'])}"))
        n_kept = sum(plan["kept"].values())
        left = f"{plan['trimmed']:,} trimmed, {sum(plan['dropped'].values())} dropped"
        rows.append(("prepare", f"{given}would keep {n_kept:,}: {_counts(plan['kept'])} ({left})"))
    for note in dict.fromkeys(fact.get("notes", []) + plan.get("notes", [])):
        rows.append(("note", Text(note, "cyan")))
    table = Table.grid(padding=(0, 2))
    for name, cell in rows:  # names in files may hold what rich takes for markup
        table.add_row(name, cell if isinstance(cell, Text) else Text(cell))
    console.print(table)


def _counts(counts: dict[str, int]) -> str:
    names: Iterable[str] = (*STAGES, *DROPPED)
    return "  ".join(f"{name} {counts[name]:,}" for name in names if counts.get(name))


def clock(seconds: float) -> str:
    """Return a duration as ``h:mm:ss``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}"
