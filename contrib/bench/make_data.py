#!/usr/bin/python3
"""Makes the benchmark's data in the current folder.

    make_data.py chain MIB INCREMENTS CLUSTERS    streams/ and qcow2/: the same disk, the same changes
    make_data.py packed MIB FILE                  packed/ and payload.lz4: FILE's start, compressed

The streams are as virtnbdbackup writes them: metadata, data frames, `stop`; compressed payloads in
chunks of 32 MiB, packed by the same library with the same options, their sizes in a trailer.
Needs Debian's own python3 (python3-lz4 comes with virtnbdbackup) and qemu-img, qemu-io.
"""
import json
import os
import pathlib
import random
import subprocess
import sys

CLUSTER = 64 << 10
FRAME = 128 << 20
CHUNK = 32 << 20


def header(kind, start, length):
    return b"%s %016x %016x\r\n" % (kind, start, length)


class Stream:
    """A stream in the making, written from its start to its end."""

    def __init__(self, path, number, disk, data, compressed=False):
        self.file = open(path, "wb")
        self.sizes = []
        meta = {
            "virtualSize": disk,
            "dataSize": data,
            "date": f"2026-11-{1 + number // 24:02}T{number % 24:02}:00:00",
            "diskName": "vda",
            "diskFormat": "qcow2",
            "checkpointName": f"virtnbdbackup.{number}",
            "compressed": compressed,
            "compressionMethod": "lz4",
            "parentCheckpoint": f"virtnbdbackup.{number - 1}" if number else "",
            "incremental": number > 0,
            "streamVersion": 2,
        }
        text = json.dumps(meta, indent=4).encode()
        self.file.write(header(b"meta", 0, len(text)) + text + b"\r\n")

    def data(self, start, length, pieces):
        self.file.write(header(b"data", start, length))
        for piece in pieces:
            self.file.write(piece)
        self.file.write(b"\r\n")

    def finish(self):
        self.file.write(header(b"stop", 0, 0))
        if self.sizes:
            text = json.dumps(self.sizes).encode()
            self.file.write(text + b"\r\n" + header(b"comp", 0, len(text)))
        self.file.close()


def run(*command):
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def chain(mib, increments, clusters):
    streams, images = pathlib.Path("streams"), pathlib.Path("qcow2")
    streams.mkdir()
    images.mkdir()
    disk = mib << 20
    stream = Stream(streams / "vda.full.data", 0, disk, disk)
    with open("raw", "wb") as raw:
        for start in range(0, disk, FRAME):
            length = min(FRAME, disk - start)
            payload = os.urandom(length)
            raw.write(payload)
            stream.data(start, length, [payload])
    stream.finish()
    run("qemu-img", "convert", "-O", "qcow2", "raw", images / "disk.0.qcow2")
    os.unlink("raw")

    numbers = random.Random(1)
    for number in range(1, increments + 1):
        places = sorted(numbers.sample(range(disk // CLUSTER), clusters))
        name = f"vda.inc.virtnbdbackup.{number}.data"
        stream = Stream(streams / name, number, disk, clusters * CLUSTER)
        image = images / f"disk.{number}.qcow2"
        backing = ["-b", f"disk.{number - 1}.qcow2", "-F", "qcow2"]
        run("qemu-img", "create", "-f", "qcow2", *backing, image)
        writes = []
        for place in places:
            payload = os.urandom(CLUSTER)
            stream.data(place * CLUSTER, CLUSTER, [payload])
            file = f"cluster.{place}"
            with open(file, "wb") as cluster:
                cluster.write(payload)
            writes += ["-c", f"write -q -s {file} {place * CLUSTER} {CLUSTER}"]
        stream.finish()
        run("qemu-io", "-f", "qcow2", *writes, image)
        for place in places:
            os.unlink(f"cluster.{place}")


def packed(mib, source):
    import lz4.frame

    folder = pathlib.Path("packed")
    folder.mkdir()
    disk = mib << 20
    stream = Stream(folder / "vda.full.data", 0, disk, disk, compressed=2)
    with open(source, "rb") as plain, open("payload.lz4", "wb") as payload:
        for start in range(0, disk, 1 << 30):
            length = min(1 << 30, disk - start)
            chunks = []
            for _ in range(0, length, CHUNK):
                size = min(CHUNK, start + length - plain.tell())
                chunks.append(lz4.frame.compress(
                    plain.read(size), content_checksum=True, block_checksum=True,
                    compression_level=2))
            stream.data(start, length, chunks)
            sizes = [len(chunk) for chunk in chunks]
            stream.sizes.append({str(sum(sizes)): sizes})
            for chunk in chunks:
                payload.write(chunk)
    stream.finish()


what, *arguments = sys.argv[1:]
if what == "chain":
    chain(*map(int, arguments))
else:
    packed(int(arguments[0]), arguments[1])
