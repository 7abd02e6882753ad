#!/usr/bin/env bash
# Measures qcowfs beside everything else that shows a chain of backups as a disk, on the same work,
# in turns: qemu-storage-daemon's FUSE export, qemu-nbd with nbdfuse, qcowmount, and the raw file;
# and virtnbdbackup's streams beside its own nbdkit plugin, by streams.sh.
#
# Installs the peers (Debian, Ubuntu), makes the data, measures, and prints a table of medians and of
# ratios. Every single value goes to peers.csv, a plot of the ratios to peers.svg.
# Needs root and 30 GB where the scratch folder is. Takes about an hour and a half.
#
#   QCOWFS_BENCH_DIR=DIR      where the scratch folder is made (default: $TMPDIR or /var/tmp)
#   QCOWFS_BENCH_OUT=DIR      where the results go (default: the working directory)
#   QCOWFS_BENCH_RUNS=5       runs of each work
#   QCOWFS_BENCH_MIB=2048     size of the disks
#   QCOWFS_BENCH_SECONDS=2    time of each random read
#   QCOWFS_BENCH_DEPTHS="0 1 8 32 128 365"  increments that the chains have
#   QCOWFS_BENCH_DISKS="100 1000"  disks of 100 checkpoints in a source
#   QCOWFS_BENCH_ONLY=WORDS   only groups of work whose names hold one of these words:
#                             chain own first packed raw sparse files scale memory streams
#   QCOWFS_NO_INSTALL=1       install nothing; a missing tool is an error
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

[[ $(id -u) -eq 0 ]] || die "please run as root"
# qemu-system-common takes qemu-utils of another version away: what it gives comes first.
need qemu-storage-daemon=qemu-system-common
need qemu-img=qemu-utils qemu-nbd=qemu-utils nbdfuse=libnbd-bin qcowmount=libqcow-utils fio=fio \
    fusermount3=fuse3 mkfs.ext4=e2fsprogs tar=tar python3=python3
need_cargo
need_fuse

say "building qcowfs"
(cd "$repo" && cargo build --release --locked --quiet)
qcowfs=${CARGO_TARGET_DIR:-$repo/target}/release/qcowfs

out=$(realpath -m "${QCOWFS_BENCH_OUT:-.}")
work=$(mktemp -d "${QCOWFS_BENCH_DIR:-${TMPDIR:-/var/tmp}}/qcowfs-peers.XXXXXX")
cleanup() {
    local code=$? mount
    trap - EXIT INT TERM HUP
    # What peers.py left behind when it was killed.
    while read -r mount; do
        umount -l "$mount" || true
    done < <(awk -v work="$work/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | tac)
    pkill -KILL -f -- "$work/" || true
    rm -rf --one-file-system "$work" || true
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir -p "$out"
cd "$work"
python3 "$here/peers.py" "$qcowfs" "$out"
