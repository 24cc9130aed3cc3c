from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.workspace import Workspace
from eegtool.extract import folds as folds_room
from eegtool.extract.export import export
from eegtool.extract.features import FEATURE_DIM, Sidecar, load_features, write_sidecar
from eegtool.extract.folds import (
    MIN_FIT_ROWS,
    Fold,
    OutOfFold,
    align,
    export_out_of_fold,
    fit_rows,
    fold_subjects,
)

CPU = torch.device("cpu")
SUBJECTS = ["A"] * 50 + ["B"] * 40 + ["C"] * 30 + ["D"] * 30 + ["E"] * 20 + ["F"] * 10


def rotation(width: int, seed: int) -> np.ndarray:
    square = np.random.default_rng(seed).standard_normal((width, width))
    return np.asarray(np.linalg.qr(square)[0])


@pytest.mark.parametrize("k", [2, 3, 4, 6])
def test_every_subject_is_held_out_once_and_folds_are_even(k: int) -> None:
    dealt = fold_subjects(SUBJECTS, k, seed=1)
    assert len(dealt) == k
    assert sorted(subject for fold in dealt for subject in fold) == sorted(set(SUBJECTS))
    epochs = Counter(SUBJECTS)
    sizes = [sum(epochs[subject] for subject in fold) for fold in dealt]
    assert max(sizes) - min(sizes) <= {2: 0, 3: 10, 4: 20, 6: 40}[k]


def test_seed_deals_those_who_are_alike() -> None:
    alike = [f"S{i}" for i in range(12)] * 3
    dealt = [fold_subjects(alike, 3, seed) for seed in (1, 1, 2)]
    assert dealt[0] == dealt[1] != dealt[2]
    assert all(len(fold) == 4 for each in dealt for fold in each)


@pytest.mark.parametrize(
    ("subjects", "k", "fix"),
    [
        (SUBJECTS, 1, "2 to 6 folds"),
        (SUBJECTS, 7, "2 to 6 folds"),
        (["A"] * 9, 2, "at least two subjects"),
    ],
)
def test_folds_that_cannot_be_are_refused(subjects: list[str], k: int, fix: str) -> None:
    with pytest.raises(EegToolError, match=f"--folds {k}: the fine-tune side has") as caught:
        fold_subjects(subjects, k, seed=0)
    assert fix in caught.value.fix


@pytest.mark.parametrize(("width", "rows"), [(24, 300), (200, 800)])
def test_rotated_shifted_and_scaled_copy_comes_back(width: int, rows: int) -> None:
    rng = np.random.default_rng(3)
    target = rng.standard_normal((rows, 1, width)).astype(np.float32)
    source = (target @ rotation(width, 4) * 0.3 + rng.standard_normal(width)).astype(np.float32)
    half = rows * 3 // 4
    alignment = align(source[:half], target[:half])
    assert alignment.fitted_on == half
    assert alignment.residual < 1e-5
    back = alignment(source[half:])  # rows that were not in the fit
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, target[half:], atol=1e-3)


def test_what_a_turn_leaves_is_corrected_where_the_epochs_differ_much() -> None:
    """The third feature of the target is stretched; the last ones say next to nothing in either."""
    rng = np.random.default_rng(5)
    spread = np.r_[np.ones(6), np.full(18, 0.01)]
    seen = rng.standard_normal((400, 24)) * spread
    target = seen.copy()
    target[:, 2] *= 2
    source = seen @ rotation(24, 4)
    alignment = align(source[:300], target[:300])
    back = alignment(source[300:])
    np.testing.assert_allclose(back[:, :6], target[300:, :6], atol=0.2)
    assert alignment.residual < 0.005  # a turn and a scale alone leave 0.09
    assert back[:, 6:].std() == pytest.approx(0.01, rel=0.5)  # not shrunk away


