"""A small bundle, and the emulator that runs what is built for AArch64."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rt3d_tvm.bundle.make import bundle
from tests.bundle.building import built


@dataclass(frozen=True)
class Small:
    """The bundle of the small network `pair`, the driver linked with it, and the artifact."""

    artifact: Path
    bundle: Path
    driver: Path


@pytest.fixture(scope="session")
def small(pair, tmp_path_factory) -> Small:
    folder = tmp_path_factory.mktemp("bundle")
    bundle(pair.folder, folder / "bundle")
    return Small(pair.folder, folder / "bundle", built(folder / "bundle", folder / "driver"))


@pytest.fixture
def qemu(request) -> Callable[[], str]:
    """The emulator of AArch64 programs; the emulated phone's set-up installs it where it may."""
    if shutil.which("qemu-aarch64") is None:
        request.getfixturevalue("phone")
    return shutil.which("qemu-aarch64")
