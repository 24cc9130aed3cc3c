"""The workspace folder: names of all its files, writing that is whole or not at all, and run stamps."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, Final

from eegtool import __version__
from eegtool.core.errors import EegToolError, of_system
from eegtool.core.launching import open_locked
from eegtool.core.parsing import parse_json

_STAMPED_PACKAGES: Final = (
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "timm",
    "mne",
    "numpy",
    "scipy",
    "scikit-learn",
    "yasa",
)


_WRITTEN_BY: Final = {
    "epochs.csv": "prepare",
    "prepare.json": "prepare",
    "eeg_ft.json": "prepare",
    "eeg_eval.jsonl": "prepare",
    "eeg_answers.jsonl": "evaluate",
}

_DRAWN_BY: Final = (
    *("channel", "low_hz", "high_hz", "notch_hz", "resample_hz"),
    *("style", "size", "amplitude_uv", "marks", "context_epochs", "renderer"),
    *("montage", "strips"),
)
"""What of the protocol decides how the picture of an epoch looks."""

_UNSAID: Final[dict[str, Any]] = {"context_epochs": 0, "montage": "eeg", "strips": []}
"""What of it earlier versions did not say, because there was no choice."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where each file of a workspace is. ``split`` is ``"ft"`` or ``"eval"``."""

    root: Path

    @property
    def epochs(self) -> Path:
        """Table of all epochs."""
        return self.root / "epochs.csv"

    @property
    def prepare_stamp(self) -> Path:
        """Run stamp of prepare: how the pictures were made."""
        return self.root / "prepare.json"

    @property
    def split(self) -> Path:
        """Which subject is on which side; another workspace can take it over."""
        return self.root / "split.json"

    def night(self, recording: str) -> Path:
        """Card of one recording: what prepare made of it, and the hash of its pictures."""
        return self.root / "nights" / f"{recording}.json"

    @property
    def staging_dir(self) -> Path:
        """Folder in which prepare draws; what is whole in it is kept when prepare is interrupted."""
        return self.root / ".prepare.tmp"

    @property
    def conversations(self) -> Path:
        """Fine-tuning samples."""
        return self.root / "eeg_ft.json"

    @property
    def questions(self) -> Path:
        """Evaluation questions."""
        return self.root / "eeg_eval.jsonl"

    @property
    def vision_module(self) -> Path:
        """Folder of the trained vision module."""
        return self.root / "vision_module"

    @property
    def checkpoints(self) -> Path:
        """Folder of fine-tuned adapters, one folder per run."""
        return self.root / "checkpoints"

    @property
    def answers(self) -> Path:
        """Answers to the evaluation questions."""
        return self.root / "answers" / "eeg_answers.jsonl"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.root / "report"

    def protocol(self) -> dict[str, Any]:
        """Return how epochs and pictures were made, as prepare stamped it; empty without a stamp.

        Raises
        ------
        EegToolError
            If prepare was interrupted: what is there may belong to two runs.
        """
        if self.prepare_stamp.exists():
            return dict(read_json(self.prepare_stamp)["protocol"])
        if self.night("any").parent.exists() or self.staging_dir.exists():
            raise EegToolError(
                f"`eegvlm prepare` did not finish in {self.root}.", "Run it again: it continues."
            )
        return {}

    def sequence(self) -> dict[str, Any]:
        """Return how stages follow each other on the fine-tune side, as prepare stamped it.

        Empty where an earlier version did not: ``transitions``, counts ``[5][5]``, and ``stages``, how
        many epochs of each stage there are to train on.
        """
        if not self.prepare_stamp.exists():
            return {}
        return dict(read_json(self.prepare_stamp).get("sequence", {}))

    @property
    def signals(self) -> Path:
        """Folder of the filtered signals of whole nights."""
        return self.root / "signals"

    def images(self, split: str) -> Path:
        """Folder of the pictures of one split."""
        return self.root / f"eeg_images_{split}"

    def features(self, split: str) -> Path:
        """High-level features of one split (the recipe calls the fine-tune side ``train``)."""
        return self.root / f"{'train' if split == 'ft' else 'eval'}_high_level_features.npy"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to; it takes the name `path` only if the block succeeds.

    A link stays one: what it leads to is written. Several may write the same file at once, and the last to
    finish wins; what a killed one left behind goes.

    Raises
    ------
    EegToolError
        If `path` cannot be written: a device, a folder, a full disk, a lack of permission.
    """
    target = target_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with suppress(ImportError, OSError):  # where nothing can be locked, it may be at work
            if lock := open_locked(left):
                with lock:
                    left.unlink()
    tmp, lock = _temporary(target)
    try:
        yield tmp
        tmp.replace(target)
    except OSError as error:
        if error.filename not in (None, str(tmp)):  # about another file
            raise
        raise of_system(error, path) from error
    finally:
        tmp.unlink(missing_ok=True)
        if lock is not None:
            lock.close()


def _temporary(target: Path) -> tuple[Path, IO[str] | None]:
    """Return a new temporary sibling; as long as it is locked, its writer is alive."""
    while True:
        tmp = target.with_name(f".{target.name}.{token_hex(4)}.tmp")
        try:
            lock = open_locked(tmp)
        except (ImportError, OSError):  # no locks here; or the writer will fail, and say why
            return tmp, None
        if lock is not None:  # else somebody took it for a killed writer's, and removes it
            return tmp, lock


def target_of(path: Path) -> Path:
    """Return the file that is written at `path`: where that is a link, what it leads to.

    Raises
    ------
    EegToolError
        If there is something else than a file: a folder, a device, links in a circle.
    """
    try:
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        mode = path.stat().st_mode
    except FileNotFoundError:
        return target
    except OSError as error:
        raise of_system(error, path) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise EegToolError(f"{path} is not a file but {kind}.", "Give the path of a file.")
    return target


def check_folder(folder: Path, what: str) -> None:
    """Refuse a folder that cannot be written, before the work for it is done; nothing is made.

    Parameters
    ----------
    folder : Path
        There already, or to be made.
    what : str
        What it is, for the message.

    Raises
    ------
    EegToolError
        If it can neither be written nor made.
    """
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        may = os.access(there, os.W_OK | os.X_OK)
    except OSError as error:
        raise of_system(error, folder) from error
    if not there.is_dir():
        raise EegToolError(
            f"{what} {folder} cannot be written: {there} is a file.", "Take another path."
        )
    if not may:
        raise EegToolError(
            f"{what} {folder} cannot be written: there is no permission to write in {there}.",
            "Ask for it, or take another path.",
        )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(path) as tmp:
        tmp.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    EegToolError
        If the file is missing or holds no JSON object.
    """
    try:
        value = parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise EegToolError(f"{path} cannot be read: {error.strerror}.") from error
    if not isinstance(value, dict):
        raise EegToolError(f"{path} is not a JSON object.")
    return value


