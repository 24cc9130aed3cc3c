from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import write_json
from eegtool.extract.features import (
    FEATURE_DIM,
    FoldCard,
    Sidecar,
    check_finite,
    load_features,
    read_sidecar,
    sidecar_path,
    unchanged,
    warn_if_by_order,
    write_features,
)

IDS = tuple(f"SC4001E0-{i:04d}" for i in range(6))


def rows_of(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 1, FEATURE_DIM)).astype(np.float32)


def sidecar_of(ids: tuple[str, ...]) -> Sidecar:
    return Sidecar(ids, "resnet18", "aa", "bb")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "eval_high_level_features.npy"
    write_features(path, rows_of(len(IDS)), sidecar_of(IDS))
    return path


def test_rows_come_back_by_id(path: Path) -> None:
    table = load_features(path, IDS)
    for sample_id, row in zip(IDS, rows_of(len(IDS)), strict=True):
        np.testing.assert_array_equal(table[sample_id], row)
    assert table[IDS[0]].dtype == np.float32
    assert table.weights_sha256 == "aa"
    assert not table.by_order


def test_file_is_not_read_into_memory(path: Path) -> None:
    assert isinstance(load_features(path, IDS).rows, np.memmap)


def test_sidecar_tells_what_made_the_rows(path: Path) -> None:
    told = json.loads((path.parent / "eval_high_level_features.json").read_text())
    assert told["sample_ids"] == list(IDS)
    assert told["backbone"] == "resnet18"


WRONG = {
    "float64": np.zeros((6, 1, FEATURE_DIM)),
    "float16": np.zeros((6, 1, FEATURE_DIM), np.float16),
    "no middle axis": np.zeros((6, FEATURE_DIM), np.float32),
    "two vectors": np.zeros((6, 2, FEATURE_DIM), np.float32),
    "narrow": np.zeros((6, 1, 512), np.float32),
}


@pytest.mark.parametrize("rows", WRONG.values(), ids=WRONG.keys())
def test_other_shapes_and_types_are_refused(path: Path, rows: np.ndarray) -> None:
    with pytest.raises(EegToolError, match=r"not float32 \[N, 1, 1024\]"):
        write_features(path, rows, sidecar_of(IDS))
    np.save(path, rows)
    with pytest.raises(EegToolError, match=r"not float32 \[N, 1, 1024\]"):
        load_features(path, IDS)


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, rows=rows_of(6))


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "does not exist": Path.unlink,
    "cannot be read": lambda path: path.write_bytes(b""),
    "cannot be read: mmap": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cannot be read: .*objects": lambda path: np.save(path, np.array([{}])),
    "cannot be read: the magic string": npz,
}


@pytest.mark.parametrize(("message", "spoil"), UNREADABLE.items(), ids=UNREADABLE.keys())
def test_unreadable_file_is_an_error_of_the_user(
    path: Path, message: str, spoil: Callable[[Path], object]
) -> None:
    spoil(path)
    with pytest.raises(EegToolError, match=message) as caught:
        load_features(path, IDS)
    assert str(path) in caught.value.what


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ([*IDS, "SC4002E0-0007"], ["1 only in the question file", "SC4002E0-0007"]),
        (list(IDS[:-1]), ["1 only in eval_high_level_features.npy", IDS[-1]]),
        (
            [*IDS[:-1], "SC4002E0-0007"],
            ["only in the question file (SC4002E0-0007)", f"features.npy ({IDS[-1]})"],
        ),
        ([f"x{i}" for i in range(5)], ["5 only in the question file (x0, x1, x2, …)"]),
    ],
    ids=["missing", "extra", "another", "many"],
)
def test_rows_of_other_epochs_are_refused(path: Path, asked: list[str], named: list[str]) -> None:
    with pytest.raises(EegToolError) as caught:
        load_features(path, asked)
    for words in named:
        assert words in caught.value.what


def test_rows_are_joined_by_id_whatever_their_order(path: Path) -> None:
    asked = load_features(path, IDS[::-1])
    np.testing.assert_array_equal(asked[IDS[1]], rows_of(6)[1])
    order = [3, 0, 5, 1, 4, 2]
    np.save(path, rows_of(6)[order])
    told = json.loads(sidecar_path(path).read_text())
    write_json(sidecar_path(path), told | {"sample_ids": [IDS[i] for i in order]})
    table = load_features(path, IDS)
    for sample_id, row in zip(IDS, rows_of(6), strict=True):
        np.testing.assert_array_equal(table[sample_id], row)


