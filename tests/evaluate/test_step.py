"""One process: what is asked, checked, kept, gone on with and written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import Scaling, ece, of_stages
from eegtool.core.records import Question, read_epochs, read_questions, write_questions
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, read_json, write_json
from eegtool.evaluate.options import EvaluateSettings
from eegtool.evaluate.step import run
from eegtool.inference import loaded
from eegtool.inference.calibration import Calibration, write_calibration
from eegtool.inference.loaded import LoadedModel
from eegtool.inference.memory import is_out_of_memory
from eegtool.inference.scoring import encode_choice, stage_log_likelihoods
from eegtool.inference.smoothing import chain_of, smoothed
from eegtool.inference.writing import Reply
from eegtool.model import tiny
from eegtool.model.adapters import adapter_sha256
from eegtool.model.checkpoints import load_base
from tests.evaluate.conftest import BATCH, rows_of, scores_of

ASK = LoadedModel.reply


def part(workspace: Workspace) -> Path:
    """Return the file to which answers are appended."""
    return workspace.answers.with_name("eeg_answers.part-0.jsonl")


def test_every_question_is_answered_in_order(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path
) -> None:
    write_questions(workspace.questions, read_questions(workspace.questions)[::-1])
    path = workspace.features("eval")
    np.save(path, np.load(path)[::-1])
    sidecar = json.loads(path.with_suffix(".json").read_text())
    sidecar["sample_ids"].reverse()
    path.with_suffix(".json").write_text(json.dumps(sidecar))

    run(settings)
    rows, questions = rows_of(workspace.answers), read_questions(workspace.questions)
    epochs = {epoch.sample_id: epoch for epoch in read_epochs(workspace.epochs)}
    assert [row["question_id"] for row in rows] == [q.sample_id for q in questions]
    for row, question in zip(rows, questions, strict=True):
        assert list(row) == "question_id prompt text label answer_id model_id metadata".split()
        assert row["label"] == question.category
        assert question.text in row["prompt"]
        assert row["prompt"].startswith("This is a VQA task.")
        assert row["model_id"] == adapter.name
        epoch, metadata = epochs[question.sample_id], row["metadata"]
        for name in ("subject", "recording", "night", "epoch_index", "onset_s"):
            assert metadata[name] == getattr(epoch, name)
        assert (metadata["features"], metadata["dtype"], metadata["batch_size"]) == (
            "real",
            "float32",
            BATCH,
        )
        assert (metadata["mode"], metadata["decoding"], metadata["attention"]) == (
            "generate",
            "greedy",
            "sdpa",
        )
        assert metadata["versions"].startswith("eegvlm ")
        assert metadata["conv_mode"] == metadata["protocol"]["version"] == "v1"
        assert (metadata["protocol"]["fusion"], metadata["protocol"]["base"]) == ("add", "tiny")
        assert "stage_probabilities" not in metadata
    assert len({row["answer_id"] for row in rows}) == len(rows)
    stamp = json.loads(workspace.answers.with_suffix(".run.json").read_text())
    assert stamp["step"] == "evaluate"
    assert (stamp["results"]["n"], stamp["results"]["asked"]) == (10, 10)
    assert stamp["results"]["seconds"] > 0
    assert not part(workspace).exists()


def test_the_model_is_asked_and_not_trained(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, torch.dtype, bool]] = []

    def look(model: LoadedModel, *others: Any) -> list[Reply]:
        network = model.network
        lora = any("lora_" in name for name, _ in network.named_parameters())
        seen.append((any(m.training for m in network.modules()), network.dtype, lora))
        return ASK(model, *others)

    monkeypatch.setattr(LoadedModel, "reply", look)
    run(settings)
    assert seen == [(False, torch.float32, True)] * 3


def test_the_terminal_is_quiet(
    settings: EvaluateSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    run(settings)
    out, err = capfd.readouterr()
    assert err == ""
    out = out.replace("warning: 10 of 10 answers reached the limit", "")  # drawn weights do not end
    assert out.startswith("Asking")
    assert "(10 rows)" in out
    assert "warning" not in out


def test_epochs_that_the_workspace_does_not_know_are_answered_too(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int]
) -> None:
    workspace.epochs.unlink()
    run(settings)
    assert "subject" not in rows_of(workspace.answers)[0]["metadata"]


def test_the_longest_question_is_asked_first(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = read_questions(workspace.questions)
    write_questions(
        workspace.questions,
        [replace(q, text=q.text + " Well?" * (i % 3)) for i, q in enumerate(questions)],
    )
    order: list[int] = []

    def say(model: LoadedModel, asked: Sequence[Question], *_: Any) -> list[Reply]:
        order.extend(q.text.count("Well") for q in asked)
        return [Reply(q.sample_id) for q in asked]

    monkeypatch.setattr(LoadedModel, "reply", say)
    run(settings)
    assert order == [2, 2, 2, 1, 1, 1, 0, 0, 0, 0]
    rows = rows_of(workspace.answers)
    assert [row["text"] for row in rows] == [q.sample_id for q in questions]


# --- words and probabilities ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["score", "both"])
@pytest.mark.usefixtures("batches")
def test_rows_carry_the_probability_of_each_stage(
    settings: EvaluateSettings, workspace: Workspace, mode: Any
) -> None:
    run(replace(settings, mode=mode))
    for row in rows_of(workspace.answers):
        metadata = row["metadata"]
        assert (
            list(metadata["stage_probabilities"])
            == list(metadata["log_likelihoods"])
            == list(STAGES)
        )
        expected = scores_of(row["question_id"])
        assert np.allclose(list(metadata["log_likelihoods"].values()), expected, atol=1e-6)
        shares = list(metadata["stage_probabilities"].values())
        assert np.allclose(shares, Scaling().probabilities(expected), atol=2e-6)
        assert abs(sum(shares) - 1) < 1e-5
        assert metadata["calibration_temperature"] == 1
        assert metadata["decoding"] == ("greedy" if mode == "both" else None)


@pytest.mark.usefixtures("batches")
def test_rows_say_the_stage_in_the_likeliest_sequence(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path
) -> None:
    """Beside what the epoch alone says, and by the transitions of the training subjects."""
    sticky = {"transitions": (np.eye(5) * 50 + 1).tolist(), "stages": [1, 1, 1, 1, 1]}
    path = adapter / "eegvlm.json"
    write_json(path, read_json(path) | {"sequence": sticky})
    run(replace(settings, mode="score"))
    rows = rows_of(workspace.answers)
    nights: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        nights.setdefault(row["metadata"]["recording"], []).append(row)
    for night in nights.values():
        night.sort(key=lambda row: row["metadata"]["epoch_index"])
        places = [("night", row["metadata"]["epoch_index"]) for row in night]
        shares = [list(row["metadata"]["stage_probabilities"].values()) for row in night]
        expected = smoothed(places, np.array(shares), chain_of(sticky, adapter))
        assert [row["metadata"]["stage_smoothed"] for row in night] == expected
    assert [row["text"] for row in rows] != [row["metadata"]["stage_smoothed"] for row in rows]
    run(replace(settings, mode="generate", overwrite=True))
    assert not any("stage_smoothed" in row["metadata"] for row in rows_of(workspace.answers))


def test_score_alone_answers_without_a_word_being_written(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "write", lambda *_: pytest.fail("wrote"))
    run(replace(settings, mode="score"))
    for row in rows_of(workspace.answers):
        shares = row["metadata"]["stage_probabilities"]
        assert row["text"] == max(shares, key=lambda stage: shares[stage])


def cot(adapter: Path) -> None:
    """Say in the contract that reasons come first."""
    stages = {stage: f"The stage is {stage}." for stage in STAGES}
    answers = {"stages": stages, "lead": "The stage is ", "max_new_tokens": 7}
    path = adapter / "eegvlm.json"
    write_json(path, json.loads(path.read_text()) | {"answers": answers})


def test_where_reasons_come_first_they_are_written_before_the_score(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path
) -> None:
    cot(adapter)
    settings = replace(settings, max_new_tokens=0)
    texts = {}
    for mode in ("generate", "score", "both"):
        path = workspace.root / f"{mode}.jsonl"
        run(replace(settings, mode=mode, answers_file=path))
        rows = rows_of(path)
        texts[mode] = [row["text"] for row in rows]
        assert {row["metadata"]["max_new_tokens"] for row in rows} == {7}
    assert texts["both"] == texts["generate"]
    for wrote, scored in zip(texts["generate"], texts["score"], strict=True):
        assert scored.startswith(wrote.partition("The stage is")[0])
        assert scored.partition("The stage is ")[2] in [f"{stage}." for stage in STAGES]


def test_another_template_needs_its_flag_and_is_written_into_every_row(
    settings: EvaluateSettings,
    workspace: Workspace,
    batches: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(replace(settings, conv_mode="llava_v1"))
    assert "asked by the template 'llava_v1' and trained by 'v1'" in capsys.readouterr().out
    for row in rows_of(workspace.answers):
        assert row["prompt"].startswith("A chat between a curious user")
        assert row["prompt"].endswith("ASSISTANT:")
        assert row["metadata"]["conv_mode"] == "llava_v1"
        assert row["metadata"]["protocol"]["version"] == "v1"


def test_another_template_is_what_the_model_sees(
    settings: EvaluateSettings, workspace: Workspace
) -> None:
    run(settings)
    other = workspace.root / "other.jsonl"
    run(replace(settings, conv_mode="llava_v1", answers_file=other))
    assert [r["text"] for r in rows_of(other)] != [r["text"] for r in rows_of(workspace.answers)]


# --- memory ---------------------------------------------------------------------------------------


def fit(most: int, sizes: list[int]) -> Callable[..., list[Reply]]:
    """Return a model that has room for so many questions."""

    def say(model: LoadedModel, questions: Sequence[Question], *_: Any) -> list[Reply]:
        sizes.append(len(questions))
        if len(questions) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")
        return [Reply(q.sample_id) for q in questions]

    return say


def test_the_batch_is_halved_when_memory_runs_out_and_no_answer_is_lost(
    settings: EvaluateSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(LoadedModel, "reply", fit(3, sizes))
    run(replace(settings, batch_size="auto"))
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    rows = rows_of(workspace.answers)
    assert [row["text"] for row in rows] == [row["question_id"] for row in rows]
    assert {row["metadata"]["batch_size"] for row in rows} == {2}
    assert "continuing with 2 questions at a time" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "most", "fix"), [("auto", 0, "more memory"), ("4", 3, "auto")])
def test_memory_that_does_not_suffice_is_a_message_and_answers_are_kept(
    settings: EvaluateSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    size: str,
    most: int,
    fix: str,
) -> None:
    monkeypatch.setattr(LoadedModel, "reply", fit(most, []))
    with pytest.raises(EegToolError, match=r"Memory ran out for .* Tried to allocate") as caught:
        run(replace(settings, batch_size=size))
    assert fix in caught.value.fix
    assert "More." not in str(caught.value)


def test_another_fault_is_not_taken_for_a_lack_of_memory(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(LoadedModel, "reply", fail)
    with pytest.raises(RuntimeError, match="device-side"):
        run(replace(settings, batch_size="auto"))


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_counts_as_a_lack_of_memory(error: Exception, out: bool) -> None:
    assert is_out_of_memory(error) is out


# --- continuing -------------------------------------------------------------------------------------


def line_end(data: bytes, n: int) -> int:
    """Return where line `n` ends."""
    return len(b"".join(line + b"\n" for line in data.split(b"\n")[:n]))


CUTS: dict[str, Callable[[bytes], int]] = {
    "nothing was written": lambda data: 0,
    "torn in the first line": lambda data: 40,
    "torn in a letter": lambda data: data.index("µ".encode()) + 1,
    "torn in the third batch": lambda data: line_end(data, 9) + 25,
    "torn at the end of a line": lambda data: line_end(data, 6) - 1,
    "after a batch": lambda data: line_end(data, 2 * BATCH),
    "within a batch": lambda data: line_end(data, BATCH + 1),
    "torn in the last line": lambda data: len(data) - 3,
}


@pytest.mark.parametrize("where", ["part", "answers"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_what_was_interrupted_is_finished(
    settings: EvaluateSettings,
    workspace: Workspace,
    batches: list[int],
    cut: Callable[[bytes], int],
    where: str,
) -> None:
    """The file is that of a run without interruption, and whole batches are not asked again."""
    run(settings)
    assert batches == [4, 4, 2]
    data = workspace.answers.read_bytes()
    kept = data[: cut(data)]
    if where == "part":
        workspace.answers.unlink()
    (part(workspace) if where == "part" else workspace.answers).write_bytes(kept)
    batches.clear()
    run(settings)
    assert workspace.answers.read_bytes() == data
    assert batches == [4, 4, 2][kept.count(b"\n") // BATCH :]
    assert not part(workspace).exists()


def test_a_real_model_is_resumed_into_the_same_file(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: a torn batch is asked again as it was."""
    settings = replace(settings, mode="both")
    run(settings)
    whole = workspace.answers.read_bytes()
    lines = whole.splitlines(keepends=True)
    workspace.answers.unlink()
    part(workspace).write_bytes(b"".join(lines[:5]) + lines[6] + lines[7][:99])
    run(settings)
    assert workspace.answers.read_bytes() == whole


