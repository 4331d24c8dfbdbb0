"""Every architecture is pruned at 2.6x of what can be pruned, strictly reported, exported and
compiled; it computes what ONNX Runtime does, and none becomes worse than docs/models.md says.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import layer_names
from rt3d_tvm.prune.inputs import leaves
from rt3d_tvm.prune.probe import on_the_side
from tests.zoo.exports import EXPORTERS, LEGACY, NotExported
from tests.zoo.models import ZOO
from tests.zoo.models_page import PAGE, compiled, layout_changes, page, recorded
from tests.zoo.pruned import Pruned, pruned

# What may stay whole; all else is pruned.
WHOLE = {
    "depthwise: its filters read one channel each",
    "a linear layer",
    "a product of activations, without weights",
    # The memory of an autoencoder, which it is looked up in and read from.
    "its weight is used with its filters on one axis and on the other",
}
# Products that depend on no input: with the zeros that each direction of two GRUs begins with.
OF_NO_INPUT = {"lipnet": 4 * 16 * 48}
# The largest error that passes, |y - reference| over the largest |reference|, in float32.
LIMIT = 1e-4
# Layout changes of what torch itself exports, where they are more than of the pruned model: a
# grouped convolution that pays only when it is pruned, and a LayerNorm that opset 13 has not.
CHANGES_WHEN_DENSE = {"artnet": 8, "mvit": 18, "video_swin": 4}
# Processes of pytest-xdist may share the file in so many parts: each prunes and exports its own.
PARTS = 4


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.xdist_group(f"zoo{number % PARTS}"))
        for number, name in enumerate(ZOO)
    ],
)
def architecture(request, tmp_path_factory) -> Pruned:
    """Pruned and exported, without a warning; once for all of its tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="torch")  # of its own insides
        return pruned(request.param, tmp_path_factory.mktemp(request.param))


def multiply_adds(model, inputs):
    """As torch counts them itself, attention in single steps."""
    with on_the_side(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def test_it_is_pruned_and_reported(architecture):
    report, before = architecture.report, architecture.before
    inputs = ZOO[architecture.name].inputs()
    assert report.rate == pytest.approx(architecture.rate, rel=0.01)
    computed = multiply_adds(ZOO[architecture.name].build(), inputs)
    assert report.dense_macs == computed - OF_NO_INPUT.get(architecture.name, 0)
    assert {layer.why_whole for layer in report.layers if not layer.pruned} <= WHOLE
    after, kept = architecture.model.state_dict(), 0
    weights = {f"{layer.name}.weight": layer for layer in report.layers if layer.pruned}
    for key, value in after.items():
        if key in weights:
            assert torch.equal(value, torch.where(value == 0, 0, before[key]))
            share = int(torch.count_nonzero(value)) / value.numel()
            kept += round(share * weights[key].dense_macs)
        else:
            assert torch.equal(value, before[key])
    kept += sum(layer.dense_macs for layer in report.layers if not layer.pruned)
    assert report.kept_macs == kept
    with torch.no_grad():
        assert all(bool(out.isfinite().all()) for out in leaves(architecture.model(*inputs)))

    export = architecture.export
    assert export.max_rel_error <= export.tolerance
    zeros = [numpy_helper.to_array(each) == 0 for each in onnx.load(export.path).graph.initializer]
    for key in weights:
        assert any(np.array_equal(after[key].numpy() == 0, each) for each in zeros), key


def test_it_computes_what_onnx_runtime_does(architecture, tmp_path):
    figures, result = compiled(architecture, tmp_path)
    assert result.max_rel_error <= min(result.limit, LIMIT), result
    assert result.sensitivity >= 10 * result.limit  # else a small error would prove nothing
    before = recorded()[architecture.name]
    assert figures.layers == before.layers
    assert figures.kernels >= before.kernels
    assert figures.layout_changes <= before.layout_changes
    assert set(figures.untested) <= set(before.untested)


def most_changes(name):
    """Layout changes that an architecture may have as torch exports it, which is dense."""
    return CHANGES_WHEN_DENSE.get(name, recorded()[name].layout_changes)


def written(name, exporter, folder):
    """The file of an exporter; skipped where that has no operator for the model in its opset."""
    path = folder / "model.onnx"
    try:
        exporter.write(ZOO[name], path)
    except NotExported as error:
        pytest.skip(str(error))
    return path


@pytest.mark.parametrize(
    ("name", "exporter"),
    [(name, LEGACY[number % len(LEGACY)]) for number, name in enumerate(ZOO)],
    ids=str,
)
def test_the_compiler_reads_the_older_exporter(name, exporter, tmp_path):
    """One per architecture, in turn, up to its layouts; the full tests compile them all."""
    path = written(name, exporter, tmp_path)
    assert len(layer_names(path)) == recorded()[name].layers
    assert layout_changes(path) <= most_changes(name)


@pytest.mark.full
@pytest.mark.parametrize("exporter", EXPORTERS, ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_what_torch_exports_is_compiled(name, exporter, tmp_path):
    path = written(name, exporter, tmp_path)
    manifest = compile_onnx(path, tmp_path / "artifact")
    result = verify(tmp_path / "artifact", path)
    assert result.max_rel_error <= min(result.limit, LIMIT), result
    assert len(manifest["layers"]) == recorded()[name].layers
    assert layout_changes(path) <= most_changes(name)


def test_the_page_of_models_is_of_its_figures():
    assert list(recorded()) == list(ZOO)
    assert PAGE.read_text(encoding="utf-8") == page(recorded()), "python -m tests.zoo.models_page"
