"""evaluate: ask the fine-tuned model about every epoch of the evaluation side."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from rich.markup import escape

from eegtool.core.console import console, warn
from eegtool.core.errors import EegToolError
from eegtool.core.launching import count_ranks, take_lock
from eegtool.core.options import settings_from
from eegtool.core.ranks import call_on_ranks
from eegtool.core.records import Answer, write_answers
from eegtool.core.stages import STAGES
from eegtool.core.workspace import run_stamp, write_json
from eegtool.evaluate.asking import read_row
from eegtool.evaluate.options import EvaluateSettings
from eegtool.evaluate.shards import appended, deal, remove_parts, share
from eegtool.evaluate.task import Task, check, read_batch_size, say_what_is_unusual
from eegtool.inference.calibration import (
    CertaintyCheck,
    calibrate,
    calibrated,
    scores_of,
    sentences,
    write_calibration,
)
from eegtool.inference.loaded import LoadedModel
from eegtool.inference.smoothing import MUCH, knows_sequences, smoothed_stages
from eegtool.model.adapters import is_untrained

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
    say_what_is_unusual(task)
    with _alone(task) as lock:
        if settings.overwrite:
            # Of several chunks only this one starts from scratch: the others are at work, perhaps.
            chunks = settings.num_chunks if settings.num_chunks > 1 else 0
            remove_parts(task.answers_file, chunk=settings.chunk_idx, chunks=chunks)
        before = task.answered()
        n_missing = sum(question.sample_id not in before for question in task.asked)
        began = time.perf_counter()
        ranks = min(count_ranks(settings.num_gpus, torch.cuda.device_count()), n_missing)
        if ranks > 1:
            call_on_ranks("eegtool.evaluate.step:ask_as_rank", asdict(settings), ranks, lock)
        elif ranks:
            _ask(task)
        _finish(task, n_missing, time.perf_counter() - began)


def ask_as_rank(settings: Mapping[str, Any], rank: int, ranks: int) -> None:
    """Answer a share of the questions, in a process of its own (see `call_on_ranks`)."""
    _ask(check(settings_from(EvaluateSettings, settings)), rank, ranks)


@contextmanager
def _alone(task: Task) -> Iterator[IO[str]]:
    """Refuse a second evaluation with the same answers file and chunk: each would answer all there is."""
    part = task.part()
    made = [path for path in part.parents if not path.exists()]
    what = f"An evaluation that writes {task.answers_file} is running already."
    fix = "Wait for it, end it, or give another --answers-file (or another --chunk-idx)."
    with take_lock(part.with_name(f".{part.name}.lock"), what, fix) as lock:
        try:
            yield lock
        finally:
            Path(lock.name).unlink(missing_ok=True)
            with suppress(OSError):  # something is in it: answers
                for path in made:
                    path.rmdir()


def _ask(task: Task, rank: int = 0, ranks: int = 1) -> None:
    """Load the model and append the answers that are missing to this rank's file."""
    done = set(task.answered())
    own = share(task.asked, rank, ranks)
    if all(question.sample_id in done for question in own):
        return
    settings = task.settings
    with _deterministic(settings.deterministic):
        model = LoadedModel.load(
            settings.model_path,
            base=settings.model_base,
            vision_tower=settings.vision_tower,
            device=f"cuda:{rank}" if torch.cuda.is_available() else "cpu",
            dtype=settings.dtype,
            attention=settings.attention,
            merge=settings.merge,
        )
        if rank == 0:
            n_missing = sum(question.sample_id not in done for question in task.asked)
            before = len(task.asked) - n_missing
            console.print(
                f"Asking [bold]{escape(str(settings.model_path))}[/] about {n_missing:,} epochs"
                + (f" on {ranks} ranks" if ranks > 1 else "")
                + (f" ({before:,} were answered before)" if before else "")
            )
        batches = task.job.ask(
            model,
            own,
            done,
            lambda q: model.processor.pixels(task.pictures.load(q.images[0]).rgb()),
            None if task.features is None else task.features.__getitem__,
            batch_size=read_batch_size(settings.batch_size),
            deterministic=settings.deterministic,
        )
        for number, _ in enumerate(appended(batches, task.part(rank))):
            if number == 0:
                task.begin()


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Let PyTorch use only what gives the same bits in every run, and no TF32."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _finish(task: Task, n_missing: int, seconds: float) -> None:
    """Write the answers file if nothing is missing: in the order of the questions, whole or not at all."""
    task.begin()
    lines = task.answered(begun=True)
    if not _all_there(task, lines):
        return
    settings, model, calibration = task.settings, task.job.model, task.calibration
    results: dict[str, Any] = {"asked": n_missing, "seconds": round(seconds, 3)}
    if settings.calibrate:
        results["calibration"] = _calibrate(task, lines)
        calibration = model.calibration()

    def rows() -> Iterator[Answer]:
        for question in task.questions:
            if question.sample_id in lines:
                row = read_row(lines[question.sample_id], str(task.answers_file))
                yield calibrated(row, calibration, model.answers.texts)

    stages: dict[str, str] = {}
    if settings.mode != "generate" and knows_sequences(model.contract.sequence):
        stages, changed = smoothed_stages(rows(), model.chain(calibration))
        _warn_if_much_changed(changed)
    results |= _write(task.answers_file, rows(), stages)
    contract = "config.json" if is_untrained(settings.model_path) else "eegvlm.json"
    stamp = run_stamp(
        "evaluate",
        settings,
        inputs={"questions": task.question_file, "contract": settings.model_path / contract},
        protocol=task.job.protocol,
        results=results,
    )
    write_json(task.stamp, stamp)
    remove_parts(task.answers_file)


