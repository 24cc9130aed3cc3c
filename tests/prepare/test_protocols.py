from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_epochs
from eegtool.core.workspace import Workspace, read_json
from eegtool.prepare import step
from eegtool.prepare.options import PrepareSettings
from eegtool.prepare.protocols import PROTOCOLS
from eegtool.prepare.splits import Split, make_split, read_split, write_split
from eegtool.prepare.step import run
from eegtool.scorings.cohorts import find_nights

ONE_NIGHT = {13: 1, 36: 2, 52: 2}
"""Cassette subjects of whom only this night is there (PhysioNet)."""


def sleep_edf(n_subjects: int = 83) -> Iterator[tuple[str, str]]:
    for i in range(n_subjects):
        for night in (1, 2):
            if i not in (39, 68, 69, 78, 79) and ONE_NIGHT.get(i, night) == night:
                yield f"SC4{i:02d}{night}E0-PSG.edf", f"SC4{i:02d}{night}EC-Hypnogram.edf"


def mass() -> Iterator[tuple[str, str]]:
    for subset, last, missing in (("01", 53, ()), ("02", 19, ()), ("03", 64, (43, 49))):
        for i in range(1, last + 1):
            if i not in missing:
                yield f"01-{subset}-{i:04d} PSG.edf", f"01-{subset}-{i:04d} Base.edf"


FILES = {"sleep-edf": list(sleep_edf()), "mass": list(mass())}
# NeuralBench's own transform on these subjects: scikit-learn's train_test_split, twice, seed 33.
KEMP_TEST = "00 02 05 06 13 37 42 44 47 48 52 54 55 61 65 74"
KEMP_VALIDATION = "03 04 18 21 23 28 29 31 33 34 45 51 64 80 81 82"
SS1 = tuple(f"01-01-{i:04d}" for i in range(1, 54))
SS3_VALIDATION = tuple(f"01-03-{i:04d}" for i in range(53, 65))


def cassette(numbers: str) -> tuple[str, ...]:
    return tuple(f"SC4{number}" for number in numbers.split())


@pytest.mark.parametrize(
    ("name", "fold", "evaluated", "validated", "n_trained", "n_nights"),
    [
        ("sleep-edf-20", 0, cassette("00"), (), 19, 39),
        ("sleep-edf-20", 19, cassette("19"), (), 19, 39),
        ("sleep-edf-78", 0, cassette("00 01 02 03 04 05 06 07"), (), 70, 153),
        ("sleep-edf-78", 9, cassette("74 75 76 77 80 81 82"), (), 71, 153),
        ("kemp2000", 0, cassette(KEMP_TEST), cassette(KEMP_VALIDATION), 46, 153),
        ("sleepvlm-mass", 0, SS1, SS3_VALIDATION, 50, 115),
    ],
)
def test_the_sides_are_those_published(
    tmp_path: Path,
    name: str,
    fold: int,
    evaluated: tuple[str, ...],
    validated: tuple[str, ...],
    n_trained: int,
    n_nights: int,
) -> None:
    protocol = PROTOCOLS[name]
    for pair in FILES[protocol.cohort]:
        for file in pair:
            (tmp_path / file).touch()
    settings = PrepareSettings([tmp_path], protocol=name, fold=fold)
    nights = step._chosen(find_nights([tmp_path]), settings)
    assert len(nights) == n_nights == protocol.n_nights
    split = split_of({night.subject for night in nights}, name, fold)
    assert (split.eval_subjects, split.validation_subjects) == (evaluated, validated)
    assert set(validated) <= set(split.ft_subjects)
    assert len(set(split.ft_subjects) - set(validated)) == n_trained
    assert set(split.ft_subjects).isdisjoint(evaluated)
    assert (split.protocol, split.absent, split.seed) == (name, (), None)


def split_of(subjects: set[str], protocol: str, fold: int = 0, *, partial: bool = False) -> Split:
    stages_of: dict[str, Counter[str]] = {subject: Counter() for subject in subjects}
    return make_split(stages_of, protocol=protocol, fold=fold, partial=partial)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_everybody_is_tested_once_over_all_folds(name: str) -> None:
    protocol = PROTOCOLS[name]
    folds = [protocol.sides(fold) for fold in range(protocol.n_folds)]
    assert len({sides.everybody for sides in folds}) == 1
    tested = Counter(subject for sides in folds for subject in sides.evaluated)
    assert set(tested.values()) == {1}
    if protocol.n_folds > 1:
        assert tested.keys() == folds[0].everybody


def test_kemp2000_is_what_scikit_learn_draws() -> None:
    from sklearn.model_selection import train_test_split

    sides = PROTOCOLS["kemp2000"].sides(0)
    rest, tested = train_test_split(sorted(sides.everybody), test_size=0.2, random_state=33)
    trained, validated = train_test_split(rest, test_size=0.2 / (1 - 0.2), random_state=33)
    assert (sides.evaluated, sides.validated, sides.trained) == tuple(
        tuple(sorted(side)) for side in (tested, validated, trained)
    )


@pytest.mark.parametrize(
    ("subjects", "fold", "partial", "what"),
    [
        (
            SS1[:-1],
            0,
            False,
            "63 of its 115 subjects cannot be used here: 01-01-0053, 01-03-0001, ",
        ),
        (SS1, 0, True, "of its subjects to fine-tune on, none is here"),
        (SS3_VALIDATION, 0, True, "of its subjects to evaluate, none is here"),
        (SS1, 1, True, "--fold 1: 1 fold is numbered 0 to 0"),
    ],
)
def test_protocols_that_are_not_possible(
    subjects: tuple[str, ...], fold: int, partial: bool, what: str
) -> None:
    with pytest.raises(EegToolError) as raised:
        split_of(set(subjects), "sleepvlm-mass", fold, partial=partial)
    assert what in raised.value.what
    assert ("--protocol-partial" in raised.value.fix) == ("cannot be used" in what)


