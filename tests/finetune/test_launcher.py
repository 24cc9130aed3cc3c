from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from eegtool.core.errors import EegToolError
from eegtool.finetune import launcher


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("CXX", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def four_gpus(cpu: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    cpu.setattr(torch.cuda, "is_available", lambda: True)
    cpu.setattr(torch.cuda, "device_count", lambda: 4)
    cpu.delenv(
        "DS_ACCELERATOR", raising=False
    )  # training on a CPU sets it, in another test perhaps
    return cpu


@pytest.fixture
def compiler(cpu: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with nothing but a C++ compiler."""
    path = tmp_path / "bin" / "c++"
    path.parent.mkdir()
    path.touch(mode=0o755)
    cpu.setenv("PATH", str(path.parent))
    return path


@pytest.mark.parametrize("name", launcher.PRESETS)
def test_presets_are_found_by_name(compiler: Path, name: str) -> None:
    path = launcher.deepspeed_settings(name)
    assert path is not None
    assert Path(path).name == f"{name}.json"
    stage = json.loads(Path(path).read_text())["zero_optimization"]["stage"]
    assert stage == (2 if name == "zero2" else 3)


def test_settings_are_found_by_path(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert launcher.deepspeed_settings("mine.json") == str(tmp_path / "mine.json")
    assert launcher.deepspeed_settings("none") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("zero9", "--deepspeed zero9: no such file"), ("broken.json", "cannot be read")],
)
def test_bad_settings_are_refused(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EegToolError, match=message):
        launcher.deepspeed_settings(name)


def test_without_a_compiler_deepspeed_is_refused_on_a_cpu(
    compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.unlink()
    assert not launcher.has_cpp_compiler()
    with pytest.raises(EegToolError, match=r"no C\+\+ compiler") as caught:
        launcher.deepspeed_settings("zero2")
    assert "--deepspeed none" in caught.value.fix
    assert launcher.deepspeed_settings("none") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert launcher.deepspeed_settings("zero2")


@pytest.mark.parametrize(
    ("cxx", "found"), [("c++", True), ("c++ -O2", True), ("clang++", False), ("", False)]
)
def test_the_compiler_named_by_the_user_is_looked_for(
    compiler: Path, monkeypatch: pytest.MonkeyPatch, cxx: str, found: bool
) -> None:
    monkeypatch.setenv("CXX", cxx)
    assert launcher.has_cpp_compiler() is found


@pytest.mark.usefixtures("cpu")
def test_command_on_a_cpu(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    command = launcher.command(plan, 3, use_deepspeed=True)
    assert command[:3] == [sys.executable, "-m", "deepspeed.launcher.runner"]
    assert command[command.index("--num_gpus") + 1] == "3"
    assert command[-3:] == ["--module", "eegtool.finetune.train", str(plan)]
    assert 1024 <= int(command[command.index("--master_port") + 1]) < 65536
    assert launcher.command(plan, 1, use_deepspeed=False) == [
        *(sys.executable, "-m", "eegtool.finetune.train", str(plan))
    ]


@pytest.mark.usefixtures("four_gpus")
def test_on_gpus_the_environment_names_them(tmp_path: Path) -> None:
    """DeepSpeed's --num_gpus would overrule the user's CUDA_VISIBLE_DEVICES."""
    assert "--num_gpus" not in launcher.command(tmp_path, 2, use_deepspeed=True)


@pytest.mark.parametrize(
    ("visible", "ranks", "expected"),
    [(None, 4, "0,1,2,3"), (None, 1, "0"), ("2,3", 2, "2,3"), ("3,1", 1, "3")],
)
def test_ranks_stay_on_the_gpus_the_user_allows(
    four_gpus: pytest.MonkeyPatch, visible: str | None, ranks: int, expected: str
) -> None:
    if visible:
        four_gpus.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment = launcher.environment(ranks)
    assert environment["CUDA_VISIBLE_DEVICES"] == expected
    assert "DS_ACCELERATOR" not in environment


@pytest.mark.parametrize(
    ("cores", "ranks", "threads"), [(8, 1, "8"), (8, 3, "2"), (2, 16, "1"), (None, 1, "1")]
)
def test_ranks_share_the_cores(
    cpu: pytest.MonkeyPatch, cores: int | None, ranks: int, threads: str
) -> None:
    cpu.setattr(os, "cpu_count", lambda: cores)
    environment = launcher.environment(ranks)
    assert environment["OMP_NUM_THREADS"] == threads
    assert environment["DS_ACCELERATOR"] == "cpu"
    cpu.setenv("OMP_NUM_THREADS", "5")
    assert launcher.environment(ranks)["OMP_NUM_THREADS"] == "5"


def test_every_environment_builds_its_own_extension(
    cpu: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu.setattr(sys, "prefix", str(tmp_path))
    assert launcher.environment(1)["TORCH_EXTENSIONS_DIR"] == f"{tmp_path}/torch_extensions"
    cpu.setattr(sys, "base_prefix", str(tmp_path))  # the system's own Python
    assert "TORCH_EXTENSIONS_DIR" not in launcher.environment(1)


@pytest.mark.parametrize(
    ("gpus", "asked", "use_deepspeed", "ranks"),
    [
        (0, 0, True, 1),
        (0, 2, True, 2),
        (4, 0, True, 4),
        (4, 3, True, 3),
        (4, 0, False, 1),
        (0, 1, False, 1),
    ],
)
def test_count_of_ranks(
    cpu: pytest.MonkeyPatch, gpus: int, asked: int, use_deepspeed: bool, ranks: int
) -> None:
    cpu.setattr(torch.cuda, "device_count", lambda: gpus)
    assert launcher.count_ranks(asked, use_deepspeed=use_deepspeed) == ranks


@pytest.mark.usefixtures("four_gpus")
def test_more_ranks_than_possible_are_refused() -> None:
    with pytest.raises(EegToolError, match="--num-gpus 5: this machine has 4"):
        launcher.count_ranks(5, use_deepspeed=True)
    with pytest.raises(EegToolError, match="--num-gpus above 1 needs DeepSpeed"):
        launcher.count_ranks(2, use_deepspeed=False)
