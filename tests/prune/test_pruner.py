"""The pruner around a training loop: rates, masks, checkpoints, and real sparsity."""

import copy
import io
import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from rt3d_tvm.console import write_json
from rt3d_tvm.errors import InputError
from rt3d_tvm.models import CLIP_MODELS, MODELS, build_model
from rt3d_tvm.models.seeded import seeded_
from rt3d_tvm.prune.macs import count_macs
from rt3d_tvm.prune.project import print_report
from rt3d_tvm.prune.pruner import ALGORITHMS, Heuristic, Pruner, Regularization, Reweighted
from rt3d_tvm.prune.schemes import SCHEMES, Scheme
from topi_sparse.kernel_group import KernelGroup

CLIP = (1, 3, 16, 32, 32)
SMALL = (1, 4, 4, 6, 6)
CLASSES = 3


def scheme(name="kgs", group="4x4"):
    return Scheme(name=name, group=KernelGroup.parse(group))


def small(seed=0):
    """BatchNorm, dropout, a grouped convolution and a remainder in every direction."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(4, 10, 3, padding=1, bias=False),
        nn.BatchNorm3d(10),
        nn.ReLU(),
        nn.Conv3d(10, 14, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv3d(14, 9, 3, padding=1),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(9, CLASSES),
    )


def batches(count=4, *, seed=1):
    """Clips of three classes: noise over a pattern of the class."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(CLASSES, *SMALL[1:], generator=torch.Generator().manual_seed(9))
    found = []
    for _ in range(count):
        labels = torch.randint(CLASSES, (8,), generator=generator)
        noise = torch.randn(8, *SMALL[1:], generator=generator)
        found.append((pattern[labels] + 0.5 * noise, labels))
    return found


def sgd(model, lr=0.05):
    return torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-3
    )


def adam(model, lr=1e-2):
    return torch.optim.AdamW(model.parameters(), lr=lr, amsgrad=True, weight_decay=1e-2)


def pruner_of(model, optimizer=None, algorithm=None, *, of="kgs", rate=2.0, **options):
    return Pruner(
        model,
        optimizer or sgd(model),
        algorithm or Reweighted(),
        scheme=options.pop("scheme", scheme(of)),
        rate=rate,
        input_shape=options.pop("input_shape", SMALL),
        **options,
    )


def train(pruner, data, *, regularize=True):
    pruner.model.train()
    for clips, labels in data:
        pruner.optimizer.zero_grad()
        nn.functional.cross_entropy(pruner.model(clips), labels).backward()
        if regularize:
            pruner.regularize()
        pruner.optimizer.step()


def overall_rate(model, input_shape):
    layers = count_macs(model, input_shape)
    return sum(layer.dense for layer in layers) / sum(layer.kept for layer in layers)


def whole_units(weight, mask, of, groups):
    """Whether a mask keeps or drops each unit of the weight as a whole."""
    share = of.norms(mask.double(), order=1, groups=groups) / of.sizes(mask.shape, groups=groups)
    return bool(((share == 0) | (share == 1)).all()) and not weight[~mask].any()


def check_all_nine(name, model, input_shape, clips, rate):
    for algorithm in ALGORITHMS.values():
        for of in SCHEMES:
            pruned = copy.deepcopy(model)
            pruner = pruner_of(
                pruned,
                algorithm=algorithm(),
                of=of,
                rate=rate,
                input_shape=input_shape,
                ignore=MODELS[name].classifiers,
            )
            report = pruner.finalize(clips)
            assert overall_rate(pruned, input_shape) == pytest.approx(rate, rel=0.01)
            assert report.rate == pytest.approx(rate, rel=0.01)
            for layer, mask in pruner.masks.items():
                module = pruned.get_submodule(layer)
                assert mask.any()
                assert whole_units(module.weight.detach(), mask, scheme(of), module.groups)


def full_size(name):
    """Weights whose units are as unequal as trained ones, and activations that are alive."""
    return seeded_(
        build_model(name),
        seed=0,
        group=KernelGroup(g_m=4, g_n=4),
        input_shape=MODELS[name].input_shape,
    )


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_the_rate_is_met_for_all_nine_combinations(name):
    torch.manual_seed(0)
    model = build_model(name, num_classes=11, width=0.25, frames=CLIP[2], size=CLIP[3])
    check_all_nine(name, model, CLIP, [torch.rand(2, *CLIP[1:])], 2.6)


