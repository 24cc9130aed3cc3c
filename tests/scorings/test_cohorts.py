from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import edfio
import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import SPLITS
from eegtool.core.stages import MOVEMENT, UNSCORED
from eegtool.core.workspace import Workspace
from eegtool.scorings.cohorts import COHORTS, Found, Night, find_nights, find_recordings
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch
from eegtool.scorings.scoring import ReadAs

SCORING = "W\nN1\nN2\nN3\nREM\n"


def lay(folder: Path, *names: str) -> Path:
    """Make files: empty recordings, and texts that are scorings."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SCORING if path.suffix in (".txt", ".csv", ".tsv") else "")
    return folder


def paired(found: Found) -> dict[str, str | None]:
    return {
        n.signal_path.name: n.hypnogram_path.name if n.hypnogram_path else None
        for n in found.nights
    }


def named(found: Found) -> list[tuple[str, str, int]]:
    return [(n.recording, n.subject, n.night) for n in found.nights]


def refusal(paths: Sequence[Path], cohort: str = "auto", subject_pattern: str = "") -> EegToolError:
    with pytest.raises(EegToolError) as raised:
        find_nights(paths, cohort, subject_pattern)
    return raised.value


@pytest.fixture
def sleep_edf(tmp_path: Path) -> Path:
    """Folder with one cassette night, two telemetry nights, and what lies about in a download."""
    return lay(
        tmp_path / "sleep-edfx",
        "sleep-cassette/SC4001E0-PSG.edf",
        "sleep-cassette/SC4001EC-Hypnogram.edf",
        "sleep-telemetry/ST7011J0-PSG.edf",
        "sleep-telemetry/ST7011JP-Hypnogram.edf",
        "sleep-telemetry/ST7012J0-PSG.edf",
        "sleep-telemetry/ST7012JP-Hypnogram.edf",
        "sleep-cassette/._SC4001E0-PSG.edf",
        "sleep-cassette/SC4002E0-PSG.edf.part",
        "sleep-cassette/SC4002EC-Hypnogram.txt",
        "SHA256SUMS.txt",
    )


# --- Sleep-EDF ---


def test_sleep_edf(sleep_edf: Path) -> None:
    cassette, telemetry = sleep_edf / "sleep-cassette", sleep_edf / "sleep-telemetry"
    found = find_nights([sleep_edf])
    assert found == Found(
        nights=(
            Night(
                cohort="sleep-edf",
                recording="SC4001E0",
                subject="SC400",
                night=1,
                signal_path=cassette / "SC4001E0-PSG.edf",
                hypnogram_path=cassette / "SC4001EC-Hypnogram.edf",
            ),
            Night(
                cohort="sleep-edf",
                recording="ST7011J0",
                subject="ST701",
                night=1,
                signal_path=telemetry / "ST7011J0-PSG.edf",
                hypnogram_path=telemetry / "ST7011JP-Hypnogram.edf",
            ),
            Night(
                cohort="sleep-edf",
                recording="ST7012J0",
                subject="ST701",
                night=2,
                signal_path=telemetry / "ST7012J0-PSG.edf",
                hypnogram_path=telemetry / "ST7012JP-Hypnogram.edf",
            ),
        ),
        orphans=(),
        cohort="sleep-edf",
    )
    assert found == find_nights([sleep_edf], "sleep-edf")


def test_sleep_edf_in_any_case(tmp_path: Path) -> None:
    lay(tmp_path, "sc4001e0-psg.EDF", "sc4001ec-hypnogram.edf")
    (night,) = find_nights([tmp_path]).nights
    assert (night.recording, night.subject) == ("SC4001E0", "SC400")
    assert night.hypnogram_path == tmp_path / "sc4001ec-hypnogram.edf"


def test_a_file_brings_its_hypnogram_but_not_its_neighbours(sleep_edf: Path) -> None:
    (sleep_edf / "sleep-telemetry" / "ST7021JP-Hypnogram.edf").touch()
    path = sleep_edf / "sleep-telemetry" / "ST7012J0-PSG.edf"
    found = find_nights([path])
    (night,) = found.nights
    assert night.signal_path == path
    assert night.hypnogram_path == path.with_name("ST7012JP-Hypnogram.edf")
    assert not found.orphans
    assert not found.notes


def test_recording_without_and_hypnogram_without(sleep_edf: Path) -> None:
    (sleep_edf / "sleep-cassette" / "SC4001EC-Hypnogram.edf").unlink()
    (sleep_edf / "sleep-telemetry" / "ST7011J0-PSG.edf").unlink()
    found = find_nights([sleep_edf])
    assert paired(found) == {
        "SC4001E0-PSG.edf": None,
        "ST7012J0-PSG.edf": "ST7012JP-Hypnogram.edf",
    }
    assert found.orphans == (sleep_edf / "sleep-telemetry" / "ST7011JP-Hypnogram.edf",)


def test_hypnogram_in_another_folder(tmp_path: Path) -> None:
    lay(tmp_path, "signals/SC4001E0-PSG.edf", "scoring/SC4001EC-Hypnogram.edf")
    (night,) = find_nights([tmp_path]).nights
    assert night.hypnogram_path == tmp_path / "scoring" / "SC4001EC-Hypnogram.edf"
    # A copy beside the recording is nearer.
    lay(tmp_path, "signals/SC4001EC-Hypnogram.edf")
    (night,) = find_nights([tmp_path]).nights
    assert night.hypnogram_path == tmp_path / "signals" / "SC4001EC-Hypnogram.edf"


def test_two_scorings_are_a_problem_of_that_night(
    sleep_edf: Path, write_hypnogram: Callable[..., Path]
) -> None:
    for letter in "CH":
        path = sleep_edf / "sleep-cassette" / f"SC4001E{letter}-Hypnogram.edf"
        write_hypnogram([(0, 30, "Sleep stage W")]).rename(path)
    found = find_nights([sleep_edf])
    night, *others = found.nights
    assert night.hypnogram_path is None
    assert "SC4001E0-PSG.edf has more than one hypnogram" in night.problem
    for letter in "CH":
        assert f"SC4001E{letter}-Hypnogram.edf" in night.problem
    assert [n.problem for n in others] == ["", ""]
    assert None not in [n.hypnogram_path for n in others]
    assert (found.orphans, found.notes) == ((), ())


def test_files_of_no_cohort_are_told(sleep_edf: Path) -> None:
    lay(sleep_edf, "other-PSG.edf", *(f"nap{i}.bdf" for i in range(6)))
    found = find_nights([sleep_edf])
    assert (found.cohort, len(found.nights)) == ("sleep-edf", 3)
    (note,) = found.notes
    assert note.startswith("Files passed over because they are not named like those of sleep-edf:")
    assert "nap0.bdf" in note
    assert note.endswith("... (7 in all).")


# --- NSRR ---


@pytest.mark.parametrize(
    ("stem", "subject", "night"),
    [
        ("shhs1-200001", "shhs-200001", 1),
        ("shhs2-200001", "shhs-200001", 2),
        ("mesa-sleep-0001", "mesa-0001", 1),
        ("mros-visit2-aa0001", "mros-aa0001", 2),
        ("cfs-visit5-800002", "cfs-800002", 5),
        ("sof-visit-8-00001", "sof-00001", 8),
        ("ccshs-trec-1800005", "ccshs-1800005", 1),
    ],
)
def test_nsrr(tmp_path: Path, stem: str, subject: str, night: int) -> None:
    root = lay(
        tmp_path / "polysomnography",
        f"edfs/{stem}.edf",
        f"annotations-events-nsrr/{stem}-nsrr.xml",
        f"annotations-events-profusion/{stem}-profusion.xml",
    )
    found = find_nights([root])
    assert (found.cohort, found.orphans) == ("nsrr", ())
    assert named(found) == [(stem, subject, night)]
    assert paired(found) == {f"{stem}.edf": f"{stem}-nsrr.xml"}
    (root / f"annotations-events-nsrr/{stem}-nsrr.xml").unlink()
    assert paired(find_nights([root])) == {f"{stem}.edf": f"{stem}-profusion.xml"}


def test_nsrr_orphans(tmp_path: Path) -> None:
    lay(tmp_path, "shhs1-200001.edf", "shhs1-200001-nsrr.xml", "shhs2-200001-nsrr.xml")
    found = find_nights([tmp_path])
    assert paired(found) == {"shhs1-200001.edf": "shhs1-200001-nsrr.xml"}
    assert found.orphans == (tmp_path / "shhs2-200001-nsrr.xml",)


# --- data sets known by their names ---

UUID = "1da3544e-dc5c-5795-adc3-f5068959211f"
TP = "tpdbf4cda5_e571_4f0e_be9a_1a48306b1247"
DREAMS_CODES = tuple({"5": "W", "4": "REM", "3": "N1", "2": "N2", "1": "N3", "0": "N3", "-1": MOVEMENT}.items())  # fmt: skip


class Public(NamedTuple):
    """One recording with its scoring, under their real names."""

    cohort: str
    recording: str
    scoring: str | None
    """None where it is inside."""
    named: tuple[str, str, int]
    epoch_s: float = 0.0
    codes: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()
    """What lies beside them."""


PUBLIC = [
    Public(
        "mass",
        "SS3/01-03-0001 PSG.edf",
        "SS3/01-03-0001 Base.edf",
        ("01-03-0001", "01-03-0001", 1),
        others=("SS3/01-03-0001 Spindles_E1.edf",),
    ),
    *(
        Public(
            "mass",
            f"01-0{s}-0017_PSG.edf",
            f"annotations/01-0{s}-0017_Base.edf",
            (f"01-0{s}-0017",) * 2 + (1,),
            epoch_s=length_s,
        )
        for s, length_s in ((1, 0), (2, 20), (4, 20), (5, 20))
    ),
    Public("hmc", "SN001.edf", "SN001_sleepscoring.edf", ("SN001", "SN001", 1), 0, (), ("SN001_sleepscoring.txt",)),
    Public("hmc", "SN154.edf", "SN154_sleepscoring.txt", ("SN154", "SN154", 1)),
    Public("dcsm", f"dcsm/{TP}/psg.h5", f"dcsm/{TP}/hypnogram.ids", (TP, TP, 1)),
    Public("dod", f"dodh/{UUID}.h5", None, (UUID, UUID, 1), 0, (("4", "REM"), ("3", "N3"), ("-1", UNSCORED))),
    Public(
        "cinc2018",
        "training/tr03-0005/tr03-0005.hea",
        "training/tr03-0005/tr03-0005.arousal",
        ("tr03-0005", "tr03-0005", 1),
        others=("training/tr03-0005/tr03-0005.mat", "training/tr03-0005/tr03-0005-arousal.mat"),
    ),
    *(
        Public("cap", f"{name}.edf", f"{name}.txt", (name, name, 1), others=(f"{name}.edf.st",))
        for name in ("n1", "n16", "brux2", "ins9", "narco5", "nfle10", "nfle40", "plm10", "rbd20", "rbd22", "sdb4")
    ),
    Public(
        "dreams",
        "DatabaseSubjects/subject1.edf",
        "DatabaseSubjects/HypnogramAASM_subject1.txt",
        ("subject1", "subject1", 1),
        5,
        DREAMS_CODES,
        ("DatabaseSubjects/HypnogramR&K_subject1.txt",),
    ),
    Public("dreams", "patient27.edf", "HypnogramR&K_patient27.txt", ("patient27",) * 2 + (1,), 5, DREAMS_CODES),
]  # fmt: skip


@pytest.mark.parametrize("one", PUBLIC, ids=lambda one: f"{one.cohort} {Path(one.recording).name}")
def test_public_data_sets(tmp_path: Path, one: Public) -> None:
    lay(tmp_path, *filter(None, (one.recording, one.scoring, *one.others)))
    if one.scoring and one.scoring.endswith(".txt"):
        mark = {"cap": "W\t\t22:19:06\tSLEEP-S0\t30\n", "dreams": "[hypnogram]\n5\n"}
        (tmp_path / one.scoring).write_text(mark.get(one.cohort, SCORING))
    for cohort in ("auto", one.cohort):
        found = find_nights([tmp_path], cohort)
        assert (found.cohort, named(found), found.orphans) == (one.cohort, [one.named], ())
        (night,) = found.nights
        assert night.hypnogram_path == tmp_path / (one.scoring or one.recording)
        assert night.read_as.epoch_s == one.epoch_s
        assert set(one.codes) <= set(night.read_as.codes)
    assert COHORTS[one.cohort].channels
    stated = ReadAs(epoch_s=30.0)
    assert find_nights([tmp_path], read_as=stated).nights[0].read_as.epoch_s == 30.0
    assert [n.recording for n in find_recordings([tmp_path / one.recording])] == [one.named[0]]


@pytest.mark.parametrize("names", [("n1.edf", "n1.txt"), ("subject1.edf", "subject1.csv")])
def test_names_that_could_be_any_labs_are_not_taken_for_a_data_set(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    lay(tmp_path, *names)
    found = find_nights([tmp_path])
    assert (found.cohort, paired(found)) == ("generic", dict([names]))


@pytest.mark.parametrize(
    "name", ["01-06-0001 PSG.edf", "01-03-0001.edf", "SN1.edf", "n17.edf", "nfle41.edf"]
)
@pytest.mark.parametrize("cohort", ["mass", "hmc", "cap"])
def test_another_name_than_those_of_the_data_set(tmp_path: Path, name: str, cohort: str) -> None:
    lay(tmp_path, name)
    error = refusal([tmp_path], cohort)
    assert error.what == f"There is no recording of the cohort '{cohort}' in {tmp_path}."
    assert error.fix == f"Names are like {COHORTS[cohort].named_like}."


# --- ISRUC ---


@pytest.mark.parametrize(
    ("signal", "recording", "subject", "night"),
    [
        ("subgroupI/5/5.rec", "isruc1-005-1", "isruc1-005", 1),
        ("subgroup_III/10/10.edf", "isruc3-010-1", "isruc3-010", 1),
        ("group2/3/1/1.rec", "isruc2-003-1", "isruc2-003", 1),
        ("group2/3/2/2.rec", "isruc2-003-2", "isruc2-003", 2),
        ("subjects/007/007.edf", "isruc-007-1", "isruc-007", 1),
        ("42/42.rec", "isruc-042-1", "isruc-042", 1),
    ],
)
def test_isruc(tmp_path: Path, signal: str, recording: str, subject: str, night: int) -> None:
    scorings = [f"{signal[:-4]}_{expert}.txt" for expert in (1, 2)]
    path = lay(tmp_path, signal, *scorings, f"{signal[:-4]}_1.xlsx") / signal
    for given in (tmp_path, path.parent, path):
        found = find_nights([given])
        assert (found.cohort, found.orphans, found.notes) == ("isruc", (), ())
        assert named(found) == [(recording, subject, night)]
        assert found.nights[0].hypnogram_path == tmp_path / scorings[0]


def test_isruc_leftovers(tmp_path: Path) -> None:
    lay(tmp_path, "1/1.rec", "2/2_1.txt", "3/3.rec", "3/3_1.txt")
    found = find_nights([tmp_path])
    assert paired(found) == {"1.rec": None, "3.rec": "3_1.txt"}
    assert found.orphans == (tmp_path / "2" / "2_1.txt",)


def test_a_lab_that_numbers_its_folders_is_not_isruc(tmp_path: Path) -> None:
    lay(tmp_path, "12/12.edf", "12/12.csv")
    assert find_nights([tmp_path]).cohort == "generic"


# --- any lab ---


@pytest.mark.parametrize(
    ("files", "pairs", "orphans"),
    [
        pytest.param(
            ["night1.edf", "night1.txt", "night2.bdf", "night2.csv"],
            {"night1.edf": "night1.txt", "night2.bdf": "night2.csv"},
            [],
            id="same names",
        ),
        pytest.param(
            ["night1.edf", "night10.edf", "night1_hyp.txt", "night10_hyp.txt"],
            {"night1.edf": "night1_hyp.txt", "night10.edf": "night10_hyp.txt"},
            [],
            id="one number begins another",
        ),
        pytest.param(
            ["sub-01_task-sleep_eeg.vhdr", "sub-01_task-sleep_events.tsv"],
            {"sub-01_task-sleep_eeg.vhdr": "sub-01_task-sleep_events.tsv"},
            [],
            id="BIDS",
        ),
        pytest.param(
            ["P1 night 2 PSG.edf", "p01 NIGHT 02 scoring.txt"],
            {"P1 night 2 PSG.edf": "p01 NIGHT 02 scoring.txt"},
            [],
            id="case and leading zeros",
        ),
        pytest.param(
            ["alice_psg.edf", "alice_hypnogram.csv", "alina_psg.edf", "alina_hypnogram.csv"],
            {"alice_psg.edf": "alice_hypnogram.csv", "alina_psg.edf": "alina_hypnogram.csv"},
            [],
            id="words, not letters",
        ),
        pytest.param(
            ["p1_Rohdaten.edf", "p1_Bewertung.txt", "p2_Rohdaten.edf", "p2_Bewertung.txt"],
            {"p1_Rohdaten.edf": None, "p2_Rohdaten.edf": None},
            ["p1_Bewertung.txt", "p2_Bewertung.txt"],
            id="roles in another language",
        ),
        pytest.param(
            ["S01_placebo.edf", "S01_drug.txt"],
            {"S01_placebo.edf": None},
            ["S01_drug.txt"],
            id="another condition",
        ),
        pytest.param(
            ["p01.edf", "p01_b.edf", "p01_hyp.txt", "p01_b_hyp.txt"],
            {"p01.edf": "p01_hyp.txt", "p01_b.edf": "p01_b_hyp.txt"},
            [],
            id="one name begins another",
        ),
        pytest.param(["p1n2.edf", "p1n1.txt"], {"p1n2.edf": None}, ["p1n1.txt"], id="other night"),
        pytest.param(
            ["night_A.edf", "night_B.txt"], {"night_A.edf": None}, ["night_B.txt"], id="other word"
        ),
        pytest.param(["Alice.edf", "Bob.txt"], {"Alice.edf": None}, ["Bob.txt"], id="strangers"),
        pytest.param(
            ["a_1.edf", "a_2.edf", "a.txt"],
            {"a_1.edf": None, "a_2.edf": None},
            ["a.txt"],
            id="of which recording?",
        ),
        pytest.param(
            ["p1.edf", "p1.txt", "p1_corrected.txt"],
            {"p1.edf": "p1.txt"},
            ["p1_corrected.txt"],
            id="the closer name wins",
        ),
    ],
)
def test_generic_pairs_by_name(
    tmp_path: Path, files: list[str], pairs: dict[str, str | None], orphans: list[str]
) -> None:
    found = find_nights([lay(tmp_path, *files)], "generic", "(.+)")
    assert paired(found) == pairs
    assert [path.name for path in found.orphans] == orphans


@pytest.mark.parametrize(
    ("files", "pairs", "orphans", "problem"),
    [
        (["a/p1.edf", "b/p1.txt", "b/p2.edf"], {"p1.edf": None, "p2.edf": None}, 1, ""),
        (["edf/p1.edf", "hyp/p1_hypnogram.csv"], {"p1.edf": "p1_hypnogram.csv"}, 0, ""),
        (["edf/p1.edf", "hyp/p2.csv"], {"p1.edf": None}, 1, ""),
        (["edf/p1.edf", "a/p1.csv", "b/p1.csv"], {"p1.edf": None}, 2, "a/p1.csv"),
    ],
)
def test_a_scoring_of_the_very_name_may_lie_in_another_folder(
    tmp_path: Path, files: list[str], pairs: dict[str, str | None], orphans: int, problem: str
) -> None:
    lay(tmp_path, *files)
    found = find_nights([tmp_path])
    assert paired(found) == pairs
    assert len(found.orphans) == orphans
    assert problem in found.nights[0].problem


def test_a_folder_between_two_files(tmp_path: Path) -> None:
    lay(tmp_path, "p1.edf", "p1_b/p2.edf", "p1_hyp.txt")
    assert paired(find_nights([tmp_path])) == {"p1.edf": "p1_hyp.txt", "p2.edf": None}


def test_two_scorings_are_a_problem_of_one_generic_night(tmp_path: Path) -> None:
    lay(tmp_path, "p1.edf", "p1_scorer1.txt", "p1_scorer2.txt", "p2.edf", "p2.txt")
    found = find_nights([tmp_path])
    assert paired(found) == {"p1.edf": None, "p2.edf": "p2.txt"}
    assert found.orphans == ()
    first, second = found.nights
    assert "p1.edf has more than one hypnogram" in first.problem
    assert "p1_scorer1.txt" in first.problem
    assert "p1_scorer2.txt" in first.problem
    assert second.problem == ""


def test_a_night_tells_which_hypnogram_it_did_not_get(tmp_path: Path) -> None:
    lay(tmp_path, "S01_placebo.edf", "S01_drug.txt", "S02.edf", "S03_hyp.txt")
    first, second = find_nights([tmp_path]).nights
    assert "S01_placebo.edf; S01_drug.txt may be of another night or condition" in first.problem
    assert (second.hypnogram_path, second.problem) == (None, "")


def test_edf_hypnograms_are_told_from_recordings(
    tmp_path: Path, write_edf: Callable[..., Path], write_hypnogram: Callable[..., Path]
) -> None:
    data_uv = np.zeros(300)
    write_edf([("C4", data_uv, 10.0)], name="p1.edf")
    write_hypnogram([(0, 30, "Sleep stage W")]).rename(tmp_path / "p1_hyp.EDF")
    edfio.Edf(
        [edfio.EdfSignal(data_uv, 10.0, label="C4", physical_range=(-1, 1))],
        annotations=[edfio.EdfAnnotation(0, 30, "Sleep stage W")],
    ).write(tmp_path / "p2.edf")
    found = find_nights([tmp_path])
    assert paired(found) == {"p1.edf": "p1_hyp.EDF", "p2.edf": "p2.edf"}
    assert found.nights[1].hypnogram_path == found.nights[1].signal_path
    assert found.orphans == ()


def test_generic_subjects(tmp_path: Path) -> None:
    names = [f"P0{p}_n{n}.edf" for p in (1, 2) for n in (2, 10)]
    lay(tmp_path, *names)
    unnamed = find_nights([tmp_path], subject_pattern="(.+)")
    assert [(n.subject, n.night) for n in unnamed.nights] == [
        (n.recording, 1) for n in unnamed.nights
    ]
    for pattern in (r"^(P\d+)", r"(n)?(?P<subject>P\d+)"):
        found = find_nights([tmp_path], subject_pattern=pattern)
        assert found.notes == ()
        assert sorted(named(found)) == [
            ("P01_n10", "P01", 2),  # 10 follows 2
            ("P01_n2", "P01", 1),
            ("P02_n10", "P02", 2),
            ("P02_n2", "P02", 1),
        ]


def test_names_without_a_clash_are_subjects_of_their_own(tmp_path: Path) -> None:
    lay(tmp_path, "night1.edf", "night2.edf", "anna.edf", "P01_n1.edf", "P02_n1.edf")
    found = find_nights([tmp_path])
    assert all((n.subject, n.night) == (n.recording, 1) for n in found.nights)
    assert "each recording counts as a subject" in found.notes[0]


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        (["P01_n1.edf", "P01_n2.edf", "P02_n1.edf"], {"P01": 2, "P02": 1}),
        (["P 1 n1.edf", "P 1 n2.edf"], {"P_1": 2}),
        (["P01/psg.edf", "P01/eeg.edf", "P02/psg.edf"], {"P01": 2, "P02": 1}),
        (["P01/night1.edf", "P01/night2.edf", "P02/night1.edf"], {"P01": 2, "P02": 1}),
        (["night1/P01.edf", "night2/P01.edf", "night1/P02.edf"], {"P01": 2, "P02": 1}),
        (["drug/anna.edf", "placebo/anna.edf", "drug/bob.edf"], {"anna": 2, "bob": 1}),
        (["drug/P01/psg.edf", "placebo/P01/psg.edf"], {"P01": 2}),
        (["anna/night1.edf", "anna/night2.edf", "bob/night1.edf"], {"anna": 2, "bob": 1}),
    ],
)
def test_nights_that_may_be_of_one_person(
    tmp_path: Path, names: list[str], subjects: dict[str, int]
) -> None:
    error = refusal([lay(tmp_path, *names)])
    assert "may be nights of one person" in error.what
    pattern, one_each = re.findall(r"--subject-pattern '(\S+)'", error.fix)
    found = find_nights([tmp_path], subject_pattern=pattern)  # as it says
    assert Counter(n.subject for n in found.nights) == subjects
    assert found.notes == ()
    assert one_each == "(.+)"
    apart = find_nights([tmp_path], subject_pattern=one_each)
    assert [n.subject for n in apart.nights] == [n.recording for n in apart.nights]
    assert len({n.subject for n in apart.nights}) == len(names)


def test_neighbours_that_are_not_meant_do_not_clash(tmp_path: Path) -> None:
    lay(tmp_path, "P01_n1.edf", "P01_n2.edf", "P02_n1.edf")
    found = find_nights([tmp_path / "P01_n1.edf", tmp_path / "P02_n1.edf"])
    assert [n.subject for n in found.nights] == ["P01_n1", "P02_n1"]


@pytest.mark.parametrize(
    ("names", "nights"),
    [
        (
            ["sub-01_ses-1_eeg.edf", "sub-01_ses-3_eeg.edf", "sub-02_ses-1_eeg.edf"],
            [("sub-01", 1), ("sub-01", 3), ("sub-02", 1)],
        ),
        (["sub-a_ses-pre.edf", "sub-a_ses-post.edf"], [("sub-a", 1), ("sub-a", 2)]),
        (["sub-1_ses-2_run-1.edf", "sub-1_ses-2_run-2.edf"], [("sub-1", 1), ("sub-1", 2)]),
        (["sub-01/ses-02/eeg/x.edf", "sub-01/ses-04/eeg/y.edf"], [("sub-01", 2), ("sub-01", 4)]),
        (["sub-01/eeg.edf", "sub-02/eeg.edf"], [("sub-01", 1), ("sub-02", 1)]),
    ],
)
def test_subjects_and_sessions_of_bids(
    tmp_path: Path, names: list[str], nights: list[tuple[str, int]]
) -> None:
    found = find_nights([lay(tmp_path, *names)])
    assert sorted((n.subject, n.night) for n in found.nights) == nights
    assert found.notes == ()


def test_folders_tell_recordings_of_one_name_apart(tmp_path: Path) -> None:
    lay(tmp_path, "P01/night1.edf", "P02/night1.edf", "x/P03/night2.edf", "P04.edf")
    names = ["P01-night1", "P02-night1", "P04", "x-P03-night2"]
    assert sorted(n.recording for n in find_nights([tmp_path]).nights) == names
    found = find_nights([tmp_path], subject_pattern=r"(P\d+)")
    assert sorted(named(found)) == [
        ("P01-night1", "P01", 1),
        ("P02-night1", "P02", 1),
        ("P04", "P04", 1),
        ("x-P03-night2", "P03", 1),
    ]
    assert find_nights([tmp_path / "P01"]).nights[0].recording == "night1"


def test_continuations_of_split_files(tmp_path: Path) -> None:
    whole = ["a_raw.fif", "b_split-01_eeg.fif", "c-2.fif", "d-1.fif", "e.fif.gz"]
    parts = ["a_raw-1.fif", "a_raw-2.fif", "b_split-02_eeg.fif", "e-1.fif.gz"]
    found = find_nights([lay(tmp_path, *whole, *parts)])
    assert [n.signal_path.name for n in found.nights] == whole
    assert "Files passed over because they continue a split recording" in found.notes[-1]
    assert all(part in found.notes[-1] for part in parts)


def test_subject_from_the_folder(tmp_path: Path) -> None:
    lay(tmp_path, "P01/psg.edf", "P01/hypnogram.csv", "P02/psg.edf", "P02/hypnogram.csv")
    found = find_nights([tmp_path], subject_pattern=r"(P\d+)")
    assert named(found) == [("P01-psg", "P01", 1), ("P02-psg", "P02", 1)]
    assert {n.hypnogram_path for n in found.nights} == {
        tmp_path / f"P0{i}" / "hypnogram.csv" for i in (1, 2)
    }


@pytest.mark.parametrize(
    ("pattern", "cohort", "what"),
    [
        ("(P", "auto", "is not a regular expression"),
        (r"P\d+", "auto", "has no group"),
        (r"(Q\d+)", "auto", "finds no subject in"),
        (r"(Q\d+)?P", "auto", "finds no subject in"),
        (r"(P\d+)", "sleep-edf", "is not for the cohort 'sleep-edf'"),
    ],
)
def test_bad_subject_patterns(tmp_path: Path, pattern: str, cohort: str, what: str) -> None:
    error = refusal([lay(tmp_path, "P01.edf")], cohort, pattern)
    assert error.what.startswith("--subject-pattern")
    assert what in error.what
    assert error.fix


@pytest.mark.parametrize(
    ("name", "recording"),
    [
        ("night one (2).edf", "night_one_2"),
        ("a:b*c?.edf", "a_b_c"),
        ("Müller 1.edf", "Müller_1"),
        (unicodedata.normalize("NFD", "Müller.edf"), "Müller"),
        ("-rf.edf", "rf"),
        ("患者1.edf", "患者1"),
        ("x.v2.fif.gz", "x.v2"),
    ],
)
def test_names_are_fit_for_folders_and_ids(tmp_path: Path, name: str, recording: str) -> None:
    (night,) = find_nights([lay(tmp_path, name)], "generic").nights
    assert night.recording == night.subject == recording
    assert re.fullmatch(r"[\w.-]+", night.recording)
    assert night.signal_path == tmp_path / name


def test_a_name_of_nothing(tmp_path: Path) -> None:
    error = refusal([lay(tmp_path / "(-)", "+++.edf")])
    assert "has no letter or digit" in error.what
    assert "+++.edf" in error.what


# --- pairs.csv ---

HEADER = "recording,hypnogram,subject,night"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Folder whose names tell nothing."""
    return lay(tmp_path / "lab", "x/psg.edf", "y/psg.edf", "z.bdf", "s/1.txt", "s/2.txt")


