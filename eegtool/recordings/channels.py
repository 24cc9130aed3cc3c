"""Channels by name: spellings, aliases and derivations. Knows no files."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eegtool.core.errors import EegToolError

# T3 to T6 of the 10-20 system are T7, T8, P7, P8 of the 10-10 system (ACNS Guideline 2, 2016).
# Earlobe (A) and mastoid (M) references are used for one another in sleep recordings.
_SAME_ELECTRODE: Final = {
    **{"a1": "m1", "a2": "m2", "t3": "t7", "t4": "t8", "t5": "p7", "t6": "p8"},
    **dict.fromkeys(("loc", "eogl", "leog", "eogleft", "lefteog", "lefteye", "eog1"), "e1"),
    **dict.fromkeys(("roc", "eogr", "reog", "eogright", "righteog", "righteye", "eog2"), "e2"),
    **dict.fromkeys(("emgchin", "chinemg", "submental", "emgsubmental", "submentalis"), "chin"),
    **dict.fromkeys(("mentalis", "emgmentalis", "chin1chin2", "emgchin1chin2"), "chin"),
}
"""Names of electrodes and channels in letters and digits alone, and the one by which they are compared."""

# Channels that are called by number, in cohorts of the National Sleep Research Resource. A file is of
# such a cohort only if it has the names of the other channels, too: any lab may have an "EEG 2".
_MONTAGES: Final[tuple[tuple[str, frozenset[str], Mapping[str, str]], ...]] = (
    # montage in the documentation of MESA
    (
        "MESA",
        frozenset({"eog-l", "eog-r", "emg", "ekg"}),
        {"eeg1": "fz-cz", "eeg2": "cz-oz", "eeg3": "c4-m1"},
    ),
    # SHHS spells its second channel in five ways.
    *(
        (
            "SHHS",
            frozenset({"eog(l)", "eog(r)", "emg", "ecg", "sao2"}),
            {"eeg": "c4-m1", second: "c3-m2"},
        )
        for second in ("eeg(sec)", "eegsec", "eeg_sec", "eeg2", "eeg_2")
    ),
)

_PREFIX: Final = re.compile(r"^(eeg|pol)[-:_.]?(?=[a-z])")
_OTHER_PREFIX: Final = re.compile(
    r"^(eog|emg)[-:_.]?"
)  # dropped only before the name of an electrode
# What all channels of a recording are recorded against: a reference electrode, linked ears (computed: CLE,
# or real: LER), the average, or Nihon Kohden's.
_SUFFIX: Final = re.compile(r"[-_](ref|le|cle|ler|avg|ave|av|org)\d*$")
# Electrodes of the 10-20 and 10-10 systems, and those beside the eyes.
_SITE: Final = r"(?:fp|af|f|fc|c|cp|t|p|po|o)(?:z|\d{1,2})|[ame][12]|[lr]oc"
_WITHOUT_DASH: Final = re.compile(rf"({_SITE})({_SITE})")
_MIDLINE_COPY: Final = re.compile(r"(fpz|afz|fz|fcz|cz|cpz|pz|poz|oz)\d")
_NAME: Final = re.compile(r"""'[^']*'|"[^"]*"|[^-+*/()'"]+""")


@dataclass(frozen=True, slots=True)
class Derivation:
    """A signal as a weighted sum of channels.

    Attributes
    ----------
    name : str
        As the file spells it where it is one channel, else as the user typed it.
    weights : dict of str to float
        Weight of each channel, named as the file spells it.
    note : str
        What the user should know about the choice; empty where it was plain.
    """

    name: str
    weights: Mapping[str, float]
    note: str = ""


def normalise(name: str) -> str:
    """Return the form in which names are compared: no case, blanks, type prefix or reference suffix.

    Examples
    --------
    >>> normalise("EEG Fpz-Cz"), normalise("EEG: C3-REF"), normalise("EEG (sec)")
    ('fpz-cz', 'c3', 'eeg(sec)')
    """
    return _SUFFIX.sub("", _PREFIX.sub("", _fold(name))) or _fold(name)


