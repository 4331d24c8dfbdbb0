"""What a run multiplies: every convolution and matrix product, whoever calls it.

Found below torch's functions, where a layer, `torch.nn.functional` and an operator of Python's
look alike. A product counts where it reads the model's input; those that only make a weight out
of parameters, such as spectral_norm's, are gone from a model that is deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from rt3d_tvm.prune.inputs import ModelInputs, leaves
from rt3d_tvm.prune.probe import Tensors, storage
from rt3d_tvm.prune.weights import ComputedWeight, HookedWeight, computed_weights

_aten = torch.ops.aten
CONVOLUTIONS = (_aten.convolution, _aten._convolution)
# Where the two factors of a matrix product stand among an operator's arguments.
MATRIX_PRODUCTS = {
    **dict.fromkeys((_aten.mm, _aten.bmm, _aten.mv, _aten.dot, _aten.vdot), (0, 1)),
    **dict.fromkeys((_aten.addmm, _aten.addmv, _aten.baddbmm, _aten.addbmm), (1, 2)),
}
# Operators whose products of weights are not counted, and packages that hide their weights.
_UNCOUNTED = (_aten._trilinear, _aten._cdist_forward, _aten.mkldnn_rnn_layer)
_HARMLESS_PACKAGES = ("aten", "prims", "prim")


@dataclass(frozen=True)
class Source:
    """Where a weight comes from: a parameter or buffer, or a computed weight of a module.

    ``names`` are dotted, more than one if it is tied.
    """

    names: tuple[str, ...]
    computed: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers whose weight it is; the model itself has none."""
        return tuple(n.removesuffix(".weight") if n != "weight" else "" for n in self.names)


@dataclass(frozen=True)
class Product:
    """One convolution or matrix product of a run: ``out`` of ``read`` and ``weight``.

    ``weight`` is the factor that does not depend on the input, None where both do. ``source`` is
    the parameter it is, None if it was computed from one on the way or is only a part of one.
    ``as_it_is`` says whether the source's axes are those of filters and channels, and ``weight``
    then has them; ``inputs_first`` is that of `FilterAxes`. ``operator`` is convolution, transposed
    convolution or matrix product. ``module`` is the innermost one that was running.
    """

    operator: str
    module: str
    out: Tensor
    read: Tensor
    weight: Tensor | None
    source: Source | None
    as_it_is: bool
    inputs_first: bool
    conv_groups: int
    macs: int
    # Of ``read``: where the channels are that each filter reads.
    channel_axis: int = 1

    def channel_squares(self) -> tuple[Tensor, int]:
        """The sum of squares of each input channel, in float64, and over how many positions."""
        x = self.read
        channel_axis = self.channel_axis % x.dim()
        others = [axis for axis in range(x.dim()) if axis != channel_axis]
        squares = x.double().square()
        # The sum over no axis at all is, in torch, that over every axis.
        return squares.sum(others) if others else squares, x.numel() // x.shape[channel_axis]


