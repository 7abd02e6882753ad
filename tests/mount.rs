//! The life of a mount: options and errors, signals, unmounting.

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

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};

use rustix::process::{Signal, kill_process};

use common::content::sha256;
use common::mount::{LIMIT, is_mounted, lives, mounted_times};
use common::report::root_or_skip;
use common::run::scratch;
use common::watch::{holds_within, within};
use common::{Case, Mount, Run, User, View};

const FULL: &str = "vm-root.qcow2/FULL-1795161271-vm-root.qcow2";
const SECOND: &str = "vm-root.qcow2/INC-1795161277-vm-root.qcow2";

/// Runs a command that must fail, with one clear line; returns that line.
fn must_be_refused(what: &str, run: Run) -> String {
    let outcome = run.outcome();
    assert!(outcome.code.is_some_and(|c| c != 0), "{what}: exit code {:?}", outcome.code);
    let lines: Vec<_> = outcome.stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{what}: not one line: {}", outcome.stderr);
    assert!(lines[0].len() > 10 && !lines[0].contains("panicked"), "{what}: {}", lines[0]);
    outcome.stderr
}

/// Mounting that must be refused, on a mount point that is there unless it is said otherwise.
fn mount_must_be_refused(
    what: &str,
    source: &Path,
    options: &[&str],
    point: Option<&Path>,
) -> String {
    let mount = Mount::prepare(User::Own);
    let point = point.unwrap_or(mount.point()).to_path_buf();
    let already = mounted_times(&point);
    let run = Run::qcowfs().seconds(LIMIT).arg("mount").args(options).arg(source).arg(&point);
    let said = must_be_refused(what, run);
    assert_eq!(mounted_times(&point), already, "{what}: the mount table changed");
    said
}

#[test]
fn a_mount_point_that_is_not_empty_is_told() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::prepare(User::Own);
    let said = || mount.command(&case.backups(), &[]).ok().stderr;
    assert!(!said().contains("is not empty"));
    mount.take_down();
    let file = mount.path("file");
    std::fs::write(&file, "somebody's").expect("a file");
    assert!(said().contains("is not empty: what is in it is out of sight until"));
    assert!(!file.exists());
    mount.take_down();
    assert!(file.exists());
}

#[test]
fn what_cannot_be_mounted_is_refused_with_one_line() {
    let case = Case::unpack("qmpbackup-partial");
    let source = case.backups();
    let folder = scratch();
    let missing = folder.path().join("missing");
    let file = folder.path().join("a file");
    std::fs::write(&file, "not a folder").expect("a file");
    let inside = source.join("view");

    let said = mount_must_be_refused("mount point missing", &source, &[], Some(&missing));
    assert!(said.contains("missing"), "the mount point is not named: {said}");
    let said = mount_must_be_refused("mount point a file", &source, &[], Some(&file));
    assert!(said.contains("a file"), "the mount point is not named: {said}");
    let said = mount_must_be_refused("source missing", &missing, &[], None);
    assert!(said.contains("missing"), "the source is not named: {said}");
    std::fs::create_dir(&inside).expect("a folder in the source");
    mount_must_be_refused("mount point in the source", &source, &[], Some(&inside));
    mount_must_be_refused("mount point is the source", &source, &[], Some(&source));
    let said = mount_must_be_refused("unknown option", &source, &["-o", "sparkling"], None);
    assert!(said.contains("sparkling"), "the option is not named: {said}");
    mount_must_be_refused("unknown option among others", &source, &["-o", "ro,sparkling"], None);
    mount_must_be_refused("writable", &source, &["-o", "rw"], None);
}

#[test]
fn the_usual_mount_options_are_taken() {
    let case = Case::unpack("qmpbackup-partial");
    let options = ["-o", "ro,nodev,nosuid,fsname=backups of vm"];
    let mount = Mount::with(&case.backups(), User::Own, &options);
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let point = mount.point().to_str().expect("a plain path").to_owned();
    let line = table.lines().find(|l| l.contains(&point)).expect("our mount");
    assert!(line.contains("backups\\040of\\040vm"), "fsname: {line}");
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    assert!(line.split(' ').nth(5).is_some_and(|o| o.split(',').any(|w| w == "ro")), "{line}");
    mount.unmount();
}

#[test]
fn a_second_mount_on_the_same_point_is_refused() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::of(&case.backups());
    must_be_refused("second mount", mount.command(&case.backups(), &[]));
    assert_eq!(mounted_times(mount.point()), 1);
    assert!(!View::walk(mount.point()).checkpoints.is_empty(), "the first one serves no more");
    mount.unmount();
}

