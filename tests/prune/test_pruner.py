"""The pruner around a training loop: rates, masks, and real sparsity."""

import copy
import io
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from rt3d_tvm.console import write_json
from rt3d_tvm.prune.pruner import Heuristic, Regularization, Reweighted
from rt3d_tvm.prune.report import print_report
from tests.prune.small_training import (
    SMALL,
    adam,
    batches,
    overall_rate,
    pruner_of,
    scheme,
    sgd,
    small,
    train,
    whole_units,
)
from topi_sparse.kernel_group import KernelGroup


@pytest.mark.parametrize("keep_calling", [True, False])
@pytest.mark.parametrize("new_optimizer", [True, False])
@pytest.mark.parametrize("kind", [sgd, adam])
def test_masks_hold_through_retraining_and_in_the_optimizer(kind, new_optimizer, keep_calling):
    model = small()
    pruner = pruner_of(model, kind(model))
    train(pruner, batches())  # the optimizer has state of what will be pruned
    pruner.finalize(batches())
    if new_optimizer:
        pruner.use_optimizer(kind(model))
    kept_before = {n: model.get_submodule(n).weight.detach().clone() for n in pruner.masks}
    for _ in range(3):
        train(pruner, batches(), regularize=keep_calling)
        for name, mask in pruner.masks.items():
            weight = model.get_submodule(name).weight
            assert not mask.all()
            assert not weight.detach()[~mask].any()
            assert not torch.equal(weight.detach(), kept_before[name])
            state = pruner.optimizer.state[weight]
            buffers = [v for v in state.values() if v is not None and v.shape == weight.shape]
            assert len(buffers) == (1 if kind is sgd else 3)
            for buffer in buffers:
                assert not buffer[~mask].any()
                assert buffer[mask].any()


def test_clearing_gradients_changes_nothing_that_is_kept():
    """The kept weights go where they would if the pruned ones had never been parameters."""
    ends = []
    for keep_calling in (True, False):
        model = small()
        pruner = pruner_of(model, adam(model))
        pruner.finalize(batches())
        train(pruner, batches(), regularize=keep_calling)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_regularize_adds_the_gradient_of_the_penalty_in_every_layer():
    model = small()
    algorithm = Reweighted(lambda_=0.3, l1_share=0.4)
    pruner = pruner_of(model, algorithm=algorithm)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    at = model[3].weight
    pruner.regularize()
    step = 1e-2
    with torch.no_grad():
        index = (1, 2, 0, 1, 1)
        at[index] += step
        above = pruner.penalty()
        at[index] -= 2 * step
        below = pruner.penalty()
    assert float(at.grad[index]) == pytest.approx((above - below) / (2 * step), rel=1e-2)
    assert model[5].weight.grad.any()
    assert not model[9].weight.grad.any()


def test_layers_are_penalised_by_their_macs():
    """Two layers of equal weights; the second runs at a quarter of the positions."""
    first, second = nn.Conv3d(8, 8, 1, bias=False), nn.Conv3d(8, 8, 1, bias=False)
    second.weight.data.copy_(first.weight.data)
    model = nn.Sequential(first, nn.AvgPool3d((1, 2, 2)), second)
    pruner = pruner_of(model, input_shape=(1, 8, 1, 4, 4))
    for layer in (first, second):
        layer.weight.grad = torch.zeros_like(layer.weight)
    pruner.regularize()
    torch.testing.assert_close(first.weight.grad, 4 * second.weight.grad)
    # Their costs are 1.6 and 0.4: the mean is 1.
    total = float((first.weight.grad + second.weight.grad).norm())
    alone = pruner_of(nn.Sequential(copy.deepcopy(first)), input_shape=(1, 8, 1, 4, 4))
    alone.model[0].weight.grad = torch.zeros_like(first.weight)
    alone.regularize()
    assert total == pytest.approx(2 * float(alone.model[0].weight.grad.norm()), rel=1e-5)


def test_only_the_reweighted_algorithm_takes_its_penalties_anew():
    for algorithm, changes in ((Regularization(), False), (Reweighted(), True)):
        model = small()
        pruner = pruner_of(model, algorithm=algorithm)
        model[5].weight.data[:4] *= 0.1  # one row block gets weak
        before = pruner.penalty()
        pruner.update()
        assert pruner.iteration == 1
        assert (pruner.penalty() != before) is changes


def test_the_heuristic_leaves_training_alone():
    model = small()
    pruner = pruner_of(model, algorithm=Heuristic())
    clips, labels = batches(1)[0]
    nn.functional.cross_entropy(model(clips), labels).backward()
    before = [p.grad.clone() for p in model.parameters()]
    pruner.regularize()
    pruner.update()
    assert pruner.penalty() == 0
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))