def _warn_if_much_changed(changed: Mapping[str, float]) -> None:
    """Say in which recordings smoothing changes more than single epochs."""
    much = sorted(
        (name for name, share in changed.items() if share > MUCH), key=changed.__getitem__
    )
    if much:
        shown = ", ".join(f"{name} {changed[name]:.0%}" for name in reversed(much[-3:]))
        warn(
            f"smoothing changes more than {MUCH:.0%} of the epochs of {len(much):,} of {len(changed):,} "
            f"recordings ({shown}): the nights that it was learnt from may not be like these."
        )


def _all_there(task: Task, lines: Mapping[str, bytes]) -> bool:
    """Say whether nothing is missing; where other chunks are not done, say which."""
    lost = [q.sample_id for q in task.asked if q.sample_id not in lines]
    if lost:
        raise EegToolError(
            f"{len(lost):,} answers vanished while they were written, such as that to '{lost[0]}'.",
            "Does another evaluation write to the same --answers-file? Run again to continue.",
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


def _calibrate(task: Task, lines: Mapping[str, bytes]) -> dict[str, Any]:
    """Fit a calibration to the answers that were asked for, and keep it beside the adapter."""
    asked = [q.sample_id for q in task.asked if q.category in STAGES]
    rows = [read_row(lines[sample_id], str(task.answers_file)) for sample_id in asked]
    known, settings, model = [row.metadata for row in rows], task.settings, task.job.model
    fitted, found = calibrate(
        np.array([scores_of(row) for row in rows]).reshape(-1, len(STAGES)),
        [row.label for row in rows],
        mode=settings.mode,
        subjects=[some.get("subject", "") for some in known],
        adapter_sha256=model.adapter_sha256,
        decide_for=settings.decide_for,
        places=[(some.get("recording", ""), some.get("epoch_index", 0)) for some in known],
        sequence=model.contract.sequence,
    )
    write_calibration(settings.model_path, fitted)
    for sentence in sentences(fitted, found, settings.decide_for):
        console.print(sentence)
    return asdict(fitted)


def _write(path: Path, rows: Iterable[Answer], smoothed: Mapping[str, str]) -> dict[str, Any]:
    """Write the answers file, with the smoothed stages; say, and return, what there is to count."""
    texts: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    truncated = 0
    certainty = CertaintyCheck()

    def counted() -> Iterator[Answer]:
        nonlocal truncated
        for row in rows:
            if row.question_id in smoothed:
                row.metadata["stage_smoothed"] = smoothed[row.question_id]
            texts[row.text] += 1
            labels[row.label] += row.label in STAGES
            truncated += row.metadata.get("truncated") is True
            certainty.add(row)
            yield row

    write_answers(path, counted())
    n, empty = texts.total(), texts[""]
    _warn_if_constant(texts, labels)
    if truncated:
        warn(
            f"{truncated:,} of {n:,} answers reached the limit of tokens and are "
            "cut: raise --max-new-tokens."
        )
    console.print(
        f"Answers: [bold]{escape(str(path))}[/] ({n:,} rows{f', {empty:,} empty' if empty else ''})"
    )
    found: dict[str, Any] = {"n": n, "empty": empty, "truncated": truncated}
    if figures := certainty.figures():
        after = f" → {figures['after']:.3f}" if "after" in figures else ", not calibrated"
        console.print(
            f"Expected calibration error: {figures['before']:.3f}{after} ({figures['n']:,} epochs)"
        )
        found["ece"] = figures
    return found


def _warn_if_constant(texts: Counter[str], labels: Counter[str]) -> None:
    """Say loudly when nearly all answers are the same, and the true stages cannot be the reason."""
    text, count = texts.most_common(1)[0]
    n, n_labels = texts.total(), labels.total()
    if count <= _CONSTANT * n or not n_labels:
        return
    # A model that answered as often with each stage as there are epochs of it: how likely is this?
    commonest = max(labels.values()) / n_labels
    if commonest**count < _BY_CHANCE:
        warn(
            f"{count / n:.0%} of the answers are '{text}', and {commonest:.0%} of the epochs are of "
            "the same stage: the model does not look at the epochs."
        )
