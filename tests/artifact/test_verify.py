"""What verify says of an artifact that is not finite where the reference is."""

from __future__ import annotations

import json

import numpy as np

from rt3d_tvm import cli
from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from tests.artifact.networks import expected, write_network


def test_values_that_are_not_finite_are_counted(tmp_path, capsys):
    onnx = write_network(tmp_path / "model.onnx")
    folder = tmp_path / "artifact"
    compile_onnx(write_network(tmp_path / "roots.onnx", activation="Sqrt"), folder)
    rng = np.random.default_rng(0)
    shape = json.loads((folder / "manifest.json").read_text())["inputs"][0]["shape"]
    x = rng.standard_normal(shape, dtype="float32")
    roots = int(np.isnan(expected(tmp_path / "roots.onnx", x)).sum())
    assert roots > 0
    result = verify(folder, onnx, inputs=1)
    assert not result.passed
    assert result.not_finite == roots
    args = ["verify", str(folder), "--onnx", str(onnx), "--inputs", "1", "--json", "-"]
    assert cli.main(args) == 1
    said = "".join(capsys.readouterr())
    assert f"{roots} values are NaN or infinite where ONNX Runtime's are numbers" in said
    assert '"max_rel_error": null' in said
