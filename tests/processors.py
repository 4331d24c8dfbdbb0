"""Targets whose code this machine's processor may lack the instructions for."""

import pytest

from rt3d_tvm.artifact.cpu_features import lacking_here
from rt3d_tvm.compile.processor_needs import processor_needs
from rt3d_tvm.compile.targets import make_target


def runnable(*names: str) -> list:
    """Parameters of tests that run code: each target, skipped where it would be an illegal one."""
    found = []
    for name in names:
        lacking = lacking_here(processor_needs(make_target(name))["features"])
        reason = f"this processor has no {', '.join(lacking)} to run code for {name}"
        found.append(pytest.param(name, marks=pytest.mark.skipif(bool(lacking), reason=reason)))
    return found
