//! Where `qcowfs restore` writes to: existing files, devices, file systems with reflinks; and what
//! is left when it is interrupted.

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
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::content::{bytes, must_equal, sha256};
use common::prng::Prng;
use common::report::root_or_skip;
use common::run::{end, scratch};
use common::source_state::SourceState;
use common::watch::holds_within;
use common::{Case, FileSystem, Loop, Run};

const MIB: usize = 1 << 20;

fn restore(source: &Path, point: &str, target: &Path) -> Run {
    Run::qcowfs().arg("restore").arg(source).arg(point).arg(target).seconds(120)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A source with one raw disk full of noise, large enough to be caught in the midst of it.
fn noise(mib: usize) -> TempDir {
    let folder = scratch();
    let file = File::create(folder.path().join("disk")).unwrap();
    let block = Prng::new(7).bytes(MIB + 1);
    for n in 0..mib {
        // No two alike, and none of it shrinks.
        let from = n % 17;
        file.write_all_at(&block[from..from + MIB - 32], (n * MIB) as u64).unwrap();
    }
    file.set_len((mib * MIB) as u64).unwrap();
    std::fs::write(folder.path().join("qcowfs.toml"), "[image.\"disk\"]\nformat = \"raw\"\n")
        .unwrap();
    folder
}

#[test]
fn an_existing_file_is_overwritten_only_if_that_is_said() {
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let target = folder.path().join("disk.raw");
    std::fs::write(&target, "somebody's").unwrap();
    let point = "vm-root.qcow2@latest";
    let refused = restore(&case.backups(), point, &target).outcome();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("exists: say --force"), "{}", refused.stderr);
    assert_eq!(bytes(&target), b"somebody's");
    restore(&case.backups(), point, &target).arg("--force").ok();
    let wanted = &case.truth().disks.iter().find(|d| d.name == "vm-root.qcow2").unwrap();
    let wanted = &wanted.checkpoints.last().unwrap().sha256;
    assert_eq!(&sha256(&target), wanted);
    // A folder: the file is named after the disk. A link: what it leads to is replaced.
    let told = restore(&case.backups(), point, folder.path()).ok().text();
    assert!(told.contains("/vm-root.qcow2.raw: vm-root.qcow2/INC-1795161280 of 2026-"), "{told}");
    assert_eq!(&sha256(&folder.path().join("vm-root.qcow2.raw")), wanted);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("disk.raw", &link).unwrap();
    std::fs::write(&target, "old").unwrap();
    restore(&case.backups(), point, &link).arg("--force").ok();
    assert!(link.is_symlink());
    assert_eq!(&sha256(&target), wanted);
    for wrong in
        ["/dev/null", "/dev/no-such-disk", "no/such/folder/disk.raw", "no-such-folder/../disk.raw"]
    {
        let run = restore(&case.backups(), point, Path::new(wrong)).arg("--force");
        let refused = run.folder(folder.path()).outcome();
        assert_eq!(refused.code, Some(1), "{wrong}: {}", refused.stderr);
    }
    assert!(!folder.path().join("no-such-folder").exists());
    // What can only be a folder is made, as for the disks of a VM.
    restore(&case.backups(), point, Path::new("new/")).folder(folder.path()).ok();
    assert_eq!(&sha256(&folder.path().join("new/vm-root.qcow2.raw")), wanted);
    assert!(!Path::new("/dev/no-such-disk").exists(), "a file in the place of a device");
    let all = restore(&case.backups(), "@latest", &target).arg("--force").outcome();
    assert!(all.stderr.contains("disk.raw: all disks of a VM go to a folder"), "{}", all.stderr);
    let all = restore(&case.backups(), "@latest", &folder.path().join("other.img")).outcome();
    assert!(all.stderr.contains("other.img: would be a folder, for @latest is"), "{}", all.stderr);
    assert!(!folder.path().join("other.img").exists());
}

