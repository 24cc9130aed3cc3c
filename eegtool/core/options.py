"""How options are declared, and those that several commands share.

A command has a frozen dataclass in its room's ``options.py``: its fields are the command line
(`eegtool.cli`), the stored stamp and the API in one place. An option of one command is a field whose
default a `Panel` makes; one that several share, or that must be given, is an annotated type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from typer import Option
from typer.models import OptionInfo

_Settings = TypeVar("_Settings")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Panel:
    """A box of options in ``--help``."""

    title: str | None

    def option(
        self,
        text: str,
        *spelt: str,
        shown: str | None = None,
        min: float | None = None,
        max: float | None = None,
    ) -> OptionInfo:
        """Return what an option says and takes, for ``Annotated``.

        Parameters
        ----------
        text : str
            Its help.
        *spelt : str
            How it is typed, where not like its field.
        shown : str, optional
            What the help shows instead of the default.
        min, max : float, optional
            Limits of its value.
        """
        panel = self.title
        return Option(
            *spelt, help=text, show_default=shown or True, min=min, max=max, rich_help_panel=panel
        )

    def __call__(self, default: _Value, text: str, *spelt: str, **more: Any) -> _Value:
        """Return a field with this default; the rest is that of `option`. A switch that is off has no ``--no-``."""
        made = {"option": partial(self.option, text, *spelt, **more)}
        one: Any = (
            field(default_factory=default.copy, metadata=made)
            if isinstance(default, list)
            else field(default=default, metadata=made)
        )
        return one


def annotations_of(kind: type) -> dict[str, Any]:
    """Return the type of each field of a settings class, annotated by its option."""
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        if option := one.metadata.get("option"):
            spelt = [f"--{one.name.replace('_', '-')}"] if one.default is False else []
            hints[one.name] = Annotated[hints[one.name], option(*spelt)]
    return hints


GENERAL = Panel(None)
SIGNAL = Panel("Signal and epochs")
TRAINING = Panel("Training")
HARDWARE = Panel("Hardware")
RUNNING = Panel("Running")
FILES = Panel("Files")
ASKING = Panel("What is asked")

FeatureSource = Literal["real", "shuffled", "zero"]
AnswerMode = Literal["generate", "score", "both"]
DecideFor = Literal["likelihood", "macro_f1", "kappa"]

Workspace = Annotated[
    Path, FILES.option("Folder in which the five commands meet.", "--workspace", "-w")
]
Seed = Annotated[int, GENERAL.option("Seed of everything random.", min=0, max=2**32 - 1)]
Json = Annotated[bool, RUNNING.option("Print one JSON object and nothing else.", "--json")]
Features = Annotated[
    FeatureSource,
    GENERAL.option(
        "Sanity checks: 'shuffled' gives every epoch another's features, 'zero' gives none."
    ),
]

Further = Annotated[
    dict[str, Any], "Flags of other programs (LLaVA, transformers) by name, as they were typed."
]
"""Not an option: the command line collects it (see `eegtool.core.flags`)."""

_RANKS: Final = "Ranks on this machine (CPU ranks where there is no GPU)."
TrainingRanks = Annotated[int, HARDWARE.option(_RANKS, shown="all GPUs, or 1", min=0)]
AskingRanks = Annotated[int, RUNNING.option(_RANKS, shown="all GPUs, or 1", min=0)]

LabelCoding = Annotated[
    str,
    FILES.option(
        "How true stages count where they are numbers: 'nsrr' (4 is N3, 5 is REM), '0-4' or '1-5'.",
        shown="they are words",
    ),
]
ModelBase = Annotated[str | None, FILES.option("Base model.", shown="the one it was trained on")]
VisionTower = Annotated[
    str,
    FILES.option(
        "CLIP's folder or hub name, where the base model comes without (LLaVA's own layout).",
        shown="the one it was trained with",
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    RUNNING.option("Precision of the base model."),
]
Merge = Annotated[
    bool,
    RUNNING.option(
        "Add LoRA to the base's weights: faster, but rounded to their precision.", "--merge"
    ),
]
Attention = Annotated[
    str, RUNNING.option("Attention: 'auto', 'sdpa', 'flash_attention_2', 'eager'.")
]
ModelFolder = Annotated[Path, FILES.option("Folder that finetune or export wrote.")]
OwnModule = Annotated[
    str,
    FILES.option(
        "Your own vision module, 'package.module:factory': its code runs only if you name it.",
        shown="as the module says",
    ),
]
NoCalibration = Annotated[
    bool, ASKING.option("Leave the model's calibration out.", "--no-calibration")
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