MOVED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "shuffled": (
        lambda rows: rows[[1, 0, 2, 4, 3, 5]],
        rf"4 of 6 rows are not .* epochs: {IDS[0]}, {IDS[1]}, {IDS[3]}, …\.",
    ),
    "changed": (lambda rows: rows + (np.arange(6) == 4)[:, None, None], rf"1 of 6 .*: {IDS[4]}\."),
    "first dropped": (lambda rows: rows[1:], f"5 rows, .* 6 epochs; the first .* '{IDS[0]}'"),
    "dropped": (lambda rows: np.delete(rows, 2, axis=0), f"has 5 rows, .* that of '{IDS[2]}'"),
    "last dropped": (lambda rows: rows[:-1], f"5 rows, but .* missing is that of '{IDS[5]}'"),
    "doubled": (lambda rows: rows[[0, 0, 1, 2, 3, 4, 5]], f"7 rows, .* '{IDS[1]}'"),
}


@pytest.mark.parametrize(("move", "message"), MOVED.values(), ids=MOVED.keys())
def test_rows_that_moved_behind_the_sidecars_back_are_refused(
    path: Path, move: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    np.save(path, move(rows_of(6)).astype(np.float32))
    with pytest.raises(EegToolError, match=message):
        load_features(path, IDS)


def test_sidecar_that_moved_is_refused(path: Path) -> None:
    told = json.loads(sidecar_path(path).read_text())
    write_json(sidecar_path(path), told | {"sample_ids": [IDS[1], IDS[0], *IDS[2:]]})
    with pytest.raises(EegToolError, match=f"2 of 6 rows .* epochs: {IDS[1]}, {IDS[0]}"):
        load_features(path, IDS)


def test_sidecar_of_version_0_1_is_read(path: Path) -> None:
    old = {"sample_ids": IDS, "backbone": "x", "weights_sha256": "aa", "images_sha256": "bb"}
    write_json(sidecar_path(path), old)
    assert load_features(path, IDS).weights_sha256 == "aa"
    np.save(path, rows_of(5))
    with pytest.raises(EegToolError, match=r"has 5 rows, but its sidecar names 6 epochs\."):
        load_features(path, IDS)


def test_sidecar_of_another_length_is_refused(path: Path) -> None:
    np.save(path, rows_of(5))
    with pytest.raises(EegToolError, match="has 5 rows, but its sidecar names 6 epochs"):
        load_features(path, IDS)
    with pytest.raises(ValueError, match="5 rows for 6 sample ids"):
        write_features(path, rows_of(5), sidecar_of(IDS))


def test_epoch_that_was_dropped_with_its_row_is_named(path: Path) -> None:
    np.save(path, np.delete(np.load(path), 2, axis=0))
    told = json.loads(sidecar_path(path).read_text())
    told["sample_ids"].remove(IDS[2])
    sidecar_path(path).write_text(json.dumps(told))
    with pytest.raises(EegToolError, match=rf"1 only in the question file \({IDS[2]}\)"):
        load_features(path, IDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"could be the sidecar of eval_high_level_features\.npy, cannot be read"),
        (json.dumps({"sample_ids": IDS}), "is not a features sidecar"),
        (json.dumps({"row_checks": "0" * 48}), "is not a features sidecar"),
        (json.dumps({"sample_ids": IDS, "colour": 1}), "is not a features sidecar"),
        (
            json.dumps(
                {
                    "sample_ids": [*IDS[:5], IDS[0]],
                    "backbone": "",
                    "weights_sha256": "",
                    "images_sha256": "",
                }
            ),
            f"'{IDS[0]}' occurs more than once",
        ),
        (json.dumps(asdict(sidecar_of(IDS)) | {"fold": [1, 2]}), "'fold' does not cover"),
        (
            json.dumps(asdict(sidecar_of(IDS)) | {"row_checks": "0" * 8}),
            "has checksums of 1 rows for",
        ),
        (json.dumps(asdict(sidecar_of(IDS)) | {"folds": [{}]}), "is not a features sidecar"),
        (json.dumps(asdict(sidecar_of(IDS)) | {"sample_ids": [1, 2]}), "must be text"),
        (json.dumps(asdict(sidecar_of(IDS)) | {"sample_ids": [["a"], ["b"]]}), "must be text"),
        (json.dumps(asdict(sidecar_of(IDS)) | {"row_checks": 5}), "must be text"),
    ],
    ids=[
        "no JSON",
        "too little",
        "without its ids",
        "something else",
        "an id twice",
        "too few folds",
        "too few checks",
        "no fold",
        "numbers as ids",
        "lists as ids",
        "a number as checks",
    ],
)
def test_broken_sidecar_is_an_error_of_the_user(path: Path, text: str, message: str) -> None:
    sidecar_path(path).write_text(text)
    with pytest.raises(EegToolError, match=message):
        load_features(path, IDS)


