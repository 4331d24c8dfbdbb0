"""A model on every so many frames of a source: a thread decodes, the caller's computes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np

from rt3d_tvm.classify import Prediction, likeliest, softmax
from rt3d_tvm.data.clips import upright_pixels
from rt3d_tvm.data.orientation import orientation_of
from rt3d_tvm.data.pixels import centre_crop, normalise
from rt3d_tvm.data.preprocessing import Preprocessing
from rt3d_tvm.data.sources import READ_S, Source
from rt3d_tvm.errors import InputError
from rt3d_tvm.live.ring import Ring
from rt3d_tvm.numerics.non_finite import non_finite

# Of a new window's probabilities in what is shown: a label that flickers is none to read.
SMOOTHING = 0.4
# Clips that the ring holds: what comes while one is computed, and as much again.
_CLIPS_HELD = 2
# Windows and frames that rates and stages are averaged over.
_RECENT = 30


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame ready for the model, and when it came (`time.perf_counter`).

    time_s: in its video, or since the first frame of what is live. picture: the whole of it,
    upright, where that was asked for.
    """

    index: int
    time_s: float
    pixels: np.ndarray
    came: float
    decode_ms: float
    preprocess_ms: float
    picture: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Window:
    """What the model says of a clip that ends at a frame.

    top: by probabilities that are smoothed over the windows before it. inference_ms: of the model;
    delay_ms: from the last frame's coming to this answer. dropped: frames, so far.
    """

    source: str
    frame: int
    time_s: float
    top: tuple[Prediction, ...]
    inference_ms: float
    delay_ms: float
    dropped: int


@dataclass
class Rates:
    """Of the last frames and windows: what each stage takes, and how many frames a second are
    looked at."""

    taken: deque[float] = field(default_factory=lambda: deque(maxlen=3 * _RECENT))
    decode_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    preprocess_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    inference_ms: list[float] = field(default_factory=list)
    delay_ms: list[float] = field(default_factory=list)
    frames: int = 0

    def add(self, frame: Frame) -> None:
        """Count a frame."""
        self.frames += 1
        self.taken.append(time.perf_counter())
        self.decode_ms.append(frame.decode_ms)
        self.preprocess_ms.append(frame.preprocess_ms)

    @property
    def fps(self) -> float | None:
        """Frames a second, None while there are too few."""
        if len(self.taken) < 2 or self.taken[-1] == self.taken[0]:
            return None
        return (len(self.taken) - 1) / (self.taken[-1] - self.taken[0])


@dataclass(frozen=True, kw_only=True)
class Model:
    """What runs, and how frames become its input; ``labels`` name its classes, None: unnamed."""

    run: Callable[[np.ndarray], np.ndarray]
    batch: int
    preprocessing: Preprocessing
    labels: Sequence[str] | None

    @property
    def span(self) -> int:
        """Frames from the first of a clip to its last."""
        return (self.preprocessing.frames - 1) * self.preprocessing.stride + 1

    def probabilities(self, clip: np.ndarray) -> np.ndarray:
        """Of each class, for uint8 frames (frames, size, size, 3)."""
        used = self.preprocessing
        x = normalise(clip, mean=used.mean, std=used.std, colour_order=used.colour_order)
        logits = self.run(np.repeat(x[None], self.batch, axis=0))[0]
        if (found := non_finite("the model's output", logits)) is not None:
            raise InputError(f"{found} is not finite, and no class is the likeliest")
        return softmax(logits)


