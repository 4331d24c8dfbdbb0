#!/bin/bash
# Sets up the ARM meter; safe to run again, steps that are done are skipped.
#   setup.sh [--peers]
#     --peers   also ONNX Runtime and MNN for AArch64
#   ARMMETER_HOME   where everything goes (default: ${XDG_CACHE_HOME:-~/.cache}/rt3d-armmeter, 700 MB)
# Needs what ../phone/arm64_root.sh needs (Debian 12 on x86-64, root the first time), and `make setup`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${ARMMETER_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/rt3d-armmeter}
case ${*:-} in
    "" | --peers) ;;
    *) sed -n '2,6s/^# \?//p' "$0" >&2; exit 2 ;;
esac
python=$here/../../.venv/bin/python
[ -x "$python" ] || { echo "armmeter: no .venv: run \`make setup\` first" >&2; exit 1; }
"$here/../phone/arm64_root.sh" "$home" "$@"
gcc -O3 -Wall -shared -fPIC -fvisibility=hidden -o "$home/libarmmeter.so" "$here/armmeter.c"
aarch64-linux-gnu-gcc -O2 -Wall -static -march=armv8.2-a+fp16+dotprod -o "$home/selfcheck" "$here/selfcheck.c"
ARMMETER_HOME=$home "$python" "$here/armmeter.py" selfcheck
echo "armmeter: ready in $home"