#[test]
fn the_command_lets_go_of_its_output_when_the_mount_answers() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::prepare(User::Own);
    // The shell waits until nobody holds the pipe's other end.
    let script = "said=$(\"$0\" mount \"$1\" \"$2\" 2>&1) && ls \"$2\"";
    let shell = Run::new("sh").args(["-c", script]).arg(env!("CARGO_BIN_EXE_qcowfs"));
    let outcome = shell.arg(case.backups()).arg(mount.point()).seconds(LIMIT).ok();
    assert!(outcome.text().contains("vm-root.qcow2"), "mounted, but empty: {}", outcome.text());
    mount.must_be_up();
    mount.unmount();
}

#[test]
fn the_daemon_holds_neither_the_folder_nor_the_terminal_of_its_start() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::prepare(User::Own);
    let start = scratch();
    mount.command(&case.backups(), &[]).folder(start.path()).ok();
    let process = format!("/proc/{}", mount.daemon().as_raw_nonzero());
    let folder = std::fs::read_link(format!("{process}/cwd")).expect("its folder");
    assert_ne!(folder, start.path().canonicalize().expect("a folder"), "the daemon keeps it busy");
    mount.unmount();
}

#[test]
fn the_daemon_holds_no_descriptor_that_was_left_open_for_it() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::prepare(User::Own);
    let folder = scratch();
    let lock = folder.path().join("lock");
    std::fs::write(&lock, "").expect("a file");
    let script = "exec 7<\"$3\" 199<\"$3\" && exec \"$0\" mount \"$1\" \"$2\"";
    let shell = Run::new("bash").args(["-c", script]).arg(env!("CARGO_BIN_EXE_qcowfs"));
    shell.arg(case.backups()).arg(mount.point()).arg(&lock).seconds(LIMIT).ok();
    let open = format!("/proc/{}/fd", mount.daemon().as_raw_nonzero());
    let open = std::fs::read_dir(open).expect("its descriptors").flatten();
    let open: Vec<_> = open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
    assert!(open.contains(&PathBuf::from("/dev/fuse")), "not all are seen: {open:?}");
    assert!(!open.contains(&lock), "the daemon holds what was left open: {open:?}");
    mount.unmount();
}

#[test]
fn relative_paths_mean_the_folder_of_the_start() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::prepare(User::Own);
    let point = mount.point().file_name().expect("a name").to_owned();
    let source = case.backups();
    std::os::unix::fs::symlink(&source, mount.point().with_file_name("source")).expect("a link");
    let run = mount.qcowfs().args(["mount", "source"]).arg(point);
    run.folder(mount.point().parent().expect("a folder")).ok();
    assert!(is_mounted(mount.point()));
    View::walk(mount.point()).of_file("vm-root.qcow2/FULL-1795161317-vm-root.qcow2");
    let outcome = mount.umount_command();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(holds_within(LIMIT, || !is_mounted(mount.point())));
}

#[test]
fn the_signals_unmount_and_end_the_daemon() {
    let case = Case::unpack("qmpbackup-partial");
    for signal in [Signal::TERM, Signal::INT] {
        let mount = Mount::of(&case.backups());
        kill_process(mount.daemon(), signal).expect("a signal to the daemon");
        mount.must_go();
    }
}

#[test]
fn after_sigterm_an_open_file_is_served_until_it_is_closed() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let image = mount.path(View::walk(mount.point()).of_file(FULL).image());
    let wanted = case.truth().checkpoints().find(|c| c.file == Path::new(FULL)).expect("known");
    // Past the page cache, so that each read is a question to the daemon.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&image);
    let file = open.expect("disk.img");
    let daemon = mount.daemon();
    kill_process(daemon, Signal::TERM).expect("a signal to the daemon");

    let (file, hash) = within(120, "reading after SIGTERM", move || {
        let hash = hash_direct(&file);
        (file, hash)
    });
    assert_eq!(hash, wanted.sha256, "content after SIGTERM");
    assert!(lives(daemon), "the daemon left an open file alone");
    drop(file);
    mount.must_go();
}

/// Hashes a file that was opened with `O_DIRECT`, whose buffers must be aligned.
fn hash_direct(file: &File) -> String {
    let size = file.metadata().expect("its size").len();
    let mut all = Vec::new();
    let mut buffer = vec![0; (1 << 20) + 4096];
    let start = buffer.as_ptr().align_offset(4096);
    while (all.len() as u64) < size {
        let chunk = &mut buffer[start..start + (1 << 20)];
        let got = file.read_at(chunk, all.len() as u64).expect("a read after SIGTERM");
        assert!(got > 0, "the file ends at {} of {size}", all.len());
        all.extend_from_slice(&chunk[..got]);
    }
    common::content::sha256_of(&all)
}

