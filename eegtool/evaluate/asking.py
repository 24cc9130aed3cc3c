"""Questions to a loaded model: a progress bar, and rows batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from eegtool.core.console import progress
from eegtool.core.records import Answer, Question
from eegtool.core.settings import AnswerMode
from eegtool.evaluate.rows import RowMaker
from eegtool.inference.decoding import Decoding
from eegtool.inference.loaded import LoadedModel
from eegtool.model.processor import Pixels


def ask_all(
    model: LoadedModel,
    questions: Sequence[Question],
    done: Collection[str],
    pixels_of: Callable[[Question], Pixels],
    feature_of: Callable[[str], np.ndarray] | None,
    make_row: RowMaker,
    *,
    mode: AnswerMode,
    decoding: Decoding,
    batch_size: int | None,
    quiet: bool = False,
) -> Iterator[list[Answer]]:
    """Ask the questions whose answers are missing, and yield the rows batch by batch.

    Parameters
    ----------
    model, questions, pixels_of, feature_of, mode, decoding, batch_size
        See `LoadedModel.replies`.
    done : collection of str
        Sample ids that were answered before.
    make_row : RowMaker
        Makes a row of a reply.
    quiet : bool
        Show no progress bar: another rank has one.
    """
    bar = progress("epochs")
    bar.disable = quiet
    with bar:
        n_done = sum(question.sample_id in done for question in questions)
        line = bar.add_task("Answering", total=len(questions), completed=n_done, note="")
        began, n = time.perf_counter(), 0
        for batch, replies, size in model.replies(
            questions,
            pixels_of,
            feature_of,
            mode=mode,
            decoding=decoding,
            batch_size=batch_size,
            done=done,
        ):
            rows = [
                make_row(question, reply, size)
                for question, reply in zip(batch, replies, strict=True)
                if question.sample_id not in done
            ]
            n += len(rows)
            rate = n / (time.perf_counter() - began)
            bar.update(line, advance=len(rows), note=f"{rate:,.{rate < 10:d}f} answers/s")
            yield rows
