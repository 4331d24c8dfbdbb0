"""Loops in the code that LLVM made of a PrimFunc."""

import re

import tvm
from tvm.s_tir import dlight

from schedules.table import rules


def assembly(func: tvm.tirx.PrimFunc, target: tvm.target.Target) -> list[str]:
    """The lines of the code of one PrimFunc, scheduled as the project does."""
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    with target:
        mod = dlight.ApplyDefaultSchedule(*rules("cpu"))(mod)
    return tvm.compile(mod, target=target).mod.inspect_source("s").splitlines()


def innermost_loops(lines: list[str]) -> list[list[str]]:
    """The lines of each loop that holds no other, its jump back being the last of them."""
    labels, spans = {}, []
    for number, line in enumerate(lines):
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = number
        jump = re.search(r"\t(?:b\.?\w*|cbn?z|tbn?z|j\w+)\t.*?(\.L\w+)$", line)
        if jump and jump[1] in labels:
            spans.append((labels[jump[1]], number))
    return [
        lines[start : end + 1]
        for start, end in spans
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in spans)
    ]


def multiply_adds(loop: list[str]) -> list[str]:
    """The vector multiply-adds among the lines."""
    return [line for line in loop if re.search(r"\tfmla\t|\tvfmadd\w+ps\t", line)]
