from __future__ import annotations

import copy
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.model.adapters import Contract, read_contract
from eegtool.model.contract import wrong_field


@pytest.fixture
def told(contract: Contract) -> dict[str, Any]:
    """A whole contract, as JSON has it."""
    raw: dict[str, Any] = json.loads(json.dumps(asdict(contract)))
    raw["protocol"] = {
        "channel": "EEG Fpz-Cz",
        "style": "spectrogram",
        "size": 336,
        "low_hz": 0.3,
        "high_hz": 35,
        "notch_hz": 0.0,
        "resample_hz": None,
        "amplitude_uv": 100.0,
        "marks": False,
        "eval_subjects": ["SC400"],
    }
    raw["answers"] = {
        "question": "Which stage?",
        "stages": {stage: stage for stage in STAGES},
        "lead": "",
        "max_new_tokens": 8,
    }
    raw["sequence"] = {"transitions": [[1] * 5] * 5, "stages": [2] * 5}
    raw["validation"] = {
        "subjects": ["SC401"],
        "epochs": 200,
        "step": 60,
        "kappa": 0.6,
        "loss": 0.9,
    }
    return raw


def test_what_finetune_writes_is_right(told: dict[str, Any], contract: Contract) -> None:
    assert wrong_field(told) == ""
    assert wrong_field(json.loads(json.dumps(asdict(contract)))) == ""
    assert wrong_field({}) == ""  # what is missing is another's to say


def every(name: str, *values: Any) -> list[tuple[str, Any]]:
    return [(name, value) for value in values]


WRONG: list[tuple[str, Any]] = [
    *every("pixel_spec.size", 0, -1, 100_000, 64.0, "64", True, None, [64]),
    *every("pixel_spec.mean", [0.5] * 2, [0.5] * 4, 0.5, ["0.5"] * 3, None),
    *(("pixel_spec.mean", [0.5, 0.5, value]) for value in (float("nan"), -0.1, 123.7, True)),
    *(("pixel_spec.std", [0.5, 0.5, value]) for value in (0, -1, float("inf"), 1e-30)),
    *every("pixel_spec", [64], "64", None),
    *every("bits", 8, "4", 4.0, None, True),
    *every("merged", "false", 1, None),
    *every("base", 7, None, ["tiny"]),
    *every("fusion", ["add"], {}, None),
    *every("version", 1, None),
    *every("features", "made up", None, ["real"]),
    ("features_weights_sha256", 12),
    ("vision_tower", ["a"]),
    *every("protocol", [], "eeg", None),
    *every("protocol.size", 0, 100_000, "336"),
    *every("protocol.high_hz", "35", float("nan"), -1),
    *every("protocol.style", ["spectrogram"], 3),
    *every("protocol.marks", "no", 0),
    *every("answers", [], "N2", None),
    *every("answers.max_new_tokens", -5, 0, 10**9, 8.5, "8", True),
    *every("answers.lead", None, 3),
    *every("answers.question", None, {"a": 1}),
    *every("answers.stages", list(STAGES), "W", None),
    *((f"answers.stages.{stage}", value) for stage, value in (("W", 0), ("REM", None))),
    *every("sequence", [], None),
    *every("sequence.transitions", [[1] * 5] * 4, [1] * 25, [["1"] * 5] * 5),
    *every("sequence.stages", [-1] * 5, [1] * 4, {"W": 1}),
    *every("validation", [], None),
    *every("validation.subjects", "SC401", [1], None),
    *every("validation.epochs", -1, 2.0, "200"),
    *every("validation.kappa", 1.5, float("nan"), "0.6"),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_field_out_of_its_range_is_named(
    told: dict[str, Any], adapter: Path, name: str, value: Any
) -> None:
    spoilt = copy.deepcopy(told)
    *objects, last = name.split(".")
    place = spoilt
    for key in objects:
        place = place[key]
    place[last] = value
    (adapter / "eegvlm.json").write_text(json.dumps(spoilt))
    with pytest.raises(
        EegToolError, match=f"^{re.escape(str(adapter / 'eegvlm.json'))}: "
    ) as caught:
        read_contract(adapter)
    assert f": {name} is {value!r}"[:60] in caught.value.what
    assert "\n" not in caught.value.what


def test_a_long_value_is_cut_in_the_message(told: dict[str, Any]) -> None:
    said = wrong_field(told | {"answers": "N2 " * 1000})
    assert said.startswith("answers is 'N2 N2")
    assert len(said) < 120
