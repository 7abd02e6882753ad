"""Disks for peers.py: chains of qcow2 overlays, written directly, for qemu-io takes a second each."""
import os
import random
import struct
import subprocess

CLUSTER = 64 << 10
L2_REACH = (CLUSTER // 8) * CLUSTER
COPIED = 1 << 63


def run(*command):
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def overlay(path, size, backing, clusters):
    """A qcow2 version 3 image of 64 KiB clusters that holds `clusters` ({guest index: bytes})."""
    tables = sorted({index * CLUSTER // L2_REACH for index in clusters})
    l1_size = -(-size // L2_REACH)
    l1_clusters = -(-l1_size * 8 // CLUSTER)
    # Header, refcount table, refcount block, L1 table, L2 tables, data.
    l1_at = 3
    l2_at = l1_at + l1_clusters
    data_at = l2_at + len(tables)
    total = data_at + len(clusters)
    assert total <= CLUSTER // 2, "one refcount block"
    name = os.fsencode(backing)
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0x200, len(name), 16, size, 0, l1_size,
        l1_at * CLUSTER, CLUSTER, 1, 0, 0, 0, 0, 0, 4, 104)
    # The format of the backing file, then the end of the extensions.
    header += struct.pack(">II8sII", 0xE2792ACA, 5, b"qcow2", 0, 0)
    l1 = [0] * l1_size
    l2 = {table: [0] * (CLUSTER // 8) for table in tables}
    for number, table in enumerate(tables):
        l1[table] = COPIED | (l2_at + number) * CLUSTER
    for number, index in enumerate(sorted(clusters)):
        at = COPIED | (data_at + number) * CLUSTER
        l2[index * CLUSTER // L2_REACH][index % (CLUSTER // 8)] = at
    with open(path, "wb") as file:
        file.write(header)
        file.seek(0x200)
        file.write(name)
        file.seek(CLUSTER)
        file.write(struct.pack(">Q", 2 * CLUSTER))
        file.seek(2 * CLUSTER)
        file.write(b"\0\1" * total)
        file.seek(l1_at * CLUSTER)
        file.write(struct.pack(f">{l1_size}Q", *l1))
        file.seek(l2_at * CLUSTER)
        for table in tables:
            file.write(struct.pack(f">{CLUSTER // 8}Q", *l2[table]))
        for index in sorted(clusters):
            file.write(clusters[index])


def chain(folder, mib, increments, clusters):
    """folder/disk.N.qcow2, N from 0; and the newest disk as folder.raw."""
    os.mkdir(folder)
    size = mib << 20
    with open(f"{folder}.raw", "wb") as raw:
        for _ in range(mib):
            raw.write(os.urandom(1 << 20))
    run("qemu-img", "convert", "-O", "qcow2", f"{folder}.raw", f"{folder}/disk.0.qcow2")
    numbers = random.Random(1)
    with open(f"{folder}.raw", "r+b") as raw:
        for number in range(1, increments + 1):
            places = numbers.sample(range(size // CLUSTER), clusters)
            held = {place: os.urandom(CLUSTER) for place in places}
            overlay(f"{folder}/disk.{number}.qcow2", size, f"disk.{number - 1}.qcow2", held)
            for place, content in held.items():
                raw.seek(place * CLUSTER)
                raw.write(content)


def files(name, mib):
    """A raw disk of an ext4 file system full of the files of /usr, for compression and for tar."""
    with open(name, "wb") as raw:
        raw.truncate(mib << 20)
    run("mkfs.ext4", "-q", "-F", name)
    os.mkdir("fill")
    run("mount", "-o", "loop", name, "fill")
    try:
        space = (mib << 20) * 8 // 10
        script = ('find /usr -xdev -type f -size -2M -print0 | sort -z | '
                  'tar -c --null -T - --ignore-failed-read 2>/dev/null | '
                  f'head -c {space} | tar -x -C fill 2>/dev/null; true')
        run("bash", "-c", script)
    finally:
        run("umount", "fill")
        os.rmdir("fill")


def fragmented(path, size, data_at, order):
    """An image whose every cluster is mapped, none beside the next: tables only; the data are one
    hole. `order` maps a guest index to a host index."""
    l1_size = -(-size // L2_REACH)
    l1_clusters = -(-l1_size * 8 // CLUSTER)
    l2_at = 1 + l1_clusters
    entries = CLUSTER // 8
    with open(path, "wb") as file:
        file.write(struct.pack(
            ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size, 0, l1_size, CLUSTER, 0, 0, 0, 0,
            0, 0, 0, 4, 104))
        file.seek(CLUSTER)
        file.write(struct.pack(f">{l1_size}Q", *((l2_at + n) * CLUSTER for n in range(l1_size))))
        file.seek(l2_at * CLUSTER)
        for table in range(l1_size):
            file.write(struct.pack(
                f">{entries}Q",
                *((data_at + order(table * entries + n)) * CLUSTER for n in range(entries))))
        file.truncate((data_at + l1_size * entries) * CLUSTER)
