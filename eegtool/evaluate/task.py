"""What is asked, with what, and where the answers go: all that is checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from eegtool.core.console import console, warn
from eegtool.core.errors import EegToolError
from eegtool.core.forms import Forms, sentences
from eegtool.core.labels import read_labels
from eegtool.core.records import Epoch, Question, check_unique, read_epochs, read_questions
from eegtool.core.registry import check_name, closest
from eegtool.core.workspace import Workspace, check_folder, target_of
from eegtool.evaluate.asking import Job
from eegtool.evaluate.model_folder import ModelFolder
from eegtool.evaluate.options import EvaluateSettings
from eegtool.evaluate.shards import part_path, share
from eegtool.extract.features import FeatureTable, load_features, warn_if_by_order
from eegtool.inference.calibration import Calibration
from eegtool.inference.writing import Decoding
from eegtool.model.adapters import is_untrained, prompt_of
from eegtool.model.loading import ATTENTIONS
from eegtool.model.processor import picture_of
from eegtool.pictures.source import PictureSource, open_source


@dataclass(frozen=True, slots=True)
class Task:
    """One run of evaluate, checked."""

    settings: EvaluateSettings
    job: Job
    questions: list[Question]
    """All of the question file."""
    question_file: Path
    notes: tuple[str, ...]
    """What must be said of the question file."""
    chosen: list[Question]
    """Those that are to be answered (``--subjects``, ``--limit``), of all chunks."""
    asked: list[Question]
    """Those of this chunk."""
    pictures: PictureSource
    features: FeatureTable | None
    features_file: Path
    answers_file: Path
    calibration: Calibration | None

    @property
    def stamp(self) -> Path:
        """Run stamp of the answers file, there only when that is complete."""
        return self.answers_file.with_suffix(".run.json")

    def part(self, rank: int = 0) -> Path:
        """File to which a rank of this run appends its answers."""
        s = self.settings
        return part_path(self.answers_file, chunk=s.chunk_idx, chunks=s.num_chunks, rank=rank)

    def answered(self, *, begun: bool = False) -> dict[str, bytes]:
        """Return the lines that are there; before it has begun, ``--overwrite`` leaves the parts only.

        Raises
        ------
        EegToolError
            See `Job.answered`. What other chunks have left is passed over with ``--overwrite``.
        """
        overwrite = self.settings.overwrite
        return self.job.answered(
            self.questions,
            self.answers_file,
            parts_only=overwrite and not begun,
            strict=not overwrite,
        )

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
    workspace, folder = Workspace(settings.workspace), settings.model_path
    answers_file = target_of(settings.answers_file or workspace.answers)
    check_folder(answers_file.parent, "The folder of the answers")
    model = ModelFolder.read(folder, settings.model_base, settings.vision_tower)
    if settings.calibrate and is_untrained(folder):
        raise EegToolError(
            f"{folder} was not fine-tuned: a calibration has no adapter to stay beside.",
            "Leave out --calibrate.",
        )
    if settings.calibrate:
        check_folder(folder, "The folder of the model")
    question_file = settings.question_file or workspace.questions
    questions, notes = questions_of(question_file, settings.label_coding)
    known = read_epochs(workspace.epochs) if workspace.epochs.exists() else []
    epochs = {epoch.sample_id: epoch for epoch in known}
    chosen = _chosen(settings, questions, epochs)
    image_folder = settings.image_folder or workspace.images("eval")
    pictures = open_source(image_folder)
    for question in chosen:
        picture = picture_of(question.sample_id, question.images)
        pictures.find(picture, f"question '{question.sample_id}'")
    features_file = settings.features_file or workspace.features("eval")
    features = None
    if model.needs_features:
        ids = [question.sample_id for question in questions]
        features = load_features(features_file, ids, source=settings.features, seed=settings.seed)
        fix = "Fine-tune again after `eegvlm extract`, or give the features that belong to it."
        model.check_features(features, features_file, fix)
        model.check_pictures(features.protocol, features_file)
    model.check_pictures(workspace.protocol(), workspace.root)
    if settings.mode != "generate":
        model.check_scorable(
            "Ask with --mode generate; `eegvlm report` reads stages out of what it writes."
        )
    template = settings.conv_mode or model.contract.version
    job = Job(
        model=model,
        mode=settings.mode,
        decoding=Decoding(
            max_new_tokens=settings.max_new_tokens or model.answers.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            num_beams=settings.num_beams,
            seed=settings.seed,
        ),
        template=template,
        prompt=prompt_of(model.base, model.contract, template),
        pictures=_as_evaluated(model.contract.protocol, workspace.protocol()),
        epochs=epochs,
        features=settings.features,
        seed=settings.seed,
    )
    use = settings.mode != "generate" and not (settings.no_calibration or settings.calibrate)
    return Task(
        settings=settings,
        job=job,
        questions=questions,
        question_file=question_file,
        notes=notes,
        chosen=chosen,
        asked=share(chosen, settings.chunk_idx, settings.num_chunks),
        pictures=pictures,
        features=features,
        features_file=features_file,
        answers_file=answers_file,
        calibration=model.calibration() if use else None,
    )


def say_what_is_unusual(task: Task) -> None:
    """Say loudly what makes these answers other than those of a whole, plain run."""
    settings, job = task.settings, task.job
    for note in task.notes:
        console.print(f"[dim]  Note: {escape(note)}.[/]")
    for doubt in job.model.doubts(scored=settings.mode != "generate"):
        warn(doubt)
    if len(task.chosen) < len(task.questions):
        warn(
            f"only {len(task.chosen):,} of {len(task.questions):,} questions are asked (--limit, "
            "--subjects): figures from them are partial."
        )
    if job.template != job.model.contract.version:
        warn(
            f"asked by the template '{job.template}' and trained by '{job.model.contract.version}': "
            "answers may be worse than the model."
        )
    if task.features is not None:
        warn_if_by_order(task.features_file, task.features)
    asked = {job.epochs[q.sample_id].subject for q in task.chosen if q.sample_id in job.epochs}
    if task.calibration and (seen := sorted(asked.intersection(task.calibration.subjects))):
        warn(
            f"the calibration was fitted on {len(seen)} of these subjects ({', '.join(seen[:3])}): "
            "their probabilities look better than they are."
        )


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
    """Refuse settings that are wrong by themselves, or exclude each other."""
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
    whose = {q.sample_id: epochs[q.sample_id].subject for q in questions if q.sample_id in epochs}
    known = set(whose.values())
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
        questions = [q for q in questions if whose.get(q.sample_id) in wanted]
    return questions[: settings.limit] if settings.limit else questions


def _as_evaluated(trained: dict[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Return the protocol of a model; a published split must be that of its training and of the questions, too."""
    if "protocol" not in trained:
        return trained
    differs = [*trained.get("protocol_differs", ()), *here.get("protocol_differs", ())]
    if any(trained.get(key) != here.get(key) for key in ("protocol", "split_sha256")):
        differs.append("trained and evaluated on different splits")
    return trained | {"protocol_differs": [*dict.fromkeys(differs)]}
