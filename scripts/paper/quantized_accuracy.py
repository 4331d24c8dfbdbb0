"""The accuracy of models in float32 and in 8 bits, both compiled, over a whole test split.

    quantized_accuracy.py --data DIR W.safetensors ... --json FILE     measure, and print the table
    quantized_accuracy.py --render FILE                                print it again

The weights are those that `rt3d train`, `rt3d prune` or table1.py wrote, dense and pruned. Each is
exported, quantised with every one of ``--methods``, and compiled for this machine in float32 and in
8 bits. Ranges are found on clips of the training split, and so is what ``--max-drop`` leaves in
float32; no test video chooses anything. Exit status 1 where a model loses more than ``--most``
points with every method.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from compiled_accuracy import exported, open_split
from torch.utils.data import Subset

from rt3d_tvm.artifact.load import Artifact, available_cores, load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.data.datasets import VideoDataset
from rt3d_tvm.errors import InputError
from rt3d_tvm.models.weights import WeightsInfo
from rt3d_tvm.quantize import COUNT, METHOD, quantize_onnx

# Every so many training videos one that layers are chosen by, where layers are chosen.
_JUDGED = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model and a method: right answers among ``videos``, and how often the two differ.

    in_float: layers that are computed in float32, of ``layers``.
    """

    weights: str
    model: str
    scheme: str | None
    group: str | None
    rate: float | None
    method: str
    clips: int
    max_drop: float | None
    layers: int
    in_float: int
    videos: int
    float_right: int
    int8_right: int
    differing: int

    @property
    def points(self) -> float:
        """Points of accuracy that 8 bits lose."""
        return 100 * (self.float_right - self.int8_right) / self.videos


def measure(
    weights: Path,
    data: Path,
    *,
    methods: Sequence[str],
    count: int = COUNT,
    max_drop: float | None = None,
) -> list[Row]:
    """A row for each method; InputError as of the stages."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, info, shape = exported(weights, folder / "float.onnx")
        test = open_split(data, info, shape, split="test")
        train = open_split(data, info, shape, split="train")
        compile_onnx(folder / "float.onnx", folder / "float")
        labels, expected = answers(load(folder / "float", threads=available_cores()), test)
        rows = []
        for method in methods:
            written = quantize_onnx(
                folder / "float.onnx",
                folder / f"{method}.onnx",
                calibration_clips(train, count),
                count=count,
                method=method,
                labelled=None if max_drop is None else judged(train),
                max_drop=max_drop,
            )
            compiled = compile_onnx(written.path, folder / method)
            _, found = answers(load(folder / method, threads=available_cores()), test)
            rows.append(
                Row(
                    weights=weights.name,
                    **_pruning(info),
                    method=method,
                    clips=written.clips,
                    max_drop=max_drop,
                    layers=len(compiled["layers"]),
                    in_float=sum(layer["dtype"] == "float32" for layer in compiled["layers"]),
                    videos=len(labels),
                    float_right=int((expected == labels).sum()),
                    int8_right=int((found == labels).sum()),
                    differing=int((found != expected).sum()),
                )
            )
        return rows


def calibration_clips(train: VideoDataset, count: int) -> np.ndarray:
    """A clip of each of ``count`` training videos, evenly spread; float32 (N, C, D, H, W)."""
    indices = np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int)
    items = (train[index] for index in np.unique(indices).tolist())
    return np.stack([clips[0].numpy() for clips, label in items if label >= 0])


def judged(train: VideoDataset) -> Subset:
    """The training videos that decide which layers stay in float32."""
    return Subset(train, range(_JUDGED - 1, len(train), _JUDGED))


def answers(artifact: Artifact, videos: VideoDataset) -> tuple[np.ndarray, np.ndarray]:
    """The class of each readable video, and what the artifact says; logits are averaged."""
    pairs = []
    for index in range(len(videos)):
        clips, label = videos[index]
        if label >= 0:
            logits = np.concatenate([artifact.run(clip[None]) for clip in clips.numpy()])
            pairs.append((label, int(logits.mean(0).argmax())))
    if not pairs:
        raise InputError("no video of the test split can be read")
    labels, found = np.array(pairs).T
    return labels, found


def _pruning(info: WeightsInfo) -> dict:
    return {
        "model": info.model,
        "scheme": info.scheme,
        "group": info.group,
        "rate": info.rate,
    }


def print_rows(rows: Iterable[Row]) -> None:
    """The table."""
    print_table(
        [
            (
                row.model,
                row.scheme or "dense",
                row.group or "-",
                "-" if row.rate is None else f"{row.rate:.2f}x",
                row.method,
                f"{row.in_float} of {row.layers}",
                f"{100 * row.float_right / row.videos:.1f}",
                f"{100 * row.int8_right / row.videos:.1f}",
                f"{row.points:.1f}",
                f"{row.differing} of {row.videos}",
            )
            for row in rows
        ],
        columns=(
            *("model", "scheme", "group", "rate", "method", "in float32"),
            *("float %", "int8 %", "points lost", "answers that differ"),
        ),
    )


def read_rows(path: Path) -> list[Row]:
    """What --json wrote; InputError for anything else."""
    try:
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file that --json wrote: {error}") from error


def losing(rows: Iterable[Row], most: float) -> list[str]:
    """The weights that lose more than ``most`` points with each of their methods."""
    least: dict[str, float] = {}
    for row in rows:
        least[row.weights] = min(row.points, least.get(row.weights, np.inf))
    return [name for name, points in least.items() if points > most]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights", type=Path, nargs="*", metavar="W.safetensors")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the videos")
    parser.add_argument("--methods", nargs="+", default=[METHOD], metavar="METHOD")
    parser.add_argument("--count", type=int, default=COUNT, metavar="N", help="calibration clips")
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help="as of rt3d quantize")
    parser.add_argument("--most", type=float, default=0.5, metavar="POINTS", help="default: 0.5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--render", type=Path, metavar="FILE", help="print the table in this file")
    return parser


def _measured(args: argparse.Namespace) -> list[Row]:
    if args.data is None or not args.weights:
        raise InputError("weights and --data are needed; see --help")
    rows: list[Row] = []
    for weights in args.weights:
        rows += measure(
            weights, args.data, methods=args.methods, count=args.count, max_drop=args.max_drop
        )
        print(f"{weights}: done", file=sys.stderr, flush=True)
    if args.json is not None:
        write_json(args.json, {"rows": [asdict(row) for row in rows]})
    return rows


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        rows = _measured(args) if args.render is None else read_rows(args.render)
    except InputError as error:
        print(f"quantized_accuracy: error: {error}", file=sys.stderr)
        return 2
    print_rows(rows)
    lost = losing(rows, args.most)
    for name in lost:
        print(f"{name}: more than {args.most:g} points are lost with every method")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
