"""How Sphinx makes pages of this folder: make docs."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rt3d_tvm.package.version import __version__  # noqa: E402
from scripts.docs.pages import written_out  # noqa: E402

project, author, release = "rt3d-tvm", "the authors of rt3d-tvm", __version__
html_title = f"rt3d-tvm {release}"
extensions = ["myst_parser"]
exclude_patterns = ["_*", "phones"]
myst_heading_anchors = 3  # as links to headings are written
html_theme = "furo"
html_copy_source = html_show_sourcelink = False


def setup(app) -> None:
    """Every page is read with what the code says in it."""

    def read(_app, _page: str, text: list[str]) -> None:
        text[0] = written_out(text[0])

    app.connect("source-read", read)
