#!/usr/bin/env bash
# Makes lvm.tar.zst again: a disk with LVM, and an overlay with a changed file. Root; needs lvm2, a
# kernel with the device mapper, qemu-img, sfdisk, jq, zstd. The volume group is vg0: not where one
# of that name is active.
#
#   make-lvm.sh FOLDER     leaves FOLDER/lvm.tar.zst
set -euo pipefail

out=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lvm/backups" "$work/mnt"
disk=$work/disk.raw
backups=$work/lvm/backups

# with_disk COMMAND...: runs it while the disk is a loop device, $loop.
with_disk() {
    loop=$(losetup --find --show --partscan "$disk")
    only="devices { use_devicesfile=0 filter=[\"a|^$loop|\",\"r|.*|\"] }"
    "$@"
    vgchange --config "$only" -an vg0
    losetup --detach "$loop"
}
format() {
    pvcreate --config "$only" "${loop}p1"
    vgcreate --config "$only" vg0 "${loop}p1"
    lvcreate --config "$only" -y -n root -L 24M vg0
    lvcreate --config "$only" -y -n data -L 16M vg0
    mkfs.ext4 -q -L root /dev/mapper/vg0-root
    mkfs.ext4 -q -L data /dev/mapper/vg0-data
    hostname_is "on sunday"
}
change() {
    vgchange --config "$only" -ay vg0
    hostname_is "on monday"
}
hostname_is() {
    mount /dev/mapper/vg0-root "$work/mnt"
    echo "vm-lvm, $1" >"$work/mnt/hostname"
    umount "$work/mnt"
}
# checkpoint NAME LABEL: what truth.json has of it.
checkpoint() {
    jq -n --arg file "$1" --arg state "$2" --arg sha "$(sha256sum <"$disk" | cut -d' ' -f1)" \
        --argjson size "$(stat -c %s "$disk")" --argjson time "$(stat -c %Y "$backups/$1")" \
        '{label: $state, file: $file, virtual_size: $size, sha256: $sha, timestamp: $time}'
}

truncate -s 64M "$disk"
sfdisk -q "$disk" <<<'label: gpt
start=2048, type=lvm'
with_disk format
qemu-img convert -f raw -O qcow2 "$disk" "$backups/vm-lvm.qcow2"
sunday=$(checkpoint vm-lvm.qcow2 "frozen by snapshot monday")
sleep 2
with_disk change
# -B takes the path as the header will have it: relative to the folder.
(cd "$backups" && qemu-img convert -f raw -O qcow2 -B vm-lvm.qcow2 -F qcow2 "$disk" vm-lvm.monday)
monday=$(checkpoint vm-lvm.monday live)

jq -n --argjson sunday "$sunday" --argjson monday "$monday" \
    --arg version "$(qemu-img --version | head -1)" \
    '{tool: "qemu-img", tool_version: $version, command_lines: ["tests/data/make-lvm.sh"],
      notes: [], headers: {}, disks: [{name: "vm-lvm.qcow2", checkpoints: [$sunday, $monday]}]}' \
    >"$work/lvm/truth.json"
(cd "$work/lvm" && sha256sum backups/* >SHA256SUMS)
tar --zstd -C "$work" -cSf "$out/lvm.tar.zst" lvm
