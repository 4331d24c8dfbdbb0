"""The threads that kernels run on: how many, and from which thread they are called.

TVM gives every thread that calls it worker threads of that thread's own. They wait for each other
by spinning, they keep the caller from leaving in a forked process, which has none of them, and one
virtual machine takes one call at a time. So kernels are called from a `KernelThread`, never from
the threads of who uses this package.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import tvm

from rt3d_tvm.errors import InputError

# The affinity mode of TVM's thread pool that prefers big cores, where there are two kinds.
_BIG_CORES = 1
Result = TypeVar("Result")
# Of each thread: the process in which it had TVM make worker threads.
_workers = threading.local()


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(threads: int) -> int:
    """Let kernels that the calling thread runs itself use that many threads.

    Left alone TVM takes half the cores on x86-64. Returns how many it uses: fewer where something
    has run before, because TVM makes its threads then and cannot add any. InputError for more
    threads than cores: they wait for each other by spinning.
    """
    cores = available_cores()
    if not isinstance(threads, int) or not 1 <= threads <= cores:
        raise InputError(f"{threads} threads: this process may use 1 to {cores}")
    if (made_in := getattr(_workers, "made_in", os.getpid())) != os.getpid():
        raise InputError(
            f"this process is a fork of {made_in}, which ran kernels in this thread: their worker "
            "threads are not here; start it with multiprocessing's spawn, or use another thread"
        )
    _workers.made_in = os.getpid()
    # TVM makes its threads when it needs the first, as many as this says; later it can use fewer.
    os.environ["TVM_NUM_THREADS"] = str(cores)
    tvm.get_global_func("runtime.config_threadpool")(_BIG_CORES, threads)
    return threads_used()


def threads_used() -> int:
    """On how many threads the kernels run that the calling thread calls."""
    return int(tvm.get_global_func("runtime.NumThreads")())


def _use_no_workers() -> None:
    """Let the calling thread run its kernels alone, on any core: TVM makes no threads for it."""
    cores = os.sched_getaffinity(0)
    # The list counts: it says that there is one processor, to which TVM then binds the thread.
    tvm.get_global_func("runtime.config_threadpool")(_BIG_CORES, 1, ["0"])
    os.sched_setaffinity(0, cores)


class KernelThread:
    """A thread that kernels are called from, one call after the other, on so many threads.

    Any thread may `call`, and waits for its turn. A fork waits for the call that runs; the child
    starts a thread of its own when it needs one.
    """

    def __init__(self) -> None:
        _watch_forks()
        self.running = threading.RLock()  # a fork inside of a call is in the thread that holds it
        self.start_anew()
        _all.add(self)

    def start_anew(self) -> None:
        """Forget the thread, which is not in this process, and how many it had set."""
        self._threads = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rt3d-kernels")

    def call(self, threads: int, function: Callable[..., Result], *arguments: object) -> Result:
        """What the function returns, called in this thread with that many for its kernels."""
        return self._executor.submit(self._called, threads, function, arguments).result()

    def _called(self, threads: int, function: Callable[..., Result], arguments: tuple) -> Result:
        with self.running:
            if threads != self._threads:
                if threads == 1:
                    _use_no_workers()
                else:
                    set_threads(threads)
                self._threads = threads
            return function(*arguments)


_all: weakref.WeakSet[KernelThread] = weakref.WeakSet()
_forking = threading.RLock()
_paused: list[KernelThread] = []
_shared: KernelThread | None = None


def kernel_thread(threads: int) -> KernelThread:
    """The thread to call kernels from that run on so many threads, always the same number.

    Those that run on several take turns: they would be in each other's way on the same cores. What
    runs on one thread has one to itself, and runs beside the others.
    """
    global _shared
    if threads == 1:
        return KernelThread()
    with _forking:
        _shared = _shared or KernelThread()
        return _shared


def _before_fork() -> None:
    """No call runs while the process is copied: the child would go on from the middle of it."""
    _forking.acquire()
    for thread in list(_all):
        thread.running.acquire()
        _paused.append(thread)


def _after_fork(*, in_child: bool) -> None:
    while _paused:
        thread = _paused.pop()
        thread.running.release()
        if in_child:
            thread.start_anew()
    _forking.release()


@functools.cache
def _watch_forks() -> None:
    """Have the functions above called around every fork, from now on."""
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )
