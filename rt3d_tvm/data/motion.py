"""A generated data set of real video files whose classes differ by motion over time alone.

A scene is a pair of like objects on a torus (what leaves on one side comes back on the other),
before clutter and among smaller distractors. It has five quantities: where the pair is, the angle
of the line through it, the distance along that line, the size of its objects, and how far each has
turned about itself. A class is what *one* of these does over time; the others rest, and turning is
at random in every class. Each is drawn so that its distribution at any one moment is the same,
whatever it does over time: uniform over its range, which is a circle in all five (a size that has
grown to the largest starts again at the smallest). So a frame has the same distribution in every
class, and as each is encoded by itself, at a constant quantiser, so has the decoded frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from math import isinf
from pathlib import Path

import numpy as np

from rt3d_tvm.arguments import as_path
from rt3d_tvm.console import write_json
from rt3d_tvm.data.generate import clutter, write_video
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.files.folders import check_empty, make_folder
from rt3d_tvm.files.staging import remove_abandoned

SETTINGS_FILE = "motion.json"
SPLITS = ("train", "test")
# Goes up when the same settings give other pictures: a set is never half of one, half of another.
GENERATOR = 1
# Of the pixels of a frame's side: everything scales with the frame.
_RADIUS = (0.10, 0.19)
_DISTANCE = (0.26, 0.56)
_DISTRACTOR_RADIUS = (0.05, 0.10)
# Factor on the clutter, which reaches 240 of 255: from a dark wall to a bright one.
_BACKGROUND = (0.1, 0.6)
_SPEED = (0.012, 0.034)  # a frame
_SWAY = (0.08, 0.16)
# Rounds of the circle that a quantity makes in 16 frames.
_TURNS = (0.25, 0.7)
_CYCLES = (0.5, 1.1)
_SWAYS = (1.2, 2.2)
_SPIN = 0.6
# Every frame by itself (g=1), and at one quantiser: what a frame looks like after decoding then
# depends on that frame only, not on the ones before it or on how hard those were to encode.
_ENCODING = {"g": "1", "qp": "24", "preset": "ultrafast", "threads": "1"}


@dataclass(frozen=True, kw_only=True)
class MotionSettings:
    """What a generated set is made from; the same settings give the same pictures.

    ``size`` is the side of a frame in pixels, even. ``noise`` is the standard deviation of the
    noisiest camera, of 255; ``shake`` how far, in shares of the side, the camera strays.
    """

    videos_per_class: int = 200
    test_videos_per_class: int = 100
    seed: int = 0
    size: int = 64
    frames: int = 24
    distractors: int = 3
    noise: float = 16.0
    shake: float = 0.0

    def __post_init__(self) -> None:
        limits = {"videos_per_class": 1, "test_videos_per_class": 1, "seed": 0, "size": 32}
        for name, least in {
            **limits,
            "frames": 2,
            "distractors": 0,
            "noise": 0,
            "shake": 0,
        }.items():
            value = getattr(self, name)
            if not value >= least:  # not a number is refused as well
                raise InputError(f"{name} {value}: at least {least} is accepted")
            if isinf(value):
                raise InputError(f"{name} {value}: a number with an end is accepted")
        if self.size % 2:
            raise InputError(f"size {self.size}: an even number is accepted")

    def videos(self, split: str) -> int:
        """Videos of each class in a split."""
        return self.videos_per_class if split == "train" else self.test_videos_per_class

    def generator_seed(self, split: str) -> int:
        """Even for training, odd for testing: the two meet under no setting of ``seed``."""
        return 2 * self.seed + SPLITS.index(split)


@dataclass(frozen=True, kw_only=True)
class _Track:
    """The pair over time, a value a frame; lengths in sides of the frame, angles in rounds."""

    y: np.ndarray
    x: np.ndarray
    angle: np.ndarray
    distance: np.ndarray
    radius: np.ndarray


def _rate(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Rounds a frame, from rounds in 16 frames."""
    return rng.uniform(*limits) / 16


def _move(dy: int, dx: int) -> Callable:
    def act(rng: np.random.Generator, time: np.ndarray) -> dict[str, np.ndarray]:
        # Not quite along the axis: the second component is up to a third of the first.
        along, across = rng.uniform(*_SPEED), rng.uniform(-1 / 3, 1 / 3)
        return {
            "y": (dy + dx * across) * along * time,
            "x": (dx + dy * across) * along * time,
        }

    return act


