from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from eegtool.core.answers import Reading, read_stage
from eegtool.reasons.facts import Facts
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.showing.pictures import Pictures, by_worth, gather
from eegtool.report.showing.review import inert_json, review_data

Build = Callable[..., AnsweredEpoch]


def test_epochs_stand_recording_by_recording_in_time(epoch: Build) -> None:
    epochs = [
        epoch(7, "N2", "N3", recording="B"),
        epoch(3, "W", None, recording="B", text="who knows"),
        epoch(9, None, "REM", recording="A", subject="SC999"),
        replace(epoch(0, "N1", "N1", recording="A"), epoch_index=None),
    ]
    data = json.loads(review_data(epochs, Pictures(), {"e3": "N1"})[0])
    assert data["id"] == ["e9", "e3", "e7", "e0"]
    assert data["index"] == [9, 3, 7, None]
    assert (data["true"], data["answer"], data["alone"]) == ("-021", "4-31", "-1--")
    assert [data["recordings"][k] for k in data["recording"]] == ["A", "B", "B", "A"]
    assert [data["subjects"][k] for k in data["subject"]] == ["SC999", "SC403", "SC403", "SC403"]
    assert data["probabilities"] == []
    assert data["size"] == [0] * 4


def test_what_was_measured_and_the_words_of_the_model_are_there(epoch: Build) -> None:
    measured = Facts(0.62, 0.2, 0.1, 0.05, 0.03, (10.1,), 45, 0.04, 3, 1, 2)
    epochs = [epoch(i, "W", "W") for i in range(2)]
    found = review_data(epochs, Pictures(), {}, {"e1": measured}, {"e0": "</script> Alpha."})[0]
    assert "</script" not in found
    data = json.loads(found)
    assert data["words"] == {"e0": "</script> Alpha."}
    assert data["facts"] == {
        "e1": "Power: delta 62%, theta 20%, alpha 10%, sigma 5%, beta 3%. Rhythm: alpha 10.1 Hz. "
        "Amplitude: 45 µV. Slow waves: 3 (4% of the epoch). K-complexes: 1. Spindles: 2."
    }


def test_other_answers_do_not_find_the_corrections_of_these(epoch: Build) -> None:
    def key(*epochs: AnsweredEpoch) -> str:
        return str(json.loads(review_data(epochs, Pictures(), {})[0])["key"])

    first, second = epoch(0, "W", "W", text="W"), epoch(1, "W", "W", text="W")
    assert key(first, second) == key(second, first)
    assert key(first, second) != key(first, replace(second, text="N2"))


def test_probabilities_are_per_mille(epoch: Build) -> None:
    sure = replace(epoch(0, "W", "W"), probabilities=(0.75, 0.125, 0.0625, 0.0625, 0.0))
    data = json.loads(review_data([sure, epoch(1, "W", "W")], Pictures(), {})[0])
    assert data["probabilities"] == [[750, 125, 62, 62, 0], 0]


@pytest.mark.parametrize("text", ["The stage is N2.", "😴 sleepy: N2", "睡眠 𝒩 \u2028: N2"])
def test_spans_count_as_javascript_does(epoch: Build, text: str) -> None:
    reading = read_stage(text)
    assert reading.span
    asleep = replace(epoch(0, "N2", "N2", text=text), reading=reading)
    ((told, begin, end),) = json.loads(review_data([asleep], Pictures(), {})[0])["texts"]
    assert told == text
    units = text.encode("utf-16-le")
    assert units[2 * begin : 2 * end].decode("utf-16-le") == "N2"


def test_equal_texts_read_differently_are_kept_apart(epoch: Build) -> None:
    one = replace(epoch(0, "N2", "N2", text="N2"), reading=Reading("N2", (0, 2)))
    other = replace(epoch(1, "N2", None, text="N2"), reading=Reading(None, None))
    data = json.loads(review_data([one, other, one], Pictures(), {})[0])
    assert data["texts"] == [["N2", 0, 2], ["N2"]]
    assert data["text"] == [0, 0, 1]


def test_json_cannot_break_out_of_its_element() -> None:
    evil = "</script><script>alert(1)</script><!-- & \u2028\u2029"
    made = inert_json({evil: evil})
    assert not set("<>&\u2028\u2029") & set(made)
    assert json.loads(made) == {evil: evil}


# Pictures


def made(folder: Path, *names: str) -> dict[str, str]:
    for i, name in enumerate(names):
        path = folder / f"S 1/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(path)
    return {name: f"S 1/{name}.png" for name in names}


