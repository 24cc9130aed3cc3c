from __future__ import annotations

import copy
import errno
from pathlib import Path

import pytest

from eegtool.core.errors import CannotWriteError, EegToolError, brief, of_system


def test_an_error_keeps_both_parts_between_processes() -> None:
    error = copy.copy(EegToolError("what is wrong", "how to fix it"))
    assert (error.what, error.fix) == ("what is wrong", "how to fix it")
    assert str(error) == "what is wrong\nhow to fix it"
    assert str(EegToolError("all said")) == "all said"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("broken.\nlong story"), "broken"),
        (ValueError("\n"), "ValueError"),
        (OSError(), "OSError"),
    ],
)
def test_brief(error: Exception, text: str) -> None:
    assert brief(error) == text


@pytest.mark.parametrize(
    ("error", "path", "what"),
    [
        (OSError(errno.ENOSPC, "No space left"), None, "No space left."),
        (OSError(errno.EACCES, "Permission denied", "in"), None, "in: Permission denied."),
        (OSError(errno.EFBIG, "File too large"), "out", "out cannot be written: File too large."),
        (OSError(errno.EROFS, "Read-only", "tmp"), "out", "out cannot be written: Read-only."),
        (OSError("12 requested and 3 written"), "out", "out cannot be written: 12 requested and"),
    ],
)
def test_what_the_system_refuses(error: OSError, path: str | None, what: str) -> None:
    told = copy.copy(of_system(error, Path(path) if path else None))  # as between processes
    assert told.what.startswith(what)
    assert isinstance(told, CannotWriteError) == (path is not None)
    assert told.fix


def test_what_to_do_depends_on_the_cause() -> None:
    causes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EINVAL)
    assert len({of_system(OSError(number, "x")).fix for number in causes}) == len(causes)
