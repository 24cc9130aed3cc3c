"""What a staged night leaves behind: tables for other programs, statistics, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from eegtool.core.answers import read_stage
from eegtool.core.errors import EegToolError
from eegtool.core.records import Answer, json_line
from eegtool.core.settings import ReportSettings, StageSettings
from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.core.workspace import Workspace, atomic_path, read_json, sha256_of, write_json
from eegtool.prepare.nights import Prepared
from eegtool.prepare.recordings import read_header
from eegtool.report import step as report
from eegtool.report.exports import ScoredEpoch, write_annotations, write_events, write_table
from eegtool.report.sleep import statistics
from eegtool.stage.needs import Needs
from eegtool.stage.smoothing import smoothed

_SUMMARY: Final = "night.json"
_UNSTAGED: Final = "?"
"""By which epochs without a stage are counted."""


def certainty(answer: Answer) -> float:
    """Return the probability of the likeliest stage."""
    return max(_probabilities(answer).values())


def write_results(
    prepared: Prepared,
    answers: Sequence[Answer],
    words: Mapping[str, str],
    settings: StageSettings,
    needs: Needs,
    workspace: Workspace,
) -> dict[str, Any]:
    """Write the results of a night into the folder above its workspace, unless they are there already.

    Parameters
    ----------
    prepared : Prepared
        The night.
    answers : sequence of Answer
        About each of its epochs that hold EEG.
    words : mapping of str to str
        Texts that are to stand in the table, by sample id.
    settings : StageSettings
        What is wanted.
    needs : Needs
        The model.
    workspace : Workspace
        Where the answers are.

    Returns
    -------
    dict
        As in ``night.json``: counts, statistics (of the smoothed stages apart), files.
    """
    folder, name = workspace.root.parent, prepared.night.recording
    made_from = {
        "answers": sha256_of(workspace.answers),
        "recording": next(iter(prepared.inputs.values())),
        "smooth": settings.smooth,
        "words": [*words],
    }
    files = {
        "hypnogram": f"{name}_hypnogram.csv",
        "events": f"{name}_events.tsv",
        "annotations": f"{name}_hypnogram.edf",
        "report": "report/report.html",
        "metrics": "report/metrics.json",
    }
    before = _found(folder, made_from, files)
    if before:
        return before
    rows = epoch_rows(prepared, answers, words, needs)
    own = _with_own_protocol(answers, workspace)
    report.run(ReportSettings(workspace=workspace.root, answers_file=own, out=folder / "report"))
    write_table(folder / files["hypnogram"], rows)
    write_events(folder / files["events"], rows)
    write_annotations(
        folder / files["annotations"], rows, read_header(prepared.night.signal_path).start
    )
    sure = [max(row.probabilities) for row in rows if row.probabilities]
    found: dict[str, Any] = {
        "recording": name,
        "source": prepared.night.signal_path.name,
        "channel": prepared.channel,
        "epochs": len(rows),
        "staged": sum(row.stage is not None for row in rows),
        "flagged": dict(Counter(row.why for row in rows if row.why)),
        "stages": dict(Counter(row.stage or _UNSTAGED for row in rows)),
        "certainty": round(float(np.mean(sure)), 4) if sure else None,
        "statistics": statistics([row.stage for row in rows]),
        "statistics_smoothed": statistics([r.smoothed for r in rows]) if settings.smooth else None,
        "notes": list(prepared.notes),
        "files": {kind: f"{name}/{file}" for kind, file in files.items()},
        "made_from": made_from,
    }
    write_json(folder / _SUMMARY, found)
    return found


def epoch_rows(
    prepared: Prepared, answers: Sequence[Answer], words: Mapping[str, str], needs: Needs
) -> list[ScoredEpoch]:
    """Return a row for every epoch of the recording, staged or not, in order of time.

    Raises
    ------
    EegToolError
        If an epoch that was drawn has no answer.
    """
    answer_of = {int(answer.metadata["epoch_index"]): answer for answer in answers}
    lost = [i for i, _ in prepared.staged if i not in answer_of]
    if lost:
        raise EegToolError(
            f"{prepared.night.recording}: {len(lost)} epochs have no answer, such as epoch {lost[0]}.",
            "Run again to go on.",
        )
    sequence = {}
    if needs.chain:
        places = sorted(answer_of)
        shares = np.array([[*_probabilities(answer_of[i]).values()] for i in places])
        sequence = dict(zip(places, smoothed(places, shares, needs.chain), strict=True))
    rows = [_epoch(i, None, missing=True, why=why) for i, why in prepared.flagged]
    for i, answer in answer_of.items():
        reading = read_stage(answer.text)
        rows.append(
            _epoch(
                i,
                reading.stage,
                probabilities=tuple(_probabilities(answer).values()),
                read=answer.text[slice(*reading.span)] if reading.span else "",
                smoothed=sequence.get(i),
                words=words.get(answer.question_id, ""),
            )
        )
    return sorted(rows, key=lambda row: row.epoch_index)


def _epoch(index: int, stage: str | None, **told: Any) -> ScoredEpoch:
    return ScoredEpoch(index, float(index * EPOCH_S), stage, **told)


def _with_own_protocol(answers: Sequence[Answer], workspace: Workspace) -> Path:
    """Write the answers for the report, with how this night was prepared.

    As they are, they say how the nights of the training were: split, and trimmed.
    """
    model = ("base", "fusion", "version")
    path = workspace.answers.with_name("staged.jsonl")
    here = workspace.protocol()
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        for answer in answers:
            told = answer.metadata.get("protocol", {})
            protocol = here | {k: told[k] for k in model if k in told}
            row = replace(answer, metadata=answer.metadata | {"protocol": protocol})
            file.write(json_line(row.to_row()))
    return path


def _probabilities(answer: Answer) -> dict[str, float]:
    told = answer.metadata["stage_probabilities"]
    return {stage: float(told[stage]) for stage in STAGES}


def _found(
    folder: Path, made_from: dict[str, Any], files: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return what an earlier run wrote of the same night, if it is whole."""
    summary = folder / _SUMMARY
    if not summary.exists() or not all((folder / file).exists() for file in files.values()):
        return None
    before = read_json(summary)
    return before if before.get("made_from") == made_from else None
