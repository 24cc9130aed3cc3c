"""One recording with its scoring, or without: from files to staged epochs and their pictures, kept across interruptions.

The order is fixed: read, notch and band-pass the whole recording, (resample,) store these signals as
int16, cut them into epochs on the grid of the scoring, trim wake around sleep, drop what has no stage, draw.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

import eegtool
from eegtool.core.errors import EegToolError, brief
from eegtool.core.records import SPLITS, Epoch
from eegtool.core.stages import DROPPED, EPOCH_S
from eegtool.core.workspace import Workspace, read_json, sha256_of, write_json
from eegtool.pictures import draw_png
from eegtool.pictures.signals import (
    StoredNight,
    check_signals,
    quantise,
    read_signals,
    write_signals,
)
from eegtool.prepare.recipe import Recipe
from eegtool.reasons.facts import Facts, measure
from eegtool.recordings.header import Pause
from eegtool.recordings.reading import (
    Recording,
    Signal,
    Source,
    find_signals,
    paused_epochs,
    read_header,
    read_recording,
)
from eegtool.recordings.signals import (
    band_pass,
    check_band,
    cut_epoch,
    notch,
    resample,
    trim_wake,
    whole_epochs,
    why_no_eeg,
)
from eegtool.scorings.cohorts import COHORTS, PAIRING_FIX, Night
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch
from eegtool.scorings.levels import level_files

_OWNER: Final = ".run"
"""File of the staging directory with the name of the run that draws in it."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What names, header and scoring say of a recording, before any signal is read."""

    night: Night
    stages: tuple[str, ...]
    """Stage or kind of dropped time of every epoch of the recording; empty texts without a scoring."""
    kept: range
    """Epochs that are left when wake is trimmed."""
    first_onset_s: float
    """Where the grid of epochs begins, in seconds from the first sample."""
    simulated: bool
    files: tuple[Path, ...]
    """All files that the recording and its scoring are in."""
    notes: tuple[str, ...]
    pauses: tuple[Pause, ...] = ()
    """Time in which nothing was recorded."""

    @property
    def is_unscored(self) -> bool:
        """Whether there is no scoring: every epoch that holds EEG is taken, the others are flagged."""
        return not any(self.stages)

    @property
    def staged(self) -> tuple[tuple[int, str], ...]:
        """Index and stage of every epoch that gets a picture."""
        return tuple((i, self.stages[i]) for i in self.kept if self.stages[i] not in DROPPED)

    @property
    def dropped(self) -> dict[str, int]:
        """Epochs within the trimmed night that have no stage, by kind."""
        counts = Counter(self.stages[i] for i in self.kept if self.stages[i] in DROPPED)
        return dict(sorted(counts.items()))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of one recording; stored as ``nights/<recording>.json``, less what finds it.

    Attributes
    ----------
    night : Night
        Whose it is.
    key : str
        Hash of its input files and of all that decides which epochs and signals there are.
    channel : str
        The channels as the file spells them.
    staged : tuple of (int, str)
        Index and stage of every epoch kept.
    first_onset_s : float
        Where the grid of epochs begins, in seconds from the first sample.
    n_trimmed : int
        Epochs cut off as wake far from sleep.
    dropped : dict of str to int
        Epochs within the trimmed night that have no stage, by kind.
    inputs : dict of str to str
        SHA-256 of each input file.
    flagged : tuple of (int, str)
        Of a recording without a scoring: index of every epoch that holds no EEG, and why.
    drawing : dict
        How its signals are drawn.
    pictures_sha256 : str
        Hash over the names and bytes of all pictures; empty where there are no files.
    signals_sha256 : str
        Hash of the file of its signals; empty where they are not stored.
    simulated : bool
        Whether the recording calls itself simulated.
    notes : tuple of str
        What the user should know.
    facts : tuple of dict, or None
        What was measured in each epoch; None where nobody asked.
    folder : Path or None
        Where its pictures are now.
    signals : Path or None
        Where its signals are now.
    problem : EegToolError or None
        Why the recording could not be used.
    """

    night: Night
    key: str = ""
    channel: str = ""
    staged: tuple[tuple[int, str], ...] = ()
    first_onset_s: float = 0.0
    n_trimmed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    flagged: tuple[tuple[int, str], ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)
    drawing: dict[str, Any] = field(default_factory=dict)
    pictures_sha256: str = ""
    signals_sha256: str = ""
    simulated: bool = False
    notes: tuple[str, ...] = ()
    facts: tuple[dict[str, Any], ...] | None = None
    folder: Path | None = None
    signals: Path | None = None
    problem: EegToolError | None = None

    def epochs(self, split: str) -> list[Epoch]:
        """Return its epochs as rows of ``epochs.csv``, on one side of the split."""
        return [
            Epoch(
                sample_id=(sample_id := _sample_id(self.night, i)),
                cohort=self.night.cohort,
                recording=self.night.recording,
                subject=self.night.subject,
                night=self.night.night,
                epoch_index=i,
                onset_s=self.first_onset_s + i * EPOCH_S,
                stage=stage,
                split=split,
                image=f"{self.night.recording}/{sample_id}.png",
            )
            for i, stage in self.staged
        ]

    def facts_of(self) -> dict[str, Facts]:
        """Return what was measured, by sample id."""
        ids = [_sample_id(self.night, i) for i, _ in self.staged]
        return dict(zip(ids, map(Facts.from_row, self.facts or ()), strict=True))

    def to_card(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in _CARD}

    @classmethod
    def from_card(cls, night: Night, card: dict[str, Any], folder: Path | None) -> Prepared:
        """Read the form that `to_card` writes."""
        values = {name: card[name] for name in _CARD}
        values["staged"] = tuple((int(i), str(stage)) for i, stage in values["staged"])
        values["flagged"] = tuple((int(i), str(why)) for i, why in values["flagged"])
        values["notes"] = tuple(values["notes"])
        try:
            values["facts"] = values["facts"] and tuple(
                Facts.from_row(row).to_row() for row in values["facts"]
            )
        except (KeyError, TypeError, ValueError):  # measured by another version: measure again
            values["facts"] = None
        return cls(night, folder=folder, **values)


_CARD: Final = (
    *("key", "channel", "staged", "first_onset_s", "n_trimmed", "dropped", "flagged"),
    *("inputs", "drawing", "pictures_sha256", "signals_sha256", "simulated", "notes", "facts"),
)


def outline(night: Night, recipe: Recipe) -> Outline:
    """Read header and scoring of a recording.

    Raises
    ------
    EegToolError
        If either cannot be used, or no sleep is scored within the recording.
    """
    header = read_header(night.signal_path, strict=recipe.strict)
    try:
        wanted = find_signals(header, recipe.channels)
    except EegToolError as error:
        usual = " or ".join(f"--channel '{name}'" for name in COHORTS[night.cohort].channels)
        more = f" Usual in {night.cohort}: {usual}." if usual else ""
        raise EegToolError(error.what, error.fix + more) from error
    for found in wanted:
        if found.derivation and (band_hz := found.spec.fitting_band_hz(found.sfreq_hz)):
            check_band(*band_hz, found.sfreq_hz)
    if night.problem and not night.scorings:
        raise EegToolError(night.problem, PAIRING_FIX)
    if not night.scorings:
        raise EegToolError(
            f"There is no hypnogram for {night.signal_path}.",
            "Put it beside the recording, or pair the files in a pairs.csv.",
        )
    hypnogram = read_hypnogram(
        night.scorings, header.start, header.duration_s, night.read_as, header.pauses
    )
    n_epochs = whole_epochs(header.duration_s, 1.0, hypnogram.first_onset_s)
    stages = stage_per_epoch(hypnogram, n_epochs, header.pauses)
    kept = trim_wake(stages, recipe.wake_margin)
    if not kept:
        raise EegToolError(
            f"The hypnogram {night.scorings[0]} scores no sleep within the recording.",
            "Check that it belongs to this recording.",
        )
    levels = (file for path in night.scorings for file in level_files(path))
    return Outline(
        night=night,
        stages=tuple(stages),
        kept=kept,
        first_onset_s=hypnogram.first_onset_s,
        simulated=header.simulated,
        files=tuple(dict.fromkeys((*header.files, *night.scorings, *levels))),
        notes=header.notes + hypnogram.notes,
        pauses=header.pauses,
    )


def outline_unscored(night: Night, recipe: Recipe, source: Source | None = None) -> Outline:
    """Read the header of a recording that is to be staged: every whole epoch, whatever is scored.

    Parameters
    ----------
    night : Night
        The recording.
    recipe : Recipe
        Channels and band.
    source : Path or mne.io.BaseRaw, optional
        Where it is, if not in the file of `night`.

    Raises
    ------
    EegToolError
        If it cannot be used, lacks a channel, is sampled too slowly or shorter than one epoch.
    """
    header = read_header(source or night.signal_path, strict=recipe.strict)
    for found in find_signals(header, recipe.channels):
        high_hz = (found.spec.fitting_band_hz(found.sfreq_hz) or (0.0, 0.0))[1]
        if found.derivation and not found.sfreq_hz > 2 * high_hz:
            raise EegToolError(
                f"{header.path} is sampled at {found.sfreq_hz:g} Hz; the model was trained on signals "
                f"with rhythms up to {high_hz:g} Hz.",
                f"It takes recordings of more than {2 * high_hz:g} Hz.",
            )
    n_epochs = whole_epochs(header.duration_s, 1.0)
    if not n_epochs:
        raise EegToolError(
            f"{header.path} lasts {header.duration_s:g} s: shorter than an epoch of {EPOCH_S} s.",
            "Give a whole recording.",
        )
    rest_s = header.duration_s - n_epochs * EPOCH_S
    note = f"The last {rest_s:.3g} s are no whole epoch." if rest_s > 0.01 else ""
    return Outline(
        night=night,
        stages=("",) * n_epochs,
        kept=range(n_epochs),
        first_onset_s=0.0,
        simulated=header.simulated,
        files=header.files,
        notes=(*header.notes, *([note] if note else [])),
        pauses=header.pauses,
    )


def open_staging_dir(root: Path) -> str:
    """Make the folder to draw in, take it over from any other run, and return the name of this run.

    Whole recordings that an interrupted run left there are kept.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    staging_dir = Workspace(root).staging_dir
    staging_dir.mkdir(parents=True, exist_ok=True)
    run = uuid.uuid4().hex
    (staging_dir / _OWNER).write_text(run)
    for part in staging_dir.glob("*.part"):
        shutil.rmtree(part, ignore_errors=True)
    return run


