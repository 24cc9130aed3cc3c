"""What each rank runs; with one rank the parent runs it itself.

``python -m eegtool.evaluate.rank SETTINGS.json`` is started by torchrun (`eegtool.evaluate.launcher`).
Ranks never wait for each other: each has the whole model, questions of its own and a file of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.launching import this_rank
from eegtool.core.settings import EvaluateSettings, settings_from
from eegtool.core.workspace import inside, read_json
from eegtool.evaluate.asking import ask_all
from eegtool.evaluate.rows import RowMaker, answered
from eegtool.evaluate.shards import Writer, deal
from eegtool.evaluate.task import Task, check, read_batch_size
from eegtool.inference.loaded import LoadedModel, merge_note


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
    n_missing = sum(question.sample_id not in done for question in own)
    if not n_missing:
        return
    settings = task.settings
    with deterministic(settings.deterministic):
        model = _load(task, rank)
        if rank == 0:
            _announce(task, done, ranks)
        how = {"batch_size": 0, **model.computation, "deterministic": settings.deterministic}
        common = {**task.identity, **how, "protocol": task.protocol}
        name = task.model_path.resolve().name
        with Writer(task.part(rank)) as writer:
            batches = ask_all(
                model,
                own,
                done,
                lambda q: model.processor.pixels(inside(task.image_folder, q.images[0])),
                None if task.features is None else task.features.__getitem__,
                RowMaker(name, common, task.prompts, task.epochs),
                mode=settings.mode,
                decoding=task.decoding,
                batch_size=read_batch_size(settings.batch_size),
                quiet=rank > 0,
            )
            for number, rows in enumerate(batches):
                if number == 0:
                    task.begin()
                writer.append(rows)


def _load(task: Task, rank: int) -> LoadedModel:
    """Load the model onto the GPU of this rank, where there is one."""
    settings = task.settings
    model = LoadedModel.load(
        task.model_path,
        base=settings.model_base,
        vision_tower=settings.vision_tower,
        device=f"cuda:{rank}" if torch.cuda.is_available() else "cpu",
        dtype=settings.dtype,
        attention=settings.attention,
        merge=settings.merge,
    )
    return model.with_template(settings.conv_mode or task.contract.version)


def _announce(task: Task, done: Collection[str], ranks: int) -> None:
    settings = task.settings
    if settings.merge:
        console.print(merge_note(task.model_path, task.contract, settings.dtype), markup=False)
    n_missing = sum(question.sample_id not in done for question in task.asked)
    before = len(task.asked) - n_missing
    console.print(
        f"Asking [bold]{escape(str(task.model_path))}[/] about {n_missing:,} epochs"
        + (f" on {ranks} ranks" if ranks > 1 else "")
        + (f" ({before:,} were answered before)" if before else "")
    )


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


def main() -> None:
    """Be the rank that torchrun says in the environment."""
    with this_rank() as (rank, ranks):
        settings = settings_from(EvaluateSettings, read_json(Path(sys.argv[1])))
        ask(check(settings), rank, ranks)


if __name__ == "__main__":
    main()
