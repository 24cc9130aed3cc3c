"""evaluate: ask the fine-tuned model about every epoch of the evaluation side."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.records import (
    Answer,
    Epoch,
    Question,
    check_unique,
    json_line,
    read_answers,
    read_epochs,
    read_questions,
)
from eegtool.core.settings import EvaluateSettings
from eegtool.core.workspace import Workspace, check_same_pictures, inside, run_stamp, write_json
from eegtool.evaluate.generate import answer
from eegtool.extract.features import FeatureTable, load_features, warn_if_by_order
from eegtool.model.adapters import (
    Contract,
    adapter_sha256,
    contract_base,
    inner,
    load_adapter,
    read_contract,
)
from eegtool.model.checkpoints import best_dtype
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.processor import TEMPLATES, picture_of


@dataclass(frozen=True, slots=True)
class _Task:
    """What is asked, with what, and where the answers go: all that is checked before a model is loaded."""

    questions: list[Question]
    prompts: list[str]
    image_folder: Path
    features: FeatureTable | None
    answers_file: Path
    inputs: dict[str, Path]
    identity: dict[str, Any]
    """What the rows of one answers file have in common, whenever they were written."""
    protocol: dict[str, Any]
    epochs: dict[str, Epoch]

    @property
    def stamp(self) -> Path:
        """Run stamp of the answers file, there only when that is complete."""
        return self.answers_file.with_suffix(".run.json")


def run(settings: EvaluateSettings) -> None:
    """Answer all questions; what was answered before by the same model is kept.

    Raises
    ------
    EegToolError
        If a file, a picture or a feature is missing, ids do not match, the adapter does not fit, or
        the answers file belongs to another model: before the model is loaded wherever possible.
    """
    task = _check(settings)
    kept = [] if settings.overwrite else _answered(task)
    if len(kept) < len(task.questions):
        # Whole batches are kept: the others are then as without the interruption.
        _ask(task, kept[: len(kept) // settings.batch_size * settings.batch_size], settings)
    answers = read_answers(task.answers_file)
    results = {"n": len(answers), "empty": sum(not a.text for a in answers)}
    stamp = run_stamp(
        "evaluate", settings, inputs=task.inputs, protocol=task.protocol, results=results
    )
    write_json(task.stamp, stamp)
    _warn_if_constant(answers)
    console.print(f"Answers: [bold]{escape(str(task.answers_file))}[/] ({len(answers):,} rows)")


def _check(settings: EvaluateSettings) -> _Task:
    """Check everything that is cheap to check."""
    workspace = Workspace(settings.workspace)
    question_file = settings.question_file or workspace.questions
    image_folder = settings.image_folder or workspace.images("eval")
    features_file = settings.features_file or workspace.features("eval")
    contract = read_contract(settings.model_path)
    contract_base(
        settings.model_path, contract, settings.model_base, settings.vision_tower
    )  # is it there, and the one it was trained on?
    questions = _read_questions(question_file, image_folder)
    features = None
    if FUSIONS[contract.fusion].needs_features:
        ids = [question.sample_id for question in questions]
        features = load_features(features_file, ids, source=settings.features, seed=settings.seed)
        _check_features(contract, features.weights_sha256, features_file)
        warn_if_by_order(features_file, features)
        both = f"The model {settings.model_path} and {features_file}"
        check_same_pictures(contract.protocol, features.protocol, both)
    both = f"The model {settings.model_path} and {workspace.root}"
    check_same_pictures(contract.protocol, workspace.protocol(), both)
    template = TEMPLATES[contract.version]
    model = {"base": contract.base, "fusion": contract.fusion, "version": contract.version}
    return _Task(
        questions=questions,
        prompts=[template.prompt(q.text, len(q.images)) for q in questions],
        image_folder=image_folder,
        features=features,
        answers_file=settings.answers_file or workspace.answers,
        inputs={"questions": question_file, "contract": settings.model_path / "eegvlm.json"},
        identity={
            "adapter_sha256": adapter_sha256(settings.model_path),
            "features": settings.features,
            "max_new_tokens": settings.max_new_tokens,
            "seed": settings.seed if settings.features == "shuffled" else None,
        },
        protocol=contract.protocol | model,
        epochs=_epochs(workspace),
    )


def _ask(task: _Task, kept: list[bytes], settings: EvaluateSettings) -> None:
    """Load the model and write the rows that are missing behind those that are `kept`."""
    dtype = best_dtype()
    loaded, processor, _ = load_adapter(
        settings.model_path,
        base=settings.model_base,
        dtype=dtype,
        vision_tower=settings.vision_tower,
    )
    model = inner(loaded)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    console.print(
        f"Asking [bold]{escape(str(settings.model_path))}[/] "
        f"about {len(task.questions) - len(kept):,} epochs"
        + (f" ({len(kept):,} were answered before)" if kept else "")
    )
    common = {
        **task.identity,
        "batch_size": settings.batch_size,
        "dtype": str(dtype).removeprefix("torch."),
        "protocol": task.protocol,
    }
    task.stamp.unlink(missing_ok=True)
    task.answers_file.parent.mkdir(parents=True, exist_ok=True)
    with progress("epochs") as bar, task.answers_file.open("ab") as file:
        file.truncate(sum(map(len, kept)))
        done = bar.add_task("Answering", total=len(task.questions), completed=len(kept), note="")
        for start in range(len(kept), len(task.questions), settings.batch_size):
            here = slice(start, start + settings.batch_size)
            batch = task.questions[here]
            began = time.perf_counter()
            texts = answer(
                model, processor, batch, task.image_folder, task.features, settings.max_new_tokens
            )
            seconds = (time.perf_counter() - began) / len(batch)
            for question, prompt, text in zip(batch, task.prompts[here], texts, strict=True):
                metadata = common | {"seconds": round(seconds, 6)} | _whence(question, task.epochs)
                row = _answer(question, prompt, text, settings.model_path, metadata)
                file.write(json_line(row.to_row()).encode())
            file.flush()
            os.fsync(file.fileno())
            bar.update(done, advance=len(batch), note=f"{1 / seconds:.0f} answers/s")


def _read_questions(path: Path, image_folder: Path) -> list[Question]:
    questions = read_questions(path)
    if not questions:
        raise EegToolError(f"{path} has no questions.", "Run `eegvlm prepare` again.")
    check_unique(path, [question.sample_id for question in questions])
    for question in questions:
        picture = picture_of(question.sample_id, question.images)
        if not inside(image_folder, picture).is_file():
            raise EegToolError(
                f"The picture {image_folder / picture} of question "
                f"'{question.sample_id}' does not exist.",
                "Check --image-folder, or run `eegvlm prepare` again.",
            )
    return questions


def _check_features(contract: Contract, weights_sha256: str, path: Path) -> None:
    """Refuse features of another vision module than the one the model was trained with."""
    known = contract.features_weights_sha256 and weights_sha256
    if known and weights_sha256 != contract.features_weights_sha256:
        raise EegToolError(
            f"{path} comes from another vision module ({weights_sha256[:12]}) than the one the model "
            f"was trained with ({contract.features_weights_sha256[:12]}).",
            "Fine-tune again after `eegvlm extract`, or give the features that belong to it.",
        )


def _answered(task: _Task) -> list[bytes]:
    """Return the whole lines of the answers file, which answer the first questions of the task.

    A last line that was torn when the program was stopped is left out.

    Raises
    ------
    EegToolError
        If it was written by another model or run, or holds the answers to other questions.
    """
    path, anew = task.answers_file, "Begin anew with --overwrite, or give another --answers-file."
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    asked = [
        (q.sample_id, p, q.category) for q, p in zip(task.questions, task.prompts, strict=True)
    ]
    for number, line in enumerate(lines, start=1):
        try:
            row = Answer.from_row(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise EegToolError(f"{path}, line {number} is not an answer.", anew) from error
        other = {k: row.metadata.get(k) for k in task.identity}
        if other != task.identity:
            differing = [f"{k} {other[k]}" for k, v in task.identity.items() if other[k] != v]
            raise EegToolError(
                f"{path} holds answers of another model or run: '{row.question_id}' is of "
                f"{row.model_id}, {', '.join(differing)}.",
                anew,
            )
        if asked[number - 1 : number] != [(row.question_id, row.prompt, row.label)]:
            raise EegToolError(
                f"{path} holds the answers to other questions: '{row.question_id}' in line {number}.",
                anew,
            )
    return lines


def _epochs(workspace: Workspace) -> dict[str, Epoch]:
    if not workspace.epochs.exists():
        return {}
    return {epoch.sample_id: epoch for epoch in read_epochs(workspace.epochs)}


def _whence(question: Question, epochs: dict[str, Epoch]) -> dict[str, Any]:
    """Say where the epoch comes from, as far as the workspace knows."""
    epoch = epochs.get(question.sample_id)
    if epoch is None:
        return {}
    names = ("subject", "recording", "night", "epoch_index", "onset_s")
    return {name: getattr(epoch, name) for name in names}


def _answer(
    question: Question, prompt: str, text: str, model_path: Path, metadata: dict[str, Any]
) -> Answer:
    return Answer(
        question_id=question.sample_id,
        prompt=prompt,
        text=text,
        label=question.category,
        answer_id=f"{question.sample_id}-{metadata['adapter_sha256'][:8]}",
        model_id=model_path.resolve().name,
        metadata=metadata,
    )


def _warn_if_constant(answers: Sequence[Answer]) -> None:
    """Say loudly when the model gives (nearly) the same answer to everything."""
    (text, count), *_ = Counter(a.text for a in answers).most_common(1)
    if count > 0.95 * len(answers):
        console.print(
            f"[bold yellow]warning:[/] {count / len(answers):.0%} of the answers are '{escape(text)}': "
            "the model does not look at the epochs."
        )
