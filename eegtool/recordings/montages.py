"""Channels by kind (EEG, EOG, EMG), and montages of several. Knows no files of recordings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from eegtool.core.errors import EegToolError
from eegtool.core.registry import check_name
from eegtool.recordings.channels import kind_of


@dataclass(frozen=True, slots=True)
class Kind:
    """What holds for all channels of a kind.

    Attributes
    ----------
    band_hz : tuple of float
        Edges of the band-pass, of the AASM Manual's digital specifications.
    amplitude_uv : float
        Curves: µV from their middle line to their edge. Levels: the highest.
    style : str
        How it is drawn in a montage.
    height : float
        Its share of a picture.
    plausible_uv : tuple of float
        Amplitudes (see `signals.amplitude`) of such a signal whose unit is guessed: less than a factor of
        1000 apart, so one unit fits at most.
    possible_uv : tuple of float
        Amplitudes that a known unit is trusted with.
    min_sfreq_hz : float
        What is sampled slower cannot show what tells stages apart; 0 for a kind that is then a level.
    """

    band_hz: tuple[float, float]
    amplitude_uv: float
    style: str
    height: float
    plausible_uv: tuple[float, float]
    possible_uv: tuple[float, float]
    min_sfreq_hz: float


KINDS: Final[dict[str, Kind]] = {
    # Sleep spindles go up to 16 Hz (AASM Manual): 32 Hz is the lowest rate.
    "eeg": Kind((0.3, 35.0), 100.0, "spectrogram", 2.0, (2.0, 500.0), (0.1, 1e4), 32.0),
    # The quickest that is read from eyes, the rise of a saccade, lasts less than half a second
    # (AASM Manual): 10 Hz would show it, 20 Hz its form.
    "eog": Kind((0.3, 35.0), 100.0, "waveform", 1.2, (2.0, 1000.0), (0.1, 1e4), 20.0),
    # A chin at rest has a microvolt or less; one that is sampled slowly is a level.
    "emg": Kind((10.0, 100.0), 100.0, "level", 0.8, (0.2, 190.0), (0.005, 1e4), 0.0),
}
"""The kinds of channels by which sleep is staged. Heights and scales are our choice."""

REACH: Final = 0.45
"""How far a band reaches at most, as part of the sampling rate: filters need a little below half of it."""


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """One channel of a montage: what it is, how it is filtered, how it is drawn.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    derivation : str
        Name or derivation, see `eegtool.recordings.channels.resolve`.
    band_hz : tuple of float
        Edges of the band-pass; the upper one of EOG and EMG is lower where the rate does not allow it.
    amplitude_uv, style, height
        See `Kind`.
    optional : bool
        Whether a recording may lack it: its strip is then empty. Its other names (`ALSO`) are tried, too.
    """

    kind: str
    derivation: str
    band_hz: tuple[float, float]
    amplitude_uv: float
    style: str
    height: float
    optional: bool = False

    @property
    def typed(self) -> str:
        """The form in which a user names it."""
        return f"{self.kind}:{self.derivation}"

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which it is looked for."""
        return (self.derivation, *(ALSO.get(self.derivation, ()) if self.optional else ()))

    def fitting_band_hz(self, sfreq_hz: float) -> tuple[float, float] | None:
        """Return the band-pass at a sampling rate; None where less than an octave of it would be left."""
        low_hz, high_hz = self.band_hz
        if self.kind == "eeg":
            return self.band_hz  # and who filters says if it does not fit
        high_hz = min(high_hz, REACH * sfreq_hz)
        return (low_hz, high_hz) if high_hz >= 2 * low_hz else None

    def signal(self) -> dict[str, Any]:
        """Return what of it decides the signal that is stored."""
        return {name: getattr(self, name) for name in ("kind", "derivation", "band_hz", "optional")}

    def to_row(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"band_hz": list(self.band_hz)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ChannelSpec:
        """Read the form that `to_row` writes; `KeyError`, `TypeError` or `ValueError` if it is not that."""
        low_hz, high_hz = row["band_hz"]
        if row["kind"] not in KINDS:
            raise ValueError(f"no kind {row['kind']}")
        return cls(
            str(row["kind"]),
            str(row["derivation"]),
            (float(low_hz), float(high_hz)),
            float(row["amplitude_uv"]),
            str(row["style"]),
            float(row["height"]),
            bool(row["optional"]),
        )


ALSO: Final[dict[str, tuple[str, ...]]] = {
    # The AASM Manual's other side, its alternative derivations, then what cohorts have instead.
    "F4-M1": ("F3-M2", "F4", "F3", "Fz-Cz", "Fz-M1", "Fz", "Fpz-Cz"),
    "C4-M1": ("C3-M2", "C4", "C3", "C4-Cz", "Cz-M1", "Cz"),
    "O2-M1": ("O1-M2", "O2", "O1", "Cz-Oz", "Oz-M1", "Oz", "Pz-Oz"),
    # MASS; Sleep-EDF has one, across both eyes.
    "E1-M2": ("E1-M1", "E1-Fpz", "E1", "EOG Left Horiz", "EOG horizontal", "EOG"),
    "E2-M2": ("E2-M1", "E2-Fpz", "E2", "EOG Right Horiz", "EOG vertical"),
    # MrOS and SOF, CHAT, CFS and CAP; MASS.
    "chin": (
        *("Chin1-Chin2", "L Chin-R Chin", "Lchin-Rchin", "EMG1-EMG2"),
        *("EMG Chin1-EMG Chin2", "EMG Chin1", "EMG"),
    ),
}
"""What stands for a channel of a montage in a recording that does not have it, in the order in which it is
tried. Spellings and equivalent references need no entry: see `channels.resolve`."""

_EYES: Final = (("eog", "E1-M2"), ("eog", "E2-M2"))
_CHIN: Final = (("emg", "chin"),)
MONTAGES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "eeg": (),
    "psg": (*_EYES, *_CHIN),
    "aasm": (("eeg", "F4-M1"), ("eeg", "C4-M1"), ("eeg", "O2-M1"), *_EYES, *_CHIN),
}
"""Channels of each montage beside those that are named; those of ``aasm`` are what the AASM Manual wants."""

