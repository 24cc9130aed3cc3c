"""What is measured on a GPU machine, in which order, and what was predicted of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from scene import GPU

from eegtool.core.options import AnswerMode

MODES = ("zero2", "zero3", "zero3_offload", "none")


@dataclass(frozen=True, slots=True)
class Part:
    """A row of the table: a function that returns figures, or raises."""

    name: str
    target: str
    """``module:function`` of a file beside this one; it is called with the scene and `options`."""
    limit_s: float
    """When it is ended."""
    expected_s: float
    """What it takes on an H100; it does not begin where less is left."""
    options: dict[str, Any]
    predicted: str = ""
    background: bool = False
    """Whether it begins right after the ceilings, in a process of its own; its row comes at its place."""


def _part(
    name: str,
    target: str,
    limit_s: float,
    expected_s: float,
    predicted: str = "",
    /,
    *,
    background: bool = False,
    **options: Any,
) -> Part:
    return Part(name, target, limit_s, expected_s, options, predicted, background)


def parts() -> Iterator[Part]:
    """Yield them in order."""
    yield _part("ceilings", "kernels:ceilings", 40, 10)
    yield from _tiny()
    yield from _large()
    yield from _asking()
    yield _part(
        "attention", "kernels:attention", 30, 5, "masked: 0.3-0.5 s in the 40 layers of a step"
    )


def _tiny() -> Iterator[Part]:
    """Yield every command on the GPU, with the tiny model."""
    yield _part("tiny: prepare", "commands:prepare", 60, 8)
    yield _part("tiny: extract", "commands:extract", 60, 8)
    yield _part("tiny: finetune, float32 on the CPU", "commands:finetune_on_cpu", 60, 15)
    held = "losses within 0.05 of the CPU's"
    for mode in MODES:
        if mode == "zero3_offload":
            name = "DeepSpeed's Adam for the CPU built"
            yield _part(name, "background:build_cpu_adam", 150, 1, background=True)
        yield _part(f"tiny: finetune {mode}", "commands:finetune", 60, 20, mode=mode)
        yield _part(f"tiny: losses of {mode}", "commands:losses", 5, 1, held, name=mode)
    yield _part("tiny: finetune, checkpointing, SIGTERM", "commands:stop", 60, 20)
    yield _part("tiny: finetune --resume", "commands:resume", 60, 20)
    yield _part("tiny: losses of the resumed", "commands:losses", 5, 1, held, name="resumed")
    for mode in get_args(AnswerMode):
        yield _part(f"tiny: evaluate {mode}", "commands:evaluate", 40, 5, mode=mode)
    yield _part("tiny: export", "commands:export", 40, 5)
    yield _part("tiny: ask", "commands:ask", 40, 5)
    yield _part("tiny: stage", "commands:stage", 60, 8)
    yield _part("tiny: report", "commands:report", 60, 10)


def _large() -> Iterator[Part]:
    """Yield the trainings of 13B."""
    yield _part("13B: base written", "background:write_base", 200, 1, background=True)
    yield _part(
        "13B: zero2",
        "large:train",
        150,
        75,
        "4.2 s a step (no mask 1.07x), 49.5 GiB",
        name="zero2",
        mode="zero2",
    )
    yield _part("13B: zero3", "large:train", 150, 75, "50 GiB", name="zero3", mode="zero3")
    yield _part(
        "13B: zero2 against bare",
        "large:compare",
        60,
        35,
        "1,577 TFLOP done, 1,064 needed; step >= 0.85",
        name="zero2",
    )
    yield _part(
        "13B: batch 2, no checkpointing",
        "large:train",
        120,
        60,
        "61.8 GiB",
        name="small",
        mode="zero2",
        batch=2,
        checkpointing=False,
    )
    yield _part(
        "13B: batch 2 against bare",
        "large:compare",
        60,
        30,
        "MFU >= 0.45; 1.35-1.45x the speed of batch 16",
        name="small",
    )
    yield _part(
        "13B: Liger",
        "large:train",
        120,
        75,
        "1.10x the speed of zero2",
        name="liger",
        mode="zero2",
        liger=True,
    )


def _asking() -> Iterator[Part]:
    """Yield the ways of asking 13B; LoRA is merged last, since nothing takes it out again."""
    yield _part("asking: loaded", "asking:load", 120, 40)
    score_ms = {"float32": 120, "base": 77, "merged": 63}
    ways = [("float32", 0, "score")]
    ways += [(p, s, m) for p in ("base", "merged") for s in (0, 1) for m in get_args(AnswerMode)]
    for precision, size, mode in ways:
        predicted = {"score": f"{score_ms[precision]} ms a question", "both": "1.9x score, before"}
        yield _part(
            f"asking: {mode}, LoRA {precision}, batch {GPU.ask_batches[size]}",
            "asking:measure",
            60,
            10 * (1 + size),
            predicted.get(mode, ""),
            precision=precision,
            mode=mode,
            size=size,
        )
