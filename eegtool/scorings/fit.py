"""How a scoring fits its recording: when it begins, whether it is whole, where its epochs lie."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from itertools import pairwise
from pathlib import Path
from typing import Final

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, SLEEP_STAGES, STAGES, UNSCORED
from eegtool.recordings.header import Pause
from eegtool.scorings.scoring import Entry, Hypnogram, Scoring

TOLERANCE_S: Final = 0.05
"""How far a border may lie from that of an epoch: onsets are rounded text."""

_DAY_S: Final = 86400.0
_HOUR_S: Final = 3600.0
_MOST_HOURS: Final = 14  # between time zones
_NEAR_S: Final = 600.0
"""How near the ends of a scoring and its recording are if both are of one night."""
_UNKNOWN_START: Final = datetime(1985, 1, 1)
"""What headers of EDF have where nothing is known: the first second that they can tell."""
_LENGTHS_S: Final = (1, 2, 3, 4, 5, 6, 10, 15, 20, 30, 60)
"""Other lengths of epochs that are in use."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A scoring that is laid onto its recording.

    Attributes
    ----------
    path : Path
        File of the scoring, for messages.
    scoring : Scoring
        As the file has it.
    epoch_s : float
        Length of the epochs that were scored.
    recording_start : datetime or None
        Local time of the first sample, where it is known.
    duration_s : float
        Length of the recording; infinite where there is none.
    pauses : sequence of Pause
        Time within the recording in which nothing was recorded.
    """

    path: Path
    scoring: Scoring
    epoch_s: float
    recording_start: datetime | None
    duration_s: float
    pauses: Sequence[Pause]

    def hypnogram(self) -> Hypnogram:
        """Return the scoring on the time of its recording.

        Raises
        ------
        EegToolError
            If times are impossible, the scoring is of another night or length, scores some time twice or no sleep,
            its clock is hours off or jumps, or its epochs lie on no single grid.
        """
        path, duration_s, epoch_s = self.path, self.duration_s, self.epoch_s
        entries, open_end, notes = self._with_durations()
        self._check_pauses(entries)
        offset_s, note = self._offset_s(entries)
        if self.scoring.is_absolute:
            self._refuse_jump(entries, offset_s)
        entries = sorted(
            (replace(entry, onset_s=entry.onset_s + offset_s) for entry in entries),
            key=lambda entry: entry.onset_s,
        )
        if open_end and not math.isinf(duration_s):
            rest_s = (duration_s - entries[-1].onset_s) // EPOCH_S * EPOCH_S
            entries[-1] = replace(entries[-1], duration_s=max(rest_s, float(EPOCH_S)))
        if self.scoring.is_list:
            self._check_list(round(entries[-1].end_s / epoch_s))
        if not _sleep_within(entries, 0.0, duration_s):
            asleep = [entry for entry in entries if entry.stage in SLEEP_STAGES]
            raise EegToolError(
                f"The hypnogram {path} scores no sleep within the recording, which lasts {duration_s:g} s: "
                f"its sleep is at {asleep[0].onset_s:g} to {asleep[-1].end_s:g} s.",
                "Check that it belongs to this recording, and that its times are in seconds from its start.",
            )
        self._check_overlaps(entries)
        grid_s = self._grid_s(entries)
        if epoch_s != EPOCH_S:
            entries, n_ties = _in_epochs(entries, grid_s)
            notes.append(
                f"Epochs of {epoch_s:g} s were scored; a {EPOCH_S}-s epoch has the stage that fills most of it "
                f"({n_ties} ties are unscored)."
            )
        if grid_s:
            notes.append(
                f"The epochs of the scoring begin {grid_s:g} s after those of the recording; they are used."
            )
        return Hypnogram(
            _within(entries, duration_s),
            grid_s,
            (*self.scoring.notes, *filter(None, (note,)), *notes, *_misfits(entries, duration_s)),
            self.scoring.start,
        )

    def _with_durations(self) -> tuple[list[Entry], bool, list[str]]:
        """Refuse impossible times and scorings without sleep; fill in durations, say how, and whether the end is open."""
        epoch_s, entries = self.epoch_s, self.scoring.entries
        for entry in entries:
            if not math.isfinite(entry.onset_s) or not 0 <= entry.duration_s < math.inf:
                raise EegToolError(
                    f"The hypnogram {self.path} has an impossible time in {entry.place}: onset "
                    f"{entry.onset_s:g} s, duration {entry.duration_s:g} s.",
                    "Correct or remove that entry.",
                )
        if not any(entry.stage in SLEEP_STAGES for entry in entries):
            raise EegToolError(
                f"The hypnogram {self.path} scores no sleep.",
                "It must have stages such as 'Sleep stage 2', N2 or REM, not only wake.",
            )
        lasting = [entry for entry in entries if entry.duration_s]
        notes, open_end = [], False
        if not lasting:
            lasting = sorted(entries, key=lambda entry: entry.onset_s)
            steps_s = [b.onset_s - a.onset_s for a, b in pairwise(lasting)]
            open_end = self.scoring.until_next or _are_changes(lasting, steps_s, epoch_s)
            most_s = math.inf if open_end else epoch_s
            lengths_s = [*(min(step_s, most_s) for step_s in steps_s), epoch_s]
            # Only the first epoch may be short; rows of one time are named below.
            lengths_s[1:] = [max(length_s, epoch_s) for length_s in lengths_s[1:]]
            lasting = [
                replace(entry, duration_s=length_s or epoch_s)
                for entry, length_s in zip(lasting, lengths_s, strict=True)
            ]
            notes.append(
                "The scoring has no durations; each entry lasts until the next, the last until the end."
                if open_end
                else f"The scoring has no durations; each entry is taken as one {epoch_s:g}-s epoch."
            )
        elif len(lasting) < len(entries):
            notes.append(
                f"{len(entries) - len(lasting)} scored entries without a duration are left out."
            )
            if not any(entry.stage in SLEEP_STAGES for entry in lasting):
                raise EegToolError(
                    f"The hypnogram {self.path} gives durations, but for none of its entries of sleep.",
                    "Give the duration of every entry, or of none.",
                )
        # Times in samples or minutes would otherwise become a few epochs at wrong places. A night may well be scored in parts, but not in parts of one entry each.
        ordered = sorted(lasting, key=lambda entry: entry.onset_s)
        gaps = sum(b.onset_s - a.end_s > TOLERANCE_S for a, b in pairwise(ordered))
        if 2 * gaps >= len(ordered) and (notes or gaps >= 10):
            raise EegToolError(
                f"Most entries of the hypnogram {self.path} are followed by a gap: {ordered[0].place} ends at "
                f"{ordered[0].end_s:g} s, {ordered[1].place} begins at {ordered[1].onset_s:g} s.",
                "Give onsets and durations in seconds, for every stretch of one stage.",
            )
        return lasting, open_end, notes

    def _check_pauses(self, entries: Sequence[Entry]) -> None:
        """Refuse times of which nobody can tell whether the recording's pauses count."""
        if not self.pauses or self.scoring.start is not None or self.scoring.inside:
            return
        paused_s = sum(pause.duration_s for pause in self.pauses)
        if max(entry.end_s for entry in entries) <= self.duration_s - paused_s + EPOCH_S:
            raise EegToolError(
                f"The recording of the hypnogram {self.path} pauses for {_span(paused_s)}, and its "
                "times may or may not count that pause.",
                "Give its onsets as times of day or dates.",
            )

    def _offset_s(self, entries: Sequence[Entry]) -> tuple[float, str]:
        """Return where onsets count from, in seconds after the recording started, and what the user should know of it."""
        start, recording_start = self.scoring.start, self.recording_start
        if start is None or start == recording_start or math.isinf(self.duration_s):
            return 0.0, ""
        if recording_start in (None, _UNKNOWN_START) or start == _UNKNOWN_START:
            if self.scoring.is_absolute:
                raise EegToolError(
                    f"The hypnogram {self.path} has times of day, but the recording does not say when it starts.",
                    "Give its onsets in seconds from the start of the recording.",
                )
            note = "Recording and hypnogram do not both say when they start; they are taken to start together."
            return 0.0, note
        if isinstance(start, time):
            return self._offset_of_clock_s(start, entries, recording_start)
        offset_s = (start - recording_start).total_seconds()
        if abs(offset_s) < 1:  # headers of EDF have whole seconds
            return 0.0, ""
        self._refuse_hours(entries, offset_s)
        if _sleep_within(entries, -offset_s, self.duration_s - offset_s):
            return offset_s, _own_start(offset_s)
        if _off_grid_s(offset_s, _DAY_S) < 1:
            return 0.0, (
                f"The hypnogram is dated {start:%Y-%m-%d}, the recording {recording_start:%Y-%m-%d}; "
                "as both start at the same time of day, they are taken as one night."
            )
        raise EegToolError(
            f"The hypnogram {self.path} is of another night: it starts on {start:%Y-%m-%d %H:%M:%S}, the "
            f"recording on {recording_start:%Y-%m-%d %H:%M:%S}.",
            "Fetch both again; where dates were changed on purpose, give both files the same start, or "
            "give onsets in seconds.",
        )

    def _offset_of_clock_s(
        self, start: time, entries: Sequence[Entry], recording_start: datetime
    ) -> tuple[float, str]:
        """Place a scoring that tells times of day but no date."""
        duration_s = self.duration_s
        midnight = recording_start.replace(hour=0, minute=0, second=0, microsecond=0)
        since_midnight_s = (datetime.combine(midnight, start) - recording_start).total_seconds()
        offset_s = since_midnight_s % _DAY_S
        if offset_s >= duration_s:  # it rather begins before the recording than after its end
            offset_s -= _DAY_S
        if abs(offset_s) < 1:
            return 0.0, ""
        # 00:00:30 may be half a minute after midnight, or of time gone by: the ends of both must tell.
        elapsed_s = (datetime.combine(midnight, start) - midnight).total_seconds()
        length_s = max(entry.end_s for entry in entries)

        def fit(at_s: float) -> int:
            """Return 0 for outside of the recording, 1 for within it, 2 if the ends of both meet, too."""
            end_s = at_s + length_s
            if at_s < -_NEAR_S or end_s > duration_s + EPOCH_S:
                return 0
            return 2 if end_s >= duration_s - _NEAR_S else 1

        if elapsed_s < duration_s and abs(elapsed_s - offset_s) >= 1:
            if fit(elapsed_s) == 2 > fit(offset_s):
                return elapsed_s, (
                    f"The times of the scoring begin with {start:%H:%M:%S} and are read as time since the "
                    "start."
                )
            if fit(elapsed_s) >= fit(offset_s):
                raise EegToolError(
                    f"The times of the hypnogram {self.path} begin with {start:%H:%M:%S}, which may be a time of "
                    f"day or time since the start of the recording, {recording_start:%H:%M:%S}.",
                    "Give its onsets in seconds, or with dates.",
                )
        self._refuse_hours(entries, offset_s)
        return offset_s, _own_start(offset_s)

    def _refuse_hours(self, entries: Sequence[Entry], offset_s: float) -> None:
        """Refuse a scoring that lies outside of its recording only by whole hours: nobody scores such time."""
        hours = round(offset_s / _HOUR_S)
        if not hours or abs(hours) > _MOST_HOURS or abs(offset_s - hours * _HOUR_S) > _NEAR_S / 5:
            return
        outside_s = sum(_outside_s(entries, self.duration_s, offset_s))
        otherwise_s = sum(_outside_s(entries, self.duration_s, offset_s - hours * _HOUR_S))
        if outside_s > _NEAR_S and otherwise_s < EPOCH_S:
            raise EegToolError(
                f"The hypnogram {self.path} starts {abs(hours)} hour{'s' * (abs(hours) > 1)} "
                f"{'after' if hours > 0 else 'before'} its recording by the clock and has "
                f"{_span(outside_s)} that were not recorded, but without that whole hour it would fit.",
                "One of them is in another time zone, or summer time. Correct the clock, or give onsets in "
                "seconds from the start of the recording.",
            )

    def _refuse_jump(self, entries: Sequence[Entry], offset_s: float) -> None:
        """Refuse clock times that jump by one hour, where the recording continues."""
        late_s = entries[-1].end_s + offset_s - self.duration_s
        for a, b in pairwise(sorted(entries, key=lambda entry: entry.onset_s)):
            if abs(b.onset_s - a.end_s - _HOUR_S) <= EPOCH_S + 1 and late_s > _NEAR_S:
                raise EegToolError(
                    f"The times of the hypnogram {self.path} jump by an hour at {b.place}, and end "
                    f"{_span(late_s)} after the recording: summer time began.",
                    "Give its onsets in seconds from the start of the recording.",
                )

    def _check_list(self, n_lines: int) -> None:
        """Refuse one stage per line that is not about as long as the recording; nothing else tells another night."""
        duration_s, epoch_s = self.duration_s, self.epoch_s
        if abs(n_lines * epoch_s - duration_s) <= _NEAR_S or math.isinf(duration_s):
            return
        length_s = min(_LENGTHS_S, key=lambda length: abs(n_lines * length - duration_s))
        fits = abs(n_lines * length_s - duration_s) <= min(_NEAR_S, duration_s / 20)
        hint = f", or say --scoring-epoch {length_s}" if fits and length_s != EPOCH_S else ""
        raise EegToolError(
            f"The hypnogram {self.path} has {n_lines} epochs, {_min_s(n_lines * epoch_s)} in steps of {epoch_s:g} s, "
            f"but its recording lasts {_min_s(duration_s)}: steps of "
            f"{length_s if fits else duration_s / n_lines:.3g} s would fit.",
            f"Check that it is of this night, and give one stage per {EPOCH_S} s{hint}. If it ends early, pad it "
            "with ? to the length of the recording, or give a table with onsets.",
        )

    def _check_overlaps(self, entries: Sequence[Entry]) -> None:
        """Refuse time that is scored twice, naming both entries."""
        for a, b in pairwise(entries):
            if b.onset_s < a.end_s - TOLERANCE_S:
                raise EegToolError(
                    f"The hypnogram {self.path} scores some time twice: {a.place} ({a.stage} from {a.onset_s:g} "
                    f"to {a.end_s:g} s) and {b.place} ({b.stage} from {b.onset_s:g} s).",
                    "Correct one of them; a file must hold the scoring of one scorer only.",
                )

    def _grid_s(self, entries: Sequence[Entry]) -> float:
        """Return where the epochs of a scoring begin, 0 to 30 s at most."""
        epoch_s = self.epoch_s
        scored = [entry for entry in entries if entry.stage != UNSCORED]
        # Epochs at full half minutes of the clock: the first stretch may begin within one.
        if len(scored) > 2 and _off_grid_s(scored[0].duration_s, epoch_s) > TOLERANCE_S:
            scored = scored[abs(scored[1].onset_s - scored[0].end_s) <= TOLERANCE_S :]
        for entry in scored:
            if _off_grid_s(entry.onset_s - scored[0].onset_s, epoch_s) > TOLERANCE_S:
                raise EegToolError(
                    f"The stages of the hypnogram {self.path} do not lie on one grid of {epoch_s:g}-s epochs: "
                    f"{scored[0].place} begins at {scored[0].onset_s:g} s, {entry.place} at "
                    f"{entry.onset_s:g} s.",
                    f"Score the night in {EPOCH_S}-s epochs, or export it epoch by epoch; epochs of another "
                    "length need --scoring-epoch.",
                )
        length_s, first_s = min(epoch_s, EPOCH_S), scored[0].onset_s
        is_shifted = _off_grid_s(first_s, length_s) > TOLERANCE_S
        return round(first_s % length_s, 3) if is_shifted else 0.0


