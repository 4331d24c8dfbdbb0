"""Cost cards of the pruned models for an Adreno 650: bounds for their kernels' times, from counts.

Prints, for each model, the kernels that take longest and the sums beside the paper's figures.
Nothing is timed and no GPU is needed. Bytes are counted twice: every tensor that a kernel is given,
once ("each once"), and every access that it executes, as if without a cache ("every access"). "In 8
bits" is what kernels would do that store bytes, and sum in float16 or, exactly, in int32; there are
none (docs/opencl.md says why).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cards import CostCard, cost_cards

from rt3d_tvm.artifact.format import ArtifactFiles
from rt3d_tvm.artifact.opencl.plan import Plan
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.export import export_onnx
from rt3d_tvm.prune.benchmark import benchmark_pair
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.opencl.work_item import item_pruning_group, work_item

# Milliseconds on an Adreno 650 in fp16 (paper, Table 2, sparse).
PAPER_MS = {"c3d": 142, "r2plus1d": 141, "s3d": 293}
SHOWN = 12


def main(argv: list[str] | None = None) -> int:
    """Compile each model for adreno, count, print."""
    args = _arguments(argv)
    found = {}
    for model in args.models:
        found[model] = model_cards(model, args.group, args.work)
        _show_longest(f"{model}, {args.group}", found[model])
    _show_sums(found)
    if args.json is not None:
        rows = {
            name: [{**vars(c), "bound_ms": c.bound_ms, "uncached_ms": c.uncached_ms} for c in cards]
            for name, cards in found.items()
        }
        write_json(args.json, rows)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(PAPER_MS), default=list(PAPER_MS))
    parser.add_argument(
        "--group",
        type=KernelGroup.parse,
        default=item_pruning_group(work_item(make_target("adreno"))),
        help="what the models are pruned in (default %(default)s: what adreno prefers)",
    )
    parser.add_argument("--work", type=Path, default=Path("build/cost_card"), metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(argv)


def _show_longest(title: str, cards: list[CostCard]) -> None:
    longest = sorted(cards, key=lambda card: -card.bound_ms)[:SHOWN]
    print_table(
        [
            (
                card.kernel,
                card.work_groups,
                card.group_items,
                card.registers,
                card.flops / 1e9,
                card.tensor_bytes / 1e6,
                card.executed_bytes / 1e6,
                card.intensity,
                card.bound_ms,
                card.uncached_ms,
            )
            for card in longest
        ],
        columns=(
            *("kernel", "groups", "items", "registers", "GFLOP", "MB", "MB accessed"),
            *("FLOP/byte", "each once ms", "every access ms"),
        ),
        title=f"{title}: the {len(longest)} longest of {len(cards)} kernels",
    )


def _show_sums(found: dict[str, list[CostCard]]) -> None:
    print_table(
        [
            (
                model,
                sum(card.flops for card in cards) / 1e9,
                sum(card.tensor_bytes for card in cards) / 1e6,
                sum(card.bound_ms for card in cards),
                sum(card.uncached_ms for card in cards),
                *(
                    sum(getattr(card.in_8_bits(exact=exact), bound) for card in cards)
                    for exact in (False, True)
                    for bound in ("bound_ms", "uncached_ms")
                ),
                PAPER_MS[model],
            )
            for model, cards in found.items()
        ],
        columns=(
            *("model", "GFLOP", "MB", "each once ms", "every access ms"),
            *("in 8 bits, half sums: each once", "every access"),
            *("in 8 bits, int32 sums: each once", "every access", "paper, measured ms"),
        ),
        title="sums: bounds, not measurements",
    )


def model_cards(name: str, group: KernelGroup, work: Path) -> list[CostCard]:
    """The cards of a model with benchmark weights, pruned to the paper's rate."""
    work.mkdir(parents=True, exist_ok=True)
    onnx, folder = work / f"{name}_{group}.onnx", work / f"{name}_{group}"
    if not onnx.is_file():
        pair = benchmark_pair(name, group=group)
        export_onnx(pair.pruned, pair.input_shape, onnx)
    compile_onnx(onnx, folder, target="adreno")
    files = ArtifactFiles.open(folder)
    _, weights = files.weights()
    return cost_cards(Plan.of_files(files), weights)


if __name__ == "__main__":
    raise SystemExit(main())
