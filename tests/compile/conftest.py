"""Files of small ONNX models."""

import onnx
import pytest


@pytest.fixture
def save(tmp_path):
    def write(model, name="m.onnx", **options):
        onnx.save(model, tmp_path / name, **options)
        return tmp_path / name

    return write
