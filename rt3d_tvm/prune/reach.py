"""Whether anything of the input still reaches the output of a pruned model, and where it ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rt3d_tvm.prune.inputs import leaves
from rt3d_tvm.prune.probe import DoesNotRunError, Tensors, call, on_the_side
from rt3d_tvm.prune.products import CONVOLUTIONS, MATRIX_PRODUCTS, Product
from rt3d_tvm.prune.survey import Survey, observe


def warn_if_severed(survey: Survey) -> None:
    """Warn where nothing of the input reaches the output any more, naming the first layer cut off.

    Every layer keeps a unit, but all that a narrow one reads may be pruned in the layer before it.
    A model that does not run as it is cannot be told of.
    """
    try:
        first, second = (_output(survey, second=second) for second in (False, True))
    except DoesNotRunError:
        return
    if not first or any(map(_differ, first, second)):
        return
    # Equal outputs also come from ReLUs that are off, or differ by less than float32 tells apart.
    reason = _where_it_ends(survey)
    if reason is not None:
        warnings.warn(
            f"nothing of the input reaches the output: {reason}; a lower rate, smaller kernel "
            "groups or scheme kgs would leave a path",
            stacklevel=3,
        )


def _output(survey: Survey, *, second: bool) -> list[Tensor]:
    model = survey.model
    with on_the_side(model), torch.no_grad():
        values = survey.inputs.noise(model, second=second)
        return _floats(call(model, values, tensors=Tensors.copied(model)))


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.shape != b.shape or not torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _where_it_ends(survey: Survey) -> str | None:
    """What cuts the output off; None if a path reaches it.

    The input is all NaN. Every operator hands NaN on to just what it computes of it, but for
    products, which would take a pruned weight for a path: see `_Paths`.
    """
    model, cut = survey.model, []

    def look(product: Product) -> None:
        layer = None if product.source is None else survey.layer(product.source.names[0])
        if layer is not None and not bool(product.out.isnan().any()):
            cut.append(layer)

    with on_the_side(model):
        values = survey.inputs.noise(model).mapped(_all_nan)
        tensors = Tensors.copied(model)
        try:
            out = observe(
                model,
                values,
                tensors=tensors,
                found=look,
                modes=[_Paths()],
                ignore=survey.ignore,
            )
        except DoesNotRunError:
            return "it changes nothing there"  # forward() refuses NaN
    if any(bool(tensor.isnan().any()) for tensor in _floats(out)):
        return None
    if not cut:
        return "no convolution hands it on"
    if not cut[0].kept_macs:
        return f"layer {cut[0].name!r} has no weight left"
    return f"all that layer {cut[0].name!r} reads is pruned in the layers before it"


class _Paths(TorchDispatchMode):
    """A product is NaN just where a weight that is not zero reads NaN."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        convolution = function.overloadpacket in CONVOLUTIONS
        at = (0, 1) if convolution else MATRIX_PRODUCTS.get(function.overloadpacket)
        if at is None or not all(args[i].is_floating_point() for i in at):
            return function(*args, **kwargs)
        out = function(*_with(args, at, lambda t: t.nan_to_num(nan=0.0)), **kwargs)
        # The same sums of ones: a factor is one where it is NaN, the other where it is not zero.
        added = 2 if convolution else 0
        alone = [*args]
        if convolution:
            alone[added] = None
        elif 0 not in at:
            alone[added] = torch.zeros_like(args[added])
        for nan, other in (at, at[::-1]):
            if bool(args[nan].isnan().any()):
                ones = _with(alone, (nan,), lambda t: t.isnan().to(t.dtype))
                ones = _with(ones, (other,), lambda t: (t != 0).to(t.dtype))
                out = out.masked_fill(function(*ones) > 0.5, torch.nan)
        return out


def _with(args: Sequence, at: Sequence[int], change: Callable[[Tensor], Tensor]) -> list:
    return [change(arg) if i in at else arg for i, arg in enumerate(args)]


def _all_nan(leaf: object) -> object:
    is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return torch.full_like(leaf, torch.nan) if is_float else leaf


def _floats(out: object) -> list[Tensor]:
    return [t for t in leaves(out) if isinstance(t, Tensor) and t.is_floating_point()]
