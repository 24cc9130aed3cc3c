from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from eegtool.core.errors import EegToolError
from eegtool.finetune import launcher, rank


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
    assert path.name == f"{name}.json"
    stage = json.loads(path.read_text())["zero_optimization"]["stage"]
    assert stage == (2 if name == "zero2" else 3)


def test_settings_are_found_by_path(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert launcher.deepspeed_settings("mine.json") == tmp_path / "mine.json"
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


def preset(name: str) -> dict[str, Any]:
    path = launcher.deepspeed_settings(name)
    assert path is not None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize(
    ("name", "gpu", "fix"),
    [
        ("zero2", False, "--deepspeed none"),
        ("zero2", True, ""),
        ("zero3", True, ""),
        ("zero3_offload", True, "--deepspeed zero3"),
        ("zero3_offload", False, "--deepspeed none"),
    ],
)
def test_a_compiler_is_needed_on_a_cpu_and_for_offload(
    compiler: Path, name: str, gpu: bool, fix: str
) -> None:
    launcher.check_compiler(preset(name), gpu=gpu)
    compiler.unlink()
    assert not launcher.has_cpp_compiler()
    if not fix:
        launcher.check_compiler(preset(name), gpu=gpu)
        return
    with pytest.raises(EegToolError, match=r"no C\+\+ compiler") as caught:
        launcher.check_compiler(preset(name), gpu=gpu)
    assert fix in caught.value.fix


def test_what_is_trained_stays_whole_on_every_rank() -> None:
    file = preset("zero3")
    zero = launcher.filled(file, 128, 13824)["zero_optimization"]
    assert zero["stage3_param_persistence_threshold"] == 128 * 13824
    assert file["zero_optimization"]["stage3_param_persistence_threshold"] == "auto"
    file["zero_optimization"]["stage3_param_persistence_threshold"] = 7
    assert launcher.filled(file, 128, 13824) == file
    assert launcher.filled(preset("zero2"), 128, 13824) == preset("zero2")


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
    port = launcher.free_port()
    command = launcher.command(plan, 3, use_deepspeed=True, port=port)
    assert command[:4] == [sys.executable, "-u", "-m", "deepspeed.launcher.launch"]
    world = base64.urlsafe_b64decode(command[command.index("--world_info") + 1])
    assert json.loads(world) == {"localhost": [0, 1, 2]}
    assert command[-3:] == ["--module", "eegtool.finetune.rank", str(plan)]
    assert 1024 <= port < 65536
    assert command[command.index("--master_port") + 1] == str(port)
    assert launcher.command(plan, 1, use_deepspeed=False) == [
        *(sys.executable, "-m", "eegtool.finetune.rank", str(plan))
    ]


UUIDS = "GPU-8f6c0a6e-1f5b,MIG-41b35f02-7d1e"


@pytest.mark.parametrize(
    ("visible", "ranks", "expected"),
    [(None, 4, None), ("2,3", 2, "2,3"), ("3,1", 1, "3"), (UUIDS, 2, UUIDS), ("", 1, "")],
)
def test_ranks_stay_on_the_gpus_the_user_allows(
    four_gpus: pytest.MonkeyPatch, visible: str | None, ranks: int, expected: str | None
) -> None:
    """DeepSpeed's launcher reads them as numbers and counts from 0; the ranks set them again."""
    if visible is not None:
        four_gpus.setenv("CUDA_VISIBLE_DEVICES", visible)
    of_ranks = launcher.rank_environment(ranks)
    assert of_ranks.get("CUDA_VISIBLE_DEVICES") == expected
    assert "CUDA_VISIBLE_DEVICES" not in launcher.rank_environment(ranks, elsewhere=True)
    environment = launcher.environment(of_ranks, gpu=True)
    assert "CUDA_VISIBLE_DEVICES" not in environment
    assert "DS_ACCELERATOR" not in environment


def test_secrets_are_not_written_into_the_plan(cpu: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_MODE", "HF_HOME"):
        cpu.setenv(name, "x")
    cpu.setenv("TOKENIZERS_PARALLELISM", "false")
    passed = launcher.rank_environment(1)
    assert {"WANDB_MODE", "HF_HOME", "TOKENIZERS_PARALLELISM"} <= passed.keys()
    assert not {"WANDB_API_KEY", "HF_TOKEN", "HUGGINGFACE_HUB_TOKEN"} & passed.keys()
    assert (
        launcher.environment(passed, gpu=True)["WANDB_API_KEY"] == "x"
    )  # on this machine it is there


@pytest.mark.parametrize(
    ("cores", "ranks", "threads"), [(8, 1, "8"), (8, 3, "2"), (2, 16, "1"), (None, 1, "1")]
)
def test_ranks_share_the_cores_of_their_machine(
    cpu: pytest.MonkeyPatch, tmp_path: Path, cores: int | None, ranks: int, threads: str
) -> None:
    cpu.setattr(os, "cpu_count", lambda: cores)
    cpu.setattr(os, "environ", {"LOCAL_SIZE": str(ranks)})
    plan = tmp_path / "plan.json"
    plan.write_text('{"environment": {"WANDB_MODE": "offline"}}')
    rank.set_environment(plan)
    assert os.environ["OMP_NUM_THREADS"] == threads
    assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    plan.write_text('{"environment": {"OMP_NUM_THREADS": "5"}}')
    rank.set_environment(plan)
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_every_environment_builds_its_own_extension(
    cpu: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu.setattr(sys, "prefix", str(tmp_path))
    assert launcher.rank_environment(1)["TORCH_EXTENSIONS_DIR"] == f"{tmp_path}/torch_extensions"
    cpu.setattr(sys, "base_prefix", str(tmp_path))  # the system's own Python
    assert "TORCH_EXTENSIONS_DIR" not in launcher.rank_environment(1)


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


@pytest.mark.parametrize("name", ["./scripts/zero3.json", "elsewhere/zero2.json"])
def test_the_recipes_path_is_taken_as_the_preset_where_there_is_no_such_file(
    compiler: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launcher.deepspeed_settings(name) == launcher.deepspeed_settings(Path(name).stem)
    assert f"preset '{Path(name).stem}'" in capsys.readouterr().out
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("{}")
    assert launcher.deepspeed_settings(name) == tmp_path / name
    assert capsys.readouterr().out == ""


ARGUMENTS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "bf16": False,
    "fp16": False,
}


def check(tmp_path: Path, file: dict[str, object], ranks: int = 3) -> int:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(file))
    return launcher.check_deepspeed(path, ARGUMENTS, ranks)


@pytest.mark.parametrize("name", launcher.PRESETS)
def test_presets_fit_all_flags(compiler: Path, name: str) -> None:
    path = launcher.deepspeed_settings(name)
    assert path
    assert launcher.check_deepspeed(path, ARGUMENTS, 1) == (2 if name == "zero2" else 3)


def test_a_file_may_say_what_the_flags_say(tmp_path: Path) -> None:
    same = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "train_batch_size": 24,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": False},
        "fp16": {"enabled": "auto"},
        "zero_optimization": {"stage": 1},
    }
    assert check(tmp_path, same) == 1


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            {"train_micro_batch_size_per_gpu": 8},
            "train_micro_batch_size_per_gpu 8 and --per-device-train-batch-size 4",
        ),
        (
            {"gradient_accumulation_steps": 1, "bf16": {"enabled": True}},
            "gradient_accumulation_steps 1 and --gradient-accumulation-steps 2; bf16.enabled True",
        ),
        ({"train_batch_size": 16}, "train_batch_size 16 and batch × accumulation × ranks 24"),
        ({"gradient_clipping": 0.5}, "gradient_clipping 0.5 and --max-grad-norm 1.0"),
        ({"zero_optimization": {"stage": 4}}, "names stage 4 under 'zero_optimization'"),
        ({"zero_optimization": [2]}, "names no stage under 'zero_optimization'"),
        ({}, "names no stage under 'zero_optimization'"),
        ({"optimizer": {"type": "AdamW"}}, "would overrule --mm-projector-lr"),
        ({"scheduler": {"type": "WarmupLR"}}, "would overrule --lr-scheduler-type"),
    ],
)
def test_a_file_that_clashes_with_the_flags_is_refused(
    tmp_path: Path, file: dict[str, object], said: str
) -> None:
    with pytest.raises(EegToolError) as caught:
        check(tmp_path, file)
    assert said in caught.value.what
    assert "mine.json" in caught.value.what


