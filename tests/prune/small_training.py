"""A small model with all that makes pruning hard, data that it can learn, and a training loop."""

import torch
from torch import nn

from rt3d_tvm.prune.macs import count_macs
from rt3d_tvm.prune.pruner import Pruner, Reweighted
from rt3d_tvm.prune.schemes import Scheme
from topi_sparse.kernel_group import KernelGroup

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
