#!/usr/bin/env bash
# Shows what qcowfs is for, on backups made by a real tool: mounts them, loop-mounts a disk as it
# was before and after a change, and prints a file that changed.
#
# Installs what is missing on Debian and Ubuntu, builds, and leaves nothing behind. Without root it
# mounts through fusermount3 and reads the file with debugfs.
#
#   QCOWFS_NO_INSTALL=1   install nothing; a missing tool is an error (no network is needed then,
#                         given that cargo has its crates)
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

need fusermount3=fuse3 debugfs=e2fsprogs zstd=zstd tar=tar mountpoint=util-linux
need_cargo
need_fuse

say "== building"
(cd "$repo" && cargo build --release --locked)
qcowfs=${CARGO_TARGET_DIR:-$repo/target}/release/qcowfs

work=$(mktemp -d "${TMPDIR:-/tmp}/qcowfs-demo.XXXXXX")
view=$work/view
before=$work/before
after=$work/after

cleanup() {
    local code=$? folder
    trap - EXIT INT TERM HUP
    for folder in "$before" "$after"; do
        mountpoint -q "$folder" 2>/dev/null && umount "$folder"
    done
    if mountpoint -q "$view" 2>/dev/null; then
        timeout 30 "$qcowfs" umount "$view" || fusermount3 -u -z "$view" || true
    fi
    # Whatever is still mounted must not be emptied.
    rm -rf --one-file-system "$work" || true
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir "$view" "$before" "$after"
tar --zstd -xSf "$repo/tests/data/qmpbackup-new.tar.zst" --no-same-owner -C "$work"
backups=$work/qmpbackup-new/backups

say "== the backups, as qmpbackup left them"
(cd "$backups" && find . -type f | LC_ALL=C sort)

say "== qcowfs ls $backups"
timeout 60 "$qcowfs" ls "$backups"

say "== qcowfs mount $backups $view"
timeout 60 "$qcowfs" mount "$backups" "$view"
disk=$view/vm-root.qcow2
timeout 60 ls -l "$disk"
timeout 60 ls -ls "$disk/latest/"

say "== what the newest restore point holds"
timeout 60 "$qcowfs" info "$backups" vm-root.qcow2@latest
full=$disk/FULL-1795161271/p1.img
latest=$disk/latest/p1.img

# read_file PARTITION FOLDER COPY: copies /system.log of an ext4.
read_file() {
    if [[ $way = loop ]]; then
        # noload: the journal is not replayed, nothing is written.
        timeout 60 mount -t ext4 -o ro,noload,loop "$1" "$2"
        timeout 60 cp "$2/system.log" "$3"
    else
        timeout 60 debugfs -R "dump /system.log $3" "$1" 2>/dev/null
    fi
    [[ -s $3 ]] || die "no /system.log was found in $1"
}

way=debugfs
if [[ $(id -u) -ne 0 ]]; then
    say "== not root: reading the files with debugfs"
elif losetup --find >/dev/null 2>&1; then
    say "== loop-mounting the first partition of two checkpoints"
    way=loop
else
    say "== no loop devices here: reading the files with debugfs"
fi
read_file "$full" "$before" "$work/system.log.before"
read_file "$latest" "$after" "$work/system.log.after"

show() {
    say "-- /system.log $1: $(wc -l <"$2") lines, $(wc -c <"$2") bytes; the last ones:"
    tail -n 3 "$2"
}
show "in the full backup" "$work/system.log.before"
show "in the latest increment" "$work/system.log.after"
if cmp -s "$work/system.log.before" "$work/system.log.after"; then
    die "the file is the same before and after the change: that is wrong"
fi

for folder in "$before" "$after"; do
    [[ $way = debugfs ]] || umount "$folder"
done
say "== qcowfs umount $view"
timeout 60 "$qcowfs" umount "$view"
if mountpoint -q "$view"; then
    die "still mounted"
fi
say "demo: all went well"
