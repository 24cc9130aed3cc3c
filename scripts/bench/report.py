"""How long report takes over a large answers file, and how often its intervals hold the true value.

size        `eegvlm report` as a process of its own over generated answers with probabilities, with 1,000
            draws: seconds and the largest memory.

The answers are generated: stages wander as in a real night, each subject is read more or less well, and the
answers are those of a template, with a few that nobody can read.

    python scripts/bench/report.py --json
    python scripts/bench/report.py --write answers.jsonl --rows 20000 --subjects 30
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eegtool.core.records import Answer, json_line
from eegtool.core.stages import STAGES
from eegtool.core.workspace import atomic_path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="only write such answers")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.write:
        write(options.write, options.rows, options.subjects, options.seed)
        print(json.dumps({"rows": options.rows, "subjects": options.subjects}))


if __name__ == "__main__":
    main()
