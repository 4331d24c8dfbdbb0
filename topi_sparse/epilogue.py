"""What a packed kernel does to its results before it stores them, and a definition as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from topi_sparse.activation import activated
from topi_sparse.elementwise import Step, after_steps, steps_from_json
from topi_sparse.layout import PackedLayout

Defined = TypeVar("Defined", bound="Epilogue")


@dataclass(frozen=True, kw_only=True)
class Epilogue:
    """A packed input to a packed result, and all that follows in the same kernel.

    x, y      layouts of the input and of the result
    residual  layout of a tensor that is added before the ReLU, or None
    ceiling   the largest value the ReLU lets through, such as 6, or None
    steps     what is done behind all of that (topi_sparse.elementwise)
    """

    # The kernel, and the attribute of its PrimFunc that holds this definition.
    name: ClassVar[str]
    # What makes the fields that are not plain numbers from their JSON.
    parts: ClassVar[Mapping[str, Callable]] = dict.fromkeys(("x", "y", "residual"), PackedLayout)

    x: PackedLayout
    y: PackedLayout
    residual: PackedLayout | None = None
    relu: bool = False
    ceiling: float | None = None
    steps: tuple[Step, ...] = ()
    dtype: str = "float32"

    @property
    def is_finished_by_sum(self) -> bool:
        """Whether nothing is done to a result."""
        return not (self.residual or self.relu or self.ceiling is not None or self.steps)

    def finished(self, value, *, lanes: int, dtype: str | None = None):
        """A vector of results, the residual added, as it is stored; in ``dtype`` if not its own."""
        dtype = dtype or self.dtype
        bounded = activated(value, relu=self.relu, ceiling=self.ceiling, dtype=dtype, lanes=lanes)
        return after_steps(self.steps, bounded)

    def to_json(self) -> str:
        """The definition as JSON, for the PrimFunc's attribute."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls: type[Defined], text: str) -> Defined:
        """What ``to_json`` wrote."""
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(text).items()
        }
        fields["steps"] = steps_from_json(fields.get("steps", ()))
        for name, make in cls.parts.items():
            fields[name] = make(**fields[name]) if fields[name] else None
        return cls(**fields)