def test_a_run_that_was_stopped_is_gone_on_with(
    settings: EvaluateSettings,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stamp = workspace.answers.with_suffix(".run.json")
    stamp.parent.mkdir()
    stamp.write_text("of the run before")
    asked: list[str] = []

    def stop(model: LoadedModel, questions: Sequence[Question], *_: Any) -> list[Reply]:
        if len(asked) == BATCH:
            raise KeyboardInterrupt
        asked.extend(q.sample_id for q in questions)
        return [Reply("W") for _ in questions]

    monkeypatch.setattr(LoadedModel, "reply", stop)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert [row["question_id"] for row in rows_of(part(workspace))] == asked
    assert not stamp.exists()
    assert not workspace.answers.exists()
    monkeypatch.setattr(LoadedModel, "reply", lambda _, some, *__: [Reply("N2") for _ in some])
    run(settings)
    rows = rows_of(workspace.answers)
    assert [row["text"] for row in rows] == ["W"] * BATCH + ["N2"] * (10 - BATCH)
    assert "(4 were answered before)" in capsys.readouterr().out


@pytest.mark.usefixtures("batches")
def test_what_is_complete_is_not_asked_again(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    before = workspace.answers.read_bytes()
    monkeypatch.setattr(loaded, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))
    run(settings)
    assert workspace.answers.read_bytes() == before
    assert workspace.answers.with_suffix(".run.json").exists()


def test_how_it_is_computed_may_change_on_the_way(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int]
) -> None:
    """Every row says how it was computed."""
    run(replace(settings, limit=4))
    run(replace(settings, batch_size="2", attention="eager"))
    assert batches == [4, 2, 2, 2]
    rows = [row["metadata"] for row in rows_of(workspace.answers)]
    assert [m["batch_size"] for m in rows] == [4] * 4 + [2] * 6
    assert [m["attention"] for m in rows] == ["sdpa"] * 4 + ["eager"] * 6


