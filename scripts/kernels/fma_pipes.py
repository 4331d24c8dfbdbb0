"""llvm-mca's share of the two multiply-add pipes for the inner loops of an AArch64 artifact.

    python scripts/kernels/fma_pipes.py DIR... [--json F]

DIR is an artifact of `rt3d compile --target cortex-a77`. Reads the built model.so: every innermost
loop with vector multiply-adds in the kernel of every layer, scheduled by LLVM's model of the
Neoverse N1 (two vector pipes, as the Cortex-A77). A kernel has up to four such loops: a whole and a
narrower strip, of whole and of last row blocks. Needs llvm-objdump and llvm-mca of an LLVM that has
that model, such as Debian's package llvm-19.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rt3d_tvm.artifact.load import MANIFEST, MODEL, read_manifest
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.errors import InputError

PROCESSOR = "neoverse-n1"
# An older LLVM takes the processor's name and answers for a Cortex-A57: the units' names tell.
MODEL_UNITS = "N1Unit"
PIPES = 2
ITERATIONS = 200
# A float32 multiply-add of whole vectors, its scalar from a lane or not.
FMA = re.compile(r"fml[as]\tv\d+\.4s")
BRANCH = re.compile(r"^(?:b|b\.\w+|cbn?z|tbn?z)\t")
STACK = re.compile(r"^(?:ldr|str|ldp|stp|ldur|stur)\t[qd]\d.*\[sp")


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One innermost loop of a layer's kernel.

    share: of the pipes' slots that multiply-adds fill. spills: vector loads and stores from and to
    the stack.
    """

    layer: str
    function: str
    multiply_adds: int
    instructions: int
    spills: int
    cycles: float
    share: float


def main() -> int:
    """Print and write the loops; exit status 2 where there is nothing to read them with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        found = {str(folder): artifact_loops(folder) for folder in args.folders}
        if args.json:
            write_json(args.json, found)
    except InputError as error:
        print(f"fma_pipes: {error}", file=sys.stderr)
        return 2
    for name, loops in found.items():
        rows = [
            (
                *(loop.layer, loop.function, loop.multiply_adds, loop.instructions),
                *(loop.spills, loop.cycles, 100 * loop.share),
            )
            for loop in loops
        ]
        columns = ("layer", "function", "fmla", "instructions", "spills", "cycles", "share %")
        print_table(rows, columns=columns, title=f"{name}: {PROCESSOR}, {PIPES} pipes")
    return 0


def artifact_loops(folder: Path) -> list[Loop]:
    """The innermost loops of every layer's kernel, in the order of the calls.

    InputError for a folder that holds no AArch64 artifact, and where LLVM's tools are missing.
    """
    manifest = read_manifest(folder / MANIFEST)
    if not str(manifest["target"]["tvm"].get("mtriple", "")).startswith("aarch64"):
        raise InputError(f"{folder}: made for {manifest['target']['name']}, not for AArch64")
    objdump, mca = tool("llvm-objdump"), tool("llvm-mca")
    functions = disassemble(objdump, folder / MODEL)
    loops, seen = [], set()
    for call in manifest["calls"]:
        # TVM puts the body of a function into one of its own, behind the check of its arguments.
        code = functions.get(f"{call['function']}_compute_")
        if not call["layers"] or call["function"] in seen:
            continue
        if code is None:
            raise InputError(f"{folder / MODEL}: no code of {call['function']} in it")
        seen.add(call["function"])
        for body in innermost_loops(code):
            if count := sum(bool(FMA.match(line)) for line in body):
                cycles = cycles_per_iteration(mca, body)
                loops.append(
                    Loop(
                        layer=" + ".join(call["layers"]),
                        function=call["function"],
                        multiply_adds=count,
                        instructions=len(body),
                        spills=sum(bool(STACK.match(line)) for line in body),
                        cycles=cycles,
                        share=count / PIPES / cycles,
                    )
                )
    return loops


def tool(name: str) -> str:
    """The newest of LLVM's tools of that name, with its version behind it or not."""
    found = {}
    for folder in os.get_exec_path():
        for path in Path(folder).glob(f"{name}*"):
            if match := re.fullmatch(rf"{name}(?:-(\d+))?", path.name):
                found.setdefault(int(match[1] or 0), str(path))
    if not found:
        raise InputError(f"no {name} here: install LLVM's tools (Debian: apt install llvm-19)")
    return found[max(found)]


def disassemble(objdump: str, library: Path) -> dict[str, list[tuple[int, str]]]:
    """Address and instruction of each line of each function."""
    command = [objdump, "--disassemble", "--no-show-raw-insn", library]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions: dict[str, list[tuple[int, str]]] = {}
    code: list[tuple[int, str]] = []
    for line in text.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            code = functions.setdefault(header[1], [])
        elif match := re.match(r"\s*([0-9a-f]+):\s+(\S.*)$", line):
            code.append((int(match[1], 16), match[2]))
    return functions


def innermost_loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """The instructions of each loop that holds no other, its jump back being the last of them."""
    at = {address: number for number, (address, _) in enumerate(code)}
    spans = []
    for number, (_, text) in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)(?: <.*>)?$", text) if BRANCH.match(text) else None
        start = at.get(int(target[1], 16)) if target else None
        if start is not None and start <= number:
            spans.append((start, number))
    inner = [
        (start, end)
        for start, end in spans
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in spans)
    ]
    return [[text for _, text in code[start : end + 1]] for start, end in inner]


def cycles_per_iteration(mca: str, body: list[str]) -> float:
    """Cycles that llvm-mca gives for one pass through the loop, of many in a row."""
    # Jumps go to a label: the address means nothing outside the library.
    lines = [re.sub(r"0x[0-9a-f]+ <.*>$", "loop", line) for line in body]
    command = [mca, "-mtriple=aarch64", f"-mcpu={PROCESSOR}", f"-iterations={ITERATIONS}"]
    done = subprocess.run(
        command, input="\n".join(("loop:", *lines, "")), capture_output=True, text=True, check=False
    )
    total = re.search(r"^Total Cycles:\s+(\d+)$", done.stdout, re.MULTILINE)
    if done.returncode or total is None:
        raise InputError(f"{mca} failed: {done.stderr.strip()[-500:]}")
    if MODEL_UNITS not in done.stdout:
        raise InputError(f"{mca} has no model of the {PROCESSOR}: install LLVM 19's, it has one")
    return int(total[1]) / ITERATIONS


if __name__ == "__main__":
    sys.exit(main())
