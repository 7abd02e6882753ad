//! Files of the source that are cut, replaced, rewritten, deleted or closed to us while they are
//! mounted, with their descriptor open in the daemon and without: the bytes are those of the file as
//! it was found, or there is an error. The view is not refreshed: what is tried is the time before.

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
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use common::layered::Layered;
use common::mount::{give, lives};
use common::paged::{BOTH, How, PAGE, must_be_right, pages};
use common::qcow2_writer::{CLUSTER, Overlay};
use common::report::skipped;
use common::run::scratch;
use common::view::Checkpoint;
use common::{Mount, User, View};

/// Enough files to use up the descriptors of a daemon that may have few.
const OTHERS: usize = 60;
const FEW: u32 = 80;
/// The layer that things happen to, of three.
const VICTIM: usize = 1;

/// Whether the daemon has the file open when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descriptor {
    Open,
    Closed,
}

/// A mounted chain, and another one that nothing happens to.
struct Source {
    layers: Layered,
    well: Layered,
    /// disk.img of each file: only the user who mounted can look into the mount, and `ls` sees
    /// the source as it is by then.
    images: BTreeMap<PathBuf, PathBuf>,
    mount: Mount,
    folder: TempDir,
}

impl Source {
    fn mounted(descriptor: Descriptor, user: User) -> Self {
        let folder = scratch();
        let layers = Layered::create(&folder.path().join("hit"), 3, 21);
        let well = Layered::create(&folder.path().join("well"), 2, 22);
        write_others(&folder.path().join("others"));
        give(folder.path(), user);
        let mount = Mount::prepare(user);
        let listed = View::listed(folder.path()).checkpoints;
        let image = |seen: &Checkpoint| (seen.file().to_path_buf(), mount.path(seen.image()));
        let images = listed.iter().map(image).collect();
        let source = Self { layers, well, images, mount, folder };
        match descriptor {
            Descriptor::Open => {
                source.mount.command(source.folder.path(), &["-o", "refresh=off"]).ok();
                source.read_a_page();
            }
            Descriptor::Closed => {
                let script =
                    format!("ulimit -n {FEW}; exec \"$0\" mount -o refresh=off \"$1\" \"$2\"");
                let shell = source.mount.run("bash").args(["-c", &script]);
                let program = source.mount.program();
                shell.arg(program).arg(source.folder.path()).arg(source.mount.point()).ok();
                source.read_others();
            }
        }
        let open = source.is_open();
        assert_eq!(open, descriptor == Descriptor::Open, "the victim is open: {open}");
        source
    }

    fn victim(&self) -> PathBuf {
        self.layers.file(VICTIM)
    }

    fn is_open(&self) -> bool {
        let fds = format!("/proc/{}/fd", self.mount.daemon().as_raw_nonzero());
        let mut fds = std::fs::read_dir(fds).expect("its descriptors").flatten();
        fds.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == self.victim()))
    }

    fn hit(&self, checkpoint: usize) -> &Path {
        &self.images[Path::new(&format!("hit/layer{checkpoint}.qcow2"))]
    }

    fn well(&self, checkpoint: usize) -> &Path {
        &self.images[Path::new(&format!("well/layer{checkpoint}.qcow2"))]
    }

    fn read_a_page(&self) {
        let page = self.layers.own_page(VICTIM);
        let seen = self.read_as_user(self.hit(VICTIM), page).expect("a page of the victim");
        assert!(seen == self.wanted(VICTIM, page), "other bytes");
    }

    fn read_others(&self) {
        for (_, image) in self.images.iter().filter(|(file, _)| file.starts_with("others")) {
            self.mount.run("cat").arg(image).ok();
        }
    }

    fn wanted(&self, checkpoint: usize, page: usize) -> &[u8] {
        &self.layers.disks[checkpoint][page * PAGE..(page + 1) * PAGE]
    }

    /// One page as the user who mounted reads it, past the cache, or what was said.
    fn read_as_user(&self, image: &Path, page: usize) -> Result<Vec<u8>, String> {
        let mut input = std::ffi::OsString::from("if=");
        input.push(image);
        let dd = self.mount.run("dd").arg(input).args(["bs=4096", "count=1", "iflag=direct"]);
        let outcome = dd.args([format!("skip={page}"), "status=none".to_owned()]).outcome();
        if outcome.code == Some(0) { Ok(outcome.stdout) } else { Err(outcome.stderr) }
    }

    /// The checkpoint below the victim, and the other chain, are as ever.
    fn must_serve_the_rest(&self) {
        must_be_right(self.hit(VICTIM - 1), &self.layers.disks[VICTIM - 1]);
        for (checkpoint, disk) in self.well.disks.iter().enumerate() {
            must_be_right(self.well(checkpoint), disk);
        }
        assert!(lives(self.mount.daemon()));
    }

    /// Reads the checkpoints that need the victim: each page is as it was, or EIO. Returns how
    /// many pages that are in the victim's own file were EIO, and how many were right.
    fn must_be_old_or_eio(&self) -> (usize, usize) {
        let (mut failed, mut right) = (0, 0);
        for (checkpoint, how) in [(1, BOTH[0]), (1, BOTH[1]), (2, BOTH[0]), (2, BOTH[1])] {
            let image = self.hit(checkpoint);
            let numbers = (0..self.layers.disks[checkpoint].len() / PAGE).collect();
            for (number, outcome) in pages(image, how, numbers) {
                let own = self.layers.owner(checkpoint, number) == VICTIM;
                let what = format!("{image:?}, {how:?}, page {number}");
                match outcome {
                    Ok(seen) => {
                        assert!(seen == self.wanted(checkpoint, number), "{what}: other bytes");
                        right += usize::from(own);
                    }
                    Err(errno) => {
                        assert_eq!(errno, libc::EIO, "{what}");
                        failed += usize::from(own);
                    }
                }
            }
        }
        (failed, right)
    }
}