def test_overwrite_begins_from_scratch(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int]
) -> None:
    workspace.answers.parent.mkdir()
    workspace.answers.write_text("something else\n")
    part(workspace).write_text("something torn")
    run(replace(settings, overwrite=True))
    assert len(rows_of(workspace.answers)) == 10
    run(replace(settings, overwrite=True))
    assert batches == [4, 4, 2] * 2


@pytest.mark.parametrize("doubled", [False, True])
def test_order_and_double_lines_do_no_harm(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int], doubled: bool
) -> None:
    run(settings)
    whole = workspace.answers.read_bytes()
    lines = whole.splitlines(keepends=True)
    workspace.answers.write_bytes(b"".join(lines[::-1] + lines[:3] * doubled))
    run(settings)
    assert workspace.answers.read_bytes() == whole
    assert batches == [4, 4, 2]


def another_model(workspace: Workspace, adapter: Path) -> None:
    with (adapter / "projector.safetensors").open("ab") as file:
        file.write(b" ")


def another_question(workspace: Workspace, adapter: Path) -> None:
    text = workspace.questions.read_text()
    workspace.questions.write_text(text.replace("Which sleep stage", "What stage"))


def another_truth(workspace: Workspace, adapter: Path) -> None:
    first, *others = read_questions(workspace.questions)
    write_questions(workspace.questions, [replace(first, category=""), *others])


