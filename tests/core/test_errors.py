from __future__ import annotations

import copy

import pytest

from eegtool.core.errors import EegToolError, brief


def test_an_error_keeps_both_parts_between_processes() -> None:
    error = copy.copy(EegToolError("what is wrong", "how to mend it"))
    assert (error.what, error.fix) == ("what is wrong", "how to mend it")
    assert str(error) == "what is wrong\nhow to mend it"
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
