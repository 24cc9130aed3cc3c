"""The one exception a user sees as a message rather than as a traceback."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

_FIXES: Final = {
    errno.ENOSPC: "Make room on that disk, or write to another one.",
    errno.EDQUOT: "Your quota there is used up: remove something, or write elsewhere.",
    errno.EFBIG: "Files may not grow that large there (see `ulimit -f`): write elsewhere.",
    errno.EROFS: "That disk can only be read: write to another one.",
    errno.EACCES: "Ask for the permission, or take another path.",
    errno.EPERM: "Ask for the permission, or take another path.",
    errno.EIO: "The disk may be damaged: take another one.",
    errno.ENAMETOOLONG: "Take a shorter name.",
    errno.ENOLCK: "That disk cannot lock files: write to another one.",
    errno.ENOSYS: "That disk cannot lock files: write to another one.",
    errno.ELOOP: "Its links lead in a circle: remove one of them.",
}
"""What to do about what the operating system refuses."""


class EegToolError(Exception):
    """Something the user can fix.

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
        return type(self), (self.what, self.fix)


class CannotWriteError(EegToolError):
    """A file that could not be written; the next one would hardly fare better."""


def brief(error: Exception) -> str:
    """Return what another library's exception says in its first line, or its type if it is mute."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def of_system(error: OSError, path: Path | None = None) -> EegToolError:
    """Return as a message what the operating system refuses: a full disk, a quota, a permission.

    Parameters
    ----------
    error : OSError
        What was raised.
    path : Path, optional
        The file that was to be written, where the error is about that.
    """
    reason = error.strerror or brief(error)
    fix = _FIXES.get(error.errno or 0, "Check the path, its permissions and the disk.")
    if path is not None:
        return CannotWriteError(f"{path} cannot be written: {reason}.", fix)
    return EegToolError(f"{error.filename}: {reason}." if error.filename else f"{reason}.", fix)
