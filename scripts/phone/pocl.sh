#!/bin/bash
# Unpacks the PoCL of this machine's Debian or Ubuntu, with what it needs, and installs nothing: for
# a processor that is younger than PyPI's PoCL, whose compiler then builds no kernel.
#   pocl.sh [DIR]   default: ~/.cache/rt3d-pocl; prints what makes programs find it:
#     eval "$(scripts/phone/pocl.sh)" && rt3d doctor
# Needs apt-get and its lists, but no root. Some 55 MB, once; later runs only print.
set -euo pipefail
die() { echo "pocl: $*" >&2; exit 1; }
package=pocl-opencl-icd

dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/rt3d-pocl}
command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
    die "no apt-get here: install your system's PoCL 3.1 or newer"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# One at a time: tests in several processes may ask at once.
exec 9>"$dir/lock"
flock 9
if [ ! -e "$dir/done" ]; then
    rm -rf "$dir/root" "$dir/packages"
    mkdir -p "$dir/packages"
    cd "$dir/packages"
    # What is installed already is not in the list.
    needed=$(apt-get install --simulate --no-install-recommends "$package" 2>apt.log |
        awk '$1 == "Inst" { print $2 }') || die "$(tail -1 apt.log)"
    [ -n "$needed" ] || die "$package is installed: rt3d doctor lists its device"
    # shellcheck disable=SC2086
    apt-get download -q $needed >apt.log 2>&1 || die "$(tail -1 apt.log)"
    for file in *.deb; do dpkg -x "$file" "$dir/root"; done
    rm -rf "$dir/packages"
    touch "$dir/done"
fi
driver=$(find "$dir/root/usr/lib" -name 'libpocl.so.*' | sort | head -1)
[ -n "$driver" ] || die "no libpocl.so under $dir/root: remove $dir and run this again"
mkdir -p "$dir/vendors"
echo "$driver" >"$dir/vendors/pocl.icd"
libraries=$(dirname "$driver")
echo "export OCL_ICD_VENDORS=$dir/vendors"
echo "export LD_LIBRARY_PATH=$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
