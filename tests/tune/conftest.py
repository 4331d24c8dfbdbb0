"""The fixtures that tests of searches share."""

from tests.bundle.conftest import qemu
from tests.searches import onnx_path, sabotaged

__all__ = ["onnx_path", "qemu", "sabotaged"]
