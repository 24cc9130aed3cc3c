from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.stages import STAGES
from eegtool.report.measures.findings import Findings
from eegtool.report.measures.metrics import Metrics, measure
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.nights import Absence
from eegtool.report.reading.protocol import Run
from eegtool.report.showing.finding_tables import all_tables
from eegtool.report.showing.page import render_page
from eegtool.report.showing.review import render_review
from tests.report.conftest import STAMP, data_of

EVIL = "<script>alert('N2')</script>"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Collects elements and attributes, and checks that every element is closed in turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.scripts: dict[str, str] = {}  # by id; the one that runs has none
        self._script = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "script":
            self._script = dict(attrs).get("id") or ""
            assert self._script not in self.scripts
            self.scripts[self._script] = ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[self._script] += data
        elif "style" not in self._open:
            self.words += data


def review_of(metrics: Metrics, folder: Path, epochs: Sequence[AnsweredEpoch] = ()) -> str:
    return render_review(data_of(metrics, epochs), folder)


def page_of(metrics: Metrics, epochs: Sequence[AnsweredEpoch] = (), **other: Any) -> str:
    return render_page(data_of(metrics, epochs, **other))


@pytest.fixture
def metrics(metrics_of: Callable[..., Metrics]) -> Metrics:
    return metrics_of([(s, s) for s in STAGES] * 3 + [("N2", "N3"), ("N2", None)])


def test_page_is_well_formed_and_asks_for_nothing(
    metrics: Metrics, epoch: Callable[..., AnsweredEpoch]
) -> None:
    page = page_of(metrics, [epoch(i, s, s) for i, s in enumerate(STAGES)])
    outline = Outline(page)
    assert not {"link", "iframe", "object", "base"} & set(outline.tags)
    addresses = [v for n, v in outline.attributes if n in ("src", "href", "xlink:href", "action")]
    assert all(a.startswith(("#", "review.html", "data:image/")) for a in addresses)
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_page_has_no_script_and_that_of_the_review_alone_may_run(
    metrics: Metrics, tmp_path: Path
) -> None:
    rules = "base-uri 'none'; form-action 'none'"
    for page, script_src in ((page_of(metrics), ""), (review_of(metrics, tmp_path), "{digest}")):
        outline = Outline(page)
        digest = ""
        if script_src:
            assert set(outline.scripts) == {"", "epoch-data", "epoch-pictures"}
            assert "</" not in outline.scripts[""]
            hashed = hashlib.sha256(outline.scripts[""].encode()).digest()
            digest = f" script-src 'sha256-{base64.b64encode(hashed).decode()}';"
        else:
            assert not outline.scripts
        (policy,) = (v for n, v in outline.attributes if n == "content" and "default-src" in v)
        assert policy == (
            f"default-src 'none'; style-src 'unsafe-inline';{digest} img-src data:; {rules}"
        )


def test_headline_stands_beside_chance(metrics: Metrics) -> None:
    assert metrics.chance
    words = " ".join(Outline(page_of(metrics)).words.split())
    assert f"Accuracy{metrics.accuracy:.3f}" in words
    assert f"chance {metrics.chance.accuracy:.3f} (always N2)" in words
    assert "Macro-F1" in words
    assert "Cohen's κ" in words
    for heading in ("Per stage", "Confusion matrix", "Per subject", "Hypnograms"):
        assert heading in words


def test_without_labels_there_is_still_a_page(
    metrics_of: Callable[..., Metrics], epoch: Callable[..., AnsweredEpoch]
) -> None:
    epochs = [epoch(i, None, "N2") for i in range(3)]
    words = Outline(page_of(metrics_of([(None, "N2")] * 3), epochs)).words
    assert "Epochs answered" in words
    assert "Confusion matrix" not in words
    assert "chance" not in words


def test_every_table_cell_is_on_the_page(metrics: Metrics) -> None:
    words = Outline(page_of(metrics)).words
    for table in all_tables(metrics, Findings()):
        assert table.title in words
        for row in table.rows:
            for cell in row:
                assert cell.text in words
                assert cell.detail in words


