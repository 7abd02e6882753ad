//! A source that changes under a mount with readers: after each change the view is that of a fresh
//! look, no name is stale, and no reader ever gets a wrong byte.

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

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use common::Mount;
use common::prng::Prng;
use common::qcow2_writer::{CLUSTER, Overlay};
use common::run::scratch;
use common::shown::{Everything, Thing, must_follow};
use common::watch::holds_within;

/// Changes in each of the four runs.
const CHANGES: usize = 50;
const DISK: usize = 32 * CLUSTER;
/// Readers of each run.
const READERS: usize = 2;

/// What the disks of a restore point may hold, by the name of its folder: no two have the same.
type Contents = Arc<Mutex<BTreeMap<String, Vec<Vec<u8>>>>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Named as qmpbackup does, in a folder of its own.
    Named,
    /// A chain of backing files.
    Overlays,
}

/// One disk with its chain.
struct Vm {
    folder: String,
    kind: Kind,
    /// Files with the disk at that time, base first.
    layers: Vec<(String, Vec<u8>)>,
}

/// A source, and all that it should hold.
struct Source {
    folder: TempDir,
    prng: Prng,
    serial: u64,
    vms: Vec<Vm>,
    contents: Contents,
}

impl Source {
    fn new(seed: u64) -> Self {
        let (folder, prng) = (scratch(), Prng::new(seed));
        let mut source =
            Self { folder, prng, serial: 0, vms: Vec::new(), contents: Contents::default() };
        for _ in 0..3 {
            source.new_vm();
        }
        source
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.prng.below(end as u64)).expect("an index")
    }

    fn path(&self, vm: usize, file: &str) -> PathBuf {
        let vm = &self.vms[vm];
        let inner = if vm.kind == Kind::Named { "sda" } else { "" };
        self.root().join(&vm.folder).join(inner).join(file)
    }

    /// What another layer of a disk would be: its file's name and bytes, and the disk then.
    fn next_layer(&mut self, vm: usize) -> (String, Vec<u8>, Vec<u8>) {
        let serial = self.serial();
        let cluster = self.prng.below(32);
        let bytes: [u8; CLUSTER] = self.prng.bytes(CLUSTER).try_into().expect("a cluster");
        let Vm { kind, layers, .. } = &self.vms[vm];
        let mut disk = layers.last().map_or(vec![0; DISK], |(_, disk)| disk.clone());
        let at = usize::try_from(cluster).expect("an index") * CLUSTER;
        disk[at..at + CLUSTER].copy_from_slice(&bytes);
        let (name, label) = match (kind, layers.is_empty()) {
            (Kind::Named, first) => {
                let label =
                    format!("{}-{}", if first { "FULL" } else { "INC" }, 1_795_161_000 + serial);
                (format!("{label}-sda"), label)
            }
            (Kind::Overlays, _) => (format!("o{serial}.qcow2"), format!("o{serial}.qcow2")),
        };
        let below = layers.last().filter(|_| *kind == Kind::Overlays);
        let backing = below.map(|(name, _)| (name.as_str(), "qcow2"));
        let data = Some((cluster, bytes));
        let file = Overlay { virtual_size: DISK as u64, backing, data }.bytes();
        // Before it is there, for it may be read at once.
        self.may_hold(&label, &disk);
        (name, file, disk)
    }

    fn may_hold(&self, label: &str, disk: &[u8]) {
        self.contents.lock().unwrap().entry(label.to_owned()).or_default().push(disk.to_vec());
    }

    fn new_vm(&mut self) {
        let kind = if self.vms.len().is_multiple_of(2) { Kind::Named } else { Kind::Overlays };
        let folder = format!("vm{}", self.serial());
        self.vms.push(Vm { folder, kind, layers: Vec::new() });
        let vm = self.vms.len() - 1;
        std::fs::create_dir_all(self.path(vm, "")).expect("a folder");
        for _ in 0..3 {
            let (name, file, disk) = self.next_layer(vm);
            std::fs::write(self.path(vm, &name), file).expect("a file");
            self.vms[vm].layers.push((name, disk));
        }
    }

    /// A new layer, written in one go.
    fn add(&mut self, vm: usize) {
        let (name, file, disk) = self.next_layer(vm);
        std::fs::write(self.path(vm, &name), file).expect("a file");
        self.vms[vm].layers.push((name, disk));
    }

    /// A new layer that gets its name when it is complete.
    fn add_by_rename(&mut self, vm: usize, seen: &mut dyn FnMut(&str)) {
        let (name, file, disk) = self.next_layer(vm);
        let (path, partial) = (self.path(vm, &name), self.path(vm, &format!("{name}.partial")));
        std::fs::write(&partial, file).expect("a file");
        seen("a partial file");
        std::fs::rename(partial, path).expect("its name");
        self.vms[vm].layers.push((name, disk));
    }

    /// A new layer whose writer takes his time, with a sound header from the first moment on.
    fn add_slowly(&mut self, vm: usize, mount: &Mount) {
        let (name, file, disk) = self.next_layer(vm);
        let mut writer = File::create(self.path(vm, &name)).expect("a file");
        // All but the cluster that its tables lead to.
        let (first, second) = file.split_at(5 * CLUSTER + 100);
        writer.write_all(first).expect("a write");
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(300));
            let shown = common::shown::mounted(mount.point()).unwrap_or_default();
            let disks =
                shown.into_iter().filter(|(_, shown)| matches!(shown.thing, Thing::Disk(_)));
            let stem = name.trim_end_matches("-sda");
            let early =
                disks.map(|(path, _)| path).find(|path| path.iter().any(|part| part == stem));
            assert_eq!(early, None, "a half-written file is shown");
        }
        writer.write_all(second).expect("a write");
        self.vms[vm].layers.push((name, disk));
    }

    /// The newest layer of a disk goes.
    fn remove(&mut self, vm: usize) {
        if self.vms[vm].layers.len() < 2 {
            return self.add(vm);
        }
        let (name, _) = self.vms[vm].layers.pop().expect("a layer");
        std::fs::remove_file(self.path(vm, &name)).expect("the file's end");
    }

    /// Another file in the place of the newest layer, under the same name.
    fn replace(&mut self, vm: usize) {
        let (old, _) = self.vms[vm].layers.pop().expect("a layer");
        let (name, file, disk) = self.next_layer(vm);
        let label =
            if self.vms[vm].kind == Kind::Named { old.trim_end_matches("-sda") } else { &old };
        self.may_hold(label, &disk);
        let new = self.folder.path().join(name);
        std::fs::write(&new, file).expect("a file");
        std::fs::rename(new, self.path(vm, &old)).expect("the new file");
        self.vms[vm].layers.push((old, disk));
    }

    fn rename_vm(&mut self, vm: usize) {
        let from = self.root().join(&self.vms[vm].folder);
        self.vms[vm].folder = format!("vm{}", self.serial());
        std::fs::rename(from, self.root().join(&self.vms[vm].folder)).expect("its new name");
    }

    fn remove_vm(&mut self, vm: usize) {
        let gone = self.vms.swap_remove(vm);
        std::fs::remove_dir_all(self.root().join(gone.folder)).expect("its end");
    }

    /// What the others stand on goes away, and comes back.
    fn hide_base(&mut self, vm: usize, seen: &mut dyn FnMut(&str)) {
        let (base, away) =
            (self.path(vm, &self.vms[vm].layers[0].0), self.folder.path().join("away"));
        std::fs::rename(&base, &away).expect("the base away");
        seen("without a base");
        std::fs::rename(away, base).expect("the base back");
    }

    fn change_mode(&mut self, vm: usize) {
        let path = self.path(vm, &self.vms[vm].layers[0].0);
        let mode = path.metadata().expect("stat").permissions().mode() ^ 0o044;
        std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    }

    fn change(&mut self, mount: &Mount, seen: &mut dyn FnMut(&str)) -> &'static str {
        let vm = self.below(self.vms.len());
        match self.below(12) {
            0 if self.vms.len() < 8 => {
                self.new_vm();
                "a whole new VM"
            }
            1 if self.vms.len() > 3 => {
                self.remove_vm(vm);
                "a VM gone"
            }
            2 => {
                self.rename_vm(vm);
                "a VM renamed"
            }
            3 => {
                self.add_by_rename(vm, seen);
                "a partial file, complete now"
            }
            4 => {
                self.add_slowly(vm, mount);
                "a file that grew"
            }
            5 | 6 => {
                self.remove(vm);
                "a restore point gone"
            }
            7 => {
                self.replace(vm);
                "a file replaced"
            }
            8 => {
                self.hide_base(vm, seen);
                "a base back again"
            }
            9 => {
                self.change_mode(vm);
                "other permissions"
            }
            _ => {
                self.add(vm);
                "a restore point more"
            }
        }
    }

    /// Panics unless every disk that is shown is the one that the model knows.
    fn must_be_right(&self, shown: &Everything, what: &str) {
        let mut whole = 0;
        let info = |path: &Path| match &shown[&path.with_file_name("info.json")].thing {
            Thing::Info(info) => self.root().join(info["file"].as_str().expect("a file")),
            other => panic!("{other:?}"),
        };
        for (path, disk) in shown {
            let Thing::Disk(bytes) = &disk.thing else { continue };
            let file = info(path);
            let vms = 0..self.vms.len();
            let mut all =
                vms.flat_map(|vm| self.vms[vm].layers.iter().map(move |layer| (vm, layer)));
            let known = all.find(|(vm, (name, _))| self.path(*vm, name) == file);
            let (_, (_, wanted)) = known.unwrap_or_else(|| panic!("{what}: {path:?}: {file:?}?"));
            assert!(bytes == wanted, "{what}: {path:?} is another disk");
            whole += 1;
        }
        let layers: usize = self.vms.iter().map(|vm| vm.layers.len()).sum();
        let hidden = if what.starts_with("without") { layers } else { 0 };
        // A partial file is a restore point, and has no disk.
        assert!(whole + hidden >= layers, "{what}: {whole} of {layers} are whole");
    }
}

