#!/usr/bin/env python3
"""Cuts the sample backups down to seeds of a few KiB each, for the fuzzer.

    seeds.py DATA-FOLDER OUT-FOLDER     unpacks DATA-FOLDER/*.tar.zst and writes OUT-FOLDER/<target>

Needs tar, zstd, lz4 and qemu-img.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

HEADER = 40
CASES = ["virtnbdbackup-lz4", "virtnbdbackup-stream", "virtnbdbackup-stream-upstream"]


def header(kind, start, length):
    return b"%s %016x %016x\r\n" % (kind, start, length)


def pack(plain, *options):
    command = ["lz4", "-c", "-q", "-2", "-BX", "--content-size", *options]
    with tempfile.NamedTemporaryFile() as file:
        file.write(plain)
        file.flush()
        return subprocess.run([*command, file.name], stdout=subprocess.PIPE, check=True).stdout


def small_stream(path, chunk, packing):
    """A stream with the metadata and the first frames of a real one, no payload over `chunk`
    bytes; lz4 frames of `packing`, each payload in two chunks if it is large."""
    real = path.read_bytes()
    length = int(real[22:38], 16)
    meta = json.loads(real[HEADER:HEADER + length])
    at = HEADER + length + 2
    meta.setdefault("compressed", False)
    frames, sizes, data, position = b"", [], 0, 0
    for _ in range(6):
        kind, length = real[at:at + 4], int(real[at + 22:at + 38], 16)
        if kind not in (b"data", b"zero"):
            break
        size = min(length, chunk)
        frames += header(kind, position, size)
        position += size
        at += HEADER
        if kind == b"data":
            # Any bytes of the file do where the real payload is packed; repeated, they are small
            # and refer back to the block before.
            plain = (real[at:at + 1500] * (size // 1000 + 1))[:size]
            pieces = [plain[:size // 2], plain[size // 2:]] if size > 4096 else [plain]
            packed = [pack(piece, *packing) for piece in pieces] if packing is not None else [plain]
            frames += b"".join(packed) + b"\r\n"
            listed = [len(piece) for piece in packed]
            sizes.append(listed[0] if len(listed) == 1 else {str(sum(listed)): listed})
            data += size
            if meta["compressed"]:
                # Where the next frame is stands at the end of the file; one does.
                break
            at += length + 2
        # What was between the frames, and an uncovered piece after every other one.
        position += 512 * (len(sizes) % 2)
    meta.update(virtualSize=position + 4096, dataSize=data)
    meta["compressed"] = 2 if packing is not None else False
    if len(path.name) % 2:
        # Older keys may be missing; without this one, frames may change their length.
        del meta["dataSize"]
    text = json.dumps(meta).encode()
    stream = header(b"meta", 0, len(text)) + text + b"\r\n" + frames + header(b"stop", 0, 0)
    if packing is not None:
        text = json.dumps(sizes).encode()
        stream += text + b"\r\n" + header(b"comp", 0, len(text))
    return stream


def streams(folder, out):
    packings = [None, ["-B4", "-BD"], ["-B4", "-BD", "--no-frame-crc"], ["-B5"]]
    for path in sorted(folder.glob("**/*.data")):
        if path.open("rb").read(5) != b"meta ":
            continue
        for number, packing in enumerate(packings):
            chunk = 2048 if packing is None else [6000, 3000, 140000, 80000][number]
            name = f"{path.parent.parent.name}-{path.name}-{number}"
            (out / name).write_bytes(small_stream(path, chunk, packing))


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def images(folder, out):
    """Small real images as they are, and small images of every kind with some of their bytes."""
    for path in sorted(folder.glob("features/backups/*.qcow2")):
        if path.stat().st_size <= 60_000:
            (out / path.name).write_bytes(path.read_bytes())
    raw = folder / "raw"
    some = next(folder.glob("features/backups/compressed-zlib.qcow2")).read_bytes()
    raw.write_bytes(some[:6000] + bytes(20000) + b"the same again " * 1000 + bytes(100_000))
    kinds = ["cluster_size=512", "cluster_size=4k", "compat=0.10,cluster_size=1k",
             "extended_l2=on,cluster_size=16k", "cluster_size=512,compression_type=zstd"]
    for number, options in enumerate(kinds):
        for packed in ([], ["-c"]):
            image = out / f"made-{number}{'-packed' if packed else ''}.qcow2"
            qemu_img("convert", "-O", "qcow2", *packed, "-o", options, raw, image)
            qemu_img("snapshot", "-c", "before", image)
            if "compat" not in options:
                qemu_img("bitmap", "--add", image, "checkpoint")
            if not packed:
                qemu_img("rebase", "-u", "-b", "base", "-F", "raw", image)
    qemu_img("create", "-f", "qcow2", "-o", f"cluster_size=512,data_file={folder / 'd'}",
             out / "data-file.qcow2", "64k")


def main():
    data, out = map(pathlib.Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        for case in [*CASES, "features"]:
            archive = data / f"{case}.tar.zst"
            subprocess.run(["tar", "--zstd", "-xSf", archive, "-C", folder], check=True)
        for target, write in [("stream", streams), ("qcow2", images)]:
            (out / target).mkdir(parents=True, exist_ok=True)
            write(pathlib.Path(folder), out / target)


main()
