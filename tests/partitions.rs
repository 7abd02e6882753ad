//! The partitions of a disk as files beside it: the bytes that the table says, whatever the disk is
//! made of, and nothing where there is no table.

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

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::content::{bytes, data_ranges, holes_must_be_zero, index, must_equal};
use common::report::root_or_skip;
use common::run::scratch;
use common::shown::must_follow;
use common::watch::{Watched, holds_within, within};
use common::{Mount, Run, User};
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
/// Bytes of the disks.
const SIZE: u64 = 48 * MIB;
const SECTOR: u64 = 512;
const MESSAGE: &str = "found without an offset\n";

const GPT: &str = "label: gpt
start=2048, size=32768, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=\"root fs\"
start=34816, size=4097, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"EFI\"
start=40960, size=8192, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F
";
const MBR: &str = "label: dos
start=2048, size=32768, type=83
start=34816, size=2048, type=c
start=36864, size=40960, type=5
start=38912, size=4096, type=8e
start=45056, size=2048, type=82
";
/// The same disk later, divided in another way.
const LATER: &str = "label: dos
start=2048, size=32768, type=83
start=40000, size=1001, type=7
";

/// A folder with a chain of three overlays, and the disk at each of them.
struct Chain {
    folder: TempDir,
    truth: Vec<Vec<u8>>,
}

fn sfdisk(disk: &Path, script: &str) {
    let mut child = Command::new("/usr/sbin/sfdisk")
        .args(["--quiet", "--wipe=never", "--wipe-partitions=never"])
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("sfdisk (Debian package fdisk)");
    child.stdin.take().expect("its input").write_all(script.as_bytes()).expect("a script");
    assert!(child.wait().expect("sfdisk").success(), "sfdisk refuses {script}");
}

/// A disk with a table, and an ext4 with one file in its first partition.
fn disk(path: &Path, script: &str) {
    File::create(path).unwrap().set_len(SIZE).unwrap();
    sfdisk(path, script);
    let work = scratch();
    std::fs::create_dir(work.path().join("files")).unwrap();
    std::fs::write(work.path().join("files/message"), MESSAGE).unwrap();
    let fs = work.path().join("fs");
    File::create(&fs).unwrap().set_len(32768 * SECTOR).unwrap();
    let mkfs = Run::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(work.path().join("files"));
    mkfs.arg(&fs).ok();
    write_data(path, 2048 * SECTOR, &std::fs::read(&fs).unwrap());
}

/// Writes what is not zeros.
fn write_data(path: &Path, at: u64, content: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    for (number, block) in (0..).zip(content.chunks(4096)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at + number * 4096).unwrap();
        }
    }
}

impl Chain {
    fn new(script: &str) -> Self {
        let folder = scratch();
        let (raw, base) = (folder.path().join("raw"), folder.path().join("base.qcow2"));
        disk(&raw, script);
        let convert = Run::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]);
        convert.args([&raw, &base]).ok();
        let mut chain = Self { folder, truth: vec![std::fs::read(&raw).unwrap()] };
        // Data in the middle of two partitions, zeros over a part of one.
        chain.overlay(
            "middle.qcow2",
            "base.qcow2",
            &[
                (2048 * SECTOR + 10 * MIB, vec![7; 200_192]),
                (34816 * SECTOR + 4096, vec![9; 70_144]),
                (2048 * SECTOR + 12 * MIB, vec![0; 65536]),
            ],
        );
        std::fs::remove_file(raw).unwrap();
        chain
    }

    /// Another overlay with these bytes.
    fn overlay(&mut self, name: &str, base: &str, writes: &[(u64, Vec<u8>)]) {
        let path = self.path(name);
        let create =
            Run::new("qemu-img").args(["create", "-f", "qcow2", "-F", "qcow2", "-b", base]);
        create.arg(&path).ok();
        let mut truth = self.truth.last().unwrap().clone();
        for (at, content) in writes {
            let pattern = self.path("pattern");
            std::fs::write(&pattern, content).unwrap();
            let command = if content.iter().any(|byte| *byte != 0) {
                format!("write -s {} {at} {}", pattern.display(), content.len())
            } else {
                format!("write -z {at} {}", content.len())
            };
            Run::new("qemu-io").args(["-c", &command]).arg(&path).ok();
            std::fs::remove_file(pattern).unwrap();
            truth[index(*at)..index(*at) + content.len()].copy_from_slice(content);
        }
        self.truth.push(truth);
    }

    /// An overlay in which the disk is divided in another way.
    fn divided_again(&mut self) {
        let raw = self.path("raw");
        std::fs::write(&raw, self.truth.last().unwrap()).unwrap();
        sfdisk(&raw, LATER);
        let after = std::fs::read(&raw).unwrap();
        std::fs::remove_file(raw).unwrap();
        let before = self.truth.last().unwrap();
        let differs = |n: &usize| before[n * 512..][..512] != after[n * 512..][..512];
        let sectors = (0..before.len() / 512).filter(differs);
        let writes: Vec<_> =
            sectors.map(|n| (n as u64 * SECTOR, after[n * 512..][..512].to_vec())).collect();
        assert!(!writes.is_empty());
        self.overlay("top.qcow2", "middle.qcow2", &writes);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> &Path {
        self.folder.path()
    }
}

