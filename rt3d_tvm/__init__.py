"""Structured-sparse 3D CNNs from pruning to phone: RT3D as an extension of Apache TVM.

    import rt3d_tvm as rt

    rt.prune(model, rate=3.0, group="8x4", example_inputs=clip)
    rt.compile(model, "artifact", example_inputs=clip)
    y = rt.load("artifact").run(clip.numpy())

Nothing is imported before it is used: `rt3d_tvm.api` says what each function needs.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from rt3d_tvm.package.called import API, Root
from rt3d_tvm.package.moved import keep_former_names
from rt3d_tvm.package.version import __version__

if TYPE_CHECKING:
    from rt3d_tvm.api import (
        Pruner,
        bench,
        compile,
        export,
        load,
        phases,
        prune,
        quantize,
        report,
        tune,
        verify,
    )

__all__ = [
    "Pruner",
    "__version__",
    "bench",
    "compile",
    "export",
    "load",
    "phases",
    "prune",
    "quantize",
    "report",
    "tune",
    "verify",
]

_FOLDERS = ("compile", "export", "prune", "quantize", "tune")


def __getattr__(name: str) -> object:
    """What ``__all__`` names, when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _FOLDERS:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(API), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = Root
keep_former_names()
