"""What is required of this project's rows beside the other engines', and what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from figures import DIRECT, INT8_DENSE, PAPER_KIND, eta, is_int8, median, ratio, sparse_kinds

# How fast a pruned model has to be, as a multiple of OpenVINO's dense run: at the kernel group that
# the machine prefers (must, aim), and at the paper's 8x4 where it prefers another.
SPARSE = {"c3d": (2.6, 3.1, 2.2), "r2plus1d": (2.4, 3.2, 2.0), "s3d": (1.6, 2.1, 1.4)}
DENSE, ETA = (0.85, 1.0), (0.85, 1.0)
# The same in int8, where every engine has the same QDQ file; the aim is the pruning rate.
SPARSE_INT8 = {"c3d": 2.2, "r2plus1d": 2.0, "s3d": 1.5}
DENSE_INT8, ETA_INT8 = 1.0, 0.8
# How much faster than its own float32 a pruned model has to be in int8.
INT8_OVER_FLOAT32 = 2.8


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A figure with the least it must be and what is aimed at; larger is better."""

    model: str
    what: str
    measured: float | None
    must: float
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the must is held."""
        if self.measured is None:
            return "not measured"
        return "held" if self.measured >= self.must else "missed"


def requirements(name: str, model: dict) -> list[Requirement]:
    """What is required of a model and what was measured, of each precision that has rows."""
    kinds = [row["kind"] for row in model["engines"]]
    found = []
    if not all(map(is_int8, kinds)):
        found += _float32_requirements(name, model)
    if any(map(is_int8, kinds)):
        found += _int8_requirements(name, model)
    return found


def _float32_requirements(name: str, model: dict) -> list[Requirement]:
    title, openvino, dense = model["title"], median(model, "openvino"), median(model, "rt3d")
    found = [
        Requirement(
            model=title,
            what="dense / OpenVINO",
            measured=ratio(openvino, dense),
            must=DENSE[0],
            aim=DENSE[1],
        )
    ]
    torch = [
        ms
        for engine in ("pytorch", "pytorch_without_onednn", "pytorch_compiled")
        if (ms := median(model, engine))
    ]
    others = (
        ("PyTorch, its fastest way", min(torch, default=None)),
        ("ONNX Runtime", median(model, "onnxruntime")),
        ("MNN", median(model, "mnn")),
    )
    found += [
        Requirement(model=title, what=f"dense / {peer}", measured=ratio(ms, dense), must=1.0)
        for peer, ms in others
    ]
    for preferred in sparse_kinds(model)[:1]:
        found += _sparse_requirements(name, model, preferred)
    peaks = {
        (entry["engine"], entry["kind"]): entry["peak_mb"]
        for entry in model["memory"]
        if not entry["failed"]
    }
    found += [
        Requirement(
            model=title,
            what=f"peak memory, {kind}: ONNX Runtime / ours",
            measured=ratio(peaks.get(("onnxruntime", "dense")), peaks.get(("rt3d", kind))),
            must=1.0,
        )
        for kind in ("dense", DIRECT, *sparse_kinds(model)[:1])
    ]
    return found


def _sparse_requirements(name: str, model: dict, preferred: str) -> list[Requirement]:
    title, openvino = model["title"], median(model, "openvino")
    found = []
    if name in SPARSE:
        must, aim, paper = SPARSE[name]
        kinds = [(preferred, must, aim)]
        if preferred != PAPER_KIND:
            kinds.append((PAPER_KIND, paper, None))
        found += [
            Requirement(
                model=title,
                what=f"{kind} / OpenVINO dense",
                measured=ratio(openvino, median(model, "rt3d", kind)),
                must=least,
                aim=wanted,
            )
            for kind, least, wanted in kinds
        ]
    found.append(
        Requirement(
            model=title,
            what=f"eta of {preferred}, convolutions",
            measured=eta(model, preferred)[1],
            must=ETA[0],
            aim=ETA[1],
        )
    )
    return found


def _int8_requirements(name: str, model: dict) -> list[Requirement]:
    """Those of int8; a pruning that was refused is there, and not measured."""
    title, openvino = model["title"], median(model, "openvino", INT8_DENSE)
    dense = ratio(openvino, median(model, "rt3d", INT8_DENSE))
    found = [
        Requirement(model=title, what="int8 dense / OpenVINO int8", measured=dense, must=DENSE_INT8)
    ]
    prunings = [
        row["kind"]
        for row in model["engines"]
        if row["engine"] == "rt3d" and is_int8(row["kind"]) and row["kind"] != INT8_DENSE
    ]
    for kind in prunings[:1]:
        ms, in_float32 = (median(model, "rt3d", each) for each in (kind, kind.split(" ", 1)[1]))
        figures = [
            (f"eta of {kind}, convolutions", eta(model, kind)[1], ETA_INT8, None),
            (f"{kind} / the same in float32", ratio(in_float32, ms), INT8_OVER_FLOAT32, None),
        ]
        if name in SPARSE_INT8:
            over = (f"{kind} / OpenVINO int8 dense", ratio(openvino, ms))
            figures.insert(0, (*over, SPARSE_INT8[name], model["rate"]))
        found += [
            Requirement(model=title, what=what, measured=measured, must=must, aim=aim)
            for what, measured, must, aim in figures
        ]
    return found
