//! Random chains made by qemu-img and qemu-io, against what `qemu-img convert` makes of them.
//!
//! `QCOWFS_TEST_SEED` gives the chains of an earlier run again.

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

mod chains {
    //! Makes the chains.

    use std::path::{Path, PathBuf};

    use super::common::Run;
    use super::common::prng::Prng;

    const MIB: u64 = 1 << 20;

    /// A state of a disk: a file, or a snapshot in it.
    #[derive(Debug)]
    pub(crate) struct State {
        pub(crate) file: PathBuf,
        pub(crate) snapshot: Option<String>,
        pub(crate) size: u64,
    }

    /// What an image is made with.
    #[derive(Debug)]
    struct Shape {
        cluster: u64,
        options: String,
        compresses: bool,
    }

    impl Shape {
        fn random(prng: &mut Prng) -> Self {
            let sizes = [512, 512, 4096, 4096, 65536, 65536, 65536, 1 << 18, 2 << 20];
            let cluster = *prng.pick(&sizes);
            let mut options = format!("cluster_size={cluster}");
            if prng.one_in(8) {
                options.push_str(",compat=0.10");
            } else {
                // Subclusters need clusters of 16 KiB at least.
                if cluster >= 16384 && prng.one_in(2) {
                    options.push_str(",extended_l2=on");
                }
                if prng.one_in(2) {
                    options.push_str(",compression_type=zstd");
                }
                if prng.one_in(4) {
                    options.push_str(",lazy_refcounts=on");
                }
            }
            Self { cluster, options, compresses: prng.one_in(2) }
        }
    }

    /// Builds a tree of images in `folder` and returns all its states.
    pub(crate) fn build(folder: &Path, prng: &mut Prng) -> Vec<State> {
        let mut states = vec![base(folder, prng)];
        // What can be built upon: frozen files, with their format and size.
        let format = if states[0].file.ends_with("base.raw") { "raw" } else { "qcow2" };
        let mut bases = vec![(states[0].file.clone(), format, states[0].size)];
        for number in 1..=2 + prng.below(5) {
            // Mostly upon the newest; a branch once in a while.
            let at = if prng.one_in(4) {
                prng.below(bases.len() as u64)
            } else {
                bases.len() as u64 - 1
            };
            let (below, format, below_size) = bases[usize::try_from(at).expect("an index")].clone();
            let size = match prng.below(4) {
                0 => below_size + 512 * prng.below(4 * MIB / 512),
                1 => (below_size / 2).next_multiple_of(512) + 512 * prng.below(MIB / 512),
                _ => below_size,
            };
            let file = PathBuf::from(format!("layer{number}"));
            let shape = Shape::random(prng);
            let below = below.to_str().expect("a plain name");
            create(folder, &file, &shape, Some((below, format)), size);
            states.extend(fill(folder, &file, &shape, size, prng));
            let last = states.last().expect("the state just made").size;
            bases.push((file, "qcow2", last));
        }
        states
    }

    /// The base: raw and full of data with a hole, or a qcow2 file.
    fn base(folder: &Path, prng: &mut Prng) -> State {
        let size = 512 * (1 + prng.below(6 * MIB / 512));
        if prng.one_in(2) {
            let file = PathBuf::from("base.qcow2");
            let shape = Shape::random(prng);
            create(folder, &file, &shape, None, size);
            let states = fill(folder, &file, &Shape { compresses: false, ..shape }, size, prng);
            let mut last = states.into_iter().next_back().expect("a state");
            last.snapshot = None;
            return last;
        }
        let file = PathBuf::from("base.raw");
        let mut bytes = prng.bytes(usize::try_from(size).expect("a size"));
        let third = bytes.len() / 3;
        bytes[third..2 * third].fill(0);
        std::fs::write(folder.join(&file), bytes).expect("the base");
        State { file, snapshot: None, size }
    }

    fn create(folder: &Path, file: &Path, shape: &Shape, below: Option<(&str, &str)>, size: u64) {
        let mut run = Run::new("qemu-img").folder(folder);
        run = run.args(["create", "-q", "-f", "qcow2", "-o", &shape.options]);
        if let Some((name, format)) = below {
            run = run.args(["-b", name, "-F", format]);
        }
        run.arg(file).arg(size.to_string()).ok();
    }

