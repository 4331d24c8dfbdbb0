"""Every architecture is pruned at 2.6x of what can be pruned, strictly reported, and exported."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from rt3d_tvm.export import export_onnx
from rt3d_tvm.prune.inputs import leaves
from rt3d_tvm.prune.probe import on_the_side
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.pruner import ALGORITHMS, Pruner
from tests.prune.small_training import scheme, sgd
from tests.zoo.models import ZOO
from tests.zoo.rates import rate_of

# Those with more than convolutions in a row, each trained by one algorithm.
TRAINED = {
    "heuristic": ("movinet", "shufflenet_v2_3d", "psmnet"),
    "regularization": ("slowfast", "segresnet", "tsm"),
    "reweighted": ("unet3d", "lipreading", "c3d_transformer"),
}
# What may stay whole; all else is pruned.
WHOLE = {
    "depthwise: its filters read one channel each",
    "a linear layer",
    "a product of activations, without weights",
}


def multiply_adds(model, inputs):
    """As torch counts them itself, attention in single steps."""
    with on_the_side(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ZOO)
def test_it_is_pruned_and_reported(name, tmp_path):
    model, inputs = ZOO[name].build(), ZOO[name].inputs()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rate, dense = rate_of(model, inputs), multiply_adds(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = project_(model, scheme=scheme(group="8x4"), rate=rate, example_inputs=inputs)
    assert report.rate == pytest.approx(rate, rel=0.01)
    assert report.dense_macs == dense
    assert {layer.why_whole for layer in report.layers if not layer.pruned} <= WHOLE
    after, kept = model.state_dict(), 0
    pruned = {f"{layer.name}.weight": layer for layer in report.layers if layer.pruned}
    for key, value in after.items():
        if key in pruned:
            assert torch.equal(value, torch.where(value == 0, 0, before[key]))
            share = int(torch.count_nonzero(value)) / value.numel()
            kept += round(share * pruned[key].dense_macs)
        else:
            assert torch.equal(value, before[key])
    kept += sum(layer.dense_macs for layer in report.layers if not layer.pruned)
    assert report.kept_macs == kept
    with torch.no_grad():
        assert all(bool(out.isfinite().all()) for out in leaves(model(*inputs)))

    export = export_onnx(model, None, tmp_path / "model.onnx", example_inputs=inputs)
    assert export.max_rel_error <= export.tolerance
    graph = onnx.load(tmp_path / "model.onnx").graph
    zeros = [numpy_helper.to_array(each) == 0 for each in graph.initializer]
    for key in pruned:
        assert any(np.array_equal(after[key].numpy() == 0, each) for each in zeros), key


@pytest.mark.parametrize(
    ("name", "algorithm"), [(name, how) for how, names in TRAINED.items() for name in names]
)
def test_two_steps_of_training_and_the_masks_hold(name, algorithm):
    model, inputs = ZOO[name].build(), ZOO[name].inputs()
    rate = rate_of(model, inputs)
    pruner = Pruner(
        model,
        sgd(model, lr=1e-4),
        ALGORITHMS[algorithm](),
        scheme=scheme(group="8x4"),
        rate=rate,
        example_inputs=inputs,
    )
    for step in range(2):
        pruner.optimizer.zero_grad()
        model(*inputs).square().mean().backward()
        pruner.regularize()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        pruner.optimizer.step()
        if step == 0:
            report = pruner.finalize([inputs])
    assert report.rate == pytest.approx(rate, rel=0.01)
    model = pruner.strip()
    zeros = sum(int((~mask).sum()) for mask in pruner.masks.values())
    assert zeros > 0
    for key, mask in pruner.masks.items():
        assert not model.get_submodule(key).weight[~mask].any()
    with torch.no_grad():
        assert model(*inputs).isfinite().all()
