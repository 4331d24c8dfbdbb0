"""A ring of frames between a thread that decodes and one that computes."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ring(Generic[Item]):
    """The last ``size`` items, for one that puts and one that takes.

    ``drops``: whether an item that finds it full takes the place of the oldest, which is counted in
    ``dropped``; otherwise whoever puts waits for room. What a thread fails with is raised by
    `take`.
    """

    def __init__(self, size: int, *, drops: bool) -> None:
        self.dropped = 0
        self._items: deque[Item] = deque()
        self._size, self._drops = size, drops
        self._changed = threading.Condition()
        self._closed = False
        self._error: Exception | None = None

    def put(self, item: Item) -> bool:
        """Add an item; False where nobody wants any more."""
        with self._changed:
            if self._drops and len(self._items) >= self._size:
                self._items.popleft()
                self.dropped += 1
            while len(self._items) >= self._size and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float | None = None) -> Item | None:
        """The oldest item; None where no more will come, or none came in that time."""
        with self._changed:
            if not self._items and not self._closed:
                self._changed.wait(timeout_s)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left and nothing more will come."""
        with self._changed:
            return self._closed and not self._items

    def close(self, error: Exception | None = None) -> None:
        """No more items are put; those there are can still be taken, then ``error`` is raised."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._changed.notify_all()

    def clear(self) -> None:
        """Nobody takes any more: whoever puts stops."""
        with self._changed:
            self._items.clear()
            self._closed = True
            self._changed.notify_all()