/// Small images without a backing file.
fn write_others(folder: &Path) {
    std::fs::create_dir(folder).expect("a folder");
    for number in 0..OTHERS {
        let data = Some((0, [7; CLUSTER]));
        let overlay = Overlay { virtual_size: 4096, backing: None, data };
        overlay.write(&folder.join(format!("other{number}.qcow2")));
    }
}

/// Other data in the same file; its size and its tables stay.
fn rewrite(layers: &Layered) {
    let file = OpenOptions::new().write(true).open(layers.file(VICTIM)).expect("the file");
    file.write_all_at(&layers.with_other_data(VICTIM), 0).expect("a write");
}

/// What happens to the victim, and whether its bytes must all be right after it (they must all be
/// lost otherwise).
fn must_survive(descriptor: Descriptor, hit: fn(&Layered), all_right: bool) {
    let source = Source::mounted(descriptor, User::Own);
    hit(&source.layers);
    let (failed, right) = source.must_be_old_or_eio();
    if all_right {
        assert_eq!(failed, 0, "pages of a file whose bytes are still there");
    } else {
        assert!(failed > 100 && right == 0, "{failed} pages failed, {right} did not");
    }
    source.must_serve_the_rest();
    source.mount.unmount();
}

fn truncate(layers: &Layered) {
    let path = layers.file(VICTIM);
    let file = OpenOptions::new().write(true).open(&path).expect("the file");
    file.set_len(path.metadata().expect("stat").len() / 2).expect("a shorter file");
}

fn replace(layers: &Layered) {
    let new = layers.file(VICTIM).with_extension("new");
    std::fs::write(&new, layers.with_other_data(VICTIM)).expect("a file");
    std::fs::rename(new, layers.file(VICTIM)).expect("the new file");
}

fn delete(layers: &Layered) {
    std::fs::remove_file(layers.file(VICTIM)).expect("the file's end");
}

#[test]
fn a_file_that_is_cut_while_it_is_open_reads_as_eio() {
    must_survive(Descriptor::Open, truncate, false);
}

#[test]
fn a_file_that_is_cut_while_it_is_closed_reads_as_eio() {
    must_survive(Descriptor::Closed, truncate, false);
}

#[test]
fn a_file_that_is_rewritten_while_it_is_open_reads_as_eio() {
    must_survive(Descriptor::Open, rewrite, false);
}

#[test]
fn a_file_that_is_rewritten_while_it_is_closed_reads_as_eio() {
    must_survive(Descriptor::Closed, rewrite, false);
}

#[test]
fn a_file_that_is_replaced_while_it_is_open_reads_as_it_was() {
    must_survive(Descriptor::Open, replace, true);
}

#[test]
fn a_file_that_is_replaced_while_it_is_closed_reads_as_eio() {
    must_survive(Descriptor::Closed, replace, false);
}

