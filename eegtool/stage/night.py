"""One night: features, answers, words, results; each step finds again what an earlier run made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from eegtool.core.console import console, progress
from eegtool.core.records import Answer, read_answers, read_questions, write_questions
from eegtool.core.settings import EvaluateSettings, StageSettings
from eegtool.core.workspace import Workspace
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.shards import parts_of
from eegtool.extract.features import Sidecar, load_features, write_features
from eegtool.extract.stored import export_night
from eegtool.prepare.nights import Prepared
from eegtool.stage.needs import Needs
from eegtool.stage.results import certainty, write_results

if TYPE_CHECKING:
    from eegtool.extract.module import VisionModule

Module: TypeAlias = "tuple[VisionModule, dict[str, Any]]"

_WORK: Final = "work"
_WORDS: Final = "words.jsonl"


def workspace_of(out: Path, recording: str) -> Path:
    """Return the workspace of a night in the output folder."""
    return out / recording / _WORK


def stage_night(
    prepared: Prepared, settings: StageSettings, needs: Needs, module: Module | None
) -> dict[str, Any]:
    """Stage a night that is drawn, and write its results.

    Parameters
    ----------
    prepared : Prepared
        The night; its pictures are in its workspace.
    settings : StageSettings
        What is wanted.
    needs : Needs
        The model.
    module : tuple of VisionModule and dict, or None
        Its vision module and the card of it; None if it looks at no features.

    Returns
    -------
    dict
        What there is to say about the night (see `results.write_results`).

    Raises
    ------
    EegToolError
        If a feature or an answer cannot be had, or something cannot be written.
    """
    workspace = Workspace(workspace_of(settings.out, prepared.night.recording))
    if module:
        _features(module, workspace, len(prepared.staged), settings)
    evaluate.run(_evaluation(settings, workspace, settings.mode))
    answers = read_answers(workspace.answers)
    words = _words(answers, settings, needs, workspace)
    return write_results(prepared, answers, words, settings, needs, workspace)


def _features(module: Module, workspace: Workspace, n: int, settings: StageSettings) -> None:
    with progress("epochs") as bar:
        task = bar.add_task("Looking", total=n, note="")
        done = export_night(
            *module,
            workspace,
            workers=settings.workers,
            advance=lambda some: bar.update(task, advance=some),
        )
        if not done:
            bar.update(task, completed=n, note="features were there")


def _evaluation(
    settings: StageSettings, workspace: Workspace, mode: Any, **more: Any
) -> EvaluateSettings:
    return EvaluateSettings(
        model_path=settings.model_path,
        workspace=workspace.root,
        model_base=settings.model_base,
        vision_tower=settings.vision_tower,
        mode=mode,
        no_calibration=settings.no_calibration,
        batch_size=settings.batch_size,
        num_gpus=settings.num_gpus,
        dtype=settings.dtype,
        merge=settings.merge,
        attention=settings.attention,
        **more,
    )


def _words(
    answers: list[Answer], settings: StageSettings, needs: Needs, workspace: Workspace
) -> dict[str, str]:
    """Return the model's own words about the epochs that are to be explained, by sample id."""
    if settings.explain == "none":
        return {}
    wanted = [answer.question_id for answer in answers]
    if settings.explain == "uncertain":
        sure = {answer.question_id: certainty(answer) for answer in answers}
        wanted = sorted(wanted, key=sure.__getitem__)[: settings.explain_count]
    if settings.mode == "score" and not needs.reasons:  # nothing has been written yet
        answers = _written(set(wanted), settings, needs, workspace)
    text_of = {answer.question_id: answer.text for answer in answers}
    return {sample_id: text_of[sample_id] for sample_id in wanted}


def _written(
    wanted: set[str], settings: StageSettings, needs: Needs, workspace: Workspace
) -> list[Answer]:
    """Let the model write about some epochs."""
    console.print(f"Words about {len(wanted):,} epochs")
    path = workspace.answers.with_name(_WORDS)
    questions = workspace.root / _WORDS
    rows = [row for row in read_questions(workspace.questions) if row.sample_id in wanted]
    if not questions.exists() or read_questions(questions) != rows:
        for old in (path, *parts_of(path)):
            old.unlink(missing_ok=True)
        write_questions(questions, rows)
    more = {"question_file": questions, "answers_file": path}
    if needs.module:
        more["features_file"] = _their_features([row.sample_id for row in rows], workspace)
    evaluate.run(_evaluation(settings, workspace, "generate", **more))
    return read_answers(path)


def _their_features(sample_ids: list[str], workspace: Workspace) -> Path:
    """Write the features of some epochs: a features file has those of its questions, and no others."""
    whole = workspace.features("eval")
    table = load_features(whole, [row.sample_id for row in read_questions(workspace.questions)])
    path = whole.with_name("words_high_level_features.npy")
    rows = np.stack([table[sample_id] for sample_id in sample_ids])
    write_features(
        path, rows, Sidecar(tuple(sample_ids), "", table.weights_sha256, "", table.protocol)
    )
    return path
