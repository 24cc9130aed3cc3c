"""What the launcher starts, once per rank: ``python -m eegtool.finetune.rank [--local_rank=N] PLAN.json``.

A launcher passes on few variables to other machines, and numbers GPUs that the user has named. So the
plan carries the environment, and it is set here before PyTorch is imported, which reads it only once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from eegtool.core.workspace import read_json


def set_environment(plan: Path) -> None:
    """Set what the plan carries, and what depends on the machine that this rank is on."""
    os.environ.update(read_json(plan)["environment"])
    ranks_here = int(os.environ.get("LOCAL_SIZE", "1"))  # DeepSpeed's launcher says it
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks_here)))
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


if __name__ == "__main__":
    set_environment(Path(sys.argv[-1]))
    from eegtool.finetune.train import main

    main()
