"""What a release holds, and that it works without the folder it was made in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import eegtool

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the wheel and the source archive."""
    out = str(tmp_path_factory.mktemp("dist"))
    builders = (WheelBuilder(str(ROOT)), SdistBuilder(str(ROOT)))
    wheel, archive = (Path(next(builder.build(directory=out))) for builder in builders)
    return wheel, archive


def tracked(*folders: str) -> set[str]:
    """Return the files in some folders that git does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in found.stdout.splitlines() if (ROOT / name).exists()}


def test_a_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    presets = {f"eegtool/finetune/presets/{path.name}" for path in (ROOT / "scripts").glob("zero*")}
    assert len(presets) == 3
    assert names == tracked("eegtool") | presets
    assert built[0].name == f"eegvlm-{eegtool.__version__}-py3-none-any.whl"


def test_an_archive_holds_what_git_knows(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == tracked() | {"PKG-INFO"}


def test_its_metadata_can_be_shown(built: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_it_works_where_it_is_installed(built: tuple[Path, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.unpack_archive(built[0], site, "zip")  # how a pure wheel is installed
    environment = os.environ | {"PYTHONPATH": str(site), "DS_ACCELERATOR": "cpu"}
    asked = "import eegtool, pathlib; print(pathlib.Path(eegtool.__file__).parent.parent)"
    for words, answer in (
        (["-c", asked], str(site)),
        (["-m", "eegtool", "demo", "--nights-only", "--out", "lab"], "lab/recordings"),
    ):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert answer in done.stdout.replace("\n", "")
    assert len(list((tmp_path / "lab" / "recordings").glob("*-PSG.edf"))) == 7