def kind_of(name: str) -> str:
    """Return what kind of channel a name speaks of, ``"eog"`` or ``"emg"``; empty where it does not say.

    Examples
    --------
    >>> kind_of("EOG horizontal"), kind_of("LOC-A2"), kind_of("EMG submental"), kind_of("EEG C4-M1")
    ('eog', 'eog', 'emg', '')
    """
    labelled = re.match(r"eog|emg", _fold(name))
    electrode = _canonical(name).split("-")[0]
    return labelled[0] if labelled else _KIND_OF.get(electrode, "")


_KIND_OF: Final = {"e1": "eog", "e2": "eog", "chin": "emg"}


_USUAL: Final = ("c4", "c3", "cz", "fpz", "f4", "f3", "fz", "o2", "o1")
"""Electrodes that sleep is scored by, those of the AASM Manual's recommended derivations first."""
_ELECTRODE: Final = re.compile(r"(fp|af|fc|f|cp|c|po|p|o|t)(z|[0-9]{1,2})")


def usual_eeg(present: Sequence[str]) -> str:
    """Return the channel of a file by which one would stage sleep; empty where no name is that of an electrode.

    Examples
    --------
    >>> usual_eeg(["ECG", "EEG F3-M2", "C4A1"]), usual_eeg(["Resp", "EOG horizontal"])
    ('C4A1', '')
    """
    electrodes: dict[str, str] = {}
    for name in present:
        match = _ELECTRODE.match(_canonical(name))
        if match and not kind_of(name):
            electrodes.setdefault(match[0], name)
    return next(iter([electrodes[e] for e in _USUAL if e in electrodes] or electrodes.values()), "")


def resolve(wanted: str, present: Sequence[str]) -> Derivation:
    """Find what a user means among the channels of a file.

    Tried in this order: a channel of that name (exactly, without case and blanks, without prefix and
    suffix, by the other name of an electrode), a channel of a known cohort, a derivation.

    Parameters
    ----------
    wanted : str
        A name (``"Fpz-Cz"``), or sums and differences of names with numbers as factors
        (``"C4 - (M1+M2)/2"``). A name that itself holds one of ``+-*/()`` stands in quotes there.
    present : sequence of str
        Channels of the file.

    Raises
    ------
    EegToolError
        If nothing fits (those present are listed, and the closest), or more than one does.
    """
    name = _find(wanted, present)
    if name is not None:
        return Derivation(name, {name: 1.0})
    folded = {_fold(p): p for p in present}
    for cohort, others, montage in _MONTAGES:
        if folded.keys() >= montage.keys() | others:
            for channel, electrodes in montage.items():
                if _canonical(wanted) == electrodes:
                    name = folded[channel]
                    note = f"'{wanted}' is called '{name}' here, as in other files of {cohort}."
                    return Derivation(name, {name: 1.0}, note)
    if not re.search(r"[-+*/]", wanted):
        raise _unknown(wanted, present)
    weights = _derive(wanted, present)
    against = {m[1] for name in weights if (m := _SUFFIX.search(_fold(name)))}
    if len(against) > 1:
        raise EegToolError(
            f"'{wanted}' cannot be derived from {', '.join(weights)}: they have different references, "
            f"{' and '.join(sorted(against))}.",
            "Choose channels against one reference with --channel.",
        )
    return Derivation(" ".join(wanted.split()), weights)


def _fold(name: str) -> str:
    return "".join(name.split()).casefold()


def _canonical(name: str) -> str:
    """Return `normalise` with one name for each electrode and one dash in bipolar names."""
    bare = normalise(name)
    for form in (bare, _OTHER_PREFIX.sub("", bare)):
        if whole := _SAME_ELECTRODE.get(re.sub(r"[^a-z0-9]", "", form)):
            return whole
        pair = _WITHOUT_DASH.fullmatch(form)
        electrodes = pair.groups() if pair else re.split(r"[-/_]", form)
        if re.fullmatch(_SITE, electrodes[0]):
            break
    else:
        electrodes = re.split(r"[-/_]", bare)
    single = (_MIDLINE_COPY.sub(r"\1", e) for e in electrodes)
    return "-".join(_SAME_ELECTRODE.get(e, e) for e in single)


