"""A pruner's checkpoints: a run goes on bit for bit, and what does not fit changes nothing."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.checkpoint import read_checkpoint, write_checkpoint
from rt3d_tvm.prune.pruner import ALGORITHMS, Heuristic, Reweighted
from tests.prune.small_training import CLASSES, adam, batches, pruner_of, sgd, small, train


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


# Damaged in ways that a checksum does not show, as files of before it, or ones that were edited.


def at(tree, path):
    for key in path[:-1]:
        tree = tree[key]
    return tree, path[-1]


DAMAGES = {
    "no model": (("model",), None),
    "a weight missing": (("model", "0.weight"), None),
    "a weight that is none": (("model", "0.weight"), "text"),
    "no optimizer": (("optimizer",), None),
    "no state": (("optimizer", "state"), None),
    "no learning rate": (("optimizer", "param_groups", 0, "lr"), None),
    "a learning rate that is none": (("optimizer", "param_groups", 0, "lr"), "fast"),
    "one beta": (("optimizer", "param_groups", 0, "betas"), (0.9,)),
    "groups that are none": (("optimizer", "param_groups"), 3),
    "parameters twice": (("optimizer", "param_groups", 0, "params"), [0] * 8),
    "a state of nobody": (("optimizer", "state", 99), {"step": torch.tensor(1.0)}),
    "a state without its mean": (("optimizer", "state", 0, "exp_avg"), None),
    "a mean of another shape": (("optimizer", "state", 0, "exp_avg"), torch.zeros(3)),
    "steps that are none": (("optimizer", "state", 0, "step"), {}),
    "no penalties": (("penalties",), None),
    "a penalty missing": (("penalties", "3"), None),
    "a penalty of nobody": (("penalties", "9"), {"scale": 1.0, "factors": torch.ones(1)}),
    "no factors": (("penalties", "3", "factors"), None),
    "factors of another shape": (("penalties", "3", "factors"), torch.ones(3)),
    "factors without end": (("penalties", "3", "scale"), float("nan")),
    "masks that are none": (("masks",), 3),
    "no masks": (("masks",), {}),
    "a mask of another shape": (("masks",), {n: torch.ones(2) > 0 for n in ("0", "3", "5")}),
    "no settings": (("settings",), None),
    "settings that are none": (("settings",), [1]),
    "no iteration": (("iteration",), None),
    "an iteration below 0": (("iteration",), -1),
    "no random state": (("random",), None),
    "a random state cut short": (("random", "cpu"), torch.zeros(3, dtype=torch.uint8)),
    "a random state of nothing": (("random", "cpu"), torch.zeros(5056, dtype=torch.uint8)),
    "no extra": (("extra",), None),
    "another format": (("format",), 2),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The tree of a checkpoint of a run in its middle."""
    path = tmp_path_factory.mktemp("run") / "run"
    model = small()
    pruner = pruner_of(model, adam(model))
    train(pruner, batches(1))
    pruner.save(path, extra={"epoch": 1})
    return read_checkpoint(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(damage, written, tmp_path):
    tree = copy.deepcopy(written)
    path, value = DAMAGES[damage]
    container, key = at(tree, path)
    if value is None:
        del container[key]
    else:
        container[key] = value
    write_checkpoint(tmp_path / "bad", tree)
    model = small(1)
    pruner = pruner_of(model, adam(model))
    train(pruner, batches(1, seed=5))
    pruner.update()
    before, random, penalty = whole_state(pruner), torch.get_rng_state(), pruner.penalty()
    groups = copy.deepcopy(pruner.optimizer.param_groups)
    with pytest.raises(InputError) as refused:
        pruner.load(tmp_path / "bad")
    assert len(str(refused.value)) < 400 + len(str(tmp_path))
    after = whole_state(pruner)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(torch.get_rng_state(), random)
    assert (pruner.iteration, pruner.pruned, pruner.penalty()) == (1, False, penalty)
    assert [g["lr"] for g in groups] == [g["lr"] for g in pruner.optimizer.param_groups]


def test_an_optimizer_that_fails_halfway_changes_nothing(written, tmp_path):
    class Fussy(torch.optim.AdamW):
        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict)
            raise KeyError("one more thing")

    tree = copy.deepcopy(written)
    tree["optimizer"]["kind"] = "Fussy"
    write_checkpoint(tmp_path / "run", tree)
    model = small(1)
    pruner = pruner_of(model, Fussy(model.parameters(), lr=1e-2, amsgrad=True))
    train(pruner, batches(1))
    before, random = whole_state(pruner), torch.get_rng_state()
    with pytest.raises(InputError, match="one more thing"):
        pruner.load(tmp_path / "run")
    after = whole_state(pruner)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(torch.get_rng_state(), random)


def test_one_that_is_not_pruned_takes_a_pruned_pruner_back(written, tmp_path):
    """Its masks are let go, those behind a computed weight as well."""
    torch.manual_seed(0)
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Conv3d(4, 8, 3)),
        nn.Conv3d(8, 8, 1),
        nn.AdaptiveAvgPool3d(1),
    )
    pruner = pruner_of(model)
    pruner.save(tmp_path / "dense")
    pruner.finalize([torch.randn(1, 4, 4, 6, 6)])
    pruner.save(tmp_path / "pruned")
    assert not model[0].weight.all()
    pruner.load(tmp_path / "dense")
    assert model[0].weight.all()
    assert not pruner.pruned
    pruner.load(tmp_path / "pruned")
    assert not model[0].weight[~pruner.masks["0"]].any()


def test_masks_of_before_for_each_layer_of_a_tied_weight_are_one(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), *(nn.Conv3d(8, 8, 1) for _ in range(2)))
    model[2].weight = model[1].weight
    pruner = pruner_of(model)
    pruner.finalize()
    pruner.save(tmp_path / "run")
    tree = read_checkpoint(tmp_path / "run")
    tree["masks"]["2"] = tree["masks"]["1"].clone()
    tree["masks"]["2"][0] = False
    write_checkpoint(tmp_path / "run", tree)
    pruner.load(tmp_path / "run")
    assert pruner.masks.keys() == {"0", "1"}
    assert not model[1].weight[0].any()
