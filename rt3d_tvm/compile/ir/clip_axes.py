"""Where the axes of a tensor lie in the clip (B, C, D, H, W) that holds its values.

Pictures (B, C, H, W) whose B lies along D are the frames of one clip. Axes that change places, or
become one, leave the clip as it is::

    (1, 16, 4, 8, 8)      the clip: 16 channels, 4 frames
    (4, 16, 8, 8)         its pictures: axes (D), (C), (H), (W)
    (1, 4, 16, 8, 8)      frames first: (), (D), (C), (H), (W)
    (64, 16, 4)           lines in time: (H, W), (C), (D)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

# Where the frames stand, the rows, and the columns, which a kernel's register tile goes along.
DEPTH_AXIS, HEIGHT_AXIS, WIDTH_AXIS = 2, 3, 4
# Axes that a window may be along, and where an axis of extent 1 may go: the batch last.
WINDOWED = (DEPTH_AXIS, HEIGHT_AXIS, WIDTH_AXIS)
_FREE = (*WINDOWED, 0)


def places_of(rank: int, batch: int) -> tuple[int, ...]:
    """Where the axes of clips, pictures or lines lie when a clip is made of them.

    batch: where several pictures do, along D or as clips of their own.
    """
    return {5: (0, 1, 2, 3, 4), 4: (batch, 1, 3, 4), 3: (batch, 1, 4)}[rank]


def swapped_with_width(place: int) -> list[int]:
    """The order of a clip's axes with one of them and the columns in each other's place."""
    order = [*range(5)]
    order[place], order[WIDTH_AXIS] = WIDTH_AXIS, place
    return order


@dataclass(frozen=True)
class ClipAxes:
    """The extents of a clip, and of each axis of a tensor the axes of the clip that it is.

    The slowest first where an axis is several; those of extent 1 are left out.
    """

    clip: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Sequence[int], places: Sequence[int]) -> ClipAxes:
        """Each axis of a tensor along one of a clip."""
        clip = [1] * 5
        for place, extent in zip(places, shape, strict=True):
            clip[place] = extent
        axes = ((p,) if n > 1 else () for p, n in zip(places, shape, strict=True))
        return cls(tuple(clip), tuple(axes))

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's."""
        return tuple(prod(self.clip[place] for place in axis) for axis in self.axes)

    @property
    def is_clip(self) -> bool:
        """Whether the tensor is the clip itself."""
        return self == ClipAxes.of(self.clip, range(5))

    def permuted(self, order: Sequence[int]) -> ClipAxes:
        """With its axes in another order."""
        return replace(self, axes=tuple(self.axes[axis] for axis in order))

    def reshaped(self, shape: Sequence[int]) -> ClipAxes | None:
        """With axes of extent 1 put in or taken out, or axes made one or several again.

        None where an axis of the clip would be split.
        """
        left = [place for axis in self.axes for place in axis]
        axes = []
        for extent in shape:
            taken: list[int] = []
            while left and prod(self.clip[place] for place in taken) < extent:
                taken.append(left.pop(0))
            axes.append(tuple(taken))
        found = replace(self, axes=tuple(axes))
        return None if left or found.shape != tuple(shape) else found

    def placed(self, axes: Sequence[int], batch: int) -> list[int] | None:
        """The axis of the clip that each of some axes is; a free one where it has extent 1.

        None where one of them is several, or none is free.
        """
        taken, found = {place for axis in self.axes for place in axis}, []
        for axis in axes:
            own = self.axes[axis]
            wanted = (places_of(len(self.axes), batch)[axis], *_FREE)
            free = [place for place in own or wanted if own or place not in taken]
            if len(own) > 1 or not free:
                return None
            found.append(free[0])
            taken.add(free[0])
        return found

    @property
    def line(self) -> int | None:
        """D or H, where a clip has an extent along that one and neither of the others; or None."""
        long = [place for place in WINDOWED if self.clip[place] > 1]
        return long[0] if len(long) == 1 and long != [WIDTH_AXIS] else None

    def with_width(self, place: int) -> ClipAxes:
        """Of the clip with one of its axes and the columns in each other's place."""
        order = swapped_with_width(place)
        axes = (tuple(order[each] for each in axis) for axis in self.axes)
        return ClipAxes(tuple(self.clip[each] for each in order), tuple(axes))

    def resized(self, extents: dict[int, int], placed: dict[int, int]) -> ClipAxes:
        """With other extents of the clip; ``placed``: where axes of the tensor lie then."""
        clip = tuple(extents.get(place, extent) for place, extent in enumerate(self.clip))
        axes = list(self.axes)
        for axis, place in placed.items():
            axes[axis] = (place,)
        kept = (tuple(place for place in axis if clip[place] > 1) for axis in axes)
        return ClipAxes(clip, tuple(kept))

    def broadcast(self, shape: Sequence[int]) -> ClipAxes:
        """Of a tensor that is broadcast to this one: its axes of extent 1 are 1 in its clip too."""
        wide = (1,) * (len(self.axes) - len(shape)) + tuple(shape)
        axes = tuple(axis if n > 1 else () for axis, n in zip(self.axes, wide, strict=True))
        used = {place for axis in axes for place in axis}
        return ClipAxes(tuple(n if p in used else 1 for p, n in enumerate(self.clip)), axes)

    def steps(self) -> tuple[list[int], list[int]]:
        """How a tensor becomes its clip: the extents to split it into, and their order then.

        Behind them are the extents of the clip, without its axes of extent 1.
        """
        keys, extents, last = [], [], -1.0
        for axis in self.axes:
            for place in axis or (last + 0.01,):
                keys.append(place)
                extents.append(self.clip[int(place)] if axis else 1)
                last = place
        return extents, sorted(range(len(keys)), key=keys.__getitem__)

    def of_array(self, value: np.ndarray) -> np.ndarray:
        """The clip that holds an array of the tensor's shape."""
        extents, order = self.steps()
        return np.ascontiguousarray(value.reshape(extents).transpose(order).reshape(self.clip))