def test_pictures_are_embedded_byte_for_byte(tmp_path: Path, epoch: Build) -> None:
    images = made(tmp_path / "images", "e0", "e1")
    epochs = [epoch(i, "W", "W") for i in range(3)]
    found = gather(tmp_path / "images", images, epochs, tmp_path / "report")
    assert set(found.embedded) == {"e0", "e1"}
    assert not found.linked
    assert not found.notes
    data, base64_text = review_data(epochs, found, {})
    first, second, third = json.loads(data)["size"]
    assert third == 0
    for begin, end, name in ((0, first, "e0"), (first, first + second, "e1")):
        raw = (tmp_path / "images" / images[name]).read_bytes()
        assert base64.b64decode(base64_text[begin:end]) == raw
    assert json.loads(data)["kinds"][0] == "image/png"


def test_what_does_not_fit_is_linked(tmp_path: Path, epoch: Build) -> None:
    images = made(tmp_path / "images", "e0", "e1", "e2")
    epochs = [epoch(0, "W", "W"), epoch(1, "W", None), epoch(2, "W", "N1")]
    size = -(-(tmp_path / "images" / images["e1"]).stat().st_size // 3) * 4
    found = gather(tmp_path / "images", images, epochs, tmp_path / "report", budget=size)
    assert set(found.embedded) == {"e1"}  # the unreadable one comes first
    assert found.linked == {"e0": "../images/S%201/e0.png", "e2": "../images/S%201/e2.png"}
    assert found.notes[0].startswith("1 of 3 pictures are inside this file; 2 are shown")
    data = json.loads(review_data(epochs, found, {})[0])
    assert [data["way"] + link if link else None for link in data["link"]] == [
        "../images/S%201/e0.png",
        None,
        "../images/S%201/e2.png",
    ]


@pytest.mark.parametrize("mode", ["link", "none"])
def test_other_modes(tmp_path: Path, epoch: Build, mode: str) -> None:
    images = made(tmp_path / "images", "e0")
    found = gather(tmp_path / "images", images, [epoch(0, "W", "W")], tmp_path / "report", mode)  # type: ignore[arg-type]
    assert not found.embedded
    assert bool(found.linked) is (mode == "link")


def test_far_pictures_are_not_linked(tmp_path: Path, epoch: Build) -> None:
    images = made(tmp_path / "images", "e0")
    out = tmp_path / "a/b/c/report"
    found = gather(tmp_path / "images", images, [epoch(0, "W", "W")], out, "link")
    assert not found.linked
    assert "too far away" in found.notes[0]


def test_pictures_stay_in_their_folder(tmp_path: Path, epoch: Build) -> None:
    images = made(tmp_path / "images", "e0")
    made(tmp_path, "secret")
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "S 1/secret.png")  # its owner's
    images |= {"e1": "../S 1/secret.png", "e2": str(tmp_path / "S 1/secret.png"), "e3": "link.png"}
    epochs = [epoch(i, "W", "W") for i in range(4)]
    found = gather(tmp_path / "images", images, epochs, tmp_path / "report")
    assert set(found.embedded) == {"e0", "e3"}
    assert not found.linked
    assert "2 pictures left out: their paths leave the image folder." in found.notes


def test_no_pictures_are_no_error(tmp_path: Path, epoch: Build) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/e0.png").write_text("<svg onload=alert(1)>")
    epochs = [epoch(0, "W", "W")]
    for folder, images in ((None, {}), (tmp_path / "gone", {"e0": "e0.png"})):
        assert "no picture" in gather(folder, images, epochs, tmp_path).notes[0]
    odd = gather(tmp_path / "images", {"e0": "e0.png"}, epochs, tmp_path / "report")
    assert not odd.embedded


def test_order_of_worth(epoch: Build) -> None:
    def sure(i: int, true: str, said: str | None, p: float) -> AnsweredEpoch:
        rest = (1 - p) / 4
        return replace(epoch(i, true, said), probabilities=(p, rest, rest, rest, rest))

    epochs = [sure(i, "W", "W", 0.9) for i in range(40)]
    epochs[30] = sure(30, "W", "N1", 0.5)
    epochs[31] = sure(31, "W", "N1", 0.8)
    epochs[20] = sure(20, "W", "N2", 0.6)
    epochs[5] = sure(5, "W", None, 0.9)
    epochs[10] = sure(10, "W", "W", 0.3)
    order = [e.epoch_index for e in by_worth(epochs)]
    assert sorted(i or 0 for i in order) == list(range(40))
    # Unreadable; each wrong pair in turn, the surest first; the least certain tenth; neighbours.
    assert order[:5] == [5, 31, 20, 30, 10]
    assert {19, 21, 29, 32} <= set(order[:13])