/// A partition as `sfdisk --json` tells it.
struct Wanted {
    number: u64,
    range: Range<u64>,
    kind: String,
    name: Option<String>,
}

fn wanted(truth: &[u8]) -> Vec<Wanted> {
    let folder = scratch();
    let raw = folder.path().join("disk");
    write_sparse(&raw, truth);
    let json: Value =
        serde_json::from_slice(&Run::new("sfdisk").arg("--json").arg(&raw).ok().stdout).unwrap();
    let parse = |entry: &Value| {
        let node = entry["node"].as_str().unwrap();
        let number = node.strip_prefix(raw.to_str().unwrap()).unwrap();
        let start = entry["start"].as_u64().unwrap() * SECTOR;
        Wanted {
            number: number.parse().unwrap(),
            range: start..start + entry["size"].as_u64().unwrap() * SECTOR,
            kind: entry["type"].as_str().unwrap().to_owned(),
            name: entry["name"].as_str().map(str::to_owned),
        }
    };
    json["partitiontable"]["partitions"].as_array().unwrap().iter().map(parse).collect()
}

fn write_sparse(path: &Path, content: &[u8]) {
    File::create(path).unwrap().set_len(content.len() as u64).unwrap();
    write_data(path, 0, content);
}

fn info(folder: &Path) -> Value {
    serde_json::from_slice(&bytes(&folder.join("info.json"))).unwrap()
}

/// The files of partitions in a folder, in order.
fn files(folder: &Path) -> Vec<String> {
    let folder = folder.to_path_buf();
    let mut names = within(30, "listing", move || {
        let entries = folder.read_dir().unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    });
    names.retain(|name| !["disk.img", "info.json"].contains(&name.as_str()));
    names.sort();
    names
}

fn must_be_right(folder: &Path, truth: &[u8]) {
    let wanted = wanted(truth);
    assert!(wanted.len() >= 2);
    let told = info(folder);
    let told = told["partitions"].as_array().unwrap();
    assert_eq!(told.len(), wanted.len(), "{told:#?}");
    let mut names = Vec::new();
    for (told, wanted) in told.iter().zip(&wanted) {
        let number = wanted.number;
        assert_eq!(told["number"], number);
        assert_eq!(told["start"], wanted.range.start, "{number}");
        assert_eq!(told["size"], wanted.range.end - wanted.range.start, "{number}");
        assert_eq!(told["type"], wanted.kind.as_str(), "{number}");
        assert_eq!(told["label"].as_str(), wanted.name.as_deref(), "{number}");
        let Some(name) = told["file"].as_str() else {
            assert_eq!(wanted.kind, "5", "only an extended partition has no file");
            continue;
        };
        assert_eq!(name, format!("p{number}.img"));
        let range = index(wanted.range.start)..index(wanted.range.end);
        must_be(&folder.join(name), &truth[range], &folder.join("disk.img"));
        names.push(name.to_owned());
    }
    names.sort();
    assert_eq!(files(folder), names);
    assert_eq!(told[0]["content"], "ext4");
}

