#!/usr/bin/env python3
"""A stand-in for adb: devices are folders, an AArch64 program runs under qemu-user.

ADB_STATE is the folder of the devices' files; ADB_MODE is what is wrong. "unplugged twice": two
programs are cut off behind the first kernel that they have timed, and nothing is there for a while.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

mode, state = os.environ.get("ADB_MODE", "good"), Path(os.environ["ADB_STATE"])
DEVICES = {
    "absent": {},
    "unauthorised": {"R58M": "unauthorized"},
    "offline": {"R58M": "offline"},
    "two": {"R58M": "device", "emulator-5554": "device"},
}
PROPERTIES = {
    "ro.product.manufacturer": "Acme",
    "ro.product.model": "Nine",
    "ro.soc.model": "SM8250",
    "ro.build.version.release": "14",
}


def fail(message: str) -> None:
    sys.exit(f"adb: {message}")


def cut_off(command: list[str]) -> None:
    """Run a search's program until it has timed a kernel; then the cable is out."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("time"):
                process.kill()
                (state / "away").write_text("2")
                (state / f"cut{len(list(state.glob('cut*')))}").touch()
                fail(f"device '{serial}' not found")


def shell(script: str) -> int:
    if script.startswith("getprop"):
        for line in script.split("; "):
            print(PROPERTIES.get(line.split()[1], ""))
        return 0
    if mode == "unplugged" and "./bench" in script:
        print('{\n  "bench": 1,')  # what had come over before
        fail(f"device '{serial}' not found")
    script = script.replace("/data/local/tmp", str(state))
    script = re.sub(r"(\./(bench|tune\d+))", r"exec qemu-aarch64 \1", script)
    if mode == "unplugged twice" and "./tune" in script and len(list(state.glob("cut*"))) < 2:
        cut_off(["sh", "-c", script])
        return 0
    # The shell goes on behind the program, which exec would not let it.
    script = script if "rt3d-status" not in script else script.replace("exec qemu", "qemu")
    return subprocess.run(["sh", "-c", script], check=False).returncode


def push(files: tuple[str, ...], folder: str) -> int:
    if mode == "full":
        fail(f"error: failed to copy '{files[0]}' to '{folder}': remote No space left on device")
    if mode == "unplugged in the push":
        fail("error: failed to read copy response: EOF\nadb: error: device offline")
    for file in files:
        shutil.copy(file, folder.replace("/data/local/tmp", str(state)))
    return 0


def pull(file: str, to: str) -> int:
    shutil.copy(file.replace("/data/local/tmp", str(state)), to)
    return 0


arguments, away = sys.argv[1:], state / "away"
if away.exists() and (left := int(away.read_text())):
    if arguments == ["devices"]:
        away.write_text(str(left - 1))
        sys.exit(print("List of devices attached\n"))
    fail("device 'R58M' not found")
if arguments == ["devices"]:
    print("List of devices attached")
    for name, what in DEVICES.get(mode, {"R58M": "device"}).items():
        print(f"{name}\t{what}")
    print()
    sys.exit(0)
assert arguments[0] == "-s", arguments
serial, command, *rest = arguments[1:]
actions = {"shell": shell, "pull": pull, "push": lambda *names: push(names[:-1], names[-1])}
sys.exit(actions[command](*rest))
