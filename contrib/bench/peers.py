#!/usr/bin/python3
"""peers.py QCOWFS OUT: measures in the current folder, which is to be deleted afterwards.

Run by peers.sh, which installs what is compared.
"""
import csv
import os
import random
import shutil
import subprocess
import sys
import time

import chain_data
import plot
import timing
from subjects import Nbd, Ours, QcowMount, RawFile, StorageDaemon, Failed

RUNS = int(os.environ.get("QCOWFS_BENCH_RUNS", "5"))
MIB = int(os.environ.get("QCOWFS_BENCH_MIB", "2048"))
ONLY = os.environ.get("QCOWFS_BENCH_ONLY", "").split()
DEPTHS = [int(depth) for depth in os.environ.get("QCOWFS_BENCH_DEPTHS", "0 1 8 32 128 365").split()]
CLUSTERS = 64
SIZE = MIB << 20
DISKS = [int(disks) for disks in os.environ.get("QCOWFS_BENCH_DISKS", "100 1000").split()]
SECONDS = int(os.environ.get("QCOWFS_BENCH_SECONDS", "2"))

Ours.program = sys.argv[1]
OUT = sys.argv[2]
values = []


def record(group, work, subject, unit, value):
    values.append((group, work, subject, unit, value))
    print(f"{group:28} {work:34} {subject:22} {value:12.1f} {unit}", file=sys.stderr, flush=True)


def forget(path):
    """Drops what the kernel has of a file."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def warm(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


def best(read):
    """The best of three, or the first if it took long. What disturbs a read only ever slows it down,
    above all the host of a virtual machine, which has to give each page of memory that was free for
    some seconds anew, and takes several times as long for it as all that is done with the page."""
    seconds = read()
    return seconds if seconds > 3 else min(seconds, read(), read())


def read_all(path, size, direct=False):
    """MB/s of reading a file in order."""
    return size / best(lambda: timing.read_in_order(path, size, direct)) / 1e6


def first_read(path, size):
    """MB/s of reading a file in order that the kernel has nothing of."""
    def read():
        forget(path)
        return timing.read_in_order(path, size, direct=False)
    return size / best(read) / 1e6


def read_at_random(path, size, depth, jobs):
    """Reads of 4 KiB per second, past the kernel's cache."""
    out = subprocess.run(
        ["fio", "--name=r", f"--filename={path}", "--rw=randread", "--bs=4k", "--direct=1",
         "--ioengine=libaio", f"--iodepth={depth}", f"--numjobs={jobs}", "--group_reporting",
         "--readonly", "--time_based", f"--runtime={SECONDS}", f"--size={size}",
         "--output-format=terse", "--terse-version=3"],
        check=True, timeout=120, capture_output=True, text=True).stdout
    return float(out.strip().splitlines()[-1].split(";")[7])


def in_turns(subjects, run):
    """What comes first changes: what ran before must not always favour the same one."""
    return subjects[run % len(subjects):] + subjects[:run % len(subjects)]


def make_chain():
    if os.path.exists("chain"):
        return
    chain_data.chain("chain", MIB, max(DEPTHS), CLUSTERS)
    for number in range(max(DEPTHS) + 1):
        warm(f"chain/disk.{number}.qcow2")
    warm("chain.raw")
    check_chain()


def chains():
    make_chain()
    for depth in DEPTHS:
        image = os.path.abspath(f"chain/disk.{depth}.qcow2")
        subjects = [Ours, StorageDaemon, Nbd] + ([QcowMount, RawFile] if depth == 0 else [])
        group = f"depth {depth}"
        for run in range(RUNS):
            for make in in_turns(subjects, run):
                source = os.path.abspath("chain.raw") if make is RawFile else image
                measure_reads(group, make(), source)


def own():
    """The longest chain beside none, in turns: what else the machine does counts for neither."""
    make_chain()
    for run in range(2 * RUNS):
        for depth in in_turns([0, max(DEPTHS)], run):
            with Ours() as ours:
                path = ours.start(os.path.abspath(f"chain/disk.{depth}.qcow2"), SIZE)
                timing.read_in_order(path, SIZE, direct=True)
                record("in turns", f"random 4 KiB, depth 16, {depth} increments", ours.name, "IOPS",
                       read_at_random(path, SIZE, 16, 1))


def first_bytes():
    make_chain()
    for depth in DEPTHS:
        image = os.path.abspath(f"chain/disk.{depth}.qcow2")
        for run in range(RUNS):
            for make in in_turns([Ours, StorageDaemon, Nbd], run):
                measure_first_byte(f"depth {depth}", make(), image)


def check_chain():
    """Everybody shows the newest disk as it was made."""
    image = os.path.abspath(f"chain/disk.{max(DEPTHS)}.qcow2")
    for make in [Ours, StorageDaemon, Nbd]:
        with make() as subject:
            path = subject.start(image, SIZE)
            subprocess.run(["cmp", path, "chain.raw"], check=True, timeout=600)


