"""Stages that a training leaves as they are."""

import copy

import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.frozen import freeze_
from rt3d_tvm.prune.plans import DensePlan
from rt3d_tvm.prune.train import train_dense
from rt3d_tvm.prune.work import WorkFolder
from tests.tiny_training import tiny_data, tiny_model

PLAN = DensePlan(epochs=1, batch=4)


def trained(model, work, names, head):
    before = copy.deepcopy(model.state_dict())
    frozen = freeze_(model, names, head=head)
    work = WorkFolder(work, {})
    train_dense(model, tiny_data(), PLAN, work, frozen=frozen, plot=False)
    after = model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}, frozen


def test_the_backbone_stays_and_the_head_learns(tmp_path):
    changed, frozen = trained(tiny_model(), tmp_path / "work", ["backbone"], "8")
    assert changed == {"8.weight", "8.bias"}
    assert set(frozen.layers) == {"0", "1", "3"}  # the dropout, 7, goes on


def test_a_stage_stays_with_its_statistics(tmp_path):
    changed, _ = trained(tiny_model(), tmp_path / "work", ["0", "1"], "8")
    assert changed == {"3.weight", "3.bias", "8.weight", "8.bias"}


def test_a_frozen_convolution_gets_no_batchnorm(tmp_path):
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3),
        nn.Conv3d(4, 4, 1),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    changed, _ = trained(model, tmp_path / "work", ["0"], "4")
    assert changed == {"1.weight", "1.bias", "4.weight", "4.bias"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["layer9"], r"no stage named 'layer9' to freeze; backbone \(all but the head, 8\)"),
        (["backbone", "8"], "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen_is_refused(names, message):
    with pytest.raises(InputError, match=message):
        freeze_(tiny_model(), names, head="8")
