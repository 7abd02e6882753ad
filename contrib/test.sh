#!/usr/bin/env bash
# Installs what the tests need on Debian and Ubuntu, and runs them all.
#
# As root every test runs; as an ordinary user those that need root say so, and are counted.
# Arguments go to `cargo test`.
#
#   QCOWFS_NO_INSTALL=1   install nothing; a missing tool is an error
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

need qemu-img=qemu-utils qemu-io=qemu-utils fusermount3=fuse3 e2fsck=e2fsprogs debugfs=e2fsprogs \
    mkfs.xfs=xfsprogs mkfs.ext4=e2fsprogs mkswap=util-linux zstd=zstd tar=tar sfdisk=fdisk \
    python3=python3 setfattr=attr getfattr=attr setfacl=acl \
    ddrescue=gddrescue setpriv=util-linux fallocate=util-linux unshare=util-linux losetup=mount \
    cmp=diffutils nbdkit=nbdkit nbdfuse=libnbd-bin strace=strace mount.fuse3=fuse3 jq=jq \
    partx=util-linux fsfreeze=util-linux awk=mawk pgrep=procps
# The tutorial on LVM runs where the kernel can do it.
[[ ! -e /sys/class/misc/device-mapper ]] || need lvm=lvm2
need_cargo
need_fuse
# udev opens the device to everybody; where it does not run (in containers), nobody has.
if [[ $(id -u) -eq 0 && $(stat -c %a /dev/fuse) != 666 ]]; then
    say "opening /dev/fuse to ordinary users, as udev does, for the tests that are theirs"
    chmod 666 /dev/fuse
fi

log=$(mktemp "${TMPDIR:-/tmp}/qcowfs-test-log.XXXXXX")
trap 'rm -f "$log"' EXIT

# The tests, not the optimiser, take the time: one build with little optimisation is the fastest.
# All test programs run, also after one has failed.
code=0
(cd "$repo" && cargo test --locked --no-fail-fast "$@") 2>&1 | tee "$log" || code=$?

# Sums up the lines "test result: ok. 3 passed; 0 failed; 1 ignored; ...".
sum() {
    awk -v what="$1" '/^test result:/ {
        for (i = 2; i <= NF; i++) if ($i == what ";") total += $(i - 1)
    } END { print total + 0 }' "$log"
}
checkpoints() {
    awk '/: [0-9]+ checkpoints right$/ { total += $(NF - 2) } END { print total + 0 }' "$log"
}
passed=$(sum passed)
failed=$(sum failed)
ignored=$(sum ignored)
# Not at the start of the line where tests run one by one.
skipped=$(grep -c 'SKIPPED (' "$log" || true)

say ""
say "checkpoints of the sample backups that are right: $(checkpoints)"
grep -o 'SKIPPED (.*' "$log" || true
if [[ $code -ne 0 && $failed -eq 0 ]]; then
    say "the tests were not all built or run (cargo's exit code is $code)"
fi
say "test.sh: $passed passed, $failed failed, $ignored ignored, $skipped skipped"
[[ $code -eq 0 && $passed -gt 0 ]]
