"""The clock of peers.py: how long a command or a read takes, to well below a millisecond. As a program,
for scripts: `timing.py MIB` touches so much memory ([touch_memory]).

`subprocess.run(..., timeout=...)` is no clock: it looks whether the command has ended at times that
lie up to 50 ms apart, so that a read of 120 ms and one of 160 ms take the same.
"""
import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time

REQUEST = 1 << 20


class TooLong(Exception):
    """Something that did not end in time."""


@contextlib.contextmanager
def limit(seconds, what):
    """Ends what runs within it by TooLong. Limits do not nest."""
    def over(*_):
        raise TooLong(f"{what}: not within {seconds} s")
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def command(words, seconds, **options):
    """Runs a command that must succeed, and returns the seconds that it took."""
    start = time.monotonic()
    child = subprocess.Popen(words, **options)
    try:
        with limit(seconds, " ".join(words)):
            code = child.wait()
    except TooLong:
        child.kill()
        child.wait()
        raise
    took = time.monotonic() - start
    if code:
        raise subprocess.CalledProcessError(code, words)
    return took


def read_in_order(path, size, direct, seconds=600):
    """Seconds that a read of a whole file takes, 1 MiB at a time, past the kernel's cache or by it."""
    # Pages of its own: O_DIRECT takes no others.
    with mmap.mmap(-1, REQUEST) as buffer, limit(seconds, path):
        buffer.write(bytes(REQUEST))
        start = time.monotonic()
        file = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
        try:
            done = 0
            while got := os.readv(file, [buffer]):
                done += got
        finally:
            os.close(file)
        took = time.monotonic() - start
    if done != size:
        raise OSError(f"{path}: {done} bytes instead of {size}")
    return took


def touch_memory(size):
    """Has the host of a virtual machine give that much memory, which is free afterwards.

    A page that the host has not given yet, or has taken back since it was free, takes several
    times as long as all else that is done with it, and would be what is measured."""
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size, flags=kind) as memory:
        # Whole: who takes large pages afterwards finds these, too.
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1


if __name__ == "__main__":
    touch_memory(int(sys.argv[1]) << 20)
