"""Sphinx configuration."""

import ttcore

project = "ttcore"
author = "the ttcore developers"
copyright = "the ttcore developers"
version = release = ttcore.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc sections say the types
numpydoc_show_class_members = False  # autodoc lists them
default_role = "py:obj"  # single backquotes in docstrings name objects
html_theme = "furo"
html_title = f"ttcore {release}"