def _are_changes(entries: Sequence[Entry], steps_s: Sequence[float], epoch_s: float) -> bool:
    """Say whether entries are changes of stage, and not epochs: most are far apart, and none repeats."""
    far = sum(step_s > epoch_s + TOLERANCE_S for step_s in steps_s)
    repeats = any(a.stage == b.stage for a, b in pairwise(entries))
    whole = all(_off_grid_s(step_s, epoch_s) <= TOLERANCE_S for step_s in steps_s[1:])
    return 2 * far > len(steps_s) and whole and not repeats


def _outside_s(
    entries: Sequence[Entry], duration_s: float, offset_s: float = 0.0
) -> tuple[float, float]:
    """Return how much of the staged time lies before and after the recording."""
    spans = [(e.onset_s + offset_s, e.end_s + offset_s) for e in entries if e.stage in STAGES]
    before_s = sum(min(end, 0.0) - min(begin, 0.0) for begin, end in spans)
    return before_s, sum(max(end, duration_s) - max(begin, duration_s) for begin, end in spans)


def _in_epochs(entries: Sequence[Entry], grid_s: float) -> tuple[list[Entry], int]:
    """Bring a scoring to 30-s epochs: the stage that fills most of one is its stage, as the AASM Manual assigns it.

    Time without a scoring counts as unscored; a tie is unscored, and counted.
    """
    filled: dict[int, Counter[str]] = {}  # milliseconds
    places: dict[int, str] = {}
    for entry in entries:
        at_s, end_s = entry.onset_s - grid_s, entry.end_s - grid_s
        for i in range(math.floor(at_s / EPOCH_S), math.ceil(end_s / EPOCH_S)):
            within_s = min(end_s, (i + 1) * EPOCH_S) - max(at_s, i * EPOCH_S)
            if within_s > TOLERANCE_S:
                filled.setdefault(i, Counter())[entry.stage] += round(within_s * 1000)
                places.setdefault(i, entry.place)
    epochs, n_ties = [], 0
    for i, lasting in sorted(filled.items()):
        lasting[UNSCORED] += 1000 * EPOCH_S - lasting.total()
        (stage, most), *others = lasting.most_common(2)
        tie = bool(others) and others[0][1] >= most - 1000 * TOLERANCE_S
        n_ties += tie and UNSCORED not in (stage, others[0][0])
        if not tie and stage != UNSCORED:
            epochs.append(Entry(grid_s + i * EPOCH_S, float(EPOCH_S), stage, places[i]))
    return epochs, n_ties


