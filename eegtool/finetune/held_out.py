"""Who is held out of a fine-tuning, and which of their epochs are scored while it runs.

Whole subjects of the fine-tune side, never of the evaluation side. Parent and ranks find the same epochs: by
the plan's subjects, seed and limit, joined by sample id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eegtool.core.answers import read_stage
from eegtool.core.errors import EegToolError
from eegtool.core.records import Conversation, Epoch, Question, read_conversations, read_epochs
from eegtool.core.stages import STAGES
from eegtool.core.workspace import sha256_of
from eegtool.finetune.plan import Plan


@dataclass(frozen=True, slots=True)
class Sides:
    """The samples of a fine-tuning, parted by subject.

    Attributes
    ----------
    sample_ids : list of str
        All samples, in the order of their file.
    training : list of Conversation
        What is trained on; all samples where nobody is held out.
    scored : list of Question
        What is asked at each validation: about held-out epochs, with their true stage.
    subjects : tuple of str
        Who is held out, sorted.
    of : int
        How many subjects there are in all.
    n_held_out : int
        Epochs of the held-out subjects; more than are scored where there is a limit.
    epochs_sha256 : str
        Of the table that says whose an epoch is and which stage it has.
    stages : tuple of int
        Epochs of each stage that are trained on, in the order of `STAGES`; empty where nobody is held out.
    """

    sample_ids: list[str]
    training: list[Conversation]
    scored: list[Question]
    subjects: tuple[str, ...] = ()
    of: int = 0
    n_held_out: int = 0
    epochs_sha256: str = ""
    stages: tuple[int, ...] = ()


def draw(
    rows: Sequence[Conversation],
    epochs_file: Path,
    share: float,
    limit: int,
    seed: int,
    first: Set[str] = frozenset(),
) -> Sides:
    """Draw the subjects that are held out.

    Parameters
    ----------
    rows : sequence of Conversation
        All samples.
    epochs_file : Path
        ``epochs.csv`` of the workspace.
    share : float
        Of the subjects: above 0, below 1; at least one subject is drawn.
    limit : int
        Epochs that are scored at most; 0 for all of them.
    seed : int
        Seed of the draw.
    first : set of str
        Subjects that are drawn before all others.

    Raises
    ------
    EegToolError
        If it is not known whose the samples are, one of them is of the evaluation side, no subject would be
        left on either side, or the scored epochs have fewer than two stages.
    """
    epochs = _epochs_of(rows, epochs_file)
    known = sorted({epochs[row.sample_id].subject for row in rows})
    count = max(1, round(share * len(known))) if share > 0 else 0
    if not 0 < count < len(known):
        which = "validate" if not count else "train"
        raise EegToolError(
            f"--eval-subjects-share {share:g} of {len(known)} subjects "
            f"({', '.join(known[:4])}{', …' * (len(known) > 4)}) leaves no subject to {which} on.",
            "Add recordings of further subjects, or leave --eval-strategy out."
            if len(known) < 2
            else "Give a share above 0 that leaves some subjects, such as 0.1.",
        )
    order = [known[i] for i in np.random.default_rng(seed).permutation(len(known))]
    order.sort(key=lambda subject: subject not in first)
    sides = _parted(rows, epochs, set(order[:count]), limit, seed)
    stages = sorted({question.category for question in sides.scored})
    if len(stages) < 2:
        raise EegToolError(
            f"The {len(sides.scored)} validation epochs of {', '.join(sides.subjects)} have only the stage "
            f"{stages[0]}: κ needs at least two.",
            "Raise --eval-limit or --eval-subjects-share, or draw others by another --seed.",
        )
    return replace(sides, of=len(known), epochs_sha256=sha256_of(epochs_file))


def everybody(rows: list[Conversation]) -> Sides:
    """Return the sides where nobody is held out."""
    return Sides([row.sample_id for row in rows], rows, [])


def read(plan: Plan) -> Sides:
    """Read the samples of a plan and part them as the parent did.

    Raises
    ------
    EegToolError
        If ``epochs.csv`` is another one than the parent saw.
    """
    rows = read_conversations(Path(plan.data_path))
    if not plan.eval_subjects:
        return everybody(rows)
    epochs_file = Path(plan.epochs_file)
    if sha256_of(epochs_file) != plan.epochs_sha256:
        raise EegToolError(
            f"{epochs_file} has changed since the training was planned.", "Start it again."
        )
    epochs = _epochs_of(rows, epochs_file)
    seed = plan.arguments["seed"]
    return _parted(rows, epochs, set(plan.eval_subjects), plan.eval_limit, seed)


def _epochs_of(rows: Sequence[Conversation], epochs_file: Path) -> dict[str, Epoch]:
    """Return the epoch of each sample; all of them must be known, and of the fine-tune side."""
    if not epochs_file.exists():
        raise EegToolError(
            f"--eval-strategy: {epochs_file} does not exist, which says whose the samples are; whole "
            "subjects are held out for validation.",
            "It is what `eegvlm prepare` writes; without it, leave --eval-strategy out.",
        )
    epochs = {epoch.sample_id: epoch for epoch in read_epochs(epochs_file)}
    for row in rows:
        epoch = epochs.get(row.sample_id)
        if epoch is None or epoch.split != "ft":
            what = "does not know" if epoch is None else "counts to the evaluation side"
            raise EegToolError(
                f"--eval-strategy: {epochs_file} {what} the sample '{row.sample_id}'.",
                "Give the --workspace in which the samples were made.",
            )
    return epochs


def _parted(
    rows: Sequence[Conversation],
    epochs: Mapping[str, Epoch],
    subjects: set[str],
    limit: int,
    seed: int,
) -> Sides:
    training = [row for row in rows if epochs[row.sample_id].subject not in subjects]
    held_out = [row for row in rows if epochs[row.sample_id].subject in subjects]
    scored = evenly(held_out, epochs, limit, seed) if limit else held_out
    questions = [_question(row, epochs[row.sample_id].stage) for row in scored]
    counts = Counter(epochs[row.sample_id].stage for row in training)
    return Sides(
        [row.sample_id for row in rows],
        training,
        questions,
        tuple(sorted(subjects)),
        n_held_out=len(held_out),
        stages=tuple(counts[stage] for stage in STAGES),
    )


def evenly(
    rows: Sequence[Conversation], epochs: Mapping[str, Epoch], limit: int, seed: int
) -> list[Conversation]:
    """Draw samples so that each subject and each of its stages comes as often as it can; in the order of the rows.

    Of each stage of each subject the first one drawn comes before the second one of any other.
    """
    turn: Counter[tuple[str, str]] = Counter()
    drawn: list[tuple[int, int]] = []
    for i in np.random.default_rng(seed).permutation(len(rows)).tolist():
        cell = (epochs[rows[i].sample_id].subject, epochs[rows[i].sample_id].stage)
        drawn.append((turn[cell], i))
        turn[cell] += 1
    first = sorted(drawn, key=lambda one: one[0])[:limit]  # stable: within a turn, as drawn
    return [rows[i] for i in sorted(i for _, i in first)]


def _question(row: Conversation, stage: str) -> Question:
    """Ask what the sample asks; of several turns the one whose answer names a stage."""
    asked = [question for question, answer in row.turns if read_stage(answer).stage is not None]
    return Question(row.sample_id, row.images, asked[0] if asked else row.question, stage)
