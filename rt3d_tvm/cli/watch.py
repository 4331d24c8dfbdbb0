"""rt3d run on what does not end, or frame by frame: windows, a live view, lines as they come."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import at_least_one, output_file, seconds
from rt3d_tvm.cli.command import EXIT_FAILED
from rt3d_tvm.cli.preprocessing import given_preprocessing
from rt3d_tvm.console import print_table, printable
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import av

    from rt3d_tvm.data.sources import Source
    from rt3d_tvm.live.windows import Model, Watched

TOP = 5


def add_watching(parser: argparse.ArgumentParser) -> None:
    """How a source is watched."""
    watching = parser.add_argument_group(
        "watching", "a camera, a stream, standard input, and files with --every"
    )
    watching.add_argument(
        "--every",
        type=at_least_one,
        metavar="N",
        help="an answer every N frames; default: as many as a clip spans",
    )
    watching.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help="seconds after which each source ends; default: at its own end, --realtime: 60",
    )
    watching.add_argument(
        "--overlay",
        type=output_file,
        metavar="X.mp4",
        help="write the video with the answers in it",
    )
    watching.add_argument(
        "--realtime",
        action="store_true",
        help="say whether 30 frames a second are kept, over a minute of a generated stream",
    )


def check_watching(args: argparse.Namespace, sources: Sequence[Source]) -> None:
    """InputError for options that contradict, and where nothing is to be watched."""
    if args.realtime:
        if sources or args.overlay is not None:
            given = sources[0].name if sources else "--overlay"
            raise InputError(f"--realtime makes its own stream; leave {given} out")
        return
    if not sources:
        raise InputError(
            "a SOURCE is needed, or --describe to show how the model wants one, or --realtime"
        )
    live = args.every is not None or any(each.kind != "file" for each in sources)
    if not live and (args.overlay is not None or args.seconds is not None):
        given = "--overlay" if args.overlay is not None else "--seconds"
        raise InputError(f"{given} is of windows over a file: --every N says how far apart")
    if live and (args.clips or args.crops):
        given = "--clips" if args.clips else "--crops"
        raise InputError(f"{given} is of whole files; a window is one clip of one crop")
    if args.overlay is not None and len(sources) > 1:
        raise InputError(f"--overlay writes one video; {len(sources)} sources are given")


def watch(
    args: argparse.Namespace,
    manifest: dict,
    labels: Sequence[str] | None,
    sources: Sequence[Source],
    loader: Callable,
) -> int:
    """Watch each source until it ends; Ctrl-C ends a live one as well."""
    from rt3d_tvm.artifact.description import description_of, prepared
    from rt3d_tvm.live.lines import csv_writer, open_lines
    from rt3d_tvm.live.view import View
    from rt3d_tvm.live.windows import Model

    used = prepared(manifest, args.folder, **given_preprocessing(args, manifest))
    if labels is None:
        labels = description_of(manifest, args.folder).labels
    model = Model(
        run=loader().run,
        batch=manifest["inputs"][0]["shape"][0],
        preprocessing=used,
        labels=labels,
    )
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(open_lines(args.json, args.standard_output))
        write = csv_writer(stack.enter_context(open_lines(args.csv, args.standard_output)))
        view = stack.enter_context(View())
        report = _Reporting(args, view, lines, write)
        if args.realtime:
            return _realtime(args, model, report)
        for source in sources:
            report.watched(source, model)
    return 0


class _Reporting:
    """Where the answers about each source go."""

    def __init__(self, args: argparse.Namespace, view, lines, write) -> None:
        self.args, self.view, self.lines, self.write = args, view, lines, write

    def watched(self, source: Source, model: Model) -> None:
        """Watch one source to its end, and say what it was."""
        from rt3d_tvm.data.sources import opened

        with contextlib.ExitStack() as stack:
            fps, frames = stack.enter_context(opened(source))
            watched = self.start(source, model, frames, drops=source.is_live)
            writer = None
            if self.args.overlay is not None:
                from rt3d_tvm.live.overlay import overlay

                writer = stack.enter_context(overlay(self.args.overlay, fps=fps))
            # A camera has no end of its own.
            ends = (KeyboardInterrupt,) if source.is_live else ()
            with contextlib.suppress(*ends):
                self.follow(watched, writer, self.args.seconds)
        self.summary(watched)

    def start(
        self, source: Source, model: Model, frames: Iterator[av.VideoFrame], *, drops: bool
    ) -> Watched:
        """A source that is ready to be followed."""
        from rt3d_tvm.live.windows import Watched

        return Watched(
            model,
            source,
            frames,
            every=self.args.every or model.span,
            top=self.args.top or TOP,
            drops=drops,
            keep_pictures=self.args.overlay is not None,
        )

    def follow(self, watched: Watched, writer, ends_after: float | None) -> None:
        """Show, write and draw every frame and answer."""
        from rt3d_tvm.live.lines import json_line

        for frame, window in watched.windows(seconds=ends_after):
            self.view.show(watched, window)
            if window is not None:
                json_line(self.lines, window)
                self.write(window.source, window.top, frame=window.frame, time_s=window.time_s)
            if writer is not None:
                writer.add(frame.picture, watched.last.top if watched.last else ())

    def summary(self, watched: Watched) -> None:
        """What the whole source was like."""
        from rt3d_tvm.live.lines import json_line
        from rt3d_tvm.live.windows import summary_of

        self.view.rest()
        found = summary_of(watched)
        json_line(self.lines, {"summary": found})
        name = watched.source.name
        print(
            printable(
                f"{name}: {found['frames']} frames, {found['windows']} answers, "
                f"{found['dropped']} dropped"
            )
        )
        if not found["windows"]:
            print(
                printable(
                    f"note: {name}: ended before a clip was whole: {watched.model.span} frames"
                )
            )
            return
        print_table(
            [(stage, found[f"{stage}_ms"]) for stage in ("decode", "preprocess", "inference")],
            columns=("stage", "ms, mean"),
        )


def _realtime(args: argparse.Namespace, model: Model, report: _Reporting) -> int:
    """The verdict on a generated stream; the status is 1 where this machine does not keep it."""
    from rt3d_tvm.live.lines import json_line
    from rt3d_tvm.live.realtime import (
        SECONDS,
        generated_source,
        generated_video,
        outcome,
        paced_frames,
    )

    wanted = args.seconds or SECONDS
    source = generated_source()
    with generated_video() as path:
        watched = report.start(source, model, paced_frames(path, wanted), drops=True)
        # Its last frames may come when the time is over.
        report.follow(watched, None, wanted + 1.0)
    report.view.rest()
    found = outcome(watched, seconds=wanted)
    verdict = "keeps" if found.keeps else "does NOT keep"
    print(
        f"this machine {verdict} {found.fps:.0f} frames a second: {found.looked_at} of "
        f"{found.fps * wanted:.0f} frames in {wanted:g} s, {found.dropped} dropped"
    )
    print(
        f"an answer every {found.every} frames: p50 {found.delay_p50_ms:.1f} ms and p99 "
        f"{found.delay_p99_ms:.1f} ms after its last frame; the model computes {found.busy:.0%} of "
        "the time"
    )
    json_line(report.lines, {"realtime": {**asdict(found), "keeps": found.keeps}})
    return 0 if found.keeps else EXIT_FAILED
