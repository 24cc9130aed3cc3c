"""What each rank of `eegvlm stage` runs: its share of every night, by a model that it loads once.

``python -m eegtool.stage.rank FILE.json`` is started by torchrun (`eegtool.evaluate.launcher`). The parent
has drawn the nights; it joins the answers when all ranks have ended.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

from eegtool.core.errors import EegToolError
from eegtool.core.launching import this_rank
from eegtool.core.settings import AnswerMode, StageSettings, settings_from
from eegtool.core.workspace import read_json
from eegtool.evaluate.task import read_batch_size
from eegtool.prepare.nights import Prepared
from eegtool.prepare.unscored import read_drawn
from eegtool.scorings.cohorts import find_recordings
from eegtool.stage.results import words_file, workspace_of
from eegtool.stage.step import open_stager


def ask(settings: StageSettings, recordings: set[str], rank: int, ranks: int) -> None:
    """Answer this rank's share of the questions about some nights, and keep the answers beside them."""
    device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    stager = open_stager(settings, device)
    for night in find_recordings(settings.recordings):
        if night.recording not in recordings:
            continue
        workspace = workspace_of(settings.out, night.recording)
        folder = workspace.images("eval") / night.recording
        prepared = Prepared.from_card(night, read_json(workspace.night(night.recording)), folder)
        drawn = read_drawn(prepared, workspace, settings.channel or stager.requirements.channels)
        asked: list[tuple[AnswerMode, Path]] = [(settings.mode, workspace.answers)]
        if settings.explain == "all" and stager.writes_apart(settings.mode):
            asked.append(("generate", words_file(workspace)))
        with suppress(EegToolError):  # the parent meets it again, and leaves this night out
            for mode, answers_file in asked:
                stager.answers_about(
                    drawn,
                    mode=mode,
                    batch_size=read_batch_size(settings.batch_size),
                    answers_file=answers_file,
                    rank=rank,
                    ranks=ranks,
                )


def main() -> None:
    """Be the rank that torchrun says in the environment."""
    with this_rank() as (rank, ranks):
        asked = read_json(Path(sys.argv[1]))
        settings = settings_from(StageSettings, asked["settings"])
        ask(settings, set(asked["recordings"]), rank, ranks)


if __name__ == "__main__":
    main()