def write_pairs(folder: Path, *lines: str, encoding: str = "utf-8") -> None:
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n", encoding=encoding)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_pairs(lab: Path, separator: str) -> None:
    lines = (
        "Night, Subject ,recording,hypnogram,age",
        "1,P 1,x/psg.edf,s/1.txt,30",
        "",
        "2,P 1,y\\psg.edf,./s/2.txt,30",
        "7,B,z.bdf,,",
    )
    write_pairs(lab, *(line.replace(",", separator) for line in lines), encoding="utf-8-sig")
    lay(lab, "SC4001E0-PSG.edf")  # pairs.csv says which cohort this is
    found = find_nights([lab])
    assert (found.cohort, found.orphans) == ("generic", ())
    assert named(found) == [("x-psg", "P_1", 1), ("y-psg", "P_1", 2), ("z", "B", 7)]
    assert [n.hypnogram_path for n in found.nights] == [
        lab / "s" / "1.txt",
        lab / "s" / "2.txt",
        None,
    ]
    assert found.notes == (
        f"Files passed over because pairs.csv does not list them: {lab / 'SC4001E0-PSG.edf'}.",
    )


def test_one_recording_of_pairs(lab: Path) -> None:
    write_pairs(lab, HEADER, "x/psg.edf,s/1.txt,A,1", "z.bdf,s/2.txt,B,1")
    found = find_nights([lab / "z.bdf"])
    assert named(found) == [("z", "B", 1)]
    assert found.nights[0].hypnogram_path == lab / "s" / "2.txt"


