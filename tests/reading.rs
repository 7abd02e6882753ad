//! What a reader gets through a mount: bytes, data and holes, metadata; and that nobody can write.

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

use std::fs::{OpenOptions, Permissions};
use std::io::Error;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

use common::content::{bytes, data_ranges, holes_must_be_zero, index, must_equal, range, sha256};
use common::prng::Prng;
use common::run::scratch;
use common::watch::within;
use common::{Case, Mount, Run, View};

/// A checkpoint of each sort that reads differently: GPT disk with zero clusters, compressed
/// clusters of two sizes, subclusters, a data file, sizes that nothing divides, raw.
const FEATURES: [&str; 9] = [
    "compressed-zlib.qcow2",
    "compressed-zstd-2M.qcow2",
    "cluster-512.qcow2",
    "extl2-subclusters-16k.qcow2",
    "datafile-raw-off.qcow2",
    "unaligned-size-compressed.qcow2",
    "resize-top-over-smaller.qcow2",
    "zero-preallocated.qcow2",
    "size-1sector.qcow2",
];

const LATEST: &str = "vm-root.qcow2/INC-1795161280-vm-root.qcow2";

/// Calls `check` with the path and the content (checked against the truth) of each of `files`.
fn each_image(case: &Case, files: &[&str], check: impl Fn(&Path, &[u8])) {
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    for file in files {
        let image = mount.path(view.of_file(file).image());
        let content = bytes(&image);
        let wanted = case.truth().of_file(Path::new(file)).next().expect("known");
        assert_eq!(common::content::sha256_of(&content), wanted.sha256, "{file}");
        check(&image, &content);
    }
    mount.unmount();
}

#[test]
fn reads_of_any_offset_and_length_are_right() {
    let case = Case::unpack("features");
    each_image(&case, &FEATURES, |image, content| {
        let mut prng = Prng::new(7);
        let size = content.len() as u64;
        for _ in 0..200 {
            let near = prng.below(size);
            // Half of them around a boundary of a cluster.
            let at = if prng.one_in(2) { near } else { (near & !0xffff).saturating_sub(3) };
            let len = index((1 + prng.below(200_000)).min(size - at));
            let wanted = &content[index(at)..index(at) + len];
            must_equal(&format!("{image:?} at {at}+{len}"), &range(image, at, len), wanted);
        }
    });
}

#[test]
fn reads_at_and_past_the_end_are_short_or_empty() {
    let case = Case::unpack("features");
    each_image(&case, &["unaligned-size.qcow2", "size-1sector.qcow2"], |image, content| {
        let (image, content) = (image.to_path_buf(), content.to_vec());
        within(30, "reading at the end", move || {
            use std::os::unix::fs::FileExt as _;
            let file = std::fs::File::open(&image).expect("disk.img");
            let size = content.len();
            let mut buffer = [1; 4096];
            let got = file.read_at(&mut buffer, size as u64 - 100).expect("a read");
            assert_eq!(got, 100);
            assert_eq!(buffer[..100], content[size - 100..]);
            for past in [0, 1, 1 << 40] {
                assert_eq!(file.read_at(&mut buffer, size as u64 + past).expect("a read"), 0);
            }
        });
    });
}

#[test]
fn direct_and_mapped_reads_equal_buffered_ones() {
    let case = Case::unpack("features");
    let script = "import hashlib, mmap, sys\n\
        f = open(sys.argv[1], 'rb')\n\
        m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)\n\
        print(hashlib.sha256(m).hexdigest())";
    each_image(&case, &FEATURES, |image, content| {
        let wanted = common::content::sha256_of(content);
        let direct = "dd if=\"$0\" iflag=direct bs=1M status=none | sha256sum";
        let direct = Run::new("sh").args(["-c", direct]).arg(image).ok();
        assert_eq!(direct.text().split(' ').next(), Some(wanted.as_str()), "{image:?}: O_DIRECT");
        let mapped = Run::new("python3").args(["-c", script]).arg(image).ok();
        assert_eq!(mapped.text().trim(), wanted, "{image:?}: mmap");
    });
}

#[test]
fn readers_at_the_same_time_all_get_the_same() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    let readers: Vec<_> = case
        .truth()
        .checkpoints()
        .map(|wanted| {
            let image = mount.path(view.of_file(&wanted.file).image());
            let wanted = wanted.sha256.clone();
            std::thread::spawn(move || assert_eq!(sha256(&image), wanted, "{image:?}"))
        })
        .collect();
    let failed = readers.into_iter().filter_map(|r| r.join().err()).count();
    assert_eq!(failed, 0, "readers that got something else");
    mount.unmount();
}

#[test]
fn holes_are_zero_and_data_and_holes_cover_the_disk() {
    let case = Case::unpack("features");
    each_image(&case, &FEATURES, |image, content| {
        let data = data_ranges(image);
        holes_must_be_zero(&format!("{image:?}"), content, &data);
    });
}

#[test]
fn zeros_of_a_layer_are_holes() {
    let case = Case::unpack("features");
    // Zero clusters over a base that has data.
    each_image(&case, &["zero-plain.qcow2"], |image, content| {
        let data: u64 = data_ranges(image).iter().map(|r| r.end - r.start).sum();
        assert!(data < content.len() as u64, "{image:?}: zero clusters are data");
    });
    let mount = Mount::of(&case.backups());
    let empty = mount.path(View::walk(mount.point()).of_file("empty.qcow2").image());
    assert_eq!(data_ranges(&empty), [], "an empty image has data");
    mount.unmount();
}

