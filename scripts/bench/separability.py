"""What out-of-fold features are worth: how well a linear probe separates the stages of each side.

Features of a module that was trained on the fine-tune subjects separate these subjects' epochs
better than anybody else's; a language model that is fine-tuned on them learns to lean on a
certainty that it will not meet again. Out-of-fold features close that gap.

`eegvlm extract` runs twice in a prepared workspace (by default, of the simulated nights of
``staging.py``), without and with ``--folds``; what is trained already is not trained again. For each, Cohen's κ of the probe

within    on the fine-tune side: each subject predicted by a probe fitted on the other subjects;
across    on the evaluation side, by a probe fitted on the whole fine-tune side;
gap       the first less the second.

    python scripts/bench/separability.py WORKSPACE --folds 5 --train-epochs 4 --json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from staging import prepared, simulated

from eegtool.core.records import SPLITS, read_epochs
from eegtool.core.stages import STAGE_INDEX
from eegtool.core.workspace import Workspace
from eegtool.extract.features import sidecar_path

Row = dict[str, float | str]


@dataclass(frozen=True, slots=True)
class Separability:
    """Cohen's κ of a linear probe."""

    within: float
    """On the fine-tune side: each subject predicted by a probe fitted on the other subjects."""
    across: float
    """On the evaluation side, by a probe fitted on the whole fine-tune side."""

    @property
    def gap(self) -> float:
        """How much better the fine-tune side is separated than the evaluation side."""
        return self.within - self.across


def separability(
    ft: tuple[np.ndarray, Sequence[int], Sequence[str]],
    evaluation: tuple[np.ndarray, Sequence[int]],
    folds: int = 5,
    limit: int = 20_000,
    seed: int = 0,
) -> Separability:
    """Fit linear probes (multinomial logistic regression on standardised features).

    Parameters
    ----------
    ft : tuple of array, stages, subjects
        Fine-tune side: features ``[N, 1024]`` or ``[N, 1, 1024]``, stage index and subject of each row.
    evaluation : tuple of array and stages
        Evaluation side.
    folds : int
        Folds over subjects for `Separability.within` (at most one per subject).
    limit : int
        At most so many fine-tune rows, drawn with `seed`: memory and time stay bounded.
    """
    rows, stages, subjects = np.asarray(ft[0]), np.asarray(ft[1]), np.asarray(ft[2])
    kept = np.arange(len(rows))
    if len(kept) > limit:
        kept = np.sort(np.random.default_rng(seed).choice(kept, limit, replace=False))
    x, y, groups = rows[kept].reshape(len(kept), -1), stages[kept], subjects[kept]
    inner = GroupKFold(min(folds, len(np.unique(groups))))
    within = cross_val_predict(_probe(), x, y, groups=groups, cv=inner)
    other = np.asarray(evaluation[0]).reshape(len(evaluation[0]), -1)
    across = _probe().fit(x, y).predict(other)
    return Separability(
        float(cohen_kappa_score(y, within)), float(cohen_kappa_score(evaluation[1], across))
    )


def _probe() -> Pipeline:
    # C = 0.01: 1,024 strongly correlated features, which little ridge over-fits.
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=3000))


def probed(name: str, workspace: Workspace, folds: int, options: argparse.Namespace) -> Row:
    subprocess.run(
        [
            *(sys.executable, "-m", "eegtool", "extract", "--workspace", str(workspace.root)),
            *("--backbone", options.backbone, "--train-epochs", str(options.train_epochs)),
            *("--folds", str(folds)),
        ],
        check=True,
    )
    epochs = {epoch.sample_id: epoch for epoch in read_epochs(workspace.epochs)}
    sides = []
    for split in SPLITS:
        path = workspace.features(split)
        ids = json.loads(sidecar_path(path).read_text(encoding="utf-8"))["sample_ids"]
        sides.append((np.load(path, mmap_mode="r"), [epochs[i] for i in ids]))
    (ft, ft_epochs), (other, other_epochs) = sides
    found = separability(
        (ft, [STAGE_INDEX[e.stage] for e in ft_epochs], [e.subject for e in ft_epochs]),
        (other, [STAGE_INDEX[e.stage] for e in other_epochs]),
    )
    return {"features": name, **asdict(found), "gap": found.gap}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "workspace", type=Path, nargs="?", help="in which `eegvlm prepare` has run; else simulated"
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--train-epochs", type=int, default=4, help="passes")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        if options.workspace:
            workspace = Workspace(options.workspace)
        else:
            workspace = prepared(simulated(Path(tmp)), Path(tmp) / "w", "spectrogram", 64, 42)
        rows = [
            probed("in-sample", workspace, 0, options),
            probed(f"out-of-fold, {options.folds} folds", workspace, options.folds, options),
        ]
    table = Table(title="κ of a linear probe")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "features" else "right")
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:.3f}" for v in row.values()))
    Console().print(table)
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
