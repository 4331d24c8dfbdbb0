"""Folders appear whole or not at all, and nothing of others is replaced."""

import os
import random
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rt3d_tvm.errors import InputError
from rt3d_tvm.files import folders
from rt3d_tvm.files.folders import check_empty, check_makeable, check_outside, whole_folder
from rt3d_tvm.files.staging import PREFIX


def why_kept(folder):
    """Folders of these tests hold parts, and nothing else."""
    others = {path.name for path in folder.iterdir()} - {"part0", "part1"}
    return f"holds other files: {sorted(others)}" if others else None


def replace(folder, text="new", meanwhile=lambda: None):
    with whole_folder(folder, why_kept=why_kept) as made:
        for part in ("part0", "part1"):
            (made / part).write_text(text)
        meanwhile()


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


NEW, OLD = (dict.fromkeys(("part0", "part1"), text) for text in ("new", "old"))


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def exchange(request, monkeypatch):
    """With the system's call and without it."""
    if not request.param:
        monkeypatch.setattr(folders, "_renameat2", lambda old, new, flag: False)


@pytest.mark.usefixtures("exchange")
def test_a_folder_is_made_and_replaced(tmp_path):
    replace(tmp_path / "d", "old")
    assert content(tmp_path / "d") == OLD
    (tmp_path / "d").chmod(0o750)
    (tmp_path / "link").symlink_to("d")
    replace(tmp_path / "link")
    assert content(tmp_path / "d") == NEW
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "link"]


@pytest.mark.usefixtures("exchange")
def test_an_empty_folder_and_a_link_to_nothing_are_filled(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("other")
    for name in ("d", "link"):
        replace(tmp_path / name)
        assert content(tmp_path / name) == NEW
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "link", "other"]


def place(kind):
    """What somebody puts into a folder."""

    def put(folder):
        if kind == "file":
            (folder / "notes.txt").write_text("a day's work")
        elif kind == "folder of a part's name":
            (folder / "part0").unlink(missing_ok=True)
            (folder / "part0").mkdir()
            (folder / "part0" / "notes.txt").write_text("a day's work")
        else:
            (folder / "part0").unlink(missing_ok=True)
            (folder / "part0").symlink_to(folder.parent / "elsewhere")

    return put


KINDS = ("file", "folder of a part's name", "link of a part's name")


@pytest.mark.usefixtures("exchange")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["before", "meanwhile", "at the last moment"])
@pytest.mark.parametrize("there", ["nothing", "an older one"])
def test_what_is_of_others_is_kept(tmp_path, monkeypatch, kind, when, there):
    """Whenever it appears: an error, everything where it was, nothing beside it."""
    folder, put = tmp_path / "d", place(kind)
    if there == "an older one":
        replace(folder, "old")
    if when == "before" or there == "an older one":
        folder.mkdir(exist_ok=True)
    if when == "before":
        put(folder)

    def meanwhile():
        if when == "meanwhile":
            folder.mkdir(exist_ok=True)
            put(folder)

    swap = folders._exchange

    def swapped(made, name, aside):
        if when == "at the last moment" and not put_at_last:
            put_at_last.append(True)
            put(folder)
        return swap(made, name, aside)

    put_at_last = []
    monkeypatch.setattr(folders, "_exchange", swapped)
    if when == "at the last moment" and there == "nothing":
        folder.mkdir()  # empty, or there is no exchange
    with pytest.raises(InputError, match="holds other files"):
        replace(folder, meanwhile=meanwhile)
    found = {path.name for path in folder.iterdir()}
    parts = {"part0", "part1"} if there == "an older one" else set()
    assert found == parts | {"notes.txt" if kind == "file" else "part0"}
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    for path in folder.rglob("notes.txt"):
        assert path.read_text() == "a day's work"