/// A pipe that nobody reads is full soon, and a write to it does not return.
#[test]
fn one_signal_ends_a_restore_into_a_pipe_that_is_stuck() {
    let source = noise(8);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut child = Command::new("env")
            .arg("--default-signal")
            .arg(env!("CARGO_BIN_EXE_qcowfs"))
            .args(["restore", "-q"])
            .arg(source.path())
            .args(["@latest", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stat = format!("/proc/{}/syscall", child.id());
        // Until it waits in write(2): number 1 or 64, to descriptor 1 or a copy of it.
        let is_stuck = || {
            let call = std::fs::read_to_string(&stat).unwrap_or_default();
            call.starts_with("1 0x") || call.starts_with("64 0x")
        };
        assert!(holds_within(30, is_stuck), "the pipe takes all of it");
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = holds_within(10, || child.try_wait().unwrap().is_some());
        if !ended {
            child.kill().unwrap();
        }
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(ended, "{signal:?}: it waits for the reader");
        assert_eq!(out.status.code(), Some(1), "{signal:?}: {said}");
        assert!(said.contains("interrupted: what came out is not the whole disk"), "{said}");
    }
}

#[test]
fn a_terminal_is_asked_before_anything_is_overwritten() {
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let target = folder.path().join("disk.raw");
    // Answers once it is asked, and keeps the terminal open until the program's end.
    let ask = |answer: &[u8]| {
        let program = env!("CARGO_BIN_EXE_qcowfs");
        let (source, target) = (case.backups(), target.display());
        // Whoever runs the tests in the background has Ctrl-C ignored.
        let program = format!("env --default-signal {program}");
        let restore =
            format!("{program} restore {} vm-root.qcow2@latest {target}", source.display());
        let (keys, shown) = (folder.path().join("keys"), folder.path().join("shown"));
        let _none_yet = (std::fs::remove_file(&keys), std::fs::remove_file(&shown));
        Run::new("mkfifo").arg(&keys).ok();
        let line = "script -q -f -e -c \"$1\" \"$2\" < \"$3\"";
        let run = Run::new("sh").args(["-c", line, "sh", &restore]).arg(&shown).arg(&keys);
        let run = std::thread::spawn(move || run.outcome());
        let mut keys = OpenOptions::new().write(true).open(&keys).unwrap();
        let asked = || bytes(&shown).windows(5).any(|seen| seen == b"[y/N]");
        assert!(holds_within(30, || shown.exists() && asked()), "nobody asks");
        keys.write_all(answer).unwrap();
        run.join().unwrap()
    };
    // The last one is Ctrl-C, which is no answer: it ends the program.
    let answers: [(&[u8], i32); 4] = [(b"n\n", 1), (b"\n", 1), (b"y\n", 0), (b"\x03", 128 + 2)];
    for (answer, code) in answers.map(|(answer, code)| (answer, Some(code))) {
        std::fs::write(&target, "somebody's").unwrap();
        let outcome = ask(answer);
        assert_eq!(outcome.code, code, "{answer:?}: {}", outcome.text());
        assert!(outcome.text().contains("exists. Overwrite it? [y/N]"), "{}", outcome.text());
        assert_eq!(bytes(&target) == b"somebody's", code != Some(0), "{answer:?}");
    }
}

#[test]
fn a_disk_goes_to_the_standard_output() {
    let case = Case::unpack("qmpbackup-new");
    let disk = case.truth().disks.iter().find(|d| d.name == "vm-root.qcow2").unwrap();
    let wanted = &disk.checkpoints.last().unwrap().sha256;
    let folder = scratch();
    let sh = |line: &str| {
        let run = Run::new("sh").args(["-c", line, "sh", env!("CARGO_BIN_EXE_qcowfs")]);
        run.arg(case.backups()).arg("vm-root.qcow2@latest").folder(folder.path()).outcome()
    };
    let piped = sh("\"$1\" restore \"$2\" \"$3\" - | cat > piped");
    assert!(piped.stderr.contains("standard output: vm-root.qcow2/INC-"), "{}", piped.stderr);
    let filed = sh("\"$1\" restore -q \"$2\" \"$3\" - > filed");
    assert_eq!((filed.code, filed.stderr.as_str()), (Some(0), ""));
    for name in ["piped", "filed"] {
        assert_eq!(&sha256(&folder.path().join(name)), wanted, "{name}");
    }
    let taken = |name: &str| folder.path().join(name).metadata().unwrap().blocks() * 512;
    assert!(taken("filed") < taken("piped") / 2, "not sparse");
    for (options, told) in
        [("-O qcow2 -", "only a raw disk"), ("--verify -", "cannot be read again")]
    {
        let refused = sh(&format!("\"$1\" restore \"$2\" \"$3\" {options} > refused"));
        assert_eq!(refused.code, Some(1), "{options}");
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
        assert!(bytes(&folder.path().join("refused")).is_empty(), "{options}");
    }
    let all = sh("\"$1\" restore \"$2\" @latest -");
    assert!(all.stderr.contains("only one disk"), "{}", all.stderr);
    let (program, source) = (env!("CARGO_BIN_EXE_qcowfs"), case.backups());
    let line = format!("{program} restore {} vm-root.qcow2@latest -", source.display());
    let asked = Run::new("script").args(["-q", "-e", "-c", &line, "/dev/null"]).outcome();
    assert_eq!(asked.code, Some(1));
    assert!(asked.text().contains("not written to a terminal"), "{}", asked.text());
    assert!(!folder.path().join("-").exists());
}

#[test]
fn the_source_is_never_written_to() {
    let case = Case::unpack("qmpbackup-new");
    let before = SourceState::of(&case.backups());
    let full = case.backups().join("vm-root.qcow2/FULL-1795161271-vm-root.qcow2");
    for target in [full.clone(), case.backups().join("new.raw"), case.backups()] {
        let run = restore(&case.backups(), "vm-root.qcow2@latest", &target);
        let refused = run.args(["--force", "-O", "raw"]).outcome();
        assert_eq!(refused.code, Some(1), "{target:?}");
        assert!(refused.stderr.contains("lies in the source"), "{}", refused.stderr);
    }
    let refused = restore(&case.backups(), "@latest", &case.backups().join("new/vm")).outcome();
    assert!(refused.stderr.contains("lies in the source"), "{}", refused.stderr);
    let refused = restore(&full, "@latest", &full).args(["--force", "-O", "raw"]).outcome();
    assert!(refused.stderr.contains("lies in the source"), "{}", refused.stderr);
    before.must_still_hold(&case.backups());
}

#[test]
fn wrong_formats_are_refused_with_what_to_say() {
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let run = |target: &str, options: &[&str]| {
        let target = folder.path().join(target);
        restore(&case.backups(), "vm-root.qcow2@latest", &target).args(options).outcome()
    };
    for (target, options, told) in [
        ("disk.qcow2", &[][..], "say -O qcow2"),
        ("disk.raw", &["-c", "zstd"], "say -O qcow2"),
        ("disk.VMDK", &[], "say -O raw if that is meant"),
        ("disk.raw", &["-O", "raw", "--compress"], "say -O qcow2"),
    ] {
        let refused = run(target, options);
        assert_eq!(refused.code, Some(1), "{target} {options:?}");
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
    }
    assert_eq!(run("disk.raw", &["-O", "vmdk"]).code, Some(2));
    assert!(names(folder.path()).is_empty());
    let quiet = run("disk.qcow2", &["-q", "-O", "raw"]);
    assert_eq!((quiet.code, quiet.text(), quiet.stderr.as_str()), (Some(0), String::new(), ""));
}

#[test]
fn a_block_device_reads_as_the_disk_and_behind_it_as_before() {
    if !root_or_skip("a_block_device_reads_as_the_disk_and_behind_it_as_before") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let disk = case.truth().disks.iter().find(|d| d.name == "vm-root.qcow2").unwrap();
    let wanted = disk.checkpoints.last().unwrap();
    let size = usize::try_from(wanted.virtual_size).unwrap();
    let folder = scratch();
    let file = folder.path().join("device");
    std::fs::write(&file, vec![0xa5; size + MIB]).unwrap();
    let device = Loop::of(&file);
    let point = "vm-root.qcow2@latest";
    let refused = restore(&case.backups(), point, &device.0).outcome();
    assert!(refused.stderr.contains("is a block device: say --force"), "{}", refused.stderr);
    must_equal("refused", &bytes(&file), &vec![0xa5; size + MIB]);

    let told = restore(&case.backups(), point, &device.0).args(["--force", "--verify"]).ok().text();
    assert!(told.contains("1048576 bytes of the device behind it"), "{told}");
    let mut seen = bytes(&device.0);
    must_equal("behind the disk", &seen.split_off(size), &vec![0xa5; MIB]);
    assert_eq!(common::content::sha256_of(&seen), wanted.sha256);
    drop(device);
    OpenOptions::new().write(true).open(&file).unwrap().set_len(MIB as u64).unwrap();
    let small = Loop::of(&file);
    let refused = restore(&case.backups(), point, &small.0).arg("--force").outcome();
    assert!(refused.stderr.contains("has 1048576 bytes, and the disk has"), "{}", refused.stderr);
}

/// As oVirt and others have their disks: an image on a logical volume.
#[test]
fn a_block_device_holds_an_image_whatever_was_on_it() {
    if !root_or_skip("a_block_device_holds_an_image_whatever_was_on_it") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let oracle = folder.path().join("oracle");
    let point = "vm-root.qcow2@2026-11-20T07:54:37Z";
    restore(&case.backups(), point, &oracle).ok();
    let backing = folder.path().join("device");
    let device = || {
        std::fs::write(&backing, vec![0xa5; 16 * MIB]).unwrap();
        Loop::of(&backing)
    };
    for words in [&["-O", "qcow2"][..], &["-O", "qcow2", "--compress"]] {
        let device = device();
        let told = restore(&case.backups(), point, &device.0).args(words).args(["-f", "--verify"]);
        let told = told.ok().text();
        assert!(told.contains("(qcow2") && !told.contains("left as they are"), "{told}");
        Run::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&device.0).ok();
        let compare = Run::new("qemu-img").args(["compare", "-q", "-f", "qcow2", "-F", "raw"]);
        compare.arg(&device.0).arg(&oracle).ok();
    }
    // One that is too small is as it was.
    std::fs::write(&backing, vec![0xa5; MIB]).unwrap();
    let small = Loop::of(&backing);
    let refused = restore(&case.backups(), point, &small.0).args(["-f", "-O", "qcow2"]).outcome();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("and the image may take"), "{}", refused.stderr);
    assert!(bytes(&small.0).iter().all(|byte| *byte == 0xa5), "it was written to");
    // Whether compressed clusters fit is known too late: what is there then looks like no disk.
    let refused =
        restore(&case.backups(), point, &small.0).args(["-f", "-O", "qcow2", "--compress"]);
    let refused = refused.outcome();
    assert_eq!(refused.code, Some(1), "{}", refused.text());
    assert!(refused.stderr.contains("holds no usable disk now"), "{}", refused.stderr);
    assert!(bytes(&small.0).starts_with(&[0; 4096]), "it looks like a disk");
}