def prepare_night(
    night: Night, recipe: Recipe, workspace: Workspace, run: str, *, unscored: bool = False
) -> Prepared:
    """Store the signals of one recording and its pictures in the staging directory of the workspace, or find them whole.

    What an earlier run made of the same files in the same way is kept where it is. Where only the
    drawing is another one, the stored signals are drawn, and the recording is not read again.

    Parameters
    ----------
    night : Night
        The recording.
    recipe : Recipe
        What to make of it.
    workspace : Workspace
        Where.
    run : str
        Name that `open_staging_dir` gave. The worker of a killed run may still be at it when the next
        run begins; it stops when it sees that the staging directory has another owner.
    unscored : bool
        Take every epoch that holds EEG, whatever is scored; the others are flagged.

    Raises
    ------
    EegToolError
        If the staging directory cannot be written. What is wrong with the recording itself is returned as
        the `problem` of the result.
    """
    try:
        with _naming_defects(night):
            plan = (outline_unscored if unscored else outline)(night, recipe)
            inputs = _hashes(plan.files)
            done = _find(plan, inputs, recipe, workspace)
            if done and _is_whole(done, recipe):
                return done
            if done and done.signals:
                stored = read_signals(done.signals, night.recording)
            else:
                recording, stored = _filtered(night.signal_path, plan, recipe)
            if done is None:
                done = _described(plan, recording, inputs, recipe)
            if recipe.measured:
                done = _measured(done, stored, recipe)
    except EegToolError as problem:
        return Prepared(night, problem=problem)
    try:
        done = replace(done, drawing=recipe.drawing())
        if not done.signals:
            done = store_signals(done, stored, workspace, run)
        if recipe.pictures and done.folder is None:
            done = _store_pictures(
                done, draw_epochs(done.epochs(""), stored, recipe), workspace, run
            )
        _check_owner(workspace, run)
        write_json(workspace.staging_dir / f"{done.night.recording}.json", done.to_card())
    except OSError as error:
        raise cannot_write(workspace.root, error) from error
    return done


