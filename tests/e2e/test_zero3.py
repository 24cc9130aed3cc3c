from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from eegtool.core.records import read_answers
from tests.e2e.conftest import LORA, Walk

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.usefixtures("warm")
def test_two_zero3_ranks_answer_like_one_rank(walk: Walk) -> None:
    """Same seed, same samples per step: one rank with 8, or two ZeRO-3 ranks with 4 each."""
    runs = {
        "one": ("--num-gpus", "1", "--per-device-train-batch-size", "8", "--deepspeed", "zero2"),
        "two": (
            "--num-gpus",
            "2",
            "--per-device-train-batch-size",
            "4",
            "--deepspeed",
            str(SCRIPTS / "zero3.json"),
        ),
    }
    texts, projectors = {}, {}
    for name, options in runs.items():
        adapter, answers = walk.root / "checkpoints" / name, walk.root / f"{name}.jsonl"
        walk.eegvlm("finetune", *LORA, *options, "--max-steps", "40", "--output-dir", str(adapter))
        walk.eegvlm("evaluate", "--model-path", str(adapter), "--answers-file", str(answers))
        texts[name] = [row.text for row in read_answers(answers)]
        projectors[name] = load_file(adapter / "projector.safetensors")
    assert len(set(texts["one"])) >= 3  # it learnt to tell stages apart
    same = sum(a == b for a, b in zip(texts["one"], texts["two"], strict=True))
    assert same >= 0.95 * len(texts["one"])
    for key, one in projectors["one"].items():
        assert (one - projectors["two"][key]).abs().max() < 1e-3