def test_reweighting_drives_units_to_zero_and_keeps_what_matters():
    """Sparse before anything is cut; cutting the rest then costs no accuracy at all."""
    data, tests = batches(40), batches(8, seed=2)

    def accuracy(model):
        model.eval()
        with torch.no_grad():
            right = [(model(clips).argmax(1) == labels).float().mean() for clips, labels in tests]
        return float(torch.stack(right).mean())

    def energy_of(model):
        return sum(float(model[i].weight.detach().square().sum()) for i in (0, 3, 5))

    densities, lost = {}, {}
    for lambda_ in (0.0, 0.02):
        model = small()
        pruner = pruner_of(model, sgd(model, lr=0.02), Reweighted(lambda_=lambda_), rate=2.5)
        densities[lambda_] = [pruner.density()]
        for _ in range(8):
            train(pruner, data)
            pruner.update()
            densities[lambda_].append(pruner.density())
        energy = energy_of(model)
        before = accuracy(model)
        report = pruner.finalize(data)
        lost[lambda_] = 1 - energy_of(model) / energy
        assert report.rate == pytest.approx(2.5, rel=0.01)
        assert before > 0.95
        assert accuracy(model) >= before - 0.02
    assert min(densities[0.0]) > 0.95
    assert densities[0.02][0] > 0.95
    assert densities[0.02][-1] < 0.5
    assert lost[0.02] < 1e-3 < 0.1 < lost[0.0]


def test_batchnorm_is_estimated_again_from_the_pruned_model():
    model = small().train()
    pruner = pruner_of(model)
    train(pruner, batches())  # so that there are statistics to forget
    data = batches(3)
    momentum = model[1].momentum
    pruner.finalize(data)
    with torch.no_grad():
        seen = [model[0](clips) for clips, _ in data]
    mean = torch.stack([x.mean(dim=(0, 2, 3, 4)) for x in seen]).mean(0)
    var = torch.stack([x.var(dim=(0, 2, 3, 4)) for x in seen]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, var, rtol=1e-4, atol=1e-5)
    assert model[1].momentum == momentum
    assert all(module.training for module in model.modules())


def test_the_model_stays_what_it_is_and_comes_back_plain():
    model = small()
    keys, kind = list(model.state_dict()), type(model)
    parameters = [id(p) for p in model.parameters()]
    pruner = pruner_of(model)
    train(pruner, batches())
    pruner.finalize(batches())
    assert pruner.strip() is model
    assert (list(model.state_dict()), type(model)) == (keys, kind)
    assert [id(p) for p in model.parameters()] == parameters
    assert overall_rate(model, SMALL) == pytest.approx(2.0, rel=0.01)
    modules = list(model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)
    assert not pruner.optimizer._optimizer_step_post_hooks
    weight = model[0].weight.detach()
    assert not torch.signbit(weight[weight == 0]).any()
    with pytest.raises(RuntimeError, match="let go"):
        pruner.regularize()


def test_the_report_counts_before_and_after(tmp_path):
    model = small()
    pruner = pruner_of(model, group_sizes={"3": KernelGroup(g_m=7, g_n=5)}, ignore=["0"])
    dense = pruner.report()
    assert (dense.rate, dense.kept_params) == (1.0, dense.dense_params)
    report = pruner.finalize(batches())
    assert report.dense_params == sum(p.numel() for p in model.parameters())
    zeros = sum(int((model[i].weight == 0).sum()) for i in (0, 3, 5))
    assert report.kept_params == report.dense_params - zeros
    by_name = {layer.name: layer for layer in report.layers}
    assert {name: layer.group for name, layer in by_name.items()} == {
        "0": None,
        "3": "7x5",
        "5": "4x4",
        "9": None,
    }
    assert by_name["3"].dense_params == 14 * 5 * 27 + 14
    assert by_name["3"].kept_params == int(model[3].weight.count_nonzero()) + 14
    path = tmp_path / "report.json"
    write_json(path, report)
    assert json.loads(path.read_text())["layers"][1]["kept_macs"] == by_name["3"].kept_macs
    out = io.StringIO()
    print_report(report, file=out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "reweighted, kgs 7x5, kgs 4x4: " + f"{report.rate:.4g}x"
    assert len(lines) == 2 + len(report.layers) + 1
    assert str(by_name["3"].kept_macs) in lines[3]
    assert str(report.kept_params) in lines[-1]


def test_a_group_size_of_its_own_shapes_that_layers_mask():
    model = small()
    pruner = pruner_of(model, group_sizes={"5": KernelGroup(g_m=9, g_n=7)})
    pruner.finalize(batches())
    mask = pruner.masks["5"]
    assert whole_units(model[5].weight.detach(), mask, scheme(group="9x7"), 1)
    assert not mask.all()


def test_the_code_in_the_documentation_runs():
    text = Path(__file__).parents[2].joinpath("docs", "pruning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    model = small()
    names = {
        "model": model,
        "loader": batches(2),
        "optimizer": sgd(model),
        "loss_function": nn.functional.cross_entropy,
        "input_shape": SMALL,
    }
    for block in blocks:
        exec(compile(block, "docs/pruning.md", "exec"), names)
    assert overall_rate(model, SMALL) == pytest.approx(3.6, rel=0.01)
