from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from eegtool import doctor
from eegtool.options import DoctorSettings
from tests.test_cli import COMMANDS


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put packages before all others that fail in the ways in which packages fail."""
    for name, text in {
        "raises": f"raise ImportError('no {tmp_path}/lib/libfoo.so here')",
        "dies": "import os; print('last words'); os._exit(139)",
        "works": "print('hello')",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("broken")
def test_what_is_broken_is_an_answer() -> None:
    names = ["works", "raises", "dies", "is_not_there", "json"]
    imported, machine = doctor.probe(names, machine=False)
    assert list(imported) == names
    assert (imported["works"], imported["json"], machine) == ("", "", {})
    assert imported["raises"].startswith("ImportError: no ")
    assert "took the process with it (exit code 139)" in imported["dies"]
    assert "ModuleNotFoundError" in imported["is_not_there"]


def test_a_command_works_if_what_it_imports_does() -> None:
    assert list(doctor.COMMANDS) == COMMANDS
    answers = doctor.works({"mne": "ImportError: x", "deepspeed": ""}, {"cpp_compiler": True})
    assert answers["prepare"] == "no: mne: ImportError: x"
    assert answers["stage"].startswith("no")
    assert answers["report"] == "yes"
    answers = doctor.works({}, {"cpp_compiler": False, "gpus": []})
    assert answers["finetune"].startswith("yes, without DeepSpeed (--deepspeed none)")
    assert doctor.works({}, {"cpp_compiler": False, "gpus": [{}]})["finetune"] == "yes"


def test_versions_that_do_not_fit() -> None:
    assert doctor._fits("2.13.0", ">=2.11,!=2.13.0") is False
    assert doctor._fits("2.14.1", ">=2.11,!=2.13.0") is True
    assert doctor._fits("", ">=1") is None
    names = {p.name for p in doctor.packages()}
    assert {"torch", "mne", "typer", "wandb"} <= names


@pytest.mark.usefixtures("broken")
def test_nothing_tells_who_and_where_one_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("SECRET_TOKEN", "hf_verysecret")
    monkeypatch.setattr(getpass, "getuser", lambda: "someuser")
    monkeypatch.setattr(socket, "gethostname", lambda: "somehost")
    probe = doctor.probe
    monkeypatch.setattr(doctor, "probe", lambda names: probe(["raises"], machine=False))
    row: Any = doctor.Package("raises", "", "", "1.0", True)
    monkeypatch.setattr(doctor, "packages", lambda: iter([row]))
    doctor.run(DoctorSettings(tmp_path, json=True))
    out = capsys.readouterr().out
    assert json.loads(out)["packages"][0]["problem"] == "ImportError: no …/libfoo.so here"
    doctor.run(DoctorSettings(tmp_path))
    out += capsys.readouterr().out
    assert "cannot be imported: ImportError: no …/libfoo.so here" in out
    for secret in ("hf_verysecret", "someuser", "somehost", str(tmp_path), str(Path.home()) + "/"):
        assert secret not in out
    told = doctor.clean("at somehost: /home/someuser/a b, by someuser")
    assert told == "at HOST: …/someuser/a b, by USER" or "someuser" not in told


def test_a_model_is_described(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(DoctorSettings(model=str(tiny), json=True))
    told = json.loads(capsys.readouterr().out)
    assert told["family"] == "llava"
    assert told["pictures"] == "64 px: 32 image tokens per epoch (fusion add)"
    trained = told["trained by LoRA of rank 128"]
    assert 0 < trained["projector"] == told["parameters"]["projector"]
    doctor.run(DoctorSettings(model=str(tiny)))
    assert "image tokens per epoch" in capsys.readouterr().out
