#!/bin/bash
# A phone without a phone: an AArch64 userland under qemu-user, whose TVM RPC server registers with a
# tracker of its own. Kernels run as real AArch64 code; what they take to run says nothing of a phone.
#   emulated_phone.sh start [--key KEY]   set up once, then start; the key is emulated-phone
#   emulated_phone.sh stop                end every process of it
#   emulated_phone.sh status              0 running, 1 started and broken, 3 stopped
#   ARMMETER_HOME   the arm64 root, shared with scripts/armmeter (default: ~/.cache/rt3d-armmeter)
#   PHONE_STATE     addresses, logs and process ids (default: ~/.cache/rt3d-phone)
#   PYTHON          the python3 that rt3d-tvm is installed for (default: .venv's, else python3)
# Tracker and server listen on 127.0.0.1, on the first free ports from 9190 and 9090 on. The first
# start installs Debian packages and unpacks the root, which needs root itself; later ones do not.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}
arm64=${ARMMETER_HOME:-$cache/rt3d-armmeter}
state=${PHONE_STATE:-$cache/rt3d-phone}
repository=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$repository/.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
# Seconds for the tracker to start and for the device to register, on a very busy machine.
patience=600

usage() { sed -n '2,12s/^# \?//p' "$0" >&2; exit 2; }
die() { echo "emulated_phone: $*" >&2; exit 1; }
rt3d() { "$python" -m rt3d_tvm.cli "$@"; }

# --- processes: each leads a process group, and is known by its id and the time it started ---------
started() { awk '{ sub(/^.*\) /, ""); print $20 }' "/proc/$1/stat" 2>/dev/null; }
# launch NAME COMMAND...
launch() {
    local name=$1; shift
    setsid "$@" >"$state/$name.log" 2>&1 </dev/null 9>&- &
    echo "$! $(started $!)" >"$state/$name.pid"
}
# alive NAME
alive() {
    local pid since
    read -r pid since 2>/dev/null <"$state/$1.pid" && [ -n "$since" ] && [ "$(started "$pid")" = "$since" ]
}
# end NAME: its leader in good order, then whatever is left of its group, sessions included
end() {
    local pid since
    if read -r pid since 2>/dev/null <"$state/$1.pid"; then
        if alive "$1"; then
            kill -TERM "$pid" 2>/dev/null || true
            for _ in $(seq 50); do alive "$1" || break; sleep 0.1; done
        fi
        # The number stays the group's own for as long as one of its processes lives.
        [ -e "/proc/$pid" ] && ! alive "$1" || kill -KILL -- "-$pid" 2>/dev/null || true
    fi
    rm -f "$state/$1.pid"
}

# --- the phone's own /sys and /proc over the shared root ------------------------------------------
make_root() {
    local root=$state/root last name cpus
    last=$(($(getconf _NPROCESSORS_ONLN) - 1))
    rm -rf "$root"
    mkdir -p "$root/proc"
    # Only what is the system's: every other path is to be this machine's in the guest as well.
    for name in bin etc lib sbin usr; do
        [ ! -e "$arm64/root/$name" ] || ln -s "$arm64/root/$name" "$root/$name"
    done
    ln -s "$arm64/root/proc/cpuinfo" "$root/proc/cpuinfo"
    cpus=$root/sys/devices/system/cpu
    mkdir -p "$cpus/cpufreq/policy0" "$root/sys/class/thermal/thermal_zone0"
    for name in present possible online; do seq -s , 0 "$last" >"$cpus/$name"; done
    # A Cortex-A77's capabilities: AdvSIMD (1), half precision (A), dot product (14).
    echo "cpu:type:aarch64:feature:,0000,0001,0002,0003,0004,0005,0006,0007,0008,0009,000A,000B,000C,000F,0010,0014" \
        >"$cpus/modalias"
    seq -s ' ' 0 "$last" >"$cpus/cpufreq/policy0/related_cpus"
    echo 2840000 >"$cpus/cpufreq/policy0/cpuinfo_max_freq"
    echo emulated >"$cpus/cpufreq/policy0/scaling_governor"
    echo cpu-emulated >"$root/sys/class/thermal/thermal_zone0/type"
    echo 36500 >"$root/sys/class/thermal/thermal_zone0/temp"
}

# The guest, again and again: its server outlives the sessions, this loop the server.
supervise() {
    ulimit -c 0  # a kernel that crashes is an answer, not a reason to fill the disk
    cd "$state/work"
    # The runtime alone, as on a phone; it also starts in half the time.
    export PYTHONPATH=$arm64/site:$repository TVM_USE_RUNTIME_LIB=1
    while :; do
        qemu-aarch64 -L "$state/root" "$arm64/root/usr/bin/python3.11" -m rt3d_tvm.cli \
            rpc-server --tracker "$1" --key "$2" || true
        echo "the guest ended; starting it again"
        sleep 1
    done
}

start() {
    local key=emulated-phone tracker
    while [ $# -gt 0 ]; do
        case $1 in --key) key=${2:?--key needs a name}; shift 2 ;; *) usage ;; esac
    done
    if status >/dev/null; then status; return; fi
    stop >/dev/null
    # Two checkouts may share the root; the second waits for the first.
    (exec 8>"$arm64.lock"; flock 8; "$repository/scripts/phone/arm64_root.sh" "$arm64" 8>&- 9>&-) ||
        die "the arm64 root could not be set up"
    command -v qemu-aarch64 >/dev/null || die "no qemu-aarch64 here"
    make_root
    launch tracker env TVM_USE_RUNTIME_LIB=1 "$python" -m rt3d_tvm.cli tracker
    for _ in $(seq $patience); do
        tracker=$(sed -n 's/^tracker: //p' "$state/tracker.log")
        [ -z "$tracker" ] && alive tracker || break
        sleep 1
    done
    [ -n "$tracker" ] || { tail -5 "$state/tracker.log" >&2; end tracker; die "no tracker started"; }
    echo "$tracker $key" >"$state/address"
    launch server "$0" supervise "$tracker" "$key"
    for _ in $(seq $((patience / 2))); do
        if rt3d remote list --tracker "$tracker" --key "$key" --wait 2 >/dev/null 2>&1; then
            status
            return
        fi
        alive tracker && alive server && ! grep -q "^the guest ended" "$state/server.log" || break
    done
    tail -5 "$state/server.log" >&2
    stop >/dev/null
    die "the device did not register"
}

stop() {
    end server
    end tracker
    rm -f "$state/address"
    rm -rf "$state/root" "$state/work"/*
    echo "stopped"
}

status() {
    local tracker key broken=
    if [ ! -e "$state/address" ] && ! alive tracker && ! alive server; then echo "stopped"; return 3; fi
    read -r tracker key <"$state/address" || { echo "broken: no address"; return 1; }
    alive tracker || broken="$broken, the tracker is dead"
    alive server || broken="$broken, the server is dead"
    [ -n "$broken" ] || rt3d remote list --tracker "$tracker" --key "$key" >/dev/null 2>&1 ||
        broken=", no device is registered under $key"
    [ -z "$broken" ] || { echo "broken${broken/,/:}"; return 1; }
    echo "running: --tracker $tracker --key $key"
}

# One start or stop at a time.
locked() {
    mkdir -p "$state/work" "$(dirname "$arm64")"
    exec 9>"$state/lock"
    flock 9
    "$@"
}

case ${1:-} in
    start) locked "$@" ;;
    supervise) "$@" ;;
    stop) [ $# = 1 ] || usage; locked stop ;;
    status) [ $# = 1 ] || usage; status ;;
    *) usage ;;
esac