def missing(path: Path) -> EegToolError:
    """Return the error that `path` does not exist, naming the step that writes a file of that name."""
    step = _WRITTEN_BY.get(path.name)
    fix = f"Give the right path, or run `eegvlm {step}` first." if step else "Give the right path."
    return EegToolError(f"{path} does not exist.", fix)


def check_same_pictures(one: Mapping[str, Any], other: Mapping[str, Any], what: str) -> None:
    """Refuse to bring together what was made from pictures that were drawn in different ways.

    Parameters
    ----------
    one, other : mapping
        Protocols as prepare stamps them; what either does not say is not compared.
    what : str
        Which two things meet, for the message.

    Raises
    ------
    EegToolError
        Naming every difference.
    """
    one, other = ({**_UNSAID, **p} if "style" in p else p for p in (one, other))
    both = [k for k in _DRAWN_BY if k in one and k in other]
    differing = [f"{k} {_shown(one[k])} and {_shown(other[k])}" for k in both if one[k] != other[k]]
    if differing:
        raise EegToolError(
            f"{what} come from differently drawn pictures: {', '.join(differing)}.",
            "Run `eegvlm prepare` with the same settings, or the later steps again.",
        )


def _shown(value: Any) -> str:
    """Return a value of a protocol for a message: of the strips of a montage what they are."""
    if isinstance(value, list):
        rows = [row.values() if isinstance(row, Mapping) else [row] for row in value]
        return f"({'; '.join(' '.join(map(str, row)) for row in rows)})"
    return str(value)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``, refusing a name that leads out of the folder.

    Only names are looked at, which strangers may have written: links in the folder are its owner's
    (git-annex, DVC, a scratch disk), and are followed.

    Raises
    ------
    EegToolError
        If `name` is absolute or climbs.
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or (name and not parts[0]) or os.path.splitdrive(name)[0]:
        raise EegToolError(
            f"The image path '{name}' leaves the image folder {folder}.",
            "Image paths are relative to the image folder and stay inside it.",
        )
    return folder / name


