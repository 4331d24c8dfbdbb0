"""What a user calls a video: a file, a folder of them, a pattern, a camera, a stream, `-`."""

from __future__ import annotations

import contextlib
import glob
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from rt3d_tvm.data.video_file import decoded_frames, opened_descriptor, opened_file, video_of
from rt3d_tvm.errors import InputError, words_of

FILE, CAMERA, STREAM, STDIN = "file", "camera", "stream", "stdin"
ACCEPTED = "a file, a folder, a pattern, camera:N, rtsp:// or http(s):// and - are accepted"
# What the addresses of streams may lead to: never a file of this machine.
_PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,crypto"
_SCHEMES = ("rtsp", "rtsps", "http", "https")
# Seconds until a stream that does not answer, or sends nothing more, is given up.
OPEN_S, READ_S = 10.0, 10.0
_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv"),
    *(".wmv", ".asf", ".ogv", ".3gp", ".gif", ".y4m", ".h264", ".hevc", ".mjpeg", ".mxf"),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video: its kind, and its name as it is shown; ``place`` is what is opened."""

    kind: str
    name: str
    place: str

    @property
    def is_live(self) -> bool:
        """Whether its frames come when they come, whoever is ready or not."""
        return self.kind in (CAMERA, STREAM)


def sources_of(texts: Sequence[str]) -> list[Source]:
    """All sources that the texts name, folders and patterns in the order of their names.

    InputError for a name of nothing, a folder or a pattern without a video, and - given twice.
    """
    found = [source for text in texts for source in _sources(text)]
    if sum(source.kind == STDIN for source in found) > 1:
        raise InputError("-: standard input can be read once; it is given twice")
    return found


def _sources(text: str) -> list[Source]:
    if text == "-":
        return [Source(kind=STDIN, name="standard input", place="-")]
    if text.startswith("camera:"):
        number = text.removeprefix("camera:")
        if not re.fullmatch(r"\d{1,3}", number):
            raise InputError(f"{text!r}: camera:N is accepted, N from 0 on: /dev/videoN")
        return [Source(kind=CAMERA, name=text, place=f"/dev/video{int(number)}")]
    scheme, colon, _ = text.partition("://")
    if colon and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        if scheme.lower() not in _SCHEMES:
            raise InputError(f"{text}: {', '.join(f'{s}://' for s in _SCHEMES)} are accepted")
        return [Source(kind=STREAM, name=_without_password(text), place=text)]
    return [Source(kind=FILE, name=str(path), place=str(path)) for path in _files(text)]


def _without_password(url: str) -> str:
    """An address as it may be printed."""
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", url)


def _files(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        below = sorted(each for each in path.rglob("*") if _is_video(each.relative_to(path)))
        files = [each for each in below if each.is_file()]
        if not files:
            raise InputError(f"{text}: no video in this folder or below it")
        return files
    if not path.exists() and glob.has_magic(text):
        # Path.glob takes no pattern that is absolute.
        names = sorted(glob.glob(text, recursive=True))  # noqa: PTH207
        files = [Path(name) for name in names]
        if not (files := [each for each in files if each.is_file()]):
            raise InputError(f"{text}: no file fits this pattern")
        return files
    return [path]  # which may be missing: opening it says so


def _is_video(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.suffix.lower() in _SUFFIXES


@contextlib.contextmanager
def opened(source: Source) -> Iterator[tuple[float | None, Iterator[av.VideoFrame]]]:
    """The frames of a source a second, as it says, and each that decodes.

    InputError for what cannot be opened, is no video, or changes its size.
    """
    with _container(source) as container:
        stream = video_of(container, source.name)
        if source.is_live:
            # Frames that decode side by side would come late.
            stream.codec_context.thread_count = 1
        packets = _live_packets(container, stream, source) if source.is_live else None
        rate = stream.average_rate or stream.guessed_rate
        frames = decoded_frames(container, stream, source.name, packets=packets)
        yield (float(rate) if rate else None), frames


def _live_packets(
    container: av.container.InputContainer, stream: av.VideoStream, source: Source
) -> Iterator[av.Packet]:
    """The packets of what is live; InputError for one that breaks off."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        raise InputError(f"{source.name}: broke off: {error.strerror}") from error


def _container(source: Source) -> contextlib.AbstractContextManager[av.container.InputContainer]:
    if source.kind == FILE:
        return opened_file(Path(source.place))
    if source.kind == STDIN:
        if sys.stdin is None or sys.stdin.closed:
            raise InputError("-: standard input is closed")
        return opened_descriptor(sys.stdin.fileno(), source.name)
    return _live(source)


def _live(source: Source) -> av.container.InputContainer:
    # What comes at its own pace is not held back. Over HTTP a file's first frames would be lost.
    over_http = source.place.lower().startswith("http")
    options = {} if over_http else {"fflags": "nobuffer"}
    if source.kind == CAMERA:
        what = "no such camera, or it cannot be read"
        wanted = {"format": "v4l2", "options": options}
    else:
        what = "cannot be opened"
        if source.place.lower().startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        wanted = {"options": {**options, "protocol_whitelist": _PROTOCOLS}}
    try:
        return av.open(source.place, timeout=(OPEN_S, READ_S), metadata_errors="replace", **wanted)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or words_of(error, lines=1)
        raise InputError(f"{source.name}: {what}: {reason}") from error
