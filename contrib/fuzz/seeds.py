#!/usr/bin/env python3
"""Cuts the sample backups down to seeds of a few KiB each, and makes others, for the fuzzer.

    seeds.py DATA-FOLDER OUT-FOLDER     unpacks DATA-FOLDER/*.tar.zst and writes OUT-FOLDER/<target>

Needs tar, zstd, lz4, qemu-img and qemu-io.
"""
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import zlib

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


MARK = b"\n--8<--\n"
# As in targets/chain.rs.
OVERLAY, BASE, RAW, INC, FULL, OLD_INC, OLD_FULL, PUSH, LIVE, MARKED_INC, MARKED_FULL = range(11)
STREAM_INC, STREAM_FULL, STREAM_DIFF, PARTIAL, COPY = range(11, 16)
TOML, XML, NODE_CONFIG, CONFIG = range(4)


def plain_disk(path, size, parts):
    """A raw disk of `size` bytes: some text at each (offset, length) of `parts`."""
    with path.open("wb") as file:
        file.truncate(size)
        for at, length in parts:
            file.seek(at)
            file.write((b"%d at %d, " % (length, at) * length)[:length])


def overlay(folder, base, options, writes, backing=None, form="qcow2"):
    """An image over `base` into which something was written, named `backing` in its header."""
    image = folder / "image"
    qemu_img("create", "-f", "qcow2", "-o", options, "-b", base, "-F", form, image)
    for kind, at, length in writes:
        command = f"write {kind} {at} {length}"
        subprocess.run(["qemu-io", "-c", command, image], check=True, stdout=subprocess.DEVNULL)
    qemu_img("rebase", "-u", "-b", backing or base.name, "-F", form, image)
    return image.read_bytes()


def chains(folder, out):
    """Two images each, the second below the first, and perhaps a sidecar."""
    def save(name, choices, *parts):
        (out / name).write_bytes(MARK.join([bytes(choices), *parts]))

    work = folder / "chains"
    work.mkdir()
    raw, base = work / "base.raw", work / "base.qcow2"
    plain_disk(raw, 16_000, [(0, 1500), (5000, 700), (10_240, 1024), (15_500, 500)])
    kinds = ["cluster_size=512", "cluster_size=4k,compat=0.10", "cluster_size=16k,extended_l2=on"]
    writes = [("-P 65", 512, 1024), ("-z", 4096, 2048), ("-P 66", 12_288, 512)]
    for number, options in enumerate(kinds):
        for packed in ([], ["-c"]):
            qemu_img("convert", "-O", "qcow2", *packed, "-o", options, raw, base)
            mark = f"{number}{'-packed' if packed else ''}"
            over = overlay(work, base, options, writes)
            save(f"qcow2-{mark}", [OVERLAY, BASE, 1, TOML], over, base.read_bytes())
            declared = b'[image."overlay.qcow2"]\nparent = "base.qcow2"\nname = "a/b"\n'
            if "extended" in options:
                continue
            save(f"declared-{mark}", [OVERLAY, BASE, 0, TOML], over, base.read_bytes(), declared)
            for name, pair in [("qmp", (INC, FULL)), ("old", (OLD_INC, OLD_FULL)),
                               ("copy", (COPY, FULL)), ("marked", (MARKED_INC, MARKED_FULL)),
                               ("push", (PUSH, LIVE)), ("partial", (PARTIAL, FULL))]:
                save(f"{name}-{mark}", [*pair, 0, CONFIG], over, base.read_bytes(),
                     b'{"format": "qcow2"}')
        over = overlay(work, raw, options, writes, form="raw")
        save(f"raw-{number}", [OVERLAY, RAW, 1, TOML], over, raw.read_bytes())
        larger = work / "larger.raw"
        plain_disk(larger, 30_000, [(6000, 500), (20_000, 5000)])
        over = overlay(work, raw, options, writes, form="raw")
        qemu_img("resize", "-f", "qcow2", work / "image", "32k")
        save(f"grown-{number}", [OVERLAY, RAW, 1, TOML], (work / "image").read_bytes(),
             raw.read_bytes())
        over = overlay(work, larger, options.replace("compat=0.10", "compat=1.1"), [], form="raw")
        qemu_img("resize", "-f", "qcow2", "--shrink", work / "image", "8k")
        save(f"shrunk-{number}", [OVERLAY, RAW, 1, TOML], (work / "image").read_bytes(),
             larger.read_bytes())
    named = "json:" + json.dumps({"driver": "qcow2", "file": {"driver": "file",
                                                             "filename": "base.qcow2"}})
    over = overlay(work, base, "cluster_size=512", writes, named)
    save("json", [OVERLAY, BASE, 1, TOML], over, base.read_bytes())
    push(work, save, base, raw)
    qemu_img("snapshot", "-c", "before", base)
    save("snapshot", [OVERLAY, BASE, 1, TOML], over, base.read_bytes())
    data = work / "data.raw"
    qemu_img("create", "-f", "qcow2", "-o", f"cluster_size=512,data_file={data}", base, "32k")
    image = base.read_bytes().replace(bytes(data), b"base.raw".ljust(len(bytes(data)), b"/"))
    save("data-file", [OVERLAY, RAW, 0, TOML], image, raw.read_bytes())
    save("raw-increment", [OLD_INC, OLD_FULL, 0, TOML], raw.read_bytes()[:9000], raw.read_bytes())
    stream_chains(folder, save)


