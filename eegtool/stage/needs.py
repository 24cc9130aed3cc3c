"""What a model must say about itself so that a recording is enough: read from its folder, checked at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eegtool.core.errors import EegToolError
from eegtool.core.settings import PrepareSettings, StageSettings
from eegtool.extract.stored import CARD, STORED, is_module
from eegtool.model.adapters import Contract, adapter_sha256, contract_base, read_contract
from eegtool.model.answer_form import AnswerForm
from eegtool.model.eegvlm import FUSIONS
from eegtool.prepare.images import STYLES
from eegtool.stage.smoothing import Chain, chain_of

_DRAWING: Final = (
    *("low_hz", "high_hz", "notch_hz", "resample_hz"),
    *("style", "size", "amplitude_uv", "marks"),
)
"""What of the protocol `eegvlm prepare` draws by, beside the channel; settings have the same names."""

_CHANNELS: Final = ", "  # between those of a picture in which several are stacked


@dataclass(frozen=True, slots=True)
class Needs:
    """A model, and what it wants to be shown.

    Attributes
    ----------
    contract : Contract
        What its folder says.
    adapter_sha256 : str
        Identity of its weights.
    question : str
        What it was trained on.
    drawing : dict
        Settings of prepare that decide how pictures look, by name.
    protocol : dict
        The same as the protocol of a workspace.
    channels : tuple of str
        Channels it was trained on.
    module : Path or None
        Folder of its vision module; None if it looks at no features.
    chain : Chain or None
        What it knows of sequences of stages, if it is to smooth.
    """

    contract: Contract
    adapter_sha256: str
    question: str
    drawing: dict[str, Any]
    protocol: dict[str, Any]
    channels: tuple[str, ...]
    module: Path | None
    chain: Chain | None

    @property
    def reasons(self) -> bool:
        """Whether the model was taught to give reasons: then all its answers have some."""
        return AnswerForm.from_contract(self.contract.answers).reasons_first

    def prepare_settings(self, settings: StageSettings, workspace: Path) -> PrepareSettings:
        """Return how to draw a recording for this model."""
        return PrepareSettings(
            recordings=[],
            workspace=workspace,
            channel=list(settings.channel or self.channels),
            strict=settings.strict,
            **self.drawing,
        )


def read_needs(settings: StageSettings) -> Needs:
    """Read and check a model's folder; no weights are loaded.

    Raises
    ------
    EegToolError
        If it is no model, its base is another one, or it does not say how to draw, what to ask, or
        how stages follow each other (``--smooth``); or if its vision module is missing.
    """
    folder = settings.model_path
    contract = read_contract(folder)
    contract_base(folder, contract, settings.model_base, settings.vision_tower)
    told = contract.protocol
    lacking = [name for name in ("channel", *_DRAWING) if name not in told]
    lacking += ["the question"] if not contract.answers.get("question") else []
    if lacking:
        raise EegToolError(
            f"{folder} does not say how its recordings were prepared; missing: {', '.join(lacking)}.",
            "It is of an earlier version, or was trained in a workspace without a prepare.json. "
            "Fine-tune again after `eegvlm prepare`.",
        )
    if told["style"] not in STYLES:
        raise EegToolError(
            f"{folder} was trained on pictures of the style '{told['style']}', which is not known here.",
            f"Known: {', '.join(STYLES)}. Use the version of eegvlm that trained it.",
        )
    channels = tuple(str(told["channel"]).split(_CHANNELS))
    if settings.channel and len(settings.channel) != len(channels):
        raise EegToolError(
            f"--channel was given {len(settings.channel)} times; the model looks at {len(channels)}: "
            f"{told['channel']}.",
            "Name one channel of the recording for each of these, in their order.",
        )
    drawing = {name: told[name] for name in _DRAWING}
    return Needs(
        contract=contract,
        adapter_sha256=adapter_sha256(folder),
        question=str(contract.answers["question"]),
        drawing=drawing,
        protocol={"channel": told["channel"], **drawing},
        channels=channels,
        module=_module(settings, contract),
        chain=chain_of(contract.sequence, folder) if settings.smooth else None,
    )


def _module(settings: StageSettings, contract: Contract) -> Path | None:
    """Find the vision module that made the features the model was trained with."""
    if not FUSIONS[contract.fusion].needs_features:
        return None
    weights = contract.features_weights_sha256
    if not weights:
        raise EegToolError(
            f"{settings.model_path} was trained with features that were made elsewhere: nobody here can "
            "make those of a new recording.",
            "Prepare the night, import its features (`eegvlm extract --import-features`), and run "
            "`eegvlm evaluate`.",
        )
    folder = settings.vision_module or settings.model_path / STORED
    if is_module(folder, weights):
        return folder
    why = "is another one than" if (folder / CARD).is_file() else "does not hold"
    raise EegToolError(
        f"{folder} {why} the vision module that {settings.model_path} was trained with "
        f"(weights {weights[:12]}).",
        "Name its folder with --vision-module: `eegvlm extract` left it as WORKSPACE/vision_module.",
    )
