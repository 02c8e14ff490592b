"""How Sphinx builds the site: `tox run -e docs`, or `python -m sphinx -W --keep-going docs out/site`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

project = "pathotune"
author = "The pathotune founders"
project_copyright = "The pathotune founders. Research use only, not for diagnosis"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["pictures", "**/.ipynb_checkpoints"]
html_theme = "furo"
html_title = "pathotune"
html_show_sphinx = False
html_static_path: list[str] = []

# Headings get the anchors that a repository's own page gives them, so that one link works on both.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
myst_links_external_new_tab = False
# The notebook lies here without its results and is run anew with every build.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# Hints of libraries about the notebook itself; an error ends the build all the same.
nb_output_stderr = "remove"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = False
napoleon_use_rtype = False


def fill_page(app: Any, name: str, source: list[str]) -> None:
    """Put commands, settings and errors into their pages as the code has them, and every page into the contents."""
    from generated_parts import fill, reached

    source[0] = fill(source[0])
    if name == "index":
        source[0] = reached(source[0], DOCS)


def part_names(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings say "name : what it is" in one line, where numpydoc has a type there: part the two."""
    section, indent = "", 0
    parted: list[str] = []
    for number, line in enumerate(lines):
        if number + 1 < len(lines) and re.fullmatch(r"\s*-{3,}\s*", lines[number + 1]):
            section, indent = line.strip(), len(line) - len(line.lstrip())
        found = re.fullmatch(r"(\s*)([\w.*, ]+?) : (.+)", line)
        if section in ("Parameters", "Attributes", "Raises") and found and len(found[1]) == indent:
            parted += [found[1] + found[2], f"{found[1]}    {found[3]}"]
        else:
            parted.append(line)
    lines[:] = parted


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", part_names, priority=400)
    app.connect("source-read", fill_page)
