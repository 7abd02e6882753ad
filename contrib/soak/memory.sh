#!/usr/bin/env bash
# Does the daemon stay within 128 MiB? It serves the disk whose map is the largest there is, a 1 TiB
# image with every cluster elsewhere (128 MiB of tables alone), to readers at random, in a control
# group of that size; then what was charged is printed, and whether the kernel killed anything.
#
#   memory.sh [SECONDS [GIB [READERS]]]     60 seconds, 1024 GiB, 8 readers if not given
#
#   QCOWFS_SOAK_LIMIT_MIB=128     memory of the control group
#   QCOWFS_SOAK_OPTIONS=...       for `mount -o`
# and those of contrib/soak/lib.sh. Needs root, for the control group; exit code 77 where there can
# be none.
#
# The pages of the backups that the kernel keeps in memory are charged to the group, too; it takes
# them back when the daemon needs the room. So the peak is the limit, sooner or later: what counts is
# that nothing was killed, and the daemon's own memory (`anon`).
set -euo pipefail

# shellcheck source=contrib/soak/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

seconds=${1:-60}
gib=${2:-1024}
readers=${3:-8}
limit=$((${QCOWFS_SOAK_LIMIT_MIB:-128} << 20))

group=
version=
for_group() {
    local root=$1
    group=$root/qcowfs-soak.$$
    mkdir "$group" 2>/dev/null || return 1
    # Of version 2 the parent has to hand the controller down first.
    if [[ ! -e $group/memory.max && -e $root/cgroup.subtree_control ]]; then
        { echo +memory >"$root/cgroup.subtree_control"; } 2>/dev/null || true
    fi
    if [[ -e $group/memory.max ]] && echo "$limit" 2>/dev/null >"$group/memory.max"; then
        version=2
        echo 0 2>/dev/null >"$group/memory.swap.max" || true
    elif [[ -e $group/memory.limit_in_bytes ]] &&
        echo "$limit" 2>/dev/null >"$group/memory.limit_in_bytes"; then
        version=1
    else
        rmdir "$group"
        return 1
    fi
}
clean_more() { [[ -z $version ]] || rmdir "$group"; }

[[ $(id -u) -eq 0 ]] || { say "no control group: not root"; exit 77; }
for_group /sys/fs/cgroup || for_group /sys/fs/cgroup/memory ||
    { say "no control group of memory can be made beneath /sys/fs/cgroup"; exit 77; }

python3 "$here/fragmented.py" make "$source/disk.qcow2" "$gib"
options=(-f)
[[ -z ${QCOWFS_SOAK_OPTIONS:-} ]] || options+=(-o "$QCOWFS_SOAK_OPTIONS")
(echo "$BASHPID" >"$group/cgroup.procs" && exec "$qcowfs" mount "${options[@]}" "$source" "$view") \
    >"$work/log" 2>&1 &
daemon=$!
wait_for_view
disk=$view/disk.qcow2/latest/disk.img
code=0
timeout $((seconds + 120)) python3 "$here/fragmented.py" read "$disk" "$gib" "$seconds" \
    "$readers" || code=$?

# Still there, and still answering.
kill -0 "$daemon" 2>/dev/null || { say "the daemon is gone: $(tail -n 3 "$work/log")"; code=1; }
timeout 20 stat "$disk" >/dev/null || { say "the view does not answer"; code=1; }
kill -0 "$daemon" 2>/dev/null && say "daemon: $(daemon_memory)"
if [[ $version = 2 ]]; then
    peak=$(cat "$group/memory.peak" 2>/dev/null || echo unknown)
    kills=$(awk '$1 == "oom_kill" { print $2 }' "$group/memory.events")
    anon=$(awk '$1 == "anon" { print $2 }' "$group/memory.stat")
else
    peak=$(cat "$group/memory.max_usage_in_bytes")
    kills=$(awk '$1 == "oom_kill" { print $2 }' "$group/memory.oom_control")
    anon=$(awk '$1 == "rss" { print $2 }' "$group/memory.stat")
fi
say "group: limit=$limit peak=$peak anon=$anon oom_kills=$kills"
[[ $code -eq 0 && $kills = 0 ]]
