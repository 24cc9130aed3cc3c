"""What each rank of the training runs; started by torchrun, never by hand.

``python -m torch.distributed.run --nproc-per-node N -m eegtool.extract.train PLAN.json``, where the plan
is what the parent (`eegtool.extract.step`) checked and wrote.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch.distributed

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.extract.plan import TrainPlan
from eegtool.extract.training import train_module


def main() -> None:
    """Parse the launcher's command line and train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    try:
        train_module(TrainPlan.read(parser.parse_args().plan))
    except EegToolError as error:
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), markup=False)
        sys.exit(1)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
