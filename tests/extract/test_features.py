from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.extract.features import (
    FEATURE_DIM,
    Sidecar,
    load_features,
    sidecar_path,
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
    "cannot be read: .*objects": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
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
        ([*IDS[:2], IDS[3], IDS[2], *IDS[4:]], [f"row 2 is '{IDS[2]}'", f"and '{IDS[3]}' in"]),
        ([f"x{i}" for i in range(5)], ["5 only in the question file (x0, x1, x2, …)"]),
    ],
    ids=["missing", "extra", "another", "reordered", "many"],
)
def test_rows_of_other_epochs_are_refused(path: Path, asked: list[str], named: list[str]) -> None:
    with pytest.raises(EegToolError) as caught:
        load_features(path, asked)
    for words in named:
        assert words in caught.value.what


def test_sidecar_of_another_length_is_refused(path: Path) -> None:
    np.save(path, rows_of(5))
    with pytest.raises(EegToolError, match="has 5 rows, but its sidecar names 6 epochs"):
        load_features(path, IDS)
    with pytest.raises(ValueError, match="5 rows for 6 sample ids"):
        write_features(path, rows_of(5), sidecar_of(IDS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ('{"backbone": "resnet18"}', "is not a features sidecar"),
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
    ],
    ids=["no JSON", "too little", "something else", "an id twice"],
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
    with pytest.raises(OSError, match="No space"):
        write_features(path, rows_of(6)[::-1], sidecar_of(IDS[::-1]))
    assert not sidecar_path(path).exists()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
