"""Names of interchangeable parts: checked with help for the user, imported when they are used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from eegtool.core.errors import EegToolError


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to `name`, or an empty string."""
    by_folded = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    return f" Did you mean '{by_folded[near[0]]}'?" if near else ""


def check_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`.

    Raises
    ------
    EegToolError
        If it is not; the message lists the known names and the closest one.
    """
    known = list(known)
    if name not in known:
        listed = ", ".join(f"'{k}'" for k in known)
        raise EegToolError(f"Unknown {kind} '{name}'.", f"Known: {listed}.{closest(name, known)}")
    return name


def load(target: str) -> Any:
    """Import ``"package.module:attribute"`` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
