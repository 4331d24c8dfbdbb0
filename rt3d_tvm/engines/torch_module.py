"""PyTorch beside a compiled model: a module, or an ONNX file that onnx2torch makes one of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from rt3d_tvm.artifact.tensors import Tensors, arrays
from rt3d_tvm.engines.engine import Engine, Runner, clips_of
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.prune.activations import eval_mode


def module_engine(model: Callable[[], nn.Module], x: Tensors, *, name: str = "") -> Engine:
    """A module as an engine; ``model`` gives it when it is opened. All runners share it."""

    def opened(runners: int, threads: int) -> list[Runner]:
        module, inputs = model(), [torch.from_numpy(each) for each in arrays(x)]

        def run() -> Any:
            # Each thread that calls has a number of its own.
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            with torch.inference_mode():
                return module(*inputs)

        return [run] * runners

    return Engine(engine="PyTorch", name=name, clips=clips_of(x), open=opened)


@contextlib.contextmanager
def evaluated_engine(model: nn.Module, x: Tensors) -> Iterator[Engine]:
    """A module in evaluation as an engine; its mode and torch's threads are put back."""
    before = torch.get_num_threads()
    try:
        with eval_mode(model):
            yield module_engine(lambda: model, x)
    finally:
        torch.set_num_threads(before)


def onnx_file_engine(path: Path, x: Tensors) -> Engine:
    """PyTorch on an ONNX file, whose operators onnx2torch turns into modules.

    InputError where it knows one of them not, or cannot be imported itself: it needs a torchvision
    that fits torch.
    """
    try:
        from onnx2torch import convert
    except (ImportError, RuntimeError) as error:
        raise InputError(f"engine torch: onnx2torch cannot be used: {words_of(error)}") from error
    try:
        module = convert(_with_plain_reshapes(path)).eval()
    except (NotImplementedError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: onnx2torch cannot convert it: {words_of(error)}") from error
    return module_engine(lambda: module, x, name=path.name)


def _with_plain_reshapes(path: Path) -> onnx.ModelProto:
    """The file's model without allowzero, which torch's exporter sets and onnx2torch refuses.

    It says what a 0 in a shape means, and torch writes none.
    """
    model = onnx.load(path)
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape" and 0 not in sizes.get(node.input[1], [0]):
            kept = [each for each in node.attribute if each.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return model