@pytest.mark.parametrize(
    ("lines", "what", "fix"),
    [
        pytest.param(
            ["recording,subject,age", "z.bdf,A,3"],
            "lacks the columns hypnogram, night; it has recording, subject, age.",
            HEADER,
            id="missing columns",
        ),
        pytest.param([""], "lacks the columns", HEADER, id="empty"),
        pytest.param(
            [HEADER, "z.bdf,,A,1", "x/psq.edf,,B,1"],
            "line 3: there is no file 'x/psq.edf' in",
            "Did you mean 'x/psg.edf'?",
            id="unknown recording",
        ),
        pytest.param(
            [HEADER, "z.bdf,s/9.txt,A,1"], "line 2: there is no file 's/9.txt'", "", id="unknown"
        ),
        pytest.param([HEADER, ",s/1.txt,A,1"], "line 2: '' is not a recording", "", id="blank"),
        pytest.param(
            [HEADER, "s/1.txt,z.bdf,A,1"], "line 2: 's/1.txt' is not a recording", "", id="swapped"
        ),
        pytest.param(
            [HEADER, "z.bdf,,A,1", "z.bdf,,A,1"],
            "z.bdf is in line 2 already",
            "one line",
            id="duplicate row",
        ),
        pytest.param(
            [HEADER, "z.bdf,s/1.txt,A,1", "x/psg.edf,s/1.txt,A,1"],
            "line 3: ",
            "one line",
            id="duplicate hypnogram",
        ),
        pytest.param([HEADER, "../z.bdf,,A,1"], "'../z.bdf' leaves", "inside", id="climbs"),
        pytest.param([HEADER, "/z.bdf,,A,1"], "'/z.bdf' leaves", "inside", id="absolute"),
        pytest.param([HEADER, r"C:\z.bdf,,A,1"], r"'C:\z.bdf' leaves", "inside", id="drive"),
        pytest.param([HEADER, "z.bdf,..\\s,A,1"], r"'..\s' leaves", "inside", id="climbs back"),
        pytest.param([HEADER, "z.bdf,, ,1"], "line 2: 'subject' is empty", "", id="no subject"),
        pytest.param([HEADER, "z.bdf,,?!,1"], "no letter or digit", "", id="odd subject"),
        pytest.param([HEADER, "z.bdf,,A,first"], "'first' is not a number", "1, 2", id="night"),
        pytest.param([HEADER, "z.bdf,,A,0"], "'0' is not a number", "1, 2", id="night zero"),
        pytest.param([HEADER, "z.bdf,,A"], "line 2: it has fewer cells", "", id="short row"),
        pytest.param([HEADER, "z.bdf,,A,1,5"], "line 2: it has more cells", "", id="long row"),
        pytest.param(
            [HEADER, '"z.bdf,,A,1' + "x" * 200_000],
            "field larger than field limit",
            "double quotes",
            id="open quote",
        ),
        pytest.param(
            [HEADER, "z.bdf,,anna,1", "x/psg.edf,,Anna,1"],
            "differ only in case",
            "one way",
            id="two spellings",
        ),
    ],
)
def test_bad_pairs(lab: Path, lines: list[str], what: str, fix: str) -> None:
    write_pairs(lab, *lines)
    error = refusal([lab])
    assert what in error.what
    assert fix in error.fix
    assert error.fix


