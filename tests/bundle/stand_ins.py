"""A stand-in adb and ssh on PATH, whose programs run under qemu-user."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_SSH = """#!/bin/sh
[ "$3" = good ] || { echo "ssh: connect to host $3: refused" >&2; exit 255; }
exec sh -c "$(echo "$4" | sed 's#\\./\\(bench\\|tune\\)#qemu-aarch64 &#')"
"""
_SCP = """#!/bin/sh
shift 3
for last; do :; done
for file; do [ "$file" = "$last" ] || cp "${file#good:}" "${last#good:}"; done
"""


@pytest.fixture
def device(tmp_path, monkeypatch) -> Path:
    """The stand-ins on PATH; the folder that a phone's /data/local/tmp is."""
    programs, state = tmp_path / "path", tmp_path / "phone"
    programs.mkdir(), state.mkdir()
    text = Path(__file__).with_name("adb.py").read_text()
    (programs / "adb").write_text(text.replace("/usr/bin/env python3", sys.executable, 1))
    # Another machine, which is this one.
    (programs / "ssh").write_text(_SSH)
    (programs / "scp").write_text(_SCP)
    for path in programs.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{Path('/usr/bin')}:{Path('/bin')}")
    monkeypatch.setenv("ADB_STATE", str(state))
    return state
