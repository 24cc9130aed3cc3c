"""A model that stages recordings: loaded once, asked about any number of nights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mne
import numpy as np
import torch

from eegtool.core.console import progress
from eegtool.core.errors import EegToolError
from eegtool.core.launching import is_first_rank
from eegtool.core.options import AnswerMode
from eegtool.core.records import Answer, Question
from eegtool.core.registry import check_name
from eegtool.evaluate.asking import Job, read_row
from eegtool.evaluate.shards import appended, part_path, share
from eegtool.extract.stored import features_of, open_module
from eegtool.inference.calibration import Calibration, calibrated
from eegtool.inference.loaded import LoadedModel, device_of
from eegtool.inference.writing import Decoding
from eegtool.prepare.unscored import DrawnNight, draw_unscored
from eegtool.scorings.cohorts import Night, find_recordings
from eegtool.stage.night import StagedNight
from eegtool.stage.requirements import Requirements, read_requirements

if TYPE_CHECKING:
    from eegtool.extract.module import VisionModule


@dataclass(eq=False, repr=False)
class Stager:
    """A fine-tuned model with its vision module: recordings in, staged nights out; see `load`.

    Attributes
    ----------
    requirements : Requirements
        What the model's folder says: channels, pictures, question.

    Examples
    --------
    >>> stager = Stager.load("lab/checkpoints/13b")  # doctest: +SKIP
    >>> night = stager.stage("new/night7.edf", channel="C4-M1")  # doctest: +SKIP
    >>> night.hypnogram.sleep_statistics()  # doctest: +SKIP
    """

    requirements: Requirements
    _load_model: Callable[[], LoadedModel]
    _device: torch.device
    _backbone: str | None

    @classmethod
    def load(
        cls,
        model_folder: str | Path,
        base: str | None = None,
        device: str | torch.device = "auto",
        dtype: str = "auto",
        attention: str = "auto",
        merge: bool = False,
        *,
        vision_tower: str = "",
        vision_module: str | Path | None = None,
        backbone: str = "",
        lazily: bool = False,
    ) -> Stager:
        """Load a model and its vision module, once.

        Parameters
        ----------
        model_folder : str or Path
            What `eegvlm finetune` or `eegvlm export` wrote.
        base, vision_tower : str, optional
            Where the base lies here, if not where it lay in training.
        device, dtype, attention, merge
            See `LoadedModel.load`.
        vision_module : str or Path, optional
            Folder of the vision module, if the model's has none.
        backbone : str, optional
            Your own vision module, ``package.module:factory``: its code runs only if you name it.
        lazily : bool
            Check the folder now, and load weights when they are first needed.

        Raises
        ------
        EegToolError
            If the folder is not a model, does not say enough (see `read_requirements`), or its weights
            cannot be loaded.
        """
        folder = Path(model_folder)
        where: dict[str, Any] = {"base": base, "vision_tower": vision_tower}
        named = None if vision_module is None else Path(vision_module)
        requirements = read_requirements(folder, vision_module=named, **where)
        how: dict[str, Any] = {"dtype": dtype, "attention": attention, "merge": merge}
        load_model = partial(LoadedModel.load, folder, device=device, **where, **how)
        stager = cls(requirements, load_model, device_of(device), backbone or None)
        if not lazily:
            _ = stager.module, stager.model
        return stager

    @cached_property
    def model(self) -> LoadedModel:
        """The loaded model."""
        return self._load_model()

    @cached_property
    def module(self) -> VisionModule | None:
        """Its vision module; None if it looks at no features."""
        folder = self.requirements.module
        return None if folder is None else open_module(folder, self._backbone)[0]

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration in the model's folder; None where there is none."""
        return self.requirements.calibration()

    def stage(
        self,
        source: str | Path | mne.io.BaseRaw | DrawnNight,
        channel: str | Sequence[str] = (),
        smooth: bool = False,
        *,
        mode: Literal["score", "both"] = "score",
        calibrate: bool = True,
        batch_size: int | None = None,
        strict: bool = False,
        answers_file: Path | None = None,
    ) -> StagedNight:
        """Stage a recording; nothing is written but, where you name it, the file of answers.

        Parameters
        ----------
        source : str, Path, mne.io.BaseRaw or DrawnNight
            A file of any format that `eegvlm prepare` reads, what MNE has in memory, in volts, or a night whose
            epochs are drawn.
        channel : str or sequence of str
            Channel of this recording that stands for the trained one, or a derivation such as
            ``"C4 - (M1+M2)/2"``; by default the channel of the training.
        smooth : bool
            Also seek the likeliest sequence of stages.
        mode : str
            The likeliest stage (``score``), or the stage that the model writes (``both``).
        calibrate : bool
            Apply the calibration in the model's folder.
        batch_size : int, optional
            Epochs at the same time; by default as many as fit.
        strict : bool
            Refuse a recording of which a part is missing.
        answers_file : Path, optional
            See `answers_about`.

        Raises
        ------
        EegToolError
            If the recording cannot be used, lacks the channel or is sampled too slowly, a Raw object
            is not in volts, or a drawn night comes with a channel.
        """
        check_name("mode", mode, ("score", "both"))
        calibration = self.calibration if calibrate else None
        chain = self.requirements.chain(calibration) if smooth else None
        if isinstance(source, DrawnNight) and (channel or strict):
            raise EegToolError(
                f"{source.prepared.night.recording} is drawn already: channel and strict change nothing.",
                "Give them where it is drawn, or stage its recording.",
            )
        drawn = source if isinstance(source, DrawnNight) else self._draw(source, channel, strict)
        answers = self.answers_about(
            drawn, mode=mode, batch_size=batch_size, answers_file=answers_file
        )
        texts = self.requirements.answers.texts
        finished = [calibrated(row, calibration, texts) for row in answers.values()]
        return StagedNight(self, drawn, finished, chain)

    def _draw(
        self, source: str | Path | mne.io.BaseRaw, channel: str | Sequence[str], strict: bool
    ) -> DrawnNight:
        """Filter a recording, which is to be drawn as the model wants it."""
        channels = [channel] if isinstance(channel, str) else list(channel)
        recipe = self.requirements.recipe(channels, strict=strict)
        night, raw = _night_of(source)
        return draw_unscored(night, recipe, raw)

    def answers_about(
        self,
        drawn: DrawnNight,
        sample_ids: Iterable[str] | None = None,
        *,
        mode: AnswerMode = "score",
        batch_size: int | None = None,
        answers_file: Path | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> dict[str, Answer]:
        """Ask about epochs of a night; return the answers by sample id, without probabilities.

        Parameters
        ----------
        drawn, mode, batch_size
            See `stage`.
        sample_ids : iterable of str, optional
            Epochs that are asked about; by default all that hold EEG.
        answers_file : Path, optional
            Beside it answers are kept as they come, and those that are there are not asked for again.
        rank, ranks : int
            Which share of the epochs is asked about here; the other shares' answers come from
            `answers_file`, as far as they are there.
        """
        job = self._job(drawn, mode)
        text = self.requirements.answers.question
        chosen = [
            Question(i, (job.epochs[i].image,) * 2, text)
            for i in (job.epochs if sample_ids is None else sample_ids)
        ]
        found: dict[str, Answer] = {}
        if answers_file:
            fix = "Remove {path}, and stage again."
            lines = job.answered(chosen, answers_file, strict=False, fix=fix)
            found = {i: read_row(line, str(answers_file)) for i, line in lines.items()}
        own = share(chosen, rank, ranks)
        if any(question.sample_id not in found for question in own):
            features = self.features(drawn)
            batches = job.ask(
                self.model,
                own,
                set(found),
                lambda q: self.model.processor.pixels(drawn.pictures[q.sample_id]),
                None if features is None else features.__getitem__,
                batch_size=batch_size,
            )
            if answers_file:
                batches = appended(batches, part_path(answers_file, rank=rank))
            found |= {row.question_id: row for rows in batches for row in rows}
        return {q.sample_id: found[q.sample_id] for q in chosen if q.sample_id in found}

    def features(self, drawn: DrawnNight) -> dict[str, np.ndarray] | None:
        """Return the high-level feature of each epoch, float32 ``[1, 1024]``; None if none are needed.

        Of all epochs, whatever is missing: the last bits of a feature depend on what else is in its batch.
        """
        if self.module is None:
            return None
        weights = self.requirements.contract.features_weights_sha256
        if weights not in drawn.features:
            bar = progress("epochs")
            bar.disable = not is_first_rank()
            with bar:
                task = bar.add_task("Looking", total=len(drawn.pictures), note="")
                drawn.features[weights] = features_of(
                    self.module,
                    drawn.pictures,
                    device=self._device,
                    advance=lambda n: bar.update(task, advance=n),
                    onsets_s={e.sample_id: e.onset_s for e in drawn.prepared.epochs("eval")},
                )
        return drawn.features[weights]

    def _job(self, drawn: DrawnNight, mode: AnswerMode) -> Job:
        """Return how the epochs of a night are asked about."""
        model, prepared = self.requirements, drawn.prepared
        own = {"channel recorded": prepared.channel, "simulated": prepared.simulated}
        return Job(
            model=model,
            mode=mode,
            decoding=Decoding(model.answers.max_new_tokens),
            template=model.contract.version,
            prompt=model.prompt,
            pictures=model.protocol | own,
            epochs={epoch.sample_id: epoch for epoch in prepared.epochs("eval")},
        )


def _night_of(source: str | Path | mne.io.BaseRaw) -> tuple[Night, mne.io.BaseRaw | None]:
    """Return whose recording a source is, and the source if it is in memory."""
    if isinstance(source, mne.io.BaseRaw):
        file = next(filter(None, source.filenames), None)
        if file and Path(file).is_file():
            return find_recordings([Path(file)])[0], source
        return Night("generic", "raw", "raw", 1, Path("raw"), None), source
    nights = find_recordings([Path(source)])
    if len(nights) > 1:
        raise EegToolError(
            f"{source} holds {len(nights)} recordings; `stage` takes one.",
            "Give each by itself, or run `eegvlm stage` on the folder.",
        )
    return nights[0], None
