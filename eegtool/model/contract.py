"""What the fields of a contract may hold.

A folder that is asked may come from anybody: a number out of range would fill the memory, ask for
nothing, or end in a traceback after the model was loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, get_args

from eegtool.core.options import FeatureSource
from eegtool.core.stages import STAGES
from eegtool.model.loading import BITS

_Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and what would be."""

_LARGEST_PX: Final = 2048
_MOST_TOKENS: Final = 65_536
_SHOWN: Final = 60


def _is(kind: type, what: str) -> _Rule:
    return lambda value: isinstance(value, kind), what


def _whole(low: int, high: int) -> _Rule:
    """A whole number; JSON's True is none."""
    return lambda value: type(value) is int and low <= value <= high, (
        f"a whole number from {low} to {high}"
    )


def _number(low: float, high: float) -> _Rule:
    """A number, which NaN and infinity are not."""
    return lambda value: type(value) in (int, float) and low <= value <= high, (
        f"a number from {low:g} to {high:g}"
    )


def _list(n: int, one: _Rule) -> _Rule:
    return (
        lambda value: isinstance(value, list) and len(value) == n and all(one[0](v) for v in value),
        f"a list of {n}, each {one[1]}",
    )


def _one_of(values: Collection[Any]) -> _Rule:
    return lambda value: any(type(value) is type(v) and value == v for v in values), (
        f"one of {', '.join(map(str, values))}"
    )


def _or_null(rule: _Rule) -> _Rule:
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or null"


_TEXT: Final = _is(str, "text")
_OBJECT: Final = _is(dict, "an object")
_HZ: Final = _or_null(_number(0, 1e5))
_TEXTS: Final[_Rule] = (
    lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "a list of texts",
)
_COUNTS: Final = _list(len(STAGES), _number(0, 1e12))

_RULES: Final[dict[str, _Rule]] = {
    # An object stands before its fields.
    **dict.fromkeys(("base", "base_sha256", "family", "fusion", "version", "vision_tower"), _TEXT),
    "features_weights_sha256": _TEXT,
    "features": _one_of(get_args(FeatureSource)),
    "bits": _one_of(BITS),
    "context": _whole(0, 10**4),
    "merged": _one_of((True, False)),
    "pixel_spec": _OBJECT,
    "pixel_spec.size": _whole(1, _LARGEST_PX),
    "pixel_spec.mean": _list(3, _number(0, 1)),
    "pixel_spec.std": _list(3, _number(0.001, 10)),
    "protocol": _OBJECT,
    **dict.fromkeys(("protocol.channel", "protocol.style"), _or_null(_TEXT)),
    "protocol.size": _or_null(_whole(1, _LARGEST_PX)),
    **dict.fromkeys(("protocol.low_hz", "protocol.high_hz", "protocol.notch_hz"), _HZ),
    "protocol.resample_hz": _HZ,
    "protocol.amplitude_uv": _or_null(_number(1, 1e6)),
    "protocol.marks": _or_null(_one_of((True, False))),
    "answers": _OBJECT,
    "answers.question": _TEXT,
    "answers.lead": _TEXT,
    "answers.max_new_tokens": _whole(1, _MOST_TOKENS),
    "answers.longest_tokens": _whole(0, _MOST_TOKENS),
    "answers.place": _one_of(("whole", "end", "start", "nowhere")),
    "answers.untaught": _is(list, "a list"),
    **dict.fromkeys(("answers.read", "answers.answers"), _whole(0, 10**9)),
    "answers.stages": _OBJECT,
    **{f"answers.stages.{stage}": _TEXT for stage in STAGES},
    "validation": _OBJECT,
    "validation.subjects": _TEXTS,
    **dict.fromkeys(("validation.epochs", "validation.step"), _whole(0, 10**9)),
    **dict.fromkeys(
        ("validation.kappa", "validation.macro_f1", "validation.accuracy"), _number(-1, 1)
    ),
    "validation.loss": _number(0, 1e12),
    "sequence": _OBJECT,
    "sequence.transitions": _list(len(STAGES), _COUNTS),
    "sequence.stages": _COUNTS,
}


def wrong_field(raw: Mapping[str, Any]) -> str:
    """Say which field of a contract holds what it may not; empty if none does.

    Parameters
    ----------
    raw : mapping
        The contract as JSON has it. What is missing is not looked for.
    """
    for name, (is_right, what) in _RULES.items():
        *objects, last = name.split(".")
        value: Any = raw
        for key in objects:
            value = value.get(key, {})
        if last in value and not is_right(value[last]):
            shown = repr(value[last])
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} …"
            return f"{name} is {shown}, not {what}"
    return ""
