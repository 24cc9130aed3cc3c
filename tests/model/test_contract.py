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
    return raw


def test_what_finetune_writes_is_right(told: dict[str, Any], contract: Contract) -> None:
    assert wrong_field(told) == ""
    assert wrong_field(json.loads(json.dumps(asdict(contract)))) == ""
    assert wrong_field({}) == ""  # what is missing is another's to say


WRONG: dict[str, list[Any]] = {
    "pixel_spec": [[64], "64", None],
    "pixel_spec.size": [0, -1, 100_000, 64.0, "64", True, None, [64]],
    "pixel_spec.mean": [
        *([0.5] * 2, [0.5] * 4, 0.5, ["0.5"] * 3, None),
        *([0.5, 0.5, value] for value in (float("nan"), -0.1, 123.7, True)),
    ],
    "pixel_spec.std": [[0.5, 0.5, 0], [0.5, -1, 0.5], [float("inf"), 1, 1], [1e-30, 1, 1]],
    "bits": [8, "4", 4.0, None, True],
    "merged": ["false", 1, None],
    "base": [7, None, ["tiny"]],
    "fusion": [["add"], {}, None],
    "version": [1, None],
    "features": ["made up", None, ["real"]],
    "features_weights_sha256": [12],
    "vision_tower": [["a"]],
    "protocol": [[], "eeg", None],
    "protocol.size": [0, 100_000, "336"],
    "protocol.high_hz": ["35", float("nan"), -1],
    "protocol.style": [["spectrogram"], 3],
    "protocol.marks": ["no", 0],
    "answers": [[], "N2", None],
    "answers.max_new_tokens": [-5, 0, 10**9, 8.5, "8", True],
    "answers.lead": [None, 3],
    "answers.question": [None, {"a": 1}],
    "answers.stages": [list(STAGES), "W", None],
    "answers.stages.W": [0],
    "answers.stages.REM": [None],
    "sequence": [[], None],
    "sequence.transitions": [[[1] * 5] * 4, [1] * 25, [["1"] * 5] * 5],
    "sequence.stages": [[-1] * 5, [1] * 4, {"W": 1}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in WRONG.items() for value in values],
    ids=str,
)
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
