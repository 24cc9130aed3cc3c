"""What the folder of a model says about it, and what fits it: all that is checked before weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import check_same_pictures
from eegtool.extract.features import FeatureTable
from eegtool.extract.stored import CARD, is_module
from eegtool.inference.calibration import Calibration, read_calibration
from eegtool.inference.smoothing import Chain, chain_of
from eegtool.model.adapters import (
    Contract,
    adapter_sha256,
    contract_base,
    is_untrained,
    read_contract,
)
from eegtool.model.answer_form import AnswerForm
from eegtool.model.checkpoints import Base
from eegtool.model.eegvlm import FUSIONS


@dataclass(frozen=True, eq=False)
class ModelFolder:
    """A folder that can be asked; see `read`.

    Attributes
    ----------
    folder, contract : Path, Contract
        Where it is, and what it was trained with.
    base : Base
        Its base model, the one that it was trained on.
    """

    folder: Path
    contract: Contract
    base: Base

    @classmethod
    def read(cls, folder: Path, base: str | None = None, vision_tower: str = "") -> Self:
        """Read a folder; no weights are loaded.

        Parameters
        ----------
        folder : Path
            What `eegvlm finetune` or `eegvlm export` wrote, or a base model.
        base, vision_tower : str, optional
            Where the base lies here, if not where it lay in training.

        Raises
        ------
        EegToolError
            If it is not a model, or its base is not there or another one.
        """
        contract = read_contract(folder)
        return cls(folder, contract, contract_base(folder, contract, base, vision_tower))

    @cached_property
    def name(self) -> str:
        """What it is called in answers."""
        return self.folder.resolve().name

    @cached_property
    def answers(self) -> AnswerForm:
        """How it was taught to answer."""
        return AnswerForm.from_contract(self.contract.answers)

    @cached_property
    def adapter_sha256(self) -> str:
        """Hash of its trained weights."""
        return adapter_sha256(self.folder)

    @property
    def needs_features(self) -> bool:
        """Whether it looks at high-level features."""
        return FUSIONS[self.contract.fusion].needs_features

    def calibration(self) -> Calibration | None:
        """Read the calibration beside it; None where there is none (see `read_calibration`)."""
        return read_calibration(self.folder, self.adapter_sha256)

    def chain(self, calibration: Calibration | None = None) -> Chain:
        """Return what it knows of sequences of stages, for its probabilities as they are calibrated.

        Raises
        ------
        EegToolError
            If its folder does not hold that (see `chain_of`).
        """
        chain = chain_of(self.contract.sequence, self.folder)
        return calibration.of_chain(chain) if calibration else chain

    def doubts(self, *, scored: bool = True) -> Iterator[str]:
        """Yield what a user should know of it, whatever it is asked; some of it only where stages are `scored`."""
        if is_untrained(self.folder):
            yield f"{self.folder} was not fine-tuned: it is asked as it is, without features."
        if self.contract.features != "real":
            yield f"the model was trained with {self.contract.features} features, as a sanity check."
        if scored and self.answers.untaught:
            yield (
                f"the model was taught no sample of {', '.join(self.answers.untaught)}: how its answer is "
                "spelt is guessed."
            )

    def check_scorable(self, fix: str) -> None:
        """Look whether the model's answers have a form that can be scored.

        Raises
        ------
        EegToolError
            If not; `fix` says what to do.
        """
        if not self.answers.stages:
            raise EegToolError(
                f"{self.folder} was taught no form of answer that could be scored: "
                f"{self.answers.sentence()}.",
                fix,
            )

    def check_pictures(self, protocol: dict[str, Any], where: object) -> None:
        """Hold pictures against those of its training.

        Raises
        ------
        EegToolError
            If they were drawn otherwise (see `check_same_pictures`); `where` names them.
        """
        both = f"The model {self.folder} and {where}"
        check_same_pictures(self.contract.protocol, protocol, both)

    def check_features(self, features: FeatureTable, path: Path, fix: str) -> None:
        """Hold features against those of its training.

        Raises
        ------
        EegToolError
            If both vision modules are known and not the same; `fix` says what to do.
        """
        made, trained = features.weights_sha256, self.contract.features_weights_sha256
        if made and trained and made != trained:
            raise EegToolError(
                f"{path} comes from another vision module ({_named(made, features.context)}) than the one the "
                f"model was trained with ({_named(trained, self.contract.context)}).",
                fix,
            )

    def find_module(self, *folders: Path, made_elsewhere: str, missing: str) -> Path | None:
        """Return the first folder that holds its vision module; None if it looks at no features.

        Parameters
        ----------
        *folders : Path
            Where the module may be.
        made_elsewhere, missing : str
            What to do where its features come from another program, and where no folder holds the module.

        Raises
        ------
        EegToolError
            If there is none.
        """
        if not self.needs_features:
            return None
        weights = self.contract.features_weights_sha256
        if not weights:
            raise EegToolError(
                f"{self.folder} was trained with features that were made elsewhere: those of further "
                "pictures cannot be computed here.",
                made_elsewhere,
            )
        for folder in folders:
            if is_module(folder, weights):
                return folder
        looked = " and ".join(map(str, folders))
        others = [
            f" {folder} holds another one." for folder in folders if (folder / CARD).is_file()
        ]
        raise EegToolError(
            f"The vision module that {self.folder} was trained with (weights {weights[:12]}) is not in {looked}."
            + "".join(others),
            missing,
        )


def _named(weights_sha256: str, context: int) -> str:
    """Name a vision module by its weights and by what its features know of."""
    known = f", context of {context} epochs on either side" if context else ""
    return weights_sha256[:12] + known
