"""Trains several plans one after the other in the same ranks: an import of torch costs seven seconds.

Started by the launcher in place of `eegtool.finetune.rank`, with a file that holds the environment, as a
plan does, and the paths of the plans.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from eegtool.finetune.rank import set_environment


def main() -> None:
    file = Path(sys.argv[-1])
    set_environment(file)
    from accelerate.state import AcceleratorState

    from eegtool.finetune import train
    from eegtool.finetune.plan import Plan

    for path in json.loads(file.read_text())["plans"]:
        train.run(Plan.read(Path(path)))
        gc.collect()  # transformers knows of ZeRO-3 as long as the last training's arguments live
        AcceleratorState._reset_state(reset_partial_state=True)


if __name__ == "__main__":
    main()
