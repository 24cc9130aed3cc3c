"""Packages that a GPU machine without a network lacks, carried along as wheels."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "wheels"

# What an image with PyTorch, transformers, scikit-learn and their like comes without, needs included; peft
# and timm may be there, but old.
LACKING = (
    *("deepspeed", "hjson", "pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("mne", "decorator", "pooch", "platformdirs", "edfio"),
    *("yasa", "antropy", "lspopt", "lightgbm", "peft", "timm"),
)
BUILT = ("deepspeed",)
"""Of these there are no wheels to download; one is built here, which fits every Python."""


def fetch() -> None:
    """Download them in the versions that are installed here, for Python 3.12 on Linux."""
    pip = [sys.executable, "-m", "pip"]
    target = ["--only-binary", ":all:", "--python-version", "312", "--implementation", "cp"]
    for platform in ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64"):
        target += ["--platform", platform]
    named = {name: f"{name}=={version(name)}" for name in LACKING}
    loaded = [pinned for name, pinned in named.items() if name not in BUILT]
    built = [named[name] for name in BUILT]
    where = str(FOLDER)
    subprocess.run([*pip, "download", "--no-deps", *target, "--dest", where, *loaded], check=True)
    building = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", where, *built]
    subprocess.run(building, check=True)
    n_bytes = sum(wheel.stat().st_size for wheel in FOLDER.glob("*.whl"))
    print(f"{where}: {n_bytes / 1e6:.0f} MB")


def required() -> set[str]:
    """Return the names of the packages that eegvlm needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = (re.match(r"[\w.-]+", line) for line in project["dependencies"])
    return {normal(match[0]) for match in found if match}


def normal(name: str) -> str:
    """Spell a name as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()
