"""What a staged night leaves behind: tables for other programs, statistics, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.launching import take_lock
from eegtool.core.records import write_answers
from eegtool.core.workspace import Workspace, read_json, write_json
from eegtool.evaluate.shards import remove_parts
from eegtool.prepare.nights import Prepared
from eegtool.prepare.unscored import store_drawn
from eegtool.report import step as report
from eegtool.report.measures.sleep import in_bed, statistics
from eegtool.report.options import ReportSettings
from eegtool.report.reading.lights import Lights
from eegtool.report.showing.exports import (
    write_annotations,
    write_events,
    write_hypnogram,
    write_table,
)

if TYPE_CHECKING:
    from eegtool.stage.night import StagedNight

_WORK: Final = "work"
_SUMMARY: Final = "night.json"
STAMP: Final = "stage.json"
"""Run stamp of an output folder."""
_UNSTAGED: Final = "?"
"""By which epochs without a stage are counted."""


def workspace_of(out: Path, recording: str) -> Workspace:
    """Return the workspace of a night in the output folder."""
    return Workspace(out / recording / _WORK)


def words_file(workspace: Workspace) -> Path:
    """Return the file beside which the model's words are kept until a night is finished."""
    return workspace.answers.with_name("words.jsonl")


@contextmanager
def own_folder(out: Path, identity: Mapping[str, Any]) -> Iterator[IO[str]]:
    """Take over a folder of results, if it is new or its nights have the same `identity`; give its lock.

    Raises
    ------
    EegToolError
        If it holds something else, cannot be written, or another run is at work in it.
    """
    stamp = out / STAMP
    if out.exists() and not out.is_dir():
        raise EegToolError(f"--out {out} is not a folder.", "Name another one with --out.")
    if stamp.exists():
        before = read_json(stamp)
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
            f"{out} is not empty and not a folder of `eegvlm stage`.",
            "Name another one with --out; nothing in it is overwritten.",
        )
    what = f"Another `eegvlm stage` is running in {out}."
    with take_lock(out / ".stage.lock", what, "Wait for it, or name another --out.") as lock:
        if not stamp.exists():
            write_json(stamp, {"step": "stage", "status": "begun", **identity})
        yield lock


def finished(prepared: Prepared, out: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ``night.json`` of a night that was made from the same things, if its results are whole."""
    name = prepared.night.recording
    summary = out / name / _SUMMARY
    if not summary.exists() or not all((out / name / f).exists() for f in _files(name).values()):
        return None
    before = read_json(summary)
    return before if before.get("made_from") == made_from else None


def write_night(
    night: StagedNight,
    out: Path,
    words: Mapping[str, str] | None = None,
    made_from: Mapping[str, Any] | None = None,
    lights: Lights | None = None,
    *,
    full: bool = False,
) -> dict[str, Any]:
    """Write the results of a night into its folder in `out`.

    Parameters
    ----------
    night, out : StagedNight, Path
        The night, and the folder of all results.
    words : mapping of str to str, optional
        Texts that are to stand in the table, by sample id.
    made_from : mapping, optional
        What decides the results, for `finished`.
    lights : Lights, optional
        When the lights went off and on; by default the whole recording is time in bed.
    full : bool
        Print the report's tables, too.

    Returns
    -------
    dict
        As in ``night.json``: counts, statistics (of the smoothed stages apart), files.
    """
    name, prepared = night.recording, night.drawn.prepared
    folder, workspace, files = out / name, workspace_of(out, name), _files(name)
    requirements = night.stager.requirements
    store_drawn(night.drawn, workspace, requirements.answers.question, requirements.protocol)
    write_answers(workspace.answers, night.answers)
    before, console.quiet = console.quiet, console.quiet or not full
    try:
        notices = report.run(
            ReportSettings(workspace=workspace.root, out=folder / "report", full=full),
            words,
            {name: lights} if lights else {},
        )
    finally:
        console.quiet = before
    text_of = {
        a.metadata["epoch_index"]: (words or {}).get(a.question_id, "") for a in night.answers
    }
    epochs = [replace(e, words=text_of.get(e.epoch_index, "")) for e in night.epochs]
    write_table(folder / files["hypnogram"], epochs)
    write_events(folder / files["events"], epochs)
    write_hypnogram(folder / files["bids_hypnogram"], epochs, lights)
    write_annotations(folder / files["annotations"], epochs, night.drawn.start)
    certainties = [max(epoch.probabilities) for epoch in epochs if epoch.probabilities]
    smoothed = night.smoothed_stages
    found: dict[str, Any] = {
        "recording": name,
        "source": prepared.night.signal_path.name,
        "channel": prepared.channel,
        "epochs": len(epochs),
        "staged": sum(epoch.stage is not None for epoch in epochs),
        "flagged": dict(Counter(epoch.why for epoch in epochs if epoch.why)),
        "stages": dict(Counter(epoch.stage or _UNSTAGED for epoch in epochs)),
        "certainty": round(float(np.mean(certainties)), 4) if certainties else None,
        "lights": {"off_s": lights.off_s, "on_s": lights.on_s} if lights else None,
        "statistics": statistics(in_bed(night.stages, lights)),
        "statistics_smoothed": statistics(in_bed(smoothed, lights)) if any(smoothed) else None,
        "notes": night.notes,
        "warnings": [notice.text for notice in notices if notice.level == "warning"],
        "files": {kind: f"{name}/{file}" for kind, file in files.items()},
        "made_from": dict(made_from or {}),
    }
    write_json(folder / _SUMMARY, found)
    for path in (workspace.answers, words_file(workspace)):
        remove_parts(path)
    return found


def _files(name: str) -> dict[str, str]:
    return {
        "hypnogram": f"{name}_hypnogram.csv",
        "events": f"{name}_events.tsv",
        "bids_hypnogram": f"{name}_hypnogram.tsv",
        "annotations": f"{name}_hypnogram.edf",
        "report": "report/report.html",
        "review": "report/review.html",
        "metrics": "report/metrics.json",
    }


def _brief(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)[:12]
