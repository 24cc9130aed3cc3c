"""What a model must say about itself so that a recording is enough: read from its folder, checked at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from eegtool.core.errors import EegToolError
from eegtool.evaluate.model_folder import ModelFolder
from eegtool.extract.stored import STORED
from eegtool.model.adapters import prompt_of
from eegtool.pictures import RENDERER, STYLES
from eegtool.prepare.recipe import Recipe
from eegtool.recordings.montages import ChannelSpec, kind_and_name, spec_of

_DRAWING: Final = (
    *("low_hz", "high_hz", "notch_hz", "resample_hz"),
    *("style", "size", "amplitude_uv", "marks"),
)
"""What of the protocol `eegvlm prepare` draws by, beside the channel; settings have the same names."""

_UNSAID: Final = {"context_epochs": 0}
"""What of it earlier versions did not say, because there was no choice."""

_MONTAGE: Final = ("channel", "montage", "strips")
"""What of it says which channels."""

_OF_ANOTHER: Final = "Use the version of eegvlm that trained it."

_CHANNELS: Final = ", "  # between those of a picture in which several are stacked


@dataclass(frozen=True, eq=False)
class Requirements(ModelFolder):
    """A model that stages recordings, and what it wants to be shown."""

    module: Path | None = None
    """Folder of its vision module; None if it looks at no features."""

    @cached_property
    def prompt(self) -> Callable[[str, int], str]:
        """Question and number of pictures → what the model sees."""
        return prompt_of(self.base, self.contract, self.contract.version)

    @property
    def drawing(self) -> dict[str, Any]:
        """Settings of prepare that decide how pictures look, by name."""
        protocol = _UNSAID | self.contract.protocol
        return {name: protocol[name] for name in (*_DRAWING, *_UNSAID)}

    @property
    def protocol(self) -> dict[str, Any]:
        """The same as the protocol of a workspace."""
        protocol = self.contract.protocol
        return {k: protocol[k] for k in _MONTAGE if k in protocol} | self.drawing

    @property
    def montage(self) -> tuple[ChannelSpec, ...]:
        """Channels of different kinds that it was trained on; empty where all are EEG and drawn alike."""
        return tuple(map(ChannelSpec.from_row, self.contract.protocol.get("strips", ())))

    @property
    def channels(self) -> list[str]:
        """Channels it was trained on."""
        return str(self.contract.protocol["channel"]).split(_CHANNELS)

    def identity(self, mode: str, channels: Sequence[str]) -> dict[str, Any]:
        """Return what all nights in a folder of results have in common."""
        named = list(channels or self.channels)
        return {"adapter_sha256": self.adapter_sha256, "mode": mode, "channels": named}

    def recipe(self, channels: Sequence[str], *, strict: bool = False) -> Recipe:
        """Return how to draw a recording for this model.

        Parameters
        ----------
        channels : sequence of str
            Channels of the recording that stand for the trained ones; empty: of the same names. Of a
            montage, all of a kind; those of other kinds are looked for by their names.
        strict : bool
            Refuse a recording of which a part is missing.

        Raises
        ------
        EegToolError
            If there are not as many channels as the model looks at.
        """
        wanted = self.montage or tuple(map(spec_of, self.channels))
        typed = [kind_and_name(channel) for channel in channels]
        names: dict[str, list[str]] = {}
        for kind in dict.fromkeys([*(kind for kind, _ in typed), *(spec.kind for spec in wanted)]):
            trained = [spec.derivation for spec in wanted if spec.kind == kind]
            names[kind] = [name for k, name in typed if k == kind] or trained
            if len(names[kind]) != len(trained):
                of = f"{kind.upper()} " if self.montage or kind != "eeg" else ""
                raise EegToolError(
                    f"{len(names[kind])} {of}channels were named; the model looks at {len(trained)}: "
                    f"{', '.join(self.channels)}.",
                    "Name one channel of the recording for each of these, in their order.",
                )
        chosen = []
        for spec in wanted:
            name = names[spec.kind].pop(0)
            optional = spec.optional and name == spec.derivation
            chosen.append(replace(spec, derivation=name, optional=optional))
        montage = tuple(chosen) if self.montage else ()
        spelt = [spec.typed if montage else spec.derivation for spec in chosen]
        how = self.drawing | {"strict": strict, "montage": montage, "pictures": False}
        return Recipe(channel=tuple(spelt), **how)


def read_requirements(
    folder: Path,
    *,
    base: str | None = None,
    vision_tower: str = "",
    vision_module: Path | None = None,
) -> Requirements:
    """Read and check a model's folder, as `Stager.load` is given it; no weights are loaded.

    Raises
    ------
    EegToolError
        If it is not a model, its base is another one, it does not say how to draw or what to ask, was
        taught no answers that can be scored, or its vision module is missing.
    """
    model = Requirements.read(folder, base, vision_tower)
    protocol = model.contract.protocol
    lacking = [name for name in ("channel", *_DRAWING) if name not in protocol]
    lacking += [] if model.answers.question else ["the question"]
    if lacking:
        raise EegToolError(
            f"{folder} does not say how its recordings were prepared; missing: {', '.join(lacking)}.",
            "It is of an earlier version, or was trained in a workspace without a prepare.json. "
            "Fine-tune again after `eegvlm prepare`.",
        )
    try:
        strips = sorted({spec.style for spec in model.montage} - STYLES.keys())
    except (KeyError, TypeError, ValueError) as error:
        raise EegToolError(
            f"{folder} does not say in a known form which channels it was trained on.", _OF_ANOTHER
        ) from error
    if protocol["style"] not in STYLES:
        raise EegToolError(
            f"{folder} was trained on pictures of the style '{protocol['style']}', which is "
            "not known here.",
            f"Known: {', '.join(STYLES)}. {_OF_ANOTHER}",
        )
    if strips:
        raise EegToolError(
            f"{folder} was trained on strips of the style '{strips[0]}'.", _OF_ANOTHER
        )
    model.check_pictures({"renderer": RENDERER}, "this eegvlm")
    model.check_scorable("Prepare the night, and ask with `eegvlm evaluate --mode generate`.")
    module = model.find_module(
        vision_module or folder / STORED,
        made_elsewhere="Prepare the night, import its features (`eegvlm extract --import-features`), and run "
        "`eegvlm evaluate`.",
        missing="Name its folder with --vision-module: `eegvlm extract` left it as WORKSPACE/vision_module.",
    )
    return replace(model, module=module)