def _sway(dy: int, dx: int) -> Callable:
    def act(rng: np.random.Generator, time: np.ndarray) -> dict[str, np.ndarray]:
        extent, phase = rng.uniform(*_SWAY), rng.uniform()
        offset = extent * np.sin(2 * np.pi * (phase + _rate(rng, _SWAYS) * time))
        return {"y": dy * offset, "x": dx * offset}

    return act


def _cycle(quantity: str, sign: int, limits: tuple[float, float]) -> Callable:
    def act(rng: np.random.Generator, time: np.ndarray) -> dict[str, np.ndarray]:
        return {quantity: sign * _rate(rng, limits) * time}

    return act


# What is added to each quantity, in rounds of its circle. y points down, so a growing angle turns
# clockwise.
_ACTIONS: dict[str, Callable] = {
    "left": _move(0, -1),
    "right": _move(0, 1),
    "up": _move(-1, 0),
    "down": _move(1, 0),
    "sway-horizontally": _sway(0, 1),
    "sway-vertically": _sway(1, 0),
    "turn-clockwise": _cycle("angle", 1, _TURNS),
    "turn-counterclockwise": _cycle("angle", -1, _TURNS),
    "separate": _cycle("distance", 1, _CYCLES),
    "approach": _cycle("distance", -1, _CYCLES),
    "grow": _cycle("radius", 1, _CYCLES),
    "shrink": _cycle("radius", -1, _CYCLES),
}
CLASSES = tuple(_ACTIONS)


def _track(rng: np.random.Generator, action: str, frames: int) -> _Track:
    time = np.arange(frames)
    change = _ACTIONS[action](rng, time)
    rounds = {
        field.name: (rng.uniform() + change.get(field.name, np.zeros(frames))) % 1
        for field in fields(_Track)
    }
    rounds["distance"] = _DISTANCE[0] + (_DISTANCE[1] - _DISTANCE[0]) * rounds["distance"]
    # A size is a ratio: equal steps of its logarithm.
    rounds["radius"] = _RADIUS[0] * (_RADIUS[1] / _RADIUS[0]) ** rounds["radius"]
    return _Track(**rounds)


_SHAPES: tuple[Callable, ...] = (
    lambda u, v: np.hypot(u, v),
    lambda u, v: 1.15 * np.maximum(abs(u), abs(v)),
    lambda u, v: np.maximum(abs(u), 2 * abs(v)),
    lambda u, v: 1.4 * np.maximum(-v, v / 2 + 0.866 * abs(u)),
    lambda u, v: 2.2 * abs(np.hypot(u, v) - 0.55),
    lambda u, v: np.minimum(np.maximum(abs(u), 3 * abs(v)), np.maximum(3 * abs(u), abs(v))),
)
"""1 on the edge of a shape that fits the unit circle, less inside; u, v in units of its radius."""


def _draw(
    canvas: np.ndarray,
    *,
    y: np.ndarray,
    x: np.ndarray,
    radius: np.ndarray,
    spin: np.ndarray,
    shape: Callable,
    colours: np.ndarray,
) -> None:
    """Paint an object into each frame of float32 (frames, size, size, 3); lengths in pixels."""
    size = canvas.shape[1]
    reach = min(2 * int(np.ceil(radius.max())) + 3, size)
    offsets = np.arange(reach) - reach // 2
    rows = np.floor(y).astype(int)[:, None] + offsets
    columns = np.floor(x).astype(int)[:, None] + offsets
    scale = radius[:, None, None]
    dy = ((rows - y[:, None])[:, :, None] / scale).astype(np.float32)
    dx = ((columns - x[:, None])[:, None, :] / scale).astype(np.float32)
    cos, sin = (f(2 * np.pi * spin)[:, None, None].astype(np.float32) for f in (np.cos, np.sin))
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    # An edge one pixel wide, so that motion by parts of a pixel shows.
    opacity = np.clip((1 - shape(u, v)) * scale + 0.5, 0, 1)[..., None].astype(np.float32)
    paint = colours[(u > 0).astype(int)]  # two halves: turning shows
    at = (np.arange(len(y))[:, None, None], rows[:, :, None] % size, columns[:, None, :] % size)
    canvas[at] += opacity * (paint - canvas[at])


