from __future__ import annotations

import pytest

from eegtool.core.errors import EegToolError
from eegtool.recordings.channels import normalise, resolve

SLEEP_EDF = ["EEG Fpz-Cz", "EEG Pz-Oz", "EOG horizontal", "EMG submental", "Temp rectal"]
REFERENTIAL = ["EEG C3-REF", "EEG C4-REF", "EEG M1-REF", "EEG M2-REF", "E1", "2"]
SHHS_OTHERS = ["SaO2", "H.R.", "ECG", "EMG", "EOG(L)", "EOG(R)"]
SHHS = [*SHHS_OTHERS, "EEG(sec)", "EEG"]
MESA = ["EKG", "EOG-L", "EOG-R", "EMG", "EEG1", "EEG2", "EEG3"]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("EEG Fpz-Cz", "fpz-cz"),
        ("eeg:C3", "c3"),
        ("EEG: C3", "c3"),
        ("EEG_C3", "c3"),
        ("EEG.C3", "c3"),
        ("POL C3", "c3"),
        ("EEG C3-Ref", "c3"),
        ("C3_REF", "c3"),
        ("EEG C3-LE", "c3"),
        (" c 3 ", "c3"),
        # what would be left is no name
        ("EEG", "eeg"),
        ("EEG 2", "eeg2"),
        ("EEG (sec)", "eeg(sec)"),
        # other prefixes tell channels apart
        ("EOG L", "eogl"),
    ],
)
def test_normalise(name: str, form: str) -> None:
    assert normalise(name) == form


@pytest.mark.parametrize(
    ("wanted", "present", "name"),
    [
        ("EEG Fpz-Cz", SLEEP_EDF, "EEG Fpz-Cz"),
        ("fpz-cz", SLEEP_EDF, "EEG Fpz-Cz"),
        ("eegFPZ-CZ", SLEEP_EDF, "EEG Fpz-Cz"),
        ("EEG:Fpz-Cz", SLEEP_EDF, "EEG Fpz-Cz"),
        (" Temp  RECTAL", SLEEP_EDF, "Temp rectal"),
        ("C4", REFERENTIAL, "EEG C4-REF"),
        ("A2", REFERENTIAL, "EEG M2-REF"),
        ("C4-M1", ["C4-A1", "C3-A2"], "C4-A1"),
        ("C4-M1", ["C4/A1", "C3/A2"], "C4/A1"),
        ("C3-M2", ["EEG C4_A1", "EEG C3_A2"], "EEG C3_A2"),
        ("T3", ["T7", "T8"], "T7"),
        ("EOG(L)", SHHS, "EOG(L)"),
        ("EEG2", MESA, "EEG2"),
        ("eeg (SEC)", SHHS, "EEG(sec)"),
    ],
)
def test_one_channel_by_whatever_spelling(wanted: str, present: list[str], name: str) -> None:
    found = resolve(wanted, present)
    assert (found.name, found.weights, found.note) == (name, {name: 1.0}, "")


@pytest.mark.parametrize(
    ("wanted", "present", "name"),
    [
        ("C4-A1", SHHS, "EEG"),
        ("C3-M2", SHHS, "EEG(sec)"),
        ("C3-A2", [*SHHS_OTHERS, "EEG", "EEG 2"], "EEG 2"),
        ("C3-A2", [*SHHS_OTHERS, "EEG", "EEG sec"], "EEG sec"),
        ("C3-A2", [*SHHS_OTHERS, "EEG", "EEG_SEC"], "EEG_SEC"),
        ("C4-M1", MESA, "EEG3"),
        ("Fz-Cz", MESA, "EEG1"),
    ],
)
def test_channels_that_cohorts_only_number(wanted: str, present: list[str], name: str) -> None:
    found = resolve(wanted, present)
    assert (found.name, found.weights) == (name, {name: 1.0})
    assert wanted in found.note
    assert f"'{name}'" in found.note


@pytest.mark.parametrize(
    "present",
    [
        ["EEG", "EMG"],
        ["EEG1", "EEG2"],
        ["EEG3"],
        ["EEG", "EEG 2"],
        ["EEG", "EEG 2", "EOG", "EMG", "ECG", "SaO2"],
        ["EEG1", "EEG2", "EEG3"],
        ["EEG1", "EEG2", "EEG3", "EOG1", "EOG2", "EMG"],
    ],
)
def test_other_files_with_numbered_channels_mean_nothing(present: list[str]) -> None:
    with pytest.raises(EegToolError, match="no channel 'C4-M1'"):
        resolve("C4-M1", present)


