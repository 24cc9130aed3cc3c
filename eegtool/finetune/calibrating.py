"""Calibration of a finished adapter on the subjects that its training held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from eegtool.core.console import console, progress, warn
from eegtool.core.errors import EegToolError
from eegtool.core.records import Question, read_epochs
from eegtool.extract.features import FeatureTable, load_features
from eegtool.finetune import held_out
from eegtool.finetune.plan import Plan
from eegtool.inference.calibration import calibrate, sentences, write_calibration
from eegtool.inference.loaded import LoadedModel
from eegtool.model.adapters import adapter_sha256
from eegtool.model.eegvlm import FUSIONS
from eegtool.pictures.source import open_source


def calibrate_adapter(folder: Path, plan: Plan) -> None:
    """Score all epochs of the held-out subjects by an adapter, and keep what was fitted to them beside it.

    Unlike the validations of the training, whatever their limit: probabilities shall have the stages as common as
    they are in whole nights.

    Parameters
    ----------
    folder : Path
        The adapter's.
    plan : Plan
        Of its training, with held-out subjects.

    Raises
    ------
    EegToolError
        If the adapter cannot be loaded or asked. Where nothing can be fitted, it stays as it is, and that is said.
    """
    sides = held_out.read(replace(plan, eval_limit=0))
    features = None
    if FUSIONS[plan.fusion].needs_features:
        seed = plan.arguments["seed"]
        path = Path(plan.features_file)
        features = load_features(path, sides.sample_ids, source=plan.features, seed=seed)
    model = LoadedModel.load(
        folder, base=plan.base_folder, vision_tower=plan.vision_tower, attention=plan.attention
    )
    scores = _scores(model, sides.scored, Path(plan.image_folder), features)
    epochs = {epoch.sample_id: epoch for epoch in read_epochs(Path(plan.epochs_file))}
    scored = [epochs[question.sample_id] for question in sides.scored]
    try:
        fitted, found = calibrate(
            scores,
            [epoch.stage for epoch in scored],
            mode="score",
            subjects=[epoch.subject for epoch in scored],
            adapter_sha256=adapter_sha256(folder),
            places=[(epoch.recording, epoch.epoch_index) for epoch in scored],
            sequence=plan.sequence,
        )
    except EegToolError as error:
        warn(f"the adapter is not calibrated: {error.what}")
        return
    write_calibration(folder, fitted)
    for sentence in sentences(fitted, found, "likelihood"):
        console.print(sentence)


def _scores(
    model: LoadedModel,
    questions: list[Question],
    image_folder: Path,
    features: FeatureTable | None,
) -> np.ndarray:
    """Return the log-likelihoods of the stages, float64 ``[N, 5]``."""
    pictures = open_source(image_folder)
    found: dict[str, np.ndarray | None] = {}
    with progress("epochs") as bar:
        task = bar.add_task("Calibrating", total=len(questions), note="")
        for batch in model.replies(
            questions,
            lambda q: model.processor.pixels(pictures.load(q.images[0]).rgb()),
            None if features is None else features.__getitem__,
        ):
            for question, reply in zip(batch.questions, batch.replies, strict=True):
                found[question.sample_id] = reply.log_likelihood
            bar.advance(task, len(batch.questions))
    return np.array([found[question.sample_id] for question in questions])