#[test]
fn a_device_of_an_interrupted_restore_looks_like_no_disk_and_one_in_use_is_refused() {
    let test = "a_device_of_an_interrupted_restore_looks_like_no_disk_and_one_in_use_is_refused";
    if !root_or_skip(test) {
        return;
    }
    let source = noise(512);
    let folder = scratch();
    let file = folder.path().join("device");
    File::create(&file).unwrap().set_len((512 * MIB) as u64).unwrap();
    Run::new("mkfs.ext4").args(["-q", "-F"]).arg(&file).ok();
    let device = Loop::of(&file);
    let point = folder.path().join("mounted");
    std::fs::create_dir(&point).unwrap();
    Run::new("mount").arg(&device.0).arg(&point).ok();
    let refused = restore(source.path(), "@latest", &device.0).arg("--force").outcome();
    Run::new("umount").arg(&point).ok();
    assert!(refused.stderr.contains("in use"), "{}", refused.stderr);
    Run::new("e2fsck").arg("-fn").arg(&device.0).ok();

    let said = folder.path().join("said");
    let run =
        Run::new("sh").args(["-c", "said=$1; shift; exec \"$@\" 2> \"$said\"", "sh"]).arg(&said);
    let run = run.arg(env!("CARGO_BIN_EXE_qcowfs")).args(["restore", "--force"]);
    let child = run.arg(source.path()).arg("@latest").arg(&device.0).start();
    let head = || common::content::range(&device.0, 0, MIB);
    assert!(holds_within(30, || head().iter().all(|byte| *byte == 0)), "the head is not cleared");
    assert_eq!(end(child, Signal::TERM), Some(1));
    assert!(head().iter().all(|byte| *byte == 0), "half a disk looks whole");
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("holds no usable disk now"), "{said}");
    restore(source.path(), "@latest", &device.0).arg("--force").ok();
    assert_eq!(sha256(&device.0), sha256(&source.path().join("disk")));
}

