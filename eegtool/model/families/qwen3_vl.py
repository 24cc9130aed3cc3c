"""Qwen3-VL: positions of three dimensions, and features of deeper layers that go with every visual token."""

from __future__ import annotations

from typing import Final

from eegtool.model.families.generic import Family

FAMILY: Final = Family("qwen3_vl")