#[test]
fn a_file_that_is_deleted_while_it_is_open_reads_as_it_was() {
    must_survive(Descriptor::Open, delete, true);
}

#[test]
fn a_file_that_is_deleted_while_it_is_closed_reads_as_eio() {
    must_survive(Descriptor::Closed, delete, false);
}

#[test]
fn what_is_put_back_reads_again() {
    let source = Source::mounted(Descriptor::Closed, User::Own);
    let away = source.folder.path().join("hit/away");
    std::fs::rename(source.victim(), &away).expect("the file away");
    assert!(source.must_be_old_or_eio().0 > 0, "the file is not gone");
    std::fs::rename(&away, source.victim()).expect("the file back");
    assert_eq!(source.must_be_old_or_eio().0, 0, "the file is back");
    source.mount.unmount();
}

/// Permissions, names and attributes are no content: whoever tidies up must not break a restore.
#[test]
fn a_file_whose_mode_names_or_links_change_reads_as_it_was() {
    for descriptor in [Descriptor::Open, Descriptor::Closed] {
        let source = Source::mounted(descriptor, User::Own);
        let (victim, other) = (source.victim(), source.folder.path().join("hit/other name"));
        let before = victim.metadata().expect("stat");
        std::fs::set_permissions(&victim, Permissions::from_mode(0o440)).expect("chmod");
        std::fs::hard_link(&victim, &other).expect("a link");
        std::fs::rename(&other, &victim).expect("a name for the same file");
        std::fs::rename(&victim, &other).expect("another name");
        std::fs::rename(&other, &victim).expect("its name");
        let after = victim.metadata().expect("stat");
        let ctime = |stat: &std::fs::Metadata| (stat.ctime(), stat.ctime_nsec());
        assert_ne!(ctime(&before), ctime(&after), "nothing changed");
        let _ = std::fs::remove_file(&other);
        assert_eq!(source.must_be_old_or_eio().0, 0, "{descriptor:?}");
        source.must_serve_the_rest();
        source.mount.unmount();
    }
}

/// Nothing tells this from a new mode or name: no promise is made for the file's own bytes.
#[test]
fn a_file_that_is_rewritten_with_its_time_put_back_harms_no_other() {
    for descriptor in [Descriptor::Open, Descriptor::Closed] {
        let source = Source::mounted(descriptor, User::Own);
        let time = source.victim().metadata().expect("stat").modified().expect("its time");
        rewrite(&source.layers);
        let file = OpenOptions::new().write(true).open(source.victim()).expect("the file");
        file.set_modified(time).expect("its time");
        for checkpoint in [1, 2] {
            let numbers = (0..2048).step_by(5).collect();
            pages(source.hit(checkpoint), How::Direct, numbers);
        }
        source.must_serve_the_rest();
        source.mount.unmount();
    }
}

/// The permission goes: what is open goes on, what has to be opened again cannot be.
#[test]
fn a_file_that_may_not_be_read_any_more_reads_as_it_was_or_not_at_all() {
    let name = "a_file_that_may_not_be_read_any_more_reads_as_it_was_or_not_at_all";
    let device = std::fs::metadata("/dev/fuse").expect("/dev/fuse");
    if device.permissions().mode() & 0o006 != 0o006 {
        return skipped("/dev/fuse is closed to ordinary users, and chmod 666 would open it", name);
    }
    for descriptor in [Descriptor::Open, Descriptor::Closed] {
        let source = Source::mounted(descriptor, User::Ordinary);
        std::fs::set_permissions(source.victim(), Permissions::from_mode(0o000)).expect("chmod");
        for checkpoint in [1, 2] {
            let own = (0..2048).find(|page| source.layers.owner(checkpoint, *page) == VICTIM);
            let own = own.expect("a page of the victim");
            let seen = source.read_as_user(source.hit(checkpoint), own);
            match (descriptor, seen) {
                (Descriptor::Open, Ok(bytes)) => assert!(bytes == source.wanted(checkpoint, own)),
                // Where it is the table that cannot be read, the reason is only in the log.
                (Descriptor::Closed, Err(said)) => {
                    let reasons = ["Permission denied", "Input/output error"];
                    assert!(reasons.iter().any(|reason| said.contains(reason)), "{said}");
                }
                (_, other) => panic!("{descriptor:?}: {:?}", other.map(|bytes| bytes.len())),
            }
        }
        source.mount.unmount();
    }
}