def another_epoch(workspace: Workspace, adapter: Path) -> None:
    data = workspace.answers.read_bytes()
    workspace.answers.write_bytes(data.replace(b'"S03E0-0004"', b'"S04E0-0004"'))


def no_answer(workspace: Workspace, adapter: Path) -> None:
    workspace.answers.write_text('{"question_id": "S03E0-0000"}\n')


def no_json(workspace: Workspace, adapter: Path) -> None:
    workspace.answers.write_bytes(b"\x00\xff\n")


Spoil = Callable[[Workspace, Path], None]
OTHER: dict[Spoil, str] = {
    another_model: "holds answers of another model or run: 'S03E0-0000' .* adapter_sha256",
    another_question: "answers to other questions: 'S03E0-0000' in line 1",
    another_truth: "answers to other questions: 'S03E0-0000' in line 1",
    another_epoch: "answers to other questions: 'S04E0-0004' in line 5",
    no_answer: "line 1 is not an answer",
    no_json: "line 1 is not an answer",
}


@pytest.mark.parametrize("torn", [False, True], ids=["complete", "torn"])
@pytest.mark.parametrize(("spoil", "message"), OTHER.items(), ids=[f.__name__ for f in OTHER])
@pytest.mark.usefixtures("batches")
def test_answers_of_others_are_not_mixed(
    settings: EvaluateSettings,
    workspace: Workspace,
    adapter: Path,
    spoil: Spoil,
    message: str,
    torn: bool,
) -> None:
    run(settings)
    spoil(workspace, adapter)
    path = workspace.answers.rename(part(workspace)) if torn else workspace.answers
    before = path.read_bytes()
    with pytest.raises(EegToolError, match=message) as caught:
        run(settings)
    assert "--overwrite" in caught.value.fix
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"features": "shuffled"},
        {"features": "zero"},
        {"max_new_tokens": 9},
        {"mode": "both"},
        {"conv_mode": "llava_v1"},
        {"decoding": None, "temperature": 0.2},
        {"decoding": None, "num_beams": 2},
    ],
)
@pytest.mark.usefixtures("batches")
def test_answers_of_another_run_are_not_mixed(
    settings: EvaluateSettings, workspace: Workspace, change: dict[str, Any]
) -> None:
    run(settings)
    named = next(iter(change))
    change.pop("decoding", None)
    with pytest.raises(EegToolError, match=f"another model or run.*{named}"):
        run(replace(settings, **change))


@pytest.mark.usefixtures("batches")
def test_the_seed_counts_where_something_is_drawn(
    settings: EvaluateSettings, workspace: Workspace
) -> None:
    run(settings)
    before = workspace.answers.read_bytes()
    run(replace(settings, seed=1))  # greedy answers with real features: nothing is drawn
    assert workspace.answers.read_bytes() == before
    for name, change in {"seed": {"features": "shuffled"}, "decoding": {"temperature": 1}}.items():
        drawn = replace(settings, **change, answers_file=workspace.root / f"{name}.jsonl")  # type: ignore[arg-type]
        run(drawn)
        with pytest.raises(EegToolError, match=rf"another model or run.*{name}"):
            run(replace(drawn, seed=1))