def test_pairs_in_another_encoding(lab: Path) -> None:
    write_pairs(lab, HEADER, "z.bdf,,Jürgen,1", encoding="latin-1")
    error = refusal([lab])
    assert str(lab / "pairs.csv") in error.what
    assert "UTF-8" in error.fix


def test_pairs_and_a_pattern(lab: Path) -> None:
    write_pairs(lab, HEADER, "z.bdf,,A,1")
    assert "names the subjects already" in refusal([lab], subject_pattern="(z)").what


# --- all cohorts ---


def test_the_same_path_twice_counts_once(sleep_edf: Path) -> None:
    path = sleep_edf / "sleep-cassette" / "SC4001E0-PSG.edf"
    assert len(find_nights([sleep_edf, sleep_edf / "sleep-cassette", path]).nights) == 3


def test_links(sleep_edf: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "data").symlink_to(sleep_edf)
    (linked / "data" / "loop").symlink_to(linked)
    found = find_nights([linked])
    assert [n.recording for n in found.nights] == ["SC4001E0", "ST7011J0", "ST7012J0"]
    error = refusal([linked, sleep_edf])
    assert "are the same file" in error.what


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    lay(tmp_path, ".git/annex/p1.edf", ".hidden.edf", "p1.edf")
    found = find_nights([tmp_path])
    assert [n.signal_path for n in found.nights] == [tmp_path / "p1.edf"]