class Watched:
    """A source whose frames are decoded by a thread of its own, and windows over them.

    every: frames from one window to the next. drops: whether frames that come while the ring is
    full push out the oldest, as a camera's do; a file's decoder waits instead. keep_pictures: for
    whoever draws on them.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        frames: Iterator[av.VideoFrame],
        *,
        every: int,
        top: int,
        drops: bool,
        keep_pictures: bool = False,
    ) -> None:
        self.model, self.source, self.every, self.top = model, source, every, top
        self.rates = Rates()
        self.last: Window | None = None
        self._frames, self._keep, self.drops = frames, keep_pictures, drops
        self._ring: Ring[Frame] = Ring(max(_CLIPS_HELD * model.span, 2), drops=drops)
        self._decoder = threading.Thread(target=self._decode, name="rt3d-decoder", daemon=True)
        self._smoothed: np.ndarray | None = None
        self._first: float | None = None

    @property
    def dropped(self) -> int:
        """Frames that were not looked at, because they came too fast."""
        return self._ring.dropped

    def windows(self, *, seconds: float | None = None) -> Iterator[tuple[Frame, Window | None]]:
        """Every frame that is not dropped, and the answer that it completes, if it does.

        Ends with the source, or after so many seconds. InputError for what the source ends with.
        """
        held: deque[np.ndarray] = deque(maxlen=self.model.span)
        started, since = time.perf_counter(), 0
        self.rates.taken.append(started)
        self._decoder.start()
        try:
            while not self._ring.is_over:
                left = None if seconds is None else seconds - (time.perf_counter() - started)
                if left is not None and left <= 0:
                    return
                frame = self._ring.take(left)
                if frame is None:
                    continue
                self.rates.add(frame)
                held.append(frame.pixels)
                since += 1
                window = None
                if len(held) == held.maxlen and (self.last is None or since >= self.every):
                    since, window = 0, self._window(held, frame)
                    self.last = window
                yield frame, window
        finally:
            self._ring.clear()
            # Its source is closed next: a read from it has to have ended.
            self._decoder.join(timeout=READ_S + 1)

    def _window(self, held: deque[np.ndarray], frame: Frame) -> Window:
        begun = time.perf_counter()
        clip = np.stack(list(held)[:: self.model.preprocessing.stride])
        found = self.model.probabilities(clip)
        if self._smoothed is None:
            self._smoothed = found
        self._smoothed = self._smoothed + SMOOTHING * (found - self._smoothed)
        ended = time.perf_counter()
        self.rates.inference_ms.append(1e3 * (ended - begun))
        self.rates.delay_ms.append(1e3 * (ended - frame.came))
        return Window(
            source=self.source.name,
            frame=frame.index,
            time_s=frame.time_s,
            top=likeliest(self._smoothed, self.model.labels, self.top),
            inference_ms=self.rates.inference_ms[-1],
            delay_ms=self.rates.delay_ms[-1],
            dropped=self.dropped,
        )

    def _time_of(self, frame: av.VideoFrame, came: float) -> float:
        self._first = came if self._first is None else self._first
        if self.drops or frame.time is None:
            return came - self._first
        return frame.time

    def _decode(self) -> None:
        """The decoder's thread: frames, upright and cut to size, into the ring."""
        used = self.model.preprocessing
        # One for each size: a reformatter that is asked for another one starts anew.
        to_clip, to_picture = (av.video.reformatter.VideoReformatter() for _ in range(2))
        started = time.perf_counter()
        try:
            for index, frame in enumerate(self._frames):
                came = time.perf_counter()
                pixels = upright_pixels(frame, used.resize, to_clip, self.source.name)
                picture = None
                if self._keep:
                    wide, high = orientation_of(frame).upright_size(frame.width, frame.height)
                    picture = upright_pixels(frame, (high, wide), to_picture, self.source.name)
                ready = Frame(
                    index=index,
                    time_s=self._time_of(frame, came),
                    pixels=centre_crop(pixels, used.size),
                    came=came,
                    decode_ms=1e3 * (came - started),
                    preprocess_ms=1e3 * (time.perf_counter() - came),
                    picture=picture,
                )
                if not self._ring.put(ready):
                    return
                started = time.perf_counter()
        except (InputError, av.FFmpegError, OSError) as error:
            self._ring.close(_as_input_error(error, self.source))
        else:
            self._ring.close()


def _as_input_error(error: Exception, source: Source) -> InputError:
    if isinstance(error, InputError):
        return error
    return InputError(f"{source.name}: ended: {getattr(error, 'strerror', None) or error}")


def summary_of(watched: Watched) -> dict:
    """A source that is over, in numbers; the mean of each stage over its last frames.

    decode_ms: of a live source with the wait for its next frame.
    """
    rates = watched.rates

    def mean(values: Iterable[float]) -> float | None:
        taken = list(values)
        return sum(taken) / len(taken) if taken else None

    return {
        "source": watched.source.name,
        "frames": rates.frames,
        "dropped": watched.dropped,
        "windows": len(rates.inference_ms),
        "fps": rates.fps,
        "decode_ms": mean(rates.decode_ms),
        "preprocess_ms": mean(rates.preprocess_ms),
        "inference_ms": mean(rates.inference_ms),
        "delay_ms": mean(rates.delay_ms),
    }
