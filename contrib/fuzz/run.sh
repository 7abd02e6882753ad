#!/usr/bin/env bash
# Tries the parsers with bytes that nobody ever wrote: run.sh [TARGET] [SECONDS]
#
# TARGET is stream (default) or qcow2; 60 seconds unless said otherwise. Arguments after these go
# to libFuzzer. A finding is kept in contrib/fuzz/artifacts/TARGET, and the exit code is not 0.
#
#   QCOWFS_FUZZ_SANITIZER=address   with AddressSanitizer: slower, and it takes the compiler's
#                                   unstable flags, which RUSTC_BOOTSTRAP=1 opens
#   QCOWFS_NO_INSTALL=1             install nothing; a missing tool is an error
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

target=${1:-stream}
seconds=${2:-60}
shift $(($# < 2 ? $# : 2))
case $target in
stream) longest=16384 ;;
qcow2) longest=65536 ;;
*) die "no target $target: stream or qcow2" ;;
esac

need_cargo
need lz4=lz4 zstd=zstd tar=tar python3=python3 qemu-img=qemu-utils g++=g++
if ! command -v cargo-fuzz >/dev/null; then
    [[ ${QCOWFS_NO_INSTALL:-0} != 1 ]] || die "missing, and QCOWFS_NO_INSTALL=1 is set: cargo-fuzz"
    say "installing cargo-fuzz"
    cargo install --locked cargo-fuzz
fi

[[ -d $here/seeds/$target ]] || python3 "$here/seeds.py" "$repo/tests/data" "$here/seeds"
mkdir -p "$here/corpus/$target"
# The stable compiler does without a sanitizer: memory is safe but in the unpackers.
sanitizer=${QCOWFS_FUZZ_SANITIZER:-none}
[[ $sanitizer = none ]] || export RUSTC_BOOTSTRAP=1
cd "$repo/contrib"
exec cargo fuzz run --fuzz-dir "$here" --sanitizer "$sanitizer" "$target" \
    "$here/corpus/$target" "$here/seeds/$target" -- \
    -max_total_time="$seconds" -max_len="$longest" -timeout=20 -rss_limit_mb=2048 \
    -print_final_stats=1 "$@"
