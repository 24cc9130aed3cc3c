"""Settings of Sphinx: `make docs` builds docs/ into build/docs, and a warning is an error."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from eegtool import __version__  # noqa: E402 - found by the path above

project = "eegvlm"
author = "The eegvlm authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "commands"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_class_signature = "separated"  # how one is made is not how its users get one
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc says them, with shapes and units
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = f"eegvlm {release}"
html_theme_options = {"navbar_center": [], "use_edit_page_button": False}
html_sidebars = {"**": ["pages.html"]}
html_show_sourcelink = False
