"""What each rank runs; with one rank the parent runs it itself.

``python -m eegtool.evaluate.rank SETTINGS.json`` is started by torchrun (`eegtool.evaluate.launcher`).
Ranks never wait for each other: each has the whole model, questions of its own and a file of its own.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from rich.markup import escape

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError, brief
from eegtool.core.records import Question, json_line
from eegtool.core.settings import EvaluateSettings
from eegtool.core.workspace import inside, jsonable, read_json, write_json
from eegtool.evaluate.loading import load
from eegtool.evaluate.rows import answered, make_row, versions
from eegtool.evaluate.shards import Writer, deal
from eegtool.evaluate.task import Task, asked_template, check, read_batch_size
from eegtool.extract.features import FeatureTable
from eegtool.inference.generate import Asker, Reply, decoded_ahead
from eegtool.inference.memory import first_batch_size
from eegtool.model.processor import Processor


def ask(task: Task, rank: int = 0, ranks: int = 1) -> None:
    """Load the model and append the answers that are missing to this rank's file.

    Raises
    ------
    EegToolError
        If the model cannot be loaded, or memory runs out. What was answered stays.
    """
    done = set(answered(task))
    mine = set(deal((q.sample_id for q in task.asked), ranks)[rank])
    own = [question for question in task.asked if question.sample_id in mine]
    missing = {question.sample_id for question in own} - done
    if not missing:
        return
    settings = task.settings
    with deterministic(settings.deterministic):
        asker, how = _load(task, rank)
        if rank == 0:
            among = f" on {ranks} ranks" if ranks > 1 else ""
            n_missing = sum(question.sample_id not in done for question in task.asked)
            before = len(task.asked) - n_missing
            console.print(
                f"Asking [bold]{escape(str(task.model_path))}[/] about {n_missing:,} epochs{among}"
                + (f" ({before:,} were answered before)" if before else "")
            )
        own = longest_first(own, asker.processor)
        fixed = read_batch_size(settings.batch_size)
        size = fixed or _first_batch_size(asker, own[0])
        todo = whole_batches(own, missing, size)
        bar = progress("epochs")
        bar.disable = rank > 0
        with bar, Writer(task.part(rank)) as file:
            line = bar.add_task(
                "Answering", total=len(own), completed=len(own) - len(missing), note=""
            )
            began, n = time.perf_counter(), 0
            for batch, replies, now in _replies(task, asker, todo, size, may_halve=fixed is None):
                if not n:
                    task.begin()
                rows = [
                    make_row(task, q, t, how | {"batch_size": now})
                    for q, t in zip(batch, replies, strict=True)
                    if q.sample_id in missing
                ]
                file.append([json_line(row) for row in rows])
                n += len(rows)
                rate = n / (time.perf_counter() - began)
                bar.update(line, advance=len(rows), note=f"{rate:,.{rate < 10:d}f} answers/s")


def longest_first(questions: Sequence[Question], processor: Processor) -> list[Question]:
    """Sort by the number of tokens: batches waste no padding, and memory runs out at once or never."""
    keys = {(q.text, len(q.images)) for q in questions}
    length = {key: len(processor.encode_prompt(*key)) for key in keys}
    return sorted(questions, key=lambda q: -length[q.text, len(q.images)])


def _first_batch_size(asker: Asker, longest: Question) -> int:
    """Return how many questions fit into memory, by the longest of them."""
    return first_batch_size(
        asker.model,
        n_tokens=len(asker.processor.encode_prompt(longest.text, len(longest.images))),
        n_new_tokens=asker.decoding.max_new_tokens,
        n_beams=asker.decoding.num_beams,
        writes=asker.writes,
        scores=asker.mode != "generate",
    )


def whole_batches(questions: list[Question], missing: set[str], size: int) -> list[Question]:
    """Return the batches in which any answer is missing, as wholes.

    The last bits of an answer depend on what else is in its batch: a batch that was torn when the
    program was killed is asked again as it was.
    """
    batches = (questions[i : i + size] for i in range(0, len(questions), size))
    return [q for batch in batches if any(q.sample_id in missing for q in batch) for q in batch]


def _load(task: Task, rank: int) -> tuple[Asker, dict[str, Any]]:
    """Load the model; return it, and how it computes, for the rows."""
    settings = task.settings
    model, processor = load(task.model_path, settings, rank)
    processor = replace(processor, template=asked_template(settings, task.contract))
    how = {
        "batch_size": 0,  # its place; every row has its own
        "dtype": str(model.dtype).removeprefix("torch."),
        "merged": settings.merge or task.contract.merged,
        "attention": model.model.language_model.config._attn_implementation,
        "deterministic": settings.deterministic,
        "versions": versions(),
    }
    return Asker(model, processor, task.answers, settings.mode, task.decoding), how


def _replies(
    task: Task, asker: Asker, questions: list[Question], size: int, *, may_halve: bool
) -> Iterator[tuple[list[Question], list[Reply], int]]:
    """Yield batches, what the model says about them, and the batch size.

    When memory runs out, the batch that did not fit is asked again in halves, and so are all others.

    Raises
    ------
    EegToolError
        If memory runs out and the batch is not to be halved, or is one question only.
    """
    spec = asker.processor.pixel_spec
    paths = (inside(task.image_folder, q.images[0]) for q in questions)
    ready: list[np.ndarray] = []
    start = 0
    with closing(decoded_ahead(spec, paths, 2 * size)) as pictures:
        while start < len(questions):
            batch = questions[start : start + size]
            ready += islice(pictures, max(0, len(batch) - len(ready)))
            rows = _rows(task.features, batch)
            replies, reason = _try(asker, batch, np.stack(ready[: len(batch)]), rows)
            if replies is not None:
                yield batch, replies, size
                start += len(batch)
                del ready[: len(batch)]
                continue
            if not may_halve or len(batch) == 1:
                raise EegToolError(
                    f"Memory ran out for {len(batch)} questions at a time: {reason}.",
                    "What was answered is kept. "
                    + ("Use a GPU with more memory." if may_halve else "Use --batch-size auto."),
                )
            size = len(batch) // 2
            console.print(f"  Memory ran out: going on with {size} questions at a time.")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _rows(features: FeatureTable | None, batch: Sequence[Question]) -> np.ndarray | None:
    """Return the high-level features of a batch, float32 ``[B, 1, 1024]``."""
    return None if features is None else np.stack([features[q.sample_id] for q in batch])


def _try(
    asker: Asker, batch: list[Question], pixels: np.ndarray, features: np.ndarray | None
) -> tuple[list[Reply] | None, str]:
    """Ask; return None and the reason if memory ran out.

    The exception ends here: as long as it lives, so do the tensors of all frames it went through.
    """
    try:
        return asker(batch, pixels, features), ""
    except (MemoryError, RuntimeError) as error:  # CUDA's is a RuntimeError, too
        if not is_out_of_memory(error):
            raise
        return None, brief(error)


def is_out_of_memory(error: Exception) -> bool:
    """Tell running out of memory from other faults; on a CPU, PyTorch has no exception of its own."""
    said = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in said)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
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


def write_settings(path: Path, settings: EvaluateSettings) -> None:
    """Write what the ranks are to do; relative paths stay so: ranks start in the same folder."""
    write_json(path, jsonable(asdict(settings)))


def read_settings(path: Path) -> EvaluateSettings:
    """Read what `write_settings` wrote."""
    hints = get_type_hints(EvaluateSettings)
    paths = {
        f.name
        for f in fields(EvaluateSettings)
        if Path in (hints[f.name], *get_args(hints[f.name]))
    }
    values: dict[str, Any] = {
        k: Path(v) if k in paths and v is not None else v for k, v in read_json(path).items()
    }
    return EvaluateSettings(**values)


def main() -> None:
    """Be the rank that torchrun says in the environment."""
    try:
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        ask(check(read_settings(Path(sys.argv[1]))), rank, ranks)
    except EegToolError as error:
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), markup=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
