"""The algorithms of pruning train architectures of every kind."""

import pytest
import torch

from rt3d_tvm.prune.pruner import ALGORITHMS, Pruner
from tests.prune.small_training import scheme, sgd
from tests.zoo.models import ZOO
from tests.zoo.pruned import rate_of

# Those with more than convolutions in a row, each trained by one algorithm.
TRAINED = {
    "heuristic": ("movinet", "shufflenet_v2_3d", "psmnet"),
    "regularization": ("slowfast", "segresnet", "tsm"),
    "reweighted": ("unet3d", "lipreading", "c3d_transformer"),
}


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
