"""Structured-sparse 3D CNNs from pruning to phone: RT3D as an extension of Apache TVM."""

from rt3d_tvm.package.moved import keep_former_names
from rt3d_tvm.package.version import __version__

__all__ = ["__version__"]

keep_former_names()
