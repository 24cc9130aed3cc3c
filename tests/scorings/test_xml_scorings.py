from __future__ import annotations

from pathlib import Path

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import MOVEMENT, UNSCORED
from eegtool.scorings.xml_scorings import read_xml

PATH = Path("folder/x.xml")


def event(concept: str, start: object, duration: object, kind: str = "Stages|Stages") -> str:
    return (
        f"<ScoredEvent><EventType>{kind}</EventType><EventConcept>{concept}</EventConcept>"
        f"<Start>{start}</Start><Duration>{duration}</Duration></ScoredEvent>"
    )


def nsrr(*events: str) -> str:
    return f"<PSGAnnotation><ScoredEvents>{''.join(events)}</ScoredEvents></PSGAnnotation>"


def profusion(codes: str, length_s: object = 30) -> str:
    stages = "".join(f"<SleepStage>{code}</SleepStage>" for code in codes.split())
    return (
        f"<?xml version='1.0' encoding='UTF-16'?><CMPStudyConfig><EpochLength>{length_s}</EpochLength>"
        f"<ScoredEvents/><SleepStages>{stages}</SleepStages></CMPStudyConfig>"
    )


@pytest.mark.parametrize(
    ("concept", "stage"),
    [
        ("Wake|0", "W"),
        ("Stage 1 sleep|1", "N1"),
        ("Stage 2 sleep|2", "N2"),
        ("Stage 3 sleep|3", "N3"),
        ("Stage 4 sleep|4", "N3"),
        ("REM sleep|5", "REM"),
        ("Movement|6", MOVEMENT),
        ("Unscored|9", UNSCORED),
    ],
)
def test_every_concept_of_the_nsrr(concept: str, stage: str) -> None:
    scoring = read_xml(PATH, nsrr(event(concept, 30, "60.5")))
    (entry,) = scoring.entries
    assert (entry.onset_s, entry.duration_s, entry.stage) == (30, 60.5, stage)
    assert scoring.start is None


def test_other_events_are_passed_over() -> None:
    events = [
        event("Recording Start Time", 0, 28800, ""),
        event("Wake|0", 0, 30),
        event("Hypopnea|Hypopnea", 3.2, 11, "Respiratory|Respiratory"),
        event("Movement|6", 5, 1, "Limb Movement|Limb Movement"),
        event("REM sleep|5", 30, 30, ""),
    ]
    scoring = read_xml(PATH, nsrr(*events))
    assert [(e.stage, e.place) for e in scoring.entries] == [
        ("W", "ScoredEvent 2"),
        ("REM", "ScoredEvent 5"),
    ]


def test_every_code_of_profusion() -> None:
    scoring = read_xml(PATH, profusion("0 1 2 3 4 5 6 9"))
    assert [e.stage for e in scoring.entries] == [
        *("W", "N1", "N2", "N3", "N3", "REM", MOVEMENT, UNSCORED)
    ]
    assert [(e.onset_s, e.duration_s) for e in scoring.entries] == [(30 * i, 30) for i in range(8)]
    # Here 4 is stage 4 by definition, even in a night without REM.
    assert [e.stage for e in read_xml(PATH, profusion("4")).entries] == ["N3"]


def test_profusion_epochs_of_another_length() -> None:
    entries = read_xml(PATH, profusion("0 2", 60)).entries
    assert [(e.onset_s, e.duration_s) for e in entries] == [(0, 60), (60, 60)]
    for length_s in (15, 20, 0, -30):
        with pytest.raises(EegToolError, match=f"epochs of {length_s} s"):
            read_xml(PATH, profusion("0 2", length_s))


def test_name_spaces_are_ignored() -> None:
    text = nsrr(event("Wake|0", 0, 30)).replace("<PSGAnnotation>", '<PSGAnnotation xmlns="urn:x">')
    assert [e.stage for e in read_xml(PATH, text).entries] == ["W"]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + nsrr(event("&b;", 0, 30))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "declares a document type"),
        ('<!doctype x SYSTEM "file:///etc/passwd">' + nsrr(), "declares a document type"),
        (nsrr(event("&nbsp;", 0, 30)), "damaged XML: undefined entity"),
        ("<PSGAnnotation><ScoredEvents>", "damaged XML"),
        ("<CMPOther/>", "no scoring that is known: it is a <CMPOther>"),
        (nsrr(event("Wakee|0", 0, 30)), "unknown stage in ScoredEvent 1: 'Wakee'"),
        (nsrr(event("Sleep stge 2", 0, 30, "")), "unknown stage in ScoredEvent 1"),
        (nsrr(event("Wake|0", "soon", 30)), "no number as <Start> of ScoredEvent 1: 'soon'"),
        (nsrr("<ScoredEvent><EventConcept>Wake</EventConcept></ScoredEvent>"), "<Start> .*: ''"),
        (profusion("0 8"), "unknown stage in SleepStage 2: '8'"),
        (profusion("0", "long"), "no number as <EpochLength>"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(EegToolError, match=words) as raised:
        read_xml(PATH, text)
    assert str(PATH) in raised.value.what
    assert raised.value.fix
