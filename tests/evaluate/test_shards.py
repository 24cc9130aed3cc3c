"""Shards of questions, and files in which answers gather: chunks, ranks, merging."""

from __future__ import annotations

import errno
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from eegtool.core import ranks, records
from eegtool.core.errors import EegToolError
from eegtool.core.records import Answer, json_line, read_questions, write_questions
from eegtool.core.workspace import Workspace, atomic_path
from eegtool.evaluate import step
from eegtool.evaluate.options import EvaluateSettings
from eegtool.evaluate.shards import appended, deal, part_path, parts_of, whole_lines
from eegtool.evaluate.step import run
from eegtool.inference.loaded import LoadedModel
from eegtool.inference.writing import Reply
from tests.evaluate.conftest import rows_of

IDS = [f"SC4{i // 100:03d}E0-{i % 100:04d}" for i in range(1000)]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000, 1003])
def test_every_id_is_in_one_shard_and_shards_are_even(n: int) -> None:
    shards = deal(IDS, n)
    assert len(shards) == n
    assert sorted(i for shard in shards for i in shard) == IDS
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    shuffled = IDS[:]
    random.Random(3).shuffle(shuffled)
    assert deal(shuffled, n) == shards


def test_a_night_spreads_over_all_shards_and_every_machine_deals_alike() -> None:
    nights = [{i.partition("-")[0] for i in shard} for shard in deal(IDS, 3)]
    assert all(len(some) == 10 for some in nights)
    assert [shard[0] for shard in deal(IDS, 3)] == [
        "SC4006E0-0078",
        "SC4006E0-0007",
        "SC4005E0-0080",
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.b.jsonl", "answers"])
def test_a_family_of_files_is_found_and_no_other(tmp_path: Path, name: str) -> None:
    path = tmp_path / "answers" / name
    assert parts_of(path) == []
    path.parent.mkdir()
    own = [part_path(path, rank=r) for r in (0, 1)]
    chunks = [part_path(path, chunk=c, chunks=3, rank=r) for c in (0, 2) for r in (0, 1)]
    assert len({*own, *chunks, path}) == 7
    stem, suffix = path.stem, path.suffix
    others = [f"{stem}.shuffled{suffix}", f"{stem}2.part-0{suffix}", f"{stem}.part-x{suffix}"]
    for other in (*own, *chunks, path, *(path.with_name(o) for o in others)):
        other.touch()
    assert parts_of(path) == sorted(own + chunks)
    assert parts_of(path, chunk=2, chunks=3) == sorted(chunks[2:])


def test_only_the_last_line_can_be_torn(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    rows = [Answer(i, "?", f"{i}\u2028", "N2", f"{i}-0", "m", {}) for i in ("one", "twö", "four")]
    lines = [json_line(row.to_row()).encode() for row in rows]
    batches = appended(iter([rows[:1], rows[1:2]]), path)
    for n, _ in enumerate(batches, start=1):
        assert whole_lines(path) == lines[:n]
    path.write_bytes(path.read_bytes() + lines[1].partition("ö".encode())[0] + "ö".encode()[:1])
    assert len(whole_lines(path)) == 2
    assert list(appended([rows[2:]], path)) == [rows[2:]]
    assert path.read_bytes() == b"".join(lines)


# --- chunks ---------------------------------------------------------------------------------------


def chunk(settings: EvaluateSettings, i: int, n: int = 3) -> EvaluateSettings:
    return replace(settings, num_chunks=n, chunk_idx=i)


@pytest.mark.usefixtures("batches")
def test_the_last_of_three_chunks_merges_them(
    settings: EvaluateSettings, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run(replace(settings, answers_file=workspace.root / "whole.jsonl"))
    whole = (workspace.root / "whole.jsonl").read_bytes()
    folder = workspace.answers.parent
    shards = deal([q.sample_id for q in read_questions(workspace.questions)], 3)
    for i in (2, 0):
        capsys.readouterr()
        run(chunk(settings, i))
        rows = rows_of(folder / f"eeg_answers.chunk-{i}-of-3.jsonl")
        assert sorted(row["question_id"] for row in rows) == sorted(shards[i])
        assert not workspace.answers.exists()
    said = capsys.readouterr().out
    assert f"--chunk-idx 1: 3 of 3 ({', '.join(sorted(shards[1]))})" in said
    assert "--chunk-idx 2" not in said
    run(chunk(settings, 1))
    assert workspace.answers.read_bytes() == whole
    assert sorted(p.name for p in folder.iterdir()) == [
        "eeg_answers.jsonl",
        "eeg_answers.run.json",
    ]
    run(chunk(settings, 1))  # nothing is left to do
    assert workspace.answers.read_bytes() == whole


def test_chunks_may_be_dealt_again_and_nothing_is_asked_twice(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int]
) -> None:
    run(chunk(settings, 0))
    run(chunk(settings, 1, 2))
    batches.clear()
    run(replace(settings, batch_size="1"))
    there = {*deal(ids(workspace), 3)[0], *deal(ids(workspace), 2)[1]}
    assert len(batches) == 10 - len(there)
    assert [row["question_id"] for row in rows_of(workspace.answers)] == ids(workspace)
    assert parts_of(workspace.answers) == []


def ids(workspace: Workspace) -> list[str]:
    return [q.sample_id for q in read_questions(workspace.questions)]


@pytest.mark.usefixtures("batches")
def test_more_chunks_than_questions(settings: EvaluateSettings, workspace: Workspace) -> None:
    for i in range(12):
        run(chunk(settings, i, 12))
    assert [row["question_id"] for row in rows_of(workspace.answers)] == ids(workspace)


@pytest.mark.usefixtures("batches")
def test_chunks_of_a_limited_run(settings: EvaluateSettings, workspace: Workspace) -> None:
    for i in range(2):
        run(replace(chunk(settings, i, 2), limit=5))
    assert [row["question_id"] for row in rows_of(workspace.answers)] == ids(workspace)[:5]


@pytest.mark.usefixtures("batches")
def test_chunks_of_different_models_are_not_merged(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path
) -> None:
    run(chunk(settings, 0, 2))
    with (adapter / "projector.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(EegToolError, match=r"chunk-0-of-2.jsonl holds answers of another model"):
        run(chunk(settings, 1, 2))


def test_overwriting_one_chunk_leaves_the_others(
    settings: EvaluateSettings,
    workspace: Workspace,
    adapter: Path,
    batches: list[int],
) -> None:
    run(settings)
    run(chunk(replace(settings, overwrite=True), 0, 2))
    assert not workspace.answers.exists()
    run(chunk(settings, 0, 2))
    batches.clear()
    run(chunk(replace(settings, overwrite=True), 1, 2))
    assert sum(batches) == 5
    assert [row["question_id"] for row in rows_of(workspace.answers)] == ids(workspace)


@pytest.mark.usefixtures("batches")
def test_overwriting_chunk_by_chunk_passes_over_another_models_rest(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path
) -> None:
    run(chunk(settings, 1, 2))  # of the model before
    path = adapter / "projector.safetensors"
    path.write_bytes(save({k: v + 1 for k, v in load_file(path).items()}))
    again = replace(settings, overwrite=True)
    run(chunk(again, 0, 2))
    assert not workspace.answers.exists()
    run(chunk(again, 1, 2))
    assert len({row["metadata"]["adapter_sha256"] for row in rows_of(workspace.answers)}) == 1


@pytest.mark.usefixtures("batches")
def test_two_chunks_that_end_at_the_same_moment(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(chunk(settings, 0, 2))

    @contextmanager
    def overtaken(path: Path) -> Iterator[Path]:
        with atomic_path(path) as tmp:
            with atomic_path(path) as others:  # begins later, and is done before
                others.write_text("")
            yield tmp

    monkeypatch.setattr(records, "atomic_path", overtaken)
    run(chunk(settings, 1, 2))
    assert [row["question_id"] for row in rows_of(workspace.answers)] == ids(workspace)


@pytest.mark.usefixtures("batches")
def test_a_second_evaluation_of_the_same_answers_is_refused_at_once(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    ask = LoadedModel.reply

    def second(model: LoadedModel, some: list[Any], *rest: Any) -> list[Reply]:
        with monkeypatch.context() as patch:
            patch.setattr(LoadedModel, "reply", ask)
            for again in (chunk(settings, 0, 2), replace(chunk(settings, 0, 2), overwrite=True)):
                with pytest.raises(EegToolError, match="is running already") as raised:
                    run(again)
                refused.append(raised.value.what)
            run(chunk(settings, 1, 2))  # another chunk, or another file, is another matter
            run(replace(settings, answers_file=workspace.root / "others.jsonl"))
        return ask(model, some, *rest)

    monkeypatch.setattr(LoadedModel, "reply", second)
    run(chunk(replace(settings, batch_size="16"), 0, 2))
    assert refused == [f"An evaluation that writes {workspace.answers} is running already."] * 2
    assert [row["question_id"] for row in rows_of(workspace.answers)] == ids(workspace)
    names = {path.name for path in workspace.answers.parent.iterdir()}
    assert names == {"eeg_answers.jsonl", "eeg_answers.run.json"}


@pytest.mark.usefixtures("batches")
def test_what_a_killed_evaluation_left_locks_nobody_out(
    settings: EvaluateSettings, workspace: Workspace
) -> None:
    lock = workspace.answers.with_name(".eeg_answers.part-0.jsonl.lock")
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    run(settings)
    assert len(rows_of(workspace.answers)) == len(ids(workspace))
    assert not lock.exists()


@pytest.mark.usefixtures("batches")
def test_answers_are_written_through_a_link(
    settings: EvaluateSettings, workspace: Workspace, tmp_path: Path
) -> None:
    store = tmp_path / "big disk" / "answers.jsonl"
    link = workspace.root / "link.jsonl"
    link.symlink_to(store)
    for again in (settings, settings, replace(settings, overwrite=True)):
        run(replace(again, answers_file=link))
        assert link.is_symlink()
        assert [row["question_id"] for row in rows_of(store)] == ids(workspace)
    assert {p.name for p in store.parent.iterdir()} == {"answers.jsonl", "answers.run.json"}
    assert not list(workspace.root.glob("link.*run*"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("pipe", "is not a file"), ("folder", "is not a file"), ("epochs.csv/x", "Not a directory")],
)
def test_what_is_not_a_file_is_refused_before_a_model_is_loaded(
    settings: EvaluateSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reason: str,
) -> None:
    os.mkfifo(workspace.root / "pipe")
    (workspace.root / "folder").mkdir()
    monkeypatch.setattr(step, "_ask", None)
    with pytest.raises(EegToolError, match=reason):
        run(replace(settings, answers_file=workspace.root / name, overwrite=True))
    assert (workspace.root / "pipe").is_fifo()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.usefixtures("batches")
def test_answers_that_the_disk_does_not_take(
    settings: EvaluateSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EegToolError, match=r"part-0\.jsonl cannot be written") as raised:
            run(settings)
    assert os.strerror(number) in raised.value.what
    assert raised.value.fix
    run(settings)
    assert [row["question_id"] for row in rows_of(workspace.answers)] == ids(workspace)


def test_answers_that_vanish_are_not_passed_over(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(model: LoadedModel, some: list[Any], *_: Any) -> list[Reply]:
        for path in parts_of(workspace.answers):
            path.unlink()
        return [Reply("W") for _ in some]

    monkeypatch.setattr(LoadedModel, "reply", lose)
    with pytest.raises(EegToolError, match="answers vanished"):
        run(settings)
    assert not workspace.answers.exists()


# --- ranks ----------------------------------------------------------------------------------------


def questions_of_many_lengths(workspace: Workspace) -> None:
    questions = read_questions(workspace.questions)
    write_questions(
        workspace.questions,
        [replace(q, text=q.text + " In short?" * (i * 3 % 4)) for i, q in enumerate(questions)],
    )


def same_but_for_numbers(one: Path, other: Path) -> None:
    """Compare two files line by line: equal, but for the last digits of what is computed."""
    numbers: list[list[list[float]]] = []
    rows = [rows_of(one), rows_of(other)]
    for side in rows:
        numbers.append([])
        for row in side:
            for name in ("stage_probabilities", "log_likelihoods"):
                numbers[-1].append(list(row["metadata"].pop(name).values()))
            row["metadata"].pop("batch_size")
    assert rows[0] == rows[1]
    assert np.abs(np.array(numbers[0]) - np.array(numbers[1])).max() < 1e-4


@pytest.mark.usefixtures("warm")
def test_batches_ranks_and_chunks_give_the_same_file(
    settings: EvaluateSettings, workspace: Workspace
) -> None:
    questions_of_many_lengths(workspace)
    settings = replace(settings, mode="both", max_new_tokens=5)
    one = workspace.root / "one.jsonl"
    run(replace(settings, batch_size="1", answers_file=one))
    assert len({row["text"] for row in rows_of(one)}) > 6
    for size in ("3", "16"):
        path = workspace.root / f"{size}.jsonl"
        run(replace(settings, batch_size=size, answers_file=path))
        same_but_for_numbers(path, one)
    chunks = workspace.root / "chunks.jsonl"
    for i in range(3):
        run(chunk(replace(settings, answers_file=chunks), i))
    same_but_for_numbers(chunks, one)
    two = workspace.root / "two.jsonl"
    run(replace(settings, num_gpus=2, answers_file=two))
    same_but_for_numbers(two, one)
    assert parts_of(two) == []


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return what runs the ranks one after the other, as torchrun would side by side."""

    def launch(
        command: Sequence[str], environment: dict[str, str], *, kept_open: Sequence[int]
    ) -> int:
        (lock,) = kept_open  # held as long as a rank is at work, though its parent be killed
        assert os.fstat(lock).st_nlink == 1
        *_, n, function, path = command
        codes = [0]
        for number in range(int(n)):
            with monkeypatch.context() as patch:
                patch.setenv("RANK", str(number))
                patch.setenv("WORLD_SIZE", n)
                patch.setattr(sys, "argv", ["ranks", "rank", function, path])
                try:
                    ranks.main()
                except SystemExit as end:
                    codes.append(int(end.code or 0))
        return max(codes)

    return launch


def test_a_rank_that_fails_says_why_and_keeps_the_answers(
    settings: EvaluateSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = workspace.images("eval") / read_questions(workspace.questions)[-1].images[0]
    data = picture.read_bytes()
    picture.write_bytes(b"no picture")
    settings = replace(settings, num_gpus=2, batch_size="1")
    monkeypatch.setattr(ranks, "launch", in_this_process(monkeypatch))
    with pytest.raises(EegToolError, match="A rank stopped with exit code 1"):
        run(settings)
    assert "error: The picture" in (out := capsys.readouterr().out)
    assert "cannot be read" in out.replace("\n", " ")
    kept = sum(len(rows_of(path)) for path in parts_of(workspace.answers))
    picture.write_bytes(data)
    run(replace(settings, num_gpus=1))
    assert len(rows_of(workspace.answers)) == 10
    assert kept > 0
    stamp = json.loads(workspace.answers.with_suffix(".run.json").read_text())
    assert stamp["results"]["asked"] == 10 - kept


def test_deterministic_is_for_the_run_only(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen: list[bool] = []

    def look(model: LoadedModel, some: list[Any], *_: Any) -> list[Reply]:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return [Reply("W") for _ in some]

    monkeypatch.setattr(LoadedModel, "reply", look)
    run(replace(settings, deterministic=True, limit=1))
    run(replace(settings, overwrite=True, limit=1))
    assert seen == [True, False]
    assert rows_of(workspace.answers)[0]["metadata"]["deterministic"] is False


def test_the_real_model_runs_on_deterministic_algorithms(
    settings: EvaluateSettings, workspace: Workspace
) -> None:
    run(replace(settings, deterministic=True, mode="both", temperature=0.5, top_p=0.9))
    assert rows_of(workspace.answers)[0]["metadata"]["deterministic"] is True
