"""Training: what it does to the weights, and that a kill at any moment changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.models import build_model
from rt3d_tvm.prune import train
from rt3d_tvm.prune.checkpoint import read_checkpoint, write_checkpoint
from rt3d_tvm.prune.evaluate import accuracy
from rt3d_tvm.prune.heuristic import Heuristic
from rt3d_tvm.prune.normalise import fold_, normalise_
from rt3d_tvm.prune.plans import DensePlan, PruningPlan
from rt3d_tvm.prune.reweighted import Reweighted
from rt3d_tvm.prune.train import choose_device, initialise_, train_dense, train_pruned
from rt3d_tvm.prune.work import WorkFolder
from tests import tiny_training as tiny


@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_a_killed_training_ends_bit_for_bit_where_the_unbroken_one_does(kind, tmp_path):
    """Killed just after a checkpoint (the last before the prune), and in the last epoch."""

    def process(name, seconds):
        command = [sys.executable, "-m", "tests.tiny_training", kind, str(tmp_path / name)]
        return subprocess.Popen(
            [*command, str(seconds), str(tmp_path / f"{name}.out")],
            stdout=subprocess.PIPE,
            text=True,
        )

    unbroken = process("unbroken", 0)
    last = (tiny.DENSE if kind == "dense" else tiny.PRUNING).epochs - 1
    for moment in (["end 2"] if kind == "pruned" else []) + [f"begin {last}"]:
        broken = process("broken", 0.2)
        for line in broken.stdout:
            if line.strip() == moment:
                os.kill(broken.pid, signal.SIGKILL)
                break
        assert broken.wait() == -signal.SIGKILL
        broken.stdout.close()
    assert unbroken.wait() == 0
    unbroken.stdout.close()
    resumed = process("broken", 0)
    begun = [line.strip() for line in resumed.stdout if line.startswith("begin")]
    assert resumed.wait() == 0
    assert begun == [f"begin {last}"]  # only the epoch in hand was lost

    expected, found = (read_checkpoint(tmp_path / f"{n}.out") for n in ("unbroken", "broken"))
    assert found["history"] == expected["history"]
    assert found["model"].keys() == expected["model"].keys()
    for key, value in expected["model"].items():
        assert torch.equal(found["model"][key], value), key
    metrics = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("unbroken", "broken")]
    assert metrics[0] == metrics[1]


def test_pruning_goes_through_its_phases_to_the_rate(tmp_path):
    model, outcome = tiny.run("pruned", tmp_path / "work")
    phases = [row["phase"] for row in outcome.history]
    assert phases == ["reweighted"] * 2 + ["retrain"] * 3
    assert outcome.report.rate == pytest.approx(2.0, rel=0.01)
    rates = [row["lr"] for row in outcome.history]
    assert rates[:2] == [tiny.PRUNING.lr] * 2  # fixed while it is regularized
    assert rates[2] > rates[3] > rates[4] > tiny.PRUNING.lr_final
    assert [row["density"] for row in outcome.history[:2]] == [1.0, 1.0]
    assert outcome.history[-1]["density"] == pytest.approx(1 / outcome.report.rate)
    assert int((model[3].weight == 0).sum()) > 0
    lines = (tmp_path / "work" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == outcome.history


def test_other_settings_are_refused_by_name_and_nothing_changes(tmp_path):
    WorkFolder(tmp_path / "work", {"rate": 2.0, "scheme": "kgs"}).begin()
    before = (tmp_path / "work" / "settings.json").read_bytes()
    with pytest.raises(InputError, match=r"rate 2\.0 there, 3\.6 here") as error:
        WorkFolder(tmp_path / "work", {"rate": 3.6, "scheme": "kgs"})
    assert "scheme" not in str(error.value)
    assert (tmp_path / "work" / "settings.json").read_bytes() == before
    WorkFolder(tmp_path / "work", {"rate": 2.0, "scheme": "kgs"})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(InputError, match="not an empty folder"):
        WorkFolder(tmp_path, {"rate": 2.0})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_killed_run_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".settings.json.x1y2").write_text("{")
    work = WorkFolder(tmp_path, {"rate": 2.0})
    (tmp_path / ".checkpoint.safetensors.abcd").write_text("half")
    work.begin()
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_accuracy_averages_logits_over_clips_and_leaves_out_what_was_skipped():
    """A model that sees only the mean: class 1 if a video's clips are above 0 on average."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, clips):
            mean = self.scale * clips.mean(dim=(1, 2, 3, 4))
            return torch.stack([-mean, mean], dim=1)

    # Clips of one video disagree; the stronger one decides.
    videos = [((3.0, -1.0), 1), ((-3.0, 1.0), 0), ((3.0, -1.0), 0), ((9.0, 9.0), -1)]
    items = [
        (torch.tensor(clips).reshape(2, 1, 1, 1, 1).expand(2, *tiny.SHAPE[1:]), label)
        for clips, label in videos
    ]
    assert accuracy(Mean(), items) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="no video to test on"):
        accuracy(Mean(), items[3:])


