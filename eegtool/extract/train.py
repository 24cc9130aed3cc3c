"""The ranks of a training on several GPUs, and the launcher that starts them; never started by hand.

``python -m eegtool.extract.train --ranks N PLAN.json`` starts N ranks by torchrun, each of which runs
``python -m eegtool.extract.train PLAN.json``; the plan is what the parent (`eegtool.extract.trained`)
checked and wrote.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch.distributed
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.extract.plan import TrainPlan
from eegtool.extract.training import train_module


def main() -> None:
    """Start the ranks, or be one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=0)
    parser.add_argument("plan", type=Path)
    options = parser.parse_args()
    if options.ranks:
        _start(options.plan, options.ranks)
        return
    try:
        train_module(TrainPlan.read(options.plan))
    except EegToolError as error:
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), markup=False)
        sys.exit(1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _start(plan: Path, ranks: int) -> None:
    """Run torchrun in this process; of a rank that failed it would print 40 lines more than the rank said."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    nodes = ["--standalone", "--nproc-per-node", str(ranks)]
    try:
        torchrun.main([*nodes, "-m", "eegtool.extract.train", str(plan)])
    except ChildFailedError as error:
        sys.exit(error.get_first_failure()[1].exitcode or 1)


if __name__ == "__main__":
    main()
