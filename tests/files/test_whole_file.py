"""Files appear whole or not at all, wherever their path leads; what is no file is written to."""

import errno
import json
import os
import random
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rt3d_tvm.console import write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import check_writable, is_standard_output, may_be_file, whole_file


def write(path, text="new"):
    with whole_file(path) as temporary:
        temporary.write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def python(program, *arguments, **options):
    """A process that runs the program with this interpreter."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_gets_the_content(tmp_path, there):
    """Over two links, one of them relative to its own folder; a target may not be there yet."""
    (tmp_path / "results").mkdir()
    target = tmp_path / "results" / "r.json"
    if there:
        target.write_text("old")
    (tmp_path / "results" / "latest").symlink_to("r.json")
    (tmp_path / "link").symlink_to(tmp_path / "results" / "latest")
    check_writable(tmp_path / "link")
    write(tmp_path / "link")
    assert target.read_text() == "new"
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "results") == ["latest", "r.json"]


def test_an_older_file_keeps_its_mode(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    path.chmod(0o640)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_failure_keeps_the_older_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_devices_stay_devices(tmp_path):
    write("/dev/null")
    (tmp_path / "link").symlink_to("/dev/null")
    write(tmp_path / "link")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(InputError, match="/dev/full: cannot be written: No space left"):
        write("/dev/full")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_pipe_of_the_file_system_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write(tmp_path / "pipe")
    reader.join(10)
    assert got == ["new"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_socket_is_written_to(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        write(tmp_path / "socket")
        link, _ = server.accept()
        with link:
            assert link.recv(100) == b"new"
    with pytest.raises(InputError, match="socket: cannot be written: Connection refused"):
        write(tmp_path / "socket")


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/thread-self/fd/{}"])
def test_a_descriptor_is_written_to(tmp_path, name):
    """What it holds stays, and it goes on behind it."""
    with (tmp_path / "f").open("w") as file:
        file.write("before ")
        file.flush()
        write(name.format(file.fileno()))
        assert (tmp_path / "f").read_text() == "before new"
        number = file.fileno()
    with pytest.raises(InputError, match="Bad file descriptor"):
        check_writable(name.format(number))
    with (tmp_path / "f").open() as file, pytest.raises(InputError, match="for reading only"):
        check_writable(name.format(file.fileno()))


def test_standard_output_is_written_to_through_any_name(tmp_path):
    (tmp_path / "out").symlink_to("/dev/stdout")
    program = "import sys; from rt3d_tvm.files.whole_file import whole_file\nprint('before')\n"
    program += "with whole_file(sys.argv[1]) as path: path.write_text('new')"
    for name in ("/dev/stdout", "/proc/self/fd/1", tmp_path / "out"):
        assert is_standard_output(name)
        assert not may_be_file(name)
        assert python(program, name).stdout == "before\nnew"
    assert (tmp_path / "out").is_symlink()
    assert not is_standard_output(tmp_path / "other")


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match="in a circle"):
        check_writable(tmp_path / "a")


def test_what_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, message in (
        (tmp_path, "is a folder; the name of a file"),
        (tmp_path / "none" / "f", "there is no folder .*none; make it first"),
        (tmp_path / "file" / "f", "there is no folder .*file; make it first"),
        ("/proc/f", "/proc/f: cannot be written: "),
        ("/sys/f", "/sys/f: cannot be written: "),
        (tmp_path / ("x" * 300), "cannot be written: File name too long"),
    ):
        with pytest.raises(InputError, match=message):
            check_writable(path)
        with pytest.raises(InputError, match=message):
            write(path)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("length", [1, 255])
def test_a_name_may_be_as_long_as_names_are(tmp_path, length):
    write(tmp_path / ("x" * length))
    assert names(tmp_path) == ["x" * length]


def as_nobody(program, *arguments):
    """The same program by a user who may write what others may."""
    if os.getuid():
        pytest.skip("only root can become another user")
    before = "import os, rt3d_tvm.files.whole_file, rt3d_tvm.files.folders\n"
    before += "os.setgroups([]); os.setgid(65534)\n"
    return python(before + "os.setuid(65534)\n" + program, *arguments)


CHECK = """
import sys
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import check_writable
try:
    check_writable(sys.argv[1])
except InputError as error:
    print(error)
"""


@pytest.fixture
def open_folder(tmp_path):
    """One that everybody can get to; pytest's own are of their user alone."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith("pytest-of-"):
            folder.chmod(0o777)
            break
        folder.chmod(0o777)
    return tmp_path


def test_what_is_not_this_users_to_write_is_known_before(open_folder):
    (open_folder / "mine").write_text("mine")
    (open_folder / "shut").mkdir(mode=0o755)
    (open_folder / "sticky").mkdir()
    (open_folder / "sticky" / "mine").write_text("mine")
    (open_folder / "sticky" / "mine").chmod(0o666)
    (open_folder / "sticky").chmod(0o1777)
    for name, message in (
        ("mine", "not this user's to write to"),
        ("shut/new", "Permission denied"),
        ("sticky/mine", "another user's"),
        ("sticky/new", ""),
    ):
        assert message in as_nobody(CHECK, open_folder / name).stdout
    assert as_nobody(CHECK, open_folder / "sticky" / "new").stdout == ""


def limited(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_leaves_nothing(tmp_path):
    """As a limit on the size of files has it, whatever writes: one error, the older file whole."""
    (tmp_path / "f").write_text("old")
    program = """
import sys
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import whole_file
try:
    with whole_file(sys.argv[1]) as path:
        path.write_bytes(bytes(100_000))
except InputError as error:
    print(error)
"""
    done = python(program, tmp_path / "f", preexec_fn=limited(10_000))
    assert done.stdout == f"{tmp_path / 'f'}: cannot be written: File too large\n", done.stderr
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_an_error_of_something_else_is_not_called_an_output_that_cannot_be_written(tmp_path):
    """A program that is missing, a file that is read: their own errors, and nothing is left."""
    with pytest.raises(FileNotFoundError, match="no-such-program"), whole_file(tmp_path / "f"):
        subprocess.run([tmp_path / "no-such-program"], check=False)
    with pytest.raises(PermissionError), whole_file(tmp_path / "f"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input"))
    assert names(tmp_path) == []


WRITE = """
import sys
from rt3d_tvm.files.whole_file import whole_file
print("ready", flush=True)
for number in range(10**9):
    with whole_file(sys.argv[1]) as path:
        path.write_text(f"{number % 10}" * 50_000)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file_and_nothing_else(tmp_path):
    rng, path = random.Random(0), tmp_path / "f"
    path.write_text("0" * 50_000)
    for _ in range(25):
        process = subprocess.Popen([sys.executable, "-c", WRITE, path], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.communicate()
        text = path.read_text()
        assert text == text[0] * 50_000
    write(path)
    assert names(tmp_path) == ["f"]


def test_json_to_a_device_and_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to("r.json")
    write_json(tmp_path / "link", {"a": 1})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": 1}
    write_json(Path("/dev/null"), {"a": 1})
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