def _is_whole(done: Prepared, recipe: Recipe) -> bool:
    """Say whether nothing that is wanted of a recording is missing."""
    drawn = done.folder or not recipe.pictures
    return bool(done.signals and drawn and (done.facts is not None or not recipe.measured))


def filter_in_memory(
    night: Night, recipe: Recipe, source: Source | None = None
) -> tuple[Prepared, StoredNight]:
    """Filter a recording that is to be staged, and write nothing.

    Parameters
    ----------
    night, recipe, source
        See `outline_unscored`.

    Returns
    -------
    Prepared, StoredNight
        What became of it, without a folder; and its channels as they would be stored.

    Raises
    ------
    EegToolError
        If the recording cannot be used.
    """
    with _naming_defects(night):
        plan = outline_unscored(night, recipe, source)
        recording, stored = _filtered(source or night.signal_path, plan, recipe)
        inputs = _hashes(plan.files) or {night.recording: _samples_sha256(recording)}
        done = _described(plan, recording, inputs, recipe)
    return replace(done, drawing=recipe.drawing()), stored


def _measured(done: Prepared, stored: StoredNight, recipe: Recipe) -> Prepared:
    """Measure in every epoch what reasons are made of."""
    of_kind: dict[str, list[tuple[np.ndarray, float]]] = {"eeg": [], "eog": [], "emg": []}
    for channel, spec in zip(stored.channels, recipe.channels, strict=True):
        if len(channel.samples):
            of_kind[spec.kind].append((channel.data_uv, channel.sfreq_hz))
    eeg, eyes, chins = of_kind.values()
    if not eeg:
        raise EegToolError(
            f"{stored.recording} has no EEG in this montage that could be measured.",
            "Leave out --rationale measured, or choose a montage with EEG.",
        )
    onsets_s = [epoch.onset_s for epoch in done.epochs("")]
    facts = measure(*eeg[0], onsets_s, eyes[:2], next(iter(chins), None))
    return replace(done, facts=tuple(f.to_row() for f in facts))


