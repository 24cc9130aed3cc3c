"""Files as a group has them that followed the recipe with LLaVA: nothing of `prepare` is there.

Samples have ``image`` as ``[I, I]`` and one ``<image>``, numbers as ids and sentences as answers; questions
have ``image`` as text and LLaVA's category; features come from a module of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.stages import STAGES

N_SAMPLES, N_QUESTIONS = 15, 10
ASKED = "What sleep stage is shown in this EEG epoch?"
SPELT = {"W": "Wake", "N1": "N1", "N2": "N2", "N3": "N3", "REM": "REM"}
CATEGORIES = {"W": "Sleep stage W", "N1": "S1", "N2": "N2", "N3": "stage 4", "REM": "R"}

Run = Callable[..., str]


def stage_at(i: int) -> str:
    return STAGES[i % len(STAGES)]


def sentence(i: int) -> str:
    """Return reasons that differ, and a conclusion."""
    return f"Activity of {3 + i % 7} Hz is seen. This epoch belongs to stage {SPELT[stage_at(i)]}."


def write_questions(root: Path, categories: dict[str, str] | None) -> None:
    rows = [
        {
            "question_id": 1000 + i,
            "image": f"{1000 + i}.png",
            "text": f"<image>\n{ASKED}",
            "category": categories[stage_at(i)] if categories else "detail",
        }
        for i in range(N_QUESTIONS)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "eeg_eval.jsonl").write_text(lines)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Make the files and return what runs a command among them."""
    rng = np.random.default_rng(5)
    root = tmp_path / "sleep_data"
    for side, begin, n in (("ft", 0, N_SAMPLES), ("eval", 1000, N_QUESTIONS)):
        folder = root / f"eeg_images_{side}"
        folder.mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{begin + i}.png")
    rows = [
        {
            "id": i,
            "image": [f"{i}.png", f"{i}.png"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{ASKED}"},
                {"from": "gpt", "value": sentence(i)},
            ],
        }
        for i in range(N_SAMPLES)
    ]
    (root / "eeg_ft.json").write_text(json.dumps(rows, indent=2))
    write_questions(root, None)
    features = rng.standard_normal((N_SAMPLES + N_QUESTIONS, 1, 1024)).astype(np.float32)
    np.save(tmp_path / "mine.npy", features)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    return run


def rows_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.usefixtures("warm")
def test_everything_runs_from_the_recipes_files_alone(run: Run) -> None:
    said = run("extract", "--import-features", "mine.npy")
    assert "row order" in said or "order" in said
    assert np.load("sleep_data/train_high_level_features.npy").shape == (N_SAMPLES, 1, 1024)

    train = ["--model-name-or-path", "tiny", "--deepspeed", "none", "--max-steps", "2"]
    said = run("finetune", *train, "--lora-r", "4", "--output_dir", "model")
    assert f"one <image> for the same picture twice: taken as two ({N_SAMPLES})" in said
    assert f"the id is a number: taken as text ({N_SAMPLES})" in said
    assert f"5 stages found in {N_SAMPLES} of {N_SAMPLES} answers, at the end, up to" in said
    form = json.loads(Path("model/eegvlm.json").read_text())["answers"]
    assert form["stages"]["W"] == "This epoch belongs to stage Wake."
    assert form["lead"] == "This epoch belongs to stage"
    assert form["question"] == ASKED
    assert form["max_new_tokens"] > form["longest_tokens"] > 20  # the sentence has room

    said = run("evaluate", "--model-path", "model", "--answers-file", "words.jsonl")
    assert f"{N_QUESTIONS} labels are not sleep stages and count as unknown: 'detail'" in said
    assert {row["metadata"]["max_new_tokens"] for row in rows_of("words.jsonl")} == {
        form["max_new_tokens"]
    }
    said = run("report", "words.jsonl", "--out", "unlabelled", "--draws", "0")
    metrics = json.loads(Path("unlabelled/metrics.json").read_text())
    assert (metrics["answered"], metrics["n"]) == (N_QUESTIONS, 0)

    # Now with true stages, as they are spelt where they come from.
    write_questions(Path("sleep_data"), CATEGORIES)
    score = ["--mode", "score", "--answers-file", "scored.jsonl"]
    run("evaluate", "--model-path", "model", *score)
    rows = rows_of("scored.jsonl")
    assert [row["label"] for row in rows] == [stage_at(i) for i in range(N_QUESTIONS)]
    likeliest = []
    for row in rows:
        shares = row["metadata"]["stage_probabilities"]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        likeliest.append(max(shares, key=lambda stage: shares[stage]))
        assert row["text"].endswith(f"This epoch belongs to stage {SPELT[likeliest[-1]]}.")
    run("report", "scored.jsonl", "--out", "scored", "--draws", "0", "--how-read", "read.csv")
    metrics = json.loads(Path("scored/metrics.json").read_text())
    right = sum(a == stage_at(i) for i, a in enumerate(likeliest))
    assert metrics["accuracy"] == pytest.approx(right / N_QUESTIONS)
    assert metrics["n"] == N_QUESTIONS
    read = Path("read.csv").read_text().splitlines()
    assert len(read) == N_QUESTIONS + 1

    picture = "sleep_data/eeg_images_eval/1000.png"
    features = "sleep_data/eval_high_level_features.npy"
    done = CliRunner().invoke(
        app, ["ask", picture, "--model-path", "model", "--features-file", features, "--json"]
    )
    assert done.exit_code == 0, done.output
    reply = json.loads(done.stdout)
    assert reply["prompt"] == ASKED
    assert reply["stage"] == likeliest[0]