def find_picture(folder: Path, name: str, whose: str) -> Path:
    """Return the file of a picture that a row names.

    Parameters
    ----------
    folder : Path
        The image folder.
    name : str
        Path of the picture inside it.
    whose : str
        What row it is, for the message, such as ``"sample 'SC4001E0-0123'"``.

    Raises
    ------
    EegToolError
        If the name leads out of the folder, or to no file.
    """
    path = inside(folder, name)
    if fault := fault_of(path):
        raise EegToolError(
            f"The picture {path} of {whose} {fault}.",
            "Check the image folder and its links, or run `eegvlm prepare` again.",
        )
    return path


def fault_of(path: Path) -> str:
    """Say what keeps a path from being a file, to follow its name in a message; empty if it is one."""
    try:
        mode = path.stat().st_mode
    except ValueError:  # a byte that no path has
        return "does not exist"
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a link that leads back to itself"
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return f"cannot be reached: {error.strerror}"
        for link in (path, *path.parents):
            if link.is_symlink() and not link.exists():
                where = "is a link" if link == path else f"lies behind the link {link}"
                return f"{where} to {link.readlink()}, which does not exist"
        return "does not exist"
    if stat.S_ISREG(mode):
        return ""
    return "is a folder" if stat.S_ISDIR(mode) else "is not a file"


def run_stamp(
    step: str,
    settings: Any,
    *,
    inputs: Mapping[str, Path | str],
    protocol: Mapping[str, Any],
    results: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe a finished run, so that its output can be trusted and repeated.

    Parameters
    ----------
    step : str
        Name of the command.
    settings : dataclass
        Its settings, seed included.
    inputs : mapping of str to Path or str
        Files it read, or their SHA-256 where that is known; the latter is stored.
    protocol : mapping
        What decides which epochs and pictures there are: channel, filter, wake rule, split, style, ...
    results : mapping
        What came out: counts, figures.
    """
    return {
        "tool": f"eegvlm {__version__}",
        "step": step,
        "status": "complete",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv[1:],
        "settings": jsonable(asdict(settings)),
        "versions": {"python": sys.version.split()[0], **_versions()},
        "git_commit": _git_commit(),
        "inputs": {k: v if isinstance(v, str) else sha256_of(v) for k, v in inputs.items()},
        "protocol": jsonable(dict(protocol)),
        "results": jsonable(dict(results)),
    }


def jsonable(value: Any) -> Any:
    """Turn paths into text and tuples into lists, all the way down."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _versions() -> dict[str, str]:
    versions = {}
    for package in _STAMPED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str | None:
    """Commit of this source tree, where it is a git checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():  # installed into somebody else's environment
        return None
    try:
        out = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return None
    return out.stdout.strip() or None
