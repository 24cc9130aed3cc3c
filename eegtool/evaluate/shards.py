"""Who asks which questions, and the files in which answers gather until all are there.

Beside ``answers.jsonl`` every writer has a file of its own, ``answers.part-0.jsonl`` (a rank) or
``answers.chunk-0-of-3.jsonl`` (a machine), to which it appends whole lines as they come. What is there
counts for everybody, joined by sample id: a run may be resumed with another number of ranks or chunks.
When no question is left, ``answers.jsonl`` is written and the others go.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from eegtool.core.errors import of_system
from eegtool.core.records import Answer, Question, json_line


def deal(sample_ids: Iterable[str], n: int) -> list[list[str]]:
    """Deal sample ids out to `n` shards whose sizes differ by one at most.

    The shard of an id depends on the ids alone, not on their order: by their hash, so that a night
    spreads over all shards.

    Examples
    --------
    >>> [len(shard) for shard in deal(["a", "b", "c", "d", "e"], 3)]
    [2, 2, 1]
    """
    ordered = sorted(sample_ids, key=lambda i: (hashlib.sha256(i.encode()).digest(), i))
    return [ordered[shard::n] for shard in range(n)]


def share(questions: Sequence[Question], number: int, n: int) -> list[Question]:
    """Return the questions of one of `n` shards, in their order."""
    ids = set(deal((question.sample_id for question in questions), n)[number])
    return [question for question in questions if question.sample_id in ids]


def part_path(answers_file: Path, *, chunk: int = 0, chunks: int = 1, rank: int = 0) -> Path:
    """Return the file to which a writer appends."""
    words = [f"chunk-{chunk}-of-{chunks}"] if chunks > 1 else []
    if rank or not words:
        words.append(f"part-{rank}")
    return answers_file.with_name(".".join([answers_file.stem, *words]) + answers_file.suffix)


def parts_of(answers_file: Path, *, chunk: int = 0, chunks: int = 0) -> list[Path]:
    """Return the files of all writers that are there, or of those of one chunk."""
    which = rf"\.chunk-{chunk}-of-{chunks}" if chunks else r"(\.chunk-\d+-of-\d+)?"
    name = rf"{re.escape(answers_file.stem)}{which}(\.part-\d+)?"
    pattern = re.compile(name + re.escape(answers_file.suffix))
    if not answers_file.parent.is_dir():
        return []
    found = (path for path in answers_file.parent.iterdir() if pattern.fullmatch(path.name))
    return sorted(path for path in found if path.name != answers_file.name)


def remove_parts(answers_file: Path, *, chunk: int = 0, chunks: int = 0) -> None:
    """Remove the files of all writers, or of those of one chunk."""
    for path in parts_of(answers_file, chunk=chunk, chunks=chunks):
        path.unlink(missing_ok=True)  # another process may have done so meanwhile


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, each with its end; none if it is not there.

    A last line without its end was torn when its writer was killed, and does not count.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def appended(batches: Iterable[list[Answer]], path: Path) -> Iterator[list[Answer]]:
    """Yield batches of rows, each as soon as the disk has them: whatever happens, only the last line is torn.

    Raises
    ------
    EegToolError
        If the disk takes no more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = sum(map(len, whole_lines(path)))
    with path.open("ab") as file:
        file.truncate(kept)  # without the line that was torn
        for rows in batches:
            try:
                file.write("".join(json_line(row.to_row()) for row in rows).encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                with suppress(OSError):  # it would write what is left
                    file.close()
                raise of_system(error, path) from error
            yield rows
