from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from eegtool.core.errors import EegToolError
from eegtool.core.records import Question, read_questions
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace
from eegtool.extract.features import load_features
from eegtool.inference import loaded, writing
from eegtool.inference.loaded import LoadedModel, merge_note
from eegtool.inference.scoring import behind_reasons, encode_choice, stage_log_likelihoods
from eegtool.inference.writing import Decoding, Reply, chooser, decode, write
from eegtool.model.adapters import Contract, inner, load_adapter
from eegtool.model.answer_form import AnswerForm
from eegtool.model.eegvlm import FUSIONS, patches
from eegtool.model.processor import Pixels, PixelSpec, pad

NEW_TOKENS = 5
GREEDY = Decoding(NEW_TOKENS)
LABELS = AnswerForm(max_new_tokens=NEW_TOKENS)


Asked = tuple[Any, Any]
"""Model and processor."""


class Batch(NamedTuple):
    """Questions, pictures and features that are asked about together."""

    questions: list[Question]
    pixels: torch.Tensor
    features: torch.Tensor

    def part(self, rows: slice) -> Batch:
        return Batch(self.questions[rows], self.pixels[rows], self.features[rows])

    @property
    def in_memory(self) -> tuple[list[Question], list[Pixels], np.ndarray]:
        """As `LoadedModel.reply` takes it: each picture by itself."""
        pixels: list[Pixels] = [{"pixel_values": picture[None]} for picture in self.pixels]
        return self.questions, pixels, self.features.numpy()


@pytest.fixture(scope="module")
def asked(adapter_model: Path) -> Asked:
    """Model and processor."""
    peft_model, processor, _ = load_adapter(adapter_model, base=None, dtype=torch.float32)
    return inner(peft_model), processor


@pytest.fixture(scope="module")
def batch(asked: Asked, workspace_model: Workspace) -> Batch:
    """Eight questions of very different length, with their pictures and features."""
    rows = read_questions(workspace_model.questions)
    features = load_features(workspace_model.features("eval"), [q.sample_id for q in rows])
    spec, folder = asked[1].pixel_spec, workspace_model.images("eval")
    some = [replace(q, text=q.text + " In short?" * (i * 5 % 4)) for i, q in enumerate(rows[:8])]
    return Batch(
        some,
        torch.from_numpy(np.stack([spec.pixels(folder / q.images[0]) for q in some])),
        torch.from_numpy(np.stack([features[q.sample_id] for q in some])),
    )


def replies(
    model: Any, processor: Any, questions: Any, pixels: Any, features: Any, decoding: Decoding
) -> list[Reply]:
    """What the model writes, in the order of the questions."""
    pictures: list[Pixels] = [{"pixel_values": picture[None]} for picture in pixels]
    written = write(model, processor, questions, pictures, features, decoding)
    parts = [(row, reply) for part in written for row, reply in zip(*part[:2], strict=True)]
    return [reply for _, reply in sorted(parts, key=lambda part: part[0])]


def words(*asked: Any) -> list[str]:
    return [reply.text for reply in replies(*asked)]


def tokens(*asked: Any) -> torch.Tensor:
    """New tokens of each row, whenever it has left the batch."""
    rows, answers, _ = zip(*decode(*asked), strict=True)
    return torch.cat(answers)[torch.cat(rows).argsort()]


def reasoned(texts: Sequence[str], max_new_tokens: int) -> AnswerForm:
    """Return the form of answers that conclude with one of these texts."""
    stages = dict(zip(STAGES, texts, strict=True))
    return AnswerForm(
        stages=stages, lead="The stage is", max_new_tokens=max_new_tokens, place="end"
    )


def written(
    asked: Asked,
    batch: Batch,
    decoding: Decoding,
    size: int,
) -> list[str]:
    """Ask in batches of `size`."""
    texts: list[str] = []
    for start in range(0, len(batch.questions), size):
        texts += words(*asked, *batch.part(slice(start, start + size)), decoding)
    return texts


@pytest.fixture(scope="module")
def alone(asked: Asked, batch: Batch) -> list[str]:
    """Return the answer to each question by itself."""
    return written(asked, batch, GREEDY, 1)