@contextmanager
def _naming_defects(night: Night) -> Iterator[None]:
    """Turn whatever goes wrong with a recording into an error that says which one and where."""
    try:
        yield
    except EegToolError:
        raise
    except Exception as error:  # whatever it is, the other nights continue
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise EegToolError(
            f"{night.signal_path}: {type(error).__name__} ({brief(error)}) in "
            f"{Path(where.filename).name}, line {where.lineno}.",
            "The file cannot be read, or this is a defect of eegvlm; please report it.",
        ) from error


def _described(
    plan: Outline, recording: Recording, inputs: dict[str, str], recipe: Recipe
) -> Prepared:
    """Return what is known of a recording that was read, before anything of it is drawn."""
    flagged = _flagged(recording.signals, plan) if plan.is_unscored else {}
    return Prepared(
        plan.night,
        key=_key(plan, inputs, recipe),
        inputs=inputs,
        channel=", ".join(signal.name for signal in recording.signals),
        staged=tuple((i, stage) for i, stage in plan.staged if i not in flagged),
        first_onset_s=plan.first_onset_s,
        n_trimmed=len(plan.stages) - len(plan.kept),
        dropped=plan.dropped,
        flagged=tuple(flagged.items()),
        simulated=plan.simulated,
        notes=tuple(dict.fromkeys(plan.notes + recording.notes)),
    )


def _samples_sha256(recording: Recording) -> str:
    digest = hashlib.sha256()
    for signal in recording.signals:
        digest.update(f"{signal.name} {signal.sfreq_hz}\n".encode())
        digest.update(np.ascontiguousarray(signal.data_uv).data)
    return digest.hexdigest()


def cannot_write(workspace: Path, error: OSError) -> EegToolError:
    """Return the error of a disk that is full or gone."""
    return EegToolError(
        f"The workspace {workspace} cannot be written: {error.strerror}.",
        "Make room or fix the permissions, and run again: what is drawn is kept.",
    )


def draw_epochs(epochs: Sequence[Epoch], stored: StoredNight, recipe: Recipe) -> Iterator[bytes]:
    """Give the PNG of each epoch."""
    for epoch in epochs:
        around = stored.around(epoch.onset_s, recipe.context_epochs)
        yield draw_png(recipe.style, stored.cut_uv(epoch.onset_s), recipe.spec, around)


