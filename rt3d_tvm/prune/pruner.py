"""Prune any torch model while it trains: three lines around it, three calls in its loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rt3d_tvm.arguments import as_names
from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.activations import Batches, reestimate_batchnorm_, running_batchnorms
from rt3d_tvm.prune.algorithms import ALGORITHMS as ALGORITHMS
from rt3d_tvm.prune.algorithms import Algorithm, algorithm_of
from rt3d_tvm.prune.checkpoint import write_checkpoint
from rt3d_tvm.prune.held_masks import HeldMasks, mask_
from rt3d_tvm.prune.heuristic import Heuristic
from rt3d_tvm.prune.importance import channel_importance
from rt3d_tvm.prune.penalties import Penalties
from rt3d_tvm.prune.probe import device_of, own_tensors
from rt3d_tvm.prune.project import (
    check_masks_hold,
    choose_masks,
    layer_schemes,
    unit_rate,
    warn_of_single_zeros,
)
from rt3d_tvm.prune.pruner_state import PrunerState, read_pruner_state
from rt3d_tvm.prune.reach import warn_if_severed
from rt3d_tvm.prune.regularization import Regularization
from rt3d_tvm.prune.report import ProjectionReport, report_masks
from rt3d_tvm.prune.reweighted import Reweighted
from rt3d_tvm.prune.rollback import unchanged, unchanged_on_error
from rt3d_tvm.prune.schemes import Scheme, scheme_of
from rt3d_tvm.prune.survey import Survey, survey_model
from rt3d_tvm.prune.training_state import (
    load_optimizer_,
    optimizer_state,
    random_state,
    restore_random,
)
from topi_sparse.kernel_group import KernelGroup


class Pruner:
    """Prune the convolutions of a model to a rate of its overall MACs.

        pruner = Pruner(model, optimizer, "reweighted", group="8x4", rate=3.6,
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
    MACs on ``input_shape``, or on ``example_inputs``, of which layers named in ``ignore`` keep all
    theirs; with ``linear`` linear layers are pruned too, as 1x1x1 convolutions. ``group_sizes``
    gives layers a kernel group other than that of ``scheme``.

    A weight that is computed, by weight_norm for instance, goes on being computed; its mask is
    behind that, and `strip` makes a plain parameter of what comes out.

    InputError for a layer that the model does not have, a rate below 1 or beyond reach, an
    optimizer of another model, and a layer that would not keep its zeros: before the training, not
    after it. Every method changes all that it is to change, or nothing. A call out of order is a
    RuntimeError.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        algorithm: Algorithm | str = Reweighted.name,
        *,
        scheme: Scheme | str = "kgs",
        group: KernelGroup | str | None = None,
        rate: float,
        input_shape: Sequence[int] | None = None,
        example_inputs: object = None,
        ignore: Iterable[str] = (),
        linear: bool = False,
        group_sizes: Mapping[str, KernelGroup] | None = None,
    ) -> None:
        self.model = model
        self.algorithm = algorithm = algorithm_of(algorithm)
        self.scheme = scheme = scheme_of(scheme, group)
        self.rate, self.iteration = rate, 0
        self._layers: dict = {
            "scheme": scheme,
            "ignore": tuple(sorted(set(as_names(ignore, "ignore")))),
            "linear": linear,
            "group_sizes": dict(sorted((group_sizes or {}).items())),
        }
        self._survey = survey_model(
            model,
            input_shape=input_shape,
            example_inputs=example_inputs,
            ignore=self._layers["ignore"],
        )
        _refuse_untrainable(self._survey)
        self._schemes = layer_schemes(self._survey, **self._layers)
        self._rehearse()
        self._held: HeldMasks | None = None
        self._stripped = False
        self._penalties = Penalties(algorithm, self._survey, self._schemes)
        self.use_optimizer(optimizer)

    @property
    def pruned(self) -> bool:
        """Whether `finalize` was called."""
        return self._held is not None

    @property
    def masks(self) -> dict[str, Tensor]:
        """The bool masks of the pruned layers' weights; none before `finalize`."""
        return {} if self._held is None else dict(self._held.masks)

    def use_optimizer(self, optimizer: Optimizer) -> None:
        """Go on with another optimizer, for instance a new one for retraining."""
        if not isinstance(optimizer, Optimizer):
            raise InputError(
                f"an optimizer is one of torch.optim's kind, got a {type(optimizer).__name__}"
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        weights = [self._survey.layer(name).weight for name in self._schemes]
        if not any(id(p) in held for weight in weights for p in weight.parameters()):
            raise InputError(
                f"the optimizer has none of the weights to prune: {', '.join(self._schemes)}; "
                "was it made for another model?"
            )
        self.optimizer = optimizer
        if self._held is not None:
            self._held.follow(optimizer)

    def regularize(self) -> None:
        """Between backward() and step(): add the penalty's gradient to the weights' gradients.

        Under mixed precision, after ``scaler.unscale_``. Once the model is pruned it clears the
        gradients of what is gone, so that clipping does not count them.
        """
        self._refuse_if_stripped()
        found = (
            self._penalties.add_gradients_()
            if self._held is None
            else self._held.clear_gradients_()
        )
        if not found:
            raise RuntimeError("no gradients: regularize() goes between backward() and step()")

    def penalty(self) -> float:
        """The regularization term of the loss as it stands: 0 for the heuristic, or once pruned."""
        return 0.0 if self.pruned else self._penalties.value()

    def update(self) -> None:
        """End an iteration of some epochs: the reweighted algorithm takes its penalties anew."""
        self._refuse_if_stripped()
        if self.pruned:
            raise RuntimeError("update() comes before finalize(); the model is pruned already")
        self.iteration += 1
        if isinstance(self.algorithm, Regularization) and self.algorithm.reweights:
            self._penalties.renew()

    def density(self, threshold: float = 0.1) -> float:
        """The share of MACs in units whose RMS is at least ``threshold`` of their layer's.

        Of the layers that are pruned: what training has made sparse so far.
        """
        if not (isfinite(threshold) and threshold > 0):
            raise InputError(f"a threshold is a finite number above 0, got {threshold}")
        kept = total = 0
        for name, scheme in self._schemes.items():
            layer = self._survey.layer(name)
            weight, groups = layer.filters(), layer.conv_groups
            rms = weight.double().square().mean().sqrt()
            norms = scheme.mean_norms(weight, groups=groups)
            strong = (norms > 0) & (norms >= threshold * rms)
            sizes = scheme.sizes(weight.shape, groups=groups, device=weight.device)
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
        survey, model = self._survey, self._survey.model
        needs = "the heuristic" if isinstance(self.algorithm, Heuristic) else "BatchNorm"
        needed = isinstance(self.algorithm, Heuristic) or bool(running_batchnorms(model))
        if batches is None and needed:
            raise InputError(f"finalize() needs batches of clips: {needs} takes statistics of them")
        choose = partial(choose_masks, survey)
        if isinstance(self.algorithm, Heuristic):
            choose = partial(self.algorithm.choose_masks, survey, batches, max_batches=max_batches)
        masks = choose(rate=self.rate, **self._layers)
        with unchanged_on_error(model):
            mask_(survey, masks)
            if batches is not None:
                reestimate_batchnorm_(model, batches, inputs=survey.inputs, max_batches=max_batches)
            check_masks_hold(survey, masks)
            report = self._report(masks)
            warn_of_single_zeros(report, unit_rate(survey, self._schemes))
            warn_if_severed(survey)
            held = HeldMasks(survey, masks)
            held.follow(self.optimizer)
        self._held = held
        return report

    def report(self) -> ProjectionReport:
        """MACs, parameters and density of the whole model and of each layer, before and after."""
        return self._report(self.masks)

    def strip(self) -> nn.Module:
        """Let go of a pruned model: a plain torch module with zeros in its weights."""
        if not self.pruned:
            raise RuntimeError("strip() comes after finalize(); nothing is pruned yet")
        with unchanged_on_error(self._survey.model):
            mask_(self._survey, self.masks)
            plain = self._survey.with_plain_weights(self.masks)
        self._survey = plain
        self._held.release()
        self._stripped = True
        return self.model

    def save(self, path: str | Path, *, extra: Mapping[str, object] | None = None) -> None:
        """Write a checkpoint: model, optimizer, pruning and torch's random generators.

        ``extra`` takes what else the training needs to go on: the epoch, a scheduler's
        state_dict(). One safetensors file, the rest as JSON in its header; it appears whole or
        not at all. InputError for what it cannot hold and for a path that cannot be written.
        """
        self._refuse_if_stripped()
        state = PrunerState(
            iteration=self.iteration,
            model=self._survey.model.state_dict(),
            optimizer=optimizer_state(self.optimizer),
            penalties={} if self.pruned else self._penalties.state,
            masks=self.masks if self.pruned else None,
            random=random_state(self._device),
            extra=dict(extra or {}),
        )
        write_checkpoint(path, state.tree(self._settings()))

    def load(self, path: str | Path) -> dict[str, object]:
        """Go on from a checkpoint, bit for bit where it was written, and return its ``extra``.

        Model, optimizer and arguments are those it was written with. InputError for a file that
        is no checkpoint, or one of another model, optimizer or pruning; nothing has changed then.
        """
        self._refuse_if_stripped()
        saved = read_pruner_state(
            path,
            self._settings(),
            survey=self._survey,
            schemes=self._schemes,
            optimizer=self.optimizer,
            penalised=isinstance(self.algorithm, Regularization),
        )
        held, device = None, self._device
        with unchanged_on_error(self._survey.model, self.optimizer):
            self._survey.model.load_state_dict(saved.model)
            load_optimizer_(path, self.optimizer, saved.optimizer)
            for name in self._schemes:
                self._survey.layer(name).weight.unmask_()
            if saved.masks is not None:
                masks = {name: mask.to(device) for name, mask in saved.masks.items()}
                mask_(self._survey, masks)
                held = HeldMasks(self._survey, masks)
            restore_random(device, saved.random)
        if self._held is not None:
            self._held.release()
        if held is not None:
            held.follow(self.optimizer)
        self._held, self.iteration = held, saved.iteration
        self._penalties.restore(saved.penalties, device)
        return saved.extra

    def _rehearse(self) -> None:
        """Find now, not after the training, what `finalize` would fail by."""
        masks = choose_masks(self._survey, rate=self.rate, **self._layers)
        with unchanged(self._survey.model):
            mask_(self._survey, masks)
            check_masks_hold(self._survey, masks)
        if isinstance(self.algorithm, Heuristic):
            channel_importance(self._survey, None, self._schemes)

    def _report(self, masks: Mapping[str, Tensor]) -> ProjectionReport:
        return report_masks(
            self._survey,
            masks,
            self._schemes,
            algorithm=self.algorithm.name,
            target_rate=self.rate,
        )

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
            "input shape": self._survey.inputs.plain,
            "ignored layers": list(self._layers["ignore"]),
            "linear layers": self._layers["linear"],
            "group sizes": {name: str(g) for name, g in self._layers["group_sizes"].items()},
        }

    @property
    def _device(self) -> torch.device:
        return device_of(self._survey.model)


def _refuse_untrainable(survey: Survey) -> None:
    for name, tensor in own_tensors(survey.model):
        if tensor.is_inference():
            raise InputError(
                f"{name} was made in inference mode, so that it cannot be trained; build the model "
                "outside of torch.inference_mode, or prune it in one shot by project_"
            )
