"""Texts that others chose, in tables that a spreadsheet will open."""

from __future__ import annotations

import pytest

from eegtool.core.sheets import safe_cell


@pytest.mark.parametrize(
    "formula",
    [
        "=1+1",
        "+1+cmd|'/C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "-1 +cmd|'/C calc'!A0",
        "−1−1",
        "\t=1+1",
        " =1+1",
        "\r\n=1+1",
        "\u200b=1+1",
        "\ufeff\u00a0\u2060=1+1",
        "\u202e=1+1",
        "\uff1d1+1",
        " -5",  # no number of ours begins with a blank
    ],
)
def test_formulas_are_defused(formula: str) -> None:
    assert safe_cell(formula) == "'" + formula.replace("−", "-")


@pytest.mark.parametrize(
    "text",
    ["", "S1", "C4-M1", "'=1", "-0.5", "+0.1 to +0.2", "-1,234.5", "+12 %", "-3 min", "\u200bx"],
)
def test_other_texts_stay_what_they_are(text: str) -> None:
    assert safe_cell(text) == text


def test_minus_is_the_one_that_programs_read() -> None:
    assert safe_cell("−0.200 to −0.100") == "-0.200 to -0.100"
