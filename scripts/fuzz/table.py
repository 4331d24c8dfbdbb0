"""The table of docs/fuzz.json in docs/reliability.md: python -m scripts.fuzz.table [FILE ...].

With FILEs of tallies, their sum is written to docs/fuzz.json first. --again judges each finding of
the FILEs anew, which has been mended, and counts it as what it is now.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rt3d_tvm.files.whole_file import whole_file
from scripts.fuzz.outcome import FAULTS, KINDS, Tally, added, read_tallies, write_tallies

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- fuzz -->", "<!-- /fuzz -->"
# What a case is, in the order of the table.
WORDS = {
    ("graphs", "cpu"): "random graphs on x86-64, for this machine, AVX2, AVX-512",
    ("graphs", "opencl"): "random graphs on OpenCL, fp32 and fp16",
    ("graphs", "phone"): "random graphs on the emulated phone, fp32 and fp16",
    ("onnx_files", "files"): "damaged ONNX files",
    ("artifacts", "python"): "tampered artifacts, `rt3d_tvm.artifact`",
    ("artifacts", "plain"): "tampered artifacts, `run_plain.py`",
    ("artifacts", "cpp"): "tampered artifacts, the C++ program",
    ("artifacts", "bundle"): "tampered artifacts, `rt3d bundle`",
    ("artifacts", "opencl"): "tampered artifacts for OpenCL",
    ("checkpoints", "checkpoint"): "tampered checkpoints",
    ("checkpoints", "weights"): "tampered weight files",
    ("command_lines", "commands"): "hostile options and paths",
    ("kills", "compile"): "`kill -9` of compile",
    ("kills", "train"): "`kill -9` of train",
    ("kills", "prune"): "`kill -9` of prune",
    ("kills", "tune"): "`kill -9` of tune",
    ("connections", "tracker"): "garbage to a tracker",
    ("connections", "rpc-server"): "garbage to an rpc-server",
}


def table(tallies: Iterable[Tally]) -> str:
    """A row per fuzzer and what it is of."""
    rows = ["| cases | tried | right | refused | " + " | ".join(FAULTS) + " |"]
    rows.append("|---" * (rows[0].count("|") - 1) + "|")
    known = {(tally.fuzzer, tally.of): tally for tally in tallies}
    for key, words in WORDS.items():
        if key in known:
            counts = known[key].counts
            cells = [words, f"{known[key].cases:,}", f"{counts['ok']:,}", f"{counts['refused']:,}"]
            rows.append("| " + " | ".join([*cells, *(str(counts[kind]) for kind in FAULTS)]) + " |")
    return "\n".join(rows)


def judged_again(tally: Tally, run: Callable[[str], str]) -> None:
    """Count each finding as what ``run`` says, of its line, that it is now."""
    findings, tally.findings = tally.findings, []
    for finding in findings:
        kind = run(finding["line"])
        tally.counts[finding["kind"]] -= 1
        tally.counts[kind] += 1
        if kind in FAULTS:
            tally.findings.append({**finding, "kind": kind})


def _kind_of(line: str) -> str:
    """The outcome of the case that a line repeats."""
    command = [sys.executable, *line.split()[1:]]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    kind = said.partition(":")[0]
    if kind not in KINDS:
        raise RuntimeError(f"{line}: no outcome in {said!r}")
    return kind


def main() -> int:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("files", nargs="*", type=Path, metavar="FILE")
    options.add_argument("--again", action="store_true", help="judge findings anew")
    args = options.parse_args()
    path = DOCS / "fuzz.json"
    tallies = {} if args.files else read_tallies(path)
    for more in args.files:
        for key, tally in read_tallies(more).items():
            if args.again:
                judged_again(tally, _kind_of)
            tallies[key] = added(tallies[key], tally) if key in tallies else tally
    write_tallies(path, tallies)
    page = DOCS / "reliability.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    with whole_file(page) as temporary:
        text = f"{before}{BEGIN}\n{table(tallies.values())}\n{END}{after}"
        temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
