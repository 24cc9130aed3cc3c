"""Runs parts one after the other in one process: an import of PyTorch and transformers takes seconds.

    python worker.py WORK REHEARSAL REQUESTS REPLIES      # the last two are open files, by number

A request is a line of JSON that names a function and its options; the reply is a line with its status and the
figures that it returns. Why it failed stands in the output.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from commands import PartError, SkipError
from scene import Scene


def serve(scene: Scene, request: dict[str, Any]) -> dict[str, Any]:
    """Run one part and return its status and figures."""
    try:
        if request["fault"] == "break":
            raise PartError("broken as asked")
        if request["fault"] == "hang":
            asleep = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            print(f"asleep: {asleep.pid}", flush=True)
            asleep.wait()
        module, _, function = request["target"].partition(":")
        figures = getattr(import_module(module), function)(scene, **request["options"])
        return {"status": "ok", "figures": figures}
    except SkipError as skipped:
        return {"status": f"skipped: {skipped}", "figures": {}}
    except PartError as failed:
        print(f"failed: {failed}", flush=True)
    except (Exception, SystemExit):
        traceback.print_exc()
    return {"status": "failed", "figures": {}}


def free_memory() -> None:
    """Leave the GPU to the ranks of the next part."""
    torch = sys.modules.get("torch")
    gc.collect()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    work, rehearsal, requests, replies = sys.argv[1:]
    sys.path.append(str(Path(__file__).parents[1]))  # the other benches
    scene = Scene(Path(work), rehearsal=rehearsal == "1")
    with os.fdopen(int(requests)) as lines, os.fdopen(int(replies), "w") as out:
        for line in lines:
            began = time.perf_counter()
            reply = serve(scene, json.loads(line))
            reply["seconds"] = time.perf_counter() - began
            free_memory()
            sys.stdout.flush()
            sys.stderr.flush()
            print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
