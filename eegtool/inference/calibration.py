"""Calibration of a fine-tuned model: fitted on validation subjects, kept beside the adapter, applied to answers.

How scores become probabilities and a stage, and how that is fitted, is in `eegtool.core.probabilities`.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.options import DecideFor
from eegtool.core.probabilities import (
    AIMS,
    Fit,
    Scaling,
    by_stage,
    ece,
    fit,
    nll,
    of_stages,
    read_scaling,
)
from eegtool.core.records import Answer
from eegtool.core.stages import STAGES
from eegtool.core.workspace import read_json, write_json
from eegtool.inference.smoothing import Chain, Place, chain_of, fitted_weight, knows_sequences

_FILE: Final = "calibration.json"
_NONE: Final = Scaling()
_OWN: Final = (
    *("calibration_temperature", "calibration_offsets", "calibration_subjects", "calibrated_on"),
    *("decide_for", "decision_offsets"),
)
"""What rows say of their calibration, beside the probabilities."""
_BY_STAGE: Final = ("offsets", "decision_offsets", "stages")
"""Fields of `Calibration` that the file has by stage."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted scaling, what it was fitted on, and what it changed there."""

    temperature: float
    mode: str
    """How the answers were asked for: ``score`` or ``both``."""
    subjects: tuple[str, ...]
    n: int
    """Number of epochs."""
    nll_before: float
    """Mean negative log-likelihood of the true stage, in nats."""
    nll_after: float
    ece_before: float
    """Expected calibration error (see `ece`)."""
    ece_after: float
    adapter_sha256: str
    """Weights whose probabilities these were."""
    offsets: tuple[float, ...] = _NONE.offsets
    """In nats, in the order of `STAGES`; like the next two, see `Scaling`. Earlier versions had none."""
    decide_for: DecideFor = "likelihood"
    decision_offsets: tuple[float, ...] = _NONE.decision_offsets
    stages: tuple[float, ...] = ()
    """Epochs of each stage, in the order of `STAGES`: how common stages are, as the probabilities have it."""
    sequence_weight: float | None = None
    """How much the sequence of stages counts when they are smoothed; None where it was not fitted."""

    @property
    def scaling(self) -> Scaling:
        """How scores become probabilities and a stage."""
        return Scaling(self.temperature, self.offsets, self.decide_for, self.decision_offsets)

    def of_chain(self, chain: Chain) -> Chain:
        """Return what is known of sequences for the probabilities that this calibration makes."""
        known = chain.of_probabilities(self.stages) if self.stages else chain
        return (
            known if self.sequence_weight is None else replace(known, weight=self.sequence_weight)
        )


def calibrate(
    log_likelihood: np.ndarray,
    stages: Sequence[str],
    *,
    mode: str,
    subjects: Sequence[str],
    adapter_sha256: str,
    decide_for: DecideFor = "likelihood",
    places: Sequence[Place] = (),
    sequence: Mapping[str, Any] | None = None,
) -> tuple[Calibration, Fit]:
    """Fit the scaling and say what it changes.

    Parameters
    ----------
    log_likelihood, stages, subjects, decide_for
        See `eegtool.core.probabilities.fit`.
    mode, adapter_sha256 : str
        How the answers were asked for, and of which weights.
    places, sequence
        Recording and index of each epoch, and what the contract says of sequences. Where both are known, how much
        the sequence counts is fitted as well (see `eegtool.inference.smoothing.fitted_weight`).

    Raises
    ------
    EegToolError
        If nothing can be fitted.
    """
    found = fit(log_likelihood, stages, subjects, decide_for)
    scaling = found.scaling
    calibration = Calibration(
        **asdict(scaling),
        mode=mode,
        subjects=tuple(sorted({subject for subject in subjects if subject})),
        n=len(stages),
        nll_before=nll(log_likelihood, stages),
        nll_after=nll(log_likelihood, stages, scaling),
        ece_before=ece(_NONE.probabilities(log_likelihood), stages),
        ece_after=ece(scaling.probabilities(log_likelihood), stages),
        adapter_sha256=adapter_sha256,
        stages=tuple(list(stages).count(stage) for stage in STAGES),
    )
    if sequence and knows_sequences(sequence) and all(recording for recording, _ in places):
        probabilities = scaling.probabilities(log_likelihood)
        chain = calibration.of_chain(chain_of(sequence, adapter_sha256))
        weight = fitted_weight(places, probabilities, stages, chain)
        calibration = replace(calibration, sequence_weight=weight)
    return calibration, found


def sentences(calibration: Calibration, found: Fit, wanted: DecideFor) -> tuple[str, ...]:
    """Say what was fitted and what it changes, for a person at a terminal."""
    c, n_subjects = calibration, len(calibration.subjects)
    offsets = ", ".join(f"{s} {b:+.2f}" for s, b in zip(STAGES, c.offsets, strict=True))
    fitted = (
        f"Calibration: temperature {c.temperature:.3f}, offsets {offsets}, from {c.n:,} epochs of "
        f"{n_subjects} subject{'s' * (n_subjects != 1)}; ECE {c.ece_before:.3f} → {c.ece_after:.3f}, "
        f"NLL {c.nll_before:.3f} → {c.nll_after:.3f}"
    )
    if c.sequence_weight is not None:
        fitted += f"; the sequence of stages counts {c.sequence_weight:g} when they are smoothed"
    if found.likeliest is None or found.decided is None:
        return (fitted,)
    tried = (
        f"{AIMS[wanted]} {found.likeliest:.3f} → {found.decided:.3f} on epochs of these subjects "
        "that the decision was not fitted on"
    )
    if not found.is_kept:
        return fitted, f"Not decided for {AIMS[wanted]}, since that does not help: {tried}."
    offsets = ", ".join(f"{s} {d:+.2f}" for s, d in zip(STAGES, c.decision_offsets, strict=True))
    return fitted, f"Decided for {AIMS[wanted]}: offsets {offsets}; {tried}."