/// XFS with reflinks in a file.
struct Xfs {
    mounted: FileSystem,
    _folder: TempDir,
}

impl Xfs {
    fn new() -> Self {
        let folder = scratch();
        let image = folder.path().join("xfs");
        File::create(&image).unwrap().set_len(512 * MIB as u64).unwrap();
        Run::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image).ok();
        let what = ["-o", "loop", image.to_str().unwrap()];
        Self { mounted: FileSystem::mount(&folder.path().join("mounted"), &what), _folder: folder }
    }

    fn point(&self) -> &Path {
        &self.mounted.0
    }

    fn free(&self) -> u64 {
        Run::new("sync").arg("-f").arg(self.point()).ok();
        let stat = rustix::fs::statvfs(self.point()).unwrap();
        stat.f_bfree * stat.f_frsize
    }
}

/// A chain of overlays with noise in it.
fn chain(folder: &Path, cluster: &str) {
    let mut prng = Prng::new(11);
    let image = |n: usize| format!("layer{n}.qcow2");
    for n in 0..4 {
        let mut run = Run::new("qemu-img").folder(folder).args(["create", "-q", "-f", "qcow2"]);
        run = run.args(["-o", &format!("cluster_size={cluster}")]);
        if n > 0 {
            run = run.args(["-F", "qcow2", "-b", &image(n - 1)]);
        }
        // A size that is no multiple of a block.
        run.arg(image(n)).arg((64 * MIB + 512).to_string()).ok();
        std::fs::write(folder.join("noise"), prng.bytes(65_521)).unwrap();
        // Small clusters take it long where the disk has other work.
        let mut run = Run::new("qemu-io").folder(folder).args(["-f", "qcow2"]).seconds(300);
        for _ in 0..if n == 0 { 1 } else { 20 } {
            let (at, len) = match n {
                0 => (0, 64 * MIB as u64 + 512),
                _ => (prng.below(64 << 20) / 512 * 512, (1 + prng.below(300)) * 512),
            };
            let len = len.min((64 << 20) + 512 - at);
            run = run.args(["-c", &format!("write -q -s noise {at} {len}")]);
        }
        run.arg(image(n)).ok();
    }
    std::fs::remove_file(folder.join("noise")).unwrap();
}

