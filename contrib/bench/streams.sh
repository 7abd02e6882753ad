#!/usr/bin/env bash
# Measures reads of virtnbdbackup's streams: through us, the same data as qcow2 through us, and the
# streams through virtnbdbackup's own nbdkit plugin and nbdfuse; compressed ones beside `lz4 -d`.
#
# All subjects do the same work in turns. A table of medians goes to standard output, every single
# value to the CSV. Needs root (for the peer's FUSE mount and the read-ahead that root's mounts get)
# and 10 GB where the scratch folder is. Takes some ten minutes.
#
#   QCOWFS_BENCH_DIR=DIR      where the scratch folder is made (default: $TMPDIR or /var/tmp)
#   QCOWFS_BENCH_CSV=FILE     where the values go (default: streams.csv in the working directory)
#   QCOWFS_BENCH_RUNS=5       runs of each work; the peer's slow ones get 3 at most
#   QCOWFS_BENCH_MIB=2048     size of the disks
#   QCOWFS_NO_INSTALL=1       install nothing; a missing tool is an error
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

runs=${QCOWFS_BENCH_RUNS:-5}
slow_runs=$((runs < 3 ? runs : 3))
mib=${QCOWFS_BENCH_MIB:-2048}
csv=$(realpath -m "${QCOWFS_BENCH_CSV:-streams.csv}")
increments=32
clusters=64
plugin=/usr/bin/virtnbd-nbdkit-plugin
# Debian's own, which has the tool's modules.
python=/usr/bin/python3

[[ $(id -u) -eq 0 ]] || die "please run as root"
need virtnbdbackup=virtnbdbackup nbdkit=nbdkit nbdfuse=libnbd-bin lz4=lz4 fio=fio \
    qemu-img=qemu-utils qemu-io=qemu-utils fusermount3=fuse3 tar=tar pgrep=procps
if ! nbdkit python --version >/dev/null 2>&1; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        nbdkit-plugin-python >/dev/null
fi
[[ -f $plugin ]] || die "no $plugin (package virtnbdbackup)"
need_cargo
need_fuse

say "building qcowfs"
(cd "$repo" && cargo build --release --locked --quiet)
qcowfs=${CARGO_TARGET_DIR:-$repo/target}/release/qcowfs

work=$(mktemp -d "${QCOWFS_BENCH_DIR:-${TMPDIR:-/var/tmp}}/qcowfs-bench.XXXXXX")
mounts=()
pids=()
cleanup() {
    local code=$? mount pid
    trap - EXIT INT TERM HUP
    for mount in "${mounts[@]}"; do
        mountpoint -q "$mount" && { timeout 20 umount "$mount" || umount -l "$mount" || true; }
    done
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        timeout 10 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
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
timeout 900 "$python" "$here/make_data.py" chain "$mib" "$increments" "$clusters"
say "making $mib MiB of files, packed as virtnbdbackup does"
# head closes the pipe when it has enough.
(set +o pipefail; timeout 300 tar -c --ignore-failed-read --one-file-system -C / usr 2>/dev/null |
    head -c "${mib}M" >plain)
[[ $(stat -c %s plain) -eq $((mib << 20)) ]] || die "/usr has less than $mib MiB"
timeout 600 "$python" "$here/make_data.py" packed "$mib" plain

# mount_ours NAME: the folder NAME through qcowfs, at view.NAME.
mount_ours() {
    mkdir "view.$1"
    mounts+=("$work/view.$1")
    timeout 60 "$qcowfs" mount "$work/$1" "$work/view.$1"
}

wait_for() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        [[ -e $1 ]] && return
        sleep 0.1
    done
    die "$1 did not appear"
}

# mount_peer NAME BLOCKSIZE: as virtnbdmap does, with nbdfuse instead of a kernel's nbd device.
mount_peer() {
    local name=$1 block=$2
    mkdir "$name"
    nbdkit --foreground --unix "$work/$name.sock" --filter=blocksize --filter=cow python "$plugin" \
        "maxlen=$block" blockmap="$work/blocks.json" disk="$work/streams/vda.full.data" -t 1 \
        >/dev/null 2>"$name.log" &
    pids+=($!)
    wait_for "$name.sock"
    mounts+=("$work/$name")
    nbdfuse "$name/disk.img" --unix "$work/$name.sock" >/dev/null 2>>"$name.log" &
    pids+=($!)
    wait_for "$name/disk.img"
    timeout 300 "$python" "$here/block_map.py" replay blocks.json "$name/disk.img"
}

files=(streams/vda.full.data)
for ((n = 1; n <= increments; n++)); do files+=("streams/vda.inc.virtnbdbackup.$n.data"); done
"$python" "$here/block_map.py" list "${files[@]}" >blocks.json

say "mounting"
for name in streams qcow2 packed; do mount_ours "$name"; done
mount_peer peer 4096
mount_peer peer64 65536
newest() { timeout 60 find "$1" -path "*/$2/disk.img" | head -n 1; }
declare -A image=(
    [streams]=$(newest view.streams "virtnbdbackup.$increments")
    [qcow2]=$(newest view.qcow2 "disk.$increments*")
    [packed streams]=$(newest view.packed virtnbdbackup.0)
    [peer]=peer/disk.img
    [peer -b 64k]=peer64/disk.img
)
for subject in "${!image[@]}"; do
    [[ -f ${image[$subject]} ]] || die "$subject: no image of the newest checkpoint"
