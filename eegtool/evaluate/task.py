"""What is asked, with what, and where the answers go: all that is checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.forms import CHAT, Forms, sentences
from eegtool.core.labels import read_labels
from eegtool.core.records import Epoch, Question, check_unique, read_epochs, read_questions
from eegtool.core.registry import check_name, closest
from eegtool.core.settings import AnswerMode, EvaluateSettings, FeatureSource
from eegtool.core.workspace import (
    Workspace,
    check_folder,
    check_same_pictures,
    find_picture,
    target_of,
)
from eegtool.evaluate.shards import deal, part_path
from eegtool.extract.features import FeatureTable, load_features
from eegtool.inference.calibration import Calibration, read_calibration
from eegtool.inference.decoding import Decoding
from eegtool.model.adapters import (
    Contract,
    adapter_sha256,
    contract_base,
    is_untrained,
    read_contract,
)
from eegtool.model.answer_form import AnswerForm
from eegtool.model.checkpoints import Base, load_processor
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.loading import ATTENTIONS
from eegtool.model.processor import TEMPLATES, picture_of


@dataclass(frozen=True, slots=True)
class Task:
    """One run of evaluate, checked."""

    settings: EvaluateSettings
    model_path: Path
    questions: list[Question]
    """All of the question file."""
    chosen: list[Question]
    """Those that are to be answered (``--subjects``, ``--limit``), of all chunks."""
    asked: list[Question]
    """Those of this chunk."""
    prompts: dict[str, str]
    """By sample id."""
    image_folder: Path
    features: FeatureTable | None
    features_file: Path
    answers_file: Path
    answers: AnswerForm
    decoding: Decoding
    contract: Contract
    identity: dict[str, Any]
    """What the rows of one answers file have in common, whenever they were written (see `identity`)."""
    protocol: dict[str, Any]
    notes: tuple[str, ...]
    """What must be said of the question file."""
    epochs: dict[str, Epoch]
    calibration: Calibration | None
    inputs: dict[str, Path]

    @property
    def stamp(self) -> Path:
        """Run stamp of the answers file, there only when that is complete."""
        return self.answers_file.with_suffix(".run.json")

    def part(self, rank: int = 0) -> Path:
        """File to which a rank of this run appends its answers."""
        s = self.settings
        return part_path(self.answers_file, chunk=s.chunk_idx, chunks=s.num_chunks, rank=rank)

    def begin(self) -> None:
        """Remove what is no longer true once the first answer is there."""
        self.stamp.unlink(missing_ok=True)
        if self.settings.overwrite:
            self.answers_file.unlink(missing_ok=True)


def check(settings: EvaluateSettings) -> Task:
    """Check everything that is cheap to check; nothing is printed, written or loaded.

    Raises
    ------
    EegToolError
        If a file, a picture or a feature is missing, ids do not match, the adapter does not fit, or
        two settings exclude each other.
    """
    _check_settings(settings)
    answers_file = answers_file_of(settings)
    workspace = Workspace(settings.workspace)
    contract = read_contract(settings.model_path)
    if settings.calibrate and is_untrained(settings.model_path):
        raise EegToolError(
            f"{settings.model_path} was not fine-tuned: a calibration has no adapter to stay beside.",
            "Leave out --calibrate.",
        )
    if settings.calibrate:
        check_folder(settings.model_path, "The folder of the model")
    # Is the base there, and is it the one it was trained on?
    base = contract_base(settings.model_path, contract, settings.model_base, settings.vision_tower)
    question_file = settings.question_file or workspace.questions
    image_folder = settings.image_folder or workspace.images("eval")
    questions, notes = questions_of(question_file, settings.label_coding)
    epochs = epochs_of(workspace)
    chosen = _chosen(settings, questions, epochs)
    _check_pictures(chosen, image_folder)
    features_file = settings.features_file or workspace.features("eval")
    features = _features(settings, contract, questions, features_file)
    both = f"The model {settings.model_path} and {workspace.root}"
    check_same_pictures(contract.protocol, workspace.protocol(), both)
    sha256 = adapter_sha256(settings.model_path)
    scores = settings.mode != "generate"
    answers = AnswerForm.from_contract(contract.answers)
    if scores and not answers.stages:
        raise EegToolError(
            f"{settings.model_path} was taught no form of answer that could be scored: "
            f"{answers.sentence()}.",
            "Ask with --mode generate; `eegvlm report` reads stages out of what it writes.",
        )
    use = scores and not (settings.no_calibration or settings.calibrate)
    decoding = _decoding(settings, answers)
    template = asked_template(settings, contract)
    return Task(
        settings=settings,
        model_path=settings.model_path,
        questions=questions,
        chosen=chosen,
        asked=_chunk(settings, chosen),
        prompts=_prompts(questions, template, base, contract),
        image_folder=image_folder,
        features=features,
        features_file=features_file,
        answers_file=answers_file,
        answers=answers,
        decoding=decoding,
        contract=contract,
        identity=identity(
            sha256,
            answers,
            mode=settings.mode,
            template=template,
            decoding=decoding,
            features=settings.features,
            seed=settings.seed,
        ),
        protocol=protocol_of(contract),
        notes=notes,
        epochs=epochs,
        calibration=read_calibration(settings.model_path, sha256) if use else None,
        inputs={
            "questions": question_file,
            "contract": settings.model_path
            / ("config.json" if is_untrained(settings.model_path) else "eegvlm.json"),
        },
    )


def answers_file_of(settings: EvaluateSettings) -> Path:
    """Return where the answers go; what gathers on the way there lies beside it, also where a link leads there.

    Raises
    ------
    EegToolError
        If no file can be written there.
    """
    path = target_of(settings.answers_file or Workspace(settings.workspace).answers)
    check_folder(path.parent, "The folder of the answers")
    return path


def warn(task: Task) -> None:
    """Say loudly what makes these answers other than those of a whole, plain run."""
    settings, contract = task.settings, task.contract
    for note in task.notes:
        console.print(f"[dim]  Note: {escape(note)}.[/]")
    if is_untrained(task.model_path):
        _loudly(f"{task.model_path} was not fine-tuned: it is asked as it is, without features.")
    if task.answers.untaught and settings.mode != "generate":
        _loudly(
            f"the model was taught no sample of {', '.join(task.answers.untaught)}: how its answer is "
            "spelt is guessed."
        )
    if len(task.chosen) < len(task.questions):
        _loudly(
            f"only {len(task.chosen):,} of {len(task.questions):,} questions are asked (--limit, "
            "--subjects): figures from them are partial."
        )
    if settings.conv_mode and settings.conv_mode != contract.version:
        _loudly(
            f"asked by the template '{settings.conv_mode}' and trained by '{contract.version}': "
            "answers may be worse than the model."
        )
    if task.features is not None and task.features.by_order:
        _loudly(f"{task.features_file} has no sidecar: its rows are taken in file order.")
    seen = sorted(fitted_subjects(task.chosen, task.epochs, task.calibration))
    if seen:
        _loudly(
            f"the calibration was fitted on {len(seen)} of these subjects ({', '.join(seen[:3])}): "
            "their probabilities look better than they are."
        )


def _loudly(text: str) -> None:
    console.print(f"[bold yellow]warning:[/] {escape(text)}")


def fitted_subjects(
    questions: Iterable[Question], epochs: dict[str, Epoch], calibration: Calibration | None
) -> set[str]:
    """Return the subjects of these questions on which the calibration was fitted."""
    fitted = set(calibration.subjects) if calibration else set()
    return {epochs[q.sample_id].subject for q in questions if q.sample_id in epochs} & fitted


def questions_of(path: Path, coding: str = "") -> tuple[list[Question], tuple[str, ...]]:
    """Read the questions, their true stages among the five (see `labels.read_labels`).

    Returns
    -------
    questions : list of Question
        In the order of the file.
    notes : tuple of str
        What must be said of how they are written.

    Raises
    ------
    EegToolError
        If there is none, a line is broken, two have the same id, or a label can be read in two ways.
    """
    taken = Forms()
    questions = read_questions(path, taken)
    if not questions:
        raise EegToolError(f"{path} has no questions.", "Run `eegvlm prepare` again.")
    ids = [question.sample_id for question in questions]
    check_unique(path, ids)
    labels = read_labels(str(path), ids, [question.category for question in questions], coding)
    found = [replace(q, category=s) for q, s in zip(questions, labels.stages, strict=True)]
    return found, tuple(f"{path.name}: {note}" for note in (*sentences(taken), *labels.notes))


def epochs_of(workspace: Workspace) -> dict[str, Epoch]:
    """Return the epochs of a workspace by sample id; none where it has no table of them."""
    if not workspace.epochs.exists():
        return {}
    return {epoch.sample_id: epoch for epoch in read_epochs(workspace.epochs)}


def protocol_of(contract: Contract) -> dict[str, Any]:
    """Return what a row says of the pictures and of the model."""
    model = {"base": contract.base, "fusion": contract.fusion, "version": contract.version}
    return contract.protocol | model


def read_batch_size(text: str) -> int | None:
    """Return how many questions are asked at a time; None for ``auto``.

    Raises
    ------
    EegToolError
        If it is neither a number nor ``auto``.
    """
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        shown = text if len(text) < 40 else f"{text[:40]}…"
        raise EegToolError(
            f"--batch-size '{shown}' is neither 'auto' nor a whole number from 1.",
            "Leave it out, or give a number.",
        )
    return int(text)


def _check_settings(settings: EvaluateSettings) -> None:
    read_batch_size(settings.batch_size)
    check_name("--attention", settings.attention, ATTENTIONS)
    if settings.chunk_idx >= settings.num_chunks:
        raise EegToolError(
            f"--chunk-idx {settings.chunk_idx} of --num-chunks {settings.num_chunks}: there is no "
            "such chunk.",
            f"Chunks count from 0 to {settings.num_chunks - 1}.",
        )
    if settings.temperature and settings.num_beams > 1:
        raise EegToolError(
            "--temperature and --num-beams exclude each other: a beam search draws nothing.",
            "Leave one of them out.",
        )
    if settings.calibrate and settings.mode == "generate":
        raise EegToolError("--calibrate needs probabilities.", "Add --mode score.")
    if settings.calibrate and (settings.num_chunks > 1 or settings.no_calibration):
        other = "--no-calibration" if settings.no_calibration else "--num-chunks"
        raise EegToolError(f"--calibrate and {other} exclude each other.", "Leave one of them out.")
    if settings.decide_for != "likelihood" and not (
        settings.calibrate and settings.mode == "score"
    ):
        raise EegToolError(
            f"--decide-for {settings.decide_for} needs --calibrate and --mode score: it is fitted with "
            "the calibration, and no stage is decided where the model writes it.",
            "Add both. A model that was calibrated so decides so from then on.",
        )


def _chosen(
    settings: EvaluateSettings, questions: list[Question], epochs: dict[str, Epoch]
) -> list[Question]:
    """Return the questions that are to be answered."""
    wanted = {name.strip() for name in settings.subjects.split(",") if name.strip()}
    known = {epochs[q.sample_id].subject for q in questions if q.sample_id in epochs}
    for name in sorted(wanted - known):
        if not epochs:
            raise EegToolError(
                f"--subjects: {settings.workspace} does not say whose the questions are.",
                "It needs the epochs.csv of `eegvlm prepare`.",
            )
        raise EegToolError(
            f"--subjects: no question is about '{name}'.",
            f"There are {', '.join(sorted(known)[:8])}{', …' * (len(known) > 8)}."
            f"{closest(name, known)}",
        )
    if wanted:
        questions = [
            q for q in questions if q.sample_id in epochs and epochs[q.sample_id].subject in wanted
        ]
    return questions[: settings.limit] if settings.limit else questions


def _chunk(settings: EvaluateSettings, chosen: list[Question]) -> list[Question]:
    ids = set(deal((q.sample_id for q in chosen), settings.num_chunks)[settings.chunk_idx])
    return [question for question in chosen if question.sample_id in ids]


def _check_pictures(questions: Sequence[Question], image_folder: Path) -> None:
    for question in questions:
        picture = picture_of(question.sample_id, question.images)
        find_picture(image_folder, picture, f"question '{question.sample_id}'")


def _features(
    settings: EvaluateSettings, contract: Contract, questions: list[Question], path: Path
) -> FeatureTable | None:
    """Return the high-level features of the questions, if the model looks at any.

    Raises
    ------
    EegToolError
        If they are not those of the questions, or come from another vision module or from other
        pictures than the one and those that the model was trained with.
    """
    if not FUSIONS[contract.fusion].needs_features:
        return None
    ids = [question.sample_id for question in questions]
    features = load_features(path, ids, source=settings.features, seed=settings.seed)
    weights = features.weights_sha256
    if weights not in ("", contract.features_weights_sha256) and contract.features_weights_sha256:
        raise EegToolError(
            f"{path} comes from another vision module ({weights[:12]}) than the one the model was "
            f"trained with ({contract.features_weights_sha256[:12]}).",
            "Fine-tune again after `eegvlm extract`, or give the features that belong to it.",
        )
    both = f"The model {settings.model_path} and {path}"
    check_same_pictures(contract.protocol, features.protocol, both)
    return features


def asked_template(settings: EvaluateSettings, contract: Contract) -> str:
    """Return the name of the template to ask by: the trained one, unless another is asked for.

    Raises
    ------
    EegToolError
        If there is none of that name for this model.
    """
    name = settings.conv_mode or contract.version
    own = [CHAT] if contract.version == CHAT else TEMPLATES
    check_name("conversation template", name, own)
    return name


def _prompts(
    questions: Sequence[Question], template: str, base: Base, contract: Contract
) -> dict[str, str]:
    """Return the prompt of each question; equal ones are one text in memory."""
    prompt = (
        load_processor(base, fusion=contract.fusion, version=template).prompt
        if template == CHAT
        else TEMPLATES[template].prompt
    )
    made = {key: prompt(*key) for key in {(q.text, len(q.images)) for q in questions}}
    return {q.sample_id: made[q.text, len(q.images)] for q in questions}


def _decoding(settings: EvaluateSettings, answers: AnswerForm) -> Decoding:
    return Decoding(
        max_new_tokens=settings.max_new_tokens or answers.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        num_beams=settings.num_beams,
        seed=settings.seed,
    )


def identity(
    adapter_sha256: str,
    answers: AnswerForm,
    *,
    mode: AnswerMode,
    template: str,
    decoding: Decoding,
    features: FeatureSource = "real",
    seed: int | None = None,
) -> dict[str, Any]:
    """Return what decides the answers; how they are computed (batches, precision) is no part of it."""
    writes = mode != "score" or answers.reasons_first
    return {
        "adapter_sha256": adapter_sha256,
        "mode": mode,
        "conv_mode": template,
        "features": features,
        "decoding": str(decoding) if writes else None,
        "max_new_tokens": decoding.max_new_tokens if writes else None,
        "seed": seed if features == "shuffled" else None,
    }
