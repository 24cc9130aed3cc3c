"""One frozen dataclass of settings per command: the command line, the stored stamp and the API in one place.

The fields become the options of the command (``eegtool.cli``): the annotation holds type and help
text, the default is the option's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from typer import Option

_Settings = TypeVar("_Settings")
SIGNAL: Final = "Signal and epochs"
TRAINING: Final = "Training"
HARDWARE: Final = "Hardware"
RUNNING: Final = "Running"
FILES: Final = "Files"
ASKING: Final = "What is asked"
FIGURES: Final = "Figures"
FeatureSource = Literal["real", "shuffled", "zero"]
AnswerMode = Literal["generate", "score", "both"]
DecideFor = Literal["likelihood", "macro_f1", "kappa"]
Workspace = Annotated[
    Path,
    Option(
        "--workspace",
        "-w",
        help="Folder in which the five commands meet.",
        rich_help_panel=FILES,
    ),
]
Seed = Annotated[int, Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
Json = Annotated[
    bool,
    Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=RUNNING),
]
Features = Annotated[
    FeatureSource,
    Option(
        help="Sanity checks: 'shuffled' gives every epoch another's features, 'zero' gives none."
    ),
]
Further = Annotated[
    dict[str, Any], "Flags of other programs (LLaVA, transformers) by name, as they were typed."
]
"""Not an option: the command line collects it (see `eegtool.core.flags`)."""
TrainingRanks = Annotated[
    int,
    Option(
        min=0,
        help="Ranks on this machine (CPU ranks where there is no GPU).",
        show_default="all GPUs, or 1",
        rich_help_panel=HARDWARE,
    ),
]
LabelCoding = Annotated[
    str,
    Option(
        help="How true stages count where they are numbers: 'nsrr' (4 is N3, 5 is REM), '0-4' or '1-5'.",
        show_default="they are words",
        rich_help_panel=FILES,
    ),
]
ModelBase = Annotated[
    str | None,
    Option(help="Base model.", show_default="the one it was trained on", rich_help_panel=FILES),
]
VisionTower = Annotated[
    str,
    Option(
        help="CLIP's folder or hub name, where the base model comes without (LLaVA's own layout).",
        show_default="the one it was trained with",
        rich_help_panel=FILES,
    ),
]
AskingRanks = Annotated[
    int,
    Option(
        min=0,
        help="Ranks on this machine (CPU ranks where there is no GPU).",
        show_default="all GPUs, or 1",
        rich_help_panel=RUNNING,
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Option(help="Precision of the base model.", rich_help_panel=RUNNING),
]
Merge = Annotated[
    bool,
    Option(
        "--merge",
        help="Add LoRA to the base's weights: faster, but rounded to their precision.",
        rich_help_panel=RUNNING,
    ),
]
Attention = Annotated[
    str,
    Option(
        help="Attention: 'auto', 'sdpa', 'flash_attention_2', 'eager'.", rich_help_panel=RUNNING
    ),
]
ModelFolder = Annotated[
    Path, Option(help="Folder that finetune or export wrote.", rich_help_panel=FILES)
]
OwnModule = Annotated[
    str,
    Option(
        help="Your own vision module, 'package.module:factory': its code runs only if you name it.",
        show_default="as the module says",
        rich_help_panel=FILES,
    ),
]
NoCalibration = Annotated[
    bool,
    Option("--no-calibration", help="Leave the model's calibration out.", rich_help_panel=ASKING),
]


def settings_from(kind: type[_Settings], values: Mapping[str, Any]) -> _Settings:
    """Return settings from what JSON has kept of their fields; paths are texts there.

    Relative paths stay so: whoever reads them starts in the same folder.
    """

    def typed(hint: Any, value: Any) -> Any:
        if value is None:
            return None
        if hint is Path or Path in get_args(hint):
            return [Path(v) for v in value] if get_origin(hint) is list else Path(value)
        return value

    hints = get_type_hints(kind)
    return kind(**{name: typed(hints[name], value) for name, value in values.items()})
