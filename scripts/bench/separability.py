"""How well a linear probe separates the stages within the fine-tune side, and on the evaluation side.

Features of a module that was trained on the fine-tune subjects separate these subjects' epochs
better than anybody else's; a language model that is fine-tuned on them learns to lean on a
certainty that it will not meet again. Out-of-fold features close that gap.

    python separability.py FT.npy EVAL.npy --epochs WORKSPACE/epochs.csv
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from eegtool.core.records import read_epochs
from eegtool.core.stages import STAGE_INDEX


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
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ft", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--epochs", type=Path, required=True)
    arguments = parser.parse_args()
    epochs = {epoch.sample_id: epoch for epoch in read_epochs(arguments.epochs)}
    sides = []
    for path in (arguments.ft, arguments.evaluation):
        ids = json.loads(path.with_suffix(".json").read_text())["sample_ids"]
        sides.append((np.load(path, mmap_mode="r"), [epochs[i] for i in ids]))
    (ft, ft_epochs), (other, other_epochs) = sides
    found = separability(
        (ft, [STAGE_INDEX[e.stage] for e in ft_epochs], [e.subject for e in ft_epochs]),
        (other, [STAGE_INDEX[e.stage] for e in other_epochs]),
    )
    print(json.dumps(asdict(found) | {"gap": found.gap}))


if __name__ == "__main__":
    main()
