"""Flags as other programs spell them: underscores, ``True`` after a switch, other names, a YAML file.

``--lora_r 8``, ``--lora-r=8`` and the line ``lora_r: 8`` of a file all mean the same. What is no
option of the command is gathered by name, for the part of the program that may know it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eegtool.core.errors import EegToolError, brief
from eegtool.core.registry import load

Values = dict[str, list[str]]
"""What was given for each flag; the names have underscores and no dashes."""

_TRUE: Final = ("true", "yes", "on", "1", "t", "y")
_FALSE: Final = ("false", "no", "off", "0", "f", "n")


@dataclass(frozen=True, slots=True)
class Spelling:
    """How an option of the command is written for it."""

    name: str
    """``lora_r``."""
    on: str
    """``--lora-r``."""
    off: str = ""
    """What turns a switch off, where there is such a flag."""
    switch: bool = False
    """Whether it takes no value."""


class FlagError(Exception):
    """A flag that is unknown, or a value that it cannot take.

    Parameters
    ----------
    name : str
        Of the flag, with underscores.
    what : str
        What is wrong with it.
    """

    def __init__(self, name: str, what: str) -> None:
        super().__init__(what)
        self.name = name
        self.what = what


def name_of(flag: str) -> str:
    """Return the name of a flag or key in whatever spelling: ``--lora-r`` is ``lora_r``."""
    return flag.lstrip("-").replace("-", "_")


def truth(word: str) -> bool | None:
    """Return what a word says of a switch, or None if it is no such word."""
    folded = word.casefold()
    return True if folded in _TRUE else False if folded in _FALSE else None


def read_arguments(
    tokens: Sequence[str], options: Mapping[str, Spelling], renamed: Mapping[str, str]
) -> tuple[Values, list[str]]:
    """Sort a command line by flag; of a flag that is given twice, the later one wins.

    Parameters
    ----------
    tokens : sequence of str
        The command line after the name of the command.
    options : mapping of str to Spelling
        The command's own options, by every name they go by (``-w`` by ``-w``).
    renamed : mapping of str to str
        Names that mean another one.

    Returns
    -------
    values : dict of str to list of str
        A switch has ``["true"]`` or ``["false"]``, an option its one value (or none, where it was
        forgotten), another program's flag whatever stood behind it.
    rest : list of str
        Tokens that belong to no flag.
    """
    values: Values = {}
    rest: list[str] = []
    left = list(tokens)
    while left:
        flag, given, value = left.pop(0).partition("=")
        name = flag if flag in options else name_of(flag)
        name = renamed.get(name, name)
        option = options.get(name)
        if not flag.startswith("--") and option is None:
            rest.append(flag + given + value)
            continue
        several = option is None  # another program's flag: it may take more than one
        found = [value] if given else _behind(left, options, several=several)
        if option is not None and option.switch:
            said = truth(found[0]) if found else True
            if said is None:
                if given:
                    raise FlagError(option.name, f"'{value}' is neither True nor False")
                left.insert(0, found[0])
                said = True
            found = [str(said != (name_of(option.off) == name)).lower()]
        values[option.name if option else name] = found
    return values, rest


def refuse_further(given: Values, own: Sequence[str] = ()) -> dict[str, Any]:
    """Refuse flags that are none of a command's own, where it knows no other program's.

    Raises
    ------
    FlagError
        Naming the first of them, and the closest of its own.
    """
    for name in given:
        near = difflib.get_close_matches(f"--{name.replace('_', '-')}", own, n=1, cutoff=0.6)
        raise FlagError(name, f"no such flag{f'; did you mean {near[0]}?' if near else ''}")
    return {}


def _behind(left: list[str], options: Mapping[str, Spelling], *, several: bool) -> list[str]:
    """Take the values that stand behind a flag off the rest of the command line."""
    found: list[str] = []
    while left and not left[0].startswith("--") and left[0] not in options:
        found.append(left.pop(0))
        if not several:
            break
    return found


def read_config(path: Path, renamed: Mapping[str, str]) -> Values:
    """Read flags from a YAML file of ``name: value`` lines; nothing in it is guessed at: all is text.

    Raises
    ------
    EegToolError
        If it is missing, no such file, or names a flag twice (in two spellings, perhaps).
    """
    try:
        text = path.read_text(encoding="utf-8")
        # The loader that leaves everything text: for others, 3e-4 is text and `no` is False.
        raw = load("yaml:load")(text, Loader=_unique_keys(path))
    except FileNotFoundError:
        raise EegToolError(f"--config {path} does not exist.", "Give a YAML file.") from None
    except OSError as error:
        raise EegToolError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, load("yaml:YAMLError")) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or brief(error)
        raise EegToolError(f"--config {path}{line}: {reason}.", "Fix that line.") from error
    except RecursionError as error:
        raise EegToolError(
            f"--config {path} is nested too deeply.", "One flag a line, lists at most."
        ) from error
    if not isinstance(raw, dict):
        raise EegToolError(f"--config {path} holds no 'name: value' lines.", "One flag a line.")
    values: Values = {}
    for key, value in raw.items():
        name = renamed.get(name_of(key), name_of(key))
        words = value if isinstance(value, list) else [value]
        if not all(isinstance(word, str) for word in words) or words in ([], [""]):
            raise EegToolError(
                f"--config {path}: '{key}' has no value that a flag could have.",
                "Give one word or number, a list of them, or JSON in quotes.",
            )
        if name in values:
            raise EegToolError(f"--config {path}: '{key}' is given twice.", "Keep one of them.")
        values[name] = words
    return values


def _unique_keys(path: Path) -> Any:
    """Return YAML's plain loader, less its habit to take the last of two equal keys."""
    base: Any = load("yaml:BaseLoader")

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise EegToolError(
                        f"--config {path}: '{key}' is given twice.", "Keep one of them."
                    )
            return super().construct_mapping(node, deep)

    return Loader


def spell(name: str, words: Sequence[str], option: Spelling) -> list[str]:
    """Return an option as its command reads it.

    Raises
    ------
    FlagError
        If its value is none that it could have.
    """
    if option.switch:
        said = truth(words[0]) if len(words) == 1 else None
        if said is None:
            raise FlagError(name, f"'{' '.join(words)}' is neither True nor False")
        return [option.on] if said else [option.off] if option.off else []
    if len(words) > 1:
        raise FlagError(name, f"takes one value, not {len(words)}")
    return [f"{option.on}={words[0]}"] if words else [option.on]