@pytest.mark.usefixtures("batches")
def test_a_model_that_cannot_be_loaded_costs_no_answers(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise EegToolError("no room for it")

    with monkeypatch.context() as patch:
        patch.setattr(loaded, "load_adapter", fail)
        with pytest.raises(EegToolError, match="no room"):
            run(settings)
        assert not workspace.answers.parent.exists()
    run(settings)
    before = workspace.answers.read_bytes()
    monkeypatch.setattr(loaded, "load_adapter", fail)
    with pytest.raises(EegToolError, match="no room"):
        run(replace(settings, overwrite=True))
    assert workspace.answers.read_bytes() == before
    assert workspace.answers.with_suffix(".run.json").exists()


# --- a part of the questions ----------------------------------------------------------------------


def test_a_limit_is_said_loudly_and_lifted_later(
    settings: EvaluateSettings,
    workspace: Workspace,
    batches: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(replace(settings, limit=3))
    assert "only 3 of 10 questions are asked" in capsys.readouterr().out
    assert len(rows_of(workspace.answers)) == 3
    run(settings)
    assert "warning: only" not in capsys.readouterr().out
    whole = workspace.answers.read_bytes()
    assert len(rows_of(workspace.answers)) == 10
    assert batches == [3, 4, 4, 2]  # the torn batch as it will be without the limit
    run(replace(settings, limit=3))
    assert workspace.answers.read_bytes() == whole  # nothing that is there is lost


def two_subjects(workspace: Workspace) -> None:
    text = workspace.epochs.read_text()
    for i in (1, 4, 5):
        text = text.replace(
            f"S03E0-000{i},simulated,S03E0,S03", f"S03E0-000{i},simulated,S03E0,S04"
        )
    workspace.epochs.write_text(text)


def test_only_some_subjects(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int]
) -> None:
    two_subjects(workspace)
    run(replace(settings, subjects=" S04 ,"))
    rows = rows_of(workspace.answers)
    assert [row["question_id"][-1] for row in rows] == ["1", "4", "5"]
    assert {row["metadata"]["subject"] for row in rows} == {"S04"}


@pytest.mark.parametrize("known", [True, False])
def test_an_unknown_subject_is_refused(
    settings: EvaluateSettings, workspace: Workspace, known: bool
) -> None:
    if not known:
        workspace.epochs.unlink()
    with pytest.raises(EegToolError, match="S99" if known else "does not say whose"):
        run(replace(settings, subjects="S03,S99"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": "many"}, "--batch-size 'many'"),
        ({"batch_size": "0"}, "--batch-size '0'"),
        ({"conv_mode": "v2"}, "conversation template 'v2'"),
        ({"attention": "none"}, "--attention 'none'"),
        ({"num_chunks": 3, "chunk_idx": 3}, "--chunk-idx 3 of --num-chunks 3"),
        ({"temperature": 0.2, "num_beams": 2}, "--temperature and --num-beams"),
        ({"calibrate": True}, "--calibrate needs probabilities"),
        ({"calibrate": True, "mode": "score", "num_chunks": 2}, "--calibrate and --num-chunks"),
        (
            {"calibrate": True, "mode": "both", "no_calibration": True},
            "--calibrate and --no-calibration",
        ),
        ({"mode": "score", "decide_for": "kappa"}, "--decide-for kappa needs --calibrate"),
        (
            {"calibrate": True, "mode": "both", "decide_for": "macro_f1"},
            "--decide-for macro_f1 needs --calibrate and --mode score",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    monkeypatch.setattr(loaded, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(EegToolError, match=message):
        run(replace(settings, **change))


# --- calibration ----------------------------------------------------------------------------------


def with_truth(workspace: Workspace) -> None:
    """Make the likeliest stage the true one for most epochs, so that a temperature can be fitted."""
    questions = read_questions(workspace.questions)
    likeliest = [STAGES[int(scores_of(q.sample_id).argmax())] for q in questions]
    write_questions(
        workspace.questions,
        [
            replace(q, category=stage if i % 5 else STAGES[(STAGES.index(stage) + 1) % 5])
            for i, (q, stage) in enumerate(zip(questions, likeliest, strict=True))
        ],
    )


def test_a_calibration_is_fitted_kept_and_applied(
    settings: EvaluateSettings,
    workspace: Workspace,
    adapter: Path,
    batches: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_truth(workspace)
    two_subjects(workspace)
    settings = replace(settings, mode="score")
    run(replace(settings, calibrate=True, subjects="S03"))
    assert "Calibration: temperature" in capsys.readouterr().out
    fitted = json.loads((adapter / "calibration.json").read_text())
    assert (fitted["subjects"], fitted["n"], fitted["mode"]) == (["S03"], 7, "score")
    assert len(batches) == 2

    run(settings)  # the rest; the file is of one temperature
    said = capsys.readouterr().out.replace("\n", " ")
    assert "the calibration was fitted on 1 of these subjects (S03)" in said
    found = json.loads(workspace.answers.with_suffix(".run.json").read_text())["results"]["ece"]
    others = [row for row in rows_of(workspace.answers) if row["metadata"]["subject"] != "S03"]
    scores = np.array([scores_of(row["question_id"]).round(6) for row in others])
    stages = [row["label"] for row in others]
    scaling = Scaling(fitted["temperature"], of_stages(fitted["offsets"]) or ())
    wanted = [ece(s.probabilities(scores), stages) for s in (Scaling(), scaling)]
    assert found == {"n": 3, **dict(zip(("before", "after"), map(near, wanted), strict=True))}
    shown = f"{wanted[0]:.3f} → {wanted[1]:.3f} (3 epochs)"
    assert f"Expected calibration error: {shown}" in said
    rows = rows_of(workspace.answers)
    assert len(rows) == 10
    for row in rows:
        metadata = row["metadata"]
        assert metadata["calibration_temperature"] == fitted["temperature"] != 1
        expected = scaling.probabilities(scores_of(row["question_id"]))
        assert np.allclose(list(metadata["stage_probabilities"].values()), expected, atol=2e-6)
        assert row["text"] == STAGES[int(expected.argmax())]
        assert metadata["calibration_subjects"] == ["S03"]
        assert metadata.get("calibrated_on", False) is (metadata["subject"] == "S03")

    capsys.readouterr()
    run(replace(settings, no_calibration=True))
    assert re.search(r"error: 0\.\d{3}, not calibrated\s\(10 epochs\)", capsys.readouterr().out)
    for row in rows_of(workspace.answers):
        assert row["metadata"]["calibration_temperature"] == 1
        assert "calibrated_on" not in row["metadata"]


def near(value: float) -> Any:
    """Equal to what was computed from probabilities with six digits."""
    return pytest.approx(value, abs=1e-5)


@pytest.mark.usefixtures("batches")
def test_the_fit_sees_the_asked_subjects_alone(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path
) -> None:
    """What the others' true stages are changes nothing of it."""
    with_truth(workspace)
    two_subjects(workspace)
    fitting = replace(settings, mode="score", calibrate=True, subjects="S03", overwrite=True)
    run(replace(settings, mode="score"))  # all are answered, and could be looked at
    run(replace(fitting, overwrite=False))
    fitted = (adapter / "calibration.json").read_bytes()
    subject_of = {epoch.sample_id: epoch.subject for epoch in read_epochs(workspace.epochs)}
    write_questions(
        workspace.questions,
        [
            q if subject_of[q.sample_id] == "S03" else replace(q, category="N3")
            for q in read_questions(workspace.questions)
        ],
    )
    (adapter / "calibration.json").unlink()
    run(fitting)
    assert (adapter / "calibration.json").read_bytes() == fitted


def test_a_scored_row_says_what_is_decided_for(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path, batches: list[int]
) -> None:
    settings = replace(settings, mode="score")
    own = Calibration(2.0, "score", ("S09",), 9, 1, 1, 1, 1, adapter_sha256(adapter))
    towards = tuple(60.0 * (stage == "REM") for stage in STAGES)
    decided = replace(own, decide_for="macro_f1", decision_offsets=towards)
    write_calibration(adapter, decided)
    run(settings)
    asked = len(batches)
    for row in rows_of(workspace.answers):
        metadata = row["metadata"]
        assert (row["text"], metadata["decide_for"]) == ("REM", "macro_f1")
        assert metadata["decision_offsets"]["REM"] == 60
        expected = Scaling(2.0).probabilities(scores_of(row["question_id"]))
        assert np.allclose(list(metadata["stage_probabilities"].values()), expected, atol=2e-6)
    run(replace(settings, no_calibration=True))
    assert len(batches) == asked
    for row in rows_of(workspace.answers):
        assert row["text"] == STAGES[int(scores_of(row["question_id"]).argmax())]
        assert row["metadata"]["decide_for"] == "likelihood"
        assert "decision_offsets" not in row["metadata"]


@pytest.mark.usefixtures("batches")
def test_a_calibration_of_other_weights_is_refused_before_the_model_is_loaded(
    settings: EvaluateSettings,
    workspace: Workspace,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_truth(workspace)
    run(replace(settings, mode="score", calibrate=True))
    another_model(workspace, adapter)
    monkeypatch.setattr(loaded, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(EegToolError, match="belongs to other weights"):
        run(replace(settings, mode="score", answers_file=workspace.root / "b.jsonl"))


# --- what does not fit ----------------------------------------------------------------------------


def lose_the_image(workspace: Workspace, adapter: Path) -> None:
    first, *others = read_questions(workspace.questions)
    write_questions(workspace.questions, [replace(first, images=()), *others])


def show_two_pictures(workspace: Workspace, adapter: Path) -> None:
    first, *others = read_questions(workspace.questions)
    images = (first.images[0], others[0].images[0])
    write_questions(workspace.questions, [replace(first, images=images), *others])


def lose_a_picture(workspace: Workspace, adapter: Path) -> None:
    (workspace.images("eval") / "S03E0-0002.png").unlink()


def leave_the_folder(workspace: Workspace, adapter: Path) -> None:
    text = workspace.questions.read_text()
    workspace.questions.write_text(text.replace("S03E0-0002.png", "/etc/S03E0-0002.png"))


def ask_twice(workspace: Workspace, adapter: Path) -> None:
    questions = read_questions(workspace.questions)
    write_questions(workspace.questions, [*questions, questions[0]])


def ask_nothing(workspace: Workspace, adapter: Path) -> None:
    workspace.questions.write_text("\n")


def ask_less(workspace: Workspace, adapter: Path) -> None:
    write_questions(workspace.questions, read_questions(workspace.questions)[:-1])


def other_module(workspace: Workspace, adapter: Path) -> None:
    path = workspace.features("eval").with_suffix(".json")
    path.write_text(path.read_text().replace("abab", "cdcd"))


def features_of_other_pictures(workspace: Workspace, adapter: Path) -> None:
    path = workspace.features("eval").with_suffix(".json")
    write_json(path, json.loads(path.read_text()) | {"protocol": {"style": "waveform"}})


def other_pictures(workspace: Workspace, adapter: Path) -> None:
    write_json(workspace.prepare_stamp, {"protocol": {"style": "waveform"}})


def no_features(workspace: Workspace, adapter: Path) -> None:
    workspace.features("eval").unlink()


def no_template(workspace: Workspace, adapter: Path) -> None:
    path = adapter / "eegvlm.json"
    path.write_text(path.read_text().replace('"v1"', '"v9"'))


def torn_question(workspace: Workspace, adapter: Path) -> None:
    lines = workspace.questions.read_text().splitlines(keepends=True)
    workspace.questions.write_text("".join([lines[0], lines[1][:40] + "\n", *lines[2:]]))


def no_adapter(workspace: Workspace, adapter: Path) -> None:
    (adapter / "eegvlm.json").unlink()


def no_base(workspace: Workspace, adapter: Path) -> None:
    path = adapter / "eegvlm.json"
    path.write_text(path.read_text().replace('"tiny"', '"/models/llava"'))


BAD: dict[Spoil, str] = {
    lose_the_image: r"line 1: 'image' is not a path or a list of paths",
    show_two_pictures: r"'S03E0-0000' are \[S03E0-0000.png, S03E0-0001.png\]",
    lose_a_picture: "S03E0-0002.png of question 'S03E0-0002' does not exist",
    leave_the_folder: "'/etc/S03E0-0002.png' leaves the image folder",
    ask_twice: "'S03E0-0000' occurs more than once",
    ask_nothing: "has no questions",
    ask_less: r"1 only in eval_high_level_features.npy \(S03E0-0009\)",
    other_module: r"another vision module \(cdcdcdcdcdcd\) than the one .* \(abababababab\)",
    features_of_other_pictures: r"eval_high_level_features.npy come from differently drawn",
    other_pictures: "differently drawn pictures: style spectrogram and waveform",
    no_features: "features file .* does not exist",
    no_adapter: "is not an adapter folder",
    no_template: "Unknown conversation template 'v9'",
    torn_question: r"eeg_eval.jsonl, line 2",
    no_base: "'/models/llava' is neither a folder nor a known name",
}


@pytest.mark.parametrize(("spoil", "message"), BAD.items(), ids=[f.__name__ for f in BAD])
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(
    settings: EvaluateSettings,
    workspace: Workspace,
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Spoil,
    message: str,
) -> None:
    monkeypatch.setattr(loaded, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))
    spoil(workspace, adapter)
    with pytest.raises(EegToolError, match=message):
        run(settings)
    assert not workspace.answers.parent.exists()


@pytest.mark.usefixtures("batches")
def test_bare_features_are_taken_with_a_warning(
    settings: EvaluateSettings, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.features("eval").with_suffix(".json").unlink()
    run(settings)
    assert "warning" in capsys.readouterr().out
    assert len(rows_of(workspace.answers)) == 10


@pytest.mark.parametrize(("n_same", "warned"), [(10, True), (9, False)])
def test_a_model_that_says_one_thing_only_is_pointed_out(
    settings: EvaluateSettings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    n_same: int,
    warned: bool,
) -> None:
    texts = iter(["[/W]"] * n_same + ["N2"] * 10)
    monkeypatch.setattr(LoadedModel, "reply", lambda *args: [Reply(next(texts)) for _ in args[1]])
    run(settings)
    assert ("100% of the answers are '[/W]'" in capsys.readouterr().out) is warned


@pytest.mark.parametrize("labels", [["N2"] * 10, [""] * 10, ["detail"] * 10])
def test_one_answer_to_epochs_of_one_stage_or_none_says_nothing_of_the_model(
    settings: EvaluateSettings,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    labels: list[str],
) -> None:
    questions = read_questions(workspace.questions)
    rows = [replace(q, category=c) for q, c in zip(questions, labels, strict=True)]
    write_questions(workspace.questions, rows)
    monkeypatch.setattr(LoadedModel, "reply", lambda *args: [Reply("N2") for _ in args[1]])
    run(settings)
    assert "does not look" not in capsys.readouterr().out


def test_answers_that_are_cut_are_counted(
    settings: EvaluateSettings,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = iter([True] * 3 + [False] * 7)
    monkeypatch.setattr(
        LoadedModel, "reply", lambda *args: [Reply("N2", truncated=next(cut)) for _ in args[1]]
    )
    run(settings)
    assert "3 of 10 answers reached the limit" in " ".join(capsys.readouterr().out.split())
    rows = rows_of(workspace.answers)
    assert sum(row["metadata"].get("truncated", False) for row in rows) == 3
    assert read_json(workspace.answers.with_suffix(".run.json"))["results"]["truncated"] == 3


def test_labels_are_translated_before_anything_is_asked(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int]
) -> None:
    questions = read_questions(workspace.questions)
    spelt = {"W": "Wake", "N1": "S1", "N2": "Stage 2", "N3": "N4", "REM": "Sleep stage R"}
    write_questions(
        workspace.questions, [replace(q, category=spelt[q.category]) for q in questions]
    )
    run(settings)
    assert [row["label"] for row in rows_of(workspace.answers)] == [q.category for q in questions]
    numbers = [replace(q, category=str(STAGES.index(q.category))) for q in questions]
    write_questions(workspace.questions, numbers)
    again = replace(settings, overwrite=True)
    batches.clear()
    with pytest.raises(EegToolError, match="its labels are numbers"):
        run(again)
    assert not batches
    run(replace(again, label_coding="0-4"))
    assert [row["label"] for row in rows_of(workspace.answers)] == [q.category for q in questions]


def test_a_model_that_was_taught_no_form_is_read_and_not_scored(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path, batches: list[int]
) -> None:
    contract = read_json(adapter / "eegvlm.json")
    write_json(adapter / "eegvlm.json", contract | {"answers": {"stages": {}, "place": "nowhere"}})
    for mode in ("score", "both"):
        with pytest.raises(EegToolError, match="taught no form of answer") as caught:
            run(replace(settings, mode=mode))
        assert "--mode generate" in caught.value.fix
    run(settings)
    assert len(rows_of(workspace.answers)) == 10


def test_the_base_may_have_moved(
    settings: EvaluateSettings,
    workspace: Workspace,
    adapter: Path,
    tiny: Path,
    batches: list[int],
) -> None:
    no_base(workspace, adapter)
    run(replace(settings, model_base=str(tiny)))
    assert len(rows_of(workspace.answers)) == 10


@pytest.mark.parametrize(("mode", "writes"), [("score", False), ("both", True)])
def test_auto_begins_with_what_fits(
    settings: EvaluateSettings,
    batches: list[int],
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
    writes: bool,
) -> None:
    asked: list[dict[str, Any]] = []

    def fit(model: Any, **how: Any) -> int:
        asked.append(how)
        return 3

    monkeypatch.setattr(loaded, "first_batch_size", fit)
    run(replace(settings, batch_size="auto", mode=mode))
    assert batches == [3, 3, 3, 1]
    (how,) = asked
    assert 50 < how.pop("n_tokens") < 200
    assert how == {"n_new_tokens": 3, "n_beams": 1, "writes": writes, "scores": True}


def test_a_number_is_taken_as_it_is(
    settings: EvaluateSettings, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "first_batch_size", lambda *_, **__: pytest.fail("was estimated"))
    run(replace(settings, batch_size="4"))
    assert batches == [4, 4, 2]


def test_lora_is_merged_where_it_is_asked_for(
    settings: EvaluateSettings, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers stay; rows and the terminal say it."""
    found = {}
    for merge in (False, True):
        run(replace(settings, merge=merge, mode="score", overwrite=True))
        said = " ".join(capsys.readouterr().out.split())
        assert ("rounded to float32; answers may differ in the last bits" in said) is merge
        rows = rows_of(workspace.answers)
        assert {row["metadata"]["merged"] for row in rows} == {merge}
        found[merge] = [list(row["metadata"]["log_likelihoods"].values()) for row in rows]
    np.testing.assert_allclose(found[True], found[False], atol=1e-3)


def test_merging_is_how_it_is_computed_and_no_other_run(
    settings: EvaluateSettings, workspace: Workspace
) -> None:
    run(replace(settings, limit=4))
    run(replace(settings, merge=True))
    merged = [row["metadata"]["merged"] for row in rows_of(workspace.answers)]
    assert merged == [False] * 4 + [True] * 6


# --- a base as it is ------------------------------------------------------------------------------


def test_a_base_is_asked_as_it_is(
    settings: EvaluateSettings,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Words and scores are those of the plain model: one block of the picture, no features."""
    base = Path(shutil.copytree(tiny.folder(), tmp_path / "base"))
    workspace.features("eval").unlink()
    run(replace(settings, model_path=base, mode="both"))
    assert "was not fine-tuned: it is asked as it is" in " ".join(capsys.readouterr().out.split())
    rows = rows_of(workspace.answers)
    assert len(rows) == 10
    assert {row["model_id"] for row in rows} == {"base"}
    assert {row["metadata"]["protocol"]["fusion"] for row in rows} == {"none"}
    model, processor = load_base(base, fusion="none", version="v1", dtype=torch.float32)
    question = read_questions(workspace.questions)[0]
    pixels = processor.pixel_spec.pixels(workspace.images("eval") / question.images[0])
    choice = encode_choice(processor, question.text, 2, STAGES, is_whole=False)
    expected = stage_log_likelihoods(
        model.eval(), processor, [choice], torch.from_numpy(pixels[None]), None
    )[0]
    found = rows[0]["metadata"]["log_likelihoods"]
    np.testing.assert_allclose([found[s] for s in STAGES], expected, atol=1e-4)
    with pytest.raises(EegToolError, match="was not fine-tuned"):
        run(replace(settings, model_path=base, mode="score", calibrate=True))


def test_a_folder_that_is_neither_model_nor_base(
    settings: EvaluateSettings, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(EegToolError, match="A 'bert' model is not a vision-language model"):
        run(replace(settings, model_path=tmp_path))