def _misfits(entries: Sequence[Entry], duration_s: float) -> list[str]:
    """Say where the scoring is longer or shorter than the recording by an epoch or more."""
    before_s, after_s = _outside_s(entries, duration_s)
    late_s, early_s = entries[0].onset_s, duration_s - entries[-1].end_s
    found = (
        (before_s, "of scored time before the recording are left out."),
        (after_s, "of scored time after the end of the recording are left out."),
        (late_s, "at the beginning of the recording are unscored."),
        (early_s, "at the end of the recording are unscored."),
    )
    return [f"{_span(seconds)} {what}" for seconds, what in found if seconds >= EPOCH_S]


def _sleep_within(entries: Sequence[Entry], begin_s: float, end_s: float) -> bool:
    """Say whether any sleep is scored between two times."""
    return any(
        entry.stage in SLEEP_STAGES and entry.onset_s < end_s and entry.end_s > begin_s
        for entry in entries
    )


def _within(entries: Sequence[Entry], duration_s: float) -> tuple[Entry, ...]:
    """Cut off what lies outside of the recording."""
    return tuple(
        Entry(begin_s, end_s - begin_s, entry.stage)
        for entry in entries
        if (begin_s := max(entry.onset_s, 0.0)) < (end_s := min(entry.end_s, duration_s))
    )


def _off_grid_s(seconds: float, step_s: float) -> float:
    """Return how far a time lies from the nearest multiple of a step."""
    return min(seconds % step_s, -seconds % step_s)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _own_start(offset_s: float) -> str:
    word = "after" if offset_s > 0 else "before"
    return f"The hypnogram's own start is {_min_s(abs(offset_s))} {word} the recording's."


def _min_s(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
