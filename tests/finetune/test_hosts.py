"""A training over two machines: both are this one, reached by a ``pdsh`` that passes no variable on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.workspace import Workspace, read_json
from eegtool.finetune import launcher

# pdsh -S -f 1024 -w HOST,HOST COMMAND...: the command on each, %n being the number of the host.
PDSH = """#!/bin/sh
while [ "$1" != -w ]; do shift; done
hosts=$2; shift 2
case "$*" in *pkill*) exit 0;; esac
number=0; pids=
for host in $(echo "$hosts" | tr , ' '); do
  env -i PATH="$PATH" HOME="{homes}/$host" sh -c "$(echo "$*" | sed "s/%n/$number/")" & pids="$pids $!"
  number=$((number + 1))
done
code=0
for pid in $pids; do wait "$pid" || code=$?; done
exit $code
"""
SSH = '#!/bin/sh\ncase "$*" in *"hostname -I") echo 127.0.0.1;; esac\n'
# Python runs this in every process that finds it, and DeepSpeed passes on PYTHONPATH.
PROBE = """
import atexit, json, os
if "RANK" in os.environ:
    atexit.register(lambda: open({seen!r} + os.environ["RANK"], "w").write(json.dumps(dict(os.environ))))
"""


@pytest.mark.skipif(not launcher.has_cpp_compiler(), reason="DeepSpeed needs one on a CPU")
@pytest.mark.usefixtures("warm")
def test_every_machine_gets_what_its_ranks_need(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for host in ("one", "two"):
        (tmp_path / host).mkdir()
    for name, text in (("pdsh", PDSH.replace("{homes}", str(tmp_path))), ("ssh", SSH)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "sitecustomize.py").write_text(PROBE.format(seen=str(tmp_path / "rank")))
    hosts = tmp_path / "hosts"
    hosts.write_text("one slots=1\ntwo slots=1\n")
    for name in [name for name in os.environ if name.startswith(("WANDB_", "CUDA_", "DS_"))]:
        monkeypatch.delenv(name)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{programs}:{Path(__file__).parents[2]}",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_NOTES": "two machines",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = ["finetune", "--model-name-or-path", "tiny"]
    command += ["--workspace", str(workspace.root), "--hostfile", str(hosts)]
    command += ["--deepspeed", "zero2", "--max-steps", "2", "--lora-r", "4", "--logging-steps", "1"]
    command += ["--per-device-train-batch-size", "2", "--report-to", "wandb", "--tf32", "True"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output + "".join(capfd.readouterr())
    out = workspace.checkpoints / "eegvlm"
    plan = read_json(out / "plan.json")
    # Made where no GPU is, for machines that have some.
    assert "use_cpu" not in plan["arguments"]
    assert (plan["arguments"]["bf16"], plan["arguments"]["tf32"]) == (True, True)
    assert "0" * 40 not in (out / "plan.json").read_text()  # others may read it
    logs = workspace.checkpoints / "runs" / "eegvlm"
    for rank in range(2):
        seen: dict[str, Any] = json.loads((tmp_path / f"rank{rank}").read_text())
        assert seen["HOME"] == str(tmp_path / ("one", "two")[rank])
        assert seen["WANDB_MODE"] == "offline"  # neither machine has the key
        assert seen["WANDB_DIR"] == str(logs)
        assert seen["WANDB_NOTES"] == "two machines"
        assert seen["OMP_NUM_THREADS"] == "1"
        assert seen["WANDB_RUN_GROUP"] == "eegvlm"
    run_id = plan["environment"]["WANDB_RUN_ID"]
    names = {path.name for path in logs.glob("wandb/offline-run-*/*.wandb")}
    assert names == {f"run-{run_id}.wandb", f"run-{run_id}-rank1.wandb"}  # one of each machine
    assert len([row for row in read_json(out / "training_log.json")["log"] if "loss" in row]) == 2