@pytest.mark.parametrize(
    ("wanted", "weights"),
    [
        ("C4-M1", {"EEG C4-REF": 1, "EEG M1-REF": -1}),
        ("c4 - a1", {"EEG C4-REF": 1, "EEG M1-REF": -1}),
        (
            "C4 - (M1+M2)/2",
            {"EEG C4-REF": 1, "EEG M1-REF": -0.5, "EEG M2-REF": -0.5},
        ),
        ("(C3 + C4) * .5", {"EEG C3-REF": 0.5, "EEG C4-REF": 0.5}),
        ("0.5*(C3+C4)", {"EEG C3-REF": 0.5, "EEG C4-REF": 0.5}),
        ("-C4", {"EEG C4-REF": -1}),
        ("C4 - +C3", {"EEG C4-REF": 1, "EEG C3-REF": -1}),
        ("C4 - M1 + M1", {"EEG C4-REF": 1}),
        ("2*C4/4", {"EEG C4-REF": 0.5}),
        ("'EEG C4-REF' - \"EEG M1-REF\"", {"EEG C4-REF": 1, "EEG M1-REF": -1}),
    ],
)
def test_derivations(wanted: str, weights: dict[str, float]) -> None:
    found = resolve(wanted, REFERENTIAL)
    assert found.weights == weights
    assert found.name == wanted


def test_a_channel_named_like_a_derivation_is_that_channel() -> None:
    assert resolve("C4-M1", ["C4", "M1", "C4-M1"]).weights == {"C4-M1": 1.0}


@pytest.mark.parametrize(
    "wanted",
    [
        *("C4 -", "C4 + (M1", "C4 M1 -", "C4 * M1", "C4 / M1", "1 / C4", "C4 + 1", "C4 / 0"),
        *("1 + 2", "C4 - C4", "C4 ** 2", "C4 // 2", "--", "()", "C4-''", "C4-(M1)(M2)"),
        "__import__('os').system('true') + 1",
    ],
)
def test_what_is_no_sum_of_channels_is_refused(wanted: str) -> None:
    with pytest.raises(
        EegToolError, match=r"neither a channel nor a derivation|no channel"
    ) as raised:
        resolve(wanted, REFERENTIAL)
    assert raised.value.fix


def test_unknown_channels_list_those_present_and_the_closest() -> None:
    with pytest.raises(EegToolError) as raised:
        resolve("Fpz-Cy", ["EEG Fpz-Cz", "EEG Pz-Oz"])
    assert raised.value.what == "There is no channel 'Fpz-Cy', and no 'Fpz' to derive it."
    with pytest.raises(EegToolError) as raised:
        resolve("Temp rektal", SLEEP_EDF)
    assert raised.value.what == "There is no channel 'Temp rektal'."
    assert raised.value.fix == (
        "Present: EEG Fpz-Cz, EEG Pz-Oz, EOG horizontal, EMG submental, Temp rectal. "
        "Did you mean 'Temp rectal'? Choose with --channel."
    )
    with pytest.raises(
        EegToolError, match="no channel 'C4-M3', and no 'M3' to derive it"
    ) as raised:
        resolve("C4-M3", REFERENTIAL)
    assert "Did you mean 'EEG M" in raised.value.fix


@pytest.mark.parametrize(
    ("wanted", "present", "listed"),
    [
        ("EEG", ["EEG", "EEG", "EMG"], "'EEG', 'EEG'"),
        ("c3", ["EEG C3", "C3-REF", "EMG"], "'EEG C3', 'C3-REF'"),
        ("EMG - c3", ["EEG C3", "C3-REF", "EMG"], "'EEG C3', 'C3-REF'"),
    ],
)
def test_names_that_mean_several_channels(wanted: str, present: list[str], listed: str) -> None:
    with pytest.raises(EegToolError, match="can mean 2 channels") as raised:
        resolve(wanted, present)
    assert listed in raised.value.what
    assert resolve("EMG", present).name == "EMG"


def test_the_exact_spelling_decides() -> None:
    assert resolve("C4-M1", ["C4", "M1", "m 1", "m1"]).weights == {"C4": 1.0, "M1": -1.0}
