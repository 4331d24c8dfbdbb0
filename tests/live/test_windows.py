"""Windows over a source's frames: which frames they hold, what is dropped, and what it says."""

import io
import time

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from rt3d_tvm.classify import Prediction
from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.data.preprocessing import Preprocessing
from rt3d_tvm.data.sources import FILE, Source, opened
from rt3d_tvm.errors import InputError
from rt3d_tvm.live import realtime
from rt3d_tvm.live.view import WIDTH, View, line_of, picture_of
from rt3d_tvm.live.windows import SMOOTHING, Model, Watched, summary_of

FRAMES = 4


def model(run, *, stride=1, labels=None):
    used = Preprocessing(
        frames=FRAMES, size=16, resize=16, mean=(0, 0, 0), std=(1, 1, 1), stride=stride
    )
    return Model(run=run, batch=2, preprocessing=used, labels=labels)


def logits_of(x):
    """Two classes; the first is the brighter."""
    assert x.shape == (2, 3, FRAMES, 16, 16) and x.dtype == np.float32
    np.testing.assert_array_equal(x[0], x[1])
    return np.stack([[x.mean(), 0.0]] * 2)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    make_clip(path, frames=20, size=32)
    return Source(kind=FILE, name="v.mp4", place=str(path))


def watch(source, used, **how):
    with opened(source) as (fps, frames):
        assert fps == 25
        watched = Watched(used, source, frames, **{"every": 3, "top": 2, "drops": False, **how})
        return watched, list(watched.windows())


def test_a_window_ends_at_every_third_frame_from_the_first_whole_clip(video):
    watched, seen = watch(video, model(logits_of))
    assert len(seen) == 20 and watched.dropped == 0
    ends = [window.frame for _, window in seen if window]
    assert ends == [3, 6, 9, 12, 15, 18]
    assert [w.time_s for _, w in seen if w] == pytest.approx([each / 25 for each in ends])
    found = summary_of(watched)
    assert (found["frames"], found["windows"], found["dropped"]) == (20, 6, 0)
    assert found["inference_ms"] > 0 and found["fps"] > 0


def test_a_stride_spreads_a_window(video):
    taken = []
    used = model(lambda x: taken.append(x) or logits_of(x), stride=3)
    assert used.span == 10
    _, seen = watch(video, used, every=10)
    assert [window.frame for _, window in seen if window] == [9, 19]
    frames = np.stack([frame.pixels for frame, _ in seen[0:10:3]])
    expected = np.moveaxis(frames, -1, 0).astype("float32") / 255
    np.testing.assert_allclose(taken[0][0], expected, atol=1e-6)


def test_probabilities_are_smoothed(video):
    answers = iter([[9.0, 0.0], [0.0, 9.0]])

    def run(x):
        return np.array([next(answers)] * 2)

    _, seen = watch(video, model(run), every=12)
    first, second = (window for _, window in seen if window)
    assert [guess.index for guess in first.top] == [0, 1]
    assert second.top[0].probability == pytest.approx(1 - SMOOTHING, abs=1e-3)


def test_a_slow_model_drops_frames_of_what_is_live_and_says_so(video):
    def slow(x):
        time.sleep(0.05)
        return logits_of(x)

    with realtime.generated_video() as path:
        frames = realtime.paced_frames(path, 1.0, fps=300)
        source = realtime.generated_source()
        watched = Watched(model(slow), source, frames, every=4, top=1, drops=True)
        seen = list(watched.windows(seconds=60.0))
    assert watched.dropped > 0
    assert len(seen) + watched.dropped == 300
    assert [window.dropped for _, window in seen if window][-1] > 0
    found = realtime.outcome(watched, seconds=1.0, fps=300)
    assert not found.keeps and found.came == 300


