from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from eegtool import __version__
from eegtool.core import workspace as module
from eegtool.core.errors import EegToolError
from eegtool.core.workspace import (
    Workspace,
    atomic_path,
    check_folder,
    check_same_pictures,
    find_picture,
    inside,
    jsonable,
    read_json,
    run_stamp,
    sha256_of,
    target_of,
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


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    store = tmp_path / "disk"
    store.mkdir()
    (tmp_path / "link").symlink_to("disk/file.txt")
    (tmp_path / "link of it").symlink_to(tmp_path / "link")
    for name, text in (("link", "new"), ("link of it", "newer")):
        with atomic_path(tmp_path / name) as tmp:
            assert tmp.parent == store  # a file takes no name on another disk
            tmp.write_text(text)
        assert (tmp_path / name).is_symlink()
        assert (store / "file.txt").read_text() == text
    assert [path.name for path in store.iterdir()] == ["file.txt"]


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with (
            pytest.raises(EegToolError, match=f"{name} is not a file"),
            atomic_path(tmp_path / name),
        ):
            pytest.fail("it was to be written")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["/dev/null", "/dev/full", "/dev/tty", "/proc/self"])
def test_devices_are_no_files(name: str) -> None:
    with pytest.raises(EegToolError, match=f"{name} (is not a file|cannot be written)"):
        target_of(Path(name))  # only looked at


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(EegToolError, match=r"a cannot be written: .*links"):
        target_of(tmp_path / "a")


@pytest.mark.parametrize(
    "refused",
    [
        *(OSError(n, os.strerror(n)) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)),
        OSError("1024 requested and 12 written"),  # NumPy's
    ],
    ids=str,
)
def test_a_disk_that_takes_no_more_is_a_message(tmp_path: Path, refused: OSError) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(EegToolError) as raised, atomic_path(path) as tmp:  # noqa: PT012
        tmp.write_text("half of the new")
        raise refused
    assert raised.value.what.startswith(f"{path} cannot be written: ")
    assert raised.value.fix
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_limit_on_the_size_of_files_is_a_message(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from eegtool.core.errors import EegToolError\n"
        "from eegtool.core.workspace import write_json\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
        "try:\n    write_json(Path(sys.argv[1]), 'x' * 5000)\n"
        "except EegToolError as error:\n    print(error.what)\n"
    )
    path = tmp_path / "file.json"
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{path} cannot be written: File too large.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_a_folder_that_takes_no_file_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(EegToolError) as raised:
        write_json(tmp_path / "x.json", {})
    assert raised.value.what == f"{tmp_path}/x.json cannot be written: {os.strerror(number)}."


def test_an_error_about_another_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), atomic_path(tmp_path / "x"):
        (tmp_path / "input").read_text()


def test_two_writers_of_a_file_end_well_and_the_last_wins(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_path(path) as first:
        first.write_text("first")
        with atomic_path(path) as second, atomic_path(path) as third:
            second.write_text("second")
            third.write_text("third")
        assert path.read_text() == "second"
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_in_another_process_is_alive_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    program = (
        "import sys\nfrom pathlib import Path\nfrom eegtool.core.workspace import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as tmp:\n"
        "    print(tmp, flush=True)\n    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        write_json(path, 1)
        assert theirs.exists()
        other.kill()
    write_json(path, 2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("refused", [OSError(errno.ENOLCK, "No locks available"), ImportError()])
def test_where_nothing_can_be_locked_files_are_written_and_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Exception
) -> None:
    def no_lock(path: Path) -> None:
        raise refused

    monkeypatch.setattr(module, "open_locked", no_lock)
    (tmp_path / ".x.json.4711.tmp").touch()
    write_json(tmp_path / "x.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", ".x.json.4711.tmp"}


def test_a_folder_is_looked_at_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_folder(tmp_path / "to" / "be made", "The folder")
    assert not (tmp_path / "to").exists()
    (tmp_path / "file").touch()
    with pytest.raises(
        EegToolError, match=f"The folder {tmp_path}/file/x cannot be written: .*file"
    ):
        check_folder(tmp_path / "file" / "x", "The folder")
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path)
    with pytest.raises(EegToolError, match=f"no permission to write in {tmp_path}"):
        check_folder(tmp_path / "to" / "be made", "The folder")