done

say "comparing what they show"
timeout 300 cmp "${image[streams]}" "${image[qcow2]}" || die "streams and qcow2 differ"
timeout 300 cmp "${image[packed streams]}" plain || die "the packed stream is not what was packed"
for peer in peer "peer -b 64k"; do
    timeout 300 cmp -n $((64 << 20)) "${image[$peer]}" "${image[streams]}" ||
        die "$peer and streams differ"
done
rm plain

# The daemon of each of our mounts: its processor time tells what the clock does not where other
# programs run as well.
declare -A daemon
for name in streams qcow2 packed; do
    pid=$(pgrep -f -- "--background-child mount $work/$name ") || die "no daemon serves $name"
    daemon[$name]=$pid
done
daemon["packed streams"]=${daemon[packed]}

# cpu SUBJECT: milliseconds that our daemon has run; 0 for others.
cpu() {
    local pid=${daemon[$1]:-}
    if [[ -z $pid ]]; then
        echo 0
    else
        awk -v tick="$(getconf CLK_TCK)" '{ print int(($14 + $15) * 1000 / tick) }' "/proc/$pid/stat"
    fi
}

record() { printf '%s,%s,%s,%s\n' "$1" "$2" "$3" "$4" | tee -a "$csv" >&2; }

# Drops what the kernel has of an image, so that its file system is asked again.
forget() { dd if="$1" iflag=nocache count=0 status=none; }

# read_all WORK SUBJECT MIB FLAG: MB/s of reading the first MIB in order.
read_all() {
    local start end before flags=()
    [[ -z $4 ]] || flags=("iflag=$4")
    forget "${image[$2]}"
    # What the host of a virtual machine has to give first is not what is measured.
    "$python" "$here/timing.py" $(($3 + $3 / 4))
    before=$(cpu "$2")
    start=$(date +%s%N)
    timeout 300 dd if="${image[$2]}" of=/dev/null bs=1M count="$3" "${flags[@]}" status=none
    end=$(date +%s%N)
    record "$1" "$2" MB/s "$(($3 * 1048576 * 1000 / (end - start)))"
    [[ -z ${daemon[$2]:-} ]] ||
        record "$1: processor" "$2" ms/GiB "$((($(cpu "$2") - before) * 1024 / $3))"
}

# read_at_random WORK SUBJECT DEPTH SECONDS: reads of 4 KiB per second, past the kernel's cache.
read_at_random() {
    local iops before
    before=$(cpu "$2")
    iops=$(timeout 120 fio --name=r --filename="${image[$2]}" --rw=randread --bs=4k --direct=1 \
        --ioengine=libaio --iodepth="$3" --readonly --time_based --runtime="$4" \
        --size="${mib}M" --output-format=terse --terse-version=3 | cut -d';' -f8)
    record "$1" "$2" IOPS "$iops"
    [[ -z ${daemon[$2]:-} ]] ||
        record "$1: processor" "$2" ns/read "$((($(cpu "$2") - before) * 1000000 / (iops * $4)))"
}

unpack() {
    local real user system
    TIMEFORMAT='%3R %3U %3S'
    read -r real user system < <({ time timeout 300 lz4 -d -q -c payload.lz4 >/dev/null; } 2>&1)
    # Milliseconds, without the point.
    record "$1" "lz4 -d" MB/s "$((mib * 1048576 / 1000 / 10#${real/./}))"
    record "$1: processor" "lz4 -d" ms/GiB "$(((10#${user/./} + 10#${system/./}) * 1024 / mib))"
}

say "measuring"
# The peer's reads in order take minutes: a part of the disk tells its speed.
peer_mib=$((mib / 8))
for ((run = 1; run <= runs; run++)); do
    subjects=(streams qcow2)
    # What comes first changes: what ran before must not always favour the same one.
    ((run % 2)) || subjects=(qcow2 streams)
    ((run > slow_runs)) || subjects+=(peer "peer -b 64k")
    for subject in "${subjects[@]}"; do
        length=$mib
        [[ $subject != peer* ]] || length=$peer_mib
        read_all "sequential 1 MiB O_DIRECT" "$subject" "$length" direct
    done
    for subject in "${subjects[@]}"; do
        length=$mib
        [[ $subject != peer* ]] || length=$peer_mib
        read_all "sequential 1 MiB buffered" "$subject" "$length" ""
    done
    for depth in 1 16; do
        for subject in "${subjects[@]}"; do
            read_at_random "random 4 KiB depth $depth" "$subject" "$depth" 3
        done
    done
    for way in "O_DIRECT:direct" "buffered:"; do
        read_all "packed: sequential 1 MiB ${way%%:*}" "packed streams" "$mib" "${way#*:}"
        unpack "packed: sequential 1 MiB ${way%%:*}"
    done
done

say ""
say "$(date -u +%F), $(nproc) cores, $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)," \
    "Linux $(uname -r), $mib MiB, $increments increments;" \
    "packed to $((100 * $(stat -c %s payload.lz4) / (mib << 20))) %"
say ""
"$python" "$here/table.py" "$csv" "streams,qcow2,peer,peer -b 64k" "packed streams,lz4 -d"
