from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eegtool.core.errors import EegToolError
from eegtool.core.records import Question, read_epochs, read_questions, write_questions
from eegtool.core.settings import EvaluateSettings
from eegtool.core.workspace import Workspace, write_json
from eegtool.evaluate import generate, step
from eegtool.evaluate.step import run

BATCH = 4


@pytest.fixture
def settings(workspace: Workspace, adapter: Path) -> EvaluateSettings:
    return EvaluateSettings(adapter, workspace=workspace.root, batch_size=BATCH, max_new_tokens=3)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that were asked, by a model that says the id of each question."""
    sizes: list[int] = []

    def say(model: Any, processor: Any, questions: Sequence[Question], *_: Any) -> list[str]:
        sizes.append(len(questions))
        return [f"{question.sample_id} µV\u2028 [/b]" for question in questions]

    monkeypatch.setattr(step, "answer", say)
    return sizes


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows without their time."""
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    for row in rows:
        assert row["metadata"].pop("seconds") >= 0
    return rows


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
        epoch, told = epochs[question.sample_id], row["metadata"]
        for name in ("subject", "recording", "night", "epoch_index", "onset_s"):
            assert told[name] == getattr(epoch, name)
        assert (told["features"], told["dtype"], told["batch_size"]) == ("real", "float32", BATCH)
        assert told["protocol"]["fusion"] == "add"
        assert told["protocol"]["base"] == "tiny"
    assert len({row["answer_id"] for row in rows}) == len(rows)
    stamp = json.loads(workspace.answers.with_suffix(".run.json").read_text())
    assert stamp["step"] == "evaluate"
    assert stamp["results"]["n"] == len(rows)


def test_the_model_is_asked_and_not_trained(
    settings: EvaluateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, torch.dtype, bool]] = []

    def look(model: Any, *others: Any) -> list[str]:
        lora = any("lora_" in name for name, _ in model.named_parameters())
        seen.append((any(m.training for m in model.modules()), model.dtype, lora))
        return generate.answer(model, *others)

    monkeypatch.setattr(step, "answer", look)
    run(settings)
    assert seen == [(False, torch.float32, True)] * 3


def test_the_terminal_is_quiet(
    settings: EvaluateSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    run(settings)
    out, err = capfd.readouterr()
    assert err == ""
    assert out.startswith("Asking")
    assert "(10 rows)" in out


def test_epochs_that_the_workspace_does_not_know_are_answered_too(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int]
) -> None:
    workspace.epochs.unlink()
    run(settings)
    assert "subject" not in rows_of(workspace.answers)[0]["metadata"]


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


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_what_was_interrupted_is_finished(
    settings: EvaluateSettings,
    workspace: Workspace,
    batches: list[int],
    cut: Callable[[bytes], int],
) -> None:
    """The file is that of a run without interruption, and whole batches are not asked again."""
    run(settings)
    assert batches == [4, 4, 2]
    whole = rows_of(workspace.answers)
    data = workspace.answers.read_bytes()
    kept = data[: cut(data)]
    workspace.answers.write_bytes(kept)
    batches.clear()
    run(settings)
    assert rows_of(workspace.answers) == whole
    done = kept.count(b"\n") // BATCH
    assert batches == [4, 4, 2][done:]
    lines = workspace.answers.read_bytes().split(b"\n")[: done * BATCH]
    assert lines == data.split(b"\n")[: done * BATCH]


@pytest.mark.usefixtures("batches")
def test_what_is_complete_is_not_asked_again(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    before = workspace.answers.read_bytes()
    monkeypatch.setattr(step, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))
    run(settings)
    assert workspace.answers.read_bytes() == before
    assert workspace.answers.with_suffix(".run.json").exists()


def test_overwrite_begins_anew(
    settings: EvaluateSettings, workspace: Workspace, batches: list[int]
) -> None:
    workspace.answers.parent.mkdir()
    workspace.answers.write_text("something else\n")
    run(replace(settings, overwrite=True))
    assert len(rows_of(workspace.answers)) == 10


def another_model(workspace: Workspace, adapter: Path) -> None:
    with (adapter / "projector.safetensors").open("ab") as file:
        file.write(b" ")


def another_question(workspace: Workspace, adapter: Path) -> None:
    text = workspace.questions.read_text()
    workspace.questions.write_text(text.replace("Which sleep stage", "What stage"))


def another_truth(workspace: Workspace, adapter: Path) -> None:
    first, *others = read_questions(workspace.questions)
    write_questions(workspace.questions, [replace(first, category=""), *others])


def another_order(workspace: Workspace, adapter: Path) -> None:
    lines = workspace.answers.read_bytes().split(b"\n")
    workspace.answers.write_bytes(b"\n".join([lines[1], lines[0], *lines[2:]]))


