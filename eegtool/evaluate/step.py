"""evaluate: ask the fine-tuned model about every epoch of the evaluation side."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.launching import count_ranks, open_locked
from eegtool.core.records import Answer, json_line
from eegtool.core.settings import EvaluateSettings
from eegtool.core.stages import STAGES
from eegtool.core.workspace import atomic_path, jsonable, run_stamp, sha256_of, write_json
from eegtool.evaluate.launcher import launch_ranks
from eegtool.evaluate.rank import ask
from eegtool.evaluate.rows import answered, read_row, remove, scores_of, with_probabilities
from eegtool.evaluate.shards import deal, parts_of
from eegtool.evaluate.task import Task, check, warn
from eegtool.inference.calibration import (
    CertaintyCheck,
    calibrate,
    read_calibration,
    sentences,
    write_calibration,
)

_CONSTANT: Final = 0.95
"""Share of equal answers above which a model may not look at the epochs ..."""
_BY_CHANCE: Final = 0.001
"""... if the true stages would bring that about less often than this."""


def run(settings: EvaluateSettings) -> None:
    """Answer all questions; what was answered before by the same model is kept.

    Raises
    ------
    EegToolError
        If a file, a picture or a feature is missing, ids do not match, the adapter does not fit, or
        the answers file belongs to another model: before the model is loaded wherever possible.
    """
    task = check(settings)
    warn(task)
    with _alone(task) as lock:
        if settings.overwrite:
            # Of several chunks only this one starts from scratch: the others are at work, perhaps.
            chunks = settings.num_chunks if settings.num_chunks > 1 else 0
            remove(parts_of(task.answers_file, chunk=settings.chunk_idx, chunks=chunks))
        before = set(answered(task))
        n_missing = sum(question.sample_id not in before for question in task.asked)
        began = time.perf_counter()
        if n_missing:
            _ask(task, n_missing, lock)
        _finish(task, n_missing, time.perf_counter() - began)


@contextmanager
def _alone(task: Task) -> Iterator[IO[str]]:
    """Refuse a second evaluation with the same answers file and chunk: each would answer all there is."""
    part = task.part()
    made = [path for path in part.parents if not path.exists()]
    lock = open_locked(part.with_name(f".{part.name}.lock"))
    if lock is None:
        raise EegToolError(
            f"An evaluation that writes {task.answers_file} is running already.",
            "Wait for it, end it, or give another --answers-file (or another --chunk-idx).",
        )
    with lock:
        try:
            yield lock
        finally:
            Path(lock.name).unlink(missing_ok=True)
            with suppress(OSError):  # something is in it: answers
                for path in made:
                    path.rmdir()


def _finish(task: Task, n_missing: int, seconds: float) -> None:
    """Write the answers file if nothing is missing: in the order of the questions, whole or not at all."""
    task.begin()
    lines = answered(task, begun=True)
    if not _all_there(task, lines):
        return
    results: dict[str, Any] = {"asked": n_missing, "seconds": round(seconds, 3)}
    if task.settings.calibrate:
        task, results["calibration"] = _calibrate(task, lines)
    where, texts = str(task.answers_file), task.answers.texts
    rows = (
        with_probabilities(read_row(lines[q.sample_id], where), task.calibration, texts)
        for q in task.questions
        if q.sample_id in lines
    )
    results |= _write(task.answers_file, rows)
    hashes = {name: sha256_of(path) for name, path in task.inputs.items()}
    stamp = run_stamp(
        "evaluate", task.settings, inputs=hashes, protocol=task.protocol, results=results
    )
    write_json(task.stamp, stamp)
    remove(parts_of(task.answers_file))


def _ask(task: Task, n_missing: int, lock: IO[str]) -> None:
    """Ask here, or start as many ranks as are wanted."""
    ranks = min(count_ranks(task.settings.num_gpus, torch.cuda.device_count()), n_missing)
    if ranks == 1:
        ask(task)
        return
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        path = Path(tmp) / "settings.json"
        write_json(path, jsonable(asdict(task.settings)))
        launch_ranks("eegtool.evaluate.rank", path, ranks, kept_open=(lock.fileno(),))


def _all_there(task: Task, lines: Mapping[str, bytes]) -> bool:
    """Say whether nothing is missing; where other chunks are not done, say which.

    Raises
    ------
    EegToolError
        If answers of this chunk are missing: they were removed while it ran.
    """
    lost = [q.sample_id for q in task.asked if q.sample_id not in lines]
    if lost:
        raise EegToolError(
            f"{len(lost):,} answers vanished while they were written, such as that to '{lost[0]}'.",
            "Does another evaluation write to the same --answers-file? Run again to go on.",
        )
    n_chunks = task.settings.num_chunks
    shards = deal((q.sample_id for q in task.chosen), n_chunks)
    open_ = {i: [s for s in ids if s not in lines] for i, ids in enumerate(shards)}
    missing = {i: ids for i, ids in open_.items() if ids}
    if not missing:
        return True
    console.print(
        f"Chunk {task.settings.chunk_idx} of {n_chunks}: [bold]{escape(str(task.part()))}[/] "
        f"({len(task.asked):,} rows). Not yet answered, chunk by chunk:"
    )
    for chunk, ids in missing.items():
        shown = escape(", ".join(sorted(ids)[:3])) + ", …" * (len(ids) > 3)
        console.print(f"  --chunk-idx {chunk}: {len(ids):,} of {len(shards[chunk]):,} ({shown})")
    console.print(f"The last one to finish writes {escape(str(task.answers_file))}.")
    return False


def _calibrate(task: Task, lines: Mapping[str, bytes]) -> tuple[Task, dict[str, Any]]:
    """Fit a calibration to the answers that were asked for, and keep it beside the adapter."""
    chosen = [
        read_row(lines[q.sample_id], str(task.answers_file))
        for q in task.asked
        if q.category in STAGES
    ]
    wanted = task.settings.decide_for
    fitted, found = calibrate(
        np.array([scores_of(row) for row in chosen]).reshape(-1, len(STAGES)),
        [row.label for row in chosen],
        mode=task.settings.mode,
        subjects=[row.metadata.get("subject", "") for row in chosen],
        adapter_sha256=task.identity["adapter_sha256"],
        decide_for=wanted,
    )
    write_calibration(task.model_path, fitted)
    for sentence in sentences(fitted, found, wanted):
        console.print(sentence)
    calibration = read_calibration(task.model_path, task.identity["adapter_sha256"])
    return replace(task, calibration=calibration), asdict(fitted)


def _write(path: Path, rows: Iterable[Answer]) -> dict[str, Any]:
    """Write the answers file, whole or not at all; return what there is to count."""
    counts: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    truncated = 0
    certainty = CertaintyCheck()

    def lines() -> Iterator[str]:
        nonlocal truncated
        for row in rows:
            counts[row.text] += 1
            labels[row.label] += row.label in STAGES
            truncated += row.metadata.get("truncated") is True
            certainty.add(row)
            yield json_line(row.to_row())

    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.writelines(lines())
        file.flush()
        os.fsync(file.fileno())
    n = counts.total()
    _warn_if_constant(counts, labels)
    if truncated:
        console.print(
            f"[bold yellow]warning:[/] {truncated:,} of {n:,} answers reached the limit of tokens and are "
            "cut: raise --max-new-tokens."
        )
    empty = counts[""]
    console.print(
        f"Answers: [bold]{escape(str(path))}[/] ({n:,} rows{f', {empty:,} empty' if empty else ''})"
    )
    if figures := certainty.figures():
        told = f"{figures['before']:.3f}"
        told += f" → {figures['after']:.3f}" if "after" in figures else ", not calibrated"
        console.print(f"Expected calibration error: {told} ({figures['n']:,} epochs)")
    return {"n": n, "empty": empty, "truncated": truncated} | ({"ece": figures} if figures else {})


def _warn_if_constant(counts: Counter[str], labels: Counter[str]) -> None:
    """Say loudly when nearly all answers are the same, and the true stages cannot be the reason."""
    text, count = counts.most_common(1)[0]
    n, n_labels = counts.total(), labels.total()
    if count <= _CONSTANT * n or not n_labels:
        return
    # A model that answered as often with each stage as there are epochs of it: how likely is this?
    if (max(labels.values()) / n_labels) ** count < _BY_CHANCE:
        console.print(
            f"[bold yellow]warning:[/] {count / n:.0%} of the answers are '{escape(text)}', and "
            f"{max(labels.values()) / n_labels:.0%} of the epochs are of the same stage: the model does "
            "not look at the epochs."
        )