def test_a_stored_split_keeps_its_validation_subjects(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    sides = PROTOCOLS["sleepvlm-mass"].sides(0)
    write_split(path, split_of(set(sides.everybody), "sleepvlm-mass"))
    assert read_split(path).validation_subjects == SS3_VALIDATION
    known: dict[str, Counter[str]] = {s: Counter() for s in sides.everybody - {"01-03-0064"}}
    assert make_split(known, split_from=path).validation_subjects == SS3_VALIDATION[:-1]
    row = read_json(path)
    path.write_text(json.dumps(row | {"validation_subjects": ["01-01-0001"]}))
    with pytest.raises(EegToolError, match="validation subject 01-01-0001 is not among"):
        read_split(path)


# --- through prepare ---


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(step, "console", Console(file=text, width=400))
    return text


@pytest.fixture
def cohort(tmp_path: Path, recordings: Path) -> Path:
    """The 39 nights of Sleep-EDF-20 and one of telemetry, each another patient's: ten epochs of one twin."""
    folder = tmp_path / "sleep-edfx"
    folder.mkdir()
    signals = (recordings / "SC4001E0-PSG.edf").read_bytes()
    scoring = (recordings / "SC4001EC-Hypnogram.edf").read_bytes()
    others = [("ST7011J0-PSG.edf", "ST7011JP-Hypnogram.edf")]
    for psg, hypnogram in (*sleep_edf(20), *others):
        (folder / psg).write_bytes(signals[:8] + psg[:6].encode() + signals[14:])
        (folder / hypnogram).write_bytes(scoring)
    return folder


def settings_of(folder: Path, **changes: Any) -> PrepareSettings:
    settings = PrepareSettings(
        [folder], folder.parent / "ws", size=32, pictures="none", protocol="sleep-edf-20", fold=3
    )
    return replace(settings, **changes)


def test_a_protocol_is_stamped(cohort: Path, printed: io.StringIO) -> None:
    run(settings := settings_of(cohort))
    workspace = Workspace(settings.workspace)
    stamp = read_json(workspace.prepare_stamp)["protocol"]
    assert (stamp["protocol"], stamp["protocol_differs"]) == ("sleep-edf-20", [])
    assert stamp["split"] == "by subject, sleep-edf-20, fold 3 of 20"
    assert stamp["eval_subjects"] == ["SC403"]
    sides = {(e.subject, e.split) for e in read_epochs(workspace.epochs)}
    assert sides == {(f"SC4{i:02d}", "eval" if i == 3 else "ft") for i in range(20)}
    assert read_split(workspace.split).eval_subjects == ("SC403",)
    assert (
        "1 recording of other subjects than those of sleep-edf-20 passed over."
        in printed.getvalue()
    )


@pytest.mark.parametrize(
    ("lost", "what", "differs"),
    [
        (("SC4131",), "only 38 of its 39 recordings can be used here", "without SC413"),
        (("SC4052",), "only 38 of its 39 recordings can be used here", "38 of 39 recordings"),
        (("SC4051", "SC4052"), "1 of its 20 subjects cannot be used here: SC405", "without SC405"),
    ],
)
@pytest.mark.parametrize("how", ["gone", "spoilt"])
def test_a_partial_protocol_says_so(
    cohort: Path, printed: io.StringIO, lost: tuple[str, ...], what: str, differs: str, how: str
) -> None:
    if lost == ("SC4131",):
        what = "1 of its 20 subjects cannot be used here: SC413"
    for path in [p for name in lost for p in cohort.glob(f"{name}*-PSG.edf")]:
        path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(EegToolError, match=what) as raised:
        run(settings_of(cohort))
    assert "--protocol-partial" in raised.value.fix
    assert not Workspace(cohort.parent / "ws").prepare_stamp.exists()
    run(settings := settings_of(cohort, protocol_partial=True, wake_margin=10.0))
    stamp = read_json(Workspace(settings.workspace).prepare_stamp)["protocol"]
    assert stamp["protocol"] == "sleep-edf-20"
    assert differs in stamp["protocol_differs"]
    assert f"{39 - len(lost)} of 39 recordings" in stamp["protocol_differs"]
    assert "wake kept 10 min around sleep, not 30" in stamp["protocol_differs"]
    assert f"Not as sleep-edf-20: {differs}." in printed.getvalue()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"protocol": "sleep-edf-21"}, "Unknown protocol 'sleep-edf-21'"),
        ({"cohort": "mass"}, "is of the cohort 'sleep-edf', not 'mass'"),
        ({"protocol": "", "protocol_partial": True}, "--protocol-partial needs --protocol"),
        ({"fold": 20}, "--fold 20: 20 folds are numbered 0 to 19"),
        ({"folds": 5}, "--folds and --protocol each say who is evaluated"),
        ({"eval_subjects": "SC401"}, "--eval-subjects and --protocol each say who is evaluated"),
        ({"protocol": "sleepvlm-mass"}, "no recording of the cohort 'mass'"),
        ({"limit": 30}, "subjects cannot be used here|of its 39 recordings"),
    ],
)
def test_wrong_protocols(cohort: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(EegToolError, match=what):
        run(settings_of(cohort, **changes))
