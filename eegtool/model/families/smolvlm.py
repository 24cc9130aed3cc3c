"""SmolVLM and SmolVLM2, whose processor would cut an enlarged picture into up to 16 tiles and the whole of it."""

from __future__ import annotations

from typing import Final

from eegtool.model.families.generic import Family

# It brings a picture to the size of its tower in any case; the resize before that is for tiles.
FAMILY: Final = Family("smolvlm", whole={"do_image_splitting": False, "do_resize": False})
