"""The page in a real browser: headless Chromium opens it as a file, clicks, types and looks."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from sklearn.metrics import cohen_kappa_score

from eegtool.core.answers import read_stage
from eegtool.core.console import console
from eegtool.core.records import Answer, read_epochs
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace
from eegtool.prepare import step as prepare
from eegtool.prepare.options import PrepareSettings
from eegtool.report import step as report
from eegtool.report.measures.intervals import Sampling
from eegtool.report.measures.metrics import measure
from eegtool.report.options import ReportSettings
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.joins import Known
from eegtool.report.reading.protocol import Run
from eegtool.report.showing.pictures import PictureMode
from eegtool.report.showing.review import render_review
from eegtool.simulate.twins import load_twin, write_night
from tests.report.conftest import data_of

EVIL = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>&lt;\u2028"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    not (DRIVER and CHROMIUM), reason="needs a browser: apt install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chrome')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(DRIVER))  # its path is given: nothing is looked for or fetched
    yield driver
    driver.quit()


def probable(stage: int, sure: float) -> tuple[float, ...]:
    return tuple(sure if k == stage else (1 - sure) / 4 for k in range(len(STAGES)))


def answered(i: int, recording: str, index: int) -> AnsweredEpoch:
    """Return an epoch that is answered rightly two times out of three."""
    true = (i // 5) % 5
    said = true if i % 3 else (true + 1 + i % 4) % 5
    text = f"Reasons {i}: not N1, so it goes. The stage is {STAGES[said]}."
    return AnsweredEpoch(
        sample_id=f"{recording}-{index:04d}",
        recording=recording,
        subject=recording[:5],
        epoch_index=index,
        true=STAGES[true],
        text=text,
        reading=read_stage(text),
        onset_s=30.0 * index,
        question="Which stage?",
        probabilities=probable(said, 0.4 + (i * 7 % 60) / 100),
    )


def evil(index: int) -> AnsweredEpoch:
    return AnsweredEpoch(
        sample_id=f"{EVIL}{index}",
        recording=EVIL,
        subject=EVIL,
        epoch_index=index,
        true="W",
        text=EVIL,
        reading=read_stage(EVIL),
        question=EVIL,
        probabilities=probable(0, 0.5),
    )


def cohort() -> list[AnsweredEpoch]:
    """Return two nights of a subject, one with a gap, one night of another, and a hostile recording."""
    nights = {
        "SC401E1": range(10, 60),
        "SC401E2": [*range(20), *range(25, 40)],
        "SC402E1": range(30),
    }
    epochs = [answered(i, night, i) for night, indices in nights.items() for i in indices]
    return [*epochs, evil(0), evil(1)]


def write_page(
    folder: Path, epochs: Sequence[AnsweredEpoch], pictures: PictureMode = "embed", **other: Any
) -> Path:
    run = Run(EVIL, EVIL, {"channel": EVIL})
    metrics = measure(epochs[:200], run, Sampling(draws=0))
    data = data_of(metrics, epochs, run, **{"drawings": ()} | other)
    path = folder / "report" / "review.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_review(data, path.parent, pictures), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def epochs() -> list[AnsweredEpoch]:
    return cohort()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, epochs: list[AnsweredEpoch]) -> Path:
    folder = tmp_path_factory.mktemp("page")
    images = {}
    for i, epoch in enumerate(epochs[:60]):
        images[epoch.sample_id] = f"{i}.png"
        (folder / "images").mkdir(exist_ok=True)
        Image.new("RGB", (20 + i, 10), (i, 0, 0)).save(folder / "images" / f"{i}.png")
    # This one is no picture at all, so it is not embedded, and its link leads to nothing to be shown.
    (folder / "images" / "3.png").write_text("<svg onload='window.ran = 1'>")
    return write_page(folder, epochs, image_folder=folder / "images", known=Known(images=images))


class Reader:
    """Someone who reads the page."""

    def __init__(self, chrome: Chrome, page: Path) -> None:
        self.chrome = chrome
        self.url = page.as_uri()

    def open(self, fragment: str = "") -> None:
        self.chrome.get("about:blank")
        self.chrome.get(f"{self.url}{fragment}")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.chrome.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def chip(self, facet: str, value: str) -> None:
        self.click(f'[data-facet="{facet}"] [data-value="{value}"]')

    def set(self, name: str, value: str) -> None:
        self.run(
            "const f = document.querySelector(`#epochs [name=${arguments[0]}]`); f.value = arguments[1];"
            "f.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
            value,
        )

    def set_night(self, name: str) -> None:
        self.run(
            "const s = document.querySelector('[name=night]');"
            "s.value = [...s.options].find(o => o.textContent === arguments[0]).value;"
            "s.dispatchEvent(new Event('input', {bubbles: true}))",
            name,
        )

    def press(self, *keys: str) -> None:
        self.chrome.switch_to.active_element.send_keys(*keys)

    @property
    def count(self) -> int:
        return int(self.text(".count").split()[0].replace(",", ""))

    @property
    def chosen(self) -> str:
        return self.text(".origin").rpartition(" · ")[2]

    def until(self, condition: str) -> None:
        WebDriverWait(self.chrome, 5, 0.05).until(lambda _: self.run(f"return {condition}"))


@pytest.fixture
def reader(chrome: Chrome, page: Path) -> Reader:
    reader = Reader(chrome, page)
    chrome.get_log("browser"), chrome.get_log("performance")  # what was before
    reader.open()
    return reader


def test_it_asks_the_network_for_nothing_and_makes_no_error(reader: Reader) -> None:
    assert reader.run("return document.querySelector('#epochs').dataset.ready") == "true"
    for _ in range(8):
        reader.press("n")
    reader.until("document.querySelector('.picture').dataset.shown")
    messages = [
        json.loads(entry["message"])["message"] for entry in reader.chrome.get_log("performance")
    ]
    asked = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert reader.url in asked
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert reader.chrome.get_log("browser") == []


def test_filters_find_what_python_finds(reader: Reader, epochs: list[AnsweredEpoch]) -> None:
    def found(fits: Callable[[AnsweredEpoch], object]) -> int:
        return sum(bool(fits(epoch)) for epoch in epochs)

    assert reader.count == len(epochs)
    reader.chip("true", "N2")
    assert reader.count == found(lambda e: e.true == "N2")
    reader.chip("true", "REM")
    assert reader.count == found(lambda e: e.true in ("N2", "REM"))
    reader.chip("answer", "N3")
    assert reader.count == found(lambda e: e.true in ("N2", "REM") and e.predicted == "N3") > 0
    assert reader.text('[data-facet="answer"] [data-value="W"] small') == str(
        found(lambda e: e.true in ("N2", "REM") and e.predicted == "W")
    )
    reader.click(".all")
    assert reader.count == len(epochs)
    for verdict, fits in {
        "right": lambda e: e.right,
        "wrong": lambda e: not e.right and e.predicted,
        "unreadable": lambda e: e.predicted is None,
    }.items():
        reader.chip("verdict", verdict)
        assert reader.count == found(fits) > 0
        reader.chip("verdict", verdict)
    reader.set("low", "50")
    reader.set("high", "70")
    assert reader.count == found(lambda e: 0.4999 <= (e.certainty or 0) <= 0.7001) > 0
    reader.click(".all")
    reader.set("find", "REASONS 1")
    assert reader.count == found(lambda e: "reasons 1" in e.text.lower()) > 0
    reader.set("find", "")
    options = reader.run(
        "return [...document.querySelector('#epochs [name=subject]').options].map(o => [o.value, o.textContent])"
    )
    names = {text.strip(): value for value, text in options}
    for name, fits in {
        "SC401": lambda e: e.subject == "SC401",
        "SC401E2": lambda e: e.recording == "SC401E2",
        "SC402 · SC402E1": lambda e: e.subject == "SC402",
    }.items():
        reader.set("subject", names[name])
        assert reader.count == found(fits) > 0


def test_order_by_certainty(reader: Reader, epochs: list[AnsweredEpoch]) -> None:
    certainty = {e.sample_id: e.certainty or 0 for e in epochs}
    falling = sorted(certainty.values(), reverse=True)
    reader.set("order", "sure")
    assert certainty[reader.chosen] == falling[0]
    reader.press("j")
    assert certainty[reader.chosen] == falling[1]
    reader.set("order", "unsure")
    assert certainty[reader.chosen] == falling[-1]


def test_the_keyboard(reader: Reader, epochs: list[AnsweredEpoch]) -> None:
    ids = [e.sample_id for e in sorted(epochs[:-2], key=lambda e: (e.recording, e.epoch_index))]
    wrong = [e.sample_id for e in epochs[:-2] if not e.right]
    reader.set("find", "Reasons")  # leaves the hostile recording out
    reader.open("#find=Reasons&epoch=" + ids[20])
    assert reader.chosen == ids[20]
    steps = [
        (Keys.ARROW_RIGHT, 21),
        ("j", 22),
        ("k", 21),
        (Keys.ARROW_LEFT, 20),
        ("]", 21),
        ("[", 20),
    ]
    for key, place in steps:
        reader.press(key)
        assert reader.chosen == ids[place]
    reader.click("[data-step='1']")
    assert reader.chosen == ids[21]
    reader.click("[data-step='-1']")
    assert reader.chosen == ids[20]
    reader.press("n")
    later = min(ids.index(w) for w in wrong if ids.index(w) > 20)
    assert reader.chosen == ids[later]
    reader.press("p")
    assert reader.chosen == ids[max(ids.index(w) for w in wrong if ids.index(w) < later)]
    reader.press("/")
    assert reader.run("return document.activeElement.name") == "find"
    reader.press("j")  # is typed, not obeyed
    assert reader.run("return document.activeElement.value").endswith("j")
    reader.press(Keys.ESCAPE)
    reader.press("x")
    assert reader.count == len(epochs)
    reader.press("?")
    assert reader.run("return document.querySelector('dialog').open")
    reader.press(Keys.ESCAPE)
    assert not reader.run("return document.querySelector('dialog').open")
    reader.run("document.querySelector('.list').focus()")
    reader.press(Keys.END)
    last = reader.run("return document.activeElement.getAttribute('aria-activedescendant')")
    assert last == f"row-{len(epochs) - 1}"
    assert reader.run("return document.getElementById(arguments[0]).ariaSelected", last) == "true"
    reader.press(Keys.HOME)
    reader.press(Keys.ARROW_DOWN)
    assert reader.run("return document.querySelector('.row[aria-selected=true]').id") == "row-1"


def test_texts_are_shown_as_text_and_run_nothing(reader: Reader) -> None:
    reader.set("find", "window.ran")
    assert reader.count == 2
    reader.press("j")
    for selector in (".said", ".asked", ".origin", ".row .where", "[name=night]"):
        assert EVIL in reader.text(selector)
    assert EVIL in reader.text("#epochs [name=subject]")
    assert reader.run("return window.ran") is None
    assert reader.run("return [...document.images].map(i => i.getAttribute('src'))") == [None]
    assert reader.run("return document.scripts.length") == 3


def test_the_picture_is_shown(reader: Reader, epochs: list[AnsweredEpoch]) -> None:
    reader.open("#epoch=" + epochs[25].sample_id)
    reader.until("document.querySelector('.picture').dataset.shown")
    assert reader.run(
        "const i = document.images[0]; return [i.naturalWidth, i.hidden, i.src.slice(0, 15)]"
    ) == [
        20 + 25,
        False,
        "data:image/png;",
    ]
    reader.open("#epoch=" + epochs[3].sample_id)
    reader.until("document.images[0].hidden")
    assert "not in this file; it belongs at ../images/3.png" in reader.text(".picture figcaption")
    reader.open("#epoch=" + epochs[70].sample_id)
    assert reader.text(".picture figcaption") == "No picture of this epoch."


def test_linked_pictures_are_shown_from_their_folder(
    chrome: Chrome, page: Path, epochs: list[AnsweredEpoch]
) -> None:
    folder = page.parent.parent / "images"
    images = {epochs[9].sample_id: "9.png"}
    path = folder.parent / "linked"
    reader = Reader(
        chrome,
        write_page(path, epochs[:20], "link", image_folder=folder, known=Known(images=images)),
    )
    reader.open("#epoch=" + epochs[9].sample_id)
    reader.until("document.querySelector('.picture').dataset.shown === 'linked'")
    assert reader.run("return document.images[0].naturalWidth") == 29
    assert "not in this file" in reader.text(".picture figcaption")


def test_an_epoch_tells_all(reader: Reader, epochs: list[AnsweredEpoch]) -> None:
    epoch = epochs[35]  # wrong
    assert epoch.reading.span
    reader.open("#epoch=" + epoch.sample_id)
    assert reader.text(".detail h3") == "Epoch 45 0:22:30"
    assert reader.text(".said") == epoch.text
    assert reader.text(".said mark") == epoch.predicted
    before = reader.run("return document.querySelector('.said').firstChild.textContent.length")
    assert before == epoch.reading.span[0]
    assert reader.text(".asked") == "Which stage?"
    assert reader.text(".verdict b") == "wrong"
    shares = reader.run(
        "return [...document.querySelectorAll('.bars tr')].map(r => r.cells[2].textContent)"
    )
    assert shares == [f"{100 * p:.1f} %" for p in epoch.probabilities or ()]
    cells = reader.run("return [...document.querySelectorAll('.cell')].map(c => c.title)")
    assert len(cells) == 25
    assert cells[12].startswith(
        f"Epoch 45: scored {epoch.true}, answered {epoch.predicted} (wrong)"
    )
    reader.click(".cell:nth-of-type(12)")
    assert reader.chosen == "SC401E1-0044"
    reader.open("#epoch=SC401E2-0019")
    gaps = reader.run("return [...document.querySelectorAll('.cell.gap')].map(c => c.title)")
    assert gaps == [f"epoch {i} is not in the answers" for i in range(20, 25)]


def test_the_address_keeps_filters_and_epoch(reader: Reader, epochs: list[AnsweredEpoch]) -> None:
    pair = [e for e in epochs if (e.true, e.predicted) == ("N2", "N3")]
    reader.open("#true=N2&answer=N3")
    reader.until("location.hash.includes('epoch')")
    assert reader.count == len(pair) > 0
    reader.chip("true", "N1")
    reader.press("j")
    chosen, count = reader.chosen, reader.count
    assert count > len(pair)
    reader.until("location.hash.includes('N1')")
    reader.until(f"location.hash.includes('epoch={chosen}')")  # written a moment after the key
    reader.run("window.before = true; location.reload()")
    reader.until("!window.before && document.querySelector('#epochs')?.dataset.ready")
    assert (reader.chosen, reader.count) == (chosen, count)
    reader.run("location.hash = '#subject=nobody&epoch=none&low=x&true=N9&order=up'")
    reader.until(f"document.querySelector('.count').textContent === '{len(epochs)} epochs'")


def test_a_click_on_a_hypnogram_leads_to_the_epoch(reader: Reader) -> None:
    reader.open("#epoch=SC401E1-0010")  # the first epoch is number 10 of 10 to 59
    reader.run(
        "const c = document.querySelector('.chart'), b = c.getBoundingClientRect();"
        "c.dispatchEvent(new MouseEvent('click', {bubbles: true, clientX: b.left + b.width * 30.5 / 50}))"
    )
    assert reader.chosen == "SC401E1-0040"
    assert reader.run("return document.querySelector('.chart .cursor').style.left") == "61%"
    widths = "return [...document.querySelectorAll('.chart .stages path')].length"
    assert reader.run(widths) == 7  # what was answered, five stages, what was decided
    reader.set_night("SC402E1")
    assert (reader.chosen, reader.count) == ("SC402E1-0000", 30)
    reader.set_night("SC401E2")
    assert (reader.chosen, reader.count) == ("SC401E2-0000", 35)
    reader.open("#recording=SC401E2")  # by which a hypnogram of report.html leads here
    assert reader.chosen == "SC401E2-0000"
    assert reader.text(".progress") == "0 of 35 epochs reviewed, 0 corrected"


def test_what_names_no_epoch_cannot_be_saved(chrome: Chrome, tmp_path: Path) -> None:
    nameless = [replace(answered(i, "", i), epoch_index=None) for i in range(3)]
    reader = Reader(chrome, write_page(tmp_path, nameless))
    reader.open()
    reader.press("w", "s")
    assert "does not say which epoch of which recording" in reader.text(".warning")
    reader.run("document.querySelector('dialog').showModal()")
    reader.press("2")  # the list of keys is open: nothing is decided
    assert reader.text(".progress").startswith("1 of")


def test_it_fits_a_phone_and_a_print(reader: Reader, epochs: list[AnsweredEpoch]) -> None:
    def size(width: int) -> None:
        reader.chrome.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True},
        )

    try:
        size(390)
        reader.open("#epoch=" + epochs[20].sample_id)
        assert reader.run("return document.documentElement.scrollWidth") == 390
        boxes = "return ['.list', '.detail'].map(s => document.querySelector(s).getBoundingClientRect())"
        above, below = reader.run(boxes)
        assert above["bottom"] <= below["top"]
        reader.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        shown = "return ['.filters', '.list', '.detail'].map(s => document.querySelector(s).offsetHeight > 0)"
        assert reader.run(shown) == [False, False, True]
    finally:
        reader.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        reader.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_scripts_it_says_where_the_figures_are(reader: Reader) -> None:
    try:
        reader.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        reader.open()
        body = reader.chrome.find_element(By.TAG_NAME, "body").text
    finally:
        reader.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "The review needs JavaScript. All figures and tables stand in report.html" in body
    assert "Verdict" not in body


def test_twenty_thousand_epochs_need_no_more_elements(chrome: Chrome, tmp_path: Path) -> None:
    epochs = [answered(i, f"SC{i // 1000:03d}E1", i % 1000) for i in range(20_000)]
    path = write_page(tmp_path, epochs)
    reader = Reader(chrome, path)
    reader.open()
    elements = "return document.querySelectorAll('#epochs *').length"
    assert reader.count == 20_000
    assert reader.run(elements) < 800
    reader.run("document.querySelector('.list').focus()")
    reader.press(Keys.END)
    assert reader.chosen == "SC019E1-0999"
    reader.until("document.querySelector('.row[aria-posinset=\"20000\"]')")
    assert reader.run(elements) < 800
    reader.chip("verdict", "wrong")
    assert reader.count == sum(not e.right for e in epochs)


# The pencil ------------------------------------------------------------------------------------

KEY_OF = {"W": "w", "N1": "1", "N2": "2", "N3": "3", "REM": "r"}


@pytest.fixture
def night(tmp_path: Path) -> Workspace:
    """Return a workspace of answers to a night that nobody has scored, and the recording beside it."""
    for number, (twin, epochs) in enumerate((("SC4001E0", 6), ("SC4012E0", 1)), start=1):
        psg, hypnogram = write_night(load_twin(twin).condensed(epochs), tmp_path, seed=1)
        psg.rename(tmp_path / f"night{number}.edf")
        hypnogram.rename(tmp_path / f"night{number}_hypnogram.edf")
    (tmp_path / "night1_hypnogram.edf").unlink()
    workspace = Workspace(tmp_path / "ws")
    rows = [
        Answer(
            question_id=f"night1-{i:04d}",
            prompt="Which stage?",
            text=f"The stage is {STAGES[i // 6]}." if i != 7 else EVIL,
            label="",
            answer_id=f"a{i}",
            model_id="tiny",
            metadata={
                "recording": "night1",
                "subject": "=1+1",
                "epoch_index": i,
                "onset_s": 30.0 * i,
                "stage_probabilities": dict(
                    zip(STAGES, probable(i // 6, 0.35 + i * 7 % 30 / 50), strict=True)
                ),
            },
        )
        for i in range(30)
    ]
    workspace.answers.parent.mkdir(parents=True)
    workspace.answers.write_text("".join(json.dumps(row.to_row()) + "\n" for row in rows))
    return workspace


def test_twenty_corrections_a_reload_two_undone_saved_prepared_and_compared(
    chrome: Chrome, night: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "quiet", True)
    report.run(ReportSettings(night.root, draws=50, hypnograms=0))
    reader = Reader(chrome, night.report / "review.html")
    chrome.get_log("browser"), chrome.get_log("performance")
    saving = {"behavior": "allow", "downloadPath": str(tmp_path)}
    chrome.execute_cdp_cmd("Browser.setDownloadBehavior", saving)
    reader.open()
    reader.run("localStorage.clear()")
    reader.open()
    sure = [0.35 + i * 7 % 30 / 50 for i in range(30)]
    order = sorted(range(30), key=lambda i: (round(sure[i], 3), i))
    said = {i: STAGES[i // 6] if i != 7 else None for i in range(30)}
    human = {
        i: STAGES[(i // 6 + i % 2) % 5] for i in range(30)
    }  # every second one is another stage
    for i in order[:20]:
        assert reader.chosen == f"night1-{i:04d}"
        reader.press(KEY_OF[human[i]])
    reader.press("c", "=1+1 <b>", Keys.ENTER)
    noted = order[20]
    changed = [i for i in order[:20] if human[i] != said[i]]
    done = f"20 of 30 epochs reviewed, {len(changed)} corrected"
    assert reader.text(".progress") == done
    reader.run("window.before = true; location.reload()")
    reader.until("!window.before && document.querySelector('#epochs')?.dataset.ready")
    assert reader.text(".progress") == done
    reader.press("u")  # the note; then two stages
    reader.press("u", "u")
    assert reader.chosen == f"night1-{order[18]:04d}"
    reader.run("document.querySelector('.list').focus()")
    reader.open(f"#epoch=night1-{noted:04d}")
    reader.press("c", "=1+1 <b>", Keys.ENTER)
    assert reader.text(".progress").startswith("18 of 30 epochs reviewed")
    reader.press("s")
    assert reader.text(".warning") == "Who reviews? Type a name, then save."
    reader.press("Anna, <i>B</i>", Keys.ENTER, "s")
    saved = tmp_path / "night1_reviewed.csv"
    WebDriverWait(chrome, 5, 0.05).until(lambda _: saved.exists() and saved.stat().st_size)

    decided = order[:18]
    rows = list(csv.DictReader(io.StringIO(saved.read_text(encoding="utf-8"))))
    assert [int(row["epoch_index"]) for row in rows] == list(range(30))
    for i, row in enumerate(rows):
        assert row["model"] == (said[i] or "?")
        assert row["stage"] == (human[i] if i in decided else said[i] or "?")
        assert row["reviewed_by"] == ("Anna, <i>B</i>" if i in decided else "")
        assert bool(row["reviewed_at"]) == (i in decided)
        assert float(row["certainty"]) == pytest.approx(sure[i], abs=6e-4)
        assert row["note"] == ("'=1+1 <b>" if i == noted else "")
    assert reader.run("return [window.ran, document.querySelectorAll('b b, i b').length]") == [
        None,
        0,
    ]
    messages = [json.loads(e["message"])["message"] for e in chrome.get_log("performance")]
    sent = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
    urls = {m["params"]["request"]["url"].partition(":")[0] for m in sent}
    assert urls <= {"file", "data", "blob", "chrome"}  # the browser's own
    assert chrome.get_log("browser") == []

    recordings = [tmp_path / "night1.edf", tmp_path / "night2.edf"]
    workspace = tmp_path / "ws2"
    prepare.run(PrepareSettings(recordings, workspace=workspace, size=32, eval_subjects="night2"))
    epochs = [e for e in read_epochs(workspace / "epochs.csv") if e.recording == "night1"]
    final = {i: human[i] if i in decided else said[i] for i in range(30)}
    assert {e.epoch_index: e.stage for e in epochs} == {i: s for i, s in final.items() if s}

    report.run(ReportSettings(night.root, draws=50, hypnograms=0, scored_by=[saved]))
    metrics = json.loads((night.report / "metrics.json").read_text())
    (review,) = metrics["reviews"]
    assert (review["n"], review["reviewed"]) == (30, 18)
    assert review["corrected"] == len([i for i in decided if human[i] != said[i]])
    assert 0 < review["minutes"] < 2
    both = [i for i in range(30) if said[i] and final[i]]
    kappa = cohen_kappa_score([said[i] for i in both], [final[i] for i in both])
    assert review["unchanged"] == pytest.approx(kappa, abs=1e-9)
    assert "Anna, &lt;i&gt;B&lt;/i&gt;" in (night.report / "report.html").read_text()