def test_what_cannot_be_aligned_is_refused() -> None:
    rows = np.random.default_rng(6).standard_normal((MIN_FIT_ROWS, 8)).astype(np.float32)
    assert align(rows, rows).fitted_on == MIN_FIT_ROWS
    with pytest.raises(EegToolError, match=f"on {MIN_FIT_ROWS - 1} epochs; {MIN_FIT_ROWS} are"):
        align(rows[1:], rows[1:])
    with pytest.raises(EegToolError, match="the same feature for every epoch"):
        align(np.ones_like(rows), rows)
    with pytest.raises(ValueError, match="not the same epochs"):
        align(rows, rows[1:])


def test_fit_is_on_whom_both_were_trained_on() -> None:
    chosen = fit_rows(SUBJECTS, list("ABCD"), list("ABCDF"), ["E"], seed=0)
    assert {SUBJECTS[i] for i in chosen} == set("ABCD")
    # E validates the reference, D the fold's module: neither belongs to the fit.
    chosen = fit_rows(SUBJECTS, list("ABCE"), list("ABCDF"), ["F"], seed=0)
    assert {SUBJECTS[i] for i in chosen} == set("ABC")
    assert chosen.tolist() == sorted(chosen)


def test_fit_is_on_a_draw_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds_room, "MAX_FIT_ROWS", 110)
    draws = [
        fit_rows(SUBJECTS, list("ABC"), list("ABC"), ["F"], seed).tolist() for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 110


def test_leaks_and_small_fits_are_refused() -> None:
    with pytest.raises(ValueError, match="trained on held-out subjects: B"):
        fit_rows(SUBJECTS, list("ABC"), list("ABC"), ["B", "D"], seed=0)
    with pytest.raises(EegToolError, match=r"fold without B .* other subjects have 60 epochs, and"):
        fit_rows(["A"] * 60 + ["B"] * 60, ["A"], ["B"], ["B"], seed=0)


def test_fit_is_on_all_others_where_both_were_trained_on_too_few() -> None:
    """Two subjects: of the reference one is validated on, and each fold was trained on the other."""
    pair = ["A"] * 150 + ["B"] * 150
    assert {pair[i] for i in fit_rows(pair, ["A"], ["B"], ["B"], seed=0)} == {"A"}
    assert {pair[i] for i in fit_rows(pair, ["B"], ["B"], ["A"], seed=0)} == {"B"}
    chosen = fit_rows(SUBJECTS, list("BDE"), list("ABDF"), ["A"], seed=0)
    in_common = sum(subject in "BD" for subject in SUBJECTS)
    assert {SUBJECTS[i] for i in chosen} == set("BD" if in_common >= MIN_FIT_ROWS else "BCDEF")


class Turned(nn.Module):
    """Sees the same in every picture as any other of its kind, but along axes of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.turn = torch.from_numpy(rotation(FEATURE_DIM, seed)).float()
        self.shift = seed * torch.ones(FEATURE_DIM)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = pictures.float().flatten(1)[:, :FEATURE_DIM] / 50 - 1
        return seen @ self.turn * (1 + self.shift[0] / 10) + self.shift, seen[:, :5]


@pytest.fixture
def side(epochs: list[Epoch]) -> list[Epoch]:
    """Return 60 epochs of each of four subjects, all of whom show the same 20 pictures."""
    return [
        replace(epochs[i % 20], subject="ABCD"[i // 60], sample_id=f"e{i:03d}") for i in range(240)
    ]


def folds_of(turns: tuple[int, int] = (8, 9)) -> Iterator[Fold]:
    yield Fold(("B", "A"), ("C", "D"), Turned(turns[0]), "w1")
    yield Fold(("C", "D"), ("A", "B"), Turned(turns[1]), "w2")


@pytest.fixture
def reference(workspace: Workspace, side: list[Epoch], tmp_path: Path) -> np.ndarray:
    path = tmp_path / "reference.npy"
    export(Turned(7), side, workspace.images("ft"), path, device=CPU)
    return np.load(path)


def merged(
    folds: Iterator[Fold],
    side: list[Epoch],
    workspace: Workspace,
    reference: np.ndarray,
    trained_on: str = "ABCD",
) -> OutOfFold:
    return export_out_of_fold(
        folds,
        side,
        workspace.images("ft"),
        (reference, tuple(trained_on)),
        workspace.features("ft"),
        export=partial(export, device=CPU),
    )


def test_rows_of_all_folds_lie_in_the_space_of_the_reference(
    workspace: Workspace, side: list[Epoch], reference: np.ndarray
) -> None:
    done = merged(folds_of(), side, workspace, reference)
    rows = np.load(workspace.features("ft"))
    np.testing.assert_allclose(rows, reference, atol=0.02)
    assert done.fold == tuple(1 if epoch.subject in "AB" else 2 for epoch in side)
    assert [(card.number, card.held_out) for card in done.cards] == [
        (1, ("A", "B")),
        (2, ("C", "D")),
    ]
    assert [card.weights_sha256 for card in done.cards] == ["w1", "w2"]
    assert all(card.fitted_on == 120 and "Procrustes" in card.method for card in done.cards)
    assert all(card.residual < 1e-4 for card in done.cards)
    np.testing.assert_allclose(done.probabilities.sum(1), 1, rtol=1e-5)

    ids = tuple(epoch.sample_id for epoch in side)
    sidecar = Sidecar(ids, "x", "ref", "", fold=done.fold, folds=done.cards)
    write_sidecar(workspace.features("ft"), sidecar)
    table = load_features(workspace.features("ft"), ids)
    np.testing.assert_array_equal(table[ids[5]], rows[5])
    assert table.weights_sha256 == "ref"


def test_held_out_rows_have_no_part_in_the_fit(
    workspace: Workspace, side: list[Epoch], reference: np.ndarray
) -> None:
    """Poison what the reference says of the held-out subjects: their rows stay as they were."""
    merged(folds_of(), side, workspace, reference)
    clean = np.load(workspace.features("ft"))
    held_out = np.array([epoch.subject in "AB" for epoch in side])
    poisoned = reference.copy()
    poisoned[held_out] = np.random.default_rng(0).standard_normal(poisoned[held_out].shape)
    merged(folds_of(), side, workspace, poisoned)
    rows = np.load(workspace.features("ft"))
    np.testing.assert_array_equal(rows[held_out], clean[held_out])
    # Fold 2 is fitted on these subjects, and shows that the poison works.
    assert not np.allclose(rows[~held_out], clean[~held_out], atol=1)


def test_rows_are_those_of_the_module_that_did_not_see_the_subject(
    workspace: Workspace, side: list[Epoch], reference: np.ndarray
) -> None:
    class Half(Turned):
        """Is blind to what the reference cannot tell from noise; leaves its mark."""

        def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features, logits = super().forward(pictures)
            logits = torch.zeros_like(logits)
            logits[:, 3] = 50
            return features, logits

    pair = [Fold(("A", "B"), ("C", "D"), Half(8), "w1"), list(folds_of())[1]]
    done = merged(iter(pair), side, workspace, reference)
    marked = done.probabilities[:, 3] > 0.999
    assert marked.tolist() == [epoch.subject in "AB" for epoch in side]


@pytest.mark.parametrize(
    ("folds", "trained_on", "error", "message"),
    [
        (list(folds_of())[:1], "ABCD", ValueError, "no fold holds out subject C"),
        (list(folds_of())[:1] * 2, "ABCD", ValueError, "fold 2 holds out a subject of another"),
        ([Fold(("A",), ("A", "B"), Turned(1), "")], "ABCD", ValueError, "held-out subjects: A"),
        ([Fold(tuple("ABCD"), (), Turned(1), "")], "ABCD", EegToolError, "subjects have 0 epochs"),
    ],
    ids=["a subject left", "a subject twice", "leak", "nobody to fit on"],
)
def test_folds_that_do_not_fit_leave_nothing_behind(
    workspace: Workspace,
    side: list[Epoch],
    reference: np.ndarray,
    folds: list[Fold],
    trained_on: str,
    error: type[Exception],
    message: str,
) -> None:
    path = workspace.features("ft")
    before = {p.name: p.stat().st_size for p in path.parent.iterdir()}
    with pytest.raises(error, match=message):
        merged(iter(folds), side, workspace, reference, trained_on)
    assert {p.name: p.stat().st_size for p in path.parent.iterdir()} == before