@pytest.fixture
def pdsh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def hostfile(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hosts"
    path.write_text(text)
    return path


@pytest.mark.usefixtures("pdsh")
def test_hosts_are_read(tmp_path: Path) -> None:
    path = hostfile(tmp_path, "# ours\n\nworker-1 slots=8\n  worker-2   slots=4 # old\n")
    hosts = launcher.read_hosts(path, 0)
    assert (hosts.names, hosts.ranks_each, hosts.ranks) == (("worker-1", "worker-2"), 4, 8)
    assert launcher.read_hosts(path, 3).ranks == 6
    command = launcher.command(tmp_path / "p", 8, use_deepspeed=True, port=9, hosts=hosts)
    assert command[:3] == [sys.executable, "-m", "deepspeed.launcher.runner"]
    assert command[command.index("--hostfile") + 1] == str(path)
    assert command[command.index("--num_gpus") + 1] == "4"


@pytest.mark.parametrize(
    ("text", "num_gpus", "message"),
    [
        ("worker-1\n", 0, "line 1: 'worker-1' is no 'host slots=GPUS'"),
        ("a slots=2\nb slots=two\n", 0, "line 2: 'b slots=two'"),
        ("a slots=0\n", 0, "line 1"),
        ("a slots=2\na slots=2\n", 0, "line 2: 'a' stands there twice"),
        ("# nobody\n", 0, "names no machine"),
        ("a slots=8\nb slots=2\n", 4, "--num-gpus 4: 'b' of .* has 2"),
    ],
)
@pytest.mark.usefixtures("pdsh")
def test_bad_hosts_are_refused(tmp_path: Path, text: str, num_gpus: int, message: str) -> None:
    with pytest.raises(EegToolError, match=message):
        launcher.read_hosts(hostfile(tmp_path, text), num_gpus)


def test_without_a_way_to_other_machines_hosts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EegToolError, match="pdsh, which is not installed"):
        launcher.read_hosts(hostfile(tmp_path, "a slots=1\nb slots=1\n"), 0)
    with pytest.raises(EegToolError, match="does not exist"):
        launcher.read_hosts(tmp_path / "none", 0)
    alone = launcher.read_hosts(hostfile(tmp_path, "elsewhere slots=2\n"), 0)
    with pytest.raises(EegToolError, match="'elsewhere', and it is not this one"):
        launcher.check_is_here(alone)
    launcher.check_is_here(launcher.read_hosts(hostfile(tmp_path, "localhost slots=2\n"), 0))


def test_only_this_runs_shared_memory_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_SHARED_MEMORY", tmp_path)
    names = ["0_127.0.0.1_29617_0", "0_127.0.0.1_29617_11", "0_127.0.0.1_2961_0"]
    for name in names:
        (tmp_path / f"deepspeed_allreduce_buffer_{name}").touch()
    (tmp_path / "other_29617_0").touch()
    launcher.remove_shared_memory(29617)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["deepspeed_allreduce_buffer_0_127.0.0.1_2961_0", "other_29617_0"]
