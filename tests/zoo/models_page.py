"""docs/models.md: python -m tests.zoo.models_page compiles the architectures and writes the page.

Its figures are in docs/models.json, and a test fails where an architecture has become worse. Those
of speed are in docs/models_speed.json (tests/zoo/speed.py). With names of architectures it compiles
these alone; --page draws what is recorded.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rt3d_tvm.artifact.verify import Verification, verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import CompileOptions
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE
from rt3d_tvm.compile.pipeline import phases
from tests.zoo.models import ZOO
from tests.zoo.pruned import Pruned, pruned

DOCS = Path(__file__).parents[2] / "docs"
PAGE, FIGURES, SPEED = (DOCS / name for name in ("models.md", "models.json", "models_speed.json"))
TEXT = """# Models

Published architectures, written out small for the tests with the layers and operators of the
originals ([tests/zoo](../tests/zoo)). Each is pruned in groups of 8x4, exported, compiled and
compared with ONNX Runtime. What can be pruned is pruned to 2.6x; depthwise layers cannot be.
`python -m tests.zoo.models_page` draws this page. A test fails where an architecture gets worse.

Each is also exported by torch itself: by its older exporter with opsets 13, 17 and 20, and by the
newer one (dynamo) with 20. The project's own export is the newer one's with 18; to 13 and 17 that
one converts only by chance. The tests read one of these files per architecture and count its
layout changes, and `make test-full` compiles and compares all of them. The largest error that
passes is 1e-4 of the largest value; float32's rounding leaves some 1e-6.

- *rate*: multiply-adds of the dense model over those that are kept.
- *layers*: convolutions and fully connected layers, and how many have a kernel of this project.
- *layout changes*: how often values go into the packed layout or out of it. A model that stays
  packed has two. `rt3d compile` says what is not packed, and why. Counted for {target}; with
  other vectors single views are copies.

| model | rate | layers | with a kernel | layout changes | operators outside the tested ones |
|---|---|---|---|---|---|
"""
# Whose layout changes are counted: the same on every machine.
TARGET = "x86-64-avx2"
SPEED_TEXT = """
## Speed

Milliseconds for one input at the size that each was published at
([published.py](../tests/zoo/published.py)), float32, {threads} threads: medians of runs in turns,
on {cpu} ({vectors}). *KGS* is pruned as above, in groups of {group}. OpenVINO {openvino} runs the
dense model. In brackets: how many times as fast as OpenVINO.
`python -m tests.zoo.speed` measures, `docs/models_speed.json` has every sample.

| model | input | rate | KGS | dense | OpenVINO |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Figures:
    """What became of an architecture."""

    rate: float
    layers: int
    kernels: int
    layout_changes: int
    untested: list[str]


def compiled(architecture: Pruned, folder: Path) -> tuple[Figures, Verification]:
    """Compile and verify an architecture, its artifact in ``folder``."""
    onnx = architecture.export.path
    manifest = compile_onnx(onnx, folder / "artifact")
    figures = Figures(
        rate=round(architecture.report.rate, 2),
        layers=len(manifest["layers"]),
        kernels=sum(layer["kernel"] is not None for layer in manifest["layers"]),
        layout_changes=layout_changes(onnx),
        untested=manifest["untested_operators"],
    )
    return figures, verify(folder / "artifact", onnx)


def layout_changes(onnx: Path) -> int:
    """How many layout changes a model has when it is compiled for `TARGET`."""
    mod = import_onnx(onnx)
    for name, phase in phases(CompileOptions(target=TARGET).resolve()):
        mod = phase(mod)
        if name == "keep_packed":
            break
    return int(mod.attrs[CHANGES_ATTRIBUTE])


def page(found: dict[str, Figures]) -> str:
    """The page, with the speed that was measured."""
    rows = [
        f"| {name} | {each.rate:.2f}x | {each.layers} | {each.kernels} | {each.layout_changes} | "
        f"{', '.join(each.untested)} |"
        for name, each in found.items()
    ]
    return TEXT.format(target=TARGET) + "\n".join(rows) + "\n" + _speed()


def _speed() -> str:
    """The table of speed, of its record."""
    document = json.loads(SPEED.read_text(encoding="utf-8"))
    models, machine = document["models"], document["machine"]
    text = SPEED_TEXT.format(
        threads=document["threads"],
        cpu=machine["cpu"],
        vectors=document["vectors"],
        group=document["group"],
        openvino=next(iter(models.values()))["openvino"],
    )
    for name, each in models.items():
        shapes = " and ".join("x".join(map(str, shape)) for shape in each["input"])
        own = " | ".join(
            f"{_ms(each[key])} ({each['openvino_ms'] / each[key]:.2f})"
            for key in ("kgs_ms", "dense_ms")
        )
        text += (
            f"| {name} | {shapes} | {each['rate']:.2f}x | {own} | {_ms(each['openvino_ms'])} |\n"
        )
    return text


def _ms(milliseconds: float) -> str:
    """Three digits."""
    return f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:.0f}"


def recorded() -> dict[str, Figures]:
    """The figures of docs/models.json."""
    return {
        name: Figures(**each)
        for name, each in json.loads(FIGURES.read_text(encoding="utf-8")).items()
    }


def main() -> None:
    """Draw the page anew."""
    names = sys.argv[1:] or list(ZOO)
    before = recorded()
    if names == ["--page"]:
        names = []
    found = {name: before[name] for name in ZOO if name in before and name not in names}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found[name], result = compiled(pruned(name, Path(folder)), Path(folder))
        print(name, found[name], result, flush=True)
        if not result.passed:
            raise SystemExit(f"{name} computes something else than ONNX Runtime")
    found = {name: found[name] for name in ZOO}
    texts = {name: asdict(each) for name, each in found.items()}
    FIGURES.write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