#[test]
fn umount_refuses_what_is_not_ours() {
    let folder = scratch();
    let plain = Run::qcowfs().seconds(LIMIT).arg("umount").arg(folder.path());
    must_be_refused("umount of a plain folder", plain);
    let missing = folder.path().join("missing");
    must_be_refused("umount of nothing", Run::qcowfs().seconds(LIMIT).arg("umount").arg(missing));
    if !root_or_skip("umount_refuses_what_is_not_ours (a tmpfs)") {
        return;
    }
    let other = folder.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    Run::new("mount").args(["-t", "tmpfs", "none"]).arg(&other).ok();
    let run = Run::qcowfs().seconds(LIMIT).arg("umount").arg(&other);
    let refused = std::panic::catch_unwind(|| must_be_refused("umount of a tmpfs", run));
    let still = is_mounted(&other.canonicalize().expect("a path"));
    Run::new("umount").arg(&other).outcome();
    refused.expect("umount of a tmpfs");
    assert!(still, "the tmpfs was unmounted");
}

#[test]
fn a_foreground_mount_stays_until_it_is_unmounted() {
    let case = Case::unpack("qmpbackup-partial");
    for flag in ["-f", "--foreground"] {
        let mount = Mount::prepare(User::Own);
        let mut child = mount.command(&case.backups(), &[flag]).start();
        let up = holds_within(LIMIT, || is_mounted(mount.point()));
        assert!(up, "{flag}: nothing is mounted");
        assert_eq!(mount.daemon().as_raw_nonzero().get().cast_unsigned(), child.id());
        assert!(!View::walk(mount.point()).checkpoints.is_empty());
        assert!(child.try_wait().expect("its state").is_none(), "{flag}: it went away");
        assert_eq!(mount.umount_command().code, Some(0));
        let status = within(LIMIT, "the end of a foreground mount", move || child.wait());
        assert!(status.expect("its end").success(), "{flag}");
        assert!(!is_mounted(mount.point()));
    }
}

#[test]
fn the_log_goes_to_the_file_that_is_named() {
    let case = Case::unpack("qmpbackup-partial");
    let folder = scratch();
    let log = folder.path().join("log");
    let name = log.to_str().expect("a plain path");
    let mount = Mount::with(&case.backups(), User::Own, &["-v", "--log-file", name]);
    View::walk(mount.point());
    mount.unmount();
    assert!(!std::fs::read_to_string(&log).expect("the log").trim().is_empty(), "an empty log");
}

#[test]
fn whoever_has_no_syslog_is_told_how_to_keep_the_log() {
    let case = Case::unpack("qmpbackup-partial");
    let folder = scratch();
    let log = folder.path().join("log");
    let name = log.to_str().expect("a plain path");
    let takes = |socket: &str| {
        let datagram = UnixDatagram::unbound().and_then(|from| from.connect(socket));
        datagram.is_ok() || UnixStream::connect(socket).is_ok()
    };
    let has_syslog = ["/dev/log", "/var/run/syslog", "/var/run/log"].into_iter().any(takes);
    let note = "qcowfs: note: there is no syslog here; say --log-file FILE to keep the reasons of \
                read errors\n";
    let told = if has_syslog { "" } else { note };
    for (options, told) in [(&[][..], told), (&["--log-file", name], "")] {
        let mount = Mount::prepare(User::Own);
        assert_eq!(mount.command(&case.backups(), options).ok().stderr, told, "{options:?}");
        mount.must_be_up();
        mount.unmount();
    }
}

#[test]
fn one_image_as_the_source_brings_its_chain() {
    let case = Case::unpack("qmpbackup-new");
    let image = case.backups().join(SECOND);
    let mount = Mount::of(&image);
    let view = View::walk(mount.point());
    let name = Path::new(SECOND).file_name().map(PathBuf::from).expect("a name");
    let is = |file: &Path| file.file_name() == Some(name.as_os_str());
    let seen = view.checkpoints.iter().find(|c| is(c.file())).expect("the image that was named");
    let wanted = case.truth().checkpoints().find(|c| is(&c.file)).expect("known");
    assert!(seen.whole, "{:?}", seen.error);
    assert_eq!(sha256(&mount.path(seen.image())), wanted.sha256);
    mount.unmount();
}

#[test]
fn help_and_version_are_told_and_nonsense_is_refused() {
    for args in [["--help"], ["--version"]] {
        assert!(!Run::qcowfs().args(args).ok().stdout.is_empty(), "{args:?}");
    }
    for args in [&["mount"][..], &["mount", "only-a-source"], &["frobnicate"], &[]] {
        let outcome = Run::qcowfs().args(args).outcome();
        assert!(outcome.code.is_some_and(|c| c != 0), "{args:?}: {:?}", outcome.code);
        assert!(!outcome.stderr.is_empty(), "{args:?}: no reason");
    }
}
