#!/usr/bin/env bash
# Tries the parsers with bytes that nobody ever wrote: run.sh [TARGET] [SECONDS]
#
# TARGET is one of these, stream unless said otherwise; run.sh --list lists them:
#   header   the header and the tables of a qcow2 image
#   image    a whole qcow2 image with its snapshots: reads, data and holes, the check
#   chain    two images and a sidecar in a folder, put together by the program's rules
#   stream   a virtnbdbackup stream
#   names    names, qcowfs.toml, checkpoint XML, and other texts
#   partitions  the partition tables of a disk
# 60 seconds unless said otherwise. Arguments after these go to libFuzzer. A finding is kept in
# contrib/fuzz/artifacts/TARGET, and the exit code is not 0.
#
#   QCOWFS_FUZZ_SANITIZER=address   with AddressSanitizer: slower, and it takes the compiler's
#                                   unstable flags, which RUSTC_BOOTSTRAP=1 opens
#   QCOWFS_NO_INSTALL=1             install nothing; a missing tool is an error
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

targets=(header image chain stream names partitions)
target=${1:-stream}
if [[ $target = --list ]]; then
    printf '%s\n' "${targets[@]}"
    exit
fi
seconds=${2:-60}
shift $(($# < 2 ? $# : 2))
case $target in
header | image) longest=65536 ;;
chain) longest=131072 ;;
stream) longest=16384 ;;
names) longest=8192 ;;
partitions) longest=65536 ;;
*) die "no target $target: ${targets[*]}" ;;
esac

need_cargo
need lz4=lz4 zstd=zstd tar=tar python3=python3 qemu-img=qemu-utils qemu-io=qemu-utils g++=g++
if ! command -v cargo-fuzz >/dev/null; then
    [[ ${QCOWFS_NO_INSTALL:-0} != 1 ]] || die "missing, and QCOWFS_NO_INSTALL=1 is set: cargo-fuzz"
    say "installing cargo-fuzz"
    cargo install --locked cargo-fuzz
fi

[[ -d $here/seeds/$target ]] || python3 "$here/seeds.py" "$repo/tests/data" "$here/seeds"
if [[ ! -d $here/corpus/$target ]]; then
    mkdir -p "$here/corpus/$target"
    tar --zstd -xf "$here/saved/$target.tar.zst" -C "$here/corpus/$target"
fi
# What a crash leaves behind of the folders that the chains lie in; in memory where it can be.
scratch=$(mktemp -d -p "$([[ -d /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" qcowfs-fuzz.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
export QCOWFS_FUZZ_SCRATCH=$scratch
options=()
[[ ! -e $here/$target.dict ]] || options+=("-dict=$here/$target.dict")
# The stable compiler does without a sanitizer: memory is safe but in the unpackers.
sanitizer=${QCOWFS_FUZZ_SANITIZER:-none}
[[ $sanitizer = none ]] || export RUSTC_BOOTSTRAP=1
cd "$repo/contrib"
cargo fuzz run --fuzz-dir "$here" --sanitizer "$sanitizer" "$target" \
    "$here/corpus/$target" "$here/seeds/$target" -- \
    -max_total_time="$seconds" -max_len="$longest" -timeout=20 -rss_limit_mb=2048 \
    -print_final_stats=1 "${options[@]}" "$@"
