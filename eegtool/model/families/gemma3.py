"""Gemma 3: tokens of a picture see each other in both directions."""

from __future__ import annotations

from typing import Final

from eegtool.model.families.generic import Family

FAMILY: Final = Family("gemma3", whole={"do_pan_and_scan": False})
