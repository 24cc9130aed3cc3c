"""What a model must say about itself so that a recording is enough: read from its folder, checked at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import check_same_pictures
from eegtool.extract.stored import CARD, STORED, is_module
from eegtool.inference.smoothing import Chain, chain_of
from eegtool.model.adapters import Contract, adapter_sha256, contract_base, prompt_of, read_contract
from eegtool.model.answer_form import AnswerForm
from eegtool.model.eegvlm import FUSIONS
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


@dataclass(frozen=True, slots=True)
class Requirements:
    """A model, and what it wants to be shown.

    Attributes
    ----------
    folder, contract, adapter_sha256, answers
        Where it is, what its folder says, its weights, and how it was taught to answer.
    prompt : callable
        Question and number of pictures → what the model sees.
    module : Path or None
        Folder of its vision module; None if it looks at no features.
    """

    folder: Path
    contract: Contract
    adapter_sha256: str
    answers: AnswerForm
    prompt: Callable[[str, int], str]
    module: Path | None

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

    def chain(self) -> Chain:
        """Return what the model knows of sequences of stages (see `chain_of`)."""
        return chain_of(self.contract.sequence, self.folder)

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
        return Recipe(channel=tuple(spelt), strict=strict, montage=montage, **self.drawing)


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
    contract = read_contract(folder)
    prompt = prompt_of(
        contract_base(folder, contract, base, vision_tower), contract, contract.version
    )
    answers = AnswerForm.from_contract(contract.answers)
    lacking = [name for name in ("channel", *_DRAWING) if name not in contract.protocol]
    lacking += [] if answers.question else ["the question"]
    if lacking:
        raise EegToolError(
            f"{folder} does not say how its recordings were prepared; missing: {', '.join(lacking)}.",
            "It is of an earlier version, or was trained in a workspace without a prepare.json. "
            "Fine-tune again after `eegvlm prepare`.",
        )
    if contract.protocol["style"] not in STYLES:
        raise EegToolError(
            f"{folder} was trained on pictures of the style '{contract.protocol['style']}', which is "
            "not known here.",
            f"Known: {', '.join(STYLES)}. Use the version of eegvlm that trained it.",
        )
    strips = contract.protocol.get("strips", ())
    try:
        styles = {ChannelSpec.from_row(row).style for row in strips}
    except (KeyError, TypeError, ValueError) as error:
        raise EegToolError(
            f"{folder} does not say in a known form which channels it was trained on.", _OF_ANOTHER
        ) from error
    if unknown := sorted(styles - STYLES.keys()):
        raise EegToolError(
            f"{folder} was trained on strips of the style '{unknown[0]}'.", _OF_ANOTHER
        )
    both = f"The model {folder} and this eegvlm"
    check_same_pictures(contract.protocol, {"renderer": RENDERER}, both)
    if not answers.stages:
        raise EegToolError(
            f"{folder} was taught no form of answer that could be scored: {answers.sentence()}.",
            "Prepare the night, and ask with `eegvlm evaluate --mode generate`.",
        )
    module = _module(folder, contract, vision_module)
    return Requirements(folder, contract, adapter_sha256(folder), answers, prompt, module)


def _module(model: Path, contract: Contract, named: Path | None) -> Path | None:
    """Find the vision module that made the features the model was trained with."""
    if not FUSIONS[contract.fusion].needs_features:
        return None
    weights = contract.features_weights_sha256
    if not weights:
        raise EegToolError(
            f"{model} was trained with features that were made elsewhere: nobody here can make those "
            "of a new recording.",
            "Prepare the night, import its features (`eegvlm extract --import-features`), and run "
            "`eegvlm evaluate`.",
        )
    folder = named or model / STORED
    if is_module(folder, weights):
        return folder
    why = "is another one than" if (folder / CARD).is_file() else "does not hold"
    raise EegToolError(
        f"{folder} {why} the vision module that {model} was trained with (weights {weights[:12]}).",
        "Name its folder with --vision-module: `eegvlm extract` left it as WORKSPACE/vision_module.",
    )
