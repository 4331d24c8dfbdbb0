#!/bin/bash
# From nothing to a model's number, with a stopwatch, as a new user would.
#   stopwatch.sh MODEL.onnx [RUNNER [TARGET]]
#     RUNNER   default: 'qemu-aarch64 {}', for TARGET arm64; '{}' for host runs it on this machine
#   PYTHON     default: python3
# Makes a venv in a temporary folder, installs this package from this tree, and runs rt3d bench: a
# bundle, a static program, its C library (no cache of the linker's is used), and the measurement.
# Downloads are in the first time. Prints the seconds of each part.
set -euo pipefail
[ $# -ge 1 ] && [ -f "$1" ] || { sed -n '2,8s/^# \?//p' "$0" >&2; exit 2; }
model=$(realpath "$1") runner=${2:-qemu-aarch64 \{\}} target=${3:-arm64}
tree=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
export ZIG_GLOBAL_CACHE_DIR=$folder/zig
began=$(date +%s.%N)
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "$tree[compile,bundle]"
installed=$(date +%s.%N)
cd "$folder"
"$folder/venv/bin/rt3d" bench "$model" --runner "$runner" --target "$target" --runs 5
measured=$(date +%s.%N)
"${PYTHON:-python3}" -c "b, i, m = map(float, '$began $installed $measured'.split()); print(
    f'install {i - b:.0f} s, model to number {m - i:.0f} s, together {m - b:.0f} s')"
