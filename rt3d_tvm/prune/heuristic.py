"""Heuristic pruning (paper, section 4): importance propagated backwards, then greedy removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.activations import Batches, input_strength
from rt3d_tvm.prune.held_masks import mask_
from rt3d_tvm.prune.importance import channel_importance, weight_importance
from rt3d_tvm.prune.project import choose_masks, layer_schemes, unit_rate
from rt3d_tvm.prune.rollback import unchanged
from rt3d_tvm.prune.schemes import Scheme
from rt3d_tvm.prune.survey import Survey, survey_model
from topi_sparse.kernel_group import KernelGroup

__all__ = ["Heuristic", "channel_importance", "weight_importance"]


@dataclass(frozen=True, kw_only=True)
class Heuristic:
    """Remove what contributes least to the next layers' inputs, a few units at a time.

    The importance of weight w[m, n, k] is S[m] * |w| * a[n]: what it hands on of its input
    channel, whose RMS on real clips is a[n], to output channel m, and what the layers after make
    of that channel. S comes from the last layer backwards as in NISP, S[n] = sum of S[m] * |w|
    over the weights that read n, through BatchNorm, pooling, sums and concatenations alike.
    A unit's importance is its weights' mean. As in ThiNet and NISP it ranks the units of one layer
    and all layers give the same share: S says nothing about one layer against another, and a
    threshold on it would empty whole branches.

    Greedy, as ThiNet: in each of ``rounds``, which near the rate in equal factors, the least
    important units go and S is computed again without them, so that a filter nobody reads any
    more is next. a is measured once, on the model as it was.

    InputError for fewer than one round.
    """

    name: ClassVar[str] = "heuristic"

    rounds: int = 4

    def __post_init__(self) -> None:
        if not (isinstance(self.rounds, int) and self.rounds >= 1):
            raise InputError(f"greedy pruning takes at least one round, got {self.rounds}")

    def choose_masks(
        self,
        model: nn.Module | Survey,
        batches: Batches,
        *,
        scheme: Scheme,
        rate: float,
        input_shape: Sequence[int] | None = None,
        ignore: Iterable[str] = (),
        linear: bool = False,
        group_sizes: Mapping[str, KernelGroup] | None = None,
        max_batches: int,
    ) -> dict[str, Tensor]:
        """Which weights stay, as `project.choose_masks` has it; the model is left as it was.

        InputError as there, and for batches or a model that importance cannot be taken from.
        """
        survey, ignore = model, tuple(ignore)
        if not isinstance(survey, Survey):
            survey = survey_model(model, input_shape=input_shape, ignore=ignore)
        layers = {
            "scheme": scheme,
            "ignore": ignore,
            "linear": linear,
            "group_sizes": group_sizes,
        }
        names = layer_schemes(survey, **layers)
        strength = input_strength(survey, names, batches, max_batches=max_batches)
        now = unit_rate(survey, names)
        masks: dict[str, Tensor] = {}
        with unchanged(survey.model):
            for step in range(1, self.rounds + 1):
                last = step == self.rounds
                masks = choose_masks(
                    survey,
                    # A model at or beyond the rate already is for the last round to refuse.
                    rate=rate if last else max(1.0, now * (rate / now) ** (step / self.rounds)),
                    order=1,
                    importance=weight_importance(survey, None, strength),
                    exact=last,
                    **layers,
                )
                mask_(survey, masks)
        return masks
