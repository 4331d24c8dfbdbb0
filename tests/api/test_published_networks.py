"""The networks that other projects publish, pruned and compiled: each computes what torch does."""

import pytest
import torch

import rt3d_tvm as rt
from rt3d_tvm.models import MODELS, build_model
from rt3d_tvm.models.seeded import noise_clip, seeded_
from topi_sparse.kernel_group import KernelGroup

# And the frames of a clip. mmaction2's R(2+1)D-34 has all layers of the other one and more.
NETWORKS = {"r2plus1d_34_mmaction2": 8, "r2plus1d_50": 8, "x3d_xs": 4}


@pytest.mark.parametrize(("name", "frames"), NETWORKS.items())
def test_every_layer_has_a_kernel_and_the_values_stay_packed(name, frames, tmp_path):
    shape = MODELS[name].shape_of(frames, 32)
    model = build_model(name, 5, 0.25)
    seeded_(model, seed=0, group=KernelGroup(g_m=8, g_n=4), input_shape=shape)
    # Depthwise convolutions stay whole, and much of a small X3D's work is theirs.
    report = rt.prune(model, rate=1.3, group="8x4", input_shape=shape)
    whole = {layer.why_whole for layer in report.layers if not layer.pruned}
    assert whole <= {"depthwise: its filters read one channel each", "a linear layer"}
    manifest = rt.compile(model, tmp_path / "a", input_shape=shape)
    assert [layer["name"] for layer in manifest["layers"] if layer["kernel"] is None] == []
    assert manifest["layout_changes"] == 2
    clip = noise_clip(shape, seed=1)
    with torch.no_grad():
        expected = model(clip).numpy()
    found = rt.load(tmp_path / "a").run(clip.numpy())
    assert abs(found - expected).max() <= 1e-4 * abs(expected).max()
