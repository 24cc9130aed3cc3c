"""What a review is worth: corrections of one night, the κ that the coverage curve promised, and the next night after training.

A fine-tuned model stages the first night of a subject that it has never seen. The least certain epochs are corrected as the
scoring says and saved as ``review.html`` saves them. Then:

before, after  κ of the first night with the scoring, as `eegvlm report --scored-by` says.
curve          What the coverage curve of the same answers says: the same epochs, so it must be what was reached.
promise        What the curve of the subjects evaluated before (``--answers``, without this subject) says of such a share.
next night     `eegvlm prepare` takes the review as scoring, `extract` gives it features by the model's own module, and
               `finetune --continue-from` trains on it; κ of the second night of the same subject by the model before
               and after, both without calibration, which the new one does not have.

Recordings are cut to 30 min of wake before and after sleep. Nothing is written beside model or recordings.

    python scripts/bench/review.py --model ws/checkpoints/mine --answers ws/answers/eeg_answers.jsonl --recordings nights
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import edfio
from rich.console import Console
from rich.table import Table
from sklearn.metrics import cohen_kappa_score

from eegtool.core.answers import read_stage
from eegtool.core.records import Answer, read_answers, write_answers
from eegtool.core.stages import EPOCH_S, SLEEP_STAGES, STAGES
from eegtool.core.workspace import Workspace, read_json
from eegtool.report.reading.reviews import COLUMNS
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch

MARGIN_EPOCHS = 60  # of wake before and after sleep, as prepare keeps them
SUBJECT = "SC4{:02d}"


def eegvlm(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "eegtool", *map(str, arguments)], check=True)


def cut(recordings: Path, night: str, folder: Path) -> list[str]:
    """Write a recording from half an hour before sleep to half an hour after it; return its scored stages."""
    (path,) = recordings.glob(f"{night}??-PSG.edf")
    (scoring,) = recordings.glob(f"{night}??-Hypnogram.edf")
    edf = edfio.read_edf(path)
    stages = stage_per_epoch(read_hypnogram(scoring, None), int(edf.duration // EPOCH_S))
    asleep = [i for i, stage in enumerate(stages) if stage in SLEEP_STAGES]
    first = max(0, asleep[0] - MARGIN_EPOCHS)
    stop = min(len(stages), asleep[-1] + 1 + MARGIN_EPOCHS)
    edf.slice_between_seconds(first * EPOCH_S, stop * EPOCH_S)
    folder.mkdir(parents=True, exist_ok=True)
    edf.write(folder / path.name)
    return stages[first:stop]


def staged(recording: Path, model: Path, base: str, out: Path, *options: str) -> list[Answer]:
    """Stage a recording by the command that a user types; return the answers."""
    which = ("--model-path", model, "--model-base", base)
    eegvlm("stage", recording, *which, "--out", out, *options)
    (night,) = (path for path in out.iterdir() if path.is_dir())
    return read_answers(Workspace(night / "work").answers)


def kappa(answers: Sequence[Answer], stages: Sequence[str]) -> float:
    """Return κ over the scored epochs; an answer that cannot be read is one of its own."""
    pairs = [
        (stages[a.metadata["epoch_index"]], read_stage(a.text).stage or "unreadable")
        for a in answers
    ]
    return float(cohen_kappa_score(*zip(*(p for p in pairs if p[0] in STAGES), strict=True)))


def certainty(answer: Answer) -> float:
    readable = read_stage(answer.text).stage is not None
    return max(answer.metadata["stage_probabilities"].values()) if readable else -1.0


def reviewed(answers: Sequence[Answer], stages: Sequence[str], share: float, path: Path) -> int:
    """Correct the least certain epochs as the scoring says, and save them as the page does; return how many changed."""
    in_order = sorted(answers, key=certainty)
    decided = {a.question_id for a in in_order[: round(share * len(answers))]}
    changed = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for k, answer in enumerate(answers):
            of = answer.metadata
            said = read_stage(answer.text).stage or "?"
            scored = stages[of["epoch_index"]]
            mine = answer.question_id in decided and (scored in STAGES or said != "?")
            final = scored if mine and scored in STAGES else said
            changed += final != said
            at = f"2026-01-01T{k // 3600:02d}:{k // 60 % 60:02d}:{k % 60:02d}+00:00" if mine else ""
            where = (of["recording"], of["epoch_index"], of["onset_s"], EPOCH_S)
            who = ("scoring" if mine else "", at, "")
            sure = f"{max(of['stage_probabilities'].values()):.3f}"
            writer.writerow((*where, final, said, sure, *who, len(answers)))
    return changed


def report(answers: Path, out: Path, *options: object) -> Mapping[str, Any]:
    eegvlm("report", answers, "--out", out, "--pictures", "none", "--hypnograms", 0, *options)
    return read_json(out / "metrics.json")


def promised(answers: Path, subject: str, share: float, out: Path) -> float | None:
    """Return the κ that the coverage curve of the other subjects promises."""
    others = [a for a in read_answers(answers) if a.metadata.get("subject") != subject]
    write_answers(out / "others.jsonl", others)
    curve = report(out / "others.jsonl", out / "report_others", "--draws", 0)["coverage"]
    return next((p["kappa_together"] for p in curve if p["to_human"] == share), None)


def measured(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Go once around: stage, review, report, prepare, extract, finetune, stage."""
    subject, other = (SUBJECT.format(number) for number in (given.subject, given.other))
    nights = [cut(given.recordings, f"{subject}{i}", out / f"night{i}") for i in (1, 2)]
    first, second = (next((out / f"night{i}").glob("*.edf")) for i in (1, 2))
    answers = staged(first, given.model, given.base, out / "staged")
    recording = answers[0].metadata["recording"]
    review = out / "night1" / f"{recording}_reviewed.csv"
    changed = reviewed(answers, nights[0], given.share, review)

    # The report says what the review gave, where the answers have labels.
    labels = (
        stages if (stages := nights[0][a.metadata["epoch_index"]]) in STAGES else ""
        for a in answers
    )
    labelled = [
        Answer(**{**a.to_row(), "label": label}) for a, label in zip(answers, labels, strict=True)
    ]
    write_answers(out / "labelled.jsonl", labelled)
    (said,) = report(out / "labelled.jsonl", out / "report", "--scored-by", review)["reviews"]

    # The review trains: the subject's own night, and another one's for the other side of the split.
    contract = read_json(given.model / "eegvlm.json")["protocol"]
    for path in given.recordings.glob(f"{other}1??-*.edf"):
        (out / "night1" / path.name).symlink_to(path.resolve())
    workspace = out / "next"
    where = ("--workspace", workspace)
    picture = (x for name in ("style", "size", "channel") for x in (f"--{name}", contract[name]))
    eegvlm("prepare", out / "night1", *where, *picture, "--eval-subjects", other)
    eegvlm("extract", *where, "--weights", given.model / "vision_module")
    lora = read_json(given.model / "adapter_config.json")
    better = out / "better"
    eegvlm(
        *("finetune", *where, "--output-dir", better, "--continue-from", given.model),
        *("--model-name-or-path", given.base, "--deepspeed", "none"),
        *("--lora-r", lora["r"], "--lora-alpha", lora["lora_alpha"]),
        *("--max-steps", given.steps, "--learning-rate", given.learning_rate),
    )
    after = {}
    for name, model in (("before", given.model), ("after", better)):
        replies = staged(second, model, given.base, out / f"next_{name}", "--no-calibration")
        after[name] = kappa(replies, nights[1])
    return {
        "recording": recording,
        "epochs": len(answers),
        "reviewed": said["reviewed"],
        "changed": changed,
        **{k: said[k] for k in ("before", "after", "after_interval", "expected")},
        "promised": promised(given.answers, subject, given.share, out),
        "next_night": after,
    }


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a fine-tuned model")
    parser.add_argument("--base", default="tiny", help="its base model, by name or folder")
    parser.add_argument("--answers", type=Path, required=True, help="its evaluation")
    parser.add_argument(
        "--recordings", type=Path, required=True, help="nights named as Sleep-EDF's"
    )
    parser.add_argument("--subject", type=int, default=5, help="whose night is reviewed")
    parser.add_argument(
        "--other", type=int, default=6, help="who fills the other side of the split"
    )
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--json", action="store_true", help="also print one JSON object")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(given, Path(folder))
    found["minutes"] = round((time.monotonic() - began) / 60, 1)
    table = Table(
        "figure",
        "κ",
        title=f"{found['recording']}: {found['reviewed']} of {found['epochs']} epochs reviewed, {found['changed']} changed",
    )
    low, high = map(figure, found["after_interval"] or (None, None))
    table.add_row("before the review", figure(found["before"]))
    table.add_row("after (95 % interval)", f"{figure(found['after'])} ({low} to {high})")
    table.add_row("curve of the same answers", figure(found["expected"]))
    table.add_row("promise of the other subjects' curve", figure(found["promised"]))
    for name, value in found["next_night"].items():
        table.add_row(f"next night, {name} training on the review", figure(value))
    Console().print(table)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
