#!/usr/bin/env python3
"""A stand-in for adb: devices are folders, an AArch64 program runs under qemu-user.

ADB_STATE is the folder of the devices' files; ADB_MODE is what is wrong.
"""

import os
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


def shell(script: str) -> int:
    if script.startswith("getprop"):
        for line in script.split("; "):
            print(PROPERTIES.get(line.split()[1], ""))
        return 0
    if mode == "unplugged" and "./bench" in script:
        print('{\n  "bench": 1,')  # what had come over before
        fail(f"device '{serial}' not found")
    script = script.replace("/data/local/tmp", str(state)).replace(
        "./bench", "qemu-aarch64 ./bench"
    )
    return subprocess.run(["sh", "-c", script], check=False).returncode


def push(files: list[str], folder: str) -> int:
    if mode == "full":
        fail(f"error: failed to copy '{files[0]}' to '{folder}': remote No space left on device")
    if mode == "unplugged in the push":
        fail("error: failed to read copy response: EOF\nadb: error: device offline")
    for file in files:
        shutil.copy(file, folder.replace("/data/local/tmp", str(state)))
    return 0


arguments = sys.argv[1:]
if arguments == ["devices"]:
    print("List of devices attached")
    for name, what in DEVICES.get(mode, {"R58M": "device"}).items():
        print(f"{name}\t{what}")
    print()
    sys.exit(0)
assert arguments[0] == "-s", arguments
serial, command, *rest = arguments[1:]
sys.exit(shell(*rest) if command == "shell" else push(rest[:-1], rest[-1]))