def _find(wanted: str, present: Sequence[str]) -> str | None:
    for form in (str.strip, _fold, normalise, _canonical):
        matches = [name for name in present if form(name) == form(wanted)]
        if len(matches) > 1:
            listed = ", ".join(f"'{name}'" for name in matches)
            raise EegToolError(
                f"'{wanted}' can mean {len(matches)} channels: {listed}.",
                "Name one exactly as it is spelt; channels of the same name need a new name in the "
                "file (EDFbrowser does that).",
            )
        if matches:
            return matches[0]
    return None


def _unknown(wanted: str, present: Sequence[str], within: str = "") -> EegToolError:
    electrode, *against = re.split("[-+*/(]", _canonical(within or wanted))
    alike = [n for n in dict.fromkeys(present) if re.split("-", _canonical(n))[0] == electrode]
    alike = alike if against and re.fullmatch(_SITE, electrode) else []
    # The closest is looked for without prefixes: they would make all channels look alike.
    bare = {normalise(name): name for name in present}
    near = difflib.get_close_matches(normalise(wanted), bare, n=1, cutoff=0.5)
    hint = f" Did you mean '{bare[near[0]]}'?" if near and bare[near[0]] not in alike else ""
    if alike:
        listed = " or ".join(f"'{name}'" for name in alike[:4])
        hint += f" Did you mean {listed}? The same electrode, but another reference."
    return EegToolError(
        f"There is no channel '{within or wanted}'{within and f', and no {wanted!r} to derive it'}.",
        f"Present: {', '.join(dict.fromkeys(present))}.{hint} Choose with --channel.",
    )


def _derive(wanted: str, present: Sequence[str]) -> dict[str, float]:
    """Read a derivation as a linear form."""
    names: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        text = match[0].strip()
        try:
            return repr(float(text)) if text else match[0]
        except ValueError:
            names.append(text.strip("'\""))
            return f" n{len(names) - 1} "

    # Python's grammar knows precedence and brackets; nothing but its tree is used.
    try:
        tree = ast.parse(_NAME.sub(placeholder, wanted).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _no_derivation(wanted) from error

    def scaled(weights: dict[str, float], factor: float) -> dict[str, float]:
        return {name: weight * factor for name, weight in weights.items()}

    def form(node: ast.expr) -> dict[str, float]:
        """Return the weight of each channel, and under "" a number of its own."""
        match node:
            case ast.Constant(value=float(number)):
                return {"": number}
            case ast.Name(id=name):
                text = names[int(name[1:])]
                found = _find(text, present)
                if found is None:
                    raise _unknown(text, present, wanted)
                return {found: 1.0}
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                return scaled(form(operand), -1.0 if isinstance(sign, ast.USub) else 1.0)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as sign, right=right):
                ours = form(left)
                theirs = scaled(form(right), -1.0 if isinstance(sign, ast.Sub) else 1.0)
                if "" not in ours | theirs:
                    return {n: ours.get(n, 0.0) + theirs.get(n, 0.0) for n in ours | theirs}
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                ours, theirs = form(left), form(right)
                if ours.keys() == {""}:
                    ours, theirs = theirs, ours
                if theirs.keys() == {""}:
                    return scaled(ours, theirs[""])
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                ours, theirs = form(left), form(right)
                if theirs.keys() == {""} and theirs[""]:
                    return scaled(ours, 1 / theirs[""])
        raise _no_derivation(wanted)

    weights = {name: weight for name, weight in form(tree).items() if weight}
    if not weights or "" in weights:
        raise _no_derivation(wanted)
    return weights


def _no_derivation(wanted: str) -> EegToolError:
    return EegToolError(
        f"'{wanted}' is neither a channel nor a derivation.",
        "A derivation adds and subtracts channels, with numbers as factors: 'C4 - (M1+M2)/2'. "
        "Names that hold one of +-*/() stand in quotes.",
    )