def push(work, save, base, raw):
    """A push backup, the live disk that its header names, and what libvirt says of it."""
    qemu_img("convert", "-O", "qcow2", "-o", "cluster_size=512", raw, base)
    over = overlay(work, base, "cluster_size=512", [("-P 67", 512, 512)], "/vm/vda.qcow2")
    qemu_img("bitmap", "--add", base, "1795161372")
    text = (b"<domaincheckpoint><name>1795161372</name><parent><name>1795161300</name></parent>"
            b"<creationTime>1795161372</creationTime><domain><devices><disk><source "
            b"file='/vm/vda.qcow2'/></disk></devices></domain></domaincheckpoint>")
    save("push-live", [PUSH, LIVE, 0, XML], over, base.read_bytes(), text)
    save("named-live", [MARKED_INC, LIVE, 0, XML], over, base.read_bytes(), text)


def stream_chains(folder, save):
    for number, packing in enumerate([None, ["-B4", "-BD"]]):
        for case in CASES:
            pairs = folder / case
            full = sorted(pairs.glob("**/*.full.data"))
            later = sorted([*pairs.glob("**/*.inc.*.data"), *pairs.glob("**/*.diff.*.data")])
            for rank, path in enumerate(later[:3]):
                parts = [small_stream(each, 3000, packing) for each in (path, full[0])]
                kind = STREAM_DIFF if ".diff." in path.name else STREAM_INC
                text = sorted(pairs.glob("**/checkpoints/*.xml"))
                text = [re.sub(rb"<domain>.*</domain>", b"", xml.read_bytes(), flags=re.S)
                        for xml in text[:1]]
                save(f"{case}-{number}-{rank}", [kind, STREAM_FULL, 0, XML], *parts, *text)


NAMES = [
    b"FULL-1795161274-vm-root.qcow2\0INC-1795161320\0COPY-1795161326-a\0INC-1795161274x",
    b"vm-root.qcow2.1795161372\0.1795161372\0vm-root.monday",
    b"vda.full.data\0vda.inc.virtnbdbackup.10.data\0vda.diff.1795161421.data\0vdb.copy.data",
    b"vda-full.qcow2\0vda_inc_2.qcow2\0vm-100-inc-2026-11-20.qcow2\0vm-inc-20261120T10:01:59Z",
    b"a/b\0..\0.\0%2F\0%\0\xff\xfe\0\xe2\x80\xae\0latest\0latest~2\0by-time",
    b"x" * 260 + b"\0" + b"x" * 259 + b"y\0" + b"\n" * 90,
    b"/srv/a.qcow2\0../a b\0file:/srv/a\0nbd://localhost/x\0a:b\0./a:b",
    b'json:{"driver":"qcow2","file":{"driver":"file","filename":"/a/b"}}',
    b'json:{"driver":"qcow2","file.driver":"file","file.filename":"/a/b"}',
    b'json:{"driver":"raw","file":{"driver":"throttle","file":{"driver":"nbd","host":"x"}}}',
    b'[image."b.qcow2"]\nparent = "../x/a.qcow2"\ndisk = "vda"\nname = "b"\n'
    b'time = "2026-11-20T07:00:00Z"\nformat = "raw"\nignore = true\n[image.full]\nparent = "none"\n',
    b"[image.'c']\ntime = 2026-11-20T07:00:00Z\nformat = 'qcow2'\n",
    b"<!-- by libvirt -->\n<domaincheckpoint><name>two</name><parent><name>one</name></parent>"
    b"<creationTime>1795161382</creationTime><domain><name>vm</name><devices><disk><source "
    b"file='/var/vm-root.qcow2'/></disk></devices></domain></domaincheckpoint>",
    b"<domaincheckpoint><name>&lt;&#x41;<![CDATA[x]]></name></domaincheckpoint>",
    b"data 0000000000010000 0000000000000200\r\nzero 0000000000010200 0000000000000200\r\n",
    b"qmpbackup-vda-0\0virtnbdbackup.0\0a.partial\0b.fleece.qcow2\0c.RAW\0d.img",
]


