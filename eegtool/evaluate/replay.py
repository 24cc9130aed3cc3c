"""Saved answers read again, without a model: joined anew with questions, labels and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.records import Answer, Question, check_unique, read_answers
from eegtool.core.settings import EvaluateSettings
from eegtool.core.workspace import Workspace
from eegtool.evaluate.rows import whence, with_probabilities
from eegtool.evaluate.task import epochs_of, protocol_of, questions_of
from eegtool.inference.calibration import read_calibration
from eegtool.model.adapters import adapter_sha256, read_contract
from eegtool.model.answer_form import AnswerForm


def replay(
    settings: EvaluateSettings, saved: Path
) -> tuple[list[Answer], dict[str, Path], dict[str, Any]]:
    """Read saved answers as if they had just been given.

    Text, prompt and model are those of the file; label and whereabouts those of the questions and of
    the workspace. Probabilities follow from the saved log-likelihoods, by the calibration of
    ``--model-path`` where that is given, by none with ``--no-calibration``; else they stay.

    Parameters
    ----------
    settings : EvaluateSettings
        Where questions and workspace are.
    saved : Path
        The answers file.

    Returns
    -------
    answers : list of Answer
        In the order of the questions.
    inputs : dict of str to Path
        Files that were read.
    protocol : dict
        Of the answers, or of the model where that is given.

    Raises
    ------
    EegToolError
        If a row is broken, occurs twice or answers no question, or the rows are of several models or
        of another one than ``--model-path``.
    """
    workspace = Workspace(settings.workspace)
    question_file = settings.question_file or workspace.questions
    questions, notes = questions_of(question_file, settings.label_coding)
    for note in notes:
        console.print(f"[dim]  Note: {escape(note)}.[/]")
    answers = read_answers(saved)
    _check(saved, answers, questions, question_file)
    inputs = {"questions": question_file, "answers": saved}
    protocol: dict[str, Any] | None = None
    calibration, texts = None, tuple[str, ...]()
    if settings.model_path is not None:
        contract = read_contract(settings.model_path)
        protocol, texts = protocol_of(contract), AnswerForm.from_contract(contract.answers).texts
        inputs["contract"] = settings.model_path / "eegvlm.json"
        sha256 = adapter_sha256(settings.model_path)
        _check_model(saved, answers, settings.model_path, sha256)
        if not settings.no_calibration:
            calibration = read_calibration(settings.model_path, sha256)
    elif settings.no_calibration and any(_is_decided(answer) for answer in answers):
        raise EegToolError(
            f"The stages of {saved} were decided by a calibration; without it they are others, and only "
            "the model knows how its answers are spelt.",
            "Give its folder with --model-path, too.",
        )
    epochs = epochs_of(workspace)
    by_id = {answer.question_id: answer for answer in answers}
    again = settings.model_path is not None or settings.no_calibration
    told = []
    for question in questions:
        answer = by_id.get(question.sample_id)
        if answer is None:
            continue
        metadata = answer.metadata | whence(question.sample_id, epochs)
        if protocol is not None:
            metadata["protocol"] = protocol
        label = question.category or answer.label
        answer = replace(answer, label=label, metadata=metadata)
        told.append(with_probabilities(answer, calibration, texts) if again else answer)
    if len(told) < len(questions):
        lost = [q.sample_id for q in questions if q.sample_id not in by_id]
        console.print(
            f"[bold yellow]warning:[/] {len(lost):,} of {len(questions):,} questions have no answer in "
            f"{escape(str(saved))} ({escape(', '.join(lost[:3]))}{', …' * (len(lost) > 3)})."
        )
    if protocol is None:
        protocol = next(_protocols(told), {})
    return told, inputs, protocol


def _protocols(answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
    found = (answer.metadata.get("protocol") for answer in answers)
    return (protocol for protocol in found if isinstance(protocol, dict))


def _check(
    saved: Path, answers: Sequence[Answer], questions: Sequence[Question], question_file: Path
) -> None:
    """Refuse what is not one run's answers to these questions."""
    if not answers:
        raise EegToolError(f"{saved} holds no answers.", "Give another file.")
    check_unique(saved, [answer.question_id for answer in answers])
    known = {question.sample_id for question in questions}
    strangers = [a.question_id for a in answers if a.question_id not in known]
    if strangers:
        raise EegToolError(
            f"{saved}: {len(strangers):,} of its answers are to no question of {question_file} "
            f"({', '.join(strangers[:3])}{', …' * (len(strangers) > 3)}).",
            "Give the question file they belong to with --question-file.",
        )
    models = sorted({(a.model_id, _sha256(a)) for a in answers})
    if len(models) > 1:
        names = ", ".join(f"{name} {sha256[:12]}".strip() for name, sha256 in models[:3])
        raise EegToolError(f"{saved} holds answers of several models: {names}.", "Take them apart.")


def _check_model(saved: Path, answers: Sequence[Answer], model_path: Path, sha256: str) -> None:
    told = _sha256(answers[0])
    if told not in ("", sha256):
        raise EegToolError(
            f"{saved} holds answers of another model ({told[:12]}) than {model_path} ({sha256[:12]}).",
            "Give the --model-path they are from, or none.",
        )


def _is_decided(answer: Answer) -> bool:
    """Say whether a calibration may have moved one stage in front of another."""
    return answer.metadata.get("mode") == "score" and "calibration_offsets" in answer.metadata


def _sha256(answer: Answer) -> str:
    return str(answer.metadata.get("adapter_sha256") or "")