def test_texts_of_models_and_files_are_escaped(
    metrics_of: Callable[..., Metrics], epoch: Callable[..., AnsweredEpoch], tmp_path: Path
) -> None:
    run = Run(EVIL, EVIL, {"channel": EVIL, EVIL: [EVIL], "simulated": True})
    epochs = [
        replace(epoch(i, "N2", None, recording=EVIL, subject=EVIL, text=EVIL), sample_id=EVIL)
        for i in range(3)
    ]
    metrics = metrics_of([("N2", None)] * 3, run, subject=EVIL)
    stamp = {**STAMP, "inputs": {EVIL: EVIL}, "git_commit": EVIL, "versions": {EVIL: EVIL}}
    page = page_of(metrics, epochs, stamp=stamp, absences=[Absence(EVIL, EVIL)])
    outline = Outline(page)
    assert not re.findall("<script", page, re.IGNORECASE)
    assert EVIL in outline.words
    review = review_of(metrics, tmp_path, epochs)
    outline = Outline(review)
    assert len(re.findall("<script", review, re.IGNORECASE)) == len(outline.scripts) == 3
    data = json.loads(outline.scripts["epoch-data"])
    assert data["id"] == [EVIL] * 3
    assert data["texts"] == [[EVIL]]


def test_cells_of_the_confusion_matrix_lead_to_their_epochs(metrics: Metrics) -> None:
    links = {v for n, v in Outline(page_of(metrics)).attributes if n == "href" and "#true" in v}
    own = {f"review.html#true={stage}&answer={stage}" for stage in STAGES}
    assert links == own | {f"review.html#true=N2&answer={other}" for other in ("N3", "unreadable")}


def test_protocol_is_told_in_plain_words(metrics: Metrics) -> None:
    words = Outline(page_of(metrics)).words
    assert "channel EEG Fpz-Cz, band-pass 0.3–35 Hz, wake kept to 30 min" in words
    assert "split by subject" in words
    assert "style spectrogram, template stage" in words
    assert "base model tiny, fusion add, high-level features real" in words
    assert "simulated" not in words


def test_what_is_not_recorded_is_said(metrics_of: Callable[..., Metrics]) -> None:
    words = Outline(page_of(metrics_of([("W", "W")], Run("", None, {})))).words
    assert (
        "channel not recorded, band-pass not recorded, wake rule not recorded; split not recorded"
        in words
    )
    assert "unnamed model" in words


def test_epochs_that_name_no_subject_are_said(
    metrics_of: Callable[..., Metrics], epoch: Callable[..., AnsweredEpoch]
) -> None:
    epochs = [epoch(0, "W", "W"), epoch(1, "N2", "N2", subject="")]
    words = Outline(page_of(measure(epochs, Run("m", None, {})))).words
    assert "pooled over 2 epochs of 1 subject (1 of them name no subject)" in words


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (Run("m", "real", {"simulated": True}), "These are simulated recordings"),
        (Run("m", "real", {"simulated": [True, None]}), "Some of these are simulated recordings"),
        (Run("m", "shuffled", {}), "Sanity run: the high-level features are shuffled."),
    ],
)
def test_notices(metrics_of: Callable[..., Metrics], run: Run, sentence: str) -> None:
    assert sentence in Outline(page_of(metrics_of([("W", "W"), ("N2", "N2")], run))).words


def test_one_answer_throughout_is_a_loud_warning(metrics_of: Callable[..., Metrics]) -> None:
    page = page_of(metrics_of([("W", "N2"), ("N2", "N2")]))
    assert 'class="notice warning"' in page
    assert "100 % of the answers are &#39;N2&#39;" in page


def test_first_twenty_unreadable_answers_are_listed(
    metrics_of: Callable[..., Metrics], epoch: Callable[..., AnsweredEpoch]
) -> None:
    epochs = [epoch(i, "N2", None, text=f"text {i} " + "x" * 1000 * (i == 0)) for i in range(25)]
    epochs[1] = replace(epochs[1], text="")
    words = Outline(page_of(metrics_of([("N2", None)] * 25), epochs)).words
    assert "The first 20 of 25." in words
    assert "text 19" in words
    assert "text 20" not in words
    assert "x" * 500 not in words
    assert "(empty)" in words
    assert "They count as wrong in every figure" in words


def test_absent_hypnograms_say_why(metrics: Metrics, epoch: Callable[..., AnsweredEpoch]) -> None:
    words = Outline(page_of(metrics, [epoch(0, "W", "W", recording="")])).words
    assert "No hypnogram: the answers do not say in their metadata" in words