def test_bare_file_is_taken_by_order_with_a_warning(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sidecar_path(path).unlink()
    table = load_features(path, IDS)
    np.testing.assert_array_equal(table[IDS[4]], rows_of(6)[4])
    assert table.weights_sha256 == ""
    warn_if_by_order(path, table)
    assert "warning" in capsys.readouterr().out
    with pytest.raises(EegToolError, match="no sidecar and 6 rows for 5 epochs"):
        load_features(path, IDS[:5])


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"id": sample_id, "image": ["a.png"] * 2} for sample_id in IDS]),
        json.dumps(list(IDS)),
        json.dumps({"backbone": "resnet18", "dim": 1024}),
        json.dumps({"SC4001E0-0000": 0}),
        "null",
        "1024",
    ],
    ids=["samples", "ids", "what made them", "rows by id", "nothing", "a number"],
)
def test_json_that_is_something_else_is_not_a_sidecar(
    path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples and their features are called `own.json` and `own.npy` by many."""
    sidecar_path(path).write_text(text)
    assert read_sidecar(path) is None
    table = load_features(path, IDS)
    assert table.by_order
    np.testing.assert_array_equal(table[IDS[4]], rows_of(6)[4])
    warn_if_by_order(path, table)
    said = " ".join(capsys.readouterr().out.split())
    assert f"no sidecar ({sidecar_path(path).name} beside it is something else)" in said
    with pytest.raises(EegToolError, match="6 rows for 5 epochs") as raised:
        load_features(path, IDS[:5])
    assert "A sidecar is what `eegvlm extract` writes as NAME.json" in raised.value.fix
    assert not unchanged(path, sidecar_of(IDS))


def with_flat_rows(rows: np.ndarray) -> np.ndarray:
    rows[2], rows[4] = 0, 7.5
    return rows


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows * 0, "all 6 features are the same"),
        (lambda rows: np.repeat(rows[:1], 6, axis=0), "all 6 features are the same"),
        (lambda rows: np.full_like(rows, -3e-9), "all 6 features are the same"),
        (lambda rows: rows[:1] + rows * np.float32(1e-8), "all 6 features are the same"),
        (with_flat_rows, f"2 of 6 features are one number 1024 times ({IDS[2]}, {IDS[4]})"),
        (lambda rows: rows, ""),
        (lambda rows: rows * np.float32(1e-20), ""),
        (lambda rows: np.maximum(rows, 0), ""),
    ],
    ids=["zero", "one row", "a constant", "rounding", "some flat", "alive", "small", "rectified"],
)
def test_features_that_say_nothing_are_warned_of(
    path: Path, spoil: Callable[[Any], Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_features(path, spoil(rows_of(6)), sidecar_of(IDS))
    check_finite(path, load_features(path, IDS))
    found = " ".join(capsys.readouterr().out.split())
    assert said in found
    assert bool(said) is ("warning:" in found)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_all_features_are_held_to_be_finite(path: Path, value: float) -> None:
    rows = rows_of(6)
    rows[:, 0, 3] = value
    write_features(path, rows, sidecar_of(IDS))
    with pytest.raises(EegToolError, match=rf"6 of the .* not finite: {IDS[0]}, {IDS[1]}"):
        check_finite(path, load_features(path, IDS))


def test_no_warning_where_there_is_a_sidecar(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_if_by_order(path, load_features(path, IDS))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("n", [2, 3, 60])
def test_shuffled_gives_everybody_the_row_of_another(tmp_path: Path, n: int) -> None:
    path, ids = tmp_path / "features.npy", tuple(f"e{i}" for i in range(n))
    write_features(path, rows_of(n), sidecar_of(ids))
    row_of = load_features(path, ids, source="shuffled", seed=4).row_of
    assert sorted(row_of.values()) == list(range(n))
    assert all(row_of[sample_id] != i for i, sample_id in enumerate(ids))


def test_shuffling_is_repeatable(tmp_path: Path) -> None:
    path, ids = tmp_path / "features.npy", tuple(f"e{i}" for i in range(60))
    write_features(path, rows_of(60), sidecar_of(ids))
    orders = [load_features(path, ids, source="shuffled", seed=s).row_of for s in (4, 4, 5)]
    assert orders[0] == orders[1] != orders[2]
    table = load_features(path, ids, source="shuffled", seed=4)
    np.testing.assert_array_equal(table["e0"], rows_of(60)[orders[0]["e0"]])


def test_zero_gives_nothing(path: Path) -> None:
    row = load_features(path, IDS, source="zero")[IDS[0]]
    assert row.shape == (1, FEATURE_DIM)
    assert row.dtype == np.float32
    assert not row.any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_feature_that_is_no_number_is_refused_where_it_is_used(path: Path, value: float) -> None:
    rows = rows_of(6)
    rows[3, 0, 7] = value
    write_features(path, rows, sidecar_of(IDS))
    table = load_features(path, IDS)
    assert np.isfinite(table[IDS[2]]).all()
    with pytest.raises(EegToolError, match=f"'{IDS[3]}' is not finite"):
        table[IDS[3]]


def test_rows_never_stand_beside_the_ids_of_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(EegToolError, match="npy cannot be written: No space"):
        write_features(path, rows_of(6)[::-1], sidecar_of(IDS[::-1]))
    assert not sidecar_path(path).exists()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


FOLDED = replace(
    sidecar_of(IDS),
    protocol={"style": "spectrogram"},
    fold=(1, 1, 2, 2, 2, 1),
    folds=(
        FoldCard(1, ("A", "B"), "w1", "Procrustes", 120, 0.25),
        FoldCard(2, ("C",), "w2", "Procrustes", 99, 0.5),
    ),
)


def test_sidecar_tells_whose_fold_made_each_row(path: Path) -> None:
    write_features(path, rows_of(6), FOLDED)
    told = json.loads(sidecar_path(path).read_text())
    assert told["fold"] == [1, 1, 2, 2, 2, 1]
    assert told["folds"][0]["held_out"] == ["A", "B"]
    assert told["folds"][1]["residual"] == 0.5
    np.testing.assert_array_equal(load_features(path, IDS)[IDS[3]], rows_of(6)[3])
    with pytest.raises(ValueError, match="2 folds for 6 sample ids"):
        write_features(path, rows_of(6), replace(FOLDED, fold=(1, 2)))


PLANNED = replace(FOLDED, fold=None, folds=())
WEIGHTS = tuple(card.weights_sha256 for card in FOLDED.folds)


@pytest.mark.parametrize(
    "other",
    [
        {"sample_ids": IDS[::-1]},
        {"backbone": "another"},
        {"weights_sha256": "ab"},
        {"images_sha256": "ba"},
        {"code_sha256": "cc"},
        {"protocol": {"style": "waveform"}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_features_are_unchanged_only_if_nothing_they_depend_on_changed(
    path: Path, other: dict[str, Any]
) -> None:
    write_features(path, rows_of(6), FOLDED)
    assert unchanged(path, PLANNED, WEIGHTS)
    assert not unchanged(path, replace(PLANNED, **other), WEIGHTS)


def test_features_of_other_folds_are_not_unchanged(path: Path) -> None:
    write_features(path, rows_of(6), FOLDED)
    assert not unchanged(path, PLANNED, (*WEIGHTS[:-1], "w3"))
    assert not unchanged(path, PLANNED)


SPOILT: dict[str, Callable[[Path], object]] = {
    "rows changed": lambda path: np.save(path, rows_of(6)[::-1]),
    "rows missing": lambda path: np.save(path, rows_of(5)),
    "no rows": Path.unlink,
    "no sidecar": lambda path: sidecar_path(path).unlink(),
    "broken sidecar": lambda path: sidecar_path(path).write_text("{"),
    "no checksums": lambda path: write_json(sidecar_path(path), asdict(FOLDED)),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_features_that_are_not_whole_are_not_unchanged(
    path: Path, spoil: Callable[[Path], object]
) -> None:
    write_features(path, rows_of(6), FOLDED)
    spoil(path)
    assert not unchanged(path, PLANNED, WEIGHTS)
