from __future__ import annotations

from pathlib import Path

from eegtool.core.settings import FinetuneSettings
from eegtool.core.workspace import Workspace
from eegtool.finetune.plan import Plan
from eegtool.finetune.step import make_plan


def test_every_rank_reads_what_the_parent_wrote(workspace: Workspace, tmp_path: Path) -> None:
    settings = FinetuneSettings("tiny", workspace=workspace.root, deepspeed="none")
    plan = make_plan(settings, tmp_path / "run")
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