def one_too_many(workspace: Workspace, adapter: Path) -> None:
    data = workspace.answers.read_bytes()
    workspace.answers.write_bytes(data + data.split(b"\n")[0] + b"\n")


def no_answer(workspace: Workspace, adapter: Path) -> None:
    workspace.answers.write_text('{"question_id": "S03E0-0000"}\n')


def no_json(workspace: Workspace, adapter: Path) -> None:
    workspace.answers.write_bytes(b"\x00\xff\n")


Spoil = Callable[[Workspace, Path], None]
OTHER: dict[Spoil, str] = {
    another_model: "holds answers of another model or run: 'S03E0-0000' .* adapter_sha256",
    another_question: "answers to other questions: 'S03E0-0000' in line 1",
    another_truth: "answers to other questions: 'S03E0-0000' in line 1",
    another_order: "answers to other questions: 'S03E0-0001' in line 1",
    one_too_many: "answers to other questions: 'S03E0-0000' in line 11",
    no_answer: "line 1 is not an answer",
    no_json: "line 1 is not an answer",
}


@pytest.mark.parametrize(("spoil", "message"), OTHER.items(), ids=[f.__name__ for f in OTHER])
@pytest.mark.usefixtures("batches")
def test_answers_of_others_are_not_mixed(
    settings: EvaluateSettings, workspace: Workspace, adapter: Path, spoil: Spoil, message: str
) -> None:
    run(settings)
    spoil(workspace, adapter)
    before = workspace.answers.read_bytes()
    with pytest.raises(EegToolError, match=message) as caught:
        run(settings)
    assert "--overwrite" in caught.value.fix
    assert workspace.answers.read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"features": "shuffled"}, {"features": "zero"}, {"max_new_tokens": 9}]
)
@pytest.mark.usefixtures("batches")
def test_answers_of_another_run_are_not_mixed(
    settings: EvaluateSettings, workspace: Workspace, change: dict[str, Any]
) -> None:
    run(settings)
    with pytest.raises(EegToolError, match=f"another model or run.*{next(iter(change))}"):
        run(replace(settings, **change))


@pytest.mark.usefixtures("batches")
def test_the_seed_counts_where_something_is_drawn(
    settings: EvaluateSettings, workspace: Workspace
) -> None:
    run(settings)
    before = workspace.answers.read_bytes()
    run(replace(settings, seed=1))  # greedy answers with real features: nothing is drawn
    assert workspace.answers.read_bytes() == before
    shuffled = replace(settings, features="shuffled", answers_file=workspace.root / "s.jsonl")
    run(shuffled)
    with pytest.raises(EegToolError, match=r"another model or run.*seed"):
        run(replace(shuffled, seed=1))


@pytest.mark.usefixtures("batches")
def test_a_model_that_cannot_be_loaded_costs_no_answers(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise EegToolError("no room for it")

    with monkeypatch.context() as patch:
        patch.setattr(step, "load_adapter", fail)
        with pytest.raises(EegToolError, match="no room"):
            run(settings)
        assert not workspace.answers.parent.exists()
    run(settings)
    before = workspace.answers.read_bytes()
    monkeypatch.setattr(step, "load_adapter", fail)
    with pytest.raises(EegToolError, match="no room"):
        run(replace(settings, overwrite=True))
    assert workspace.answers.read_bytes() == before
    assert workspace.answers.with_suffix(".run.json").exists()


def test_a_run_that_was_stopped_has_no_stamp(
    settings: EvaluateSettings, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp = workspace.answers.with_suffix(".run.json")
    stamp.parent.mkdir()
    stamp.write_text("of the run before")
    said = iter([["W"] * BATCH])

    def stop(*_: Any) -> list[str]:
        texts = next(said, None)
        if texts is None:
            raise KeyboardInterrupt
        return texts

    monkeypatch.setattr(step, "answer", stop)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert len(rows_of(workspace.answers)) == BATCH
    assert not stamp.exists()


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


def no_adapter(workspace: Workspace, adapter: Path) -> None:
    (adapter / "eegvlm.json").unlink()


def no_base(workspace: Workspace, adapter: Path) -> None:
    path = adapter / "eegvlm.json"
    path.write_text(path.read_text().replace('"tiny"', '"/models/llava"'))


BAD: dict[Spoil, str] = {
    lose_the_image: r"The images of sample 'S03E0-0000' are \[\]",
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
    monkeypatch.setattr(step, "load_adapter", lambda *_, **__: pytest.fail("was loaded"))
    spoil(workspace, adapter)
    with pytest.raises(EegToolError, match=message):
        run(settings)
    assert not workspace.answers.exists()


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
    monkeypatch.setattr(step, "answer", lambda *args: [next(texts) for _ in args[2]])
    run(settings)
    assert ("100% of the answers are '[/W]'" in capsys.readouterr().out) is warned


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
