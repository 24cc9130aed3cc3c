"""InternVL 3 in Hugging Face's layout, whose processor would cut large pictures into tiles."""

from __future__ import annotations

from typing import Final

from eegtool.model.families.generic import Family

FAMILY: Final = Family("internvl", whole={"crop_to_patches": False})
