"""Ranks: processes that call one function side by side, started by torchrun.

This module is both what starts them, ``python -m eegtool.core.ranks N MODULE:FUNCTION FILE.json``, which needs
nothing of the function's module, and what each of them runs.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.launching import launch
from eegtool.core.workspace import jsonable, read_json, write_json

_RANK: Final = "rank"
"""Stands for the number of ranks where one of them is started."""


def call_on_ranks(
    function: str, argument: Mapping[str, Any], ranks: int, lock: IO[str] | None
) -> None:
    """Let several ranks, which share the cores, call a function, and wait until all have ended.

    Parameters
    ----------
    function : str
        ``module:function``; its parameters are `argument`, the number of the rank and that of all ranks.
    argument : mapping
        As JSON can say it; paths become text.
    lock : file or None
        Held as long as any of them is at work, though this process be killed.

    Raises
    ------
    EegToolError
        If a rank failed; it has said why.
    """
    threads = max(1, (os.cpu_count() or 1) // ranks)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with tempfile.TemporaryDirectory(prefix="eegvlm-") as tmp:
        path = Path(tmp) / "argument.json"
        write_json(path, jsonable(argument))
        command = [sys.executable, "-m", "eegtool.core.ranks", str(ranks), function, str(path)]
        code = launch(command, environment, kept_open=(lock.fileno(),) if lock else ())
    if code != 0:
        raise EegToolError(
            f"A rank stopped with exit code {code}.",
            "The reason stands above. What is done is kept: run again to continue.",
        )


@contextmanager
def _this_rank() -> Iterator[tuple[int, int]]:
    """Give the number of this rank and of all, as torchrun says them; say an error and end by it."""
    try:
        yield int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except EegToolError as error:
        console.print("error:", style="bold red", end=" ")
        console.print(str(error), markup=False)
        sys.exit(1)


def main() -> None:
    """Run torchrun in this process, or be the rank that it says in the environment."""
    ranks, function, path = sys.argv[1:]
    if ranks == _RANK:
        with _this_rank() as (number, n):
            pkgutil.resolve_name(function)(read_json(Path(path)), number, n)
        return
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # Of a rank that failed torchrun would print 40 lines more than the rank has said.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    nodes = ["--standalone", "--nproc-per-node", ranks]
    try:
        torchrun.main([*nodes, "-m", "eegtool.core.ranks", _RANK, function, path])
    except ChildFailedError as error:
        sys.exit(error.get_first_failure()[1].exitcode or 1)


if __name__ == "__main__":
    main()
