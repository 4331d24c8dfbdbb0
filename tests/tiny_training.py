"""A training small enough for a test: `python -m tests.tiny_training KIND WORK` runs it.

As a process of its own it can be killed. The data set learns nothing of use: brightness in time.
"""

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from rt3d_tvm.prune.checkpoint import write_checkpoint
from rt3d_tvm.prune.pruner import Pruner, Reweighted
from rt3d_tvm.prune.schemes import Scheme
from rt3d_tvm.prune.train import DensePlan, PruningPlan, VideoData, train_dense, train_pruned
from rt3d_tvm.prune.work import WorkFolder
from topi_sparse.kernel_group import KernelGroup

SHAPE = (1, 3, 4, 8, 8)
DENSE = DensePlan(epochs=4, batch=4, lr=1e-3)
PRUNING = PruningPlan(
    iterations=2, epochs_per_iteration=1, retrain_epochs=3, batch=4, lr=5e-3, finalize_batches=2
)


class Clips(Dataset):
    """Items as of a VideoDataset: in training another window in each epoch."""

    def __init__(self, *, training, seed=0, classes=3, length=13, skipped=()):
        self.training, self.seed, self.classes = training, seed, classes
        self.length, self.skipped, self.epoch = length, skipped, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        label = index % self.classes
        epoch = self.epoch if self.training else 0
        generator = torch.Generator().manual_seed(1000 * self.seed + 100 * epoch + index)
        clip = torch.randn(SHAPE, generator=generator) + label * torch.linspace(-1, 1, 4).reshape(
            1, 1, 4, 1, 1
        )
        if self.training:
            return clip[0], label
        return clip.expand(2, *SHAPE[1:]), -1 if index in self.skipped else label

    def set_epoch(self, epoch):
        self.epoch = epoch


def tiny_model():
    """With what makes a resumption hard: BatchNorm and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.Conv3d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, 3),
    )


def tiny_data(**changes):
    return VideoData(train=Clips(training=True), test=Clips(training=False, **changes))


def pruner_of(model, optimizer):
    scheme = Scheme(name="kgs", group=KernelGroup(g_m=4, g_n=4))
    return Pruner(
        model, optimizer, Reweighted(lambda_=0.1), scheme=scheme, rate=2.0, input_shape=SHAPE
    )


class Slow:
    """A watch that says where the training is, and leaves time to be killed there."""

    def __init__(self, seconds):
        self.seconds = seconds

    def begin(self, *, epoch, epochs, phase, steps):
        print(f"begin {epoch}", flush=True)

    def step(self, loss):
        time.sleep(self.seconds)

    def end(self, row):
        print(f"end {row['epoch']}", flush=True)


def run(kind, root, *, watch=None):
    """Train, and return the model and the outcome."""
    model, data = tiny_model(), tiny_data()
    if kind == "dense":
        work = WorkFolder(root, {"kind": kind})
        return model, train_dense(model, data, DENSE, work, watch=watch, plot=False)
    work = WorkFolder(root, {"kind": kind})
    outcome = train_pruned(model, data, PRUNING, work, pruner_of=pruner_of, watch=watch, plot=False)
    return model, outcome


if __name__ == "__main__":
    torch.set_num_threads(1)
    trained, ended = run(sys.argv[1], Path(sys.argv[2]), watch=Slow(float(sys.argv[3])))
    write_checkpoint(sys.argv[4], {"model": trained.state_dict(), "history": ended.history})