def measure_reads(group, subject, image):
    with subject:
        path = subject.start(image, SIZE)
        name = subject.name
        record(group, "sequential 1 MiB O_DIRECT", name, "MB/s", read_all(path, SIZE, direct=True))
        first = read_all if isinstance(subject, RawFile) else first_read
        record(group, "buffered, first read", name, "MB/s", first(path, SIZE))
        record(group, "buffered, second read", name, "MB/s", read_all(path, SIZE))
        if not isinstance(subject, RawFile):
            forget(path)
            for depth, jobs in [(1, 1), (16, 1), (16, 4)]:
                work = f"random 4 KiB, depth {depth}, jobs {jobs}"
                record(group, work, name, "IOPS", read_at_random(path, SIZE, depth, jobs))
            record(group, "memory, peak", name, "MiB", subject.memory())


def measure_first_byte(group, subject, image):
    with subject:
        start = time.monotonic()
        path = subject.start(image, SIZE)
        with open(path, "rb", buffering=0) as file:
            file.read(4096)
        record(group, "mount until the first byte", subject.name, "ms",
               (time.monotonic() - start) * 1000)


def packed():
    chain_data.files("files.raw", MIB)
    for how in ["zlib", "zstd"]:
        os.mkdir(how)
        image = os.path.abspath(f"{how}/disk.qcow2")
        chain_data.run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", f"compression_type={how}",
                       "files.raw", image)
        warm(image)
        for run in range(RUNS):
            for make in in_turns([Ours, StorageDaemon, Nbd], run):
                with make() as subject:
                    path = subject.start(image, SIZE)
                    record(how, "sequential 1 MiB O_DIRECT", subject.name, "MB/s",
                           read_all(path, SIZE, direct=True))
                    record(how, "buffered, first read", subject.name, "MB/s", first_read(path, SIZE))


def raw():
    os.mkdir("raw")
    image = os.path.abspath("raw/disk.raw")
    with open(image, "wb") as file:
        for _ in range(MIB):
            file.write(os.urandom(1 << 20))
    warm(image)
    for run in range(RUNS):
        for make in in_turns([Ours, StorageDaemon, RawFile], run):
            with make() as subject:
                path = subject.start(image, SIZE)
                for work in ["buffered, first read", "buffered, second read"]:
                    record("raw full", work, subject.name, "MB/s", read_all(path, SIZE))


def sparse():
    """1 TiB of which 1 GiB is there, in pieces of 1 MiB."""
    os.mkdir("sparse")
    image = os.path.abspath("sparse/disk.qcow2")
    size = 1 << 40
    chain_data.run("qemu-img", "create", "-f", "qcow2", image, str(size))
    places = random.Random(2).sample(range(size >> 20), 1024)
    for part in range(0, len(places), 64):
        writes = [word for place in places[part:part + 64]
                  for word in ("-c", f"write -q -P 7 {place << 20} 1M")]
        chain_data.run("qemu-io", "-f", "qcow2", *writes, image)
    warm(image)
    for run in range(RUNS):
        for make in in_turns([Ours, StorageDaemon, Nbd], run):
            with make() as subject:
                path = subject.start(image, size)
                start = time.monotonic()
                found = walk(path, size)
                seconds = time.monotonic() - start
                if found != 1 << 30:
                    print(f"{subject.name} finds {found} bytes of data", file=sys.stderr)
                record("sparse 1 TiB", "SEEK_HOLE walk", subject.name, "ms", seconds * 1000)
                # Without holes to seek it would read a TiB.
                if found > 1 << 32:
                    continue
                timing.touch_memory(5 << 28)
                seconds = timing.command(["cp", "--sparse=always", path, "copy"], 900)
                record("sparse 1 TiB", "cp --sparse=always", subject.name, "s", seconds)
                os.unlink("copy")


def walk(path, size):
    data, at = 0, 0
    file = os.open(path, os.O_RDONLY)
    try:
        while at < size:
            try:
                start = os.lseek(file, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file, start, os.SEEK_HOLE)
            data += at - start
    finally:
        os.close(file)
    return data


def files():
    """The files within an ext4 disk, by a loop mount and tar."""
    if not os.path.exists("files.raw"):
        chain_data.files("files.raw", MIB)
    os.mkdir("ext4")
    image = os.path.abspath("ext4/disk.qcow2")
    chain_data.run("qemu-img", "convert", "-O", "qcow2", "files.raw", image)
    warm(image)
    for run in range(RUNS):
        for make in in_turns([Ours, StorageDaemon, Nbd], run):
            with make() as subject:
                path = subject.start(image, SIZE)
                os.mkdir("loop")
                chain_data.run("mount", "-o", "ro,noload,loop", path, "loop")
                try:
                    # To a pipe: tar reads nothing of what goes to /dev/null.
                    seconds = timing.command(["sh", "-c", "tar -c -C loop . | cat >/dev/null"], 600)
                    record("ext4 in a loop", "tar of all files", subject.name, "s", seconds)
                finally:
                    chain_data.run("umount", "loop")
                    os.rmdir("loop")