    /// Writes at random, with internal snapshots and growth between; returns the states, the
    /// active one last.
    fn fill(folder: &Path, file: &Path, shape: &Shape, size: u64, prng: &mut Prng) -> Vec<State> {
        let mut states = Vec::new();
        let mut size = size;
        write(folder, file, shape, size, prng);
        while prng.one_in(4) && states.len() < 2 {
            let name = format!("snapshot {}", states.len());
            let run = Run::new("qemu-img").folder(folder);
            run.args(["snapshot", "-c", &name]).arg(file).ok();
            states.push(State { file: file.into(), snapshot: Some(name), size });
            // Version 2 cannot grow while it has snapshots.
            if prng.one_in(2) && !shape.options.contains("0.10") {
                size += 512 * (1 + prng.below(MIB / 512));
                let run = Run::new("qemu-img").folder(folder);
                run.args(["resize", "-q", "-f", "qcow2"]).arg(file).arg(size.to_string()).ok();
            }
            write(folder, file, shape, size, prng);
        }
        states.push(State { file: file.into(), snapshot: None, size });
        states
    }

    /// A round of random writes.
    fn write(folder: &Path, file: &Path, shape: &Shape, size: u64, prng: &mut Prng) {
        let pattern = prng.bytes(65_521);
        // What does not shrink is stored as it is: four different bytes do.
        let text: Vec<_> = pattern.iter().map(|b| b & 3).collect();
        std::fs::write(folder.join("pattern"), pattern).expect("a pattern");
        std::fs::write(folder.join("text"), text).expect("a pattern");
        let mut commands: Vec<String> = Vec::new();
        // Compressed ones first: qemu refuses them where something is allocated already.
        for _ in 0..if shape.compresses { 1 + prng.below(4) } else { 0 } {
            let clusters = size / shape.cluster;
            if clusters > 0 {
                let at = prng.below(clusters) * shape.cluster;
                commands.push(format!("write -c -s text {at} {}", shape.cluster));
            }
        }
        for _ in 0..3 + prng.below(8) {
            let at = prng.below(size);
            let longest = if prng.one_in(3) { 3 * shape.cluster } else { 40_000 };
            let len = (1 + prng.below(longest)).min(size - at);
            let (at, len) = if prng.one_in(2) {
                let at = at / 512 * 512;
                (at, len.next_multiple_of(512).min(size - at))
            } else {
                (at, len)
            };
            commands.push(match prng.below(8) {
                0 | 1 => format!("write -z {at} {len}"),
                2 => format!("write -z -u {at} {len}"),
                3 => format!("discard {} {}", at / 512 * 512, len / 512 * 512),
                4 => format!("write -P 0 {at} {len}"),
                _ => format!("write -s pattern {at} {len}"),
            });
        }
        let mut run =
            Run::new("qemu-io").folder(folder).args(["-f", "qcow2", "-d", "unmap", "-t", "unsafe"]);
        for command in &commands {
            run = run.args(["-c", command]);
        }
        // One refused command makes its exit code 1; what matters is what is in the file then.
        run.arg(file).outcome();
        std::fs::remove_file(folder.join("pattern")).expect("the pattern");
        std::fs::remove_file(folder.join("text")).expect("the pattern");
    }

    /// The bytes of a state, by qemu-img.
    pub(crate) fn oracle(folder: &Path, state: &State, scratch: &Path) -> Vec<u8> {
        let raw = scratch.join("raw");
        let raw_base = state.file.ends_with("base.raw");
        let mut run = Run::new("qemu-img").folder(folder).arg("convert");
        run = run.args(["-f", if raw_base { "raw" } else { "qcow2" }, "-O", "raw"]);
        if let Some(name) = &state.snapshot {
            run = run.args(["-l", &format!("snapshot.name={name}")]);
        }
        run.arg(&state.file).arg(&raw).ok();
        let mut bytes = std::fs::read(&raw).expect("what qemu-img made");
        // `convert -l` gives a snapshot the size that the disk has today.
        bytes.truncate(usize::try_from(state.size).expect("a size"));
        assert_eq!(bytes.len() as u64, state.size, "{state:?}: qemu-img's size");
        bytes
    }
}

use std::path::PathBuf;

use chains::State;
use common::content::{bytes, data_ranges, holes_must_be_zero, index, must_equal, range};
use common::prng::Prng;
use common::report::say;
use common::run::scratch;
use common::view::Checkpoint;
use common::watch::within;
use common::{Mount, View};

/// Chains of one run; each is a folder of one source, so that one mount serves them all.
const CHAINS: u64 = 48;

fn seed() -> u64 {
    let given = std::env::var("QCOWFS_TEST_SEED").ok();
    given.map_or(20_240_126, |text| text.parse().expect("QCOWFS_TEST_SEED is a number"))
}