/// Reads whatever there is, and panics at a wrong byte.
fn read_all_the_time(
    point: PathBuf,
    contents: Contents,
    over: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            let mut folders = vec![point.clone()];
            while let Some(folder) = folders.pop() {
                let Ok(entries) = folder.read_dir() else { continue };
                for path in entries.flatten().map(|entry| entry.path()) {
                    // Links as well: `latest` leads to whole disks.
                    if path.ends_with("disk.img") {
                        reads.fetch_add(usize::from(read_one(&path, &contents)), Ordering::Relaxed);
                    } else if path.is_dir() && !path.is_symlink() {
                        folders.push(path);
                    }
                }
            }
        }
    })
}

/// Whether it could be read. It may go at any moment; then it is gone, and nothing else.
fn read_one(path: &Path, contents: &Contents) -> bool {
    let gone = |e: &std::io::Error| {
        let known = [libc::ENOENT, libc::ESTALE, libc::EIO];
        assert!(e.raw_os_error().is_some_and(|n| known.contains(&n)), "{path:?}: {e}");
        false
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) => return gone(&e),
    };
    let mut bytes = Vec::new();
    if let Err(e) = file.read_to_end(&mut bytes) {
        return gone(&e);
    }
    let name = path.parent().and_then(Path::file_name).and_then(|n| n.to_str()).expect("a name");
    let known = contents.lock().unwrap().get(name).is_some_and(|all| all.contains(&bytes));
    assert!(known, "{path:?}: bytes that were never there");
    // Whatever happens to its names: it stays open.
    let mut again = vec![0; bytes.len()];
    if let Err(e) = file.read_exact_at(&mut again, 0) {
        return gone(&e);
    }
    assert!(again == bytes, "{path:?}: an open file changed");
    true
}

