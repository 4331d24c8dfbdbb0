"""scripts/kernels/opencl_eta.py on a reduced model: what it compares, and what it says of it."""

import functools
import json

import numpy as np
import pytest

from rt3d_tvm.artifact.opencl import artifact
from rt3d_tvm.prune.benchmark import benchmark_pair
from tests.conftest import REDUCED
from tests.opencl import device


@pytest.fixture
def eta(script, monkeypatch):
    """The script, with C3D at reduced size and a GEMM of two small tilings."""
    module = script("kernels/opencl_eta.py")
    width, frames, size = REDUCED["c3d"]
    reduced = functools.partial(
        benchmark_pair, num_classes=10, width=width, frames=frames, size=size
    )
    monkeypatch.setattr(module, "benchmark_pair", reduced)
    monkeypatch.setattr(module, "SIZE", 96)
    monkeypatch.setattr(module, "TILINGS", module.TILINGS[:2])
    return module


def refuse(*_arguments, **_options):
    raise AssertionError("a device was chosen again")


def test_a_row_for_each_group_from_one_run_on_one_device(eta, tmp_path, monkeypatch, capsys):
    name, out = device(half=False).name.strip(), tmp_path / "eta.json"
    # The one that the peak is measured on runs the models as well.
    monkeypatch.setattr(artifact, "choose_device", refuse)
    argv = ["--models", "c3d", "--precision", "fp32", "--group", "8x4", "32x4", "--runs", "2"]
    argv += ["--work", str(tmp_path / "work"), "--json", str(out)]
    assert eta.main(argv) in (0, 1)
    printed = capsys.readouterr().out
    assert name in printed
    found = json.loads(out.read_text())
    assert name in found["device"]
    assert found["peak_gflops"] > 0
    assert [row["group"] for row in found["models"]] == ["8x4", "32x4"]
    dense = [row["samples_ms"]["dense"] for row in found["models"]]
    assert dense[0] == dense[1]
    for row in found["models"]:
        assert row["group"] in printed
        # Pruned to the paper's 3.6, the classifier apart.
        assert 2.5 < row["conv_rate"] < 4
        assert 1 < row["rate"] < 4
        for ms, rate, value in (("ms", "rate", "eta"), ("conv_ms", "conv_rate", "conv_eta")):
            speed_up = row[ms]["dense"] / row[ms]["kgs"]
            assert row[value] == pytest.approx(speed_up / row[rate])
        for kind in ("dense", "kgs"):
            runs = np.array(row["samples_ms"][kind])
            assert len(runs) == 2
            assert row["ms"][kind] == pytest.approx(np.median(runs, axis=0).sum())
            assert 0 < row["conv_ms"][kind] < row["ms"][kind]


def test_what_is_there_is_not_compiled_again(eta, tmp_path, monkeypatch):
    device(half=False)
    argv = ["--models", "c3d", "--precision", "fp32", "--work", str(tmp_path), "--compile-only"]
    assert eta.main(argv) == 0
    made = sorted(path.name for path in tmp_path.iterdir())
    # What the target prefers to be pruned in.
    assert made == [
        *("c3d_32x4-opencl-fp32", "c3d_32x4.onnx"),
        *("c3d_dense-opencl-fp32", "c3d_dense.onnx"),
    ]
    monkeypatch.setattr(eta, "compile_onnx", refuse)
    monkeypatch.setattr(eta, "benchmark_pair", refuse)
    assert eta.main(argv) == 0


def test_an_unknown_device_is_refused(eta, tmp_path, capsys):
    argv = ["--models", "c3d", "--opencl", "no such", "--work", str(tmp_path)]
    assert eta.main(argv) == 2
    assert "no OpenCL device called 'no such'" in capsys.readouterr().err


def test_an_unknown_target_is_refused(eta, tmp_path, capsys):
    assert eta.main(["--target", "cuda", "--work", str(tmp_path)]) == 2
    assert "unknown target 'cuda'" in capsys.readouterr().err


def test_there_are_enough_tilings_and_each_divides_the_gemm(script):
    module = script("kernels/opencl_eta.py")
    assert len(set(module.TILINGS)) >= 20
    for tiling in module.TILINGS:
        assert module.SIZE % tiling.rows == module.SIZE % tiling.columns == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_tiling_computes_the_product(script, monkeypatch, dtype):
    module = script("kernels/opencl_eta.py")
    monkeypatch.setattr(module, "SIZE", 96)
    monkeypatch.setattr(module, "GEMM_REPEATS", 1)
    tiling, gflops = module.best_gemm(device(half=dtype == "float16"), dtype)
    assert tiling in module.TILINGS
    assert gflops > 0


def test_a_wrong_product_is_no_result(eta, monkeypatch):
    right = eta.Tiling.source
    monkeypatch.setattr(eta.Tiling, "source", lambda *args: right(*args).replace("+=", "-="))
    with pytest.raises(RuntimeError, match="computes another product"):
        eta.best_gemm(device(half=False), "float32")


def test_a_classifier_is_no_convolution(eta):
    shapes = {"conv": (8, 14, 14), "row": (8, 1, 7), "classifier": (1, 1, 1), "pool": (8, 7, 7)}
    layers = [
        {"name": name, "kernel": name != "pool" and "opencl_kgs_conv3d", "out": [1, 8, *out]}
        for name, out in shapes.items()
    ]
    assert eta.convolutions({"layers": layers}) == {"conv", "row"}