_TYPED: Final = re.compile(r"(eeg|eog|emg):(?=\S)(.+)", re.DOTALL)
_FIELDS: Final = ("kind", "derivation", "band_hz", "amplitude_uv", "style", "height", "optional")


def kind_and_name(typed: str) -> tuple[str, str]:
    """Return the kind and the derivation that ``eog:E1-M2`` names.

    Without a kind it is what the name says ("EOG horizontal", "LOC-A2", "chin"), else EEG.
    """
    match = _TYPED.fullmatch(typed.strip())
    return (match[1], match[2]) if match else (kind_of(typed) or "eeg", typed)


def spec_of(typed: str, **own: Any) -> ChannelSpec:
    """Return a channel as it is typed, with the defaults of its kind but for what is given."""
    kind, name = kind_and_name(typed)
    how = KINDS[kind]
    plain = ChannelSpec(kind, name, how.band_hz, how.amplitude_uv, how.style, how.height)
    return replace(plain, **own)


def montage_of(
    montage: str, channels: Sequence[str], default: Sequence[str], eeg: Mapping[str, Any]
) -> tuple[str, tuple[ChannelSpec, ...]]:
    """Return the channels of a montage, and what to call it.

    Parameters
    ----------
    montage : str
        One of `MONTAGES`, or the path of a YAML file.
    channels : sequence of str
        Channels as they are typed with ``--channel``; in front of those of ``psg``.
    default : sequence of str
        What `channels` is if nobody typed anything.
    eeg : mapping
        What holds for EEG channels instead of the defaults of `KINDS`: band_hz, amplitude_uv, style.

    Returns
    -------
    str, tuple of ChannelSpec
        Name and channels, from top to bottom. No channels for ``eeg`` where all are EEG: there all are
        drawn alike.

    Raises
    ------
    EegToolError
        If there is no such montage, or it names a channel twice.
    """
    own = {"eeg": dict(eeg)}
    if montage.lower().endswith((".yaml", ".yml")):
        if list(channels) != list(default):
            raise _both(montage)
        specs = _read(Path(montage), own)
        return Path(montage).stem, _no_twins(specs)
    check_name("montage", montage, MONTAGES)
    typed = [kind_and_name(channel) for channel in channels]
    if montage == "eeg":
        _no_twins([spec_of(channel) for channel in channels])
        if all(kind == "eeg" for kind, _ in typed):
            return "eeg", ()
        named = [
            spec_of(c, **own.get(kind, {})) for c, (kind, _) in zip(channels, typed, strict=True)
        ]
        return "eeg and others", tuple(sorted(named, key=lambda s: [*KINDS].index(s.kind)))
    if montage == "aasm":
        if list(channels) != list(default):
            raise _both(montage)
        typed = []
    kinds = {kind for kind, _ in typed}
    further = [(kind, name) for kind, name in MONTAGES[montage] if kind not in kinds]
    specs = [
        spec_of(f"{kind}:{name}", optional=True, **own.get(kind, {}))
        for kind, name in (*typed, *further)
    ]
    specs.sort(key=lambda spec: [*KINDS].index(spec.kind))
    return montage, _no_twins(specs)


