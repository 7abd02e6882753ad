#!/usr/bin/env bash
# Boots a restore point of a backup chain in a VM, over an overlay that takes the writes, and tells
# whether it booted: shows that contrib/tutorials/boot.md works on this machine.
#
# The disk is one boot sector. It says on the serial port which backup it is of, writes to its disk
# through the BIOS, and ends the VM. A full backup of it and an increment, in which it says something
# else, are booted; then the writes must be in the overlays, and the restore points as they were.
#
# Installs what is missing on Debian and Ubuntu, builds, and leaves nothing behind. Without /dev/kvm
# the VM is emulated.
#
#   QCOWFS_NO_INSTALL=1   install nothing; a missing tool is an error
#   QCOWFS=PROGRAM        use this one instead of building it
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=contrib/lib.sh
. "$repo/contrib/lib.sh"

need qemu-system-x86_64=qemu-system-x86 qemu-img=qemu-utils qemu-io=qemu-utils fusermount3=fuse3 \
    as=binutils objcopy=binutils cmp=diffutils mountpoint=util-linux
need_fuse
if [[ -z ${QCOWFS:-} ]]; then
    need_cargo
    say "== building"
    (cd "$repo" && cargo build --release --locked)
    QCOWFS=${CARGO_TARGET_DIR:-$repo/target}/release/qcowfs
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/qcowfs-boot.XXXXXX")
view=$work/view
backups=$work/backups
mkdir "$view" "$backups"

cleanup() {
    local code=$?
    trap - EXIT INT TERM HUP
    if mountpoint -q "$view" 2>/dev/null; then
        timeout 30 "$QCOWFS" umount "$view" || fusermount3 -u -z "$view" || true
    fi
    # Whatever is still mounted must not be emptied.
    rm -rf --one-file-system "$work" || true
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# boot_sector TEXT FILE: 512 bytes that a BIOS boots.
boot_sector() {
    cat >"$work/boot.s" <<END
    .intel_syntax noprefix
    .code16
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    push dx                         # dl: the drive that was booted from
    mov si, 0x7c00 + OFFSET text
    call say
    pop dx
    mov dh, 0
    mov cx, 0x0002                  # cylinder 0, sector 2: byte 512 of the disk
    mov bx, 0x7c00
    mov ax, 0x0301                  # write one sector
    int 0x13
    jc end
    mov si, 0x7c00 + OFFSET written
    call say
end:
    mov al, 0xfe                    # the keyboard controller resets the machine; with -no-reboot
    out 0x64, al                    # QEMU ends then, and its overlay is whole
    hlt
    jmp end
say:
    mov dx, 0x3f8                   # the first serial port
    lodsb
    test al, al
    jz said
    out dx, al
    jmp say
said:
    ret
text:
    .asciz "$1\n"
written:
    .asciz "written\n"
    .org 510
    .byte 0x55, 0xaa
END
    as --32 -o "$work/boot.o" "$work/boot.s"
    objcopy -O binary -j .text "$work/boot.o" "$2"
    [[ $(stat -c %s "$2") = 512 ]] || die "the boot sector is not 512 bytes"
}

say "== a full backup, and an increment in which the boot sector is another"
boot_sector "booted: the full backup" "$work/full"
boot_sector "booted: the increment" "$work/inc"
cp "$work/full" "$work/disk.raw"
truncate -s 16M "$work/disk.raw"
qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$backups/sda.qcow2"
qemu-img create -q -f qcow2 -F qcow2 -b sda.qcow2 "$backups/sda.monday.qcow2"
qemu-io -f qcow2 -c "write -q -s $work/inc 0 512" "$backups/sda.monday.qcow2"
timeout 60 "$QCOWFS" mount "$backups" "$view"
timeout 60 "$QCOWFS" ls "$backups"

kvm=()
if [[ -r /dev/kvm && -w /dev/kvm ]]; then
    kvm=(-enable-kvm)
else
    say "no /dev/kvm for this user: the VM is emulated"
fi

# boot CHECKPOINT TEXT: boots it; it must say TEXT, and what it writes must be in the overlay alone.
boot() {
    local disk=$view/sda.qcow2/$1/disk.img overlay=$work/$1.overlay code=0
    local serial=$work/$1.serial
    say "== booting $1"
    timeout 60 cp "$disk" "$work/before"
    qemu-img create -q -f qcow2 -F raw -b "$disk" "$overlay"
    timeout 120 qemu-system-x86_64 "${kvm[@]}" -m 64 -nic none -display none -monitor none \
        -serial "file:$serial" -no-reboot \
        -drive "file=$overlay,format=qcow2,if=ide" || code=$?
    cat "$serial"
    [[ $code -eq 0 ]] || die "$1 did NOT boot: QEMU ended with $code (124: nothing after two minutes)"
    [[ $(<"$serial") = "$2"$'\n'written ]] || die "$1 did NOT boot as it should: $2 was expected"
    qemu-img convert -f qcow2 -O raw "$overlay" "$work/after"
    cmp -s -n 512 -i 512:0 "$work/after" "$work/before" || die "the VM's write is not in the overlay"
    timeout 60 cmp "$disk" "$work/before" || die "the restore point changed"
}
boot sda.qcow2 "booted: the full backup"
boot sda.monday.qcow2 "booted: the increment"

say "== qcowfs umount $view"
timeout 60 "$QCOWFS" umount "$view"
say "try-boot: both restore points booted; what the VMs wrote is in their overlays alone"
