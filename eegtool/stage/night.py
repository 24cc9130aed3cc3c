"""A staged night in memory: stages, probabilities, hypnogram, words; and on disk, once it is saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yasa
from matplotlib.figure import Figure

from eegtool import __version__
from eegtool.core.answers import read_stage
from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import of_stages
from eegtool.core.records import Answer
from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.core.workspace import write_json
from eegtool.inference.smoothing import MUCH, Chain, smoothed_stages
from eegtool.prepare.unscored import DrawnNight
from eegtool.report.showing.exports import ScoredEpoch
from eegtool.stage.results import STAMP, own_folder, write_night

if TYPE_CHECKING:
    from eegtool.stage.stager import Stager

_WITHOUT_STAGE = "UNS"
"""YASA's name for epochs without a stage."""


class StagedNight:
    """One recording, staged.

    Attributes
    ----------
    recording : str
        Its name.
    drawn : DrawnNight
        Its epochs: pictures, what holds no EEG and why, notes.
    answers : list of Answer
        What the model says about each epoch that holds EEG, in order of time, with probabilities.
    epochs : list of ScoredEpoch
        All epochs of the recording, staged or not, in order of time.
    """

    def __init__(
        self, stager: Stager, drawn: DrawnNight, answers: list[Answer], chain: Chain | None
    ) -> None:
        self.recording = drawn.prepared.night.recording
        self.stager = stager
        self.drawn = drawn
        self.answers = answers
        smoothed, changed = smoothed_stages(answers, chain) if chain else ({}, {})
        self.epochs = _scored(drawn, answers, smoothed)
        self._changed = changed.get(self.recording, 0.0)

    @property
    def stages(self) -> list[str | None]:
        """Stage of every epoch of the recording; None where the signal is not EEG."""
        return [epoch.stage for epoch in self.epochs]

    @property
    def smoothed_stages(self) -> list[str | None]:
        """The likeliest sequence of stages; all None if it was not sought (``smooth``)."""
        return [epoch.smoothed for epoch in self.epochs]

    @property
    def notes(self) -> list[str]:
        """What must be said of this night: of its recording, and of its smoothing."""
        notes = list(self.drawn.prepared.notes)
        if self._changed > MUCH:
            notes.append(
                f"smoothing changes {self._changed:.0%} of the epochs: the nights that it was learnt from may not be "
                "like this one"
            )
        return notes

    @property
    def probabilities(self) -> pd.DataFrame:
        """Probability of each stage (columns) at the onset of each epoch in s (index); NaN without EEG."""
        rows = [epoch.probabilities or (np.nan,) * len(STAGES) for epoch in self.epochs]
        onsets_s = pd.Index([epoch.onset_s for epoch in self.epochs], name="onset_s")
        return pd.DataFrame(rows, index=onsets_s, columns=list(STAGES), dtype=float)

    @property
    def hypnogram(self) -> yasa.Hypnogram:
        """The stages and their probabilities for YASA; epochs without EEG are ``UNS``."""
        shares = self.probabilities.reset_index(drop=True)
        without = shares.isna().any(axis=1)
        shares = shares.fillna(0.0)
        shares = shares.div(shares.sum(axis=1).where(~without, 1.0), axis=0)
        if without.any():
            shares[_WITHOUT_STAGE] = without.astype(float)
        return yasa.Hypnogram(
            [stage or _WITHOUT_STAGE for stage in self.stages],
            freq=f"{EPOCH_S}s",
            start=self.drawn.start,
            scorer="eegvlm",
            proba=shares,
        )

    def plot(self) -> Figure:
        """Draw the hypnogram above the probabilities (hypnodensity).

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook, or saved by its ``savefig``.
        """
        figure = Figure(figsize=(12, 6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        hypnogram = self.hypnogram
        hypnogram.plot_hypnogram(ax=upper)
        hypnogram.plot_hypnodensity(ax=lower)
        upper.set_xlabel("")
        lower.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
        return figure

    def explain(self, epoch_indices: Iterable[int]) -> dict[int, str]:
        """Let the model write about some epochs.

        Parameters
        ----------
        epoch_indices : iterable of int
            Places in the recording, from 0.

        Returns
        -------
        dict of int to str
            The model's words, by index.

        Raises
        ------
        EegToolError
            If there is no such epoch, or it holds no EEG.
        """
        answer_of = {int(answer.metadata["epoch_index"]): answer for answer in self.answers}
        wanted = list(dict.fromkeys(epoch_indices))
        for index in wanted:
            if index not in answer_of:
                why = dict(self.drawn.prepared.flagged).get(index)
                raise EegToolError(
                    f"{self.recording} has no epoch {index}: it has {len(self.epochs)}."
                    if why is None
                    else f"Epoch {index} of {self.recording} holds no EEG ({why}).",
                    "Give the index of an epoch that was staged.",
                )
        texts = self.words([answer_of[index].question_id for index in wanted])
        return {index: texts[answer_of[index].question_id] for index in wanted}

    def words(
        self,
        sample_ids: Sequence[str],
        *,
        batch_size: int | None = None,
        answers_file: Path | None = None,
    ) -> dict[str, str]:
        """Return the model's own words about epochs, by sample id; see `Stager.answers_about`."""
        if not sample_ids:
            return {}
        answers = {answer.question_id: answer for answer in self.answers}
        if not self.stager.requirements.answers.writes(answers[sample_ids[0]].metadata["mode"]):
            answers = self.stager.answers_about(
                self.drawn,
                sample_ids,
                mode="generate",
                batch_size=batch_size,
                answers_file=answers_file,
            )
        return {sample_id: answers[sample_id].text for sample_id in sample_ids}

    def least_certain(self, n: int) -> list[str]:
        """Return the sample ids of the epochs whose likeliest stage is least likely."""
        shares = {a.question_id: a.metadata["stage_probabilities"] for a in self.answers}
        return sorted(shares, key=lambda sample_id: max(shares[sample_id].values()))[:n]

    def save(self, out: str | Path) -> dict[str, Any]:
        """Write what `eegvlm stage` writes: hypnogram, events, annotations, report, into a folder of its own.

        Parameters
        ----------
        out : str or Path
            Folder of the results; other nights that the same model staged may be in it.

        Returns
        -------
        dict
            What stands in the night's ``night.json``.

        Raises
        ------
        EegToolError
            If the folder holds something else, or it cannot be written.
        """
        folder = Path(out)
        mode = self.answers[0].metadata["mode"]
        identity = self.stager.requirements.identity(mode, self.drawn.channels)
        with own_folder(folder, identity):
            found = write_night(self, folder)
            whole = {"step": "stage", "status": "complete", "tool": f"eegvlm {__version__}"}
            write_json(folder / STAMP, whole | identity)
        return found


def _scored(
    drawn: DrawnNight, answers: Sequence[Answer], smoothed: Mapping[str, str]
) -> list[ScoredEpoch]:
    """Return a row for every epoch of the recording, staged or not, in order of time."""
    prepared = drawn.prepared
    answer_of = {int(answer.metadata["epoch_index"]): answer for answer in answers}
    lost = [i for i, _ in prepared.staged if i not in answer_of]
    if lost:
        raise EegToolError(
            f"{prepared.night.recording}: {len(lost)} epochs have no answer, such as epoch {lost[0]}.",
            "Run again to continue.",
        )
    rows = [
        ScoredEpoch(i, float(i * EPOCH_S), None, missing=True, why=why)
        for i, why in prepared.flagged
    ]
    for i, answer in answer_of.items():
        reading = read_stage(answer.text)
        rows.append(
            ScoredEpoch(
                i,
                float(i * EPOCH_S),
                reading.stage,
                probabilities=of_stages(answer.metadata["stage_probabilities"]),
                read=reading.words(answer.text),
                smoothed=smoothed.get(answer.question_id),
            )
        )
    return sorted(rows, key=lambda row: row.epoch_index)
