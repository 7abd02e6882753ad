//! One qcow2 layer without a backing file against what QEMU reads from the same image.
//!
//! The images are made on the fly by `qemu-img` and `qemu-io`; without these the tests fail.

// Helpers outside of `#[test]` functions are test code, too.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use qcowfs::extent::{Extent, Fault, GuestOffset, Word, Words};
use qcowfs::layer::Layer;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::qcow2::{Header, Qcow2Image, Qcow2Layer, read_bitmaps, read_snapshots};
use qcowfs::source::{LocalFiles, Roots, Source};

const MIB: usize = 1 << 20;
const DISK: &str = "disk.qcow2";
const CLUSTER_SIZES: [&str; 4] = ["512", "4k", "64k", "2M"];

/// A scratch folder with the images of one test.
struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a tool in the folder, so that names in images are relative.
    fn run<S: AsRef<OsStr>>(&self, tool: &str, args: &[S]) {
        let mut command = Command::new(tool);
        let output = command.current_dir(self.folder.path()).args(args).output();
        let output = output
            .unwrap_or_else(|e| panic!("{tool} cannot be run ({e}): install package qemu-utils"));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {error}");
    }

    /// Makes an image of `content`; `options` as of `qemu-img convert`.
    fn convert(&self, content: &[u8], options: &[&str]) {
        fs::write(self.path("disk.raw"), content).unwrap();
        let args = [&["convert", "-f", "raw", "-O", "qcow2"], options, &["disk.raw", DISK]];
        self.run("qemu-img", &args.concat());
    }

    fn create(&self, options: &str, size: &str) {
        self.run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, DISK, size]);
    }

    /// Runs commands of `qemu-io` on the image.
    fn io(&self, commands: &[&str]) {
        let commands = commands.iter().flat_map(|command| ["-c", *command]);
        let args: Vec<&str> = ["-f", "qcow2"].into_iter().chain(commands).chain([DISK]).collect();
        self.run("qemu-io", &args);
    }

    /// What QEMU reads.
    fn truth(&self, options: &[&str]) -> Vec<u8> {
        let args = [&["convert", "-O", "raw"], options, &[DISK, "truth.raw"]];
        self.run("qemu-img", &args.concat());
        fs::read(self.path("truth.raw")).unwrap()
    }

    fn file(&self, name: &str) -> Arc<dyn Source> {
        let roots = Roots::open(self.folder.path(), &[]).unwrap();
        Arc::new(LocalFiles::new(roots).open(Path::new(name)).unwrap())
    }

    fn image(&self) -> Arc<Qcow2Image> {
        let file = self.file(DISK);
        let header = Header::read(file.as_ref()).unwrap();
        let data_file = header.data_file.as_ref().map(|name| {
            let name = std::str::from_utf8(name).unwrap();
            self.file(name)
        });
        Qcow2Image::new(file, header, data_file, Arc::new(ClusterCache::new(8 << 20))).unwrap()
    }

    fn active(&self) -> Qcow2Layer {
        Qcow2Layer::active(&self.image())
    }

    /// What we read is what QEMU reads.
    fn check(&self, what: &str) {
        let (ours, truth) = (bytes(&self.active()), self.truth(&[]));
        assert_same(&ours, &truth, what);
    }
}

fn assert_same(ours: &[u8], truth: &[u8], what: &str) {
    assert_eq!(ours.len(), truth.len(), "size of {what}");
    let differs = ours.iter().zip(truth).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first byte that differs in {what}");
}

fn extents(layer: &dyn Layer, range: std::ops::Range<u64>) -> Vec<Extent> {
    let mut words = Words::new(range);
    layer.words(&mut words);
    words.finish()
}

