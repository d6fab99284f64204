"""Sphinx configuration."""

import logging

import ttcore

project = "ttcore"
author = "the ttcore developers"
copyright = "the ttcore developers"
version = release = ttcore.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "jupyter_execute"]  # myst_nb writes the second beside the output
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # notebooks are kept without outputs
nb_execution_timeout = 120  # seconds for one cell
nb_execution_raise_on_error = True
nb_output_stderr = "warn"  # which -W turns into an error
logging.getLogger("traitlets").setLevel("WARNING")  # not each notebook that is run
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc sections say the types
numpydoc_show_class_members = False  # autodoc lists them
default_role = "py:obj"  # single backquotes in docstrings name objects
html_theme = "furo"
html_title = f"ttcore {release}"
