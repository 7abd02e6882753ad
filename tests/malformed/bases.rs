//! The sound images that rows are made from.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::common::Run;
use crate::common::prng::Prng;
use crate::common::qcow2_editor::Editor;
use crate::common::run::scratch;
use crate::row::{DISK, Made};

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
/// Bytes of the disk: three L2 tables of 2 MiB each.
pub(crate) const SIZE: u64 = 5 * MIB;
/// Guest bytes that an L2 table of an image with clusters of 4 KiB maps.
pub(crate) const REACH: u64 = 2 * MIB;
pub(crate) const CLUSTER: u64 = 4 * KIB;

/// A sound image and its disk.
pub(crate) struct Sound {
    pub(crate) file: &'static str,
    pub(crate) image: Vec<u8>,
    /// What lies in the same folder.
    pub(crate) beside: Vec<(String, Made)>,
    pub(crate) content: Arc<Vec<u8>>,
    pub(crate) snapshots: Vec<Arc<Vec<u8>>>,
}

impl Sound {
    pub(crate) fn editor(&self) -> Editor {
        Editor::of(self.image.clone())
    }
}

/// Eight letters by chance, which can be compressed to somewhat less than half; the first byte is
/// one that no deflate stream and no zstd frame starts with.
fn letters(disk: &mut [u8], seed: u64, from: u64, len: u64) {
    let mut prng = Prng::new(seed);
    let (from, len) = (from as usize, len as usize);
    disk[from..from + len].fill_with(|| b'a' + prng.below(8) as u8);
    disk[from] = 0xff;
}

/// Data at both ends of each L2 table's reach, and nothing between.
pub(crate) fn content() -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    letters(&mut disk, 1, 0, 20 * KIB);
    letters(&mut disk, 2, 2 * MIB - 8 * KIB, 16 * KIB);
    letters(&mut disk, 3, 4 * MIB, 12 * KIB);
    letters(&mut disk, 4, SIZE - 4 * KIB, 4 * KIB);
    disk
}

fn qemu_img(folder: &Path, args: &[&str]) {
    Run::new("qemu-img").folder(folder).args(args).ok();
}

fn qemu_io(folder: &Path, commands: &[&str]) {
    let commands = commands.iter().flat_map(|command| ["-c", *command]);
    Run::new("qemu-io").folder(folder).args(["-f", "qcow2"]).args(commands).arg(DISK).ok();
}

fn write(disk: &mut [u8], from: u64, len: u64, byte: u8) {
    disk[from as usize..(from + len) as usize].fill(byte);
}

/// An image of `content` with these options, changed by `then`; files left beside it stay there.
fn convert(options: &[&str], content: &[u8], then: impl FnOnce(&Path)) -> Sound {
    let folder = scratch();
    let path = folder.path();
    std::fs::write(path.join("raw"), content).expect("a file");
    let args = [&["convert", "-f", "raw", "-O", "qcow2"], options, &["raw", DISK]].concat();
    qemu_img(path, &args);
    std::fs::remove_file(path.join("raw")).expect("a file");
    then(path);
    sound(path, content.to_vec())
}

fn sound(folder: &Path, content: Vec<u8>) -> Sound {
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file");
    let entries = folder.read_dir().expect("a folder");
    let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
    let beside = names.filter(|name| name != DISK);
    Sound {
        file: DISK,
        image: read(DISK),
        beside: beside.map(|name| (name.clone(), Made::File(read(&name)))).collect(),
        content: Arc::new(content),
        snapshots: Vec::new(),
    }
}

/// Version 3, clusters of 4 KiB.
pub(crate) static V3: LazyLock<Sound> =
    LazyLock::new(|| convert(&["-o", "cluster_size=4k"], &content(), |_| {}));

/// Version 2.
pub(crate) static V2: LazyLock<Sound> =
    LazyLock::new(|| convert(&["-o", "cluster_size=4k,compat=0.10"], &content(), |_| {}));

/// Every cluster deflated.
pub(crate) static DEFLATED: LazyLock<Sound> =
    LazyLock::new(|| convert(&["-c", "-o", "cluster_size=4k"], &content(), |_| {}));

/// Every cluster compressed by zstd.
pub(crate) static ZSTD: LazyLock<Sound> = LazyLock::new(|| {
    convert(&["-c", "-o", "cluster_size=4k,compression_type=zstd"], &content(), |_| {})
});

/// Subclusters of 512 bytes: at 1 MiB four with data, two of zeros, the rest not allocated.
pub(crate) static EXTENDED: LazyLock<Sound> = LazyLock::new(|| {
    let mut content = content();
    let mut made = convert(&["-o", "cluster_size=16k,extended_l2=on"], &content, |folder| {
        qemu_io(folder, &["write -q -P 1 1M 2k", "write -q -z 1026k 1k"]);
    });
    write(&mut content, MIB, 2 * KIB, 1);
    made.content = Arc::new(content);
    made
});

/// Compressed clusters under extended L2 entries.
pub(crate) static EXTENDED_DEFLATED: LazyLock<Sound> =
    LazyLock::new(|| convert(&["-c", "-o", "cluster_size=16k,extended_l2=on"], &content(), |_| {}));

/// Clusters in an external data file.
pub(crate) static DATA_FILE: LazyLock<Sound> =
    LazyLock::new(|| convert(&["-o", "cluster_size=4k,data_file=disk.data"], &content(), |_| {}));

/// An overlay over `base.qcow2`: 4 KiB of its own, 4 KiB of zeros, the rest from below.
pub(crate) static OVERLAY: LazyLock<Sound> = LazyLock::new(|| {
    let folder = scratch();
    let path = folder.path();
    std::fs::write(path.join("base.qcow2"), &V3.image).expect("a file");
    let options = ["-o", "cluster_size=4k", "-b", "base.qcow2", "-F", "qcow2", DISK];
    qemu_img(path, &[&["create", "-q", "-f", "qcow2"], &options[..]].concat());
    qemu_io(path, &["write -q -P 1 4k 4k", "write -q -z 2M 4k"]);
    let mut content = content();
    write(&mut content, 4 * KIB, 4 * KIB, 1);
    write(&mut content, 2 * MIB, 4 * KIB, 0);
    sound(path, content)
});

/// Two snapshots, `first` and `second`, and the disk written after each.
pub(crate) static SNAPSHOTS: LazyLock<Sound> = LazyLock::new(|| {
    let first = content();
    let mut made = convert(&["-o", "cluster_size=4k"], &first, |folder| {
        qemu_img(folder, &["snapshot", "-c", "first", DISK]);
        qemu_io(folder, &["write -q -P 1 0 4k"]);
        qemu_img(folder, &["snapshot", "-c", "second", DISK]);
        qemu_io(folder, &["write -q -P 2 4k 4k"]);
    });
    let mut second = first.clone();
    write(&mut second, 0, 4 * KIB, 1);
    let mut now = second.clone();
    write(&mut now, 4 * KIB, 4 * KIB, 2);
    made.content = Arc::new(now);
    made.snapshots = vec![Arc::new(first), Arc::new(second)];
    made
});

/// A dirty bitmap.
pub(crate) static BITMAP: LazyLock<Sound> = LazyLock::new(|| {
    convert(&["-o", "cluster_size=4k"], &content(), |folder| {
        qemu_img(folder, &["bitmap", "--add", DISK, "a bitmap"]);
    })
});
