"""Tune a model on a device behind a TVM RPC tracker, compile it with the result, time both there.

    rt3d tracker                                            # in one terminal
    rt3d rpc-server --tracker 127.0.0.1:9190 --key board    # on the device; see docs/phone.md
    python examples/autotune_rpc.py model.onnx --tracker 127.0.0.1:9190 --key board \\
        --target cortex-a77 --work build/board [--trials 64]

Stop it whenever you like: the same command goes on. To be copied and changed: everything it calls
is public.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.console import print_table
from rt3d_tvm.devices.remote import RemoteDevice
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.tuner import tune_onnx
from rt3d_tvm.tune.watch import watched


def main() -> int:
    """Exit status 2 for input that will not do, and when no device is left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("onnx", type=Path)
    parser.add_argument("--tracker", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--key", required=True)
    parser.add_argument("--target", default="arm64")
    parser.add_argument("--work", type=Path, required=True, help="the search, and both artifacts")
    parser.add_argument("--trials", type=int, default=64, help="a layer")
    args = parser.parse_args()
    try:
        args.work.mkdir(parents=True, exist_ok=True)
        # 1. Search. Every trial is on disk before it is shown; the best are verified at the end.
        with watched() as watch:
            report = tune_onnx(
                args.onnx,
                args.work / "search",
                target=args.target,
                tracker=args.tracker,
                key=args.key,
                trials=args.trials,
                watch=watch,
            )
        # 2. Compile, with the defaults and with what was found.
        options = {"target": args.target, "shipped": False}
        compile_onnx(args.onnx, args.work / "default", **options)
        found = args.work / "search"
        manifest = compile_onnx(args.onnx, args.work / "tuned", database=found, **options)
        # 3. Time both on the device.
        x = np.random.default_rng(0).standard_normal(manifest["inputs"][0]["shape"], "float32")
        rows = []
        with RemoteDevice(args.tracker, args.key) as device:
            for name in ("default", "tuned"):
                timing = device.load(args.work / name).time(x)
                rows.append((name, timing.p50_ms, timing.p90_ms))
    except InputError as error:
        print(f"autotune_rpc: {error}", file=sys.stderr)
        return 2
    print_table(rows, columns=("artifact", "p50 ms", "p90 ms"), title=f"{args.onnx} on {args.key}")
    print(f"{report.trials} trials, {sum(report.failures.values())} failed")
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text}: HOST:PORT is accepted, port 1 to 65535")
    return host, int(port)


if __name__ == "__main__":
    sys.exit(main())
