"""A change to a model that is made whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer

from rt3d_tvm.prune.probe import Structure, memory, own_tensors
from rt3d_tvm.prune.weights import writing


class _Before:
    """Everything in a model and an optimizer, values included."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        self._structure = Structure(model)
        tensors = {memory(tensor): tensor for _, tensor in own_tensors(model)}
        self._values = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
        self._optimizer = optimizer
        self._attributes = {} if optimizer is None else dict(optimizer.__dict__)

    def restore(self) -> None:
        self._structure.restore()
        for tensor, value in self._values:
            if not torch.equal(tensor, value):  # a write ends graphs that wait for backward()
                with writing(tensor):
                    tensor.copy_(value)
        if self._optimizer is not None:
            self._optimizer.__dict__.update(self._attributes)


@contextmanager
def unchanged_on_error(model: nn.Module, optimizer: Optimizer | None = None) -> Iterator[None]:
    """If the block raises, the model is what it was: modules, hooks, and every value.

    Of an optimizer, that its state was replaced is undone, not what was written into it.
    """
    before, done = _Before(model, optimizer), False
    try:
        yield
        done = True
    finally:
        if not done:
            before.restore()


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """After the block the model is what it was, in any case."""
    before = _Before(model, None)
    try:
        yield
    finally:
        before.restore()
