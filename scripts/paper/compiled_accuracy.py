"""The accuracy of a model as torch computes it and as its compiled model.so does, video by video.

    python scripts/paper/compiled_accuracy.py --weights W.safetensors --data DIR

Exports the weights that `rt3d train` or `rt3d prune` wrote, compiles them for this machine,
verifies the result, and runs every video of the test split through both. Exit status 1 where
the two accuracies differ by more than one video, or the verification fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.console import write_json
from rt3d_tvm.data.datasets import VideoDataset, open_dataset
from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.models import model_spec
from rt3d_tvm.models.weights import WeightsInfo, load_model
from rt3d_tvm.precision import PRECISIONS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Right answers of both among ``videos``, and how often they did not give the same one."""

    videos: int
    torch_right: int
    compiled_right: int
    differing: int
    max_rel_error: float

    @property
    def agrees(self) -> bool:
        close = abs(self.torch_right - self.compiled_right) <= 1
        return close and self.max_rel_error <= PRECISIONS["fp32"].max_rel_error


def exported(weights: Path, path: Path) -> tuple[torch.nn.Module, WeightsInfo, tuple[int, ...]]:
    """Export weights to ONNX; the model, what is known of it, and the input's shape.

    InputError as of the stages, and for a model of pictures.
    """
    model, info = load_model(weights)
    spec = model_spec(info.model)
    frames, size = info.frames or spec.frames, info.size or spec.size
    if frames is None:
        raise InputError(f"{weights}: {spec.title} takes pictures; a model of clips is expected")
    shape = (1, spec.channels, frames, size, size)
    export_onnx(model, shape, path, description=info.description)
    return model, info, shape


def open_split(
    data: Path, info: WeightsInfo, shape: tuple[int, ...], *, split: str
) -> VideoDataset:
    """A split of a data set, cut as in testing and as the model says."""
    known = info.description.preprocessing
    cut = {"frames": shape[2], "size": shape[3]} if known is None else known.dataset_arguments()
    return open_dataset(data, training=False, split=split, cache=True, **cut)


def compare(weights: Path, data: Path, folder: Path, *, videos: int | None = None) -> Comparison:
    """Export and compile ``weights`` into ``folder``; run the test split of ``data`` through both.

    ``videos`` takes so many of them, evenly spread over the classes. Logits are averaged over the
    clips of a video. InputError as of the stages.
    """
    model, info, shape = exported(weights, folder / "model.onnx")
    test = open_split(data, info, shape, split="test")
    compile_onnx(folder / "model.onnx", folder / "artifact")
    checked = verify(folder / "artifact", folder / "model.onnx", inputs=2)
    artifact = load(folder / "artifact", threads=torch.get_num_threads())
    right = np.zeros(2, int)
    seen = differing = 0
    stride = 1 if videos is None else max(len(test) // videos, 1)
    for index in range(0, len(test), stride):
        clips, label = test[index]
        if label < 0:  # a damaged video
            continue
        with torch.inference_mode():
            logits = model(clips).numpy().mean(0)
        compiled = np.concatenate([artifact.run(clip[None]) for clip in clips.numpy()]).mean(0)
        answers = np.array([logits.argmax(), compiled.argmax()])
        right += answers == label
        differing += int(answers[0] != answers[1])
        seen += 1
    if not seen:
        raise InputError(f"{data}: no video of the test split can be read")
    return Comparison(
        videos=seen,
        torch_right=int(right[0]),
        compiled_right=int(right[1]),
        differing=differing,
        max_rel_error=checked.max_rel_error,
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="W.safetensors")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--videos", type=int, metavar="N", help="so many; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = compare(args.weights, args.data, Path(folder), videos=args.videos)
        if args.json is not None:
            write_json(args.json, {**asdict(result), "agrees": result.agrees})
    except InputError as error:
        print(f"compiled_accuracy: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.weights}: torch {result.torch_right}, compiled {result.compiled_right} of "
        f"{result.videos} videos right; {result.differing} answers differ; "
        f"max_rel_error {result.max_rel_error:.2g}"
    )
    return 0 if result.agrees else 1


if __name__ == "__main__":
    sys.exit(main())
