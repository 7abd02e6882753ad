#!/usr/bin/python3
"""What virtnbdmap does without a kernel's nbd device: its block list, and its replay of increments.

    block_map.py list FILE...            the JSON that its nbdkit plugin wants, of all streams
    block_map.py replay LIST DISK        writes what the increments in LIST changed to DISK

The list is made by the tool's own reader of streams.
"""
import json
import os
import sys

from libvirtnbdbackup.sparsestream import streamer, types


def blocks(path):
    stream, kinds = streamer.SparseStream(types), types.SparseStreamTypes()
    found = []
    with open(path, "rb") as reader:
        _, _, length = stream.readFrame(reader)
        meta = stream.loadMetadata(reader.read(length))
        assert reader.read(len(kinds.TERM)) == kinds.TERM
        while True:
            kind, start, length = stream.readFrame(reader)
            if kind == kinds.STOP:
                return found
            found.append({
                "offset": reader.tell(), "originalOffset": start, "length": length,
                "nextOriginalOffset": start + length, "data": kind == kinds.DATA,
                "file": os.path.abspath(path), "inc": meta["incremental"],
            })
            if kind == kinds.DATA:
                reader.seek(length, os.SEEK_CUR)
                assert reader.read(len(kinds.TERM)) == kinds.TERM


def replay(list_file, disk):
    with open(list_file) as file:
        changed = [block for block in json.load(file) if block["inc"]]
    with open(disk, "r+b") as device:
        for block in changed:
            with open(block["file"], "rb") as source:
                source.seek(block["offset"])
                device.seek(block["originalOffset"])
                device.write(source.read(block["length"]))
        device.flush()
        os.fsync(device.fileno())


what, *arguments = sys.argv[1:]
if what == "list":
    print(json.dumps([block for path in arguments for block in blocks(path)]))
else:
    replay(*arguments)