#[test]
fn a_sparse_copy_is_equal_and_sparse() {
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    each_image(&case, &[LATEST], |image, content| {
        let copy = folder.path().join("copy");
        Run::new("cp").arg("--sparse=always").arg(image).arg(&copy).ok();
        Run::new("cmp").arg(image).arg(&copy).ok();
        let used = copy.metadata().expect("the copy").blocks() * 512;
        assert!(used < content.len() as u64, "the copy has no holes");
    });
}

#[test]
fn blocks_are_never_less_than_the_data_and_exact_once_all_was_read() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let image = mount.path(View::walk(mount.point()).of_file(LATEST).image());
    let blocks = |image: &PathBuf| {
        let image = image.clone();
        within(30, "stat", move || image.metadata().expect("stat").blocks() * 512)
    };
    let estimate = blocks(&image);
    let content = bytes(&image);
    let data: u64 = data_ranges(&image).iter().map(|r| r.end - r.start).sum();
    assert!(estimate >= data, "estimated {estimate}, data {data}");
    // The kernel may keep what it was told: only root can make it ask again.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "2");
    let exact = blocks(&image);
    assert!(exact >= data && exact <= estimate, "{exact} is not in {data}..={estimate}");
    assert!(exact <= content.len() as u64);
    if common::run::is_root() {
        assert_eq!(exact, data.next_multiple_of(512), "the map is known now");
    }
    mount.unmount();
}

#[test]
fn dates_are_those_of_the_backups() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    for wanted in case.truth().checkpoints() {
        let seen = view.of_file(&wanted.file);
        for path in [mount.path(seen.image()), mount.path(&seen.folder)] {
            let stat = within(30, "stat", move || path.metadata().expect("stat"));
            assert_eq!(stat.mtime(), wanted.timestamp, "{:?}", seen.folder);
        }
    }
    mount.unmount();
}

#[test]
fn nobody_may_read_more_than_the_files_behind_allow() {
    let case = Case::unpack("qmpbackup-new");
    let full = "vm-root.qcow2/FULL-1795161271-vm-root.qcow2";
    let mode = |file: &str, mode| {
        let path = case.backups().join(file);
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    };
    mode(full, 0o400);
    mode("vm-data.qcow2/FULL-1795161271-vm-data.qcow2", 0o640);
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    for seen in &view.checkpoints {
        let image = mount.path(seen.image());
        let stat = within(30, "stat", move || image.metadata().expect("stat"));
        // Every chain of a disk stands on its full backup.
        let allowed = if seen.file().starts_with("vm-root.qcow2") { 0o400 } else { 0o440 };
        assert_eq!(stat.mode() & 0o7777 & !allowed, 0, "{:?}: {:o}", seen.folder, stat.mode());
        let owner = case.backups().join(seen.file()).metadata().expect("stat");
        assert_eq!((stat.uid(), stat.gid()), (owner.uid(), owner.gid()), "{:?}", seen.folder);
    }
    mount.unmount();
}

#[test]
fn statfs_answers() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let point = mount.point().to_path_buf();
    let stat = within(30, "statfs", move || statvfs(&point).expect("statfs"));
    assert!(stat.f_bsize > 0 && stat.f_namemax >= 255);
    assert_eq!(stat.f_bavail, 0, "space on a read-only file system");
    assert!(stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    mount.run("df").arg(mount.point()).ok();
    mount.unmount();
}

/// The errno that a refused change must have.
fn must_be_read_only<T>(what: &str, result: Result<T, Error>) {
    let errno = result.err().and_then(|e| e.raw_os_error());
    assert_eq!(errno, Some(libc::EROFS), "{what}");
}

#[test]
fn every_change_is_refused_as_read_only() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let seen = View::walk(mount.point()).of_file(LATEST).folder.clone();
    let folder = mount.path(seen);
    let image = folder.join("disk.img");
    let attribute = Run::new("setfattr").args(["-n", "user.x", "-v", "1"]).arg(&image).outcome();
    assert!(attribute.stderr.contains("Read-only file system"), "{}", attribute.stderr);
    let touch = Run::new("touch").arg(&image).outcome();
    assert!(touch.stderr.contains("Read-only file system"), "{}", touch.stderr);
    within(60, "trying to write", move || {
        let new = folder.join("new");
        let open = |o: &mut OpenOptions| o.open(&image).map(drop);
        must_be_read_only("open to write", open(OpenOptions::new().write(true)));
        must_be_read_only("open to append", open(OpenOptions::new().append(true)));
        must_be_read_only(
            "open to read and write",
            open(OpenOptions::new().read(true).write(true)),
        );
        must_be_read_only("truncate", open(OpenOptions::new().write(true).truncate(true)));
        must_be_read_only("create", std::fs::File::create(&new).map(drop));
        must_be_read_only("mkdir", std::fs::create_dir(&new));
        must_be_read_only("unlink", std::fs::remove_file(&image));
        must_be_read_only("rmdir", std::fs::remove_dir(&folder));
        must_be_read_only("rename", std::fs::rename(&image, &new));
        must_be_read_only("hard link", std::fs::hard_link(&image, &new));
        must_be_read_only("symlink", std::os::unix::fs::symlink("x", &new));
        must_be_read_only("chmod", std::fs::set_permissions(&image, Permissions::from_mode(0o777)));
        must_be_read_only("chown", std::os::unix::fs::chown(&image, Some(1), Some(1)));
    });
    mount.unmount();
}
