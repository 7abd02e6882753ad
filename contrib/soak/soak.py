#!/usr/bin/env python3
"""Chains of many checkpoints, and readers who compare every byte with raw copies of them.

    soak.py make SOURCE MODELS CHECKPOINTS MIB
    soak.py read VIEW MODELS SECONDS READERS

`make` writes chains of qcow2 files with qemu-io, and has qemu-img convert each checkpoint to a raw
file in MODELS: what a reader must find. The readers take a checkpoint, a way to read it (buffered,
O_DIRECT, mmap, SEEK_DATA and SEEK_HOLE), an offset and a length at random. The last line that they
print is `reads=N bytes=N wrong=N`, and the exit code is 1 where something was wrong.
"""

import mmap
import os
import random
import struct
import subprocess
import sys
import time

PAGE = 4096
# Options of the images: each chain has those of its own, some layers others.
KINDS = [
    ["cluster_size=64k"],
    ["cluster_size=4k"],
    ["cluster_size=64k,extended_l2=on"],
    ["cluster_size=64k,compression_type=zstd"],
]
CHAINS = 4
# A reader that found so many wrong reads stops.
ENOUGH = 10


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stdout}")


def writes(chance, size, is_base, packed, pattern):
    """Commands for qemu-io: data of `pattern`, zeros, discarded ranges."""
    commands = []
    for _ in range(24 if is_base else 10):
        length = 512 * chance.randrange(1, size // 512 // (16 if is_base else 128))
        at = 512 * chance.randrange((size - length) // 512)
        kind = chance.random()
        if kind < 0.1 and not is_base:
            commands.append(f"write -z {at} {length}")
        elif kind < 0.2 and not is_base:
            commands.append(f"discard {at} {length}")
        elif packed and kind < 0.6:
            at, length = at & ~0xFFFF, 0x10000
            commands.append(f"write -c -s {pattern} {at} {length}")
        else:
            commands.append(f"write -s {pattern} {at} {length}")
    return commands


def make(source, models, checkpoints, mib):
    os.makedirs(models, exist_ok=True)
    size = mib << 20
    chance = random.Random(7)
    pattern = os.path.join(models, "pattern")
    for number in range(checkpoints):
        chain, rank = number % CHAINS, number // CHAINS
        with open(pattern, "wb") as file:
            # Unlike any other, and not too hard to compress.
            file.write(b"".join(struct.pack("<HIH", n % 9, number, n) for n in range(1 << 13)))
        folder = os.path.join(source, f"vm{chain}")
        os.makedirs(folder, exist_ok=True)
        image = os.path.join(folder, f"{rank:04}.qcow2")
        options = KINDS[chain if chance.random() < 0.8 else chance.randrange(len(KINDS))]
        below = ["-b", f"{rank - 1:04}.qcow2", "-F", "qcow2"] if rank else []
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", *options, *below, image, str(size))
        packed = "4k" not in options[0]
        commands = writes(chance, size, rank == 0, packed and chain == 3, pattern)
        run("qemu-io", "-d", "unmap", *(w for c in commands for w in ("-c", c)), image)
        model = os.path.join(models, f"vm{chain}-{rank:04}")
        run("qemu-img", "convert", "-O", "raw", image, model)
    os.remove(pattern)


class Disk:
    """A checkpoint in the view beside its model."""

    def __init__(self, view, models, name):
        chain, rank = name.split("-")
        # A chain is a disk, and has its base's name.
        path = f"{view}/{chain}/0000.qcow2/{rank}.qcow2/disk.img"
        self.name = name
        self.buffered = os.open(path, os.O_RDONLY)
        self.direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        model = os.open(os.path.join(models, name), os.O_RDONLY)
        self.size = os.fstat(model).st_size
        self.model = mmap.mmap(model, self.size, prot=mmap.PROT_READ)
        os.close(model)
        if os.fstat(self.buffered).st_size != self.size:
            raise ValueError(f"{path}: its size is not {self.size}")


class Reader:
    def __init__(self, disks, seed):
        self.disks = disks
        self.chance = random.Random(seed)
        # O_DIRECT wants aligned memory.
        self.memory = mmap.mmap(-1, 2 << 20)
        self.reads = self.bytes = self.wrong = 0

    def part(self, disk):
        length = min(int(2 ** self.chance.uniform(0, 21)), disk.size)
        return self.chance.randrange(disk.size - length + 1), length

    def compare(self, disk, how, at, seen, wanted):
        self.reads += 1
        self.bytes += len(seen)
        if seen == wanted:
            return
        self.wrong += 1
        pairs = enumerate(zip(seen, wanted))
        first = next((n for n, (a, b) in pairs if a != b), min(len(seen), len(wanted)))
        print(f"{disk.name}: {how} of {len(wanted)} at {at}: byte {at + first} is wrong", flush=True)

    def buffered(self, disk):
        at, length = self.part(disk)
        if self.chance.random() < 0.3:
            os.posix_fadvise(disk.buffered, 0, 0, os.POSIX_FADV_DONTNEED)
        seen = os.pread(disk.buffered, length, at)
        self.compare(disk, "pread", at, seen, disk.model[at:at + length])

    def direct(self, disk):
        at, length = self.part(disk)
        at -= at % PAGE
        length = min(-(-length // PAGE) * PAGE, disk.size - at)
        got = os.preadv(disk.direct, [memoryview(self.memory)[:length]], at)
        self.compare(disk, "O_DIRECT", at, self.memory[:got], disk.model[at:at + length])

    def mapped(self, disk):
        at, length = self.part(disk)
        start = at - at % mmap.ALLOCATIONGRANULARITY
        with mmap.mmap(disk.buffered, at - start + length, prot=mmap.PROT_READ, offset=start) as seen:
            self.compare(disk, "mmap", at, seen[at - start:], disk.model[at:at + length])

    def seek(self, disk):
        at, _ = self.part(disk)
        at = min(at, disk.size - 1)
        try:
            data = os.lseek(disk.buffered, at, os.SEEK_DATA)
        except OSError:
            data = disk.size
        hole = os.lseek(disk.buffered, data, os.SEEK_HOLE) if data < disk.size else disk.size
        if not (at <= data <= hole <= disk.size) or (data < disk.size and data == hole):
            self.wrong += 1
            print(f"{disk.name}: from {at}: data at {data}, hole at {hole}", flush=True)
            return
        end = min(data, at + (8 << 20))
        self.compare(disk, "SEEK_DATA", at, bytes(end - at), disk.model[at:end])

    def until(self, end):
        ways = [self.buffered, self.buffered, self.direct, self.direct, self.mapped, self.seek]
        while time.monotonic() < end and self.wrong < ENOUGH:
            disk = self.chance.choice(self.disks)
            try:
                self.chance.choice(ways)(disk)
            except OSError as error:
                self.wrong += 1
                print(f"{disk.name}: {error}", flush=True)


def read(view, models, seconds, readers):
    end = time.monotonic() + seconds
    names = sorted(os.listdir(models))
    pipe_out, pipe_in = os.pipe()
    for seed in range(readers):
        if os.fork() == 0:
            sums = (0, 0, 1)
            try:
                reader = Reader([Disk(view, models, name) for name in names], seed)
                reader.until(end)
                sums = (reader.reads, reader.bytes, reader.wrong)
            except Exception as error:  # what it is, and then that it counts as wrong
                print(f"reader {seed}: {error!r}", flush=True)
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
        case ["make", source, models, checkpoints, mib]:
            make(source, models, int(checkpoints), int(mib))
        case ["read", view, models, seconds, readers]:
            read(view, models, int(seconds), int(readers))
        case _:
            sys.exit(__doc__)
