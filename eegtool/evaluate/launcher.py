"""Starts the ranks of an evaluation, or of `eegvlm stage`, by torchrun.

``python -m eegtool.evaluate.launcher N MODULE FILE.json`` starts N times ``python -m MODULE FILE.json``. It
imports nothing of the model: only the ranks need that.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from eegtool.core.errors import EegToolError
from eegtool.core.launching import launch


def launch_ranks(module: str, file: Path, ranks: int, *, kept_open: Sequence[int] = ()) -> None:
    """Start ranks that never wait for each other, and wait until all have ended.

    Parameters
    ----------
    module : str
        What each rank runs, ``python -m`` by name.
    file : Path
        What it is to do.
    ranks : int
        How many there are; they share the cores.
    kept_open : sequence of int
        See `core.launching.launch`.

    Raises
    ------
    EegToolError
        If a rank failed; it has said why.
    """
    threads = max(1, (os.cpu_count() or 1) // ranks)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    command = [sys.executable, "-m", "eegtool.evaluate.launcher", str(ranks), module, str(file)]
    code = launch(command, environment, kept_open=kept_open)
    if code != 0:
        raise EegToolError(
            f"A rank stopped with exit code {code}.",
            "The reason stands above. What was answered is kept: run again to continue.",
        )


def main() -> None:
    """Run torchrun in this process; of a rank that failed it would print 40 lines more than the rank said."""
    ranks, module, file = sys.argv[1:]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    nodes = ["--standalone", "--nproc-per-node", ranks]
    try:
        torchrun.main([*nodes, "-m", module, file])
    except ChildFailedError as error:
        sys.exit(error.get_first_failure()[1].exitcode or 1)


if __name__ == "__main__":
    main()