@pytest.mark.usefixtures("exchange")
def test_what_comes_after_the_exchange_gets_its_place(tmp_path, monkeypatch):
    """A process that is at work in the older folder finds what it writes under its name."""
    folder = tmp_path / "d"
    replace(folder, "old")
    look = folders._why_kept

    def look_and_write(at, why):
        reason = look(at, why)
        if at != folder:
            (at / "notes.txt").write_text("a day's work")
        return reason

    monkeypatch.setattr(folders, "_why_kept", look_and_write)
    replace(folder)
    assert content(folder) == {**NEW, "notes.txt": "a day's work"}
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_failure_keeps_the_older_folder(tmp_path):
    replace(tmp_path / "d", "old")
    with pytest.raises(ZeroDivisionError):
        replace(tmp_path / "d", meanwhile=lambda: 1 // 0)
    assert content(tmp_path / "d") == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_what_cannot_be_replaced_is_known_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path / "here")
    for path, message in (
        (tmp_path / "file", "is a file; the name of a folder"),
        (tmp_path / "none" / "d", "none is no folder; make it first"),
        (tmp_path / "file" / "d", "file is no folder; make it first"),
        (Path("/proc/d"), "/proc: cannot be written to"),
        (Path(), "is the working directory"),
        (Path("/proc"), "/proc is a mount point"),
        (tmp_path / "circle", "circle: its links lead in a circle"),
    ):
        with pytest.raises(InputError, match=message):
            replace(path, meanwhile=lambda: pytest.fail("known after the work"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file", "here"]


def test_folders_to_write_in_are_looked_at_without_making_them(tmp_path):
    (tmp_path / "file").write_text("mine")
    check_makeable(tmp_path / "a" / "b")
    check_makeable(tmp_path)
    for path, message in (
        (tmp_path / "file", "is a file; the name of a folder"),
        (tmp_path / "file" / "d", "cannot be made: Not a directory"),
        (Path("/proc/d"), "/proc/d: cannot be made"),
        (Path("/proc"), "/proc: cannot be written to"),
    ):
        with pytest.raises(InputError, match=message):
            check_makeable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    check_empty(tmp_path / "new")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".s.json.k2_9x0ab").touch()
    check_empty(tmp_path / "killed", ["t.json", "s.json"])
    (tmp_path / "killed" / ".s.json.swp").touch()
    with pytest.raises(InputError, match="is not an empty folder"):
        check_empty(tmp_path / "killed", ["t.json", "s.json"])
    with pytest.raises(InputError, match="is not an empty folder"):
        check_empty(tmp_path)
    check_outside(tmp_path / "dump", tmp_path / "d")
    for inner in ("d", "d/dump", "d/../d/dump"):
        with pytest.raises(InputError, match="which is replaced whole"):
            check_outside(tmp_path / inner, tmp_path / "d")


REPLACE = """
import sys
from pathlib import Path
from rt3d_tvm.files import folders
if sys.argv[2] == "two renames":
    folders._renameat2 = lambda old, new, flag: False
print("ready", flush=True)
for number in range(10**9):
    with folders.whole_folder(Path(sys.argv[1]), why_kept=lambda folder: None) as made:
        for part in ("part0", "part1"):
            (made / part).write_text(f"{number}")
"""


@pytest.mark.parametrize("how", ["exchange", "two renames"])
def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path, how):
    """At once or, where the two cannot change places, when the next process writes there."""
    rng, folder = random.Random(0), tmp_path / "d"
    replace(folder)
    for _ in range(25):
        command = [sys.executable, "-c", REPLACE, folder, how]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.communicate()
        if how == "two renames":
            check_makeable(tmp_path)
        found = content(folder)
        assert set(found) == {"part0", "part1"}
        assert len(set(found.values())) == 1
    replace(folder)
    assert content(folder) == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_what_is_at_work_beside_it_is_left_alone(tmp_path):
    with whole_folder(tmp_path / "a", why_kept=why_kept) as made:
        (made / "part0").write_text("a")
        replace(tmp_path / "b")
        assert (made / "part0").read_text() == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_folders_that_only_look_like_those_of_a_killed_process_are_kept(tmp_path):
    """One with somebody's files in it, a file, a link to somebody's folder."""
    (tmp_path / f"{PREFIX}abcdefgh").mkdir()
    (tmp_path / f"{PREFIX}abcdefgh" / "notes.txt").write_text("mine")
    (tmp_path / f"{PREFIX}ijklmnop").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "owned").write_text("mine")
    (tmp_path / f"{PREFIX}qrstuvwx").symlink_to("mine")
    before = sorted(tmp_path.rglob("*"))
    replace(tmp_path / "d")
    shutil.rmtree(tmp_path / "d")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_a_disk_of_its_own_is_written_in_and_not_replaced(tmp_path):
    """A folder on a small disk: known before for the mount itself, and full in its middle."""
    (tmp_path / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path / "disk"], check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(InputError, match="is a mount point"):
            replace(tmp_path / "disk")
        replace(tmp_path / "disk" / "d", "old")
        with pytest.raises(InputError, match="d: cannot be written: No space left on device"):
            replace(tmp_path / "disk" / "d", "x" * 100_000)
        assert content(tmp_path / "disk" / "d") == OLD
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["d"]
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)