/// Reads it through the cache and past it, and looks for its holes.
fn must_be(path: &Path, wanted: &[u8], disk: &Path) {
    let what = path.to_str().unwrap();
    must_equal(what, &bytes(path), wanted);
    let direct = path.to_path_buf();
    let seen = within(60, "reading past the cache", move || {
        let flags = libc::O_DIRECT;
        let file = File::options().read(true).custom_flags(flags).open(direct).unwrap();
        let layout = std::alloc::Layout::from_size_align(1 << 20, 4096).unwrap();
        let mut buffer = vec![0; layout.size() + 4096];
        let from = buffer.as_ptr().align_offset(4096);
        let buffer = &mut buffer[from..from + layout.size()];
        let mut seen = Vec::new();
        loop {
            let got = file.read_at(buffer, seen.len() as u64).unwrap();
            if got == 0 {
                return seen;
            }
            seen.extend_from_slice(&buffer[..got]);
        }
    });
    must_equal(what, &seen, wanted);
    let data = data_ranges(path);
    holes_must_be_zero(what, wanted, &data);
    let held: u64 = data.iter().map(|range| range.end - range.start).sum();
    assert!(held < wanted.len() as u64, "{what} has no hole");
    let (stat, disk) = (path.metadata().unwrap(), disk.metadata().unwrap());
    assert_eq!((stat.mode(), stat.uid(), stat.mtime()), (disk.mode(), disk.uid(), disk.mtime()));
    assert!(stat.blocks() * 512 >= held, "{what}: fewer blocks than data");
    assert_eq!(stat.len(), wanted.len() as u64);
}

fn must_be_right_in_a_chain(script: &str) {
    let mut chain = Chain::new(script);
    chain.divided_again();
    std::fs::set_permissions(chain.path("middle.qcow2"), Permissions::from_mode(0o640)).unwrap();
    let mount = Mount::of(chain.source());
    for (name, truth) in ["base.qcow2", "middle.qcow2", "top.qcow2"].iter().zip(&chain.truth) {
        let disk = find(&mount, name);
        must_be_right(&disk, truth);
    }
    // The command line tells the same.
    let told = Run::qcowfs().arg("info").arg(chain.source()).arg("base.qcow2/base.qcow2").ok();
    assert!(told.text().contains("p1.img") && told.text().contains("ext4"), "{}", told.text());
    mount.unmount();
}

/// The restore point of a file.
fn find(mount: &Mount, file: &str) -> PathBuf {
    mount.path(common::View::walk(mount.point()).of_file(file).folder.clone())
}

#[test]
fn each_partition_of_a_gpt_is_a_file_of_its_bytes() {
    must_be_right_in_a_chain(GPT);
}

#[test]
fn each_partition_of_an_mbr_is_a_file_logical_ones_too() {
    must_be_right_in_a_chain(MBR);
}

#[test]
fn a_partition_is_loop_mounted_without_an_offset() {
    let chain = Chain::new(MBR);
    let mount = Mount::of(chain.source());
    let partition = find(&mount, "middle.qcow2").join("p1.img");
    let said = Run::new("debugfs").args(["-R", "cat /message"]).arg(&partition).ok();
    assert_eq!(said.text(), MESSAGE);
    if root_or_skip("a_partition_is_loop_mounted_without_an_offset") {
        let point = chain.path("point");
        std::fs::create_dir(&point).unwrap();
        let options = ["-t", "ext4", "-o", "ro,noload,loop"];
        Run::new("mount").args(options).arg(&partition).arg(&point).ok();
        let seen = std::fs::read_to_string(point.join("message"));
        // A test that starts a program at this moment may hold the file for it.
        let mut said = String::new();
        let unmount = || {
            let outcome = Run::new("umount").arg(&point).outcome();
            said = outcome.stderr;
            outcome.code == Some(0)
        };
        assert!(holds_within(10, unmount), "the loop mount stays busy: {said}");
        assert_eq!(seen.unwrap(), MESSAGE);
    }
    mount.unmount();
}

#[test]
fn nothing_of_a_disk_is_read_before_somebody_looks_at_its_restore_point() {
    let folder = scratch();
    let raw = folder.path().join("disk.raw");
    disk(&raw, GPT);
    let mount = Mount::of(folder.path());
    let watched = Watched::new(std::slice::from_ref(&raw));
    let above = mount.path("disk.raw");
    Run::new("ls").args(["-l"]).arg(mount.point()).arg(&above).ok();
    let disk = above.join("disk.raw/disk.img");
    assert_eq!(disk.metadata().unwrap().len(), SIZE);
    assert!(!watched.was_touched(), "the disk was read");
    assert_eq!(files(&above.join("disk.raw")), ["p1.img", "p2.img", "p3.img"]);
    assert!(watched.was_touched(), "where did the partitions come from?");
    mount.unmount();
}

