# shellcheck shell=bash
# What the soak scripts share: a scratch folder, the program, and a mount that goes away.
#
#   QCOWFS_SOAK_DIR=DIR           where the scratch folder is made (default: $TMPDIR or /var/tmp)
#   QCOWFS_SOAK_PROGRAM=FILE      the qcowfs to use; built from here if not given
#   QCOWFS_SOAK_MOUNT_POINT=DIR   where to mount (default: in the scratch folder)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

qcowfs=${QCOWFS_SOAK_PROGRAM:-}
if [[ -z $qcowfs ]]; then
    need_cargo
    say "building qcowfs"
    (cd "$repo" && cargo build --release --locked --quiet)
    qcowfs=${CARGO_TARGET_DIR:-$repo/target}/release/qcowfs
fi
need_fuse

work=$(mktemp -d "${QCOWFS_SOAK_DIR:-${TMPDIR:-/var/tmp}}/qcowfs-soak.XXXXXX")
source=$work/source
view=${QCOWFS_SOAK_MOUNT_POINT:-$work/view}
mkdir -p "$source" "$view"
daemon=

cleanup() {
    local code=$?
    trap - EXIT INT TERM HUP
    if [[ -n $daemon ]]; then
        # Not by asking the mount: one whose daemon is gone does not answer.
        if grep -qF " $view " /proc/self/mountinfo; then
            timeout 20 "$qcowfs" umount "$view" || umount -l "$view" || true
        fi
        timeout 10 tail --pid="$daemon" -f /dev/null || kill -KILL "$daemon" 2>/dev/null || true
    fi
    clean_more || true
    rm -rf --one-file-system "$work" || true
    exit "$code"
}
clean_more() { :; }
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# Waits until the view answers; the daemon, whose process is $daemon, writes to $work/log.
wait_for_view() {
    local _
    for _ in $(seq 300); do
        mountpoint -q "$view" && return 0
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    die "the view does not come: $(cat "$work/log")"
}

# The daemon's memory, KiB: at most so far, and now.
daemon_memory() {
    awk '/^VmHWM|^VmRSS/ { printf "%s%s KiB", sep, $2; sep = " at most, now " } END { print "" }' \
        "/proc/$daemon/status"
}
