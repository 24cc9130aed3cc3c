"""eegvlm: raw overnight EEG in, a vision-language model that stages sleep out.

From Python::

    import eegtool

    stager = eegtool.Stager.load("lab/checkpoints/13b")
    night = stager.stage("new/night7.edf", channel="C4-M1", smooth=True)
    night.hypnogram.sleep_statistics()
"""

import importlib
import logging
from typing import Any

__version__ = "0.2.0"
__all__ = ["EegToolError", "StagedNight", "Stager", "__version__"]

# Where it is installed, transformers and peft import it, and on some CPUs it complains to people who never
# asked for 4 bits. Here, because it must be said before either of them is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_HOMES = {
    "EegToolError": "eegtool.core.errors",
    "StagedNight": "eegtool.stage.night",
    "Stager": "eegtool.stage.stager",
}


def __getattr__(name: str) -> Any:
    """Import what is public when it is first used: PyTorch and its kind take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'eegtool' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
