"""Tampered checkpoints and weight files: python -m scripts.fuzz.checkpoints.

Each is refused, and then nothing has changed, or it loads and the training goes on.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from random import Random

import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.models import build_model
from rt3d_tvm.models.weights import WeightsInfo, load_model, load_weights_, save_weights
from rt3d_tvm.prune.pruner import Pruner
from rt3d_tvm.prune.reweighted import Reweighted
from rt3d_tvm.prune.schemes import Scheme
from scripts.fuzz import session
from scripts.fuzz.mutations import INTEGERS, cut_or_flipped
from scripts.fuzz.outcome import Outcome
from scripts.fuzz.tampering import change_json
from topi_sparse.kernel_group import KernelGroup

KINDS = ("checkpoint", "weights")
_SHAPE = (1, 1, 4, 6, 6)
_MODEL = {"model": "c3d", "classes": 3, "width": 0.0625, "frames": 16, "size": 32}
_STATE = "rt3d_pruning"  # the key in the header that a checkpoint's tree is under


def fuzzer(kind: str) -> session.Fuzzer:
    """Of one of KINDS."""
    judge = {"checkpoint": _checkpoint, "weights": _weights}[kind]
    return session.Fuzzer(name="checkpoints", of=kind, judge=judge, options=("--kind", kind))


def _checkpoint(seed: int, folder: Path) -> Outcome:
    torch.set_num_threads(1)
    rng = Random(f"{seed} checkpoint")
    good = folder.parent / "good.checkpoint"
    if not good.exists():
        _trained(0)[1].save(good)
    path = folder / "bad"
    path.write_bytes(damaged(rng, good.read_bytes()))
    model, pruner = _trained(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        pruner.load(path)
    except InputError as error:
        if changed := [n for n, value in model.state_dict().items() if not _same(value, before[n])]:
            return Outcome("wrong", f"refused ({error}), yet {changed[0]} was changed")
        return Outcome("refused", str(error))
    _step(model, pruner)
    return Outcome("ok")


def _weights(seed: int, folder: Path) -> Outcome:
    torch.set_num_threads(1)
    rng = Random(f"{seed} weights")
    good = folder.parent / "good.safetensors"
    if not good.exists():
        info = WeightsInfo(**_MODEL)
        torch.manual_seed(0)
        save_weights(good, _built(), info)
    path = folder / "w.safetensors"
    path.write_bytes(damaged(rng, good.read_bytes()))
    if rng.random() < 0.5:
        load_model(path)
        return Outcome("ok")
    model = _built()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        load_weights_(model, path)
    except InputError as error:
        if changed := [n for n, value in model.state_dict().items() if not _same(value, before[n])]:
            return Outcome("wrong", f"refused ({error}), yet {changed[0]} was changed")
        return Outcome("refused", str(error))
    return Outcome("ok")


def damaged(rng: Random, data: bytes) -> bytes:
    """A safetensors file, damaged in its bytes, its header, or the tree in its header."""
    (size,) = struct.unpack_from("<Q", data)
    kind = rng.choice(("bytes", "bytes", "header", "header", "tree", "tree", "deep", "size"))
    if kind == "bytes":
        return cut_or_flipped(rng, data)
    if kind == "size":
        size = rng.choice((*(n for n in INTEGERS if n >= 0), size - 1, size + 1, len(data)))
        return struct.pack("<Q", size) + data[8:]
    header, values = json.loads(data[8 : 8 + size]), data[8 + size :]
    if kind in ("tree", "deep") and _STATE in header["__metadata__"]:
        tree = json.loads(header["__metadata__"][_STATE])
        if kind == "tree":
            change_json(rng, tree)
            text = json.dumps(tree)
        else:
            depth = rng.choice((100, 2000, 100_000))
            text = '{"list": [' * depth + "1" + "]}" * depth
        header["__metadata__"][_STATE] = text
    else:
        change_json(rng, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def _trained(seed: int) -> tuple[nn.Module, Pruner]:
    """A small model after a step, and its Pruner."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 8, 1)),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3)),
    )
    pruner = Pruner(
        model,
        torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        Reweighted(),
        scheme=Scheme(name="kgs", group=KernelGroup(g_m=4, g_n=4)),
        rate=1.5,
        input_shape=_SHAPE,
    )
    _step(model, pruner)
    pruner.update()
    return model, pruner


def _step(model: nn.Module, pruner: Pruner) -> None:
    pruner.optimizer.zero_grad()
    model(torch.randn(2, *_SHAPE[1:])).sum().backward()
    pruner.regularize()
    pruner.optimizer.step()


def _built() -> nn.Module:
    return build_model(
        _MODEL["model"],
        _MODEL["classes"],
        _MODEL["width"],
        frames=_MODEL["frames"],
        size=_MODEL["size"],
    )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b)


def main() -> int:
    """The command."""
    options = session.parser(__doc__.splitlines()[0])
    options.add_argument("--kind", action="append", choices=KINDS, help="default: both")
    args = options.parse_args()
    return session.main([fuzzer(kind) for kind in args.kind or KINDS], args)


if __name__ == "__main__":
    sys.exit(main())
