"""ask: one picture, one answer, and how likely each stage is; for a person at a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eegtool.core.answers import read_stage
from eegtool.core.console import console, warn
from eegtool.core.errors import EegToolError
from eegtool.core.forms import IMAGE_TOKEN
from eegtool.core.pictures import read_rgb
from eegtool.core.probabilities import AIMS, Scaling, by_stage
from eegtool.core.records import Question
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, read_json
from eegtool.evaluate.model_folder import ModelFolder
from eegtool.evaluate.options import AskSettings
from eegtool.extract.features import load_features, read_sidecar
from eegtool.extract.stored import STORED, features_of, open_module
from eegtool.inference.calibration import Calibration
from eegtool.inference.loaded import LoadedModel
from eegtool.inference.writing import Decoding, Reply
from eegtool.model.answer_form import AnswerForm
from eegtool.pictures.source import Signals, open_source

_BAR: Final = 40
"""Columns of a bar that stands for 100 %."""
_OWN_QUESTION: Final = 128
"""Tokens of space for the answer to another question than the trained one."""


def run(settings: AskSettings) -> None:
    """Ask about a picture and show the answer; nothing is written.

    Raises
    ------
    EegToolError
        If the picture cannot be read, the folder is not a model or its base another one, or the
        high-level feature of the picture cannot be had: before the model is loaded.
    """
    console.stderr = settings.json  # standard output is for the JSON object alone
    model = ModelFolder.read(settings.model_path, settings.model_base, settings.vision_tower)
    contract, answers = model.contract, model.answers
    question = _question(settings, answers)
    image = _file_or_drawn(settings.image)
    picture = read_rgb(image, "Give a PNG that `eegvlm prepare` drew.")
    trained = question == contract.answers.get("question", question)
    # A temperature that was fitted to one question says nothing about another.
    use = trained and not settings.no_calibration
    calibration = model.calibration() if use else None
    said = list(_doubts(settings, model, question, picture.size))
    for doubt in said:
        warn(doubt)
    feature = _high_level_feature(settings, model, image)
    with console.status("Loading the model ..."):
        loaded = LoadedModel.load(
            settings.model_path,
            base=settings.model_base,
            vision_tower=settings.vision_tower,
            dtype=settings.dtype,
            merge=settings.merge,
        )
    space = answers.max_new_tokens if trained else max(answers.max_new_tokens, _OWN_QUESTION)
    name = settings.image.name
    with console.status("Asking ..."):
        (reply,) = loaded.reply(
            [Question(settings.image.stem, (name, name), question)],
            [loaded.processor.pixels(image)],
            None if feature is None else feature[None],
            "both" if answers.stages else "generate",
            Decoding(settings.max_new_tokens or space),
        )
    found = {"image": str(settings.image), "prompt": question}
    found |= as_row(reply, calibration) | {"adapter_sha256": model.adapter_sha256}
    if found["log_likelihoods"] and (doubt := disagreement(reply.text, found["stage"], answers)):
        warn(doubt)
        said.append(doubt)
    if settings.json:
        print(json.dumps(found | {"warnings": said}, ensure_ascii=False))
    else:
        console.print(shown(found, calibration))


def _file_or_drawn(image: Path) -> Path | bytes:
    """Return the path of a picture, or what its file would hold, where a workspace draws it from signals."""
    if not image.exists() and isinstance(source := open_source(image.parent.parent), Signals):
        return source.load(f"{image.parent.name}/{image.name}").file()
    return image


def _question(settings: AskSettings, answers: AnswerForm) -> str:
    """Return the user's question, or else the one that the model was trained on."""
    question = " ".join(settings.question.replace(IMAGE_TOKEN, "").split()) or answers.question
    if not question:
        raise EegToolError(
            f"{settings.model_path} does not say what question it was trained on: it is of an "
            "earlier version.",
            "Give it behind the picture, as it stands in the workspace's eeg_eval.jsonl.",
        )
    return question


def _doubts(
    settings: AskSettings, model: ModelFolder, question: str, picture_px: tuple[int, int]
) -> Iterator[str]:
    """Yield what makes this another task than the one that the model was trained for."""
    contract = model.contract
    side = contract.protocol.get("size")
    if side is not None and picture_px != (side, side):
        yield (
            f"the picture has {picture_px[0]} x {picture_px[1]} pixels, those of the training {side} x {side}: "
            "it is resized, and the answer may be worse than the model."
        )
    here = {name: value for name, value in drawn(settings.image).items() if name != "size"}
    try:
        model.check_pictures(here, settings.image)
    except EegToolError as error:
        yield error.what
    yield from model.doubts()
    trained = contract.answers.get("question", question)
    if not contract.answers.get("stages", STAGES):
        yield (
            "the samples taught no form of answer that could be scored: there are words, and no "
            "probabilities."
        )
    if question != trained:
        yield (
            f"the model was trained on one question only, '{trained}': "
            "its answer to another one may mean little."
        )


