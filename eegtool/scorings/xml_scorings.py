"""Scorings as XML: that of the National Sleep Research Resource, and that of Compumedics Profusion."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, is_misspelt, stage_in_column, stage_of
from eegtool.scorings.scoring import Entry, Scoring, refuse_word

NSRR_ROOT = "PSGAnnotation"
PROFUSION_ROOT = "CMPStudyConfig"


def read_xml(path: Path, text: str) -> Scoring:
    """Read a scoring in NSRR or Profusion XML.

    Parameters
    ----------
    path : Path
        The file, for messages.
    text : str
        Its content.

    Raises
    ------
    EegToolError
        If the XML is damaged, of another kind, has another epoch length, or unknown stages.
    """
    if re.search("<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise EegToolError(
            f"The hypnogram {path} declares a document type, which no scoring needs; it is not read.",
            "Remove the <!DOCTYPE ...> part if you trust the file.",
        )
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - no declarations, see above
    except ElementTree.ParseError as error:
        raise EegToolError(
            f"The hypnogram {path} is damaged XML: {error}.", "Fetch or export it again."
        ) from error
    name = _local(root)
    if name == NSRR_ROOT:
        return Scoring("NSRR XML", tuple(_nsrr(path, root)))
    if name == PROFUSION_ROOT:
        return Scoring("Profusion XML", tuple(_profusion(path, root)))
    raise EegToolError(
        f"{path} is XML, but no scoring that is known: it is a <{name}>.",
        f"NSRR files begin with <{NSRR_ROOT}>, Profusion files with <{PROFUSION_ROOT}>.",
    )


def _nsrr(path: Path, root: ElementTree.Element) -> list[Entry]:
    """Read ``<EventConcept>Stage 2 sleep|2</EventConcept>`` with its start and duration in seconds."""
    entries = []
    for number, event in enumerate(_all(root, "ScoredEvent"), start=1):
        place = f"ScoredEvent {number}"
        word = _text(event, "EventConcept").partition("|")[0]
        if _text(event, "EventType").casefold().startswith("stages"):
            stage = stage_in_column(word)
        else:  # an apnoea, an arousal; some exports leave the type of the stages empty
            stage = stage_of(word)
            if stage is None and not is_misspelt(word):
                continue
        if stage is None:
            refuse_word(path, place, word)
        onset_s = _number(path, place, event, "Start")
        entries.append(Entry(onset_s, _number(path, place, event, "Duration"), stage, place))
    return entries


def _profusion(path: Path, root: ElementTree.Element) -> list[Entry]:
    """Read ``<SleepStage>2</SleepStage>``, one per epoch."""
    length_s = (
        _number(path, "the study", root, "EpochLength") if _all(root, "EpochLength") else EPOCH_S
    )
    if length_s <= 0 or length_s % EPOCH_S:
        raise EegToolError(
            f"The hypnogram {path} has epochs of {length_s:g} s.",
            f"Stages of {EPOCH_S}-s epochs cannot be told from them; score the night in {EPOCH_S}-s epochs.",
        )
    entries = []
    for i, element in enumerate(_all(root, "SleepStage")):
        place, word = f"SleepStage {i + 1}", element.text or ""
        stage = stage_in_column(word)
        if stage is None:
            refuse_word(path, place, word)
        entries.append(Entry(i * length_s, length_s, stage, place))
    return entries


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]  # without its name space


def _all(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if _local(element) == name]


def _text(parent: ElementTree.Element, name: str) -> str:
    return next(((e.text or "").strip() for e in parent if _local(e) == name), "")


def _number(path: Path, place: str, parent: ElementTree.Element, name: str) -> float:
    text = _text(parent, name)
    try:
        return float(text)
    except ValueError as error:
        raise EegToolError(
            f"The hypnogram {path} has no number as <{name}> of {place}: '{text}'.",
            "Export the scoring again.",
        ) from error