def test_batchnorm_for_the_training_is_folded_without_a_trace():
    model = build_model("c3d", 3, 0.0625, frames=16, size=16)
    keys = list(model.state_dict())
    assert normalise_(model)
    model.train()
    torch.manual_seed(0)
    for _ in range(3):
        model(torch.randn(4, 3, 16, 16, 16))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    model.eval().double()
    clips = torch.randn(2, 3, 16, 16, 16, dtype=torch.float64)
    before = model(clips)
    fold_(model)
    assert list(model.state_dict()) == keys
    # float64 of sums up to 27 * 32 long, eleven layers deep
    torch.testing.assert_close(model(clips), before, rtol=1e-11, atol=1e-11)
    assert not normalise_(build_model("r2plus1d", 3, 0.0625))


def test_initial_weights_follow_from_the_seed_and_keep_the_signal():
    models = [build_model("c3d", 3, 0.25, frames=16, size=16) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        initialise_(model, seed=seed)
    states = [model.state_dict()["conv3a.weight"] for model in models]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert states[0].square().mean() == pytest.approx(2 / (32 * 27), rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch 0"),
        ({"lr": float("nan")}, "lr nan"),
        ({"lr_final": 1.0}, "final learning rate"),
        ({"seed": -1}, "seed -1"),
        ({"steps_per_epoch": 0}, "steps per epoch 0"),
        ({"retrain_epochs": 1 << 16}, "epochs"),
        ({"batch": 2.5}, "batch 2.5"),
        ({"batch": float("nan")}, "batch nan"),
        ({"iterations": True}, "iterations True"),
        ({"seed": 1 << 60}, "at most 4294967295"),
        ({"seed": 0.5}, "seed 0.5"),
        ({"lr": float("inf")}, "lr inf"),
        ({"lr": "fast"}, "lr fast"),
        ({"lr_final": float("nan")}, "final learning rate nan"),
        ({"lr_final": -1e-3}, "final learning rate"),
        ({"weight_decay": float("nan")}, "weight decay nan"),
        ({"weight_decay": -1.0}, "weight decay -1"),
        ({"clip_norm": 0.0}, "clip norm 0"),
        ({"finalize_batches": 0}, "finalize batches 0"),
    ],
)
def test_plans_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(PruningPlan(), **change)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Heuristic, {"rounds": 0}, "at least one round, got 0"),
        (Heuristic, {"rounds": 1.5}, "at least one round, got 1.5"),
        (Heuristic, {"rounds": float("nan")}, "got nan"),
        (Reweighted, {"lambda_": float("nan")}, "lambda is a finite number"),
        (Reweighted, {"lambda_": float("inf")}, "lambda is a finite number"),
        (Reweighted, {"l1_share": float("nan")}, "l1_share is between"),
        (Reweighted, {"eps": float("inf")}, "eps is a finite number above 0"),
        (Reweighted, {"eps": 0.0}, "eps is a finite number above 0"),
    ],
)
def test_algorithms_out_of_range_are_refused(kind, change, message):
    with pytest.raises(InputError, match=message):
        kind(**change)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folders of a dense and a pruned training that ended."""
    folder = tmp_path_factory.mktemp("ended")
    for kind in ("dense", "pruned"):
        tiny.run(kind, folder / kind)
    return folder


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", None),
        ("model", {}),
        ("optimizer", None),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("random", {}),
        ("history", None),
        ("history", [{"epoch": 1}]),
        ("history", [3]),
        ("history", [{"epoch": 2, "phase": "dense"}]),
    ],
)
@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_a_damaged_checkpoint_ends_a_training_before_it_begins(kind, part, value, ended, tmp_path):
    model = tiny.tiny_model()
    shutil.copytree(ended / kind, tmp_path / "work")
    path = tmp_path / "work" / "checkpoint.safetensors"
    tree = read_checkpoint(path)
    container = tree["extra"] if kind == "pruned" and part == "history" else tree
    container[part] = value
    if value is None:
        del container[part]
    write_checkpoint(path, tree)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    work, plan = WorkFolder(tmp_path / "work", {"kind": kind}), tiny.PRUNING
    with pytest.raises(InputError, match=r"checkpoint\.safetensors (is|was)"):
        if kind == "dense":
            train_dense(model, tiny.tiny_data(), tiny.DENSE, work, plot=False)
        else:
            train_pruned(model, tiny.tiny_data(), plan, work, pruner_of=tiny.pruner_of, plot=False)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds a list, settings are a JSON object"),
        ("3", "holds a int"),
        ("[" * 100_000, "cannot be read as settings"),
        ('{"kind": ', "cannot be read as settings"),
        ('{"kind": "%s"}' % ("x" * 5_000_000), "bytes are no settings"),
        ('{"kind": "%s\\n"}' % ("x" * 1_000_000), "holds a training of other settings"),
    ],
)
def test_damaged_settings_are_refused_in_a_line(text, message, tmp_path):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(InputError, match=message) as refused:
        WorkFolder(tmp_path, {"kind": "dense"})
    assert len(str(refused.value)) < 500 + len(str(tmp_path))


def test_an_unknown_optimizer_and_device_are_refused():
    with pytest.raises(InputError, match="optimizer lion"):
        DensePlan(optimizer="lion")
    with pytest.raises(InputError, match="device tpu"):
        choose_device("tpu")


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    model = tiny.tiny_model()
    plan = replace(tiny.PRUNING, lr=1e30, clip_norm=1e30)
    work = WorkFolder(tmp_path / "work", {})
    with pytest.raises(InputError, match="the loss is"):
        train_pruned(model, tiny.tiny_data(), plan, work, pruner_of=tiny.pruner_of, plot=False)
    assert not work.begun


class Root(nn.Module):
    """Finite, with a gradient that is none."""

    def forward(self, x):
        return x + torch.sqrt(x.relu() * 0)


def test_a_gradient_that_is_no_number_spoils_no_weight(tmp_path):
    model = nn.Sequential(Root(), tiny.tiny_model())
    model[0].register_parameter("scale", nn.Parameter(torch.ones(1)))
    model[0].register_forward_pre_hook(lambda module, args: args[0] * module.scale)
    with pytest.raises(InputError, match=r"the gradient's norm is nan in epoch 1, step 1: .* rate"):
        train_dense(model, tiny.tiny_data(), tiny.DENSE, WorkFolder(tmp_path / "work", {}))
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


class Spoiling(torch.optim.SGD):
    """Its sixth step, the last of the second epoch, leaves a NaN."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.steps = 0

    def step(self):
        self.steps += 1
        if self.steps == 6:
            self.param_groups[0]["params"][0].data[0, 0] = torch.nan


def test_weights_that_are_no_numbers_are_not_written(tmp_path, monkeypatch):
    """The checkpoint stays that of the epoch before."""
    monkeypatch.setitem(train.OPTIMIZERS, "sgd", Spoiling)
    work = WorkFolder(tmp_path / "work", {})
    plan = replace(tiny.DENSE, optimizer="sgd")
    with pytest.raises(InputError, match=r"epoch 2 left 0\.weight \(27 NaN of 648\) not finite"):
        train_dense(tiny.tiny_model(), tiny.tiny_data(), plan, work, plot=False)
    assert [row["epoch"] for row in read_checkpoint(work.checkpoint)["history"]] == [1]


def test_outputs_that_are_no_numbers_have_no_accuracy():
    model = tiny.tiny_model()
    model[0].bias.data[1] = torch.nan
    with pytest.raises(InputError, match="NaN or infinite on test videos"):
        accuracy(model, tiny.tiny_data().test)