/// All bytes of a layer with nothing below it, asked for in ranges that fit no cluster and read in
/// pieces that fit no extent.
fn bytes(layer: &dyn Layer) -> Vec<u8> {
    const ASKED: usize = 700_001;
    const PIECE: usize = 77_777;
    let size = layer.virtual_size();
    let mut disk = vec![0; usize::try_from(size).unwrap()];
    for start in (0..size).step_by(ASKED) {
        for Extent { range, word } in extents(layer, start..size.min(start + ASKED as u64)) {
            match word {
                Word::Below | Word::Zero => {}
                Word::Bad(fault) => panic!("{range:?}: {fault}"),
                Word::At(slot) => {
                    let from = usize::try_from(range.start).unwrap();
                    let to = usize::try_from(range.end).unwrap();
                    for (n, piece) in disk[from..to].chunks_mut(PIECE).enumerate() {
                        let inside = (n * PIECE) as u64;
                        let guest = GuestOffset(range.start + inside);
                        layer.read(slot.advance(inside), guest, piece).unwrap();
                    }
                }
            }
        }
    }
    disk
}

/// A disk of noise, text and zeros by turns, in stretches of odd lengths.
fn content(len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (n, stretch) in disk.chunks_mut(123_457).enumerate() {
        match n % 4 {
            0 | 2 => stretch.iter_mut().for_each(|byte| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Two in four are noise of few symbols, which deflate and zstd do compress.
                *byte = if n % 4 == 0 { state.to_le_bytes()[0] } else { b'a' + (state % 8) as u8 };
            }),
            1 => stretch.fill(b'x'),
            _ => {}
        }
    }
    disk
}

#[test]
fn images_of_every_cluster_size_and_version_read_as_qemu_reads_them() {
    let scratch = Scratch::new();
    let content = content(5 * MIB);
    for cluster_size in CLUSTER_SIZES {
        for compat in ["0.10", "1.1"] {
            let options = format!("cluster_size={cluster_size},compat={compat}");
            scratch.convert(&content, &["-o", &options]);
            assert_same(&bytes(&scratch.active()), &content, &options);
            scratch.check(&options);
        }
    }
}

#[test]
fn compressed_images_read_as_qemu_reads_them() {
    let scratch = Scratch::new();
    let content = content(5 * MIB);
    for cluster_size in CLUSTER_SIZES {
        for method in ["compression_type=zlib", "compression_type=zstd", "compat=0.10"] {
            let options = format!("cluster_size={cluster_size},{method}");
            scratch.convert(&content, &["-c", "-o", &options]);
            let layer = scratch.active();
            assert_same(&bytes(&layer), &content, &options);
            let packed = extents(&layer, 0..5 * MIB as u64);
            let packed = packed.iter().any(|e| match e.word {
                Word::At(slot) => slot == slot.advance(1),
                _ => false,
            });
            assert!(packed, "{options}: no cluster is compressed");
        }
    }
}

#[test]
fn compressed_clusters_that_were_written_over_read_as_qemu_reads_them() {
    let scratch = Scratch::new();
    scratch.convert(&content(4 * MIB), &["-c"]);
    scratch.io(&["write -P 1 100k 3k", "write -P 2 1M 200k", "write -z 2M 65536"]);
    scratch.check("compressed, then written");
}

#[test]
fn zeroed_and_discarded_clusters_read_as_qemu_reads_them() {
    let scratch = Scratch::new();
    for options in ["compat=1.1", "compat=1.1,extended_l2=on", "compat=0.10"] {
        scratch.convert(&content(4 * MIB), &["-o", options]);
        scratch.io(&["write -z 64k 256k", "write -z -u 1M 256k", "discard 2M 256k"]);
        scratch.io(&["write -z 3000k 3k", "write -P 7 1100k 5k"]);
        scratch.check(options);
    }
}

#[test]
fn subclusters_read_as_qemu_reads_them() {
    let scratch = Scratch::new();
    for cluster_size in ["16k", "64k", "2M"] {
        let options = format!("extended_l2=on,cluster_size={cluster_size}");
        scratch.create(&options, "9M");
        scratch.io(&[
            "write -q -P 17 0 512",
            "write -q -P 34 6144 4096",
            "write -q -P 51 63488 4096",
            "write -q -z -u 81920 2048",
            "write -q -P 68 204800 14336",
            "write -q -z -u 208896 2048",
            "write -q -P 85 3M 3000000",
            "write -q -z 3500k 100k",
            "write -q -P 99 9436672 512",
        ]);
        scratch.check(&options);
        scratch.convert(&content(3 * MIB), &["-o", &options]);
        scratch.check(&options);
        scratch.convert(&content(3 * MIB), &["-c", "-o", &options]);
        scratch.check(&options);
    }
}

