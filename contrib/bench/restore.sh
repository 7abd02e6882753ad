#!/usr/bin/env bash
# Measures `qcowfs restore` beside `qemu-img convert -O raw` and cp: a disk without a chain and one of
# 128 increments, to a tmpfs; and to an XFS with reflinks that has the backups, too.
#
# All subjects do the same work in turns. A table of medians goes to standard output, every single
# value to the CSV. Needs root (it mounts a tmpfs and an XFS of its own), 12 GB where the scratch folder
# is, and 8 GB of free memory beside. Takes some five minutes.
#
#   QCOWFS_BENCH_DIR=DIR      where the scratch folder is made (default: $TMPDIR or /var/tmp)
#   QCOWFS_BENCH_CSV=FILE     where the values go (default: restore.csv in the working directory)
#   QCOWFS_BENCH_RUNS=5       runs of each work
#   QCOWFS_BENCH_MIB=2048     size of the disk
#   QCOWFS_NO_INSTALL=1       install nothing; a missing tool is an error
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

runs=${QCOWFS_BENCH_RUNS:-5}
mib=${QCOWFS_BENCH_MIB:-2048}
csv=$(realpath -m "${QCOWFS_BENCH_CSV:-restore.csv}")
increments=128
clusters=64

[[ $(id -u) -eq 0 ]] || die "please run as root"
need qemu-img=qemu-utils qemu-io=qemu-utils mkfs.xfs=xfsprogs python3=python3
need_cargo

say "building qcowfs"
(cd "$repo" && cargo build --release --locked --quiet)
qcowfs=${CARGO_TARGET_DIR:-$repo/target}/release/qcowfs

work=$(mktemp -d "${QCOWFS_BENCH_DIR:-${TMPDIR:-/var/tmp}}/qcowfs-bench.XXXXXX")
mounts=()
cleanup() {
    local code=$? mount
    trap - EXIT INT TERM HUP
    for mount in "${mounts[@]}"; do
        mountpoint -q "$mount" && { timeout 60 umount "$mount" || umount -l "$mount" || true; }
    done
    rm -rf --one-file-system "$work" || true
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
cd "$work"
: >"$csv"

say "making $mib MiB of random data with $increments increments of $clusters clusters of 64 KiB"
timeout 900 python3 "$here/make_data.py" chain "$mib" "$increments" "$clusters"
rm -r streams

mkdir tmpfs xfs
mounts+=("$work/tmpfs" "$work/xfs")
mount -t tmpfs -o "size=$((mib + mib / 4))m" none tmpfs
truncate -s "$((mib * 4))M" xfs.img
mkfs.xfs -q -m reflink=1 xfs.img
mount -o loop xfs.img xfs
cp -r qcow2 xfs/qcow2
sync

record() { printf '%s,%s,%s,%s\n' "$1" "$2" "$3" "$4" | tee -a "$csv" >&2; }

# run WORK SUBJECT TARGET COMMAND...: MB/s of the disk and milliseconds of processor per GiB.
run() {
    local work=$1 subject=$2 target=$3 real user system
    shift 3
    rm -f "$target"
    sync -f "${target%/*}"
    # What the host of a virtual machine has to give first is not what is measured.
    python3 "$here/timing.py" $((mib * 2 + mib / 4))
    TIMEFORMAT='%3R %3U %3S'
    read -r real user system < <({ time timeout 300 "$@" >/dev/null; } 2>&1)
    [[ $(stat -c %s "$target") -eq $((mib << 20)) ]] || die "$subject did not write $target"
    # Milliseconds, without the point.
    record "$work" "$subject" MB/s "$((mib * 1048576 / 1000 / (10#${real/./} + 1)))"
    record "$work: processor" "$subject" ms/GiB "$(((10#${user/./} + 10#${system/./}) * 1024 / mib))"
}

say "comparing what they write"
for depth in 0 $increments; do
    "$qcowfs" restore -q qcow2 "disk.$depth.qcow2" tmpfs/disk.raw
    qemu-img compare -q -f raw -F qcow2 tmpfs/disk.raw "qcow2/disk.$depth.qcow2" ||
        die "depth $depth: not what qemu-img reads"
    rm tmpfs/disk.raw
done
"$qcowfs" restore xfs/qcow2 "disk.$increments.qcow2" xfs/disk.raw | tee clone.txt
grep -q '^ *cloned' clone.txt || die "nothing was cloned on XFS"
qemu-img compare -q -f raw -F qcow2 xfs/disk.raw "qcow2/disk.$increments.qcow2" || die "XFS: differs"

# once PLACE SOURCE DEPTH SUBJECT: one subject writes the disk of a depth to a place.
once() {
    local place=$1 source=$2 depth=$3 target=$1/disk.raw words
    case $4 in
        restore) words=("$qcowfs" restore -q "$source" "disk.$depth.qcow2" "$target") ;;
        qemu-img) words=(qemu-img convert -O raw "$source/disk.$depth.qcow2" "$target") ;;
        # What it takes to copy the bytes of a file, with no format at all.
        cp) words=(cp plain "$target") ;;
    esac
    run "to $place at depth $depth" "$4" "$target" "${words[@]}"
    rm "$target"
}

say "measuring"
qemu-img convert -O raw qcow2/disk.0.qcow2 plain
cp plain tmpfs/disk.raw
rm tmpfs/disk.raw xfs/disk.raw
for ((n = 1; n <= runs; n++)); do
    subjects=(restore qemu-img)
    # What comes first changes: what ran before must not always favour the same one.
    ((n % 2)) || subjects=(qemu-img restore)
    for depth in 0 $increments; do
        for subject in "${subjects[@]}"; do
            once tmpfs qcow2 "$depth" "$subject"
            once xfs xfs/qcow2 "$depth" "$subject"
        done
    done
    once tmpfs qcow2 0 cp
done

say ""
say "$(date -u +%F), $(nproc) cores, $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)," \
    "Linux $(uname -r), $mib MiB, $increments increments; load before: $(cut -d' ' -f1-3 /proc/loadavg)"
say ""
python3 "$here/table.py" "$csv" restore,qemu-img,cp
