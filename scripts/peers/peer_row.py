"""A row of the comparison: one engine with one file, and the environment that it runs in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Other engines; and the runtimes alone, with no torch that an import could bring in.
PEERS, PLAIN = ROOT / ".venv-peers" / "bin", ROOT / ".venv-plain" / "bin"
IN_PEERS = ("openvino", "mnn")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine with one file; ``reference`` is the ONNX file that says what it should compute.

    kind: dense, or the pruning (``kgs 16x4``). missing: why this row cannot be measured.
    """

    title: str
    engine: str
    kind: str
    path: Path
    reference: Path
    missing: str | None = None
