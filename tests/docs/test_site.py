"""The documentation as pages: it builds, every link leads somewhere, and nothing is left out."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.docs import pages

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The pages; a warning ends the build, as of a link that leads nowhere."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", ROOT / "docs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_menu_and_asks_nothing_of_the_network(site):
    menu = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        text = (site / f"{page.stem}.html").read_text(encoding="utf-8")
        assert not re.search(r'(?:src|rel="stylesheet" href)="https?://', text), page
        assert page.stem == "index" or f'href="{page.stem}.html"' in menu, page


def test_every_command_has_its_help(site):
    from rt3d_tvm.cli import _parser

    text = (site / "command_line.html").read_text(encoding="utf-8")
    names = [name for name, _ in pages.commands(_parser())]
    assert "rt3d compile" in names and "rt3d data motion" in names
    for name in names:
        assert f"usage: {name} " in text


def test_every_refusal_has_a_section():
    """Each file that refuses something is in one list, and one only."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    listed = [path for found in pages.ERRORS.findall(page) for path in pages.modules(found.split())]
    assert len(listed) == len(set(listed))
    refusing = {path for path in pages.modules([*pages.PACKAGES]) if pages.messages(path)}
    assert refusing <= set(listed)
    assert len(refusing) > 100


def test_a_message_shows_where_values_stand(tmp_path):
    source = 'if x:\n    raise InputError(f"rate {x!r}: " + "at least 1" f" of {y}")\n'
    (tmp_path / "m.py").write_text(
        source + "raise InputError(str(error))\nraise ValueError('no')\n"
    )
    assert pages.messages(tmp_path / "m.py") == ["rate …: at least 1 of …"]