def scores_of(row: Answer) -> np.ndarray:
    """Return the log-likelihoods of a row, float64 ``[5]``.

    Raises
    ------
    EegToolError
        If these are not one number for each stage.
    """
    scores = of_stages(row.metadata.get("log_likelihoods"))
    if scores is None:
        raise EegToolError(
            f"The log-likelihoods of '{row.question_id}' are not one number for each stage.",
            "Start again with --overwrite, or give another --answers-file.",
        )
    return np.array(scores)


def calibrated(row: Answer, calibration: Calibration | None, answers: Sequence[str]) -> Answer:
    """Return a row with the probabilities and, in mode ``score``, the answer that its scores give.

    It says by which calibration. What the model wrote, in another mode, stays as it is, and so does a
    row without log-likelihoods.

    Parameters
    ----------
    row : Answer
        As asked, or as calibrated otherwise before.
    calibration : Calibration or None
        Of the model that was asked.
    answers : sequence of str
        Its answer for each stage (see `AnswerForm.texts`).

    Raises
    ------
    EegToolError
        If the log-likelihoods are not one number for each stage.
    """
    if row.metadata.get("log_likelihoods") is None:
        return row
    scores = scores_of(row)
    scaling = calibration.scaling if calibration else _NONE
    facts: dict[str, Any] = {
        "stage_probabilities": by_stage(scaling.probabilities(scores).tolist()),
        "calibration_temperature": scaling.temperature,
    }
    if calibration:
        facts["calibration_offsets"] = by_stage(scaling.offsets)
        facts["calibration_subjects"] = list(calibration.subjects)
        if row.metadata.get("subject") in calibration.subjects:
            facts["calibrated_on"] = True
    text = row.text
    if row.metadata.get("mode") == "score":
        text = with_ending(text, answers, int(scaling.decided(scores)))
        facts["decide_for"] = scaling.decide_for
        if scaling.decide_for != "likelihood":
            facts["decision_offsets"] = by_stage(scaling.decision_offsets)
    kept = {name: value for name, value in row.metadata.items() if name not in _OWN}
    return replace(row, text=text, metadata=kept | facts)


def with_ending(text: str, answers: Sequence[str], index: int) -> str:
    """Return a text that ends with one of `answers`, maybe behind reasons, with that of `index` instead."""
    endings = [answer for answer in answers if text.endswith(answer)]
    return text.removesuffix(max(endings, key=len)) + answers[index] if endings else text


@dataclass(frozen=True, slots=True)
class CertaintyCheck:
    """How certain answers are of epochs that nothing was fitted on, and how often they are right."""

    _numbers: array[float] = field(default_factory=lambda: array("d"))
    """Of each epoch its five log-likelihoods and its five probabilities."""
    _stages: list[str] = field(default_factory=list)

    def add(self, row: Answer) -> None:
        """Look at a row; without log-likelihoods, probabilities or a true stage it says nothing."""
        scores = of_stages(row.metadata.get("log_likelihoods"))
        shares = of_stages(row.metadata.get("stage_probabilities"))
        if scores is None or shares is None or not np.isclose(sum(shares), 1, atol=1e-4):
            return  # somebody else's row, read again
        if row.label in STAGES and not row.metadata.get("calibrated_on"):
            self._numbers.extend(scores + shares)
            self._stages.append(row.label)

    def figures(self) -> dict[str, float]:
        """Return the number of epochs and their ECE without and, where there is one, with the calibration."""
        if not self._stages:
            return {}
        numbers = np.array(self._numbers).reshape(-1, 2, len(STAGES))
        plain, shares = _NONE.probabilities(numbers[:, 0]), numbers[:, 1]
        found = {"n": len(self._stages), "before": ece(plain, self._stages)}
        if not np.allclose(plain, shares, atol=1e-5):  # rounded in the rows
            found["after"] = ece(shares, self._stages)
        return found


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write ``calibration.json`` beside the adapter."""
    known = {name: getattr(calibration, name) for name in _BY_STAGE}
    numbers = {name: by_stage(values, 17) for name, values in known.items() if values}
    write_json(folder / _FILE, {k: v for k, v in asdict(calibration).items() if v != ()} | numbers)


def read_calibration(folder: Path, adapter_sha256: str = "") -> Calibration | None:
    """Read the calibration of an adapter folder; None where it has none.

    Raises
    ------
    EegToolError
        If it cannot be read, or was fitted on the probabilities of other weights than those that are asked.
    """
    path, fix = folder / _FILE, "Fit it again with --calibrate, or ask with --no-calibration."
    if not path.exists():
        return None
    raw = read_json(path)
    try:
        stages = of_stages(raw["stages"]) if "stages" in raw else ()
        if stages is None:
            raise ValueError("it does not have one number for each stage")
        weight = raw.get("sequence_weight")
        if not (weight is None or (isinstance(weight, int | float) and 0 <= weight <= 1)):
            raise ValueError(f"it has the weight {weight} of sequences")
        known = {"subjects": tuple(raw["subjects"]), "stages": stages}
        calibration = Calibration(**raw | asdict(read_scaling(raw)) | known)
    except (KeyError, TypeError, ValueError) as error:
        raise EegToolError(f"{path} is not readable as a calibration: {error}.", fix) from error
    if adapter_sha256 and calibration.adapter_sha256 != adapter_sha256:
        raise EegToolError(
            f"{path} belongs to other weights ({calibration.adapter_sha256[:12]}) than those that are "
            f"asked ({adapter_sha256[:12]}).",
            fix,
        )
    return calibration
