from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eegtool.core.errors import EegToolError
from eegtool.core.records import Answer
from eegtool.report import step
from eegtool.report.options import ReportSettings

PROTOCOL = {"channel": "EEG Fpz-Cz", "style": "spectrogram"}
AnswerOf = Callable[..., Answer]
WriteAnswers = Callable[[Sequence[Answer]], Path]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    monkeypatch.setattr(step, "console", console)
    monkeypatch.setattr("eegtool.core.console.console", console)
    return out


def strict_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path.name}")

    return dict(json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse))


def test_writes_the_whole_report(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    write_answers(
        [
            answer(0, "W", "The stage is W."),
            answer(1, "N1", "N2"),
            answer(2, "N2", "N2"),
            answer(4, "N2", "no idea"),
            answer(5, "", "REM sleep"),
        ]
    )
    step.run(ReportSettings(workspace=tmp_path))

    out = tmp_path / "report"
    assert {p.name for p in out.iterdir()} == {
        "metrics.json",
        "tables.md",
        "tables.csv",
        "tables.tex",
        "report.html",
        "review.html",
        "figure.svg",
        "figure.png",
        "report.json",
        "hypnograms",
    }
    assert {p.name for p in (out / "hypnograms").iterdir()} == {
        f"SC4031E0{end}"
        for end in (
            ".csv",
            ".svg",
            ".png",
            "_events.tsv",
            "_events.json",
            "_hypnogram.tsv",
            "_hypnogram.json",
            "_hypnogram.edf",
        )
    }
    metrics = strict_json(out / "metrics.json")
    assert (metrics["n"], metrics["accuracy"]) == (4, 0.5)
    assert (metrics["unreadable"], metrics["unlabelled"]) == (1, 1)
    assert metrics["features"] == "real"
    assert metrics["protocol"]["channel"] == "EEG Fpz-Cz"
    stamp = strict_json(out / "report.json")
    assert (stamp["step"], stamp["results"]["n"]) == ("report", 4)
    assert len(stamp["inputs"]["answers"]) == 64
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2  # the first figure, and the hypnogram
    assert "no idea" in page
    tables = (out / "tables.md").read_text(encoding="utf-8")
    assert "1 epoch without a true stage is left out" in tables

    said = terminal.getvalue()
    assert "Confusion matrix" in said
    assert str(out / "report.html") in said
    assert max(map(len, said.replace(str(out), "").splitlines())) <= 80


def test_somebody_elses_answers_need_no_metadata(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    bare = [replace(answer(i, s, s), metadata={}) for i, s in enumerate(("W", "N2", "REM"))]
    out = tmp_path / "elsewhere" / "report"
    step.run(ReportSettings(tmp_path / "none", answers_file=write_answers(bare), out=out))
    assert strict_json(out / "metrics.json")["per_subject"] == {}
    assert "No hypnogram: the answers do not say" in (out / "report.html").read_text("utf-8")


def test_odd_values_do_not_stop_the_report(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    odd = [
        answer(0, "W", "W", epoch_index="0", protocol={"low_hz": float("nan"), "x": [1, {"y": 2}]}),
        answer(1, "N2", "\ud800 N2 \x1b[31m", subject="\x1b]0;title\x07", protocol="none"),
        answer(2, "N2", "N3", epoch_index=True, subject=7, recording=None),
        answer(3, "", "3"),
    ]
    write_answers(odd)
    step.run(ReportSettings(workspace=tmp_path))
    metrics = strict_json(tmp_path / "report" / "metrics.json")
    assert (metrics["n"], metrics["unlabelled"], metrics["unreadable"]) == (3, 1, 0)
    assert metrics["protocol"]["low_hz"] == [None, 0.3]
    assert metrics["protocol"]["x"] == [1, {"y": 2}]
    assert "\x1b" not in terminal.getvalue()


def test_one_answer_throughout_is_loud_in_the_terminal(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    write_answers([answer(i, "W" if i % 2 else "N2", "N2") for i in range(6)])
    step.run(ReportSettings(workspace=tmp_path))
    assert "100 % of the answers are 'N2'." in terminal.getvalue()


def test_two_files_are_compared_and_other_protocols_not_ranked(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    first = write_answers([answer(i, "N2", "N2") for i in range(6)])
    paths = [first]
    for name, channel in (("shuffled", "EEG Fpz-Cz"), ("foreign", "EEG Pz-Oz")):
        rows = [answer(i, "N2", "N3", protocol=PROTOCOL | {"channel": channel}) for i in range(6)]
        path = first.with_name(f"{name}.jsonl")
        path.write_text("".join(json.dumps(a.to_row()) + "\n" for a in rows), encoding="utf-8")
        paths.append(path)
    step.run(ReportSettings(tmp_path, answers=paths, hypnograms=0, full=True))
    metrics = strict_json(tmp_path / "report" / "metrics.json")
    one, two = metrics["comparisons"]
    assert one["differences"]["accuracy"]["value"] == -1.0
    assert one["mcnemar"] == {"only_first_right": 6, "only_other_right": 0, "p": 0.03125}
    assert (two["differs_in"], two["differences"], two["mcnemar"]) == (["channel"], {}, None)
    said = " ".join(terminal.getvalue().replace("│", " ").split())
    assert "shuffled beside eeg_answers" in said
    assert "foreign was made under another protocol than eeg_answers (channel): shown, not" in said
    assert "1 further recording not drawn" in said
    assert not list((tmp_path / "report" / "hypnograms").glob("*.png"))
    inputs = strict_json(tmp_path / "report" / "report.json")["inputs"]
    assert list(inputs) == ["answers", "answers 2", "answers 3"]


CALIBRATED = {
    "mode": "score",
    "adapter_sha256": "ab" * 32,
    "calibration_temperature": 0.58,
    "calibration_offsets": {"W": -0.341, "N1": 0.5, "N2": 0.0, "N3": 0.1, "REM": -0.2},
    "calibration_subjects": ["SC400", "SC403"],
    "decide_for": "macro_f1",
    "decision_offsets": {"W": 0.0, "N1": 1.25, "N2": 0.0, "N3": 0.0, "REM": 0.0},
}


def test_it_is_said_by_what_answers_were_calibrated_and_decided(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    first = write_answers([answer(i, "N2", "N2", **CALIBRATED) for i in range(4)])
    plain = {"mode": "score", "calibration_temperature": 1.0, "decide_for": "likelihood"}
    other = first.with_name("plain.jsonl")
    rows = [answer(i, "N2", "N2", **plain, adapter_sha256="ab" * 32) for i in range(4)]
    other.write_text("".join(json.dumps(a.to_row()) + "\n" for a in rows), encoding="utf-8")
    step.run(ReportSettings(tmp_path, answers=[first, other], hypnograms=0, full=True))
    said = " ".join(terminal.getvalue().replace("│", " ").split())
    assert (
        "Stages: calibrated on SC400, SC403 (temperature 0.58, offsets W -0.34, N1 +0.50, N2 +0.00, "
        "N3 +0.10, REM -0.20); decided for macro-F1, offsets W +0.00, N1 +1.25" in said
    )
    assert "plain was calibrated or decided otherwise than eeg_answers" in said
    assert "(calibration_subjects, decide_for)" in said
    assert "The calibration was fitted on" not in said
    metrics = strict_json(tmp_path / "report" / "metrics.json")
    assert metrics["how"]["decide_for"] == "macro_f1"
    assert metrics["comparisons"][0]["differences"]["accuracy"]["value"] == 0
    assert "macro-F1" in (tmp_path / "report" / "tables.md").read_text()
    step.run(ReportSettings(tmp_path, answers=[other], hypnograms=0, full=True))
    assert "Stages: not calibrated; decided for the likeliest stage." in terminal.getvalue()


def test_figures_of_those_it_was_calibrated_on_are_warned_of(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    seen = [answer(0, "N2", "N2", **CALIBRATED, calibrated_on=True)]
    new = [answer(i, "N2", "N2", **CALIBRATED, subject="SC409") for i in range(1, 4)]
    write_answers(seen + new)
    step.run(ReportSettings(tmp_path, hypnograms=0, full=True))
    said = " ".join(terminal.getvalue().replace("│", " ").split())
    assert "The calibration was fitted on SC403: figures that count them look better" in said


def test_answers_without_labels_have_hypnograms_and_statistics_only(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    write_answers([answer(i, "", "N2" if i else "?") for i in range(8)])
    step.run(ReportSettings(workspace=tmp_path, full=True))
    metrics = strict_json(tmp_path / "report" / "metrics.json")
    assert (metrics["n"], metrics["answered"], metrics["kappa"]) == (0, 8, None)
    assert metrics["sleep_statistics"][0]["predicted"]["tst_min"] == 3.5
    said = terminal.getvalue()
    assert "No epoch has a true stage" in said
    assert "Agreement with the scoring" not in said
    assert "Sleep statistics of each night" in said
    assert (tmp_path / "report" / "hypnograms" / "SC4031E0.png").exists()


def test_what_is_wrong_with_the_file_is_loud(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    rows = [answer(i, "N2", "<script>alert(1)</script>\x1b[31m N2") for i in range(3)]
    path = write_answers([*rows, replace(rows[0], model_id="other")])
    with path.open("a") as file:
        file.write('{"question_id": "SC4')
    step.run(ReportSettings(workspace=tmp_path, full=True))
    said = " ".join(terminal.getvalue().replace("│", " ").split())
    assert "2 models have answered in this file" in said
    assert "The last line of the answers file is broken and left out (line 5" in said
    assert "\x1b" not in said
    table = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8")
    assert "<script" not in table


def test_a_stricter_reader_reads_less(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    write_answers([answer(0, "N2", "N2"), answer(1, "N2", "This is N2.")])
    step.run(ReportSettings(workspace=tmp_path, reader="label", draws=0, full=True))
    metrics = strict_json(tmp_path / "report" / "metrics.json")
    assert (metrics["unreadable"], metrics["accuracy"]) == (1, 0.5)
    assert "No intervals: --draws 0" in terminal.getvalue()


def test_how_each_answer_was_read(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    texts = ["The image shows N2, unlike N3.", "=N2", "no idea"]
    path = write_answers([answer(i, "N2", text) for i, text in enumerate(texts)])
    table = tmp_path / "new" / "how.csv"
    step.run(ReportSettings(tmp_path, answers=[path], how_read=table, hypnograms=0, draws=0))
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "question_id": "SC4031E0-0000",
        "text": texts[0],
        "stage": "N2",
        "words": "N2",
        "begin": "16",
        "end": "18",
        "rule": "verdict",
        "answers": "eeg_answers",
    }
    assert (rows[1]["text"], rows[1]["words"]) == ("'=N2", "N2")
    assert (rows[2]["stage"], rows[2]["words"], rows[2]["rule"]) == ("", "", "no stage named")
    assert len(rows) == len(texts)
    with pytest.raises(EegToolError, match="is not a file but a folder"):
        step.run(ReportSettings(tmp_path, answers=[path], how_read=tmp_path))


def test_answers_given_twice_are_refused(tmp_path: Path) -> None:
    settings = ReportSettings(tmp_path, answers=[tmp_path / "a"], answers_file=tmp_path / "b")
    with pytest.raises(EegToolError, match="given twice"):
        step.run(settings)


PAGE = Path(__file__).parents[2] / "docs" / "figures.md"


def test_the_documents_explain_every_key_of_the_metrics(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    write_answers([answer(0, "N2", "N2")])
    step.run(ReportSettings(workspace=tmp_path, hypnograms=0))
    keys = set(strict_json(tmp_path / "report" / "metrics.json"))
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## metrics.json") :].split("\n#", 1)[0]
    assert {key for key in keys if f"`{key}`" not in section} == set()


@pytest.mark.parametrize(
    ("change", "what", "fix"),
    [
        (lambda rows: [], "holds no answers", "eegvlm evaluate"),
        (lambda rows: [*rows, rows[0]], "'SC4031E0-0000' occurs more than once", "remove"),
        (
            lambda rows: [*rows[:2], replace(rows[2], label="Wakee")],
            "the label 'Wakee' of 'SC4031E0-0002' is not a sleep stage. Did you mean 'Wake'?",
            "leave it empty",
        ),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_scored(
    tmp_path: Path,
    answer: AnswerOf,
    write_answers: WriteAnswers,
    change: Callable[[list[Answer]], list[Answer]],
    what: str,
    fix: str,
) -> None:
    path = write_answers(change([answer(i, "N2", "N2") for i in range(3)]))
    with pytest.raises(EegToolError) as error:
        step.run(ReportSettings(workspace=tmp_path))
    assert str(path) in error.value.what
    assert what in error.value.what
    assert fix in error.value.fix
    assert not (tmp_path / "report").exists()


def test_missing_answers_and_impossible_folder(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers
) -> None:
    with pytest.raises(EegToolError, match="does not exist"):
        step.run(ReportSettings(workspace=tmp_path))
    path = write_answers([answer(0, "N2", "N2")])
    with pytest.raises(EegToolError, match="report folder"):
        step.run(ReportSettings(workspace=tmp_path, out=path))


def test_the_likeliest_sequence_has_a_row_of_its_own(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    true = ("W", "N1", "N2", "N2", "N2", "REM")
    said = ("W", "N2", "N2", "W", "N2", "REM")
    write_answers(
        [
            answer(i, stage, reply, stage_smoothed=stage)
            for i, (stage, reply) in enumerate(zip(true, said, strict=True))
        ]
    )
    step.run(ReportSettings(workspace=tmp_path, full=True))
    metrics = strict_json(tmp_path / "report" / "metrics.json")
    (found,) = [c for c in metrics["comparisons"] if c["other"] == "after smoothing"]
    assert found["n"] == 6
    assert "after smoothing" in terminal.getvalue()


def test_the_first_screen_has_forty_lines_at_most(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    """With everything that is wrong and compared: figures, the two strongest warnings, where the rest is."""
    model = {"calibrated_on": "eval", "calibration_subjects": ["SC403"], "features": "zero"}
    rows = [
        answer(
            i, "N2" if i % 9 else "N3", "N2", recording=f"R{i % 40}", stage_smoothed="N2", **model
        )
        for i in range(400)
    ]
    first = write_answers(rows)
    first.write_text(first.read_text() + "{", encoding="utf-8")
    others = []
    for k in range(4):
        other = tmp_path / f"other{k}.jsonl"
        other.write_text("".join(json.dumps(r.to_row()) + "\n" for r in rows), encoding="utf-8")
        others.append(other)
    step.run(ReportSettings(tmp_path, answers=[first, *others], hypnograms=0))
    said = terminal.getvalue()
    lines = said.split("taken\n")[1].splitlines()
    assert len(lines) <= 40
    shown = " ".join(said.split())
    assert shown.count("warning: ") == 2
    assert "100 % of the answers are 'N2'." in shown
    assert "The calibration was fitted on SC403" in shown
    assert "more notes: see the report, or --full." in shown
    for text in (
        "Accuracy",
        "Cohen's κ",
        "95 % interval",
        "Stage",
        "Confusion matrix",
        "blocks of 30 min",
    ):
        assert text in shown
    assert "after smoothing beside eeg_answers: κ" in shown
    assert f"Review {tmp_path / 'report' / 'review.html'}" in shown


def test_lights_and_the_hypnogram_of_bids(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers, terminal: io.StringIO
) -> None:
    write_answers([answer(i, s, s) for i, s in enumerate(["W"] * 6 + ["N2"] * 10 + ["REM"] * 4)])
    step.run(ReportSettings(tmp_path, draws=0, hypnograms=0, lights_off="60", lights_on="540"))
    (night,) = strict_json(tmp_path / "report" / "metrics.json")["sleep_statistics"]
    assert night["lights"] == {"off_s": 60.0, "on_s": 540.0}
    assert (night["true"]["tib_min"], night["true"]["sol_min"]) == (8, 2)
    assert night["predicted"]["tst_min"] == 6
    table = tmp_path / "report" / "hypnograms" / "SC4031E0_hypnogram.tsv"
    rows = list(csv.DictReader(io.StringIO(table.read_text()), delimiter="\t"))
    assert [row["stage"] for row in rows[5:7]] == ["W", "N2"]
    assert rows[-1] == {"onset": "570.000", "duration": "30", "stage": "R", "human": "R"}
    about = strict_json(table.with_suffix(".json"))
    assert about["stage"]["Levels"].keys() == {"W", "N1", "N2", "N3", "R"}
    assert (about["EpochLength"], about["LightsOff"], about["LightsOn"]) == (30, 60.0, 540.0)
    with pytest.raises(EegToolError, match="it was staged from 0 to 600 s"):
        step.run(ReportSettings(tmp_path, lights_off="700", lights_on="800"))
    with pytest.raises(EegToolError, match="when the recording began is not known"):
        step.run(ReportSettings(tmp_path, lights_off="22:30:00"))
