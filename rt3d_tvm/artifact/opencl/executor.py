"""Run a plan on an OpenCL device: buffers stay there, one upload and one download a run."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.artifact.opencl.drivers import (
    check_not_forked,
    has_half,
    lacks_half,
    load_pyopencl,
)
from rt3d_tvm.artifact.opencl.plan import Plan, Texture
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import pyopencl


class Executor:
    """A plan on one device, its kernels compiled and its weights uploaded; runs take turns.

    InputError for a device that has no float16 where the plan computes in it, no textures or too
    small ones, that allows fewer work-items per group than a kernel has, or whose compiler refuses
    the source.
    given: buffers of ``context`` for some of the plan's, by their index; what is compiled for them
    is not kept on disk.
    """

    def __init__(
        self,
        plan: Plan,
        weights: Sequence[np.ndarray],
        device: pyopencl.Device,
        *,
        context: pyopencl.Context | None = None,
        given: Mapping[int, pyopencl.Buffer] | None = None,
    ) -> None:
        self._cl = cl = load_pyopencl()
        self.plan, self.device, self._running = plan, device, threading.Lock()
        _check(plan, device)
        self._context, given = context or cl.Context([device]), dict(given or {})
        self.queue = cl.CommandQueue(
            self._context, properties=cl.command_queue_properties.PROFILING_ENABLE
        )
        try:
            cache = {"cache_dir": False} if given else {}
            program = cl.Program(self._context, plan.source).build(**cache)
        except cl.Error as error:
            lines = [line for line in str(error).splitlines() if "error" in line.lower()]
            raise InputError(f"{device.name}: cannot compile the kernels: {lines[:3]}") from error
        made = {texture.buffer: self._texture(texture) for texture in plan.textures} | given
        self.buffers = [
            made[i]
            if i in made
            else cl.Buffer(self._context, cl.mem_flags.READ_WRITE, max(size, 1))
            for i, size in enumerate(plan.buffers)
        ]
        for index, value in enumerate(weights, plan.inputs):
            if value.nbytes:
                cl.enqueue_copy(self.queue, self.buffers[index], np.ascontiguousarray(value))
        self.queue.finish()
        self._launches = []
        for launch in plan.launches:
            kernel = cl.Kernel(program, launch.kernel)
            kernel.set_args(*(self.buffers[i] for i in launch.buffers))
            size = tuple(g * i for g, i in zip(launch.groups, launch.items, strict=True))
            self._launches.append((kernel, size, launch.items))

    def run(self, *inputs: np.ndarray, outputs: Sequence[tuple[tuple[int, ...], str]]) -> list:
        """The results, of the given shapes and types, for such inputs as the model takes."""
        results, _ = self.timed(*inputs, outputs=outputs)
        return results

    def timed(
        self, *inputs: np.ndarray, outputs: Sequence[tuple[tuple[int, ...], str]]
    ) -> tuple[list[np.ndarray], list[float]]:
        """The same, and the milliseconds of each launch, by the device's own clock."""
        cl = self._cl
        check_not_forked()
        results = [np.empty(shape, dtype) for shape, dtype in outputs]
        with self._running:
            for buffer, value in zip(self.buffers, inputs, strict=False):
                cl.enqueue_copy(self.queue, buffer, np.ascontiguousarray(value))
            events = self._launched()
            for index, result in zip(self.plan.outputs, results, strict=True):
                cl.enqueue_copy(self.queue, result, self.buffers[index])
            self.queue.finish()
        return results, [1e3 * seconds for seconds in map(_seconds, events)]

    def launch_s(self) -> list[float]:
        """The seconds of each launch of a run on what is in the buffers, by the device's clock."""
        check_not_forked()
        with self._running:
            events = self._launched()
            self.queue.finish()
        return [_seconds(event) for event in events]

    def _texture(self, texture: Texture) -> pyopencl.Image:
        cl = self._cl
        kinds = {"float16": cl.channel_type.HALF_FLOAT, "float32": cl.channel_type.FLOAT}
        texel = cl.ImageFormat(cl.channel_order.RGBA, kinds[texture.dtype])
        flags = cl.mem_flags.READ_WRITE
        return cl.create_image(self._context, flags, texel, shape=texture.shape, is_array=True)

    def _launched(self) -> list[pyopencl.Event]:
        return [
            self._cl.enqueue_nd_range_kernel(self.queue, kernel, size, items)
            for kernel, size, items in self._launches
        ]


def _seconds(event: pyopencl.Event) -> float:
    return 1e-9 * (event.profile.end - event.profile.start)


def _check(plan: Plan, device: pyopencl.Device) -> None:
    if plan.half and not has_half(device):
        raise lacks_half(device.name.strip())
    _check_textures(plan, device)
    most = device.max_work_group_size
    for launch in plan.launches:
        if launch.group_items > most:
            raise InputError(
                f"{launch.kernel} has {launch.group_items} work-items per group; "
                f"{device.name.strip()} allows {most}"
            )


def _check_textures(plan: Plan, device: pyopencl.Device) -> None:
    if not plan.textures:
        return
    name = device.name.strip()
    if not device.image_support:
        raise InputError(f"{name} has no textures, and kernels read one; tune for that device")
    most = (device.image2d_max_width, device.image2d_max_height, device.image_max_array_size)
    for texture in plan.textures:
        if any(extent > limit for extent, limit in zip(texture.shape, most, strict=True)):
            raise InputError(
                f"a texture of {_extents(texture.shape)}; {name} allows {_extents(most)}; "
                "tune for that device"
            )


def _extents(shape: Sequence[int]) -> str:
    return "{} columns, {} rows and {} layers".format(*shape)