@pytest.mark.full
@pytest.mark.parametrize("name", CLIP_MODELS)
def test_the_rate_is_met_for_all_nine_combinations_at_full_size(name):
    spec = MODELS[name]
    model = full_size(name)
    check_all_nine(name, model, spec.input_shape, [torch.rand(2, *spec.input_shape[1:])], 2.6)


@pytest.mark.full
def test_the_defaults_make_full_size_c3d_sparser_in_a_few_steps():
    spec = MODELS["c3d"]
    model = full_size("c3d")
    pruner = pruner_of(
        model,
        torch.optim.SGD(model.parameters(), lr=2e-4, momentum=0.9),
        input_shape=spec.input_shape,
        rate=spec.paper_rate,
        of="kgs",
    )
    before = {name: model.get_submodule(name).weight.detach().clone() for name in pruner._schemes}
    data = [(torch.randn(spec.input_shape), torch.tensor([step])) for step in range(4)]
    penalty = [pruner.penalty()]
    for batch in data:
        train(pruner, [batch])
        penalty.append(pruner.penalty())
    assert penalty == sorted(penalty, reverse=True)
    assert penalty[-1] < penalty[0]
    for name, weight in before.items():
        now = model.get_submodule(name).weight.detach()
        assert torch.isfinite(now).all()
        norms = [scheme().mean_norms(w) / w.double().square().mean().sqrt() for w in (weight, now)]
        weak = norms[0] < norms[0].median()
        assert norms[1][weak].mean() < norms[0][weak].mean()
        assert norms[1][~weak].mean() > norms[1][weak].mean()
    pruner.update()
    assert pruner.finalize().rate == pytest.approx(spec.paper_rate, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_model_is_pruned_by_whole_units(data):
    conv_groups = data.draw(st.sampled_from([1, 2]))
    middle = conv_groups * data.draw(st.integers(3, 7))
    kernel = data.draw(st.sampled_from([1, (1, 3, 3), (3, 1, 1), 3]))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = nn.Sequential(
        nn.Conv3d(3, middle, kernel, padding="same"),
        nn.Conv3d(middle, 6 * conv_groups, 3, groups=conv_groups, padding=1),
    )
    group = f"{data.draw(st.integers(1, 5))}x{data.draw(st.integers(1, 3))}"
    of = scheme(data.draw(st.sampled_from(["vanilla", "kgs"])), group)
    algorithm = data.draw(st.sampled_from(list(ALGORITHMS.values())))()
    shape = (1, 3, 3, 4, 4)
    try:
        pruner = pruner_of(model, algorithm=algorithm, scheme=of, rate=1.5, input_shape=shape)
        report = pruner.finalize([torch.rand(1, *shape[1:])])
    except InputError as error:
        # A handful of units: no mask of this structure has the rate.
        assert "cannot be met" in str(error) or "beyond reach" in str(error)
        return
    assert report.rate == pytest.approx(overall_rate(model, shape)) == pytest.approx(1.5, rel=0.01)
    for name, mask in pruner.masks.items():
        module = model.get_submodule(name)
        assert whole_units(module.weight.detach(), mask, of, module.groups)


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


# Checkpoints.


def whole_state(pruner):
    """Every tensor that the future depends on."""
    state = {f"model.{k}": v.clone() for k, v in pruner.model.state_dict().items()}
    for index, entries in pruner.optimizer.state_dict()["state"].items():
        state |= {
            f"{index}.{k}": v.clone() for k, v in entries.items() if isinstance(v, torch.Tensor)
        }
    return state | {f"mask.{k}": v.clone() for k, v in pruner.masks.items()}


def continue_to_the_end(pruner, scheduler, stage, save_at=None, path=None):
    """The rest of a whole run from ``stage`` on: prune, update, finalize, retrain."""
    for step in range(stage, 6):
        if step == save_at:
            pruner.save(path, extra={"stage": step, "scheduler": scheduler.state_dict()})
        train(pruner, batches(2, seed=step))
        scheduler.step()
        if step < 3:
            pruner.update()
        if step == 3:
            pruner.finalize(batches())
    return whole_state(pruner)


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("kind", [sgd, adam])
def test_a_resumed_run_ends_bit_for_bit_where_the_unbroken_one_does(tmp_path, kind, algorithm):
    for save_at in (0, 2, 5):
        path = tmp_path / f"{save_at}.safetensors"
        ends = []
        for seed in (0, 1):  # the resumed run starts from other weights and random numbers
            model = small(seed)
            optimizer = kind(model)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
            pruner = pruner_of(model, optimizer, ALGORITHMS[algorithm]())
            if seed == 0:
                ends.append(continue_to_the_end(pruner, scheduler, 0, save_at, path))
                continue
            extra = pruner.load(path)
            scheduler.load_state_dict(extra["scheduler"])
            assert extra["stage"] == save_at
            assert pruner.pruned is (save_at > 3)
            assert pruner.iteration == min(save_at, 3)
            ends.append(continue_to_the_end(pruner, scheduler, save_at))
        assert ends[0].keys() == ends[1].keys()
        different = [key for key in ends[0] if not torch.equal(ends[0][key], ends[1][key])]
        assert not different


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    path = tmp_path / "run.safetensors"
    pruner = pruner_of(small())
    train(pruner, batches())
    pruner.update()
    pruner.save(path)
    other = nn.Sequential(*small(), nn.Linear(CLASSES, 2))
    narrow = small()
    narrow[9] = nn.Linear(9, 2)
    mixed = small()
    mixed[9].bias = nn.Parameter(mixed[9].bias.double())
    frozen = small()
    frozen_optimizer = torch.optim.SGD(frozen[:4].parameters(), lr=0.1)
    cases = [
        (pruner_of(other), r"another model: there 10\.weight is missing, here it is \[2, 3\]"),
        (pruner_of(narrow), r"there 9\.weight is \[3, 9\] .*, here it is \[2, 9\]"),
        (pruner_of(mixed), r"there 9\.bias is \[3\] torch.float32, here it is \[3\] torch.float64"),
        (pruner_of(small(), rate=2.5), r"rate 2\.0, here it is 2\.5"),
        (pruner_of(small(), algorithm=Heuristic()), "algorithm reweighted, here it is heuristic"),
        (pruner_of(small(), algorithm=Reweighted(eps=0.5)), "hyperparameters"),
        (pruner_of(small(), of="vanilla"), "scheme kgs 4x4, here it is vanilla 4x4"),
        (pruner_of(small(), ignore=["0"]), "ignored layers"),
        (pruner_of(m := small(), adam(m)), "optimizer SGD, here it is AdamW"),
        (pruner_of(frozen, frozen_optimizer), "optimizer of .* parameters"),
    ]
    for elsewhere, reason in cases:
        before = whole_state(elsewhere)
        random = torch.get_rng_state()
        with pytest.raises(InputError, match=reason):
            elsewhere.load(path)
        after = whole_state(elsewhere)
        assert elsewhere.iteration == 0
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert torch.equal(random, torch.get_rng_state())


def test_files_that_are_no_checkpoint_are_named(tmp_path):
    pruner = pruner_of(small())
    with pytest.raises(InputError, match="no checkpoint"):
        pruner.load(tmp_path / "none")
    text = tmp_path / "text"
    text.write_text("not safetensors")
    with pytest.raises(InputError, match="is not a checkpoint"):
        pruner.load(text)
    weights = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(2)}, weights)
    with pytest.raises(InputError, match="though a safetensors file"):
        pruner.load(weights)
    save_file({}, weights, metadata={"rt3d_pruning": '{"dict": [["a", {"tensor": "b"}]]}'})
    with pytest.raises(InputError, match="damaged"):
        pruner.load(weights)
    whole = tmp_path / "whole"
    pruner.save(whole)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a checkpoint"):
        pruner.load(whole)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path):
    path = tmp_path / "run.safetensors"
    pruner = pruner_of(small())
    pruner.save(path, extra={"epoch": 1})
    before = path.read_bytes()
    with pytest.raises(InputError, match="extra/schedule is a function"):
        pruner.save(path, extra={"schedule": batches})
    with pytest.raises(InputError, match="no folder"):
        pruner.save(tmp_path / "no" / "folder")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_extra_comes_back_as_it_was(tmp_path):
    extra = {"none": None, "pair": (1, [2.5, True]), "by number": {3: "x"}, "t": torch.arange(3)}
    pruner = pruner_of(small())
    pruner.save(tmp_path / "run", extra=extra)
    back = pruner.load(tmp_path / "run")
    assert torch.equal(back.pop("t"), extra.pop("t"))
    assert back == extra


# Bad input.


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


# The documentation.


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