def drawn(image: Path) -> dict[str, Any]:
    """Return how prepare drew a picture that lies in a workspace; of others nothing is known."""
    # WORKSPACE/eeg_images_eval/RECORDING/PICTURE
    for folder in image.resolve().parents[:3]:
        stamp = Workspace(folder).prepare_stamp
        if stamp.exists():
            return dict(read_json(stamp).get("protocol", {}))
    return {}


def disagreement(text: str, stage: str | None, answers: AnswerForm) -> str:
    """Say that the model wrote another stage than its probabilities give; empty if it did not."""
    given = answers.stages[stage] if stage else ""
    wrote = [answer for answer in answers.texts if text.endswith(answer)]
    if not wrote or given in wrote:
        return ""
    return f"word by word the model came to '{wrote[0]}', its scores decide for '{given}'."


def _high_level_feature(
    settings: AskSettings, model: ModelFolder, image: Path | bytes
) -> np.ndarray | None:
    """Return the feature of the picture, float32 ``[1, 1024]``; None if the model looks at none."""
    name = settings.image.stem
    if settings.features_file is not None and model.needs_features:
        return _feature_from_file(name, settings.features_file, model)
    folder = model.find_module(
        settings.model_path / STORED,
        Workspace(settings.workspace).vision_module,
        made_elsewhere="Give the feature of this picture with --features-file.",
        missing="Name the workspace in which it was trained with --workspace, or give the feature with "
        "--features-file.",
    )
    if folder is None:
        return None
    module, _ = open_module(folder, settings.backbone or None)
    data = image if isinstance(image, bytes) else image.read_bytes()
    return features_of(module, {name: data})[name]


def _feature_from_file(name: str, path: Path, model: ModelFolder) -> np.ndarray:
    """Find the row of the picture by its name; without a sidecar there must be one row only."""
    sidecar = read_sidecar(path)
    ids = sidecar.sample_ids if sidecar else [name]
    table = load_features(path, ids, other="its own sidecar" if sidecar else "the picture")
    if name not in table.row_of:
        raise EegToolError(
            f"{path} has no feature of '{name}'.",
            "Rows are found by the picture's name, which prepare makes of the epoch's id.",
        )
    fix = "Give the features that belong to it, or leave out --features-file."
    model.check_features(table, path, fix)
    return table[name]


def as_row(reply: Reply, calibration: Calibration | None) -> dict[str, Any]:
    """Return a reply by the names that answer rows have for the same things; its stage is that decided for."""
    scaling = calibration.scaling if calibration else Scaling()
    scores = reply.log_likelihood
    stage, shares, likelihoods = read_stage(reply.text).stage, {}, {}
    if scores is not None:
        stage = STAGES[int(scaling.decided(scores))]
        shares = by_stage(scaling.probabilities(scores).tolist())
        likelihoods = by_stage(scores.tolist())
    return {
        "text": reply.text,
        "stage": stage,
        "stage_probabilities": shares,
        "log_likelihoods": likelihoods,
        "calibration_temperature": scaling.temperature,
        "calibration_offsets": by_stage(scaling.offsets),
        "decide_for": scaling.decide_for,
    }


def shown(found: Mapping[str, Any], calibration: Calibration | None) -> RenderableType:
    """Return what was found as it stands in the terminal."""
    # What would act on the terminal is left out instead of being shown.
    text = "".join(c for c in found["text"] if c.isprintable() or c == "\n")
    head = Table.grid(padding=(0, 2))
    head.add_row("Picture", Text(found["image"], overflow="fold"))
    head.add_row("Question", Text(found["prompt"]))
    head.add_row("Answer", Text(text or "(no words)", "bold"))
    if not found["stage_probabilities"]:
        return Group("", head)
    bars = Table.grid(padding=(0, 2))
    for stage, share in found["stage_probabilities"].items():
        style = "bold" if stage == found["stage"] else "dim"
        bars.add_row(stage, Bar(1.0, 0.0, share, width=_BAR), f"{100 * share:5.1f} %", style=style)
    c = calibration
    how = (
        f"Calibrated: temperature {c.temperature:.2f} and an offset per stage, fitted to {c.n:,} "
        f"epochs; the stage is decided for {AIMS[c.decide_for]}."
        if c
        else "Not calibrated: how certain the model is need not be how often it is right."
    )
    return Group("", head, "", bars, "", Text(how, "dim"))
