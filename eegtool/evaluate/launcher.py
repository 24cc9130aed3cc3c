"""Starts the ranks of an evaluation by torchrun; never by hand.

``python -m eegtool.evaluate.launcher N SETTINGS.json`` starts N times ``python -m eegtool.evaluate.rank
SETTINGS.json``. It imports nothing of the model: only the ranks need that.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> None:
    """Run torchrun in this process; of a rank that failed it would print 40 lines more than the rank said."""
    ranks, settings = sys.argv[1:]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    nodes = ["--standalone", "--nproc-per-node", ranks]
    try:
        torchrun.main([*nodes, "-m", "eegtool.evaluate.rank", settings])
    except ChildFailedError as error:
        sys.exit(error.get_first_failure()[1].exitcode or 1)


if __name__ == "__main__":
    main()
