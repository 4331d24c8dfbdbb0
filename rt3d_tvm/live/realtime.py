"""Does this machine keep 30 frames a second? A generated stream, at that pace, tells."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.data.sources import FILE, Source
from rt3d_tvm.data.video_file import frames_of
from rt3d_tvm.files.staging import scratch_folder
from rt3d_tvm.live.windows import Watched

FPS, SECONDS = 30.0, 60.0
# Pictures of the generated video, which is decoded again and again: 5 seconds of 320x320.
_FRAMES, _SIZE = 150, 320
# Frames that come while the process is put aside for a moment by others are no failure of it.
_SHARE_KEPT = 0.999


@dataclass(frozen=True, kw_only=True)
class RealTime:
    """What a minute of a stream showed: frames that came, that were looked at, and delays.

    busy: the part of the time that the model computed. delay_p99_ms: from the last frame of a clip
    to its answer.
    """

    fps: float
    seconds: float
    came: int
    looked_at: int
    dropped: int
    windows: int
    every: int
    inference_p50_ms: float
    delay_p50_ms: float
    delay_p99_ms: float
    busy: float

    @property
    def keeps(self) -> bool:
        """Whether every frame that came was looked at, and all came in time."""
        wanted = self.fps * self.seconds
        return self.dropped == 0 and self.looked_at >= _SHARE_KEPT * wanted


def generated_source() -> Source:
    """The stream's name."""
    return Source(kind=FILE, name=f"generated stream of {FPS:.0f} frames/s", place="")


@contextlib.contextmanager
def generated_video() -> Iterator[Path]:
    """An H.264 video that `paced_frames` plays."""
    with scratch_folder("rt3d-stream-") as folder:
        path = folder / "stream.mp4"
        make_clip(path, frames=_FRAMES, size=_SIZE, fps=round(FPS))
        yield path


def paced_frames(video: Path, seconds: float, *, fps: float = FPS) -> Iterator[av.VideoFrame]:
    """Decoded frames of a video, again and again, each when its time has come.

    Whoever takes them late gets the next ones at once: a camera would not wait either.
    """
    started, count = time.perf_counter(), 0
    while True:
        for frame in frames_of(video, threads=1):
            if count >= fps * seconds:
                return
            time.sleep(max(started + count / fps - time.perf_counter(), 0.0))
            yield frame
            count += 1


def outcome(watched: Watched, *, seconds: float, fps: float = FPS) -> RealTime:
    """What was seen once the stream is over; ``seconds`` is how long it was to last.

    A decoder that falls behind shows as frames that are missing when the time is over.
    """
    rates = watched.rates
    taken, delays = rates.inference_ms or [0.0], rates.delay_ms or [0.0]
    return RealTime(
        fps=fps,
        seconds=seconds,
        came=rates.frames + watched.dropped,
        looked_at=rates.frames,
        dropped=watched.dropped,
        windows=len(rates.inference_ms),
        every=watched.every,
        inference_p50_ms=float(np.median(taken)),
        delay_p50_ms=float(np.median(delays)),
        delay_p99_ms=float(np.percentile(delays, 99)),
        busy=sum(taken) / 1e3 / seconds,
    )
