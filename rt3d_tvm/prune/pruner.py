"""Prune any torch model while it trains: three lines around it, three calls in its loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.activations import Batches, reestimate_batchnorm_, running_batchnorms
from rt3d_tvm.prune.checkpoint import read_checkpoint, write_checkpoint
from rt3d_tvm.prune.heuristic import Heuristic
from rt3d_tvm.prune.macs import count_macs
from rt3d_tvm.prune.project import (
    ProjectionReport,
    apply_masks_,
    choose_masks,
    layer_schemes,
    report_masks,
    warn_if_severed,
)
from rt3d_tvm.prune.regularization import LayerPenalty, Regularization
from rt3d_tvm.prune.reweighted import Reweighted
from rt3d_tvm.prune.schemes import Scheme
from topi_sparse.kernel_group import KernelGroup

Algorithm = Heuristic | Regularization | Reweighted
ALGORITHMS: dict[str, type] = {kind.name: kind for kind in (Heuristic, Regularization, Reweighted)}
_FORMAT = 1


class Pruner:
    """Prune the Conv2d and Conv3d of a model to a rate of its overall MACs.

        pruner = Pruner(model, optimizer, Reweighted(), scheme=scheme, rate=3.6,
                        input_shape=(1, 3, 16, 112, 112))
        for iteration in range(4):
            for clips, labels in batches:
                loss(model(clips), labels).backward()
                pruner.regularize()
                optimizer.step()
                optimizer.zero_grad()
            pruner.update()
        pruner.finalize(batches)        # from here on the same loop retrains, without update()
        model = pruner.strip()

    The model stays what it is: its class, its state dict, its forward. ``rate`` is dense / kept
    MACs on ``input_shape``, of which layers named in ``ignore`` keep all theirs. ``group_sizes``
    gives layers a kernel group other than that of ``scheme``.

    InputError for a layer that the model does not have, a rate below 1 or beyond reach, and an
    optimizer of another model. A call out of order is a RuntimeError.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        algorithm: Algorithm,
        *,
        scheme: Scheme,
        rate: float,
        input_shape: Sequence[int],
        ignore: Iterable[str] = (),
        group_sizes: Mapping[str, KernelGroup] | None = None,
    ) -> None:
        self.model = model
        self.algorithm = algorithm
        self.scheme = scheme
        self.rate = rate
        self.input_shape = tuple(input_shape)
        self.iteration = 0
        self._ignore = tuple(sorted(set(ignore)))
        self._group_sizes = dict(sorted((group_sizes or {}).items()))
        self._schemes = layer_schemes(model, **self._layers)
        # A rate that cannot be reached is refused now, not after the training.
        choose_masks(model, rate=rate, **self._layers)
        self._masks: dict[str, Tensor] | None = None
        self._gone: dict[str, Tensor] = {}
        self._stripped = False
        self._hook = None
        self._costs = self._relative_costs()
        self._penalties = self._new_penalties()
        self.use_optimizer(optimizer)

    @property
    def pruned(self) -> bool:
        """Whether `finalize` was called."""
        return self._masks is not None

    @property
    def masks(self) -> dict[str, Tensor]:
        """The bool masks of the pruned layers' weights; none before `finalize`."""
        return dict(self._masks or {})

    def use_optimizer(self, optimizer: Optimizer) -> None:
        """Go on with another optimizer, for instance a new one for retraining."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(self._weight(name)) in held for name in self._schemes):
            raise InputError(
                f"the optimizer has none of the weights to prune: {', '.join(self._schemes)}; "
                "was it made for another model?"
            )
        self._release()
        self.optimizer = optimizer
        if self.pruned:
            self._hold_from_now_on()

    def regularize(self) -> None:
        """Between backward() and step(): add the penalty's gradient to the weights' gradients.

        Under mixed precision, after ``scaler.unscale_``. Once the model is pruned it clears the
        gradients of what is gone, so that clipping does not count them.
        """
        self._refuse_if_stripped()
        found = False
        for name in self._schemes:
            weight = self._weight(name)
            if weight.grad is None:
                continue
            found = True
            if self.pruned:
                weight.grad.masked_fill_(self._gone[name], 0.0)
            elif name in self._penalties:
                weight.grad.add_(self._penalties[name].gradient(weight))
        if not found:
            raise RuntimeError("no gradients: regularize() goes between backward() and step()")

    def penalty(self) -> float:
        """The regularization term of the loss as it stands: 0 for the heuristic, or once pruned."""
        if self.pruned:
            return 0.0
        return sum(
            penalty.value(self._weight(name).detach()) for name, penalty in self._penalties.items()
        )

    def update(self) -> None:
        """End an iteration of some epochs: the reweighted algorithm takes its penalties anew."""
        self._refuse_if_stripped()
        if self.pruned:
            raise RuntimeError("update() comes before finalize(); the model is pruned already")
        self.iteration += 1
        if isinstance(self.algorithm, Regularization) and self.algorithm.reweights:
            self._penalties = self._new_penalties()

    def density(self, threshold: float = 0.1) -> float:
        """The share of MACs in units whose RMS is at least ``threshold`` of their layer's.

        Of the layers that are pruned: what training has made sparse so far.
        """
        if not (isfinite(threshold) and threshold > 0):
            raise InputError(f"a threshold is a finite number above 0, got {threshold}")
        kept = total = 0
        for layer in count_macs(self.model, self.input_shape):
            if layer.name not in self._schemes:
                continue
            module = self.model.get_submodule(layer.name)
            scheme, weight = self._schemes[layer.name], module.weight.detach()
            rms = weight.double().square().mean().sqrt()
            norms = scheme.mean_norms(weight, groups=module.groups)
            strong = (norms > 0) & (norms >= threshold * rms)
            sizes = scheme.sizes(weight.shape, groups=module.groups, device=weight.device)
            kept += int(sizes[strong].sum()) * layer.positions
            total += layer.dense
        return kept / total

    def finalize(
        self, batches: Batches | None = None, *, max_batches: int = 50
    ) -> ProjectionReport:
        """Prune to the rate, by one global threshold, and hold the masks from now on.

        ``batches`` are clips, or sequences that start with them, as a data loader yields; it is
        read more than once, up to ``max_batches`` each time. The heuristic needs them, and so
        does a model with BatchNorm, whose statistics are estimated again.

        What is pruned stays 0 in the weights and in the optimizer's state, whatever the optimizer
        does. InputError, with nothing changed, where the rate cannot be reached or the batches do
        not serve.
        """
        self._refuse_if_stripped()
        if self.pruned:
            raise RuntimeError("finalize() was called before; the model is pruned already")
        needs = "the heuristic" if isinstance(self.algorithm, Heuristic) else "BatchNorm"
        needed = isinstance(self.algorithm, Heuristic) or bool(running_batchnorms(self.model))
        if batches is None and needed:
            raise InputError(f"finalize() needs batches of clips: {needs} takes statistics of them")
        choose = partial(choose_masks, self.model)
        if isinstance(self.algorithm, Heuristic):
            choose = partial(
                self.algorithm.choose_masks, self.model, batches, max_batches=max_batches
            )
        masks = choose(rate=self.rate, **self._layers)
        with _unchanged_on_error(self.model):
            apply_masks_(self.model, masks)
            if batches is not None:
                reestimate_batchnorm_(self.model, batches, max_batches=max_batches)
        warn_if_severed(self.model, input_shape=self.input_shape)
        self._take(masks)
        self._hold_from_now_on()
        return self.report()

    def report(self) -> ProjectionReport:
        """MACs, parameters and density of the whole model and of each layer, before and after."""
        return report_masks(
            self.model,
            self._masks or {},
            self._schemes,
            input_shape=self.input_shape,
            algorithm=self.algorithm.name,
            target_rate=self.rate,
        )

    def strip(self) -> nn.Module:
        """Let go of a pruned model: a plain torch module with zeros in its weights."""
        if not self.pruned:
            raise RuntimeError("strip() comes after finalize(); nothing is pruned yet")
        self._hold()
        self._release()
        self._stripped = True
        return self.model

    def save(self, path: str | Path, *, extra: Mapping[str, object] | None = None) -> None:
        """Write a checkpoint: model, optimizer, pruning and torch's random generators.

        ``extra`` takes what else the training needs to go on: the epoch, a scheduler's
        state_dict(). One safetensors file, the rest as JSON in its header; it appears whole or
        not at all. InputError for what it cannot hold and for a path that cannot be written.
        """
        self._refuse_if_stripped()
        write_checkpoint(
            path,
            {
                "format": _FORMAT,
                "settings": self._settings(),
                "iteration": self.iteration,
                "model": self.model.state_dict(),
                "optimizer": {
                    "kind": type(self.optimizer).__name__,
                    **self.optimizer.state_dict(),
                },
                "penalties": {
                    name: {"scale": penalty.scale, "factors": penalty.factors}
                    for name, penalty in self._penalties.items()
                },
                "masks": self._masks,
                "random": self._random_state(),
                "extra": dict(extra or {}),
            },
        )

    def load(self, path: str | Path) -> dict[str, object]:
        """Go on from a checkpoint, bit for bit where it was written, and return its ``extra``.

        Model, optimizer and arguments are those it was written with. InputError for a file that
        is no checkpoint, or one of another model, optimizer or pruning; nothing has changed then.
        """
        self._refuse_if_stripped()
        saved = read_checkpoint(path)
        if saved.get("format") != _FORMAT:
            raise InputError(f"{path} has format {saved.get('format')}; {_FORMAT} is read here")
        self._refuse_other(path, saved)
        optimizer = {key: saved["optimizer"][key] for key in ("state", "param_groups")}
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(optimizer)
        self.iteration = saved["iteration"]
        self._restore_random(saved["random"])
        self._release()
        if saved["masks"] is not None:
            self._take({n: mask.to(self._weight(n).device) for n, mask in saved["masks"].items()})
            self._hold_from_now_on()
        else:
            self._masks, self._gone = None, {}
            self._penalties = {
                name: self._restored_penalty(name, **penalty)
                for name, penalty in saved["penalties"].items()
            }
        return saved["extra"]

    @property
    def _layers(self) -> dict:
        return {
            "scheme": self.scheme,
            "input_shape": self.input_shape,
            "ignore": self._ignore,
            "group_sizes": self._group_sizes,
        }

    def _weight(self, name: str) -> nn.Parameter:
        return self.model.get_submodule(name).weight

    def _relative_costs(self) -> dict[str, float]:
        """Each layer's MACs over their mean, so that lambda means the same in every model."""
        macs = {
            layer.name: layer.dense
            for layer in count_macs(self.model, self.input_shape)
            if layer.name in self._schemes
        }
        mean = sum(macs.values()) / len(macs)
        return {name: count / mean for name, count in macs.items()}

    def _new_penalties(self) -> dict[str, LayerPenalty]:
        if not isinstance(self.algorithm, Regularization):
            return {}
        return {
            name: LayerPenalty.of(
                self.algorithm,
                self._weight(name).detach(),
                scheme=scheme,
                conv_groups=self.model.get_submodule(name).groups,
                cost=self._costs[name],
            )
            for name, scheme in self._schemes.items()
        }

    def _restored_penalty(self, name: str, *, scale: float, factors: Tensor) -> LayerPenalty:
        return LayerPenalty(
            self.algorithm,
            self._schemes[name],
            self.model.get_submodule(name).groups,
            self._costs[name],
            scale,
            factors.to(self._weight(name).device),
        )

    def _take(self, masks: dict[str, Tensor]) -> None:
        self._masks = masks
        self._gone = {name: ~mask for name, mask in masks.items()}
        self._penalties = {}

    def _hold_from_now_on(self) -> None:
        """After every step, rather than before: it then holds for any kind of optimizer."""
        self._hold()
        self._hook = self.optimizer.register_step_post_hook(lambda *_: self._hold())

    @torch.no_grad()
    def _hold(self) -> None:
        for name, gone in self._gone.items():
            weight = self._weight(name)
            weight.masked_fill_(gone, 0.0)
            for value in self.optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(gone, 0.0)

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _refuse_if_stripped(self) -> None:
        if self._stripped:
            raise RuntimeError("the pruner let go of its model in strip(); make a new one")

    def _settings(self) -> dict[str, object]:
        return {
            "model": type(self.model).__name__,
            "algorithm": self.algorithm.name,
            "hyperparameters": asdict(self.algorithm),
            "scheme": str(self.scheme),
            "rate": self.rate,
            "input shape": list(self.input_shape),
            "ignored layers": list(self._ignore),
            "group sizes": {name: str(group) for name, group in self._group_sizes.items()},
        }

    def _refuse_other(self, path: str | Path, saved: Mapping) -> None:
        """Everything that could go wrong halfway through `load` is found here, before it."""
        for what, here in self._settings().items():
            if (there := saved["settings"].get(what)) != here:
                raise InputError(f"{path} was written with {what} {there}, here it is {here}")
        tensors = {key: _form(value) for key, value in self.model.state_dict().items()}
        others = {key: _form(value) for key, value in saved["model"].items()}
        for key in [*tensors, *others]:
            if tensors.get(key) != others.get(key):
                raise InputError(
                    f"{path} is of another model: there {key} is {others.get(key, 'missing')}, "
                    f"here it is {tensors.get(key, 'missing')}"
                )
        kind = type(self.optimizer).__name__
        if kind != saved["optimizer"]["kind"]:
            raise InputError(
                f"{path} was written with optimizer {saved['optimizer']['kind']}, here it is {kind}"
            )
        sizes = [len(group["params"]) for group in self.optimizer.param_groups]
        others = [len(group["params"]) for group in saved["optimizer"]["param_groups"]]
        if sizes != others:
            raise InputError(
                f"{path} was written with an optimizer of {others} parameters in its groups, "
                f"here they are {sizes}"
            )

    def _random_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if (device := self._device).type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(device)
        return state

    def _restore_random(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if (device := self._device).type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)

    @property
    def _device(self) -> torch.device:
        return self._weight(next(iter(self._schemes))).device


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype}"


@contextmanager
def _unchanged_on_error(model: nn.Module) -> Iterator[None]:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            model.load_state_dict(before)
