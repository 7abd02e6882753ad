//! What happens to the daemon itself: killed, told to end while it is used, its log on a full disk,
//! a reader that hits one bad place for ever.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::unnecessary_debug_formatting,
    reason = "a test stops where something is not as it must be, and shows names escaped"
)]

mod common;

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::layered::Layered;
use common::mount::{LIMIT, give, is_mounted, lives, mounted_times};
use common::paged::{How, PAGE, must_be_right, must_read, open, page, pages};
use common::qcow2_editor::Editor;
use common::report::{root_or_skip, skipped};
use common::run::scratch;
use common::watch::{holds_within, within};
use common::{Mount, Run, User, View};

/// A mounted chain and the daemon's log.
struct Served {
    layers: Layered,
    mount: Mount,
    log: PathBuf,
    folder: TempDir,
}

impl Served {
    fn new(user: User) -> Self {
        Self::with(user, |_| ())
    }

    /// After `prepare` was done to the files.
    fn with(user: User, prepare: impl FnOnce(&Layered)) -> Self {
        let folder = scratch();
        let layers = Layered::create(&folder.path().join("backups"), 3, 61);
        prepare(&layers);
        let log = folder.path().join("log");
        std::fs::write(&log, "").expect("a log");
        give(folder.path(), user);
        let served = Self { layers, mount: Mount::prepare(user), log, folder };
        served.command().ok();
        served.mount.must_be_up();
        served
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    fn command(&self) -> Run {
        let log = self.log.to_str().expect("a plain path");
        self.mount.command(&self.source(), &["-v", "--log-file", log])
    }

    fn image(&self, layer: usize) -> PathBuf {
        let listed = View::listed(&self.source());
        self.mount.path(listed.of_file(format!("layer{layer}.qcow2")).image())
    }

    fn kill(&self) {
        let daemon = self.mount.daemon();
        kill_process(daemon, Signal::KILL).expect("a signal to the daemon");
        assert!(holds_within(LIMIT, || !lives(daemon)));
        assert!(is_mounted(self.mount.point()), "there is no dead mount");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    fn must_log(&self, what: &str) {
        assert!(holds_within(LIMIT, || self.log().contains(what)), "no {what:?}: {}", self.log());
    }

    fn must_be_right(&self) {
        for (layer, disk) in self.layers.disks.iter().enumerate() {
            must_be_right(&self.image(layer), disk);
        }
    }
}

/// Whether an ordinary user can mount at all; says that `test` is skipped where none can.
fn can_mount_or_skip(test: &str) -> bool {
    let device = std::fs::metadata("/dev/fuse").expect("/dev/fuse");
    let open = device.permissions().mode() & 0o006 == 0o006;
    if !open {
        skipped("/dev/fuse is closed to ordinary users, and chmod 666 would open it", test);
    }
    open
}

#[test]
fn after_sigkill_the_same_command_mounts_again() {
    let served = Served::new(User::Own);
    served.kill();
    served.command().ok();
    assert_eq!(mounted_times(served.mount.point()), 1, "the dead mount is below the new one");
    served.must_log("whose process is gone: removed");
    served.must_be_right();
    served.mount.unmount();
}

#[test]
fn after_sigkill_the_same_command_mounts_again_for_an_ordinary_user() {
    if !can_mount_or_skip("after_sigkill_the_same_command_mounts_again_for_an_ordinary_user") {
        return;
    }
    let served = Served::new(User::Ordinary);
    served.kill();
    served.command().ok();
    assert_eq!(mounted_times(served.mount.point()), 1, "the dead mount is below the new one");
    served.must_log("whose process is gone: removed");
    let read = served.mount.run("cat").arg(served.image(2)).ok().stdout;
    assert!(read == served.layers.disks[2], "other bytes");
    served.mount.unmount();
}

#[test]
fn after_sigkill_a_mount_by_way_of_a_link_and_with_a_reader_left_inside_works() {
    let served = Served::new(User::Own);
    let left = open(&served.image(0), How::Direct);
    served.kill();
    let link = served.folder.path().join("link");
    std::os::unix::fs::symlink(served.mount.point(), &link).expect("a link");
    served.mount.qcowfs().arg("mount").arg(served.source()).arg(&link).ok();
    assert_eq!(mounted_times(served.mount.point()), 1, "the dead mount is below the new one");
    served.must_be_right();
    assert_eq!(within(LIMIT, "a read of a dead file", move || page(&left, 0)), Err(libc::ENOTCONN));
    served.mount.take_down();
    assert!(holds_within(LIMIT, || common::mount::daemons(&link).is_empty()), "the daemon stays");
}

/// A file system of another program, whose process is gone as well.
#[test]
fn a_dead_mount_of_another_program_is_left_alone() {
    let served = Served::new(User::Own);
    let point = served.folder.path().join("other");
    std::fs::create_dir(&point).expect("a folder");
    let nbdfuse = Run::new("nbdfuse").arg("-r").arg(&point).arg("--command");
    let mut nbdfuse = nbdfuse.args(["nbdkit", "-s", "null", "4096"]).start();
    let up = holds_within(LIMIT, || is_mounted(&point));
    kill_process(Pid::from_child(&nbdfuse), Signal::KILL).expect("a signal to nbdfuse");
    within(LIMIT, "the end of nbdfuse", move || nbdfuse.wait()).expect("its end");
    let outcome = Run::qcowfs().arg("mount").arg(served.source()).arg(&point).outcome();
    let still = is_mounted(&point);
    Run::new(if common::run::is_root() { "umount" } else { "fusermount3" })
        .args(if common::run::is_root() { &["-l"][..] } else { &["-u", "-z"] })
        .arg(&point)
        .outcome();
    assert!(up && still, "up {up}, after qcowfs {still}");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("already a mount point"), "{}", outcome.stderr);
    served.mount.unmount();
}

/// A stopped daemon is not a dead one: its readers get their bytes when it goes on. Nobody who asks
/// it something waits for that.
#[test]
fn a_mount_over_the_view_of_a_stopped_daemon_is_refused_and_does_not_wait() {
    let served = Served::new(User::Own);
    let daemon = served.mount.daemon();
    kill_process(daemon, Signal::STOP).expect("a signal to the daemon");
    // The limit of the command is shorter than what a test may take for a hung mount.
    let outcome = served.command().outcome();
    kill_process(daemon, Signal::CONT).expect("a signal to the daemon");
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("already mounted"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("qcowfs umount"), "{}", outcome.stderr);
    assert_eq!(mounted_times(served.mount.point()), 1);
    served.must_be_right();
    served.mount.unmount();
}

#[test]
fn a_busy_view_is_not_unmounted_and_it_is_said_how_to_find_who_uses_it() {
    let served = Served::new(User::Own);
    let file = open(&served.image(2), How::Direct);
    let outcome = served.mount.umount_command();
    assert_eq!(outcome.code, Some(1));
    let point = served.mount.point().display();
    assert!(outcome.stderr.contains(&format!("`fuser -vm {point}`")), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--lazy"), "{}", outcome.stderr);
    drop(file);
    served.must_be_right();
    served.mount.unmount();
}

/// After the first signal a reader keeps the view; after the second one it keeps its file.
#[test]
fn a_second_signal_detaches_a_busy_view_and_its_readers_finish() {
    for second in [Signal::TERM, Signal::INT] {
        let served = Served::new(User::Own);
        let daemon = served.mount.daemon();
        let file = open(&served.image(2), How::Direct);
        kill_process(daemon, Signal::TERM).expect("a signal to the daemon");
        served.must_log("a second SIGTERM or Ctrl-C detaches it at once");
        served.must_be_right();
        assert!(is_mounted(served.mount.point()), "the first signal took the view away");
        kill_process(daemon, second).expect("a second signal to the daemon");
        assert!(holds_within(LIMIT, || !is_mounted(served.mount.point())), "still mounted");
        served.must_log("detached: served until its last user lets go");
        let disk = served.layers.disks[2].clone();
        let file = within(LIMIT, "reading in a detached view", move || {
            for (number, wanted) in disk.chunks(PAGE).enumerate() {
                assert!(page(&file, number).as_deref() == Ok(wanted), "page {number}");
            }
            file
        });
        assert!(lives(daemon), "the daemon left an open file alone");
        drop(file);
        served.mount.must_go();
    }
}

#[test]
fn a_second_signal_detaches_the_busy_view_of_an_ordinary_user() {
    if !can_mount_or_skip("a_second_signal_detaches_the_busy_view_of_an_ordinary_user") {
        return;
    }
    let served = Served::new(User::Ordinary);
    let daemon = served.mount.daemon();
    let script = "exec 3<\"$0\" && echo > \"$1\" && exec sleep 1000";
    let (ready, image) = (served.folder.path().join("ready"), served.image(2));
    let holder = served.mount.run("sh").args(["-c", script]).arg(image).arg(&ready);
    let mut holder = holder.start();
    let mut is_held = holds_within(LIMIT, || ready.exists());
    kill_process(daemon, Signal::TERM).expect("a signal to the daemon");
    is_held &= holds_within(LIMIT, || served.log().contains("detaches it at once"));
    kill_process(daemon, Signal::TERM).expect("a second signal to the daemon");
    let gone = holds_within(LIMIT, || !is_mounted(served.mount.point()));
    let alive = lives(daemon);
    holder.kill().expect("the end of the reader");
    holder.wait().expect("the end of the reader");
    assert!(
        is_held && gone && alive,
        "held {is_held}, gone {gone}, alive {alive}: {}",
        served.log()
    );
    served.mount.must_go();
}

/// Reads of one bad place.
const READS: usize = 20_000;

/// The first L2 entry of the chain's base leads past the end of the file: its page is EIO.
fn break_a_page(layers: &Layered) {
    let mut editor = Editor::open(layers.file(0));
    let entry = editor.first_data();
    editor.put(entry.at, 1 << 40);
    editor.save();
}

/// Page 0 of the base, unless an overlay has its own.
fn is_broken(layers: &Layered, checkpoint: usize, page: usize) -> bool {
    page == 0 && layers.owner(checkpoint, page) == 0
}

fn must_read_all_but_the_broken_page(served: &Served) {
    for (layer, disk) in served.layers.disks.iter().enumerate() {
        let bad = |page| is_broken(&served.layers, layer, page);
        must_read(&served.image(layer), How::Direct, disk, bad);
    }
}

#[test]
fn a_full_disk_under_the_log_changes_nothing() {
    if !root_or_skip("a_full_disk_under_the_log_changes_nothing") {
        return;
    }
    let mut served = Served::with(User::Own, break_a_page);
    served.mount.take_down();
    let small = served.folder.path().join("small");
    std::fs::create_dir(&small).expect("a folder");
    Run::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&small).ok();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        served.log = small.join("log");
        served.command().ok();
        let filler = Run::new("dd").args(["if=/dev/zero", "bs=4096"]);
        filler.arg(format!("of={}", small.join("filler").display())).outcome();
        let image = served.image(0);
        let outcomes = pages(&image, How::Direct, vec![0; 100]);
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == Err(libc::EIO)));
        must_read_all_but_the_broken_page(&served);
        served.mount.take_down();
    }));
    Run::new("umount").arg("-l").arg(&small).ok();
    outcome.expect("a full disk under the log");
}

