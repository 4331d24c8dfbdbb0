"""What a pruner refuses by name, and that nothing is changed then."""

import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from tests.prune.small_training import SMALL, batches, overall_rate, pruner_of, sgd, small
from topi_sparse.kernel_group import KernelGroup


def test_bad_arguments_are_named():
    model = small()
    with pytest.raises(InputError, match=r"ignore named conv9; layers: 0, 3, 5, 9"):
        pruner_of(model, ignore=["conv9"])
    with pytest.raises(InputError, match=r"group size for named 9; layers: 0, 3, 5"):
        pruner_of(model, group_sizes={"9": KernelGroup(g_m=4, g_n=4)})
    with pytest.raises(InputError, match="ignored and given a group size at once: 3"):
        pruner_of(model, ignore=["3"], group_sizes={"3": KernelGroup(g_m=4, g_n=4)})
    with pytest.raises(InputError, match="no convolution to prune"):
        pruner_of(model, ignore=["0", "3", "5"])
    with pytest.raises(InputError, match=r"at least 1, got 0\.9"):
        pruner_of(model, rate=0.9)
    with pytest.raises(InputError, match="beyond reach: the highest is"):
        pruner_of(model, rate=1e4)
    with pytest.raises(InputError, match="none of the weights to prune"):
        pruner_of(model, sgd(small()))
    with pytest.raises(InputError, match="does not take an input"):
        pruner_of(model, input_shape=(1, 5, 4, 6, 6))
    with pytest.raises(InputError, match="threshold"):
        pruner_of(model).density(0)


def test_batches_that_do_not_serve_leave_the_model_alone():
    model = small()
    pruner = pruner_of(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one = nn.Sequential(nn.AdaptiveAvgPool3d(1), *small())
    too_small = pruner_of(one, ignore=[])
    for attempt, reason in (
        (lambda: pruner.finalize(), "needs batches of clips: BatchNorm"),
        (lambda: pruner.finalize([]), "no batch of clips"),
        (lambda: too_small.finalize([torch.rand(SMALL)]), "too small for BatchNorm"),
    ):
        with pytest.raises(InputError, match=reason):
            attempt()
    assert not pruner.pruned
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert overall_rate(one, SMALL) == 1.0
    assert pruner.finalize(batches()).rate == pytest.approx(2.0, rel=0.01)


def test_calls_out_of_order_are_named():
    pruner = pruner_of(small())
    with pytest.raises(RuntimeError, match=r"between backward\(\) and step\(\)"):
        pruner.regularize()
    with pytest.raises(RuntimeError, match="nothing is pruned yet"):
        pruner.strip()
    pruner.finalize(batches())
    with pytest.raises(RuntimeError, match="called before"):
        pruner.finalize(batches())
    with pytest.raises(RuntimeError, match="comes before finalize"):
        pruner.update()