@pytest.mark.parametrize("size", [3, 8])
def test_a_batch_answers_as_each_question_alone(
    asked: Asked,
    batch: Batch,
    alone: list[str],
    size: int,
) -> None:
    assert len(set(alone)) >= 6  # else nothing is compared
    assert len({len(asked[1].encode_prompt(q.text, 2)) for q in batch.questions}) == 4
    assert written(asked, batch, GREEDY, size) == alone


def test_answers_are_greedy(
    asked: Asked,
    batch: Batch,
    alone: list[str],
) -> None:
    """Token by token, the likeliest of one forward pass over everything so far."""
    model, processor = asked
    for i, (question, text) in enumerate(zip(batch.questions[:3], alone, strict=False)):
        ids = list(processor.encode_prompt(question.text, 2))
        new: list[int] = []
        while len(new) < NEW_TOKENS and new[-1:] != [processor.tokenizer.eos_token_id]:
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([ids + new]),
                    pixel_values=batch.pixels[i : i + 1],
                    high_level_features=batch.features[i : i + 1],
                ).logits
            new.append(int(logits[0, -1].argmax()))
        assert processor.tokenizer.decode(new, skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("part", [0, 1], ids=["picture", "feature"])
def test_picture_and_feature_of_the_epoch_are_used(
    asked: Asked,
    batch: Batch,
    alone: list[str],
    part: int,
) -> None:
    moved = [t.roll(1, 0) if i == part else t for i, t in enumerate(batch[1:])]
    assert words(*asked, batch.questions, *moved, GREEDY) != alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_say_nearly_the_same(
    adapter_model: Path,
    batch: Batch,
    alone: list[str],
    dtype: torch.dtype,
) -> None:
    """On a GPU the model runs in 16 bits."""
    loaded, processor, _ = load_adapter(adapter_model, base=None, dtype=dtype)
    model = inner(loaded)
    assert model.dtype == dtype
    texts = words(model, processor, *batch, Decoding(1))
    same = sum(whole.startswith(text) for text, whole in zip(texts, alone, strict=True))
    assert same >= 3  # drawn weights have near ties; by chance none would be the same


def test_the_length_is_limited(
    asked: Asked,
    batch: Batch,
    alone: list[str],
) -> None:
    first = words(*asked, *batch, Decoding(1))
    assert all(whole.startswith(part) for part, whole in zip(first, alone, strict=True))
    assert max(map(len, alone)) > max(map(len, first))
    cut = [reply.truncated for reply in replies(*asked, *batch, Decoding(1))]
    assert cut == [bool(text) for text in first]  # an empty one came to its end at once


def test_what_has_ended_leaves_the_batch_and_changes_nothing(
    asked: Asked,
    batch: Batch,
) -> None:
    """Rows come to their end two by two; the batch is made smaller when half of it has ended."""
    model, processor = asked
    questions, pixels, features = batch
    end = processor.tokenizer.eos_token_id
    prompts = [processor.encode_prompt(q.text, 2) for q in questions]
    ids, mask = pad(prompts, 0, "left"), pad([[1] * len(p) for p in prompts], 0, "left")
    embeds = model.embed(ids, pixels, 4 * features)  # far apart, so that all texts differ
    sizes: list[int] = []

    def endless(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(1, torch.tensor([end]), -torch.inf).argmax(-1)

    def in_pairs(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return endless(logits, rows).masked_fill(rows // 2 < len(sizes), end)

    whole = tokens(model, embeds, mask, endless, NEW_TOKENS, end)
    assert (whole != end).all()
    assert len(set(map(tuple, whole.tolist()))) == len(questions)
    found = tokens(model, embeds, mask, in_pairs, NEW_TOKENS, end)
    assert sizes == [8, 8, 4, 2]
    steps = torch.arange(NEW_TOKENS)
    expected = whole.masked_fill(steps >= torch.arange(len(questions))[:, None] // 2, end)
    assert found.tolist() == expected.tolist()


def test_the_prompt_is_run_once_and_then_token_by_token(
    asked: Asked,
    batch: Batch,
) -> None:
    """Without a mask where no row is padded: attention has faster ways then."""
    calls: list[tuple[int, bool]] = []
    hook = asked[0].model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(
            (kwargs["inputs_embeds"].shape[1], kwargs["attention_mask"] is None)
        ),
        with_kwargs=True,
    )
    questions = batch.questions
    same = [replace(q, text=questions[0].text) for q in questions]
    for some in (questions, same):
        replies(*asked, some, *batch[1:], Decoding(3))
    hook.remove()
    longest = max(len(asked[1].encode_prompt(q.text, 2)) for q in questions)
    shortest = len(asked[1].encode_prompt(questions[0].text, 2))
    assert calls == [(longest, False)] + [(1, False)] * 2 + [(shortest, True)] + [(1, True)] * 2


def test_what_the_tower_has_behind_the_layer_that_is_read_tells_nothing(
    adapter_model: Path, asked: Asked, batch: Batch
) -> None:
    model = LoadedModel.load(adapter_model).network
    n_layers = [
        len(next(m for m in tower.modules() if isinstance(m, torch.nn.ModuleList)))
        for tower in (asked[0].model.vision_tower, model.model.vision_tower)
    ]
    assert n_layers == [2, 1]
    ids = torch.full((len(batch.pixels), 32), model.config.image_token_id)
    with torch.no_grad():
        embeds = [m.embed(ids, *batch[1:]) for m in (asked[0], model)]
    assert torch.equal(*embeds)


# --- drawing and beams ----------------------------------------------------------------------------


def test_what_is_drawn_depends_on_seed_and_sample_only(
    asked: Asked,
    batch: Batch,
    alone: list[str],
) -> None:
    warm = Decoding(NEW_TOKENS, temperature=1.0, seed=1)
    drawn = written(asked, batch, warm, 1)
    assert drawn != alone
    assert written(asked, batch, warm, 8) == drawn
    backwards = written(
        asked, Batch(batch.questions[::-1], *(t.flip(0) for t in batch[1:])), warm, 3
    )
    assert backwards[::-1] == drawn
    assert written(asked, batch, replace(warm, seed=2), 8) != drawn
    twins = [replace(batch.questions[0], sample_id=str(i)) for i in range(8)]
    pictures, rows = (t[:1].expand(8, *t.shape[1:]) for t in batch[1:])
    assert len(set(words(*asked, twins, pictures, rows, warm))) > 4


@pytest.mark.parametrize(
    "decoding", [Decoding(NEW_TOKENS, 1e-6), Decoding(NEW_TOKENS, 1.0, top_p=0.0)]
)
def test_a_cold_draw_and_one_from_a_single_word_are_greedy(
    asked: Asked,
    batch: Batch,
    alone: list[str],
    decoding: Decoding,
) -> None:
    assert words(*asked, *batch, decoding) == alone


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_words_are_drawn_as_often_as_they_are_likely(top_p: float) -> None:
    likely = torch.tensor([0.5, 0.25, 0.15, 0.1])
    n = 4000
    draw = chooser(Decoding(1, 2.0, top_p, seed=3), [str(i) for i in range(n)])
    drawn = draw(
        (2 * likely.log()).expand(n, 4), torch.arange(n)
    )  # the temperature takes the 2 away
    shares = drawn.bincount(minlength=4) / n
    expected = likely if top_p == 1 else torch.tensor([2 / 3, 1 / 3, 0, 0])
    assert (shares - expected).abs().max() < 0.03


def test_beams_do_not_mix(asked: Asked, batch: Batch) -> None:
    beams = Decoding(NEW_TOKENS, num_beams=3)
    single = written(asked, batch, beams, 1)
    assert written(asked, batch, beams, 8) == single


# --- words and probabilities ----------------------------------------------------------------------


def test_score_alone_writes_the_likeliest_answer(asked: Asked, batch: Batch) -> None:
    model, processor = asked
    said = LoadedModel(model, processor, LABELS).reply(*batch.in_memory, "score", GREEDY)
    choices = [encode_choice(processor, q.text, 2, STAGES) for q in batch.questions]
    expected = stage_log_likelihoods(model, processor, choices, *batch[1:])
    assert np.abs(np.stack([t.log_likelihood for t in said]) - expected).max() < 1e-6  # type: ignore[misc]
    assert [t.text for t in said] == [STAGES[i] for i in expected.argmax(1)]


def test_both_is_the_words_of_one_and_the_probabilities_of_the_other(
    asked: Asked,
    batch: Batch,
    alone: list[str],
) -> None:
    both, scored, words = (
        LoadedModel(*asked, LABELS).reply(*batch.in_memory, mode, GREEDY)
        for mode in ("both", "score", "generate")
    )
    assert [t.text for t in both] == [t.text for t in words] == alone
    assert all(t.log_likelihood is None for t in words)
    for one, other in zip(both, scored, strict=True):
        assert one.log_likelihood is not None
        assert other.log_likelihood is not None
        assert np.abs(one.log_likelihood - other.log_likelihood).max() < 1e-5


@pytest.mark.parametrize("mode", ["score", "both"])
def test_reasons_are_written_first_and_then_scored(
    asked: Asked,
    batch: Batch,
    alone: list[str],
    mode: Any,
) -> None:
    texts = tuple(f"The stage is {stage}." for stage in STAGES)
    answers = reasoned(texts, NEW_TOKENS)
    model, processor = asked
    given = LoadedModel(model, processor, answers).reply(*batch.in_memory, mode, GREEDY)
    for i, (question, reasons, said) in enumerate(zip(batch.questions, alone, given, strict=True)):
        choice = encode_choice(processor, question.text, 2, [f"{reasons} {t}" for t in texts])
        expected = stage_log_likelihoods(
            model, processor, [choice], *batch.part(slice(i, i + 1))[1:]
        )[0]
        assert said.log_likelihood is not None
        assert np.abs(said.log_likelihood - expected).max() < 1e-4
        best = f"{reasons} {texts[int(expected.argmax())]}"
        assert said.text == (best if mode == "score" else reasons)


SENTENCES = tuple(f"The stage is {stage}." for stage in STAGES)
REASONED = reasoned(SENTENCES, 40)
WRITTEN = (
    "No rhythm stands out. The stage is N1.",
    "The stage is not N3. The stage is W.",
    "Delta dominates, about 90 µV. The st",  # cut short
    "  Delta dominates.",
    "The stage is N3.",
    "",
    "A picture <image> of it. The stage is W.",
    "Sleep spindles and K-complexes. Sleep spindles and K-complexes. Sleep spindles and K",
)


def forced(asked: LoadedModel, texts: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the model write these texts, whatever it would say; return what there is space for."""
    tokenizer = asked.processor.tokenizer
    rows = [[*tokenizer.encode(t, add_special_tokens=False), tokenizer.eos_token_id] for t in texts]
    n_tokens = asked.answers.max_new_tokens
    table = pad([row[:n_tokens] for row in rows], tokenizer.eos_token_id, "right")
    steps = iter(table.T)
    monkeypatch.setattr(writing, "chooser", lambda *_: lambda _, rows: next(steps)[rows])
    return [text.strip() for text in tokenizer.batch_decode(table, skip_special_tokens=True)]


@pytest.fixture(scope="module")
def in_64_bits(asked: Asked) -> Any:
    """Return the model so precise that what is left between two ways of computing is no rounding."""
    return copy.deepcopy(asked[0]).double()


@pytest.fixture(params=["add", "token", "none"])
def fused(
    request: pytest.FixtureRequest,
    asked: Asked,
    in_64_bits: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Asked:
    """Model and processor of each fusion."""
    model, processor = in_64_bits, asked[1]
    monkeypatch.setattr(model, "fusion", request.param, raising=False)
    lengths = FUSIONS[request.param].lengths(patches(model.config))
    return model, replace(processor, image_tokens=lengths)


@pytest.fixture
def forwards(in_64_bits: Any) -> Iterator[dict[str, list[int]]]:
    """Rows that the tower looked at, and tokens that the language model read, call by call."""
    calls: dict[str, list[int]] = {"tower": [], "language": []}
    parts = in_64_bits.model
    hooks = [
        parts.vision_tower.register_forward_pre_hook(
            lambda _, args: calls["tower"].append(len(args[0]))
        ),
        parts.language_model.register_forward_pre_hook(
            lambda _, args, kwargs: calls["language"].append(kwargs["inputs_embeds"].shape[1]),
            with_kwargs=True,
        ),
    ]
    yield calls
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("size", range(1, 9))
def test_words_and_probabilities_share_one_look_at_tower_and_prompt(
    fused: Asked,
    batch: Batch,
    forwards: dict[str, list[int]],
    size: int,
) -> None:
    batch = batch.part(slice(8 - size, 8))
    scored, words = (
        LoadedModel(*fused, LABELS).reply(*batch.in_memory, mode, GREEDY)
        for mode in ("score", "generate")
    )
    for calls in forwards.values():
        calls.clear()
    both = LoadedModel(*fused, LABELS).reply(*batch.in_memory, "both", GREEDY)
    longest = max(len(fused[1].encode_prompt(q.text, 2)) for q in batch.questions)
    assert forwards["tower"] == [size]
    assert [n for n in forwards["language"] if n >= longest] == [longest]
    assert max(forwards["language"][1:]) < 10  # a token that is written, or the packed answers
    assert [reply.text for reply in both] == [reply.text for reply in words]
    for one, other in zip(both, scored, strict=True):
        assert one.log_likelihood is not None
        assert np.abs(one.log_likelihood - other.log_likelihood).max() < 1e-5


@pytest.fixture(scope="module")
def said_alone() -> dict[Any, np.ndarray]:
    """Scores behind each text by itself, by fusion, question and text; they depend on nothing else."""
    return {}


@pytest.mark.parametrize("mode", ["score", "both"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_what_was_written_is_not_read_again(
    fused: Asked,
    batch: Batch,
    said_alone: dict[Any, np.ndarray],
    forwards: dict[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    mode: Any,
) -> None:
    """Rows end at different times, and no text is, as tokens, what it becomes before a conclusion."""
    model, processor = fused
    asked = LoadedModel(model, processor, REASONED)
    replies, texts = [], []
    for start in range(0, 8, size):
        here = slice(start, start + size)
        texts += forced(asked, WRITTEN[here], monkeypatch)
        for calls in forwards.values():
            calls.clear()
        replies += asked.reply(*batch.part(here).in_memory, mode)
        assert len(forwards["tower"]) == 1
        longest = max(len(processor.encode_prompt(q.text, 2)) for q in batch.questions[here])
        assert [n for n in forwards["language"] if n >= longest] == [longest]
    for i, (text, reply) in enumerate(zip(texts, replies, strict=True)):
        endings = behind_reasons(text, SENTENCES, "The stage is ")
        if (key := (model.fusion, i, text)) not in said_alone:
            choice = encode_choice(processor, batch.questions[i].text, 2, endings)
            alone = batch.part(slice(i, i + 1))
            said_alone[key] = stage_log_likelihoods(model, processor, [choice], *alone[1:])[0]
        expected = said_alone[key]
        assert reply.log_likelihood is not None
        np.testing.assert_allclose(reply.log_likelihood, expected, atol=1e-5, rtol=0)
        likeliest = endings[int(expected.argmax())]
        assert reply.text == (likeliest if mode == "score" else text)


def test_beams_are_scored_by_a_pass_of_their_own(asked: Asked, batch: Batch) -> None:
    beams = Decoding(NEW_TOKENS, num_beams=3)
    both, words, scored = (
        LoadedModel(*asked, LABELS).reply(*batch.in_memory, mode, beams)
        for mode in ("both", "generate", "score")
    )
    assert [reply.text for reply in both] == [reply.text for reply in words]
    for one, other in zip(both, scored, strict=True):
        assert np.array_equal(one.log_likelihood, other.log_likelihood)  # type: ignore[arg-type]


def test_what_is_no_number_is_refused(
    asked: Asked,
    batch: Batch,
) -> None:
    questions, pixels, features = batch
    nothing = Batch(questions, torch.full_like(pixels, torch.nan), features)
    with pytest.raises(EegToolError, match="no numbers") as caught:
        LoadedModel(*asked, LABELS).reply(*nothing.in_memory, "score", GREEDY)
    assert "--dtype float32" in caught.value.fix


def test_older_contracts_have_bare_labels(contract: Contract) -> None:
    form = AnswerForm.from_contract(replace(contract, answers={}).answers)
    assert (form.texts, form.lead, form.max_new_tokens, form.place) == (STAGES, "", 8, "whole")


def test_the_contract_says_how_answers_read(contract: Contract) -> None:
    stages = {stage: f"It is {stage}." for stage in reversed(STAGES)}
    answers = {"stages": stages, "lead": "It is ", "max_new_tokens": 320}
    texts = ("It is W.", "It is N1.", "It is N2.", "It is N3.", "It is REM.")
    form = AnswerForm.from_contract(replace(contract, answers=answers).answers)
    assert (form.texts, form.lead, form.max_new_tokens) == (texts, "It is ", 320)
    assert form.reasons_first  # of version 0.1, which did not say the place


@pytest.mark.parametrize("stages", [{"W": "W"}, dict.fromkeys(STAGES, "W")])
def test_a_contract_without_the_five_stages_is_refused(
    contract: Contract, stages: dict[str, str]
) -> None:
    with pytest.raises(EegToolError, match="one answer for each stage"):
        AnswerForm.from_contract(replace(contract, answers={"stages": stages}).answers)


# --- pictures -------------------------------------------------------------------------------------


def numbered(i: int) -> Question:
    return Question(str(i), (f"{i}.png",) * 2, "Which?")


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """Return a model that replies with the pictures it is shown."""
    network: Any = SimpleNamespace(device=torch.device("cpu"))
    processor: Any = SimpleNamespace(encode_prompt=lambda *_: (1,))
    monkeypatch.setattr(
        LoadedModel, "reply", lambda _, questions, pixels, *__: [Reply(str(p)) for p in pixels]
    )
    return LoadedModel(network, processor, AnswerForm())


def test_pictures_come_in_order_and_not_all_at_once(echo: LoadedModel) -> None:
    begun: list[int] = []

    def load(question: Question) -> Any:
        number = int(question.sample_id)
        begun.append(number)
        time.sleep(0.02 if number % 4 == 0 else 0.0)  # the first ones come later
        return number

    questions = [numbered(i) for i in range(40)]
    stream = echo.replies(questions, load, None, batch_size=2)
    first = next(stream)
    assert max(begun) <= 5
    texts = [reply.text for batch in (first, *stream) for reply in batch.replies]
    assert texts == [str(i) for i in range(40)]


def test_a_broken_picture_is_an_error_when_its_turn_comes(
    echo: LoadedModel, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    spec = PixelSpec(64, (0.5,) * 3, (0.5,) * 3)

    def load(question: Question) -> Any:
        return spec.pixels(tmp_path / question.images[0])

    stream = echo.replies([numbered(0), numbered(1)], load, None, batch_size=1)
    assert next(stream).questions == [numbered(0)]
    with pytest.raises(EegToolError, match=r"1\.png cannot be read"):
        next(stream)


# --- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:0", "cuda:3", "auto"])
def test_it_is_loaded_onto_its_own_gpu(
    adapter: Path, contract: Contract, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """The weights and whatever a library allocates by itself."""
    chosen: list[torch.device] = []

    def put(where: torch.device) -> Any:
        chosen.append(where)

    network = SimpleNamespace(drop_unread_layers=lambda: None, to=put)

    def load(*_: Any, device: torch.device, **__: Any) -> Any:
        chosen.append(device)
        return network, None, contract

    monkeypatch.setattr(loaded, "load_adapter", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    LoadedModel.load(adapter, device=device, dtype="float16")
    assert chosen == [torch.device(device.replace("auto", "cuda:0"))] * 3


def test_what_merging_does_is_said(contract: Contract, tmp_path: Path) -> None:
    assert "rounded to bfloat16" in merge_note(tmp_path, contract, "bfloat16")
    assert "rounded to float32" in merge_note(tmp_path, contract, "auto")  # of a CPU
    assert "is merged already" in merge_note(tmp_path, replace(contract, merged=True), "auto")