#[test]
fn on_one_file_system_with_reflinks_hardly_any_byte_is_written() {
    if !root_or_skip("on_one_file_system_with_reflinks_hardly_any_byte_is_written") {
        return;
    }
    let xfs = Xfs::new();
    // Clusters that are whole blocks, and some that are not.
    for (cluster, is_cloned) in [("65536", true), ("4096", true), ("512", false)] {
        let source = xfs.point().join("source").join(cluster);
        std::fs::create_dir_all(&source).unwrap();
        chain(&source, cluster);
        let before = SourceState::of(&source);
        let oracle = xfs.point().join("oracle");
        let convert = Run::new("qemu-img").args(["convert", "-O", "raw"]);
        convert.arg(source.join("layer3.qcow2")).arg(&oracle).ok();
        let free = xfs.free();
        let target = xfs.point().join(format!("disk{cluster}.raw"));
        let told = restore(&source, "layer3.qcow2", &target).arg("--verify").ok().text();
        let taken = free.saturating_sub(xfs.free());
        must_equal(cluster, &bytes(&target), &bytes(&oracle));
        if is_cloned {
            assert!(told.contains("cloned "), "{told}");
            assert!(taken < 2 * MIB as u64, "{cluster}: {taken} bytes more\n{told}");
        } else {
            assert!(taken > 32 * MIB as u64, "{cluster}: {taken}");
        }
        // The clusters of the image that is made are of 64 KiB: smaller ones do not make up whole ones.
        let free = xfs.free();
        let image = xfs.point().join(format!("disk{cluster}.qcow2"));
        let made = restore(&source, "layer3.qcow2", &image).args(["--verify", "-O", "qcow2"]);
        let told = made.ok().text();
        let taken = free.saturating_sub(xfs.free());
        Run::new("qemu-img").args(["check", "-q"]).arg(&image).ok();
        Run::new("qemu-img").args(["compare", "-q"]).arg(&image).arg(&oracle).ok();
        if cluster == "65536" {
            assert!(told.contains("cloned "), "{told}");
            assert!(taken < 4 * MIB as u64, "{cluster}: {taken} bytes more\n{told}");
        }
        before.must_still_hold(&source);
        std::fs::remove_file(&image).unwrap();
        std::fs::remove_file(&oracle).unwrap();
        std::fs::remove_file(&target).unwrap();
    }
}

#[test]
fn on_a_tmpfs_zeros_are_holes_between_pages_of_any_size() {
    let shm = tempfile::tempdir_in("/dev/shm").expect("a folder on a tmpfs");
    let folder = scratch();
    let mut prng = Prng::new(13);
    let mut disk = prng.bytes(40 * MIB + 512);
    for _ in 0..12 {
        let start = usize::try_from(prng.below(disk.len() as u64)).unwrap();
        let len = usize::try_from(prng.below(600 << 10)).unwrap();
        let end = disk.len().min(start + len);
        disk[start..end].fill(0);
    }
    std::fs::write(folder.path().join("disk"), &disk).unwrap();
    let declared = "[image.\"disk\"]\nformat = \"raw\"\n";
    std::fs::write(folder.path().join("qcowfs.toml"), declared).unwrap();
    let target = shm.path().join("disk.raw");
    restore(folder.path(), "disk", &target).arg("--verify").ok();
    must_equal("the disk", &bytes(&target), &disk);
    let filled = disk.chunks(4096).filter(|page| page.iter().any(|byte| *byte != 0)).count();
    let taken = target.metadata().unwrap().blocks();
    assert_eq!(taken, filled as u64 * 8, "blocks of 512 bytes");
}
