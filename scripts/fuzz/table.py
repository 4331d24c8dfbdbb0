"""The table of docs/fuzz.json in docs/reliability.md: python -m scripts.fuzz.table [FILE ...].

With FILEs of tallies, their sum is written to docs/fuzz.json first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from rt3d_tvm.files.whole_file import whole_file
from scripts.fuzz.outcome import FAULTS, Tally, added, read_tallies, write_tallies

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- fuzz -->", "<!-- /fuzz -->"
# What a case is, in the order of the table.
WORDS = {
    ("graphs", "cpu"): "random graphs on x86-64, for this machine and AVX2",
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


def main() -> int:
    """The command."""
    path = DOCS / "fuzz.json"
    tallies = {} if sys.argv[1:] else read_tallies(path)
    for more in sys.argv[1:]:
        for key, tally in read_tallies(Path(more)).items():
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
