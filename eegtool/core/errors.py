"""The one exception a user sees as a message rather than as a traceback."""

from __future__ import annotations


class EegToolError(Exception):
    """Something the user can mend.

    Parameters
    ----------
    what : str
        What is wrong, with the file or the flag it is wrong in.
    fix : str
        What to do about it. Empty only where ``what`` already says it.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.fix}" if self.fix else self.what

    def __reduce__(self) -> tuple[type[EegToolError], tuple[str, str]]:
        # Crosses process boundaries (prepare runs recordings in parallel) with both its parts.
        return EegToolError, (self.what, self.fix)


def brief(error: Exception) -> str:
    """Return what another library's exception says in its first line, or its type if it is mute."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
