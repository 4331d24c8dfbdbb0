"""What torch's exporters write of the architectures, as users call them.

The project's own export is that of dynamo at opset 18; these are the others.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch.onnx.errors import UnsupportedOperatorError

from tests.zoo.models import Architecture


class NotExported(Exception):
    """The exporter cannot write this model in this opset."""


@dataclass(frozen=True)
class Exporter:
    """One of torch's two, and an opset."""

    dynamo: bool
    opset: int

    def __str__(self) -> str:
        return f"{'dynamo' if self.dynamo else 'legacy'}-{self.opset}"

    def write(self, architecture: Architecture, path: Path) -> None:
        """Export it, dense. `NotExported` where the opset has no operator for it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecation, and of sizes that become constants
            try:
                torch.onnx.export(
                    architecture.build(),
                    # A last dict would be taken for names.
                    (*architecture.inputs(), {}),
                    path,
                    dynamo=self.dynamo,
                    opset_version=self.opset,
                    external_data=False,
                    verbose=False,
                )
            except UnsupportedOperatorError as error:
                raise NotExported(str(error)) from error
        if (found := onnx.load(path).opset_import[0].version) != self.opset:
            raise NotExported(f"{self} wrote opset {found}")


LEGACY = tuple(Exporter(False, opset) for opset in (13, 17, 20))
# Dynamo begins with opset 18, and converts down what it can.
EXPORTERS = (*LEGACY, Exporter(True, 20))
