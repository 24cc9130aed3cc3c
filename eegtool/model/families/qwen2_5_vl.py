"""Qwen2.5-VL: positions of three dimensions."""

from __future__ import annotations

from typing import Final

from eegtool.model.families.generic import Family

FAMILY: Final = Family("qwen2_5_vl")
