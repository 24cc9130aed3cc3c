"""evaluate: ask the fine-tuned model about every epoch of the evaluation side."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

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
from eegtool.core.workspace import Workspace, inside, run_stamp, write_json
from eegtool.evaluate.generate import answer
from eegtool.extract.features import load_features
from eegtool.model.checkpoints import (
    Contract,
    adapter_sha256,
    load_adapter,
    read_contract,
    resolve_base,
)
from eegtool.model.eegvlm import FUSIONS


def run(settings: EvaluateSettings) -> None:
    """Answer all questions; what was answered before by the same model is kept.

    Raises
    ------
    EegToolError
        If a file, a picture or a feature is missing, ids do not match, the adapter does not fit, or
        the answers file belongs to another model: before the model is loaded wherever possible.
    """
    workspace = Workspace(settings.workspace)
    question_file = settings.question_file or workspace.questions
    image_folder = settings.image_folder or workspace.images("eval")
    features_file = settings.features_file or workspace.features("eval")
    answers_file = settings.answers_file or workspace.answers

    contract = read_contract(settings.model_path)
    resolve_base(settings.model_base or contract.base)
    questions = _read_questions(question_file, image_folder)
    ids = [question.sample_id for question in questions]
    features = None
    if FUSIONS[contract.fusion].needs_features:
        features = load_features(features_file, ids, source=settings.features, seed=settings.seed)
        _check_features(contract, features.weights_sha256, features_file)
    metadata: dict[str, Any] = {
        "adapter_sha256": adapter_sha256(settings.model_path),
        "features": settings.features,
        "protocol": contract.protocol
        | {"base": contract.base, "fusion": contract.fusion, "version": contract.version},
    }
    done = _answered(answers_file, ids, metadata, overwrite=settings.overwrite)
    epochs = _epochs(workspace)

    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    peft_model, processor, _ = load_adapter(
        settings.model_path, base=settings.model_base, dtype=dtype
    )
    model = peft_model.get_base_model()  # the LoRA layers are in place
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    console.print(
        f"Asking [bold]{settings.model_path}[/] about {len(questions) - done:,} epochs"
        + (f" ({done:,} were answered before)" if done else "")
    )
    metadata |= {"batch_size": settings.batch_size, "dtype": str(dtype).removeprefix("torch.")}
    with (
        progress("epochs") as bar,
        answers_file.open("a", encoding="utf-8") as file,
    ):
        task = bar.add_task("Answering", total=len(questions), completed=done, note="")
        for start in range(done, len(questions), settings.batch_size):
            batch = questions[start : start + settings.batch_size]
            began = time.perf_counter()
            texts = answer(model, processor, batch, image_folder, features, settings.max_new_tokens)
            seconds = (time.perf_counter() - began) / len(batch)
            for question, text in zip(batch, texts, strict=True):
                prompt = processor.template.prompt(question.text, len(question.images))
                extra = metadata | {"seconds": round(seconds, 6)} | _whence(question, epochs)
                row = _answer(question, prompt, text, settings.model_path, extra)
                file.write(json_line(row.to_row()))
            file.flush()
            os.fsync(file.fileno())
            bar.update(task, advance=len(batch), note=f"{1 / seconds:.0f} answers/s")
    answers = read_answers(answers_file)
    stamp = run_stamp(
        "evaluate",
        settings,
        inputs={"questions": question_file, "contract": settings.model_path / "eegvlm.json"},
        protocol=metadata["protocol"],
        results={"n": len(answers), "empty": sum(not a.text for a in answers)},
    )
    write_json(answers_file.with_suffix(".run.json"), stamp)
    _warn_if_constant(answers)
    console.print(f"Answers: [bold]{answers_file}[/] ({len(answers):,} rows)")


def _read_questions(path: Path, image_folder: Path) -> list[Question]:
    questions = read_questions(path)
    if not questions:
        raise EegToolError(f"{path} has no questions.", "Run `eegvlm prepare` again.")
    check_unique(path, [question.sample_id for question in questions])
    for question in questions:
        if not question.images:
            raise EegToolError(f"{path}: question '{question.sample_id}' has no image.")
        if not inside(image_folder, question.images[0]).is_file():
            raise EegToolError(
                f"The picture {image_folder / question.images[0]} of question "
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


def _answered(path: Path, ids: Sequence[str], metadata: dict[str, Any], *, overwrite: bool) -> int:
    """Return how many of the first questions `path` answers already; a torn last line is cut off.

    Raises
    ------
    EegToolError
        If it was written by another model or run, or holds the answers to other questions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if overwrite or not path.exists():
        path.write_text("")
        return 0
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    rows = [Answer.from_row(json.loads(line)) for line in text.splitlines()]
    for row in rows:
        if any(row.metadata.get(k) != metadata[k] for k in ("adapter_sha256", "features")):
            raise EegToolError(
                f"{path} holds answers of another model or run ('{row.question_id}' is of "
                f"{row.model_id}, features {row.metadata.get('features')}).",
                "Begin it anew with --overwrite, or give another --answers-file.",
            )
    if [row.question_id for row in rows] != list(ids[: len(rows)]):
        raise EegToolError(
            f"{path} holds the answers to other questions.",
            "Begin it anew with --overwrite, or give another --answers-file.",
        )
    return len(rows)


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
            f"[bold yellow]warning:[/] {count / len(answers):.0%} of the answers are '{text}': "
            "the model does not look at the epochs."
        )
