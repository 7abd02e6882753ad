#!/usr/bin/env bash
# Reads many checkpoints by many readers for a while, and compares every byte with raw copies that
# qemu-img made of them: buffered, O_DIRECT, mmap, SEEK_DATA and SEEK_HOLE.
#
#   soak.sh [SECONDS [READERS [CHECKPOINTS [MIB]]]]     600 seconds, 16 readers, 100 checkpoints of
#                                                       32 MiB if not given
#
#   QCOWFS_SOAK_OPTIONS=...       for `mount -o`
# and those of contrib/soak/lib.sh. Needs up to CHECKPOINTS x MIB of disk. Exit code 0: no byte was
# wrong, and the daemon still answers.
set -euo pipefail

# shellcheck source=contrib/soak/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need qemu-img=qemu-utils qemu-io=qemu-utils python3=python3

seconds=${1:-600}
readers=${2:-16}
checkpoints=${3:-100}
mib=${4:-32}

python3 "$here/soak.py" make "$source" "$work/models" "$checkpoints" "$mib"
options=(-f)
[[ -z ${QCOWFS_SOAK_OPTIONS:-} ]] || options+=(-o "$QCOWFS_SOAK_OPTIONS")
"$qcowfs" mount "${options[@]}" "$source" "$view" >"$work/log" 2>&1 &
daemon=$!
wait_for_view
say "daemon before: $(daemon_memory)"
code=0
timeout $((seconds + 120)) python3 "$here/soak.py" read "$view" "$work/models" "$seconds" "$readers" ||
    code=$?
kill -0 "$daemon" 2>/dev/null || { say "the daemon is gone: $(tail -n 3 "$work/log")"; exit 1; }
timeout 20 stat "$view" >/dev/null || { say "the view does not answer"; code=1; }
say "daemon after: $(daemon_memory)"
exit "$code"
