"""What the meter counted: read from a file, judged, and shown as tables."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from estimate import Estimate, estimate, total, uncounted

from rt3d_tvm.console import print_table
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import STATED

# A larger error is another answer; below this sensitivity a small one proves nothing.
MAX_REL_ERROR, MIN_SENSITIVITY = 1e-2, 1e-3


def load_result(path: Path) -> dict:
    """What `run --json` wrote; InputError for another file, or one without counts of today."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        missing = uncounted(result["regions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a result of `run --json`: {error}") from error
    if missing:
        raise InputError(
            f"{path}: counted by an older meter, without {', '.join(missing)}: delete it, run again"
        )
    return result


def precision_of(result: Mapping) -> str:
    """Of the model; older results are all of float32."""
    return result.get("precision", "fp32")


def largest_error(result: Mapping) -> float:
    """A larger error is another answer, in the precision of the model."""
    return max(MAX_REL_ERROR, STATED[precision_of(result)].max_rel_error)


def warnings(result: Mapping) -> list[str]:
    """What a reader of the figures has to know."""
    found, limit = [], largest_error(result)
    if not result["rel_error"] <= limit:
        found.append(f"relerr is above {limit:g}: not the reference's answer")
    if not result["sensitivity"] >= MIN_SENSITIVITY:
        found.append(
            f"another input moves the output by {result['sensitivity']:.1e} of its largest value "
            "only: a small relerr proves nothing here"
        )
    if result["threads"] > 1:
        found.append(f"{result['threads']} threads ran: counts and times are their sums")
    return found


def show(results: list[Mapping]) -> None:
    """One row a result (G: 1e9, M: 1e6); kept%: multiply-adds not zero over the peak."""
    rows = []
    for result in results:
        counts = total(result["regions"])
        e = estimate(counts, precision_of(result))
        rows.append(
            (
                *(result["model"], result["engine"]),
                *(counts["insns"] / 1e9, e.float_macs / 1e9, e.int8_macs / 1e9),
                *(counts["load"] / 1e9, counts["store"] / 1e9),
                *(miss / 1e6 for miss in e.misses),
                *(e.bound, e.core_ms, e.memory_ms, e.ms),
                *(100 * e.share(result["kept_macs"]), 100 * e.fma_share, 100 * e.dot_share),
                *(f"{result['rel_error']:.1e}", f"{result['sensitivity']:.1e}"),
            )
        )
    columns = (
        "model engine Ginsn Gmac Gmac_i8 Gload Gstore L1_M L2_M L3_M bound core_ms mem_ms est_ms "
        "kept% fma% dot% relerr sens"
    )
    print_table(rows, columns=columns.split())
    for result in results:
        for text in warnings(result):
            print(f"warning: {result['model']} {result['engine']}: {text}")


def show_layers(result: Mapping) -> None:
    """One row a call, the longest first."""
    macs = {layer["name"]: layer["kept_macs"] for layer in result["layers"]}
    estimates = [estimate(region, precision_of(result)) for region in result["regions"]]
    whole = sum(e.ms for e in estimates)

    def row(call: Mapping, region: Mapping, e: Estimate) -> tuple:
        kept = sum(macs[name] for name in call["layers"])
        return (
            *(call["function"], " + ".join(call["layers"]) or "-", e.ms, 100 * e.ms / whole),
            *(e.core_ms, e.memory_ms, e.bound),
            100 * e.share(kept) if kept else None,
            *(100 * e.fma_share, 100 * e.dot_share),
            *(miss / 1e6 for miss in e.misses),
            *(region["insns"] / 1e9, e.float_macs / 1e9, e.int8_macs / 1e9),
        )

    rows = [row(*one) for one in zip(result["calls"], result["regions"], estimates, strict=True)]
    columns = (
        "function layer est_ms share% core_ms mem_ms bound kept% fma% dot% L1_M L2_M L3_M Ginsn "
        "Gmac Gmac_i8"
    )
    print_table(sorted(rows, key=lambda r: -r[2]), columns=columns.split())


def show_hot(result: Mapping, call: int) -> None:
    """Disassemble the blocks of one region that ran most instructions."""
    if not 0 <= call < len(result["regions"]):
        raise InputError(f"--call {call}: the file has calls 0 to {len(result['regions']) - 1}")
    region = result["regions"][call]
    for block in region["hot"]:
        share = 100 * block["exec"] * block["n"] / region["insns"]
        print(
            f"{block['vaddr']}: {block['exec']} x {block['n']} instructions = {share:.1f} %, "
            f"{block['fma_4s']} of them fma_4s, {block['dot_16b']} dot_16b"
        )
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes.fromhex(block["code"]))
            file.flush()
            command = ["aarch64-linux-gnu-objdump", "-D", "-b", "binary", "-m", "aarch64"]
            dump = subprocess.run(
                [*command, file.name], capture_output=True, text=True, check=True
            ).stdout
        for line in dump.splitlines():
            if line.count("\t") > 1:
                print("   ", " ".join(line.split("\t")[2:]))