class WeightSources:
    """Knows the weights of a run by their memory."""

    def __init__(self, tensors: Tensors) -> None:
        self._found: dict[int, tuple[Source, Tensor]] = {}
        for names in tensors.names:
            self._add(Source(names), tensors.by_name[names[0]])

    def _add(self, source: Source, tensor: Tensor) -> None:
        # The tensor is kept, so that no other gets its memory.
        self._found[storage(tensor)] = (source, tensor)

    def of(self, weight: Tensor) -> tuple[Source | None, bool]:
        """The source that a weight is all of, and whether it is that as it is: the same axes."""
        source, tensor = self._found.get(storage(weight), (None, weight))
        if source is None or tensor.numel() != weight.numel():
            return None, False
        return source, _same(tensor, weight)

    def matrix_of(self, weight: Tensor) -> tuple[Source | None, Tensor | None, bool]:
        """The source of a factor of a matrix product; all of it, if it is that or its transpose;
        and whether it is the transpose. Axes of 1 behind a matrix, as of a 1x1x1 convolution, are
        none.
        """
        source, _ = self.of(weight)
        if source is None:
            return None, None, False
        _, own = self._found[storage(weight)]
        if own.dim() >= 2 and own.numel() == own.shape[0] * own.shape[1]:
            matrix = own.flatten(1)
            if _same(matrix, weight):
                return source, own, False
            if weight.dim() == 2 and _same(matrix, weight.t()):
                return source, own, True
        return source, None, False

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Take up what computed weights turn out to be while the model runs.

        To be called `on_the_side`, which takes the hooks away.
        """
        for prefix, module in model.named_modules():
            for weight in list(computed_weights(module)):
                name = f"{prefix}.{weight.attribute}" if prefix else weight.attribute
                self._watch(module, weight, Source((name,), computed=True))
        yield

    def _watch(self, module: nn.Module, weight: ComputedWeight, source: Source) -> None:
        if isinstance(weight, HookedWeight):
            module.register_forward_pre_hook(
                lambda module, _inputs: self._add(source, module.__dict__[weight.attribute])
            )
            return
        chain: parametrize.ParametrizationList = module.parametrizations[weight.attribute]
        chain.register_forward_hook(lambda _chain, _inputs, output: self._add(source, output))


class Products(TorchDispatchMode):
    """Calls ``found`` for every product that reads the inputs, while it is entered.

    And ``hidden`` for a weight that goes into an operator whose products cannot be counted, with
    words that say so.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        sources: WeightSources,
        module_now: Callable[[], tuple[str, str]],
        found: Callable[[Product], None],
        hidden: Callable[[Source, str], None],
    ) -> None:
        super().__init__()
        self._hidden = hidden
        self._sources, self._module_now, self._found = sources, module_now, found
        self._reading = {storage(t) for t in _tensors((inputs.args, dict(inputs.kwargs)))}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        with self:  # what a forward() in inference mode calls may consist of other operators
            out = function.decompose(*args, **(kwargs or {}))
        if out is not NotImplemented:
            return out
        out = function(*args, **(kwargs or {}))
        given = list(_tensors((args, kwargs or {})))
        reading = any(map(self._reads_input, given))
        if reading:
            self._look_at(function, args, given, out)
        memories = {storage(tensor) for tensor in given}
        for tensor in _tensors(out):
            if reading:
                self._reading.add(storage(tensor))
            elif storage(tensor) not in memories:  # new, though its address may be an old one
                self._reading.discard(storage(tensor))
        return out

    def _reads_input(self, tensor: Tensor) -> bool:
        return storage(tensor) in self._reading

    def _look_at(self, function, args: tuple, given: list[Tensor], out: object) -> None:
        packet = function.overloadpacket
        if packet in CONVOLUTIONS:
            self._convolution(args, out)
        elif packet in MATRIX_PRODUCTS:
            a, b = MATRIX_PRODUCTS[packet]
            self._matrix_product(args[a], args[b], out)
        elif packet in _UNCOUNTED or function.namespace not in _HARMLESS_PACKAGES:
            self._tell_of_weights(str(packet), given)

    def _convolution(self, args: tuple, out: Tensor) -> None:
        x, weight, transposed, groups = args[0], args[1], args[6], args[8]
        positions = x.numel() // x.shape[1] if transposed else out.numel() // out.shape[1]
        macs = weight.numel() * positions
        if self._reads_input(weight):
            weight, source, as_it_is = None, None, False
        else:
            source, as_it_is = self._sources.of(weight)
        operator = "transposed convolution" if transposed else "convolution"
        name, _ = self._module_now()
        self._found(
            Product(operator, name, out, x, weight, source, as_it_is, transposed, groups, macs)
        )

    def _matrix_product(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        reading = [factor for factor in (a, b) if self._reads_input(factor)]
        if not reading:  # but what is added to the product
            return
        weight = None if len(reading) == 2 else b if reading[0] is a else a
        macs = a.numel() * (b.shape[-1] if b.dim() > 1 else 1)
        source, own, swapped, behind = None, None, False, weight is b
        if weight is not None:
            weight = _one_of_batch(weight)
            source, own, swapped = self._sources.matrix_of(weight)
        name, _ = self._module_now()
        self._found(
            Product(
                "matrix product",
                name,
                out,
                reading[0],
                weight if own is None else own,
                source,
                own is not None,
                # Behind the input a weight is [N, M], before it [M, N].
                behind != swapped,
                1,
                macs,
                channel_axis=-1 if behind or reading[0].dim() == 1 else -2,
            )
        )

    def _tell_of_weights(self, operator: str, given: list[Tensor]) -> None:
        for tensor in given:
            source, _ = self._sources.of(tensor)
            if source is not None and tensor.dim() > 1:
                name, kind = self._module_now()
                self._hidden(
                    source,
                    f"cannot count the MACs of layer {name!r}, a {kind}: operator {operator} reads "
                    f"{source.names[0]}; counted are convolutions and matrix products",
                )


@contextmanager
def running_module(model: nn.Module) -> Iterator[Callable[[], tuple[str, str]]]:
    """Yields a function that tells name and class of the innermost module that is running.

    To be called `on_the_side`, which takes the hooks away.
    """
    stack = [("", type(model).__name__)]
    for name, module in model.named_modules():
        entry = (name, type(module).__name__)
        module.register_forward_pre_hook(
            lambda _module, _inputs, entry=entry: stack.append(entry), prepend=True
        )
        module.register_forward_hook(
            lambda _module, _inputs, _output: stack.pop() and None, always_call=True
        )
    yield lambda: stack[-1]


def _same(tensor: Tensor, view: Tensor) -> bool:
    return tensor.shape == view.shape and tensor.stride() == view.stride()


def _one_of_batch(factor: Tensor) -> Tensor:
    """The matrix that a batched product repeats, where it does: `linear` may be written so."""
    repeated = factor.dim() == 3 and (factor.shape[0] == 1 or factor.stride(0) == 0)
    return factor[0] if repeated else factor


def _tensors(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in leaves(tree) if isinstance(leaf, Tensor))
