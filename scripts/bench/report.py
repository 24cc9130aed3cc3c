"""How long report takes over a large answers file, and how often its intervals hold the true value.

size        `eegvlm report` as a process of its own over generated answers with probabilities, with 1,000
            draws: seconds and the largest memory.
coverage    Studies are simulated in which subjects differ in their sleep and in how well they are read; how often
            does the 95 % interval hold the figure of the whole population? Beside it, the plain percentile
            interval of the same draws.

The answers are generated: stages wander as in a real night, each subject is read more or less well, and the
answers are those of a template, with a few that nobody can read.

    python scripts/bench/report.py --json
    python scripts/bench/report.py --write answers.jsonl --rows 20000 --subjects 30
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from eegtool.core.answers import Reading
from eegtool.core.records import Answer, json_line
from eegtool.core.stages import STAGES
from eegtool.core.workspace import atomic_path
from eegtool.report.measures.intervals import Bootstrap, Sampling
from eegtool.report.measures.scores import BOUNDS, FIGURES
from eegtool.report.reading.epochs import AnsweredEpoch

# Rows: from stage, columns: to stage (W, N1, N2, N3, REM); about as in Sleep-EDF.
STEPS = np.array(
    [
        [0.93, 0.06, 0.01, 0.00, 0.00],
        [0.10, 0.62, 0.24, 0.00, 0.04],
        [0.02, 0.03, 0.89, 0.04, 0.02],
        [0.01, 0.01, 0.07, 0.91, 0.00],
        [0.03, 0.03, 0.02, 0.00, 0.92],
    ]
)
# Rows: true stage, columns: where a wrong answer goes.
CONFUSED = np.array(
    [
        [0.00, 0.70, 0.15, 0.00, 0.15],
        [0.25, 0.00, 0.45, 0.00, 0.30],
        [0.05, 0.30, 0.00, 0.45, 0.20],
        [0.02, 0.03, 0.95, 0.00, 0.00],
        [0.15, 0.45, 0.38, 0.02, 0.00],
    ]
)
UNREADABLE = ("I cannot tell.", "N2 or N3", "", "<script>alert('N2')</script>", "\x1b[31mnothing")


def nights(rows: int, subjects: int, rng: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Yield subject, night and length of recordings that make up `rows` epochs."""
    per_subject = np.full(subjects, rows // subjects)
    per_subject[: rows % subjects] += 1
    for subject, left in enumerate(per_subject.tolist()):
        night = 0
        while left > 0:
            night += 1
            length = min(left, int(rng.integers(800, 1200)))
            if left - length < 100:
                length = left
            yield subject, night, length
            left -= length


def answers(rows: int, subjects: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield answer rows as evaluate writes them."""
    rng = np.random.default_rng(seed)
    protocol = {
        "cohort": "generated",
        "simulated": True,
        "channel": "EEG Fpz-Cz",
        "low_hz": 0.3,
        "high_hz": 35.0,
        "wake_margin_min": 30.0,
        "mapping": "AASM",
        "split": "by subject, hold-out",
        "eval_subjects": [f"G{s:03d}" for s in range(subjects)],
        "style": "spectrogram",
        "template": "stage",
        "base": "generated",
        "fusion": "add",
    }
    skill = rng.beta(14, 4, subjects)
    for subject, night, length in nights(rows, subjects, rng):
        name, recording = f"G{subject:03d}", f"G{subject:03d}N{night}"
        stage = 0
        for i in range(length):
            stage = int(rng.choice(5, p=STEPS[stage]))
            right = rng.random() < skill[subject] * (0.5 if stage == 1 else 1.0)
            said = stage if right else int(rng.choice(5, p=CONFUSED[stage]))
            sure = float(rng.beta(9, 2) if right else rng.beta(5, 4))
            shares = rng.dirichlet([0.6] * 5)
            shares[said] = 0
            shares = shares / shares.sum() * (1 - max(sure, 0.35))
            shares[said] = max(sure, 0.35)
            odd = rng.random() < 0.004
            text = str(rng.choice(UNREADABLE)) if odd else f"The stage is {STAGES[said]}."
            yield Answer(
                question_id=f"{recording}-{i:04d}",
                prompt="Which sleep stage does this 30-second EEG epoch show?",
                text=text,
                label=STAGES[stage],
                answer_id=f"{recording}-{i:04d}-generated",
                model_id="generated",
                metadata={
                    "adapter_sha256": "0" * 64,
                    "mode": "both",
                    "features": "real",
                    "seconds": 0.05,
                    "protocol": protocol,
                    "subject": name,
                    "recording": recording,
                    "night": night,
                    "epoch_index": i,
                    "onset_s": 30.0 * i,
                    "stage_probabilities": dict(zip(STAGES, shares.round(6).tolist(), strict=True)),
                    "calibration_temperature": 1.0,
                },
            ).to_row()


def write(path: Path, rows: int, subjects: int, seed: int = 0) -> None:
    """Write an answers file of `rows` epochs of `subjects` subjects."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.writelines(json_line(row) for row in answers(rows, subjects, seed))


def size(rows: int, subjects: int, seed: int) -> dict[str, float]:
    """Run the report as a process and return its seconds and its largest memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answers.jsonl"
        write(file, rows, subjects, seed)
        command = [
            sys.executable,
            "-m",
            "eegtool",
            "report",
            str(file),
            "--out",
            f"{folder}/report",
        ]
        start = time.perf_counter()
        process = subprocess.Popen([*command, "-w", folder], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"report ended with {status}")
        page_mb = (Path(folder) / "report" / "report.html").stat().st_size / 1e6
        return {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_mb": round(used.ru_maxrss / 1024),
            "page_mb": round(page_mb, 1),
        }


BASE = np.array(
    [
        [0.90, 0.05, 0.02, 0.00, 0.02, 0.01],
        [0.20, 0.40, 0.25, 0.00, 0.14, 0.01],
        [0.02, 0.05, 0.85, 0.05, 0.02, 0.01],
        [0.00, 0.00, 0.12, 0.87, 0.00, 0.01],
        [0.03, 0.06, 0.05, 0.00, 0.85, 0.01],
    ]
)
SHARES = np.array([0.25, 0.07, 0.42, 0.10, 0.16])


def population(subjects: int, alike: float, rng: np.random.Generator) -> np.ndarray:
    """Return the expected confusion matrix of each subject, shape (subjects, 5, 6); sums are 1."""
    base = (BASE + 1e-3) / (BASE + 1e-3).sum(1, keepdims=True)
    rows = np.stack([rng.dirichlet(row * alike, subjects) for row in base], axis=1)
    return rng.dirichlet(SHARES * 25, subjects)[:, :, None] * rows


def coverage(
    subjects: int, alike: float, studies: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return how often our interval and the percentile interval hold the true value, by figure."""
    rng = np.random.default_rng(seed)
    expected = population(200_000, alike, rng).sum(0)
    truth = {name: float(figure(expected)) for name, figure in FIGURES.items()}
    one_each = [
        AnsweredEpoch(f"e{s}", "", f"S{s:03d}", None, "W", "", Reading("W", None))
        for s in range(subjects)
    ]
    held = {name: np.zeros(2) for name in FIGURES}
    for study in range(studies):
        chances = population(subjects, alike, rng).reshape(subjects, -1)
        lengths = rng.integers(700, 1100, subjects)
        drawn = [rng.multinomial(n, p / p.sum()) for n, p in zip(lengths, chances, strict=True)]
        counts = np.array(drawn, float).reshape(subjects, 5, 6)
        bootstrap = Bootstrap(one_each, Sampling(1000, study))
        draws = bootstrap.draw(counts)
        for name, figure in FIGURES.items():
            values = figure(draws)
            ours = bootstrap.interval(
                values, float(figure(counts.sum(0))), BOUNDS.get(name, (0.0, 1.0))
            )
            plain = np.quantile(values, [0.025, 0.975])
            held[name] += [low <= truth[name] <= high for low, high in (ours, plain)]
    return {name: tuple((n / studies).round(3).tolist()) for name, n in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="only write such answers")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--studies", type=int, default=1000, help="simulated; 0 for none")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.write:
        write(options.write, options.rows, options.subjects, options.seed)
        print(json.dumps({"rows": options.rows, "subjects": options.subjects}))
        return
    console = Console()
    result: dict[str, Any] = {"size": size(options.rows, options.subjects, options.seed)}
    table = Table(title=f"{options.rows:,} answers of {options.subjects} subjects, 1,000 draws")
    for name in result["size"]:
        table.add_column(name)
    table.add_row(*map(str, result["size"].values()))
    console.print(table)
    table = Table(title="Coverage of 95 % intervals: ours (percentile)")
    for name in ("subjects", "alike", *FIGURES):
        table.add_column(name)
    result["coverage"] = []
    for alike in (30.0, 8.0) if options.studies else ():
        for subjects in (6, 10, 20, 40):
            held = coverage(subjects, alike, options.studies, options.seed)
            result["coverage"].append({"subjects": subjects, "alike": alike, **held})
            table.add_row(
                str(subjects), f"{alike:g}", *(f"{a:.3f} ({b:.3f})" for a, b in held.values())
            )
    if result["coverage"]:
        console.print(table)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