#[test]
fn external_data_files_read_as_qemu_reads_them() {
    for raw in ["on", "off"] {
        let scratch = Scratch::new();
        let options = format!("data_file=disk.data,data_file_raw={raw}");
        scratch.create(&options, "8M");
        scratch.io(&["write -P 1 0 64k", "write -P 2 1000k 300k", "write -z 1100k 10k"]);
        scratch.io(&["write -P 3 4M 1M", "write -z -u 4500k 100k", "discard 4M 64k"]);
        assert_eq!(scratch.image().header().data_file_is_raw, raw == "on");
        scratch.check(&options);
    }
}

#[test]
fn preallocated_images_read_as_qemu_reads_them() {
    let scratch = Scratch::new();
    for options in ["preallocation=metadata", "preallocation=metadata,extended_l2=on"] {
        scratch.create(options, "8M");
        scratch.check(options);
        scratch.io(&["write -P 1 1000k 300k", "write -z 1100k 10k"]);
        scratch.check(options);
        scratch.convert(&content(3 * MIB), &["-o", options]);
        scratch.check(options);
    }
}

#[test]
fn sizes_that_fit_no_cluster_read_as_qemu_reads_them() {
    let scratch = Scratch::new();
    for size in [0, 512, 65_536 + 512, 3 * MIB + 1536, 2 * MIB - 512] {
        for options in [&["-o", "compat=1.1"][..], &["-c"]] {
            scratch.convert(&content(size), options);
            assert_eq!(scratch.active().virtual_size(), size as u64);
            scratch.check(&format!("{size} bytes {options:?}"));
        }
    }
    // A raw disk that fits no sector: QEMU makes it longer.
    scratch.convert(&content(100_001), &[]);
    assert_eq!(scratch.active().virtual_size(), 100_352);
    scratch.check("100001 bytes");
}

#[test]
fn snapshots_read_as_they_were_even_where_the_disk_was_smaller() {
    let scratch = Scratch::new();
    // QEMU cannot resize an image of version 2 that has snapshots.
    let cases =
        [("compat=1.1", 5), ("extended_l2=on", 6), ("cluster_size=4k", 4), ("compat=0.10", 3)];
    for (options, grown) in cases {
        scratch.convert(&content(3 * MIB), &["-o", options]);
        scratch.run("qemu-img", &["snapshot", "-c", "first", DISK]);
        scratch.io(&["write -P 1 0 100k", "write -z 1M 300k"]);
        scratch.run("qemu-img", &["snapshot", "-c", "second, with spaces", DISK]);
        if grown > 3 {
            scratch.run("qemu-img", &["resize", "-q", DISK, &format!("{grown}M")]);
        }
        scratch.io(&["write -P 2 50k 100k", &format!("write -P 3 {}M 1M", grown - 1)]);
        scratch.run("qemu-img", &["snapshot", "-c", "gr\u{f6}\u{df}er", DISK]);
        scratch.io(&[&format!("write -P 4 0 {grown}M")]);
        scratch.check(options);

        let image = scratch.image();
        let snapshots = read_snapshots(image.file().as_ref(), image.header()).unwrap();
        let sizes = [3 * MIB, 3 * MIB, grown * MIB];
        assert_eq!(snapshots.len(), sizes.len());
        for (snapshot, size) in snapshots.into_iter().zip(sizes) {
            let snapshot = snapshot.unwrap();
            let name = std::str::from_utf8(&snapshot.name).unwrap();
            assert_eq!(snapshot.virtual_size, size as u64, "{name}");
            // QEMU gives a snapshot today's size.
            let truth = scratch.truth(&["-l", name]);
            let ours = bytes(&Qcow2Layer::of_snapshot(&image, &snapshot));
            assert_same(&ours, &truth[..size], name);
        }
    }
}

