"""Engines of an ONNX file: which there are, and what each of them computes."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rt3d_tvm.artifact.format import MANIFEST, read_manifest
from rt3d_tvm.artifact.tensors import arrays, noise
from rt3d_tvm.engines import engine as engines
from rt3d_tvm.engines.engine import artifact_engine, chosen
from rt3d_tvm.engines.onnx_file import onnx_engines
from rt3d_tvm.errors import InputError


@pytest.fixture
def small(pair):
    manifest = read_manifest(pair.folder / MANIFEST)
    return SimpleNamespace(
        folder=pair.folder,
        onnx=pair.onnx,
        manifest=manifest,
        x=noise(manifest, np.random.default_rng(0)),
    )


def first(result):
    """The first output, however an engine wraps it."""
    if isinstance(result, torch.Tensor):
        return result.numpy()
    return result if isinstance(result, np.ndarray) else next(iter(_values(result)))


def _values(result):
    return result if isinstance(result, list) else result.values()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_an_engine_computes_what_the_artifact_does(name, small):
    if name != "onnxruntime":
        pytest.importorskip(engines.PACKAGES[name], exc_type=Exception)
    expected = artifact_engine(small.folder, small.manifest, small.x).open(1, 1)[0]()
    (engine,) = onnx_engines(small.onnx, [name], [small.manifest], [small.x])
    runners = engine.open(2, 1)
    assert len(runners) == 2
    for run in runners:
        assert first(run()) == pytest.approx(first(expected), abs=1e-4 * float(abs(expected).max()))


def test_each_runner_of_an_artifact_is_one_of_its_own(small):
    runners = artifact_engine(small.folder, small.manifest, small.x).open(2, 1)
    assert runners[0].func.__self__ is not runners[1].func.__self__
    np.testing.assert_array_equal(runners[0](), runners[1]())


def test_engines_that_are_not_there_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(engines, "_is_installed", lambda package: package == "onnxruntime")
    assert chosen(None) == ["onnxruntime"]
    assert chosen(["onnxruntime", "onnxruntime"]) == ["onnxruntime"]
    with pytest.raises(InputError, match=r"openvino is not installed: pip .*\[peers"):
        chosen(["openvino"])
    with pytest.raises(InputError, match="engine 'tensorrt': onnxruntime, openvino, torch are"):
        chosen(["tensorrt"])


def converter(monkeypatch, convert):
    monkeypatch.setitem(sys.modules, "onnx2torch", SimpleNamespace(convert=convert))


def test_torch_runs_what_onnx2torch_makes_of_the_file(small, monkeypatch):
    converter(monkeypatch, lambda model: torch.nn.ReLU())
    (engine,) = onnx_engines(small.onnx, ["torch"], [small.manifest], [small.x])
    before = torch.get_num_threads()
    (run,) = engine.open(1, 1)
    np.testing.assert_array_equal(run().numpy(), arrays(small.x)[0].clip(min=0))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_an_operator_that_onnx2torch_knows_not_leaves_torch_out(small, monkeypatch):
    def refuse(model):
        raise NotImplementedError("Converter is not registered (Foo)")

    converter(monkeypatch, refuse)
    left_out = []
    about = (small.onnx, ["onnxruntime", "torch"], [small.manifest], [small.x])
    assert len(onnx_engines(*about, left_out=left_out)) == 1
    assert "torch is left out:" in left_out[0] and "not registered (Foo)" in left_out[0]
    with pytest.raises(InputError, match="onnx2torch cannot convert it"):
        onnx_engines(*about)


def test_a_file_of_another_model_is_refused(small, compiled_c3d):
    with pytest.raises(InputError, match="not of one model"):
        onnx_engines(compiled_c3d.onnx, ["onnxruntime"], [small.manifest], [small.x])
