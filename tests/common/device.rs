//! A device that fails, or does not answer, when the test says so: nbdkit behind nbdfuse, whose
//! one file lies over a file of the source.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use super::mount::mounted_times;
use super::paged::forget;
use super::run::{Run, is_root, scratch};
use super::watch::holds_within;

/// Seconds that its start and its end may take.
const LIMIT: u64 = 20;

/// Fails a read that touches the range in `bad`, waits while there is `stuck`, and reads `real`.
const PREAD: &str = r#"
if [ -e "$dir/bad" ]; then
    read from to < "$dir/bad"
    if [ "$4" -lt "$to" ] && [ $(($4 + $3)) -gt "$from" ]; then
        echo "EIO a bad range" >&2
        exit 1
    fi
fi
while [ -e "$dir/stuck" ]; do
    : > "$dir/waiting"
    sleep 0.05
done
dd if="$dir/real" iflag=skip_bytes,count_bytes skip="$4" count="$3" status=none
"#;

/// Seconds that an unmounted file system may take to end.
const FAREWELL: u64 = 3;

/// The device under one file.
#[derive(Debug)]
pub(crate) struct Device {
    file: PathBuf,
    folder: TempDir,
    fuse: Child,
}

impl Device {
    /// Puts `file` on a device of its own, where its bytes are the same.
    pub(crate) fn under(file: &Path) -> Self {
        // Without it nbdfuse would end, and nobody would know why.
        Run::new("nbdkit").arg("--version").ok();
        let file = file.canonicalize().expect("a file of the source");
        let folder = scratch();
        let dir = folder.path().to_path_buf();
        std::fs::copy(&file, dir.join("real")).expect("a copy");
        let shell = format!("dir={dir:?}\n");
        // Killed, it leaves its scripts where it made them.
        let run = Run::new("nbdfuse").arg("-r").arg(&file).arg("--command").arg("env");
        let run = run.arg(format!("TMPDIR={}", dir.display())).arg("nbdkit");
        let run = run.args(["-s", "-P"]).arg(dir.join("pid")).arg("eval");
        let run = run.arg(format!("get_size={shell}stat -c %s \"$dir/real\""));
        let fuse = run.arg(format!("pread={shell}{PREAD}")).start();
        let device = Self { file, folder, fuse };
        let up =
            holds_within(LIMIT, || mounted_times(&device.file) == 1 && device.path("pid").exists());
        assert!(up, "nbdfuse does not come up over {:?}", device.file);
        device
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From now on every read that touches these bytes of the file fails with EIO.
    pub(crate) fn fail(&self, range: &Range<u64>) {
        // The shell may read it at any moment: it must be whole then.
        let new = self.path("new");
        std::fs::write(&new, format!("{} {}\n", range.start, range.end)).expect("a file");
        std::fs::rename(new, self.path("bad")).expect("a file");
        forget(&self.file);
    }

    /// From now on reads wait.
    pub(crate) fn stick(&self) {
        let _ = std::fs::remove_file(self.path("waiting"));
        std::fs::write(self.path("stuck"), "").expect("a file");
        forget(&self.file);
    }

    /// Waits until a read waits.
    pub(crate) fn must_be_waited_for(&self) {
        assert!(holds_within(LIMIT, || self.path("waiting").exists()), "nobody reads the device");
    }

    /// Everything is well again.
    pub(crate) fn heal(&self) {
        for name in ["bad", "stuck"] {
            let _ = std::fs::remove_file(self.path(name));
        }
    }

    /// Kills the server: the device is gone, its file is still there.
    pub(crate) fn kill_server(&self) {
        let pid = std::fs::read_to_string(self.path("pid")).expect("nbdkit's pid file");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("nbdkit's pid");
        kill_process(pid, Signal::KILL).expect("a signal to nbdkit");
    }

    /// Kills the file system of its one file: that is a dead mount then.
    pub(crate) fn kill_file_system(&mut self) {
        kill_process(Pid::from_child(&self.fuse), Signal::KILL).expect("a signal to nbdfuse");
        self.fuse.wait().expect("its end");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.heal();
        let run = if is_root() {
            Run::new("umount").arg("-l")
        } else {
            Run::new("fusermount3").args(["-u", "-z"])
        };
        let run = run.arg(&self.file).seconds(10);
        // A second panic while the first one unwinds would end the whole program.
        let _ = std::thread::spawn(move || run.outcome()).join();
        // By itself it takes away what it made in /tmp.
        let ended =
            holds_within(FAREWELL, || self.fuse.try_wait().is_ok_and(|code| code.is_some()));
        if !ended {
            let _ = kill_process_group(Pid::from_child(&self.fuse), Signal::KILL);
            let _ = self.fuse.wait();
        }
    }
}