#[test]
fn a_log_that_takes_nothing_changes_nothing() {
    let mut served = Served::with(User::Own, break_a_page);
    served.mount.take_down();
    served.log = PathBuf::from("/dev/full");
    for verbosity in ["-q", "-vvv"] {
        served.mount.command(&served.source(), &[verbosity, "--log-file", "/dev/full"]).ok();
        served.mount.must_be_up();
        must_read_all_but_the_broken_page(&served);
        served.mount.take_down();
    }
}

#[test]
fn a_reader_that_hits_a_bad_place_for_ever_does_not_fill_the_log() {
    let served = Served::with(User::Own, break_a_page);
    let outcomes = pages(&served.image(0), How::Direct, vec![0; READS]);
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Err(libc::EIO)));
    let said = served.log();
    let lines = said.lines().filter(|line| line.contains("layer0.qcow2")).count();
    // Some for each minute that it took.
    assert!((10..400).contains(&lines), "{lines} lines:\n{said}");
    assert!(said.contains("layer0.qcow2: more like it are counted only"), "{said}");
    served.mount.take_down();
    served.must_log(" more like it");
    let said = served.log();
    let counts = said.lines().filter_map(|line| line.split("... and ").nth(1));
    let counts = counts.filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    assert!(counts.sum::<usize>() >= READS - 400, "{said}");
}

#[test]
fn a_descriptor_of_the_view_outlives_its_killed_daemon_with_errors() {
    let served = Served::new(User::Own);
    let image = served.image(1);
    let file: File = open(&image, How::Direct);
    served.kill();
    let read = within(LIMIT, "a read", move || page(&file, 1));
    // A request that reached the daemon before its end is aborted with it.
    assert!([Err(libc::ENOTCONN), Err(libc::ECONNABORTED)].contains(&read), "{read:?}");
    let gone = within(LIMIT, "stat", move || Path::new(&image).metadata().map(drop));
    assert_eq!(gone.err().and_then(|e| e.raw_os_error()), Some(libc::ENOTCONN));
    served.mount.qcowfs().args(["umount", "--lazy"]).arg(served.mount.point()).ok();
    served.mount.must_go();
}
