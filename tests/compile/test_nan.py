"""A NaN of an input or a weight reaches the output, and a diverged model is told from another."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from rt3d_tvm import cli
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.errors import InputError
from tests.nan_models import (
    FOLLOWING,
    INF,
    NAN,
    SHAPE,
    diverged,
    node,
    reference,
    save,
    spoiled,
    values,
)
from tests.opencl import device


@pytest.mark.parametrize("name", FOLLOWING)
def test_what_is_no_number_comes_out_as_in_onnx_runtime(name, tmp_path):
    nodes, constants = FOLLOWING[name]
    conv = node("Conv", ["x", "w"], ["c"], pads=[1] * 6)
    path = save(tmp_path / "m.onnx", [conv, *nodes], w=values(8, 3, 3, 3, 3), **constants)
    compile_onnx(path, tmp_path / "a")
    artifact = load(tmp_path / "a")
    for x in (spoiled(NAN), spoiled(INF), spoiled(-INF)):
        np.testing.assert_allclose(artifact.run(x), reference(path, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["host", "opencl"])
def test_a_pool_keeps_a_nan_as_torch_does(target, tmp_path):
    """ONNX Runtime drops one or not by where it lies in the window; torch keeps all."""
    pool = node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3, 3], pads=[1] * 6)
    conv = node("Conv", ["x", "w"], ["c"])
    path = save(tmp_path / "m.onnx", [conv, pool], w=values(8, 3, 1, 1, 1))
    x = spoiled(NAN)
    between = functional.conv3d(*map(torch.from_numpy, (x, values(8, 3, 1, 1, 1))))
    expected = functional.max_pool3d(between, 3, stride=1, padding=1).numpy()
    compile_onnx(path, tmp_path / "a", target=target)
    if target == "host":
        artifact = load(tmp_path / "a")
    else:
        artifact = load_opencl(tmp_path / "a", device=device(half=False))
    np.testing.assert_allclose(artifact.run(x), expected, rtol=1e-4, atol=1e-5)


def test_winograds_transforms_keep_a_nan_in_the_tile_around_it(tmp_path):
    """And hand it to no more than the outputs of the tiles that read it."""
    shape = (1, 64, 4, 25, 26)
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1] * 6), node("Relu", ["c"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, shape=shape, w=values(64, 64, 3, 3, 3))
    manifest = compile_onnx(path, tmp_path / "a")
    assert manifest["layers"][0]["kernel"] == "winograd_conv3d"
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    x[0, 5, 3, 9, 9] = NAN  # the transforms read 6 x 6 values for 4 x 4 outputs
    found, wanted = np.isnan(load(tmp_path / "a").run(x)), np.isnan(reference(path, x))
    assert found[wanted].all()
    assert not found[:, :, :2].any() and found[:, :, 2:].sum() <= 64 * 2 * (2 * 4) ** 2


@pytest.mark.parametrize(
    ("bias", "said"), [(NAN, r"first\.bias \(1 NaN of 16\)"), (INF, r"first\.bias \(1 infinite")]
)
def test_weights_that_are_no_numbers_are_refused(bias, said, tmp_path):
    path = diverged(tmp_path / "m.onnx", bias=bias)
    with pytest.raises(InputError, match=rf"m\.onnx: .*{said}.*--allow-non-finite"):
        compile_onnx(path, tmp_path / "a")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_a_filter_pruned_whole_does_not_hide_its_bias(tmp_path):
    path, x = diverged(tmp_path / "m.onnx"), spoiled(0)
    manifest = compile_onnx(path, tmp_path / "a", allow_non_finite=True)
    assert manifest["non_finite"] == ["first.bias (1 NaN of 16)"]
    assert np.isnan(reference(path, x)).all() and np.isnan(load(tmp_path / "a").run(x)).all()


def test_a_model_that_computes_nothing_names_no_class(tmp_path, capsys):
    """On the command line: status 2 and one line, and no table."""
    path, folder, video = diverged(tmp_path / "m.onnx"), tmp_path / "a", tmp_path / "v.mp4"
    make_clip(video, frames=20, size=48)
    compiling = ["compile", path, "-o", folder]

    def run(*argv) -> tuple[int, str, str]:
        return cli.main([str(arg) for arg in argv]), *capsys.readouterr()

    status, printed, error = run(*compiling)
    assert status == 2 and "first.bias (1 NaN of 16)" in error and not folder.exists()
    status, printed, error = run(*compiling, "--allow-non-finite")
    assert status == 0 and "note: not finite: first.bias (1 NaN of 16)" in printed
    for argv in (["run", folder, video, "--model", "c3d"], ["verify", folder, "--onnx", path]):
        status, printed, error = run(*argv)
        assert (status, printed, error.count("\n")) == (2, "", 1)
        assert "NaN" in error
    status, printed, error = run("bench", folder, "--runs", 1)
    assert status == 0 and "is NaN or infinite" in printed


@pytest.mark.parametrize(("last", "most"), [(0.0, 0.0), (3e38, 1e-4)])
def test_zeros_and_infinities_are_compared(last, most, tmp_path):
    """A model that gives zeros, and one whose products overflow; neither divides by zero."""
    path = diverged(tmp_path / "m.onnx", bias=40.0, last=last)
    compile_onnx(path, tmp_path / "a")
    x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    assert np.isinf(reference(path, x)).any() == bool(last)
    result = verify(tmp_path / "a", path)
    assert result.passed and result.max_rel_error <= most
