"""Which schedule serves what: one table a device, applied by TVM's ApplyDefaultSchedule.

tvm.s_tir.dlight.ApplyDefaultSchedule(*schedules.table.rules("cpu"))
"""

from __future__ import annotations

import json

from tvm import s_tir, tirx
from tvm.s_tir.dlight import ScheduleRule
from tvm.s_tir.dlight.analysis import normalize_prim_func
from tvm.target import Target

from schedules.cpu.depthwise_conv3d import schedule_depthwise_conv3d
from schedules.cpu.group_norm import schedule_group_norm
from schedules.cpu.kgs_conv2plus1d import schedule_kgs_conv2plus1d
from schedules.cpu.kgs_conv3d import schedule_kgs_conv3d
from schedules.cpu.loops import schedule_loops
from schedules.cpu.max_pool3d import schedule_max_pool3d
from schedules.cpu.winograd import schedule_winograd_transform
from schedules.decisions import DECISIONS_ATTRIBUTE, scheduled, written_for
from schedules.opencl.kgs_conv3d import schedule_opencl_kgs_conv3d
from schedules.opencl.loops import schedule_loops as schedule_opencl_loops
from schedules.opencl.tiles import schedule_tiles


class KernelRule(ScheduleRule):
    """Serves the PrimFuncs that carry the attribute ``name``, the kernel's own definition.

    ``schedule`` takes (schedule, the kernel's block "tile", target).
    """

    def __init__(self, name: str, schedule) -> None:
        self.name = name
        self.schedule = schedule

    def apply(self, func: tirx.PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        """The schedule at the decisions that the kernel carries, or else at its default ones.

        None for another kernel.
        """
        if self.name not in func.attrs:
            return None
        decisions = None
        if DECISIONS_ATTRIBUTE in func.attrs:
            decisions = tuple(map(tuple, json.loads(func.attrs[DECISIONS_ATTRIBUTE])))
        return scheduled(func, self.schedule, target, decisions)


class LoopsRule(ScheduleRule):
    """Serves every loop nest that dlight can analyse: the last rule of a table."""

    def __init__(self, schedule) -> None:
        self.schedule = schedule

    def apply(self, func: tirx.PrimFunc, target: Target, tunable: bool) -> s_tir.Schedule | None:
        """The scheduled loop nest, or as it is where its blocks are not affine."""
        sch = s_tir.Schedule(func)
        blocks = normalize_prim_func(sch)
        if blocks is not None:
            self.schedule(sch, blocks)
        # Not before: a block that is inlined twice would bind one name to two values.
        return s_tir.Schedule(written_for(sch.mod["main"], target))


RULES: dict[str, tuple[ScheduleRule, ...]] = {
    "cpu": (
        KernelRule("kgs_conv3d", schedule_kgs_conv3d),
        KernelRule("quantized_kgs_conv3d", schedule_kgs_conv3d),
        KernelRule("kgs_conv2plus1d", schedule_kgs_conv2plus1d),
        KernelRule("depthwise_conv3d", schedule_depthwise_conv3d),
        KernelRule("quantized_depthwise_conv3d", schedule_depthwise_conv3d),
        KernelRule("group_norm", schedule_group_norm),
        KernelRule("max_pool3d", schedule_max_pool3d),
        KernelRule("winograd_input", schedule_winograd_transform),
        KernelRule("winograd_output", schedule_winograd_transform),
        LoopsRule(schedule_loops),
    ),
    "opencl": (
        KernelRule("opencl_kgs_conv3d", schedule_opencl_kgs_conv3d),
        KernelRule("opencl_max_pool3d", schedule_tiles),
        KernelRule("opencl_pack", schedule_tiles),
        KernelRule("opencl_concat", schedule_tiles),
        LoopsRule(schedule_opencl_loops),
    ),
}


def kernel_rule(name: str) -> KernelRule:
    """The rule for one kernel, whose name says which device it is for."""
    every = (rule for of_device in RULES.values() for rule in of_device)
    (found,) = (rule for rule in every if getattr(rule, "name", None) == name)
    return found


def rules(device: str) -> tuple[ScheduleRule, ...]:
    """The rules of one device, in the order they are tried; KeyError names the known ones."""
    if device not in RULES:
        raise KeyError(f"no schedules for device {device!r}; known: {', '.join(sorted(RULES))}")
    return RULES[device]