@pytest.mark.parametrize("stamp", ["prepare.json", "split.json"])
def test_what_is_of_a_workspace_is_no_input(tmp_path: Path, stamp: str) -> None:
    root = lay(
        tmp_path / "lab", "night1.edf", "night1.txt", "nights/night2.edf", "nights/night2.txt"
    )
    own = Workspace(root)
    before = find_nights([root])
    folders = [own.staging_dir, own.vision_module, own.checkpoints, own.answers.parent, own.report]
    folders += map(own.images, SPLITS)
    for path in (own.epochs, *(folder / "x" / "stages.csv" for folder in folders)):
        lay(root, str(path.relative_to(root)))
    for folder in folders:
        lay(folder, "night9.edf")
    assert len(find_nights([root]).nights) > 2  # any lab's folders
    lay(root, stamp)
    assert find_nights([root]) == find_nights([tmp_path]) == before
    (night,) = find_nights([root / "night1.edf"]).nights
    assert night.hypnogram_path == root / "night1.txt"
    lay(root, "epochs.edf")  # a recording for which the table would be taken
    (night,) = find_nights([root / "epochs.edf"]).nights
    assert night.hypnogram_path is None


@pytest.mark.parametrize(
    ("names", "recording"),
    [
        (["SC4001E0-PSG.edf", "backup/SC4001E0-PSG.edf"], "SC4001E0"),
        (["night.edf", "night.fif"], "night"),
        (["A 1.edf", "a_1.edf"], "a_1"),
    ],
)
def test_two_recordings_of_one_name(tmp_path: Path, names: list[str], recording: str) -> None:
    error = refusal([lay(tmp_path, *names)])
    assert error.what.casefold().startswith(f"two recordings are named {recording}:".casefold())
    for name in names:
        assert str(tmp_path / name) in error.what
    assert "only one" in error.fix


def test_several_cohorts(sleep_edf: Path) -> None:
    lay(sleep_edf, "shhs1-200001.edf")
    error = refusal([sleep_edf])
    assert "of 2 cohorts" in error.what
    assert "SC4001E0-PSG.edf (sleep-edf)" in error.what
    assert "shhs1-200001.edf (nsrr)" in error.what
    assert "--cohort" in error.fix
    assert named(find_nights([sleep_edf], "nsrr")) == [("shhs1-200001", "shhs-200001", 1)]


def test_path_that_does_not_exist(sleep_edf: Path) -> None:
    assert "nowhere does not exist" in refusal([sleep_edf, sleep_edf / "nowhere"]).what


def test_unknown_cohort(sleep_edf: Path) -> None:
    error = refusal([sleep_edf], "sleepedf")
    assert error.what == "Unknown cohort 'sleepedf'."
    assert ", ".join(map(repr, ["auto", *COHORTS])) in error.fix
    assert "Did you mean 'sleep-edf'?" in error.fix


@pytest.mark.parametrize("given", ["", "SC4001EC-Hypnogram.txt"], ids=["folder", "hypnogram"])
@pytest.mark.parametrize("cohort", ["auto", *COHORTS])
def test_nothing_found_tells_how_files_are_named(tmp_path: Path, given: str, cohort: str) -> None:
    lay(tmp_path, "SC4001EC-Hypnogram.txt")
    error = refusal([tmp_path / given], cohort)
    assert str(tmp_path / given) in error.what
    for name, entry in COHORTS.items():
        assert (entry.named_like in error.fix) == (cohort in ("auto", name))


