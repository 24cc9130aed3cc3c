"""Base models of several families under the same fusion: one table, on the same epochs, features and steps.

    eegvlm demo --out demo_data                       # a workspace with pictures, features and a vision module
    python scripts/bench/bases.py --workspace demo_data --small        # a small random model of each family
    python scripts/bench/bases.py --workspace demo_data PATH_OR_NAME [PATH_OR_NAME ...]

Each base is fine-tuned and asked (`--mode score`) by the commands' own code. The last row is the vision module
alone, whose features all of them look at; κ and macro-F1 are those of the evaluation side. What a base says
untrained has a row of its own with `--untrained`.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import cohen_kappa_score, f1_score

from eegtool.core.records import read_answers
from eegtool.core.workspace import Workspace
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.options import EvaluateSettings
from eegtool.finetune import train
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.planning import make_plan
from eegtool.finetune.summary import family_of
from eegtool.model.checkpoints import find_base, load_processor

COLUMNS = (
    "base",
    "family",
    "parameters",
    "image_tokens",
    "s_per_step",
    "epochs",
    "kappa",
    "macro_f1",
)


def figures(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return κ and macro-F1 over the stages that occur, of true and said stages."""
    true, said = zip(*pairs, strict=True)
    labels = sorted(set(true))
    macro = f1_score(true, said, labels=labels, average="macro", zero_division=0.0)
    kappa = cohen_kappa_score(true, said)
    return {"epochs": len(pairs), "kappa": round(kappa, 3), "macro_f1": round(macro, 3)}


def module_row(workspace: Workspace, answers: Path) -> dict[str, Any]:
    """Return what the vision module alone says of the epochs of an answers file."""
    true = {row.question_id: row.label for row in read_answers(answers)}
    with (workspace.vision_module / "eval_stages.csv").open(newline="", encoding="utf-8") as file:
        said = {row["sample_id"]: row["predicted"] for row in csv.DictReader(file)}
    pairs = [(true[i], said[i]) for i in true if i in said]
    return {"base": "vision module alone", "family": "-"} | figures(pairs)


def asked(workspace: Workspace, model: Path, out: Path, limit: int | None) -> dict[str, Any]:
    """Ask about the evaluation side, and return the figures."""
    settings = EvaluateSettings(
        model,
        workspace=workspace.root,
        answers_file=out,
        mode="score",
        limit=limit,
        num_gpus=1,
    )
    evaluate.run(settings)
    return figures([(row.label, row.text) for row in read_answers(out)])


def rows(
    options: argparse.Namespace, workspace: Workspace, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield a row for each base, and last that of the vision module alone."""
    bases = list(options.bases)
    if options.small:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from tests.model.families.tiny import TINY, build  # small models as the tests have them

        bases += [str(build(name, folder / name)) for name in TINY]
    for number, name in enumerate(bases or ["tiny"]):
        base = find_base(name)
        run = folder / f"run-{number}"
        settings = FinetuneSettings(
            name,
            workspace=workspace.root,
            deepspeed=options.deepspeed,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            mm_projector_lr=options.mm_projector_lr,
            lora_r=options.lora_r,
            lora_alpha=2 * options.lora_r,
            per_device_train_batch_size=options.batch,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        )
        plan = make_plan(settings, run)
        processor = load_processor(
            base, fusion=plan.fusion, version=plan.version, side=plan.picture_side
        )
        common = {
            "base": Path(name).name,
            "family": family_of(base),
            "parameters": sum(p.numel() for p in base.empty(plan.fusion).parameters()),
            "image_tokens": processor.n_image_tokens,
        }
        if options.untrained:
            found = asked(workspace, base.folder, folder / f"{number}-base.jsonl", options.limit)
            yield common | {"base": f"{common['base']} (untrained)"} | found
        train.run(plan)
        log = json.loads((run / "training_log.json").read_text(encoding="utf-8"))["log"]
        seconds = statistics.median(row["seconds"] for row in log if "seconds" in row)
        found = asked(workspace, run, folder / f"{number}.jsonl", options.limit)
        yield common | {"s_per_step": round(seconds, 3)} | found
    yield module_row(workspace, folder / "0.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bases", nargs="*", help="folders or names on the hub")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="a small random model of each family")
    parser.add_argument("--untrained", action="store_true", help="ask each base as it is, too")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--limit", type=int, help="ask about so many epochs only")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--mm-projector-lr", type=float, default=1e-3)
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--deepspeed", default="none")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        table = list(rows(options, Workspace(options.workspace), Path(name)))
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in table:
        print(f"| {' | '.join(str(row.get(column, '')) for column in COLUMNS)} |")
    if options.json:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        print(json.dumps({"device": device, "steps": options.steps, "rows": table}))


if __name__ == "__main__":
    main()
