from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from eegtool import __version__
from eegtool.core import workspace as module
from eegtool.core.errors import EegToolError
from eegtool.core.workspace import (
    Workspace,
    atomic_path,
    check_same_pictures,
    find_picture,
    inside,
    jsonable,
    read_json,
    run_stamp,
    sha256_of,
    write_json,
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("epochs", "epochs.csv"),
        ("prepare_stamp", "prepare.json"),
        ("conversations", "eeg_ft.json"),
        ("questions", "eeg_eval.jsonl"),
        ("vision_module", "vision_module"),
        ("checkpoints", "checkpoints"),
        ("answers", "answers/eeg_answers.jsonl"),
        ("report", "report"),
    ],
)
def test_names_of_the_recipe(name: str, path: str) -> None:
    assert getattr(Workspace(Path("ws")), name) == Path("ws") / path


@pytest.mark.parametrize(
    ("split", "images", "features"),
    [
        ("ft", "eeg_images_ft", "train_high_level_features.npy"),
        ("eval", "eeg_images_eval", "eval_high_level_features.npy"),
    ],
)
def test_names_per_side(split: str, images: str, features: str) -> None:
    assert Workspace(Path("ws")).images(split) == Path("ws") / images
    assert Workspace(Path("ws")).features(split) == Path("ws") / features


def test_atomic_path_makes_folders_and_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic_path(path) as tmp:
        tmp.write_text("new")
        assert not path.exists()
        assert tmp.parent == path.parent
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_on_failure(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(stop), atomic_path(path) as tmp:  # noqa: PT012 - the block is what is tested
        tmp.write_text("half of the new")
        raise stop
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_takes_away_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / ".file.txt.4711.tmp").write_text("half")
    (tmp_path / ".other.txt.4711.tmp").write_text("not ours")
    with atomic_path(tmp_path / "file.txt") as tmp:
        tmp.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", ".other.txt.4711.tmp"}


@pytest.mark.parametrize("name", ["a.png", "SC4001E0/a.png", "..a.png", "./a.png", "x//a.png"])
def test_inside_gives_paths_in_the_folder(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["../a.png", "x/../../a.png", "x/../a.png", "/etc/passwd", "x/..", "..\\a.png", "\\a"]
)
def test_inside_refuses_to_leave_the_folder(tmp_path: Path, name: str) -> None:
    """Even where it would come back: behind a link, ".." is not the folder before it."""
    with pytest.raises(EegToolError) as raised:
        inside(tmp_path, name)
    assert f"'{name}' leaves the image folder {tmp_path}" in raised.value.what


def test_links_of_the_owner_are_followed(tmp_path: Path) -> None:
    """A picture, the folder of a night and the image folder itself, as annexes and scratch disks have them."""
    store = tmp_path / "store" / "SC4001E0"
    store.mkdir(parents=True)
    (store / "a.png").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").symlink_to(store / "a.png")
    (tmp_path / "images" / "SC4001E0").symlink_to(store)
    (tmp_path / "all").symlink_to("images")
    for folder in ("images", "all"):
        for name in ("a.png", "SC4001E0/a.png"):
            assert find_picture(tmp_path / folder, name, "epoch 'e'") == tmp_path / folder / name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.png", "gone.png of epoch 'e' does not exist"),
        ("a.png/b.png", "b.png of epoch 'e' does not exist"),
        ("\0.png", "of epoch 'e' does not exist"),
        ("night", "night of epoch 'e' is a folder"),
        ("", "of epoch 'e' is a folder"),
        ("loop.png", "is a link that leads back to itself"),
        ("left.png", "is a link that leads back to itself"),
        ("annexed.png", "is a link to .git/annex/objects/x, which does not exist"),
        ("scratch/a.png", "lies behind the link {folder}/scratch to {folder}/gone, which does not"),
        ("x" * 300, "cannot be reached: File name too long"),
    ],
)
def test_what_keeps_a_picture_from_being_found_is_said(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "night").mkdir()
    links = {"loop.png": "loop.png", "left.png": "right.png", "right.png": "left.png"}
    links |= {"annexed.png": ".git/annex/objects/x", "scratch": str(tmp_path / "gone")}
    for link, to in links.items():
        (tmp_path / link).symlink_to(to)
    with pytest.raises(EegToolError) as raised:
        find_picture(tmp_path, name, "epoch 'e'")
    assert said.format(folder=tmp_path) in raised.value.what
    assert "links" in raised.value.fix


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"unit": "µV", "n": [1, 2]})
    assert read_json(path) == {"unit": "µV", "n": [1, 2]}
    assert "µV" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"[1]", "is not a JSON object"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
    ],
)
def test_read_json_names_the_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EegToolError, match=message) as raised:
        read_json(path)
    assert str(path) in raised.value.what


def test_pictures_drawn_alike_go_together() -> None:
    drawn = {"style": "waveform", "size": 64, "split": "by subject"}
    check_same_pictures(drawn, drawn | {"split": "by night"}, "A and B")
    check_same_pictures(drawn, {}, "A and B")
    with pytest.raises(EegToolError) as raised:
        check_same_pictures(drawn, drawn | {"size": 336, "style": "spectrogram"}, "A and B")
    assert raised.value.what == (
        "A and B come from differently drawn pictures: style waveform and spectrogram, size 64 and 336."
    )


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_jsonable() -> None:
    value = {1: (Path("a"), [Path("b")], None), "x": {"y": ("z", 0.5, True)}}
    assert jsonable(value) == {"1": ["a", ["b"], None], "x": {"y": ["z", 0.5, True]}}


@dataclass(frozen=True)
class Settings:
    workspace: Path = Path("ws")
    recordings: tuple[Path, ...] = (Path("a"), Path("b"))
    out: Path | None = None
    seed: int = 7


@pytest.fixture
def stamp_input(tmp_path: Path) -> Path:
    path = tmp_path / "input.edf"
    path.write_bytes(b"abc")
    return path


def test_run_stamp(stamp_input: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/eegvlm", "prepare", "--seed", "7"])
    stamp = run_stamp(
        "prepare",
        Settings(),
        inputs={"input.edf": stamp_input},
        protocol={"channel": "EEG Fpz-Cz", "edges": (0.3, 35.0)},
        results={"kept": {"SC4001E0": 841}},
    )
    assert json.loads(json.dumps(stamp)) == stamp
    finished = datetime.fromisoformat(stamp.pop("finished"))
    assert finished.tzinfo is not None
    versions = stamp.pop("versions")
    assert {"python", "torch", "mne", "numpy"} <= set(versions)
    commit = stamp.pop("git_commit")
    assert commit is None or len(commit) == 40
    assert stamp == {
        "tool": f"eegvlm {__version__}",
        "step": "prepare",
        "status": "complete",
        "argv": ["prepare", "--seed", "7"],
        "settings": {"workspace": "ws", "recordings": ["a", "b"], "out": None, "seed": 7},
        "inputs": {"input.edf": hashlib.sha256(b"abc").hexdigest()},
        "protocol": {"channel": "EEG Fpz-Cz", "edges": [0.3, 35.0]},
        "results": {"kept": {"SC4001E0": 841}},
    }


def test_run_stamp_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    monkeypatch.setattr(module, "_STAMPED_PACKAGES", ("numpy", "no-such-package-here"))
    stamp = run_stamp("report", Settings(), inputs={}, protocol={}, results={})
    assert stamp["git_commit"] is None
    assert list(stamp["versions"]) == ["python", "numpy"]