# --- what review.html saved ---


def review(path: Path, recording: str, *stages: str) -> Path:
    head = "recording,epoch_index,onset_s,duration_s,stage,model,certainty,reviewed_by,reviewed_at,note,epochs"
    rows = [
        f"{recording},{i},{30 * i},30,{stage},{stage},0.9,,,,{len(stages)}"
        for i, stage in enumerate(stages)
    ]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_a_review_is_the_scoring_of_the_recording_it_names(sleep_edf: Path) -> None:
    folder = sleep_edf / "sleep-cassette"
    lay(folder, "SC4011E0-PSG.edf")
    own = review(folder / "SC4011E0_reviewed (1).csv", "SC4011E0", "W", "N2")
    review(folder / "SC4012E0_reviewed.csv", "SC4012E0", "W", "N2")  # of no recording here
    lay(folder, "SC4011E0_reviewed.txt")  # no review, whatever its name
    night = {n.recording: n for n in find_nights([folder]).nights}["SC4011E0"]
    assert (night.scorings, night.problem, night.rivals) == ((own,), "", ())
    (alone,) = find_nights([folder / "SC4011E0-PSG.edf"]).nights
    assert alone.scorings == (own,)


def test_a_review_wins_over_the_scoring_only_if_the_user_says_so(sleep_edf: Path) -> None:
    folder = sleep_edf / "sleep-cassette"
    scoring = folder / "SC4001EC-Hypnogram.edf"
    own = review(folder / "SC4001E0_reviewed.csv", "SC4001E0", *(["W", "N2", "REM"] * 5))
    (night,) = find_nights([folder]).nights
    assert night.scorings == night.rivals == (scoring, own)
    assert str(own) in night.problem
    assert str(scoring) in night.problem
    asked = find_nights([folder], read_as=ReadAs(scorer="reviewed")).nights[0]
    hypnogram = read_hypnogram(asked.scorings, None, read_as=asked.read_as)
    assert stage_per_epoch(hypnogram, 3) == ["W", "N2", "REM"]
