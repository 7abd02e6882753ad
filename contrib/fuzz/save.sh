#!/usr/bin/env bash
# Keeps the least of a target's corpus that reaches as many places of the code as all of it, in
# contrib/fuzz/saved/TARGET.tar.zst, for tests/fuzz_corpus.rs: save.sh TARGET
#
#   QCOWFS_FUZZ_BINARY   the target, built already (cargo fuzz build)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=contrib/lib.sh
. "$here/../lib.sh"

target=${1:?which target?}
binary=${QCOWFS_FUZZ_BINARY:-$here/target/x86_64-unknown-linux-gnu/release/$target}
[[ -x $binary ]] || die "no $binary: run.sh builds it"
need zstd=zstd tar=tar
work=$(mktemp -d "${TMPDIR:-/tmp}/qcowfs-save.XXXXXX")
trap 'rm -rf "$work"' EXIT
export QCOWFS_FUZZ_SCRATCH=$work

# Not how often a place is reached, which would keep many more.
mkdir "$work/least" "$here/saved" 2>/dev/null || true
"$binary" -set_cover_merge=1 -use_counters=0 -rss_limit_mb=2048 -timeout=20 \
    "$work/least" "$here/corpus/$target" "$here/seeds/$target" 2>"$work/log" ||
    die "the merge failed: $(tail -n 5 "$work/log")"
# The same inputs give the same archive.
tar -C "$work/least" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -cf - . |
    zstd -19 -q -f -o "$here/saved/$target.tar.zst"
say "$target: $(find "$work/least" -type f | wc -l) inputs, $(du -bs "$work/least" | cut -f1) bytes, \
$(stat -c %s "$here/saved/$target.tar.zst") packed"
