from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eegtool.core.stages import STAGES
from eegtool.report.measures.findings import Findings
from eegtool.report.measures.metrics import Metrics
from eegtool.report.showing.finding_tables import all_tables, literature_table
from eegtool.report.showing.forms import latex, markdown, to_csv, to_latex, to_markdown, to_rich
from eegtool.report.showing.tables import Cell, Table, figure, percent, span

PAIRS = [(s, s) for s in STAGES] * 2000 + [("N1", "REM"), ("N2", None), ("W", "N1")] * 700


@pytest.fixture
def metrics(metrics_of: Callable[..., Metrics]) -> Metrics:
    return metrics_of(PAIRS)


def printed(metrics: Metrics, width: int = 80, *, colour: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
    )
    for table in all_tables(metrics, Findings()):
        console.print(to_rich(table))
    return out.getvalue()


def test_terminal_and_markdown_show_the_same_cells(metrics: Metrics) -> None:
    terminal = printed(metrics)
    for table in all_tables(metrics, Findings()):
        text = to_markdown(table)
        assert text.startswith(f"## {table.title}\n")
        assert text.count("\n| ") == len(table.rows) + 2  # head and rule
        for row in table.rows:
            for cell in row:
                assert cell.text in terminal
                assert markdown(cell.text) in text
                assert cell.detail in text


def test_nothing_is_cut_at_80_columns(metrics: Metrics) -> None:
    text = printed(metrics)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    confusion = text[text.index("Confusion matrix") :]
    assert "unreadable" in confusion.splitlines()[1]
    assert "2,700" in confusion


def test_chance_stands_beside_each_headline_figure(metrics: Metrics) -> None:
    summary = all_tables(metrics, Findings())[0]
    assert summary.columns[1:] == ("Model", "Always W", "At random", "Gained")
    accuracy, macro_f1, kappa = summary.rows[:3]
    assert metrics.chance is not None
    assert accuracy[1].text == figure(metrics.accuracy)
    assert accuracy[2].text == figure(metrics.chance.accuracy)
    assert accuracy[3].text == figure(metrics.chance.random_accuracy)
    assert (macro_f1[2].text, kappa[2].text) == (figure(metrics.chance.macro_f1), "0.000")


def test_confusion_is_shaded_by_share_of_the_row(metrics: Metrics) -> None:
    table = {t.key: t for t in all_tables(metrics, Findings())}["confusion"]
    n1 = table.rows[1]
    assert [c.text for c in n1] == ["N1", "0", "2,000", "0", "0", "700", "0", "2,700"]
    assert (n1[2].detail, n1[2].tone) == ("74 %", "right")
    assert n1[2].shade == pytest.approx(20 / 27)
    assert (n1[5].detail, n1[5].tone) == ("26 %", "wrong")
    assert "\x1b[38;2;0;0;0;48;2;" in printed(metrics, colour=True)


def test_undefined_figures_are_marked_and_explained(metrics_of: Callable[..., Metrics]) -> None:
    tables = {t.key: t for t in all_tables(metrics_of([("N2", "N2")] * 3), Findings())}
    assert [c.text for c in tables["stages"].rows[0]] == ["W", "–", "–", "–", "0"]
    assert "quotient by zero" in tables["stages"].note
    assert tables["summary"].rows[2][1].text == "–"


def test_no_subject_table_without_subjects(metrics_of: Callable[..., Metrics]) -> None:
    keys = [table.key for table in all_tables(metrics_of(PAIRS[:9], subject=""), Findings())]
    assert keys == ["summary", "counts", "stages", "confusion", "surroundings", "nights"]


def test_text_of_files_is_no_markup(metrics_of: Callable[..., Metrics]) -> None:
    name = "[red]a|b[/red]<script>"
    metrics = metrics_of(PAIRS[:9], subject=name)
    assert name in printed(metrics)
    text = to_markdown(all_tables(metrics, Findings())[-1])
    assert "\\[red\\]a\\|b\\[/red\\]&lt;script>" in text


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0 %"),
        (0.001, "<1 %"),
        (0.0099, "<1 %"),
        (0.01, "1 %"),
        (0.256, "26 %"),
        (0.996, ">99 %"),
        (1, "100 %"),
    ],
)
def test_percent(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (0.12345, "0.123"), (-0.2, "−0.200")])
def test_figure(value: float | None, shown: str) -> None:
    assert figure(value) == shown


def test_csv_holds_every_cell(metrics: Metrics) -> None:
    tables = all_tables(metrics, Findings())
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert len(rows) == sum(len(t.rows) * (len(t.columns) - 1) for t in tables)
    found = {(r["table"], r["row"], r["column"]): r["value"] for r in rows}
    assert found["summary", "Cohen's κ", "Model"] == figure(metrics.kappa)
    assert found["confusion", "N1", "unreadable"] == "0"


def test_names_of_files_are_no_formulas_in_a_spreadsheet() -> None:
    table = Table(
        "t", "T", ("", "x"), ((Cell("=cmd|' /C calc'!A0"), Cell("−0.5", "+0.1 to +0.2")),)
    )
    (row,) = csv.DictReader(io.StringIO(to_csv([table])))
    assert row["row"].startswith("'=")
    assert (row["value"], row["detail"]) == ("-0.5", "+0.1 to +0.2")


TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[{}&$#%_^~]|[^\\{}&$#%_^~]+", re.DOTALL)
COMMANDS = set(
    r"\centering \caption \label \toprule \midrule \bottomrule \scriptsize \footnotesize \par \smallskip "
    r"\textbackslash \textasciitilde \textasciicircum \textless \textgreater \textbar \ldots "
    r"\kappa \pm \times \dagger \mu \geq \leq \& \% \$ \# \_ \{ \}".split()
)
MATHS = set(r"\kappa \pm \times \dagger \mu \geq \leq".split())


def check_latex(text: str) -> None:
    """Fail where pdfLaTeX would: specials, braces, environments, maths, columns, other scripts."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    body = re.sub(r"\\begin\{tabular\}\{(l?r*)\}", r"\\begin{tabular \1}", body)
    open_: list[str] = []  # braces and environments
    cells, columns, maths = 1, 0, False
    tokens = iter(TOKEN.findall(body))
    for token in tokens:
        if token in (r"\begin", r"\end"):
            assert next(tokens) == "{"
            name, _, spec = next(tokens).partition(" ")
            assert next(tokens) == "}"
            if token == r"\end":
                assert open_.pop() == name
            else:
                open_.append(name)
                cells, columns = 1, len(spec) or columns
        elif token == "{":
            open_.append("{")
        elif token == "}":
            assert open_.pop() == "{"
        elif token == "$":
            maths = not maths
        elif token == "&":
            assert open_[-1:] == ["tabular"], "& outside of a row"
            cells += 1
        elif token == r"\\":
            assert (open_[-1], cells) == ("tabular", columns), "a row has other columns"
            cells = 1
        elif token.startswith("\\"):
            assert token in COMMANDS, token
            assert maths or token not in MATHS, token
        else:
            assert token not in set("#%_^~"), f"{token} is not escaped"
            assert max(token) <= "\u00ff", token
    assert (open_, maths) == ([], False)


NAME = r"A_1 & 50% {x} #$~^\input [é] <|>…"


def test_latex_is_what_pdflatex_takes(metrics_of: Callable[..., Metrics]) -> None:
    assert latex(NAME).startswith(
        r"A\_1 \& 50\% \{x\} \#\$\textasciitilde{}\textasciicircum{}\textbackslash{}input"
    )
    text = to_latex(all_tables(metrics_of(PAIRS[:9], subject=NAME), Findings()))
    assert latex(NAME) in text
    assert text.count(r"\begin{table}") == text.count(r"\toprule") > 5
    check_latex(text)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (r"\_1", "_1"),
        (r"50\%", "50%"),
        (r"\#", "#"),
        (r"\textasciitilde{}", "~"),
        (r"$\kappa$", r"\kappa"),
        (r"\&", "&"),
        (r" & ", r" & & "),
        (r"\end{tabular}", ""),
        (r"\bottomrule", r"\botomrule"),
        ("Stage", "{Stage"),
        ("Macro", "宏"),
    ],
)
def test_what_pdflatex_refuses_is_found(
    metrics_of: Callable[..., Metrics], good: str, bad: str
) -> None:
    text = to_latex(all_tables(metrics_of(PAIRS[:9], subject=NAME), Findings()))
    assert good in text
    with pytest.raises(AssertionError):
        check_latex(text.replace(good, bad, 1))


def test_other_scripts_are_said(metrics_of: Callable[..., Metrics]) -> None:
    tables = all_tables(metrics_of(PAIRS[:9], subject="山田"), Findings())
    assert "% Has 山田: compile with XeLaTeX" in to_latex(tables)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex: apt install texlive")
def test_pdflatex_compiles_it(metrics_of: Callable[..., Metrics], tmp_path: Path) -> None:
    text = to_latex(all_tables(metrics_of(PAIRS[:9], subject=NAME), Findings()))
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{text}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-2000:]


def test_published_figures_say_that_they_are_not_ours() -> None:
    table = literature_table({"protocol": "sleep-edf-20", "protocol_differs": []})
    assert table.title == "Published under the same protocol (sleep-edf-20), not measured here"
    works = [row[0].text for row in table.rows]
    assert "SleePyCo" in works
    assert "DeepSleepNet †" in works
    assert {row[1].text for row in table.rows} == {"Sleep-EDF-20"}
    assert all(row[0].detail.count(";") == 2 for row in table.rows)


@pytest.mark.parametrize(
    ("protocol", "n_rows"),
    [
        ({}, 0),
        ({"protocol": "kemp2000", "protocol_differs": []}, 0),
        ({"protocol": "sleepvlm-mass", "protocol_differs": []}, 1),
        ({"protocol": "sleep-edf-20", "protocol_differs": ["38 of 39 recordings"]}, 0),
        ({"protocol": ["sleep-edf-20", "sleep-edf-78"]}, 0),
    ],
)
def test_only_figures_of_the_same_protocol_stand_beside_a_run(
    protocol: dict[str, Any], n_rows: int
) -> None:
    assert len(literature_table(protocol).rows) == n_rows


def test_spans_and_differences_are_unmistakable() -> None:
    assert span((0.1, 0.2)) == "0.100–0.200"
    assert span((-0.1, 0.2)) == "−0.100 to 0.200"
    assert span(None) == ""
    assert tuple(figure(x, "+.3f") for x in (0.1, -0.1, None)) == ("+0.100", "−0.100", "–")
