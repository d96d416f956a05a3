"""How Sphinx makes the site from what build.py has gathered."""

import kafnets

project = "kafnets"
author = copyright = "the kafnets contributors"
version = release = kafnets.__version__

root_doc = "index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "kafnets"

myst_heading_anchors = 4  # the anchors that links between the pages name, as GitHub makes them
suppress_warnings = ["myst.header"]  # a notebook's first heading may stand beside others

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say them with their units and shapes
napoleon_use_rtype = False