def test_a_stream_whose_every_frame_was_looked_at_is_kept():
    with realtime.generated_video() as path:
        # So slow that what else this machine does drops none.
        frames = realtime.paced_frames(path, 1.0, fps=5)
        source = realtime.generated_source()
        watched = Watched(model(logits_of), source, frames, every=4, top=1, drops=True)
        started = time.perf_counter()
        list(watched.windows(seconds=60.0))
    assert time.perf_counter() - started >= 4 / 5
    assert realtime.outcome(watched, seconds=1.0, fps=5).keeps
    # Half of the frames never came.
    assert not realtime.outcome(watched, seconds=2.0, fps=5).keeps


def test_an_output_that_is_not_finite_ends_it(video):
    with pytest.raises(InputError, match="not finite, and no class is the likeliest"):
        watch(video, model(lambda x: np.full((2, 2), np.nan)))


def test_the_view_holds_in_sixty_columns_whatever_the_labels(video):
    labels = [
        "Pushing something from left to right and " * 2,
        "手を振る人たちが歩いている様子です" * 2,
    ]
    long = Source(kind=FILE, name="folder/" * 12 + "v.mp4", place=video.place)
    watched, _ = watch(long, model(logits_of, labels=labels))
    console = Console(width=WIDTH, file=io.StringIO())
    console.print(picture_of(watched, console))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 5
    assert all(cell_len(line) <= WIDTH for line in lines)
    assert lines[0].startswith("…") and lines[0].rstrip().endswith("v.mp4")
    assert "20 seen  0 dropped" in lines[1] and "model" in lines[2]
    assert "%" in lines[3] and "█" in lines[3] + lines[4]
    narrow = Console(width=30, file=io.StringIO())
    narrow.print(picture_of(watched, narrow))
    assert all(cell_len(line) <= 30 for line in narrow.file.getvalue().splitlines())


def test_the_view_ends_with_the_last_frame(video):
    """However soon it came behind the one before."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with View(file := Terminal()) as view, opened(video) as (_, frames):
        watched = Watched(model(logits_of), video, frames, every=3, top=2, drops=False)
        for _, window in watched.windows():
            view.show(watched, window)
    assert "20 seen" in file.getvalue().split("\x1b[2K")[-1]


def test_without_a_terminal_a_window_is_a_line(video):
    file = io.StringIO()
    watched, seen = watch(video, model(logits_of))
    with View(file) as view:
        for _, window in seen:
            view.show(watched, window)
    lines = file.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0] == line_of(watched, next(window for _, window in seen if window))
    assert lines[0].startswith("v.mp4: frame 3, 0.1 s: class ")


def test_labels_are_drawn_on_a_copy():
    from rt3d_tvm.live.overlay import labelled

    picture = np.full((90, 120, 3), 200, np.uint8)
    drawn = labelled(picture, [Prediction(index=0, label="waving", probability=0.5)])
    assert drawn.shape == picture.shape and (picture == 200).all()
    assert drawn[-1, 0].max() < 200  # the shade
    assert drawn[60:].max() > 240  # the letters
    assert (drawn[:50] == 200).all()
    assert (labelled(picture, []) == picture).all()


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("size", [(426, 240), (240, 426), (64, 64), (64, 32)])
def test_long_labels_and_many_stay_in_the_lower_half_and_within_its_width(level, size):
    """Letters are lighter than 150 and the shade is darker, on black as on white."""
    from rt3d_tvm.live.overlay import labelled

    picture = np.full((*size, 3), level, np.uint8)
    top = [Prediction(index=i, label="juggling " * 20, probability=0.2) for i in range(20)]
    drawn = labelled(picture, top)
    assert (drawn[: size[0] // 2 - 14] == level).all()
    shade = drawn[-1, 0].max()
    assert shade <= 76
    letters = drawn[size[0] // 2 :, :].max(axis=2)
    letters = letters[(letters != level).any(axis=1)] > 150
    assert letters[:, : size[1] - 2].any()
    assert level == 255 or not letters[:, -2:].any()