def names(folder, out):
    for number, name in enumerate(NAMES):
        (out / f"made-{number}").write_bytes(name)
    for path in sorted(folder.glob("**/*.data")):
        start = path.open("rb").read(4096)
        if start.startswith(b"meta "):
            json_end = HEADER + int(start[22:38], 16)
            (out / f"{path.parent.parent.name}-{path.name}").write_bytes(start[HEADER:json_end])
    for path in sorted(folder.glob("**/*.xml")):
        if b"<domaincheckpoint" in path.read_bytes():
            (out / f"{path.parents[2].name}-{path.name}").write_bytes(path.read_bytes()[:16384])


SIGNATURES = [(0, b"XFSB"), (0, b"LUKS\xba\xbe"), (512, b"LABELONE"), (3, b"NTFS    "),
              (1080, b"\x53\xef"), (82, b"FAT32   "), (4086, b"SWAPSPACE2"), (4096, b"\xfc\x4e\x2b\xa9"),
              (3, b"EXFAT   "), (3, b"-FVE-FS-"), (0, b"hsqs")]


def records(*entries):
    """The first sector of a disk with these: kind, first sector, sectors."""
    table = b"".join(struct.pack("<B3xB3xII", 0, *entry) for entry in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def gpt(size, sector, entry_size, count, entries):
    """Both ends of a disk with a GPT: kind, first and last sector, name."""
    table = b"".join((bytes([kind]) * 16 + bytes([7]) * 16 + struct.pack("<QQQ", first, last, 0)
                      + name.encode("utf-16-le")).ljust(entry_size, b"\0")
                     for kind, first, last, name in entries).ljust(entry_size * count, b"\0")
    end, sectors = size // sector - 1, -(-len(table) // sector)

    def header(at, other, first):
        fields = [92, 0, 0, at, other, 40, end - 40, bytes(16), first, count, entry_size,
                  zlib.crc32(table)]
        packed = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, *fields)
        fields[1] = zlib.crc32(packed)
        return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, *fields)

    padded = table.ljust(sectors * sector, b"\0")
    first = records((0xEE, 1, 0xFFFFFFFF)).ljust(sector, b"\0")
    first += header(1, end, 2).ljust(sector, b"\0") + padded
    return first, padded + header(end, 1, end - sectors).ljust(sector + size % sector, b"\0")


def partitions(_, out):
    def save(name, size, first, last=b""):
        (out / name).write_bytes(struct.pack("<QH", size, len(first)) + first + last)

    size = 10 << 20
    some = [(1, 40, 99, "root"), (2, 100, 100, "\u00fc"), (3, 90, 2000, "")]
    for sector in (512, 4096):
        for entry_size in (128, 256, 512):
            for count in (4, 128 if entry_size == 128 else 16):
                name = f"gpt-{sector}-{entry_size}-{count}"
                first, last = gpt(size, sector, entry_size, count, some)
                save(name, size, first, last)
                save(f"{name}-backup", size, first[:600], last)
                save(f"{name}-first", size, first, b"")
        past = [(1, 40, size // sector, ""), (1, 1 << 63, 1 << 63, ""), (1, 9, 3, ""),
                (1, (1 << 64) - 1, (1 << 64) - 1, "")]
        save(f"gpt-{sector}-past", size, *gpt(size, sector, 128, 8, past))
        first, last = gpt(size, sector, 128, 8, some)
        save(f"gpt-{sector}-bare", size, bytes(512) + first[512:], last)
        save(f"mbr-and-gpt-{sector}", size, records((0x83, 40, 100)) + first[512:], last)
    extended = records((0x83, 2, 3), (5, 5, 100), (0xFD, 120, 400), (0x8E, 5, 3))
    chain = {5: records((0x83, 1, 1), (5, 2, 5)), 7: records((0x82, 1, 1), (5, 4, 5)),
             9: records((0x83, 1, 9))}
    loop = {**chain, 9: records((0x83, 1, 9), (5, 2, 5))}
    for name, tables in [("chain", chain), ("loop", loop)]:
        for sector in (512, 4096):
            disk = bytearray(9 * sector + 512)
            for at, table in {0: extended, **tables}.items():
                disk[at * sector:at * sector + 512] = table
            save(f"mbr-{name}-{sector}", size, bytes(disk))
    for number, (at, signature) in enumerate(SIGNATURES):
        whole = bytearray(5000)
        whole[510:512] = b"\x55\xaa"
        whole[at:at + len(signature)] = signature
        save(f"whole-{number}", size, bytes(whole))
        save(f"part-{number}", size, records((0x83, 1, 100)) + bytes(whole))


def main():
    data, out = map(pathlib.Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        for case in [*CASES, "features"]:
            archive = data / f"{case}.tar.zst"
            subprocess.run(["tar", "--zstd", "-xSf", archive, "-C", folder], check=True)
        for target, write in [("header", images), ("image", images), ("chain", chains),
                              ("stream", streams), ("names", names), ("partitions", partitions)]:
            (out / target).mkdir(parents=True, exist_ok=True)
            write(pathlib.Path(folder), out / target)


main()