def estimate(night: Night, recipe: Recipe, n_pictures: int = 20) -> tuple[float, ...]:
    """Measure what a recording costs, without writing anything.

    Returns
    -------
    tuple of float
        Seconds to read and filter it, bytes of its signals, seconds per picture, bytes per picture.
    """
    began = time.perf_counter()
    plan = outline(night, recipe)
    _, stored = _filtered(night.signal_path, plan, recipe)
    read_s = time.perf_counter() - began
    spread = plan.staged[:: max(len(plan.staged) // n_pictures, 1)]
    epochs = Prepared(night, staged=spread, first_onset_s=plan.first_onset_s).epochs("")
    next(draw_epochs(epochs, stored, recipe))  # tables of the style are made once
    began = time.perf_counter()
    sizes = [len(png) for png in draw_epochs(epochs, stored, recipe)]
    drawing_s = time.perf_counter() - began
    n_bytes = float(sum(channel.samples.nbytes for channel in stored.channels))
    return read_s, n_bytes, drawing_s / len(sizes), sum(sizes) / len(sizes)


def store_signals(done: Prepared, stored: StoredNight, workspace: Workspace, run: str) -> Prepared:
    """Write the signals of a recording into the staging directory that `run` has opened, whole or not at all.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    path = Workspace(workspace.staging_dir).signals / f"{done.night.recording}.npy"
    _check_owner(workspace, run)
    return replace(done, signals_sha256=write_signals(path, stored), signals=path)


def _store_pictures(
    done: Prepared, pictures: Iterable[bytes], workspace: Workspace, run: str
) -> Prepared:
    """Write the pictures of a recording into the staging directory, whole or not at all."""
    folder = workspace.staging_dir / done.night.recording
    part = folder.with_name(f"{folder.name}.{run}.part")
    shutil.rmtree(part, ignore_errors=True)  # a Dask worker may be the second to try
    part.mkdir()
    digest = hashlib.sha256()
    for epoch, png in zip(done.epochs(""), pictures, strict=True):
        name = Path(epoch.image).name
        (part / name).write_bytes(png)
        digest.update(_entry(name, png))
    _check_owner(workspace, run)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return replace(done, pictures_sha256=digest.hexdigest(), folder=folder)


def _check_owner(workspace: Workspace, run: str) -> None:
    if (workspace.staging_dir / _OWNER).read_text() != run:
        raise EegToolError(
            f"Another `eegvlm prepare` has begun in {workspace.root}.", "Let one of them finish."
        )


def _find(
    plan: Outline, inputs: dict[str, str], recipe: Recipe, workspace: Workspace
) -> Prepared | None:
    """Return what is whole of that which an earlier run made of these files in this way."""
    name, key = plan.night.recording, _key(plan, inputs, recipe)
    found: Prepared | None = None
    for card_path in (workspace.staging_dir / f"{name}.json", workspace.night(name)):
        try:
            card = read_json(card_path)
        except EegToolError:
            continue
        if card.get("key") != key:
            continue
        folders = [root / name for root in (workspace.staging_dir, *map(workspace.images, SPLITS))]
        drawn = recipe.pictures and card["drawing"] == recipe.drawing()
        digest = card["pictures_sha256"]
        folder = next((f for f in folders if drawn and digest and _digest(f) == digest), None)
        signals = _whole_signals(name, card["signals_sha256"], workspace)
        if found is None or (folder and not found.folder):
            found = Prepared.from_card(plan.night, card, folder)
            found = replace(found, signals=signals, pictures_sha256=digest if folder else "")
    return found if found and (found.folder or found.signals) else None


def _whole_signals(name: str, sha256: str, workspace: Workspace) -> Path | None:
    """Return where the signals of a recording are, if they are those of this hash."""
    for root in (workspace.staging_dir, workspace.root):
        path = Workspace(root).signals / f"{name}.npy"
        try:
            if sha256 and check_signals(path, name) == sha256:
                return path
        except EegToolError:  # not there, or not whole
            continue
    return None


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        digest.update(_entry(path.name, path.read_bytes()))
    return digest.hexdigest()


def _entry(name: str, content: bytes) -> bytes:
    return f"{name} {len(content)}\n".encode() + content


def _flagged(signals: Sequence[Signal], plan: Outline) -> dict[int, str]:
    """Find the epochs in which any EEG channel holds none; refuse a recording that has no others."""
    paused = paused_epochs(plan.pauses, len(plan.stages), plan.first_onset_s)
    reasons = dict.fromkeys(sorted(paused), "not recorded")
    eeg = [s for s in signals if s.spec.kind == "eeg" and not s.is_missing]
    for signal in eeg:
        limits_uv = float(signal.data_uv.min()), float(signal.data_uv.max())
        for i in plan.kept:
            epoch_uv = cut_epoch(signal.data_uv, signal.sfreq_hz, plan.first_onset_s + i * EPOCH_S)
            if why := why_no_eeg(epoch_uv, signal.sfreq_hz, limits_uv):
                reasons.setdefault(i, f"{signal.name}: {why}" if len(eeg) > 1 else why)
    if len(reasons) == len(plan.kept):
        counts = ", ".join(f"{n} {why}" for why, n in Counter(reasons.values()).items())
        raise EegToolError(
            f"{plan.night.signal_path}: none of its {len(reasons)} epochs holds EEG ({counts}).",
            "Nothing was connected, or the wrong channel was chosen; choose another with --channel.",
        )
    return dict(sorted(reasons.items()))


def _key(plan: Outline, inputs: dict[str, str], recipe: Recipe) -> str:
    of_scoring = {"unscored": True} if plan.is_unscored else asdict(plan.night.read_as)
    decides = recipe.decides() | of_scoring
    return hashlib.sha256(json.dumps([_code_sha256(), inputs, decides]).encode()).hexdigest()


@cache
def _code_sha256() -> str:
    """Hash the code that reads, stages and draws: what another version made is made again."""
    package = Path(eegtool.__file__).parent
    files = [package / "core" / "stages.py"]
    for room in ("recordings", "scorings", "pictures", "reasons", "prepare"):
        files += sorted((package / room).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _hashes(files: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file, by its name; the recording itself comes first."""
    hashes: dict[str, str] = {}
    for path in files:
        name = path.name if path.name not in hashes else f"{path.parent.name}/{path.name}"
        hashes[name] = sha256_of(path)
    return hashes


def _filtered(source: Source, plan: Outline, recipe: Recipe) -> tuple[Recording, StoredNight]:
    """Read a recording; return it, and as it is stored and drawn."""
    recording = read_recording(source, recipe.channels, strict=recipe.strict)
    start = recording.start.isoformat() if recording.start else ""
    filtered = [_cleaned(signal, recipe) for signal in recording.signals]
    pauses = [(pause.onset_s, pause.duration_s) for pause in plan.pauses]
    name = plan.night.recording
    return recording, quantise(name, start, plan.first_onset_s, filtered, pauses)


def _cleaned(signal: Signal, recipe: Recipe) -> tuple[str, np.ndarray, float]:
    """Filter and resample a channel, unless it is missing or a level; return its name, µV and rate."""
    data_uv, sfreq_hz = signal.data_uv, signal.sfreq_hz
    band_hz = signal.spec.fitting_band_hz(sfreq_hz)
    if signal.is_missing or not band_hz:
        return signal.name, data_uv, sfreq_hz
    if recipe.notch_hz and (signal.spec.kind == "eeg" or recipe.notch_hz < sfreq_hz / 2):
        data_uv = notch(data_uv, sfreq_hz, recipe.notch_hz)
    if recipe.resample_hz and (fits := signal.spec.fitting_band_hz(recipe.resample_hz)):
        band_hz = (band_hz[0], min(band_hz[1], fits[1]))
    data_uv = band_pass(data_uv, sfreq_hz, *band_hz)
    if recipe.resample_hz and recipe.resample_hz != sfreq_hz:
        check_band(*band_hz, recipe.resample_hz)
        data_uv = resample(data_uv, sfreq_hz, recipe.resample_hz)
        sfreq_hz = recipe.resample_hz
    return signal.name, data_uv, sfreq_hz


def _sample_id(night: Night, epoch_index: int) -> str:
    return f"{night.recording}-{epoch_index:04d}"
