"""evaluate as it is typed: the recipe's own command, and runs that are killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.records import read_questions, write_questions
from eegtool.core.workspace import Workspace
from eegtool.evaluate.shards import parts_of, whole_lines
from eegtool.extract.features import Sidecar, write_features
from tests.conftest import VISION_MODULE
from tests.warm import children

# Step 4 of the recipe, `python llava/eval/model_vqa.py` replaced and nothing else.
SEED = r"""
eegvlm evaluate \
  --model-path checkpoints/your_checkpoints_save_path/ \
  --model-base your_checkpoints_path/LLaVA-v1.5-13b/ \
  --question-file sleep_data/eeg_eval.jsonl \
  --image-folder sleep_data/eeg_images_eval \
  --answers-file sleep_data/answers/eeg_answers.jsonl 
"""  # noqa: W291 - the blank at the end is the recipe's, too
N = 60


def as_typed(folder: Path, words: Sequence[str], code: int = 0) -> str:
    command = [sys.executable, "-m", "eegtool", *words]
    environment = os.environ | {"COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def eegvlm(folder: Path, words: Sequence[str]) -> str:
    """Run a command in this process, where torch is loaded already."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in whole_lines(path)]


@pytest.fixture
def home(workspace: Workspace, adapter: Path, tiny: Path, tmp_path: Path) -> Path:
    """Return a folder laid out as the recipe says, with the tiny model in place of the 13B."""
    home = tmp_path / "home"
    home.mkdir()
    workspace.root.rename(home / "sleep_data")
    (home / "checkpoints").mkdir()
    adapter.rename(home / "checkpoints" / "your_checkpoints_save_path")
    shutil.copytree(tiny, home / "your_checkpoints_path" / "LLaVA-v1.5-13b")
    return home


def test_the_recipes_command_runs_as_pasted(home: Path) -> None:
    program, *words = shlex.split(SEED.replace("\\\n", " "))
    assert program == "eegvlm"
    said = as_typed(home, words)
    assert "(10 rows)" in said
    plain = rows_of(home / "sleep_data/answers/eeg_answers.jsonl")
    questions = read_questions(home / "sleep_data/eeg_eval.jsonl")
    assert [row["question_id"] for row in plain] == [q.sample_id for q in questions]
    keys = "question_id prompt text label answer_id model_id metadata".split()
    assert all(list(row) == keys for row in plain)
    assert {row["model_id"] for row in plain} == {"your_checkpoints_save_path"}

    # model_vqa's other flags, in its spelling.
    others = (
        "--conv-mode v1 --num-chunks 1 --chunk-idx 0 --temperature 0.2 --top_p 0.9 --num_beams 1"
    )
    words[words.index("--answers-file") + 1] = "drawn.jsonl"
    eegvlm(home, [*words, *others.split()])
    told = {row["metadata"]["decoding"] for row in rows_of(home / "drawn.jsonl")}
    assert told == {"temperature 0.2, top_p 0.9, seed 42"}


def test_a_misspelt_flag_is_named(home: Path) -> None:
    said = as_typed(home, ["evaluate", "--model-path", "x", "--num_beems", "2"], code=2)
    assert "--num_beems: no such flag; did you mean --num-beams?" in " ".join(said.split())


@pytest.fixture
def long_night(workspace: Workspace) -> Workspace:
    """Return a workspace with many questions, of several lengths, about the same pictures."""
    few = read_questions(workspace.questions)
    many = [
        replace(q, sample_id=f"S03E0-{1000 + i}", text=q.text + " In short?" * (i % 3))
        for i in range(N)
        for q in [few[i % len(few)]]
    ]
    write_questions(workspace.questions, many)
    workspace.epochs.unlink()
    rows = np.random.default_rng(2).standard_normal((N, 1, 1024)).astype(np.float32)
    ids = tuple(q.sample_id for q in many)
    write_features(workspace.features("eval"), rows, Sidecar(ids, "resnet18", VISION_MODULE, ""))
    return workspace


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "eegtool", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # so that launcher and ranks can be killed with it
    )


def wait_for(process: subprocess.Popen[str], answers: Path, n: int) -> None:
    """Wait until there are `n` answers."""
    while sum(len(whole_lines(path)) for path in parts_of(answers)) < n:
        if process.poll() is not None:
            pytest.fail(f"ended before {n} answers: {process.communicate()[0]}")
        time.sleep(0.002)


@pytest.mark.usefixtures("warm")
def test_killed_again_and_again_it_ends_as_if_nothing_had_been(
    long_night: Workspace, adapter: Path, tmp_path: Path
) -> None:
    """To the last byte: texts, log-likelihoods and all."""
    base = ["evaluate", "--model-path", str(adapter), "--workspace", str(long_night.root)]
    base += ["--mode", "both", "--batch-size", "4", "--max-new-tokens", "12"]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    eegvlm(tmp_path, [*base, "--answers-file", str(whole)])
    assert len(rows_of(whole)) == N
    for n in (4, 25):
        process = start([*base, "--answers-file", str(killed)])
        wait_for(process, killed, n)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert n <= sum(len(whole_lines(path)) for path in parts_of(killed)) < N
        assert not killed.exists()
    with parts_of(killed)[0].open("ab") as file:
        file.write(b'{"question_id": "S03E0-10')  # torn by a power cut
    said = eegvlm(tmp_path, [*base, "--answers-file", str(killed)])
    assert "were answered before" in said
    assert killed.read_bytes() == whole.read_bytes()
    assert parts_of(killed) == []


@pytest.mark.usefixtures("warm")
def test_a_rank_that_is_killed_costs_its_last_batch_only(
    long_night: Workspace, adapter: Path, tmp_path: Path
) -> None:
    """Gone on with by one process."""
    killed = tmp_path / "killed.jsonl"
    base = ["evaluate", "--model-path", str(adapter), "--workspace", str(long_night.root)]
    base += ["--batch-size", "2", "--max-new-tokens", "12", "--answers-file", str(killed)]
    process = start([*base, "--num-gpus", "2"])
    wait_for(process, killed, 6)
    (launcher,) = children(process.pid)
    os.kill(children(launcher)[0], signal.SIGKILL)
    said = process.communicate()[0]
    assert process.returncode == 1, said
    assert "run again to continue" in said
    assert "Traceback" not in said
    kept = [line for path in parts_of(killed) for line in whole_lines(path)]
    assert 6 <= len(kept) < N
    said = eegvlm(tmp_path, base)
    assert f"({len(kept)} were answered before)" in said
    lines = whole_lines(killed)
    asked = [q.sample_id for q in read_questions(long_night.questions)]
    assert [json.loads(line)["question_id"] for line in lines] == asked
    assert set(kept) < set(lines)
