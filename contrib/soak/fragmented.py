#!/usr/bin/env python3
"""A huge qcow2 image whose every cluster is mapped, none beside the next; and readers of it.

    fragmented.py make IMAGE GIB
    fragmented.py read DISK GIB SECONDS READERS

The image is sparse: its tables are there, and of its clusters some hundreds, which hold marks. All
others lie in a hole of the file. The readers know what every byte must be; the last line that they
print is `reads=N bytes=N wrong=N`, and the exit code is 1 where something was wrong.
"""

import array
import os
import random
import struct
import sys
import time

CLUSTER = 1 << 16
PER_TABLE = CLUSTER // 8
MARKED = 512
COPIED = 1 << 63
# A reader that found so many wrong reads stops.
ENOUGH = 10


def clusters_of(gib):
    count = gib << 14
    if count & (count - 1):
        sys.exit("the size must be a power of two")
    return count


def host_of(guest, count):
    """Which of the data clusters a guest cluster has: a permutation without neighbours."""
    return (guest * 0x9E3779B1 + 12345) % count


def marked(count):
    return {(n * 0x85EBCA6B + 77) % count for n in range(MARKED)}


def mark(guest):
    words = array.array("Q", range(guest * PER_TABLE, (guest + 1) * PER_TABLE))
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def make(path, gib):
    count = clusters_of(gib)
    tables = count // PER_TABLE
    l1 = 1
    l1_clusters = -(-tables // PER_TABLE)
    l2 = l1 + l1_clusters
    refcounts = l2 + tables
    data = refcounts + 1
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb", 3, 0, 0, 16, count * CLUSTER, 0, tables, l1 * CLUSTER,
        refcounts * CLUSTER, 1, 0, 0, 0, 0, 0, 4, 104,
    )
    with open(path, "wb") as image:
        image.truncate((data + count) * CLUSTER)
        image.write(header)
        image.seek(l1 * CLUSTER)
        image.write(struct.pack(f">{tables}Q", *(COPIED | (l2 + n) * CLUSTER for n in range(tables))))
        image.seek(l2 * CLUSTER)
        for table in range(tables):
            guests = range(table * PER_TABLE, (table + 1) * PER_TABLE)
            entries = array.array(
                "Q", [COPIED | (data + (g * 0x9E3779B1 + 12345) % count) * CLUSTER for g in guests]
            )
            if sys.byteorder == "little":
                entries.byteswap()
            image.write(entries.tobytes())
        for guest in marked(count):
            image.seek((data + host_of(guest, count)) * CLUSTER)
            image.write(mark(guest))


def expected(at, length, marks):
    parts = []
    end = at + length
    while at < end:
        guest, inside = divmod(at, CLUSTER)
        part = min(CLUSTER - inside, end - at)
        parts.append(mark(guest)[inside:inside + part] if guest in marks else bytes(part))
        at += part
    return b"".join(parts)


def reader(disk, size, marks, seed, until):
    chance = random.Random(seed)
    order = sorted(marks)
    reads = got = wrong = 0
    file = os.open(disk, os.O_RDONLY)
    # What is read once is not read from memory the second time.
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    while time.monotonic() < until and wrong < ENOUGH:
        length = chance.choice((512, 4096, 65536, 262144))
        at = chance.randrange(size - length)
        if chance.random() < 0.3:
            at = max(0, min(size - length, chance.choice(order) * CLUSTER - chance.randrange(length)))
        try:
            bytes_read = os.pread(file, length, at)
        except OSError as error:
            print(f"{length} bytes at {at}: {error}", flush=True)
            wrong += 1
            continue
        if bytes_read != expected(at, length, marks):
            print(f"{length} bytes at {at}: not what they must be", flush=True)
            wrong += 1
        reads += 1
        got += length
    return reads, got, wrong


def read(disk, gib, seconds, readers):
    count = clusters_of(gib)
    marks = marked(count)
    if os.stat(disk).st_size != count * CLUSTER:
        sys.exit(f"{disk} does not have {count * CLUSTER} bytes")
    until = time.monotonic() + seconds
    pipe_out, pipe_in = os.pipe()
    for seed in range(readers):
        if os.fork() == 0:
            sums = (0, 0, 1)
            try:
                sums = reader(disk, count * CLUSTER, marks, seed, until)
            finally:
                os.write(pipe_in, struct.pack("QQQ", *sums))
                os._exit(0)
    sums = [struct.unpack("QQQ", os.read(pipe_out, 24)) for _ in range(readers)]
    for _ in range(readers):
        os.wait()
    reads, got, wrong = (sum(column) for column in zip(*sums))
    print(f"reads={reads} bytes={got} wrong={wrong}")
    sys.exit(wrong != 0 or reads == 0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", image, gib]:
            make(image, int(gib))
        case ["read", disk, gib, seconds, readers]:
            read(disk, int(gib), int(seconds), int(readers))
        case _:
            sys.exit(__doc__)