fn find<'a>(view: &'a View, folder: &str, state: &State) -> &'a Checkpoint {
    let file = PathBuf::from(folder).join(&state.file);
    let Some(name) = &state.snapshot else { return view.of_file(&file) };
    let is = |c: &&Checkpoint| c.file() == file && c.kind() == "snapshot" && c.label() == name;
    let found = view.checkpoints.iter().find(is);
    found.unwrap_or_else(|| panic!("{file:?}: no snapshot {name:?}"))
}

/// Everything that a reader can ask of a disk.img.
fn check(mount: &Mount, seen: &Checkpoint, wanted: &[u8], prng: &mut Prng) {
    let what = format!("{:?} ({:?})", seen.folder, seen.label());
    assert!(seen.whole, "{what}: {:?}", seen.error);
    let image = mount.path(seen.image());
    let path = image.clone();
    let size = within(30, "stat", move || path.metadata().expect("stat").len());
    assert_eq!(size, wanted.len() as u64, "{what}: size");
    // At random first: what is read first must not decide what is right later.
    for _ in 0..8 {
        let at = prng.below(wanted.len() as u64);
        let len = index((1 + prng.below(150_000)).min(wanted.len() as u64 - at));
        let part = &wanted[index(at)..index(at) + len];
        must_equal(&format!("{what} at {at}+{len}"), &range(&image, at, len), part);
    }
    let data = data_ranges(&image);
    holes_must_be_zero(&what, wanted, &data);
    must_equal(&what, &bytes(&image), wanted);
    assert_eq!(data_ranges(&image), data, "{what}: data ranges changed by reading");
}

#[test]
fn random_chains_are_what_qemu_img_makes_of_them() {
    let seed = seed();
    say(&format!("random_chains: QCOWFS_TEST_SEED={seed}"));
    let (source, work) = (scratch(), scratch());
    let mut built = Vec::new();
    for number in 0..CHAINS {
        let name = format!("chain{number:02}");
        let folder = source.path().join(&name);
        std::fs::create_dir(&folder).expect("a folder");
        let states = chains::build(&folder, &mut Prng::new(seed.wrapping_add(number)));
        built.push((name, states));
    }
    let mount = Mount::of(source.path());
    let point = mount.point().to_path_buf();
    let view = within(60, "walking the view", move || View::walk(&point));
    let mut prng = Prng::new(seed);
    let (mut states, mut not_zero) = (0, 0);
    for (name, chain) in &built {
        for state in chain {
            let wanted = chains::oracle(&source.path().join(name), state, work.path());
            check(&mount, find(&view, name, state), &wanted, &mut prng);
            states += 1;
            not_zero += usize::from(wanted.iter().any(|b| *b != 0));
        }
    }
    mount.unmount();
    say(&format!("random_chains: {states} states of {CHAINS} chains are right"));
    assert!(not_zero * 10 > states * 9, "hardly anything was written: {not_zero} of {states}");
}

/// Without a mount: that the chains have what they shall have.
#[test]
fn the_chains_hold_every_sort_of_cluster_and_state() {
    let work = scratch();
    let (mut snapshots, mut branches, mut sizes) = (0, 0, std::collections::BTreeSet::new());
    let mut compressed = 0;
    for number in 0..8 {
        let folder = work.path().join(number.to_string());
        std::fs::create_dir(&folder).expect("a folder");
        let states = chains::build(&folder, &mut Prng::new(seed().wrapping_add(number)));
        snapshots += states.iter().filter(|s| s.snapshot.is_some()).count();
        let mut parents = Vec::new();
        for state in states.iter().filter(|s| s.snapshot.is_none() && !s.file.ends_with("base.raw"))
        {
            sizes.insert(state.size);
            let info = common::Run::new("qemu-img").folder(&folder).args(["info", "--output=json"]);
            let info: serde_json::Value =
                serde_json::from_slice(&info.arg(&state.file).ok().stdout).expect("JSON");
            parents.extend(info["backing-filename"].as_str().map(str::to_owned));
            assert_eq!(info["virtual-size"].as_u64(), Some(state.size), "{state:?}");
            let check =
                common::Run::new("qemu-img").folder(&folder).args(["check", "--output=json"]);
            let check: serde_json::Value =
                serde_json::from_slice(&check.arg(&state.file).outcome().stdout).expect("JSON");
            compressed += check["compressed-clusters"].as_u64().unwrap_or(0);
            assert!(check["corruptions"].is_null(), "{state:?}: {check}");
            chains::oracle(&folder, state, work.path());
        }
        let all = parents.len();
        parents.sort();
        parents.dedup();
        branches += all - parents.len();
    }
    assert!(snapshots > 0 && branches > 0 && compressed > 0, "{snapshots} {branches} {compressed}");
    assert!(sizes.len() > 8, "the sizes hardly change: {sizes:?}");
}
