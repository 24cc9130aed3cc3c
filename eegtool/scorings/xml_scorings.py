"""Scorings as XML: those of the National Sleep Research Resource, Compumedics Profusion and Philips Sleepware."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S
from eegtool.scorings.codings import stage_of_event
from eegtool.scorings.scoring import Entry, ReadAs, Scoring, stage_or_refuse


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
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # without its name space
    name = root.tag
    if name not in XML_ROOTS:
        raise EegToolError(
            f"{path} is XML, but no scoring that is known: it is a <{name}>.",
            f"Scorings begin with {', '.join(f'<{known}>' for known in XML_ROOTS)}.",
        )
    return XML_ROOTS[name](path, root)


def _nsrr(path: Path, root: ElementTree.Element) -> Scoring:
    """Read ``<EventConcept>Stage 2 sleep|2</EventConcept>`` with its start and duration in seconds."""
    entries = []
    for number, event in enumerate(root.iter("ScoredEvent"), start=1):
        place = f"ScoredEvent {number}"
        word = event.findtext("EventConcept", "").strip().partition("|")[0]
        if event.findtext("EventType", "").strip().casefold().startswith("stages"):
            stage = stage_or_refuse(path, place, word)
        else:  # an apnoea, an arousal; some exports leave the type of the stages empty
            stage = stage_of_event(path, place, word, ReadAs())
        if not stage:
            continue
        onset_s = _number(path, place, event, "Start")
        entries.append(Entry(onset_s, _number(path, place, event, "Duration"), stage, place))
    return Scoring(tuple(entries))


def _profusion(path: Path, root: ElementTree.Element) -> Scoring:
    """Read ``<SleepStage>2</SleepStage>``, one per epoch."""
    has_length = root.find(".//EpochLength") is not None
    length_s = _number(path, "the study", root, "EpochLength") if has_length else EPOCH_S
    if length_s <= 0 or length_s % EPOCH_S:
        raise EegToolError(
            f"The hypnogram {path} has epochs of {length_s:g} s.",
            f"Stages of {EPOCH_S}-s epochs cannot be told from them; score the night in {EPOCH_S}-s epochs.",
        )
    entries = []
    for i, element in enumerate(root.iter("SleepStage")):
        place = f"SleepStage {i + 1}"
        stage = stage_or_refuse(path, place, element.text or "")
        entries.append(Entry(i * length_s, length_s, stage, place))
    return Scoring(tuple(entries))


def _philips(path: Path, root: ElementTree.Element) -> Scoring:
    """Read ``<Stage Type="NonREM2" Start="330"/>``, each until the next; a scorer's before the machine's."""
    scorers = [e for name in ("UserStaging", "MachineStaging") for e in root.iter(name)]
    stagings = [list(e) for scorer in scorers for e in scorer.iter() if e.tag.endswith("Staging")]
    elements = next((s for s in stagings if s and s[0].tag == "Stage"), [])
    entries = []
    for i, element in enumerate(elements, start=1):
        place = f"Stage {i}"
        stage = stage_or_refuse(path, place, element.get("Type", ""))
        entries.append(
            Entry(_float(path, place, "Start", element.get("Start", "")), 0.0, stage, place)
        )
    return Scoring(tuple(entries), until_next=True)


def _number(path: Path, place: str, parent: ElementTree.Element, name: str) -> float:
    return _float(path, place, name, parent.findtext(name, "").strip())


def _float(path: Path, place: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise EegToolError(
            f"The hypnogram {path} has no number as <{name}> of {place}: '{text}'.",
            "Export the scoring again.",
        ) from error


XML_ROOTS: Final[dict[str, Callable[[Path, ElementTree.Element], Scoring]]] = {
    "PSGAnnotation": _nsrr,
    "CMPStudyConfig": _profusion,
    "PatientStudy": _philips,
}
"""Reader of each kind, by its outermost element."""
