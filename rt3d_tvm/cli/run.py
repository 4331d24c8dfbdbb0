"""rt3d run."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rt3d_tvm.cli.arguments import (
    add_folder,
    add_opencl,
    add_threads,
    at_least_one,
    output_file,
)
from rt3d_tvm.cli.command import EXIT_FAILED, add_command, write_result
from rt3d_tvm.cli.preprocessing import (
    add_preprocessing,
    described_preprocessing,
    given_preprocessing,
)
from rt3d_tvm.cli.watch import TOP, add_watching, check_watching, watch
from rt3d_tvm.console import print_table, printable
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.artifact.load import Artifact
    from rt3d_tvm.artifact.opencl.artifact import OpenCLArtifact
    from rt3d_tvm.classify import Classification
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.data.preprocessing import Preprocessing, PruningAccuracy
    from rt3d_tvm.devices.remote import RemoteArtifact

    Loaded: TypeAlias = Artifact | OpenCLArtifact | RemoteArtifact


def add_run(commands: Commands) -> None:
    """`rt3d run`."""
    run = add_command(commands, "run", _run, "classify videos, a camera or a stream")
    add_sources(run)
    add_opencl(run)


def _run(args: argparse.Namespace) -> int:
    if args.describe:
        return describe(args)
    from rt3d_tvm.artifact.opencl.artifact import load_here

    return classify(args, lambda: load_here(args.folder, threads=args.threads, device=args.opencl))


def add_sources(parser: argparse.ArgumentParser) -> None:
    """A compiled model, what it is shown, how its clips are prepared, where the answers go."""
    add_folder(parser)
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="a video, a folder of them, a pattern in quotes, camera:0, rtsp://, http:// or -",
    )
    parser.collects = "sources"  # type: ignore[attr-defined]  # of the command line's own parser
    parser.add_argument(
        "--describe",
        action="store_true",
        help="show the model's input, its preprocessing and its labels; no video is needed",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="names of the classes, one per line; default: those of the model",
    )
    add_watching(parser)
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--top",
        type=at_least_one,
        metavar="K",
        help="likeliest classes to show; default: 5, and 1 of each of several videos",
    )
    answers.add_argument(
        "--csv", type=output_file, metavar="FILE", help="write a line per answer, as they come"
    )
    add_preprocessing(parser)
    add_threads(parser)


def classify(args: argparse.Namespace, loader: Callable[[], Loaded]) -> int:
    """Classify the sources of the arguments with what the loader loads.

    Files are looked at whole, once each. A camera, a stream, standard input, and files with
    --every are watched in windows.
    """
    from rt3d_tvm.artifact.format import MANIFEST, read_manifest
    from rt3d_tvm.classify import check_labels
    from rt3d_tvm.data.labels import read_labels
    from rt3d_tvm.data.sources import FILE, sources_of
    from rt3d_tvm.data.video_file import check_video
    from rt3d_tvm.models import clip_model_spec

    # All that is wrong is told before anything is loaded.
    sources = sources_of(args.sources)
    check_watching(args, sources)
    if args.model is not None:
        clip_model_spec(args.model)
    if len(sources) == 1 and sources[0].kind == FILE:
        check_video(Path(sources[0].place))
    manifest = read_manifest(args.folder / MANIFEST)
    labels = None if args.labels is None else read_labels(args.labels)
    check_labels(labels, manifest)
    if args.realtime or args.every is not None or any(each.kind != FILE for each in sources):
        return watch(args, manifest, labels, sources, loader)
    return _classify_files(args, manifest, labels, [Path(each.place) for each in sources], loader)


def _classify_files(
    args: argparse.Namespace,
    manifest: dict,
    labels: list[str] | None,
    paths: list[Path],
    loader: Callable[[], Loaded],
) -> int:
    """Each file whole; one of several that cannot be read is passed over, and the status is 1."""
    from rt3d_tvm.artifact.description import prepared
    from rt3d_tvm.classify import classify_video
    from rt3d_tvm.live.lines import csv_writer, json_line, open_lines

    several = len(paths) > 1
    used = prepared(manifest, args.folder, **given_preprocessing(args, manifest))
    loaded, failed = functools.cache(loader), 0  # once, for all
    with contextlib.ExitStack() as stack:
        json_path = args.json if several else None
        lines = stack.enter_context(open_lines(json_path, args.standard_output))
        write = csv_writer(stack.enter_context(open_lines(args.csv, args.standard_output)))
        for path in paths:
            try:
                result = classify_video(
                    args.folder,
                    path,
                    preprocessing=used,
                    labels=labels,
                    top=args.top or (1 if several else TOP),
                    loader=loaded,
                )
            except InputError as error:
                if not several:
                    raise
                failed += 1
                print(printable(f"rt3d: passed over: {error}"), file=sys.stderr)
                continue
            _show(path, result, several)
            json_line(lines, result)
            write(str(path), result.top)
    if several:
        print(f"{len(paths) - failed} of {len(paths)} videos classified")
    else:
        write_result(args, result)
    return EXIT_FAILED if failed else 0


def _show(path: Path, result: Classification, several: bool) -> None:
    for note in result.notes:
        print(printable(f"note: {note}"))
    if several:
        for guess in result.top:
            name = guess.label or f"class {guess.index}"
            print(printable(f"{path}: {name} {guess.probability:.1%}"), flush=True)
        return
    print_table(
        [(guess.index, guess.label or "-", guess.probability) for guess in result.top],
        columns=("class", "label", "probability"),
        title=f"{path}: {_sampled(result.preprocessing)}",
    )
    print_table(
        [
            ("load", result.load_ms),
            ("decode", result.decode_ms),
            ("preprocess", result.preprocess_ms),
            ("inference", result.inference_ms),
        ],
        columns=("stage", "ms"),
    )


def _sampled(used: Preprocessing) -> str:
    return f"{used.clips} clips" + ("" if used.crops == 1 else f" of {used.crops} crops")


def describe(args: argparse.Namespace) -> int:
    """Show how the model is called, and how a video becomes its input; nothing is loaded."""
    from rt3d_tvm.artifact.batches import sizes_of
    from rt3d_tvm.artifact.description import description_of, prepared
    from rt3d_tvm.artifact.format import MANIFEST, read_manifest
    from rt3d_tvm.classify import check_labels
    from rt3d_tvm.data.labels import read_labels

    manifest = read_manifest(args.folder / MANIFEST)
    own, given = description_of(manifest, args.folder), given_preprocessing(args, manifest)
    used = own.preprocessing
    if given:
        used = prepared(manifest, args.folder, **given)
    labels = own.labels if args.labels is None else read_labels(args.labels)
    check_labels(labels, manifest)
    tensors = [("input", each) for each in manifest["inputs"]]
    tensors += [("output", each) for each in manifest["outputs"]]
    # Of several batches the tensors shown are the first one's.
    batches = [("batches", ", ".join(map(str, sizes)))] if (sizes := sizes_of(manifest)) else []
    print_table(
        [
            *batches,
            *((what, f"{each['name']}: {each['dtype']} {each['shape']}") for what, each in tensors),
            *described_preprocessing(used),
            ("labels", "not stated: --labels FILE gives them" if labels is None else len(labels)),
            *_accuracy(own.pruning_accuracy),
        ],
        columns=("of the model", "value"),
        title=str(args.folder),
    )
    for index, label in enumerate(labels or ()):
        print(printable(f"class {index}: {label}"))
    write_result(
        args,
        {
            "batches": sizes,
            "inputs": manifest["inputs"],
            "outputs": manifest["outputs"],
            "preprocessing": used,
            "labels": labels,
            "pruning_accuracy": own.pruning_accuracy,
        },
    )
    return 0


def _accuracy(measured: PruningAccuracy | None) -> list[tuple[str, str]]:
    """The row of what pruning cost, if the model says it."""
    if measured is None:
        return []
    change = f"{measured.before:.1%} before pruning, {measured.after:.1%} after"
    return [("accuracy", f"{change}, by rt3d prune on {measured.videos} videos")]