def pictures(settings: MotionSettings, split: str, action: str, index: int) -> np.ndarray:
    """One video before encoding, uint8 (frames, size, size, 3)."""
    seed = [settings.generator_seed(split), CLASSES.index(action), index]
    rng = np.random.default_rng(seed)
    side, frames = settings.size, settings.frames
    time = np.arange(frames)
    track = _track(rng, action, frames)
    canvas = np.repeat(clutter(rng, side)[None].astype(np.float32), frames, axis=0)
    canvas *= rng.uniform(*_BACKGROUND)
    for _ in range(settings.distractors):
        direction, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, _SPEED[1])
        _draw(
            canvas,
            y=(rng.uniform() + speed * np.sin(direction) * time) % 1 * side,
            x=(rng.uniform() + speed * np.cos(direction) * time) % 1 * side,
            radius=np.full(frames, rng.uniform(*_DISTRACTOR_RADIUS) * side),
            spin=rng.uniform() + rng.uniform(-_SPIN, _SPIN) / 16 * time,
            shape=_SHAPES[rng.integers(len(_SHAPES))],
            colours=rng.uniform(0, 255, (2, 3)).astype(np.float32),
        )
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    colours = _two_colours(rng)
    for end in (-0.5, 0.5):
        around = 2 * np.pi * track.angle
        _draw(
            canvas,
            y=(track.y + end * track.distance * np.sin(around)) % 1 * side,
            x=(track.x + end * track.distance * np.cos(around)) % 1 * side,
            radius=track.radius * side,
            spin=rng.uniform() + rng.uniform(-_SPIN, _SPIN) / 16 * time,
            shape=shape,
            colours=colours,
        )
    canvas = _shaken(rng, canvas, settings.shake * side)
    canvas *= rng.uniform(0.9, 1.1, (frames, 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal(canvas.shape, np.float32)
    canvas += noise * np.float32(rng.uniform(0, settings.noise))
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _two_colours(rng: np.random.Generator) -> np.ndarray:
    """A bright one and one of its darker shades."""
    colour = rng.uniform(90, 255, 3)
    return np.stack([colour, colour * rng.uniform(0.3, 0.8)]).astype(np.float32)


def _shaken(rng: np.random.Generator, canvas: np.ndarray, extent: float) -> np.ndarray:
    """Each frame moved by whole pixels, as a hand does not hold still."""
    shifts = np.rint(rng.uniform(-extent, extent, (len(canvas), 2))).astype(int)
    return np.stack(
        [
            np.roll(frame, shift, (0, 1))
            for frame, shift in zip(canvas, shifts.tolist(), strict=True)
        ]
    )


def video_path(root: Path, split: str, action: str, index: int) -> Path:
    """Where a video of a set lies."""
    return root / split / action / f"{index:05d}.mp4"


def write_motion(root: Path, settings: MotionSettings) -> Iterator[tuple[int, int]]:
    """Write the set into a folder, yielding (videos there, videos in all) after each one.

    A folder where the same settings were begun is completed: each file appears whole or not at
    all. InputError for a folder that holds anything else, and nothing in it is touched.
    """
    root = as_path(root, "root")
    _begin(root, settings)
    remove_abandoned(root)
    todo = [
        (split, action, index)
        for split in SPLITS
        for action in CLASSES
        for index in range(settings.videos(split))
    ]
    for split in SPLITS:
        for action in CLASSES:
            make_folder(root / split / action)
            remove_abandoned(root / split / action)
    for done, (split, action, index) in enumerate(todo, 1):
        path = video_path(root, split, action, index)
        if not path.exists():
            write_video(path, pictures(settings, split, action, index), options=_ENCODING)
        yield done, len(todo)


def _begin(root: Path, settings: MotionSettings) -> None:
    """Write the settings first: they say what the folder is, and what is still missing from it."""
    if (root / SETTINGS_FILE).exists():
        there = read_settings(root)
        if there != settings:
            mine, theirs = asdict(settings), asdict(there)
            differing = ", ".join(f"{k} {theirs[k]}" for k in mine if mine[k] != theirs[k])
            raise InputError(
                f"{root}: holds a set of other settings ({differing}); name an empty or new "
                "folder, or the same settings to complete it"
            )
        return
    check_empty(root)
    make_folder(root)
    write_json(
        root / SETTINGS_FILE, {"generator": GENERATOR, "classes": CLASSES, "settings": settings}
    )


def read_settings(root: Path) -> MotionSettings:
    """The settings of a generated set; InputError for a file that is not of this version's sets."""
    path = Path(root) / SETTINGS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = MotionSettings(**content["settings"])
        made_by = (content["generator"], tuple(content["classes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the settings of a generated set: {words_of(error)}"
        ) from error
    if made_by != (GENERATOR, CLASSES):
        raise InputError(
            f"{path}: made by generator {made_by[0]} with {len(made_by[1])} classes; this version "
            f"has generator {GENERATOR} with {len(CLASSES)}: make the set anew"
        )
    return settings