def scale():
    """Disks of 100 checkpoints each, as qmpbackup names them."""
    empty = "scale.qcow2"
    chain_data.run("qemu-img", "create", "-f", "qcow2", empty, "1G")
    for disks in DISKS:
        many_files(empty, disks, RUNS if disks <= 100 else 1)
        shutil.rmtree("scale")


def write_sparse(path, blocks):
    """Most of an empty image is holes: 100,000 of them take 1.6 GB instead of 20."""
    with open(path, "wb") as file:
        for block in blocks:
            if block.strip(b"\0"):
                file.write(block)
            else:
                file.seek(len(block), os.SEEK_CUR)
        file.truncate()


def many_files(empty, disks, runs):
    with open(empty, "rb") as file:
        blocks = list(iter(lambda: file.read(4096), b""))
    for disk in range(disks):
        os.makedirs(f"scale/disk{disk}")
        for number in range(100):
            level = "INC" if number else "FULL"
            name = f"{level}-{1700000000 + number * 3600}-disk{disk}.qcow2"
            write_sparse(f"scale/disk{disk}/{name}", blocks)
    paths = [os.path.join(folder, name) for folder, _, names in os.walk("scale") for name in names]
    group = f"{len(paths):,} files"

    def seconds(work, subject, act):
        start = time.monotonic()
        result = act()
        record(group, work, subject, "ms", (time.monotonic() - start) * 1000)
        return result

    def listed(*options):
        timing.command(["ls", *options], 600, stdout=subprocess.DEVNULL)

    def read_each():
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                file.read(4096)

    for _ in range(runs):
        seconds("until ls answers", "open and read each", read_each)
        with Ours() as ours:
            def until_ls():
                folder = ours.mount(os.path.abspath("scale"))
                listed(folder)
                return folder
            timing.touch_memory(len(paths) << 13)
            folder = seconds("until ls answers", ours.name, until_ls)
            one = os.path.join(folder, "disk7")
            seconds("ls -lR of one disk", ours.name, lambda: listed("-lR", one))
            seconds("ls -lR of all", ours.name, lambda: listed("-lR", folder))
            record(group, "memory, peak", ours.name, "MiB", ours.memory())


def memory():
    if os.path.exists("chain"):
        numbers = random.Random(3)
        with Ours() as ours:
            folder = ours.mount(os.path.abspath("chain"))
            for number in range(max(DEPTHS) + 1):
                with open(ours.find(folder, f"disk.{number}.qcow2"), "rb", buffering=0) as file:
                    for _ in range(100):
                        os.pread(file.fileno(), 4096, numbers.randrange(SIZE // 4096) * 4096)
            record("365 checkpoints x 100 reads", "memory, peak", ours.name, "MiB", ours.memory())
    os.mkdir("fragmented")
    size, clusters = 1 << 40, (1 << 40) // chain_data.CLUSTER
    # The mapping is a permutation in which no two neighbours are neighbours.
    chain_data.fragmented("fragmented/disk.qcow2", size, 1 << 13,
                          lambda guest: guest * 7919 % clusters)
    with Ours() as ours:
        path = ours.start(os.path.abspath("fragmented/disk.qcow2"), size)
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        start = time.monotonic()
        for at in range(0, size, 1 << 20):
            os.pread(file, 4096, at)
        os.close(file)
        record("fragmented 1 TiB", "4 KiB of each MiB", ours.name, "s", time.monotonic() - start)
        record("fragmented 1 TiB", "memory, peak", ours.name, "MiB", ours.memory())


def streams():
    """virtnbdbackup's streams and its own nbdkit plugin: a script of its own knows how to mount
    that."""
    values_file = os.path.abspath("streams.csv")
    settings = {"QCOWFS_BENCH_CSV": values_file, "QCOWFS_BENCH_DIR": os.getcwd(),
                "QCOWFS_BENCH_RUNS": str(RUNS), "QCOWFS_BENCH_MIB": str(MIB)}
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "streams.sh")
    subprocess.run([script], check=True, env={**os.environ, **settings}, stdout=sys.stderr)
    names = {"streams": Ours.name, "packed streams": Ours.name, "qcow2": "qcowfs, same as qcow2",
             "peer": "nbdkit plugin", "peer -b 64k": "nbdkit plugin -b 64k"}
    with open(values_file, newline="") as file:
        for work, subject, unit, value in csv.reader(file):
            if unit in ("MB/s", "IOPS"):
                record("streams", work, names.get(subject, subject), unit, float(value))


GROUPS = {"chain": chains, "own": own, "first": first_bytes, "packed": packed, "raw": raw,
          "sparse": sparse, "files": files, "scale": scale, "memory": memory, "streams": streams}
try:
    for name, group in GROUPS.items():
        if not ONLY or any(word in name for word in ONLY):
            group()
except (Failed, timing.TooLong, subprocess.SubprocessError) as error:
    sys.exit(f"peers.py: {error}")
finally:
    with open(os.path.join(OUT, "peers.csv"), "w", newline="") as file:
        csv.writer(file).writerows(values)
    plot.table(values)
    plot.svg(values, os.path.join(OUT, "peers.svg"))
