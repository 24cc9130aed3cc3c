from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_conversations, read_questions
from eegtool.core.workspace import Workspace
from eegtool.extract import imported
from eegtool.extract.features import (
    FEATURE_DIM,
    Sidecar,
    load_features,
    sidecar_path,
    write_sidecar,
)
from eegtool.extract.imported import import_features, read_ids


def rows_of(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 1, FEATURE_DIM)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "\ufeffa\n\n b \r\n"),
        ("ids.json", '["a", "b"]'),
        ("epochs.csv", 'stage,sample_id\nW,a\n"N1",b\n'),
    ],
)
def test_ids_are_read_in_three_forms(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_ids(tmp_path / name) == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ids.json", '["a", 2]', "not a list of sample ids"),
        ("ids.json", '{"a": 1}', "not a list of sample ids"),
        ("ids.json", "[", "is not JSON"),
        ("ids.json", "[" * 100_000, "ids.json, line 1: cannot be read: it is nested"),
        ("ids.json", '["a",\n"\\ud83d"]', "ids.json, line 2: cannot be read: .* half of"),
        ("ids.json", f"[{'1' * 5000}]", "ids.json, line 1: cannot be read: a number"),
        ("ids.csv", "id\na\n", "not a list of sample ids"),
        ("ids.csv", "stage,sample_id\nW\n", "not a list of sample ids"),
        ("ids.npy", "a", "not a list of sample ids"),
        ("ids.txt", None, "does not exist"),
    ],
)
def test_other_id_files_are_refused(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(EegToolError, match=message):
        read_ids(tmp_path / name)


def ids_of(workspace: Workspace) -> dict[str, list[str]]:
    return {
        "ft": [row.sample_id for row in read_conversations(workspace.conversations)],
        "eval": [row.sample_id for row in read_questions(workspace.questions)],
    }


@pytest.fixture
def made_elsewhere(workspace: Workspace, tmp_path: Path) -> tuple[Path, Path]:
    """Return rows of both sides in one file, in an order of its own, and their ids."""
    ids = sorted(chain(*ids_of(workspace).values()), key=lambda sample_id: sample_id[::-1])
    (tmp_path / "mine.txt").write_text("\n".join(ids))
    np.save(tmp_path / "mine.npy", rows_of(len(ids)))
    return tmp_path / "mine.npy", tmp_path / "mine.txt"


def test_imported_rows_are_joined_by_id_into_the_order_of_the_json_files(
    workspace: Workspace, made_elsewhere: tuple[Path, Path]
) -> None:
    npy, ids_file = made_elsewhere
    assert import_features(npy, ids_file, workspace) == {"ft": 20, "eval": 10}
    given = dict(zip(read_ids(ids_file), rows_of(30), strict=True))
    for side, ids in ids_of(workspace).items():
        path = workspace.features(side)
        np.testing.assert_array_equal(np.load(path), [given[sample_id] for sample_id in ids])
        sidecar = json.loads(sidecar_path(path).read_text())
        assert sidecar["sample_ids"] == ids
        assert sidecar["backbone"] == "imported from mine.npy"
        table = load_features(path, ids)
        assert not table.by_order
        assert (table.weights_sha256, table.protocol) == ("", {})


def test_one_side_can_be_imported_by_itself(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ids_of(workspace)["eval"]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    np.save(tmp_path / "mine.npy", rows_of(10))
    before = workspace.features("ft").read_bytes()
    assert import_features(tmp_path / "mine.npy", tmp_path / "ids.json", workspace) == {"eval": 10}
    np.testing.assert_array_equal(np.load(workspace.features("eval")), rows_of(10))
    assert workspace.features("ft").read_bytes() == before
    assert "no epochs of the ft side" in " ".join(capsys.readouterr().out.split())


def test_the_files_of_the_recipe_are_enough(
    workspace: Workspace, made_elsewhere: tuple[Path, Path]
) -> None:
    workspace.epochs.unlink()
    workspace.prepare_stamp.unlink()
    assert import_features(*made_elsewhere, workspace) == {"ft": 20, "eval": 10}


def test_one_file_of_the_recipe_is_enough_for_its_side(workspace: Workspace) -> None:
    ids = ids_of(workspace)["ft"]
    workspace.questions.unlink()
    np.save(workspace.root / "mine.npy", rows_of(20))
    (workspace.root / "ids.txt").write_text("\n".join(ids))
    given = workspace.root / "mine.npy", workspace.root / "ids.txt"
    assert import_features(*given, workspace) == {"ft": 20}
    workspace.conversations.unlink()
    with pytest.raises(EegToolError, match=r"eeg_ft\.json does not exist"):
        import_features(*given, workspace)


def test_dead_features_are_warned_of_where_they_are_imported(
    workspace: Workspace, made_elsewhere: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(made_elsewhere[0], np.zeros((30, 1, FEATURE_DIM), np.float32))
    import_features(*made_elsewhere, workspace)
    assert "all 30 features are the same" in " ".join(capsys.readouterr().out.split())


def test_an_import_that_is_stopped_leaves_what_was_there(
    workspace: Workspace, made_elsewhere: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the last file of the second side no longer finds room."""
    before = {path: path.read_bytes() for path in workspace.root.iterdir() if path.is_file()}
    write, written = write_sidecar, []

    def full(path: Path, sidecar: Sidecar) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError("No space left on device")
        write(path, sidecar)

    monkeypatch.setattr(imported, "write_sidecar", full)
    names = set(workspace.root.iterdir())
    with pytest.raises(OSError, match="No space"):
        import_features(*made_elsewhere, workspace)
    assert set(workspace.root.iterdir()) == names
    assert {path: path.read_bytes() for path in before} == before


def drop_both(npy: Path, ids_file: Path) -> None:
    ids = read_ids(ids_file)
    kept = [i for i, sample_id in enumerate(ids) if not sample_id.endswith("0-0007")]
    ids_file.write_text("\n".join(ids[i] for i in kept))
    np.save(npy, rows_of(30)[kept])


def rename(npy: Path, ids_file: Path) -> None:
    ids_file.write_text(ids_file.read_text().replace("S03E0-0004", "S09E0-0004"))


def unknown_ids(npy: Path, ids_file: Path) -> None:
    ids_file.write_text("\n".join(f"x{i}" for i in range(30)))


def twice(npy: Path, ids_file: Path) -> None:
    ids_file.write_text(ids_file.read_text().replace("S03E0-0004", "S03E0-0005"))


def same_ids_on_both_sides(npy: Path, ids_file: Path) -> None:
    """As where each file of the recipe counts from 0."""
    questions = npy.parent / "workspace" / "eeg_eval.jsonl"
    questions.write_text(questions.read_text().replace("S03E0-0001", "S01E0-0001"))


def nan(npy: Path, ids_file: Path) -> None:
    rows = rows_of(30)
    rows[read_ids(ids_file).index("S03E0-0008"), 0, 5] = np.nan
    np.save(npy, rows)


MISFITS: dict[Callable[[Path, Path], object], str] = {
    lambda npy, _: np.save(npy, rows_of(29)): "has 29 rows and .*mine.txt 30 ids",
    lambda npy, _: np.save(npy, rows_of(30)[:, 0]): r"not float32 \[N, 1, 1024\]",
    lambda npy, _: np.save(npy, rows_of(30).astype(float)): r"not float32 \[N, 1, 1024\]",
    drop_both: (
        r"2 epochs of the ft side are not in it \(S01E0-0007, S02E0-0007\); "
        r"1 epochs of the eval side are not in it \(S03E0-0007\)\."
    ),
    rename: r"1 epochs of the eval .* \(S03E0-0004\); 1 of its ids are .* \(S09E0-0004\)",
    unknown_ids: r"30 of its ids are in neither JSON file \(x0, x1, x2, …\)",
    twice: "'S03E0-0005' occurs more than once",
    same_ids_on_both_sides: "'S01E0-0001' occurs more than once",
    nan: r"1 of the high-level features are not finite: S03E0-0008\.",
}


@pytest.mark.parametrize(("spoil", "message"), MISFITS.items())
def test_import_that_does_not_fit_changes_nothing(
    workspace: Workspace,
    made_elsewhere: tuple[Path, Path],
    spoil: Callable[[Path, Path], object],
    message: str,
) -> None:
    spoil(*made_elsewhere)
    before = {path.name: path.read_bytes() for path in workspace.root.iterdir() if path.is_file()}
    with pytest.raises(EegToolError, match=message):
        import_features(*made_elsewhere, workspace)
    after = {path.name: path.read_bytes() for path in workspace.root.iterdir() if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("n", "sides"), [(30, {"ft": 20, "eval": 10}), (20, {"ft": 20}), (10, {"eval": 10})]
)
def test_without_ids_rows_are_in_the_order_of_the_json_files(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], n: int, sides: Any
) -> None:
    rows = np.random.default_rng(1).standard_normal((n, 1, 1024)).astype(np.float32)
    np.save(tmp_path / "mine.npy", rows)
    assert import_features(tmp_path / "mine.npy", None, workspace) == sides
    assert "are taken in the order of eeg_" in capsys.readouterr().out
    found = np.concatenate([np.load(workspace.features(side)) for side in sides])
    assert np.array_equal(found, rows)


def test_rows_that_could_be_of_either_side_need_ids(workspace: Workspace, tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.ones((11, 1, 1024), np.float32))
    with pytest.raises(
        EegToolError, match=r"11 rows; there are 20 on the ft side, 10 on the eval"
    ) as e:
        import_features(tmp_path / "mine.npy", None, workspace)
    assert "--ids" in e.value.fix
