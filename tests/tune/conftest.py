"""The fixtures that tests of searches share."""

from tests.searches import onnx_path, sabotaged

__all__ = ["onnx_path", "sabotaged"]
