"""Rows as other programs write them (LLaVA-Instruct, chat formats), read as one form; each way is counted.

What is taken and what it is taken as stands in `TAKEN`, so that it can be said once for a whole file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

IMAGE_TOKEN: Final = "<image>"
CHAT: Final = "chat"
"""Stands for a model family's own chat template where the name of a conversation template is expected."""

TAKEN: Final = {
    "image": "'image' is one path: taken as [Image1, Image1]",
    "mark": f"one {IMAGE_TOKEN} for the same picture twice: taken as two",
    "place": f"{IMAGE_TOKEN} stands within the question: put before it, as LLaVA does",
    "number": "the id is a number: taken as text",
    "turns": "several turns: every answer is trained",
    "chat": "turns have 'role' and 'content' in place of 'from' and 'value'",
    "system": "a system turn stands in place of the template's",
    "lines": "one JSON object on each line, where a list is usual",
    "list": "a JSON list, where one object on each line is usual",
}
"""What each way to write a row is taken as."""

_ROLES: Final = {
    **dict.fromkeys(("human", "user"), "human"),
    **dict.fromkeys(("gpt", "assistant"), "gpt"),
    "system": "system",
}

Forms = Counter[str]
"""How many rows were written in which way of `TAKEN`."""


def sentences(forms: Mapping[str, int]) -> list[str]:
    """Return one sentence for each way that was met, with the number of its rows."""
    return [f"{TAKEN[name]} ({forms[name]:,})" for name in TAKEN if forms.get(name)]


def identity(row: Mapping[str, Any], name: str, forms: Forms) -> str:
    """Return the id of a row; one that is a whole number is taken as text.

    Raises
    ------
    ValueError
        If it is anything else, or empty.
    """
    value = row[name]
    if isinstance(value, int) and not isinstance(value, bool):
        forms["number"] += 1
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"'{name}' must be text or a whole number, not {value!r:.40}")
    return value


def images(row: Mapping[str, Any], forms: Forms) -> tuple[str, ...]:
    """Return the pictures of a row: one path is one picture, seen twice.

    Raises
    ------
    ValueError
        If 'image' is neither a path nor a list of paths.
    """
    image = row["image"]
    paths = [image] if isinstance(image, str) else image
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise ValueError("'image' is not a path or a list of paths")
    if len(paths) == 1:
        forms["image"] += 1
        return (paths[0], paths[0])
    return tuple(paths)


def question_text(text: str, n_images: int, forms: Forms) -> str:
    """Return a question without its marks, which must be as many as its pictures, or one for all.

    Raises
    ------
    ValueError
        If there are others.
    """
    found = text.count(IMAGE_TOKEN)
    if found == 1 and n_images > 1:
        forms["mark"] += 1
    elif found != n_images:
        raise ValueError(
            f"{found} {IMAGE_TOKEN} for {n_images} images; write one {IMAGE_TOKEN} for each of them, "
            "or one for all, before the question"
        )
    bare = text.replace(IMAGE_TOKEN, "").strip()
    forms["place"] += bare != text.rpartition(IMAGE_TOKEN)[2].strip()
    return bare


def turns(row: Mapping[str, Any], forms: Forms) -> tuple[str, list[tuple[str, str]]]:
    """Return the system text of a conversation, empty where it has none, and its questions with answers.

    Taken are the keys of LLaVA ('conversations' of 'from' and 'value') and of chats ('messages' or
    'conversations' of 'role' and 'content', which may be a list of parts).

    Raises
    ------
    ValueError
        If questions and answers do not take turns, or a turn is neither.
    """
    listed = row["messages"] if "messages" in row else row["conversations"]
    if not isinstance(listed, list):
        raise ValueError("'conversations' is not a list of turns")
    spoken = [_turn(number, turn) for number, turn in enumerate(listed, start=1)]
    forms["chat"] += any("role" in turn for turn in listed)
    system = ""
    if spoken and spoken[0][0] == "system":
        system = spoken.pop(0)[1].strip()
        forms["system"] += 1
    roles = [role for role, _ in spoken]
    if not roles or roles != ["human", "gpt"] * (len(roles) // 2):
        raise ValueError(
            f"the turns are {', '.join(roles) or 'none'}; they must be human and gpt by turns, with a "
            "system turn before them at most"
        )
    forms["turns"] += len(roles) > 2
    texts = [text for _, text in spoken]
    return system, list(zip(texts[::2], texts[1::2], strict=True))


def _turn(number: int, turn: Any) -> tuple[str, str]:
    """Return who speaks in a turn, and what."""
    if not isinstance(turn, dict):
        raise ValueError(f"turn {number} is not a JSON object")
    who, what = ("role", "content") if "role" in turn else ("from", "value")
    role = _ROLES.get(str(turn[who]).lower())
    if role is None:
        raise ValueError(
            f"turn {number} is from '{turn[who]!s:.40}'; known are {', '.join(_ROLES)}"
        )
    text = turn[what]
    if isinstance(text, list):
        text = "\n".join(_part(number, part) for part in text)
    if not isinstance(text, str):
        raise ValueError(f"'{what}' of turn {number} is not text")
    return role, text


def _part(number: int, part: Any) -> str:
    """Return a part of a chat's message as text: a picture is its mark."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "image":
        return IMAGE_TOKEN
    raise ValueError(f"turn {number} has a part that is neither 'text' nor 'image'")