#[test]
fn an_empty_image_says_nothing_at_all() {
    let scratch = Scratch::new();
    scratch.create("compat=1.1", "1T");
    let layer = scratch.active();
    let whole = Extent { range: 0..1 << 40, word: Word::Below };
    assert_eq!(extents(&layer, 0..1 << 40), [whole]);
}

#[test]
fn the_names_of_bitmaps_are_those_that_qemu_lists() {
    let scratch = Scratch::new();
    scratch.convert(&content(MIB), &[]);
    scratch.run("qemu-img", &["bitmap", "--add", DISK, "1795161326"]);
    scratch.run("qemu-img", &["bitmap", "--add", "--disable", "-g", "4k", DISK, "second one"]);
    let image = scratch.image();
    let bitmaps = read_bitmaps(image.file().as_ref(), image.header()).unwrap();
    let names: Vec<_> = bitmaps.iter().map(|b| (b.name.as_slice(), b.in_use)).collect();
    assert_eq!(names, [(&b"1795161326"[..], false), (&b"second one"[..], false)]);
}

#[test]
fn no_more_is_mapped_than_the_estimate_says() {
    let scratch = Scratch::new();
    for options in [&["-o", "compat=1.1"][..], &["-c"]] {
        scratch.convert(&content(5 * MIB), options);
        let layer = scratch.active();
        let mapped = extents(&layer, 0..5 * MIB as u64)
            .into_iter()
            .filter(|e| matches!(e.word, Word::At(_)))
            .map(|e| e.range.end - e.range.start)
            .sum::<u64>();
        let estimate = layer.allocated_at_most();
        assert!((mapped..=5 * MIB as u64).contains(&estimate), "{options:?}: {estimate}");
    }
}

/// Cuts an image of 4 KiB clusters to `len` bytes.
fn cut_to(scratch: &Scratch, len: u64) -> Qcow2Layer {
    let file = fs::OpenOptions::new().write(true).open(scratch.path(DISK)).unwrap();
    file.set_len(len).unwrap();
    scratch.active()
}

#[test]
fn an_image_cut_to_its_first_cluster_is_lost_and_not_empty() {
    let scratch = Scratch::new();
    scratch.convert(&content(MIB), &["-o", "cluster_size=4k"]);
    let layer = cut_to(&scratch, 4096);
    let range = 0..MIB as u64;
    assert_eq!(extents(&layer, range.clone()), [Extent { range, word: Word::Bad(Fault::PastEnd) }]);
}

#[test]
fn an_image_cut_anywhere_loses_only_what_it_lacks() {
    let scratch = Scratch::new();
    let content = content(4 * MIB);
    scratch.convert(&content, &["-o", "cluster_size=4k"]);
    let whole = extents(&scratch.active(), 0..4 * MIB as u64);
    let len = fs::metadata(scratch.path(DISK)).unwrap().len();
    // From the end on: in the last cluster, then through data and both L2 tables.
    for lost in [1, 4095, 4096, 10_000, 1 << 20, 2 << 20, len - 25_000, len - 17_000, len - 4096] {
        let layer = cut_to(&scratch, len - lost);
        let mut bad = 0;
        for Extent { range, word } in extents(&layer, 0..4 * MIB as u64) {
            match word {
                Word::Bad(Fault::PastEnd) => bad += range.end - range.start,
                // What is still said is what the whole image says there.
                word => {
                    let said = whole.iter().find(|e| e.range.contains(&range.start)).unwrap();
                    let inside = range.start - said.range.start;
                    let before = match said.word {
                        Word::At(slot) => Word::At(slot.advance(inside)),
                        other => other,
                    };
                    assert_eq!(word, before, "{range:?} of an image that lost {lost} bytes");
                }
            }
        }
        // The tail of the last cluster is zeros; more than that is never missed in silence.
        assert_eq!(bad > 0, lost >= 4096, "{bad} bytes lost with {lost} bytes of the image");
    }
}
