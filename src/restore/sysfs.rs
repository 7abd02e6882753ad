//! What the kernel tells of block devices: what they are made of, and what shares their bytes.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, makedev, minor};

/// Devices on devices on devices.
const DEPTH: usize = 8;

/// The files that a block device, or what it is made of, has its bytes in.
pub(super) fn backing_files(number: u64) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut next = vec![number];
    for _ in 0..DEPTH {
        let these: Vec<_> = next.drain(..).filter(|number| seen.insert(*number)).collect();
        for folder in these.into_iter().map(folder_of) {
            if let Ok(name) = std::fs::read_to_string(folder.join("loop/backing_file")) {
                files.insert(PathBuf::from(name.trim_end_matches('\n')));
            }
            let below = folder.join("slaves").read_dir().into_iter().flatten().flatten();
            next.extend(below.filter_map(|below| number_in(&below.path())));
            next.extend(whole_of(&folder));
        }
    }
    files
}

/// The loop device that writes to a file, if there is one.
pub(super) fn writable_loop_on(path: &Path) -> Option<PathBuf> {
    // The kernel follows a file to its new name. Files are not asked whether they are the same: one on
    // a dead network share would not answer.
    let wanted = path.canonicalize().ok()?;
    let devices = Path::new("/sys/block").read_dir().into_iter().flatten().flatten();
    let stands_on_it = |folder: &Path| {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let backing = text("loop/backing_file");
        let is_it = |name: String| Path::new(name.trim_end_matches('\n')) == wanted;
        backing.is_some_and(is_it) && text("ro").is_some_and(|ro| ro.trim() == "0")
    };
    let mut devices = devices.filter(|device| device.file_name().as_bytes().starts_with(b"loop"));
    let found = devices.find(|device| stands_on_it(&device.path()))?;
    Some(Path::new("/dev").join(found.file_name()))
}

/// The devices that have bytes of this one: itself, the disk that it is a partition of, its
/// partitions.
pub(super) fn overlapping(number: u64) -> BTreeSet<u64> {
    let folder = folder_of(number);
    let parts = folder.read_dir().into_iter().flatten().flatten();
    let parts = parts.map(|part| part.path()).filter(|part| part.join("partition").exists());
    let mut found: BTreeSet<_> = parts.filter_map(|part| number_in(&part)).collect();
    found.extend(whole_of(&folder));
    found.insert(number);
    found
}

fn folder_of(number: u64) -> PathBuf {
    let name = format!("/sys/dev/block/{}:{}", major(number), minor(number));
    let folder = PathBuf::from(name);
    // Links are followed here and now: `..` is then what it looks like.
    folder.canonicalize().unwrap_or(folder)
}

/// The disk that a partition lies on.
fn whole_of(folder: &Path) -> Option<u64> {
    folder.join("partition").exists().then(|| folder.parent().and_then(number_in)).flatten()
}

fn number_in(folder: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}
