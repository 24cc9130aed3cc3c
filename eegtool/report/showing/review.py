"""The review: one HTML file with every epoch and a pencil, fed with one compact JSON object."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from eegtool.core.answers import Reading
from eegtool.core.stages import EPOCH_S, STAGE_COLOURS, STAGE_INDEX, STAGES
from eegtool.reasons.facts import BANDS_HZ, Facts
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.reviews import COLUMNS
from eegtool.report.showing.data import ReportData
from eegtool.report.showing.page import HERE, page_template
from eegtool.report.showing.pictures import PictureMode, Pictures, gather

_NONE: Final = "-"
_PER_MILLE: Final = 1000
# Inside an element of the page none of these can end it or begin another one; the last two end a
# line in JavaScript, though not in JSON.
_ESCAPED: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render_review(data: ReportData, out: Path, pictures: PictureMode = "embed") -> str:
    """Return ``review.html``; see `eegtool.report.showing.page.render_page` for the parameters."""
    epochs, known = data.answers.epochs, data.known
    shown = gather(data.image_folder, known.images, epochs, out, pictures)
    island, base64_text = review_data(epochs, shown, known.module_stages, known.facts, data.words)
    script = (HERE / "review.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    recordings = sorted({epoch.recording for epoch in epochs})
    # What is marked as safe below is our own, or has been made inert.
    return page_template("review.html.j2").render(
        title=recordings[0] if len(recordings) == 1 else f"{len(recordings)} recordings",
        colours=STAGE_COLOURS,
        picture_notes=shown.notes,
        linked=bool(shown.linked),
        island=Markup(island),  # noqa: S704
        base64=Markup(base64_text),  # noqa: S704
        script=Markup(script),  # noqa: S704
        # What a Content-Security-Policy calls a script by, so that no other one may run.
        script_hash=f"sha256-{digest}",
    )


def review_data(
    epochs: Sequence[AnsweredEpoch],
    pictures: Pictures,
    alone: Mapping[str, str],
    facts: Mapping[str, Facts] | None = None,
    words: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """Return what the page reads: JSON, and the Base64 of the embedded pictures end to end.

    Parameters
    ----------
    epochs : sequence of AnsweredEpoch
        In any order; the page shows them recording by recording, in time.
    pictures : Pictures
        Their pictures.
    alone : mapping of str to str
        Stage that the vision module alone sees in an epoch, by sample id.

    facts : mapping of str to Facts, optional
        What was measured, by sample id.
    words : mapping of str to str, optional
        What the model wrote beside its answer, by sample id.

    Returns
    -------
    data : str
        A JSON object without any character that could end the element it stands in. Stages are
        digits (index into `STAGES`) or ``-``, probabilities are in per mille, and the spans of
        readings count UTF-16 units, as JavaScript does.
    base64 : str
        Pictures in the order of the epochs; ``data`` holds their lengths.
    """
    ordered = sorted(epochs, key=_place)
    facts, words, linked = facts or {}, words or {}, pictures.linked
    subject, subjects = _numbered(e.subject for e in ordered)
    recording, recordings = _numbered(e.recording for e in ordered)
    question, questions = _numbered(e.question for e in ordered)
    text, texts = _numbered((e.text, e.reading) for e in ordered)
    embedded = [pictures.embedded.get(e.sample_id) for e in ordered]
    kind, kinds = _numbered(picture[0] if picture else "image/png" for picture in embedded)
    way = os.path.commonprefix(list(linked.values()))  # noqa: RUF071  of texts, whatever they say
    links = (linked.get(e.sample_id) for e in ordered)
    certain = any(e.probabilities for e in ordered)
    ids = [e.sample_id for e in ordered]
    data = {
        "key": _key(ordered),
        "columns": COLUMNS,
        "stages": STAGES,
        "epoch_s": EPOCH_S,
        "id": ids,
        "subject": subject,
        "recording": recording,
        "index": [e.epoch_index for e in ordered],
        "onset": [_short(e.onset_s) for e in ordered],
        "question": question,
        "text": text,
        "true": _digits(e.true for e in ordered),
        "answer": _digits(e.predicted for e in ordered),
        "alone": _digits(alone.get(i) for i in ids),
        "probabilities": [_per_mille(e) for e in ordered] if certain else [],
        "size": [len(picture[1]) if picture else 0 for picture in embedded],
        "kind": kind,
        "way": way,
        "link": [0 if link is None else link.removeprefix(way) for link in links],
        "subjects": subjects,
        "recordings": recordings,
        "questions": questions,
        "kinds": kinds,
        "facts": {i: _measured(facts[i]) for i in ids if i in facts},
        "words": {i: words[i] for i in ids if words.get(i)},
        "texts": [[text, *_span(text, reading)] for text, reading in texts],
    }
    return inert_json(data), "".join(picture[1] for picture in embedded if picture)


def inert_json(value: Any) -> str:
    """Return `value` as JSON that is safe inside a ``<script>`` element, whatever its texts say."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED)


def _numbered(names: Iterable[Any]) -> tuple[list[int], list[Any]]:
    """Keep each of the texts that repeat once: return the number of each, and the texts."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names], list(numbers)


def _place(epoch: AnsweredEpoch) -> tuple[bool, str, int]:
    """Order by recording, then time; what does not know its place comes last, as the file has it."""
    adrift = epoch.epoch_index is None or not epoch.recording
    return (True, "", 0) if adrift else (False, epoch.recording, epoch.epoch_index or 0)


def _digits(stages: Iterable[str | None]) -> str:
    return "".join(_NONE if stage is None else str(STAGE_INDEX[stage]) for stage in stages)


def _short(onset_s: float | None) -> float | None:
    return None if onset_s is None else int(onset_s) if onset_s.is_integer() else round(onset_s, 3)


def _per_mille(epoch: AnsweredEpoch) -> list[int] | int:
    return [round(p * _PER_MILLE) for p in epoch.probabilities] if epoch.probabilities else 0


def _span(text: str, reading: Reading) -> tuple[int, ...]:
    """Return where the words that name the stage begin and end, in UTF-16 units."""
    if reading.span is None:
        return ()
    return tuple(len(text[:end].encode("utf-16-le")) // 2 for end in reading.span)


def _key(epochs: Sequence[AnsweredEpoch]) -> str:
    """Return what these answers are kept by in a browser: others must not find their corrections."""
    digest = hashlib.sha256()
    for epoch in epochs:
        digest.update(f"{epoch.sample_id}\0{epoch.text}\0".encode(errors="replace"))
    return digest.hexdigest()[:16]


def _measured(facts: Facts) -> str:
    shares = ((name, getattr(facts, name)) for name in BANDS_HZ)
    rhythms = ", ".join(f"{band} {hz:g} Hz" for band, hz in facts.rhythms.items()) or "none"
    return (
        f"Power: {', '.join(f'{name} {share:.0%}' for name, share in shares)}. Rhythm: {rhythms}. "
        f"Amplitude: {facts.amplitude_uv} µV. Slow waves: {facts.n_slow_waves} "
        f"({facts.slow_wave_share:.0%} of the epoch). K-complexes: {facts.n_k_complexes}. "
        f"Spindles: {facts.n_spindles}."
    )
