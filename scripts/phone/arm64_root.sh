#!/bin/bash
# Makes an arm64 root with Python 3.11 and the wheels that run an artifact, for qemu-user.
#   arm64_root.sh DIR [--peers] [--torch]
#     --peers   also ONNX Runtime and MNN for AArch64, in DIR/peers
#     --torch   also PyTorch for AArch64, in DIR/torch
#   DIR/root is the root, DIR/site holds apache-tvm and what it needs. To run it:
#     PYTHONPATH=DIR/site qemu-aarch64 -L DIR/root DIR/root/usr/bin/python3.11 ...
#   PYTHON          the python3 whose pip fetches the wheels (default: .venv's, else python3)
#   DEBIAN_MIRROR   Debian mirror for the root (default: debootstrap's own)
# Needs Debian 12 or a relative of it on x86-64; root where a Debian package is missing. Some 600 MB
# (MNN and ONNX Runtime 100 more, PyTorch 500 more) and a minute. Safe to run again: steps that are
# done are skipped.
set -euo pipefail
usage() { sed -n '2,12s/^# \?//p' "$0" >&2; exit 2; }
die() { echo "arm64_root: $*" >&2; exit 1; }
say() { echo "arm64_root: $*"; }

dir= peers= torch=
for argument in "$@"; do
    case $argument in
        --peers) peers=1 ;;
        --torch) torch=1 ;;
        -*) usage ;;
        *) [ -z "$dir" ] || usage; dir=$argument ;;
    esac
done
[ -n "$dir" ] || usage

repository=$(cd "$(dirname "$0")/../.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x "$repository/.venv/bin/python" ] || PYTHON=$repository/.venv/bin/python
fi
"$PYTHON" -m pip --version >/dev/null 2>&1 ||
    die "$PYTHON has no pip: name a Python that has one, PYTHON=... $0 ..."

# --- Debian packages --------------------------------------------------------------------------
missing=
packages="qemu-user debootstrap gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross"
command -v dpkg >/dev/null || die "no dpkg here: this needs Debian or a relative of it, with $packages"
for package in $packages; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || die "run this as root, or first: apt-get install --no-install-recommends$missing"
    say "installing$missing"
    apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# --- the root: Python 3.11 and the C++ runtime, unpacked only (nothing in it is configured) -----
if [ ! -e "$dir/root.done" ]; then
    # debootstrap makes device nodes' folders and owners as root would; it refuses to run otherwise.
    [ "$(id -u)" = 0 ] || die "run this as root: debootstrap, which unpacks the arm64 root, asks for it"
    say "arm64 root -> $dir/root"
    rm -rf "$dir/root"
    debootstrap --foreign --arch=arm64 --variant=minbase \
        --include=python3-minimal,python3,libgomp1,libstdc++6 bookworm "$dir/root" ${DEBIAN_MIRROR:-} \
        >"$dir/debootstrap.log" 2>&1 || die "debootstrap: $(tail -5 "$dir/debootstrap.log")"
    for package in "$dir"/root/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$dir/root"; done
    rm -f "$dir"/root/var/cache/apt/archives/*.deb
    touch "$dir/root.done"
fi

# --- what engines read to find out which core they run on: one Cortex-A77 r1p0 -------------------
[ ! -L "$dir/root/proc" ] || rm "$dir/root/proc"
mkdir -p "$dir/root/proc"
cat >"$dir/root/proc/cpuinfo" <<'EOF'
processor	: 0
BogoMIPS	: 38.40
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x1
CPU part	: 0xd0d
CPU revision	: 0

EOF
cpus=$dir/root/sys/devices/system/cpu
put() { mkdir -p "$cpus/$(dirname "$1")"; echo "$2" >"$cpus/$1"; }
for file in present possible online; do put $file 0; done
put cpu0/regs/identification/midr_el1 0x00000000411fd0d0
for file in thread_siblings_list core_siblings_list physical_package_id core_id; do
    put cpu0/topology/$file 0
done
index=0
while read -r level type size ways; do
    cache=cpu0/cache/index$((index++))
    put $cache/level "$level"; put $cache/type "$type"; put $cache/size "$size"
    put $cache/ways_of_associativity "$ways"
    put $cache/coherency_line_size 64; put $cache/shared_cpu_list 0; put $cache/shared_cpu_map 1
done <<'EOF'
1 Data 64K 4
1 Instruction 64K 4
2 Unified 512K 8
3 Unified 4096K 16
EOF

# --- wheels: a folder of AArch64 packages for the guest's Python 3.11 -----------------------------
platforms=(--platform manylinux2014_aarch64)
for minor in $(seq 36 -1 17); do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
# wheels NAME SPEC...
wheels() {
    local folder=$dir/$1; shift
    if [ "$(cat "$folder/.specs" 2>/dev/null)" = "$*" ]; then return; fi
    say "AArch64 wheels -> $folder: $*"
    rm -rf "$folder"
    "$PYTHON" -m pip install --quiet --target "$folder" --no-deps --no-compile --only-binary=:all: \
        --implementation cp --python-version 3.11 "${platforms[@]}" "$@"
    echo "$*" >"$folder/.specs"
}
wheels site apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 numpy==2.4.6 ml_dtypes==0.6.0 \
    typing_extensions==4.16.0 psutil==7.2.2 cloudpickle==3.1.2 tornado==6.6.1
if [ "$peers" ]; then
    wheels peers onnxruntime==1.31.1 MNN==3.6.1 flatbuffers==25.12.19 packaging==26.3 protobuf==7.36.2
fi
if [ "$torch" ]; then
    wheels torch torch==2.6.0 filelock==4.2.11 fsspec==2026.9.0 jinja2==3.1.6 markupsafe==3.0.4 \
        mpmath==1.3.0 networkx==3.6.1 sympy==1.13.1 onnx==1.23.2 protobuf==7.36.2
fi
say "ready in $dir"
