from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mne.datasets.sleep_physionet import age
from requests.exceptions import HTTPError
from requests.models import Response

from eegtool.core.errors import EegToolError
from eegtool.prepare.download import download, parse_subjects
from eegtool.scorings.cohorts import find_nights


@pytest.mark.parametrize(
    ("text", "subjects"),
    [
        ("0", (0,)),
        ("0-4,7", (0, 1, 2, 3, 4, 7)),
        (" 7 , 0 - 2 ", (0, 1, 2, 7)),
        ("3,1-3,3-3", (1, 2, 3)),
        ("00-02", (0, 1, 2)),
    ],
)
def test_subjects(text: str, subjects: tuple[int, ...]) -> None:
    assert parse_subjects(text) == subjects


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "4-0", "-1", "1-2-3", "a", "1.5", "0–4", "٣", "1 2"]
)
def test_no_subjects(text: str) -> None:
    with pytest.raises(EegToolError) as raised:
        parse_subjects(text)
    assert raised.value.what.startswith(f"--subjects '{text}': ")
    assert "0-4,7" in raised.value.fix


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put a fetcher in the place of MNE's that makes empty files; return whom it was asked for."""
    asked: list[int] = []

    def fetch_data(subjects: list[int], *, path: str, **options: Any) -> list[list[str]]:
        assert options == {"on_missing": "ignore", "verbose": "ERROR"}
        asked.extend(subjects)
        pairs = []
        for key in (f"SC4{s:02d}{n}" for s in subjects for n in (1, 2) if (s, n) != (13, 2)):
            names = [f"{key}E0-PSG.edf", f"{key}EC-Hypnogram.edf"]
            files = [Path(path) / "physionet-sleep-data" / name for name in names]
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
            pairs.append([str(file) for file in files])
        return pairs

    monkeypatch.setattr(age, "fetch_data", fetch_data)
    return asked


def test_what_is_fetched_can_be_found(fetched: list[int], tmp_path: Path) -> None:
    files = download("sleep-edf", "12-13,0", tmp_path / "data")
    assert fetched == [0, 12, 13]
    assert len(files) == 10
    nights = find_nights(files).nights
    assert [n.recording[:6] for n in nights] == ["SC4001", "SC4002", "SC4121", "SC4122", "SC4131"]
    assert all(n.hypnogram_path for n in nights)


def test_subjects_that_do_not_exist(fetched: list[int], tmp_path: Path) -> None:
    with pytest.raises(EegToolError) as raised:
        download("sleep-edf", "38-39,67-70,83", tmp_path)
    assert raised.value.what.endswith("has no subject 39, 68, 69, 83.")
    assert "0-38, 40-67, 70-77 and 80-82" in raised.value.fix
    assert fetched == []


def test_cohort_that_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="Unknown cohort to download 'nsrr'"):
        download("nsrr", "0", tmp_path)


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Through all of MNE's own code, down to the name of the server.
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(EegToolError) as raised:
        download("sleep-edf", "0", tmp_path)
    assert raised.value.what == (
        "Subject 0 of Sleep-EDF cannot be fetched: there is no network connection to physionet.org."
    )
    for word in ("wget", "SC400*.edf", "https://physionet.org/files/sleep-edfx", "eegvlm prepare"):
        assert word in raised.value.fix
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def not_found() -> HTTPError:
    response = Response()
    response.status_code = 404
    return HTTPError("404 Client Error", response=response)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (not_found, "physionet.org answers 404"),
        (lambda: ValueError("SHA1 hash of downloaded file (x) does not match"), "came damaged"),
        (lambda: OSError(errno.ENOSPC, "No space left on device", "x"), "No space left on device"),
        (lambda: PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
    ],
)
def test_other_troubles(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: Callable[[], Exception],
    what: str,
) -> None:
    def fetch_data(*_: object, **__: object) -> None:
        raise error()

    monkeypatch.setattr(age, "fetch_data", fetch_data)
    with pytest.raises(EegToolError) as raised:
        download("sleep-edf", "5", tmp_path)
    assert what in raised.value.what
    assert raised.value.fix