#[test]
fn what_is_lost_of_a_disk_is_lost_of_its_partitions() {
    let mut chain = Chain::new(MBR);
    // The first MiB of the disk, with its table, is in the overlay; the rest is lost with the base.
    let first = chain.truth[1][..index(MIB)].to_vec();
    chain.overlay("table.qcow2", "middle.qcow2", &[(0, first)]);
    chain.overlay("no-table.qcow2", "middle.qcow2", &[(2 * MIB, vec![3; 65536])]);
    std::fs::remove_file(chain.path("base.qcow2")).unwrap();
    let mount = Mount::with(chain.source(), User::Own, &["-o", "missing=eio"]);
    let with = find(&mount, "table.qcow2");
    let told = info(&with);
    // The chain of logical partitions lies further on.
    assert_eq!(files(&with), ["p1.img", "p2.img"], "{told:#}");
    assert!(told["warnings"].to_string().contains("logical"), "{}", told["warnings"]);
    assert_eq!(told["partitions"][0]["content"], Value::Null);
    let partition = File::open(with.join("p1.img")).unwrap();
    let mut buffer = [0; 4096];
    let error = partition.read_at(&mut buffer, MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    partition.read_exact_at(&mut buffer, 10 * MIB + 65536).unwrap();
    assert_eq!(buffer, [7; 4096]);
    drop(partition);
    let without = find(&mount, "no-table.qcow2");
    let told = info(&without);
    assert_eq!(files(&without), [""; 0]);
    assert!(told["warnings"].to_string().contains("cannot be read"), "{}", told["warnings"]);
    let mut disk = [0; 4096];
    File::open(without.join("disk.img")).unwrap().read_exact_at(&mut disk, 2 * MIB).unwrap();
    assert_eq!(disk, [3; 4096]);
    mount.unmount();
}

#[test]
fn an_undivided_disk_is_named_by_what_it_holds() {
    let folder = scratch();
    let image = |name: &str| {
        let path = folder.path().join(name);
        File::create(&path).unwrap().set_len(20 * MIB).unwrap();
        path
    };
    Run::new("mkfs.ext4").args(["-q", "-F"]).arg(image("ext4.raw")).ok();
    Run::new("mkswap").arg(image("swap.raw")).ok();
    image("nothing.raw");
    let mount = Mount::of(folder.path());
    for (name, content) in [("ext4", Some("ext4")), ("swap", Some("swap")), ("nothing", None)] {
        let folder = mount.path(format!("{name}.raw/{name}.raw"));
        let told = info(&folder);
        assert_eq!(told["content"].as_str(), content, "{name}");
        assert_eq!((&told["partition_table"], files(&folder)), (&Value::Null, Vec::new()));
    }
    mount.unmount();
}

#[test]
fn partitions_keep_their_inode_numbers_as_long_as_the_disk_does() {
    let folder = scratch();
    let raw = folder.path().join("disk.raw");
    disk(&raw, GPT);
    let mount = Mount::of(folder.path());
    let path = |name: &str| mount.path("disk.raw/disk.raw").join(name);
    let inode = |name: &str| path(name).metadata().map(|stat| stat.ino());
    let before = [inode("p1.img").unwrap(), inode("p3.img").unwrap(), inode("disk.img").unwrap()];
    must_follow(mount.point(), folder.path(), "at first");
    File::create(folder.path().join("other.raw")).unwrap().set_len(MIB).unwrap();
    must_follow(mount.point(), folder.path(), "another disk");
    let after = ["p1.img", "p3.img", "disk.img"].map(|name| inode(name).unwrap());
    assert_eq!(before, after, "another disk came");
    // One that is open goes on as it was when the disk becomes another.
    let open = File::open(path("p1.img")).unwrap();
    let wanted = bytes(&path("p1.img"));
    let new = folder.path().join("new");
    disk(&new, LATER);
    std::fs::rename(&new, &raw).unwrap();
    must_follow(mount.point(), folder.path(), "another table");
    assert_eq!(files(&path("")), ["p1.img", "p2.img"]);
    assert_ne!(inode("p1.img").unwrap(), before[0]);
    let mut seen = vec![0; wanted.len()];
    open.read_exact_at(&mut seen, 0).unwrap();
    must_equal("an open partition", &seen, &wanted);
    drop(open);
    mount.unmount();
}