/// Paths that are there no more are not found by any way; those that are new were looked for before.
/// The kernel lists a folder anew a moment before it is told which names to forget. Those of folders
/// it would otherwise keep for an hour.
fn must_not_be_stale(mount: &Mount, before: &Everything, now: &Everything, what: &str) {
    for path in before.keys().filter(|path| !now.contains_key(*path)) {
        let full = mount.path(path);
        let is_gone = |outcome: io::Result<()>| {
            let error = outcome.as_ref().map_err(io::Error::kind);
            assert!(
                matches!(error, Ok(()) | Err(ErrorKind::NotFound)),
                "{what}: {path:?}: {outcome:?}"
            );
            error.is_err()
        };
        let stat = || is_gone(full.symlink_metadata().map(drop));
        let open = || is_gone(File::open(&full).map(drop));
        assert!(holds_within(30, || stat() && open()), "{what}: {path:?} is stale");
    }
}

fn must_survive_changes(seed: u64) {
    let mut source = Source::new(seed);
    let mount = Mount::of(&source.root());
    let mut shown = must_follow(mount.point(), &source.root(), "at first");
    source.must_be_right(&shown, "at first");
    let (over, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let start = |_| {
        let point = mount.point().to_path_buf();
        read_all_the_time(point, source.contents.clone(), over.clone(), reads.clone())
    };
    let readers: Vec<_> = (0..READERS).map(start).collect();
    let root = source.root();
    for number in 0..CHANGES {
        // The kernel notes that there is no such name: it must forget that.
        let next = format!("vm{}", source.serial + 1);
        assert!(!mount.path(&next).exists(), "{next} is there already");
        let mut seen = |what: &str| {
            let now = must_follow(mount.point(), &root, &format!("seed {seed}, {number}, {what}"));
            must_not_be_stale(&mount, &shown, &now, what);
            shown = now;
        };
        let what = source.change(&mount, &mut seen);
        let what = format!("seed {seed}, change {number}: {what}");
        let now = must_follow(mount.point(), &source.root(), &what);
        must_not_be_stale(&mount, &shown, &now, &what);
        source.must_be_right(&now, &what);
        shown = now;
    }
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().expect("a reader that saw nothing wrong");
    }
    let reads = reads.load(Ordering::Relaxed);
    assert!(reads > CHANGES, "the readers read hardly anything: {reads}");
    mount.unmount();
}

#[test]
fn the_view_follows_the_first_fifty_changes() {
    must_survive_changes(1);
}

#[test]
fn the_view_follows_fifty_other_changes() {
    must_survive_changes(2);
}

#[test]
fn the_view_follows_fifty_changes_more() {
    must_survive_changes(3);
}

#[test]
fn the_view_follows_the_last_fifty_changes() {
    must_survive_changes(4);
}
