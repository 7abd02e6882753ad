"""What peers.py compares: everything that shows a chain of images as one raw file."""
import contextlib
import glob
import json
import os
import pathlib
import signal
import subprocess
import time

import timing

LIMIT = 60


class Failed(Exception):
    """A subject that did not do what it should."""


def wait_for(holds, what):
    end = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {LIMIT} s")
        time.sleep(0.001)


def peak(pid):
    """The most memory that a process had, MiB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise Failed(f"process {pid} has no VmHWM")


class Subject:
    """Mounted with `start`, which returns the raw file; away after `stop`."""

    name = "?"

    def __init__(self):
        self.folder = None
        self.child = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def new_folder(self):
        self.folder = f"mnt.{type(self).__name__}.{time.monotonic_ns()}"
        os.mkdir(self.folder)
        return self.folder

    def spawn(self, *command):
        self.child = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                      start_new_session=True)

    def appears(self, path, size):
        def there():
            if self.child.poll() is not None:
                raise Failed(f"{self.name}: {self.child.stderr.read().decode()}")
            return os.path.exists(path) and os.path.getsize(path) >= size
        wait_for(there, self.name)
        return path

    def memory(self):
        return peak(self.child.pid)

    def stop(self):
        if self.child and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(20)
        if self.child:
            # nbdfuse may leave its server behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
        if self.folder:
            for path in glob.glob(f"{self.folder}/*") + [self.folder]:
                if os.path.ismount(path):
                    subprocess.run(["umount", "-l", path], check=False)
            for path in glob.glob(f"{self.folder}/*"):
                os.unlink(path)
            os.rmdir(self.folder)
        self.folder = self.child = None


class Ours(Subject):
    name = "qcowfs"
    program = None

    def mount(self, source, *options):
        folder = self.new_folder()
        timing.command([self.program, "mount", "-q", *options, source, folder], LIMIT,
                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return folder

    def start(self, image, size):
        source = os.path.dirname(image)
        folder = self.mount(source)
        return self.find(folder, image)

    @staticmethod
    def find(folder, image):
        # One disk, named by its base; a checkpoint is named by its file.
        # Not by walking: who lists a restore point has its partition table read.
        name = os.path.basename(image)
        found = glob.glob(f"{folder}/*/{name}/disk.img")
        if len(found) != 1:
            raise Failed(f"qcowfs shows {found} for {image}")
        return found[0]

    def daemon(self):
        out = subprocess.run(["pgrep", "-f", "--", f" {self.folder}$"], check=True,
                             capture_output=True, text=True).stdout.split()
        return int(out[0])

    def memory(self):
        return peak(self.daemon())

    def stop(self):
        if self.folder:
            daemon = self.daemon()
            subprocess.run([self.program, "umount", self.folder], check=True, timeout=LIMIT)
            wait_for(lambda: not alive(daemon), "the end of qcowfs")
            os.rmdir(self.folder)
        self.folder = None


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class StorageDaemon(Subject):
    """qemu-storage-daemon's FUSE export."""

    name = "qemu-storage-daemon"

    def start(self, image, size):
        export = f"{self.new_folder()}/export"
        open(export, "w").close()
        form = "raw" if image.endswith(".raw") else "qcow2"
        self.spawn(
            "qemu-storage-daemon",
            "--blockdev", json.dumps({"driver": "file", "filename": image, "node-name": "file",
                                      "read-only": True}),
            "--blockdev", json.dumps({"driver": form, "file": "file", "node-name": "disk",
                                      "read-only": True}),
            "--export", f"type=fuse,id=export,node-name=disk,mountpoint={os.path.abspath(export)}")
        return self.appears(export, size)


class Nbd(Subject):
    """qemu-nbd, with nbdfuse in place of a kernel's nbd device."""

    name = "qemu-nbd + nbdfuse"

    def start(self, image, size):
        folder = self.new_folder()
        form = "raw" if image.endswith(".raw") else "qcow2"
        self.spawn("nbdfuse", "-r", folder, "[", "qemu-nbd", "-r", "-f", form, "-t", image, "]")
        return self.appears(f"{folder}/nbd", size)

    def stop(self):
        if self.folder and os.path.ismount(self.folder):
            subprocess.run(["umount", self.folder], check=False)
        super().stop()


class QcowMount(Subject):
    """libqcow's qcowmount, which knows no backing files."""

    name = "qcowmount"

    def start(self, image, size):
        folder = self.new_folder()
        self.spawn("qcowmount", "-X", "allow_other", image, folder)
        path = f"{folder}/qcow1"
        end = time.monotonic() + LIMIT
        while not os.path.exists(path):
            if time.monotonic() > end:
                raise Failed("qcowmount shows nothing")
            time.sleep(0.001)
        return path

    def memory(self):
        # It goes to the background by itself.
        out = subprocess.run(["pgrep", "-f", "--", f"qcowmount .*{self.folder}$"], check=True,
                             capture_output=True, text=True).stdout.split()
        return peak(int(out[-1]))

    def stop(self):
        if self.folder and os.path.ismount(self.folder):
            subprocess.run(["umount", self.folder], check=False)
        super().stop()


class RawFile(Subject):
    """The bytes without anything between."""

    name = "raw file"

    def start(self, image, size):
        return image

    def memory(self):
        return 0.0