def _both(montage: str) -> EegToolError:
    return EegToolError(
        f"--montage {montage} names all channels; --channel names others.",
        "Leave one of them out, or write a montage of your own as YAML.",
    )


def _no_twins(specs: Sequence[ChannelSpec]) -> tuple[ChannelSpec, ...]:
    """Refuse channels of one kind and name."""
    seen = set()
    for spec in specs:
        key = (spec.kind, "".join(spec.derivation.split()).casefold())
        if key in seen:
            raise EegToolError(
                f"The channel {spec.typed} is named twice.", "Name each channel once."
            )
        seen.add(key)
    return tuple(specs)


def _read(path: Path, own: Mapping[str, Mapping[str, Any]]) -> list[ChannelSpec]:
    """Read a list of channels from a YAML file."""
    what = f"The montage {path}"
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise EegToolError(f"{what} cannot be read: {reason}.", _EXAMPLE) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise EegToolError(f"{what} is not a list of channels.", _EXAMPLE)
    specs = []
    for i, row in enumerate(rows, 1):
        if unknown := sorted(map(str, row.keys() - set(_FIELDS))):
            raise EegToolError(
                f"{what}: channel {i} has unknown fields: {', '.join(unknown)}.",
                f"Known are {', '.join(_FIELDS)}.",
            )
        kind, name = row.get("kind"), row.get("derivation")
        if kind not in KINDS or not isinstance(name, str) or not name.strip():
            raise EegToolError(
                f"{what}: channel {i} needs a kind ({', '.join(KINDS)}) and a derivation.", _EXAMPLE
            )
        plain = spec_of(f"{kind}:{name}", **own.get(kind, {}))
        try:
            spec = ChannelSpec.from_row(plain.to_row() | {"optional": True} | row)
            low_hz, high_hz = spec.band_hz
            if not (0 <= low_hz < high_hz and spec.amplitude_uv > 0 and 0 < spec.height <= 100):
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise EegToolError(
                f"{what}: channel {i} ({kind}:{name}) has a value that makes no sense: band_hz is two "
                "numbers in order, amplitude_uv and height are positive.",
                _EXAMPLE,
            ) from error
        specs.append(spec)
    return specs


_EXAMPLE: Final = "Such as '- {kind: eeg, derivation: C4-M1, style: hybrid}', a line for each channel, from top to bottom."
