from __future__ import annotations

import shlex
from pathlib import Path
from typing import get_args

import pytest

from eegtool import demo
from eegtool.core.errors import EegToolError
from eegtool.core.options import FeatureSource
from eegtool.options import DemoSettings

RECORDINGS = Path("out/recordings")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_printed_command_can_be_typed(width: int) -> None:
    for command in demo.commands(DemoSettings(), RECORDINGS, use_deepspeed=True):
        printed = demo.typed(command, width)
        assert shlex.split(printed.replace("\\\n", ""))[:2] == ["$", "eegvlm"]
        assert shlex.split(printed.replace("\\\n", ""))[2:] == command
        words = max(len(word) for word in command)
        assert all(len(line) <= max(width, words + 6) for line in printed.splitlines())


@pytest.mark.parametrize("features", get_args(FeatureSource))
def test_features_are_changed_in_training_and_where_the_model_is_asked(
    features: FeatureSource,
) -> None:
    settings = DemoSettings(features=features)
    commands = {c[0]: c for c in demo.commands(settings, RECORDINGS, use_deepspeed=True)}
    assert list(commands) == ["prepare", "extract", "finetune", "evaluate", "report"]
    changed = [name for name, command in commands.items() if "--features" in command]
    assert changed == ([] if features == "real" else ["finetune", "evaluate"])


def test_without_a_compiler_it_trains_without_deepspeed_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert demo.can_use_deepspeed() is False
    assert "trains without DeepSpeed" in " ".join(capsys.readouterr().out.split())
    finetune = demo.commands(DemoSettings(), RECORDINGS, use_deepspeed=False)[2]
    assert finetune[finetune.index("--deepspeed") + 1] == "none"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("my work")
    with pytest.raises(EegToolError, match="not the folder of an earlier demo"):
        demo.run(DemoSettings(out=tmp_path))
    assert precious.read_text() == "my work"
    assert list(tmp_path.iterdir()) == [precious]
