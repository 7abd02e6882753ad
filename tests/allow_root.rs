//! `--allow-root`: backing files and data files that lie outside of the source on purpose.

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

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;
use tempfile::TempDir;

use common::content::{range, sha256};
use common::mount::is_mounted;
use common::qcow2_writer::{CLUSTER, LARGEST, Overlay};
use common::report::root_or_skip;
use common::run::scratch;
use common::source_state::SourceState;
use common::view::Checkpoint;
use common::watch::Watched;
use common::{Case, Mount, Run, User, View};

/// A source, and a folder of images beside it.
struct Host {
    root: PathBuf,
    _folder: TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = scratch();
        let root = folder.path().canonicalize().expect("a folder");
        let host = Self { root, _folder: folder };
        for name in ["source", "images"] {
            std::fs::create_dir(host.path(name)).expect("a folder");
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The same as text, for headers and command lines.
    fn name(&self, name: &str) -> String {
        self.path(name).to_str().expect("a plain path").to_owned()
    }

    fn source(&self) -> PathBuf {
        self.path("source")
    }

    /// An image that holds one cluster, of this byte and at this index.
    fn image(&self, name: &str, byte: u8, backing: Option<(&str, &str)>) -> &Self {
        let data = Some((u64::from(byte), [byte; CLUSTER]));
        Overlay { virtual_size: LARGEST, backing, data }.write(&self.path(name));
        self
    }

    /// The options that allow these folders.
    fn allowed(&self, folders: &[&str]) -> Vec<String> {
        folders.iter().flat_map(|name| ["--allow-root".into(), self.name(name)]).collect()
    }

    fn view(&self, folders: &[&str]) -> View {
        let options = self.allowed(folders);
        View::listed_with(&self.source(), &refs(&options))
    }

    fn mount(&self, folders: &[&str]) -> Mount {
        let options = self.allowed(folders);
        Mount::with(&self.source(), User::Own, &refs(&options))
    }

    /// The reason why `top.qcow2` is not shown.
    fn refusal(&self, folders: &[&str]) -> String {
        reason(self.view(folders).of_file("top.qcow2"))
    }
}

fn refs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

fn reason(seen: &Checkpoint) -> String {
    assert!(!seen.whole, "{:?} is whole: {}", seen.folder, seen.info);
    seen.error.clone().expect("a reason")
}

/// Panics unless the disk has the clusters of these bytes, and no others below them.
fn must_hold(image: &Path, bytes: &[u8]) {
    for byte in 1..=9 {
        let seen = range(image, u64::from(byte) * CLUSTER as u64, CLUSTER);
        let wanted = if bytes.contains(&byte) { byte } else { 0 };
        assert_eq!(seen, [wanted; CLUSTER], "{image:?}: cluster {byte}");
    }
}

#[test]
fn a_chain_goes_on_beneath_an_allowed_root_and_nowhere_else() {
    let host = Host::new();
    let (mid, base) = (host.name("images/mid.qcow2"), host.name("images/base.qcow2"));
    host.image("images/base.qcow2", 1, None);
    host.image("images/mid.qcow2", 2, Some(("base.qcow2", "qcow2")));
    host.image("source/top.qcow2", 3, Some((&mid, "qcow2")));
    for n in 0..20 {
        host.image(&format!("images/other{n}.qcow2"), 4, None);
    }
    let others: Vec<_> = (0..20).map(|n| host.path(&format!("images/other{n}.qcow2"))).collect();

    let needed = Watched::new(&[host.path("images/mid.qcow2"), host.path("images/base.qcow2")]);
    let said = host.refusal(&[]);
    assert!(!needed.was_touched(), "a file outside of the source was opened");
    let images = host.name("images");
    let hint = format!("it lies outside of the source; if it is meant, add --allow-root {images}");
    assert!(said.contains(&hint), "{said}");

    let untouched = Watched::new(&others);
    let view = host.view(&["images"]);
    assert_eq!(view.folders(), [Path::new("top.qcow2/top.qcow2")], "only the source is shown");
    let top = &view.checkpoints[0];
    assert!(top.whole, "{:?}", top.error);
    assert_eq!(top.text("parent"), Some(mid.as_str()));
    let link = &top.info["evidence"][0];
    assert_eq!([&link["basis"], &link["certainty"]], ["header", "certain"], "{link}");
    assert_eq!(link["parent"], mid);

    let mount = host.mount(&["images"]);
    let view = View::walk(mount.point());
    assert_eq!(view.checkpoints.len(), 1);
    let top = &view.checkpoints[0];
    let chain: Vec<_> = (0..3).map(|n| top.info["chain"][n]["file"].as_str().unwrap()).collect();
    assert_eq!(chain, [base.as_str(), mid.as_str(), "top.qcow2"]);
    must_hold(&mount.path(top.image()), &[1, 2, 3]);
    mount.unmount();
    assert!(!untouched.was_touched(), "what no header names was opened");
}

#[test]
fn a_base_outside_leads_on_only_where_that_is_allowed_too() {
    let host = Host::new();
    std::fs::create_dir(host.path("more")).expect("a folder");
    host.image("more/base.qcow2", 1, None);
    host.image("images/mid.qcow2", 2, Some(("../more/base.qcow2", "qcow2")));
    host.image("source/top.qcow2", 3, Some(("../images/mid.qcow2", "qcow2")));
    let said = host.refusal(&["images"]);
    assert!(said.contains(&format!("add --allow-root {}", host.name("more"))), "{said}");
    assert!(said.contains(&host.name("images/mid.qcow2")), "{said}");
    let mount = host.mount(&["images", "more"]);
    must_hold(&mount.path("top.qcow2/latest/disk.img"), &[1, 2, 3]);
    mount.unmount();
}

#[test]
fn images_outside_that_stand_on_each_other_are_refused() {
    let host = Host::new();
    host.image("images/a.qcow2", 1, Some(("b.qcow2", "qcow2")));
    host.image("images/b.qcow2", 2, Some(("a.qcow2", "qcow2")));
    host.image("source/top.qcow2", 3, Some(("../images/a.qcow2", "qcow2")));
    let said = host.refusal(&["images"]);
    assert!(said.contains("leads back to itself"), "{said}");
}

#[test]
fn data_files_and_raw_bases_may_lie_outside() {
    let host = Host::new();
    let data = host.name("images/disk.data");
    let options = format!("data_file={data},data_file_raw=on");
    let create = Run::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &options]);
    create.arg(host.path("source/top.qcow2")).arg("1M").ok();
    Run::new("qemu-io").args(["-c", "write -q -P 5 0 64k"]).arg(host.path("source/top.qcow2")).ok();
    // A guest wrote an image's header into its raw disk: it leads nowhere.
    host.image("images/secret.qcow2", 7, None);
    host.image("images/raw.img", 6, Some(("secret.qcow2", "qcow2")));
    let secret = Watched::new(&[host.path("images/secret.qcow2")]);
    host.image("source/over.qcow2", 3, Some(("../images/raw.img", "raw")));
    let said = host.refusal(&[]);
    assert!(said.contains("external data file") && said.contains("--allow-root"), "{said}");

    let mount = host.mount(&["images"]);
    let image = mount.path("top.qcow2/latest/disk.img");
    assert_eq!(range(&image, 0, 65_536), vec![5; 65_536]);
    let image = mount.path("over.qcow2/latest/disk.img");
    assert_eq!(range(&image, 0, 4), b"QFI\xfb");
    assert_eq!(range(&image, 3 * CLUSTER as u64, CLUSTER), [3; CLUSTER]);
    let view = View::walk(mount.point());
    assert_eq!(view.checkpoints.len(), 2);
    assert_eq!(view.of_file("top.qcow2").info["chain"][0]["data_file"], data);
    mount.unmount();
    assert!(!secret.was_touched(), "a guest's header was followed");
}

#[test]
fn an_allowed_root_may_be_a_link_and_a_relative_path() {
    let host = Host::new();
    symlink("images", host.path("link")).expect("a link");
    host.image("images/base.qcow2", 1, None);
    host.image("source/top.qcow2", 3, Some((&host.name("link/base.qcow2"), "qcow2")));
    let base = host.name("images/base.qcow2");
    assert_eq!(host.view(&["link"]).of_file("top.qcow2").text("parent"), Some(base.as_str()));
    // The folder's own name does not allow that of the link, which may lead elsewhere tomorrow.
    let said = host.refusal(&["images"]);
    assert!(said.contains(&format!("add --allow-root {}", host.name("link"))), "{said}");

    let mount = Mount::prepare(User::Own);
    let options = ["--allow-root", "./link"];
    mount.command(Path::new("source"), &options).folder(&host.root).ok();
    mount.must_be_up();
    must_hold(&mount.path("top.qcow2/latest/disk.img"), &[1, 3]);
    mount.unmount();
}

#[test]
fn what_is_no_regular_file_beneath_the_root_is_refused() {
    let host = Host::new();
    let secret = host.path("secret.qcow2");
    host.image("secret.qcow2", 1, None);
    symlink(&secret, host.path("images/file-link")).expect("a link");
    symlink("..", host.path("images/folder-link")).expect("a link");
    symlink("real", host.path("images/inner-link")).expect("a link");
    std::fs::create_dir(host.path("images/real")).expect("a folder");
    host.image("images/real/base.qcow2", 1, None);
    Run::new("mkfifo").arg(host.path("images/pipe")).ok();
    let watched = Watched::new(&[secret, host.path("images/real/base.qcow2")]);
    let link = "there is a symbolic link on its way";
    for (name, because) in [
        ("images/file-link", link),
        ("images/folder-link/secret.qcow2", link),
        ("images/inner-link/base.qcow2", link),
        ("images/pipe", "not a regular file"),
        ("images/real", "not a regular file"),
        ("images", "not a regular file"),
        ("images/missing.qcow2", "No such file"),
        ("images/real/base.qcow2/x", "Not a directory"),
        ("images/real/../real/base.qcow2", "with a `..` behind a folder"),
        ("images/../secret.qcow2", "it lies outside of the source"),
        ("images-too/base.qcow2", "it lies outside of the source"),
    ] {
        for name in [host.name(name), format!("../{name}")] {
            host.image("source/top.qcow2", 3, Some((&name, "qcow2")));
            let said = host.refusal(&["images"]);
            assert!(said.contains(because), "{name}: {said}");
        }
    }
    assert!(!watched.was_touched(), "one of them was opened");
}

#[test]
fn a_folder_that_turns_into_a_link_at_any_moment_leads_nowhere_else() {
    let host = Host::new();
    for folder in ["images/now", "secret"] {
        std::fs::create_dir(host.path(folder)).expect("a folder");
        host.image(&format!("{folder}/base.qcow2"), 1, None);
    }
    symlink(host.path("secret"), host.path("images/then")).expect("a link");
    host.image("source/top.qcow2", 3, Some(("../images/now/base.qcow2", "qcow2")));
    let watched = Watched::new(&[host.path("secret/base.qcow2")]);
    let done = AtomicBool::new(false);
    let (one, other) = (host.path("images/now"), host.path("images/then"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).expect("they change");
            }
        });
        for _ in 0..40 {
            let options = host.allowed(&["images"]);
            Run::qcowfs().arg("ls").args(options).arg(host.source()).outcome();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(!watched.was_touched(), "the way led through a link");
}

#[test]
fn the_root_of_all_folders_opens_no_device_and_nothing_that_the_kernel_makes_up() {
    let host = Host::new();
    host.image("images/base.qcow2", 1, None);
    host.image("source/top.qcow2", 3, Some((&host.name("images/base.qcow2"), "qcow2")));
    let view = View::listed_with(&host.source(), &["--allow-root", "/"]);
    assert!(view.of_file("top.qcow2").whole, "a regular file is refused");
    let watched = Watched::new(&["/dev/full".into(), "/proc/version".into()]);
    for (name, because) in [
        ("/dev/full", "not a regular file"),
        ("/proc/version", "the kernel makes its content up"),
        ("/proc/self/exe", "symbolic link"),
        ("/proc/self/fd/0", "symbolic link"),
        ("/sys/kernel/uevent_seqnum", "the kernel makes its content up"),
        ("/", "not a regular file"),
    ] {
        for format in ["qcow2", "raw"] {
            host.image("source/top.qcow2", 3, Some((name, format)));
            let view = View::listed_with(&host.source(), &["--allow-root", "/"]);
            let said = reason(view.of_file("top.qcow2"));
            assert!(said.contains(because), "{name}: {said}");
        }
    }
    assert!(!watched.was_touched(), "one of them was opened");
}

#[test]
fn the_true_path_counts_more_than_a_file_of_the_same_name_and_that_is_said() {
    let host = Host::new();
    let base = host.name("images/base.qcow2");
    host.image("images/base.qcow2", 1, None);
    host.image("source/base.qcow2", 2, None);
    host.image("source/top.qcow2", 3, Some((&base, "qcow2")));
    let view = host.view(&[]);
    assert_eq!(view.of_file("top.qcow2").info["evidence"][0]["basis"], "header-by-name");
    let view = host.view(&["images"]);
    let top = view.of_file("top.qcow2");
    assert_eq!(top.info["evidence"][0]["basis"], "header");
    let warning = top.info["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains(&base) && warning.contains("base.qcow2 of this source"), "{warning}");
    let mount = host.mount(&["images"]);
    let top = View::walk(mount.point());
    must_hold(&mount.path(top.of_file("top.qcow2").image()), &[1, 3]);
    mount.unmount();
    // It is not there: then the name counts, as without the option.
    std::fs::remove_file(host.path("images/base.qcow2")).expect("it is gone");
    let view = host.view(&["images"]);
    assert_eq!(view.of_file("top.qcow2").info["evidence"][0]["basis"], "header-by-name");
}

/// The sample of push backups, its live disks moved to where the headers lead: outside.
struct Push {
    case: Case,
    live: TempDir,
}

impl Push {
    fn new() -> Self {
        let (case, live) = (Case::unpack("libvirt-push"), scratch());
        let push = Self { case, live };
        for disk in ["vm-root.qcow2", "vm-data.qcow2"] {
            let (from, to) = (push.case.backups().join(disk), push.live.path().join(disk));
            std::fs::copy(&from, &to).expect("a copy");
            std::fs::remove_file(from).expect("it is moved");
            for epoch in &EPOCHS[1..] {
                let image = push.case.backups().join(format!("{disk}.{epoch}"));
                let rebase = Run::new("qemu-img").args(["rebase", "-u", "-F", "qcow2", "-b"]);
                rebase.arg(&to).arg(image).ok();
            }
        }
        push
    }

    fn options(&self) -> [&str; 2] {
        ["--allow-root", self.live.path().to_str().expect("a plain path")]
    }

    fn view(&self) -> View {
        View::listed_with(&self.case.backups(), &self.options())
    }

    /// Gives the backups of the root disk names of the user's own, from the full one on.
    fn rename(&self, names: [&str; 4]) {
        for (epoch, name) in EPOCHS.iter().zip(names) {
            let from = self.case.backups().join(format!("vm-root.qcow2.{epoch}"));
            std::fs::rename(from, self.case.backups().join(name)).expect("it is renamed");
        }
    }

    /// Replaces the root disk's live image by one without bitmaps.
    fn strip_live_disk(&self) {
        let live = self.live.path().join("vm-root.qcow2");
        let bare = self.live.path().join("bare.qcow2");
        Run::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&live).arg(&bare).ok();
        std::fs::rename(bare, live).expect("it is replaced");
    }

    /// Mounts, and compares the root disk's backups with the truth.
    fn must_be_right(&self, file_of: impl Fn(&Path) -> PathBuf) {
        let mount = Mount::with(&self.case.backups(), User::Own, &self.options());
        let view = View::walk(mount.point());
        let mut count = 0;
        for wanted in self.case.truth().checkpoints() {
            let name = wanted.file.to_str().expect("a plain name");
            // Not the live disks, which are outside now.
            if !name.starts_with("vm-root.qcow2.") {
                continue;
            }
            let seen = view.of_file(file_of(&wanted.file));
            assert!(seen.whole, "{:?}: {:?}", seen.folder, seen.error);
            assert_eq!(sha256(&mount.path(seen.image())), wanted.sha256, "{:?}", seen.folder);
            count += 1;
        }
        assert_eq!(count, 4);
        mount.unmount();
    }
}

const EPOCHS: [&str; 4] = ["1795161372", "1795161375", "1795161379", "1795161382"];
const USERS_NAMES: [&str; 4] =
    ["root-full.qcow2", "root-inc1.qcow2", "root-inc2.qcow2", "root-inc3.qcow2"];

#[test]
fn a_live_disk_outside_is_no_parent_of_push_backups() {
    let push = Push::new();
    let before = SourceState::of(push.live.path());
    push.must_be_right(Path::to_path_buf);
    before.must_still_hold(push.live.path());
    let view = push.view();
    assert_eq!(view.checkpoints.len(), 8, "a live disk outside is shown: {:?}", view.folders());
    for seen in &view.checkpoints {
        for link in seen.info["evidence"].as_array().expect("evidence") {
            let parent = link["parent"].as_str().expect("a path");
            assert!(!parent.starts_with('/'), "{:?} stands on {parent}", seen.folder);
        }
    }
    // The live disk's bitmaps tell of the increment that is lost.
    let lost = "vm-root.qcow2.1795161379";
    std::fs::remove_file(push.case.backups().join(lost)).expect("it is gone");
    let said = reason(push.view().of_file("vm-root.qcow2.1795161382"));
    assert!(said.contains(lost), "{said}");
}

#[test]
fn a_live_disk_outside_is_known_by_its_bitmaps_whatever_the_backups_are_called() {
    let push = Push::new();
    push.rename(USERS_NAMES);
    push.must_be_right(|file| {
        let n = EPOCHS.iter().position(|epoch| file.to_string_lossy().ends_with(epoch));
        USERS_NAMES[n.expect("a backup")].into()
    });
    // One whose name tells nothing is refused, not laid over the live disk.
    let other = Push::new();
    other.rename(USERS_NAMES.map(|name| match name {
        "root-inc3.qcow2" => "tuesday.qcow2",
        other => other,
    }));
    let said = reason(other.view().of_file("tuesday.qcow2"));
    assert!(said.contains("a VM's own disk"), "{said}");
}

#[test]
fn a_live_disk_outside_that_lost_its_bitmaps_is_not_followed_where_names_contradict() {
    let push = Push::new();
    push.rename(USERS_NAMES);
    push.strip_live_disk();
    for name in &USERS_NAMES[1..] {
        let said = reason(push.view().of_file(name));
        assert!(said.contains("declare its parent in qcowfs.toml"), "{name}: {said}");
    }
    // libvirt's own names are enough to know it.
    let push = Push::new();
    push.strip_live_disk();
    push.must_be_right(Path::to_path_buf);
}

#[test]
fn a_copy_of_a_live_disk_stays_one_when_the_headers_lead_outside() {
    let push = Push::new();
    push.rename(USERS_NAMES);
    // Its bitmaps have names that say nothing by themselves.
    for folder in [push.live.path(), &push.case.backups()] {
        let disk = folder.join("vm-root.qcow2");
        std::fs::copy(push.live.path().join("vm-data.qcow2"), &disk).expect("a copy");
        for epoch in EPOCHS {
            Run::new("qemu-img").args(["bitmap", "--remove"]).arg(&disk).arg(epoch).ok();
        }
        Run::new("qemu-img").args(["bitmap", "--add"]).arg(&disk).arg("mine").ok();
    }
    assert_eq!(push.view().of_file("vm-root.qcow2").kind(), "live");
}

#[test]
fn a_declared_parent_may_be_an_absolute_path_beneath_an_allowed_root() {
    let host = Host::new();
    let base = host.name("images/base.qcow2");
    host.image("images/base.qcow2", 1, None);
    host.image("source/here.qcow2", 2, None);
    host.image("source/top.qcow2", 3, None);
    let declare = |parent: &str| {
        let text = format!("[image.\"top.qcow2\"]\nparent = \"{parent}\"\n");
        std::fs::write(host.path("source/qcowfs.toml"), text).expect("a sidecar");
    };
    declare(&base);
    let said = host.refusal(&[]);
    assert!(said.contains(&format!("add --allow-root {}", host.name("images"))), "{said}");
    let mount = host.mount(&["images"]);
    let view = View::walk(mount.point());
    let top = view.of_file("top.qcow2");
    assert_eq!(top.info["evidence"][0]["basis"], "declared");
    assert_eq!(top.text("parent"), Some(base.as_str()));
    must_hold(&mount.path(top.image()), &[1, 3]);
    mount.unmount();
    declare(&host.name("images/missing.qcow2"));
    assert!(host.refusal(&["images"]).contains("No such file"));
    declare(&host.name("source/here.qcow2"));
    assert!(host.view(&[]).of_file("top.qcow2").whole, "an absolute path in the source");
    declare("../images/base.qcow2");
    let outcome = Run::qcowfs().arg("ls").args(host.allowed(&["images"])).arg(host.source());
    let said = outcome.outcome().stderr;
    assert!(said.contains("leads out of the source"), "{said}");
}

#[test]
fn nobody_reads_more_of_a_file_outside_than_where_it_lies() {
    let host = Host::new();
    std::fs::create_dir(host.path("images/vm")).expect("a folder");
    host.image("images/vm/base.qcow2", 1, None);
    host.image("source/top.qcow2", 3, Some(("../images/vm/base.qcow2", "qcow2")));
    let set = |name: &str, mode: u32| {
        let permissions = Permissions::from_mode(mode);
        std::fs::set_permissions(host.path(name), permissions).expect("a mode");
    };
    let parts = ["images/vm/base.qcow2", "images/vm", "images", "."];
    for (narrow, mode, wanted) in [
        (None, 0, 0o444),
        (Some(0), 0o600, 0o400),
        (Some(1), 0o750, 0o440),
        (Some(2), 0o711, 0o444),
        (Some(2), 0o700, 0o400),
        (Some(3), 0o710, 0o440),
    ] {
        for (n, part) in parts.iter().enumerate() {
            let usual = if n == 0 { 0o644 } else { 0o755 };
            set(part, if narrow == Some(n) { mode } else { usual });
        }
        // The allowed root may be the folder, or one far above.
        for root in ["images", "images/vm", "."] {
            let mount = host.mount(&[root]);
            for file in ["disk.img", "info.json"] {
                let file = mount.path("top.qcow2/latest").join(file);
                let mode = file.metadata().expect("a file").permissions().mode() & 0o777;
                assert_eq!(mode, wanted, "{narrow:?} beneath {root}: {file:?}");
            }
            mount.unmount();
        }
    }
    set(".", 0o755);
}

#[test]
fn whom_an_acl_denies_by_name_does_not_read_the_view() {
    if !root_or_skip("whom_an_acl_denies_by_name_does_not_read_the_view") {
        return;
    }
    let host = Host::new();
    host.image("images/base.qcow2", 1, None);
    host.image("source/top.qcow2", 3, Some(("../images/base.qcow2", "qcow2")));
    host.image("source/open.qcow2", 3, None);
    let nobodys = |name: &str, seen: &Mount| {
        let run = Run::new("cat").user(User::Ordinary).arg(seen.path(name));
        run.outcome().code == Some(0)
    };
    let mut options = host.allowed(&["images"]);
    options.extend(["-o".into(), "allow_other".into()]);
    for denied in [None, Some("images/base.qcow2"), Some("images")] {
        if let Some(denied) = denied {
            Run::new("setfacl").args(["-m", "u:65534:---"]).arg(host.path(denied)).ok();
        }
        let mount = Mount::with(&host.source(), User::Own, &refs(&options));
        assert!(nobodys("open.qcow2/latest/disk.img", &mount), "the view is shut");
        let reads = nobodys("top.qcow2/latest/disk.img", &mount);
        assert_eq!(reads, denied.is_none(), "{denied:?}");
        mount.unmount();
        if let Some(denied) = denied {
            Run::new("setfacl").arg("-b").arg(host.path(denied)).ok();
        }
    }
}

#[test]
fn check_reads_what_lies_outside_and_names_it_by_its_path() {
    let host = Host::new();
    let base = host.name("images/base.qcow2");
    host.image("images/base.qcow2", 1, None);
    host.image("images/mid.qcow2", 2, Some(("base.qcow2", "qcow2")));
    host.image("source/top.qcow2", 3, Some(("../images/mid.qcow2", "qcow2")));
    host.image("source/over.qcow2", 4, Some(("top.qcow2", "qcow2")));
    let check = |code: i32| -> Value {
        let run = Run::qcowfs().arg("check").arg("--json").args(host.allowed(&["images"]));
        let outcome = run.arg(host.source()).outcome();
        assert_eq!(outcome.code, Some(code), "{}{}", outcome.text(), outcome.stderr);
        serde_json::from_slice(&outcome.stdout).expect("JSON")
    };
    let report = check(0);
    assert_eq!(report["summary"]["files"], 4);
    assert_eq!(report["summary"]["checkpoints"], 2);
    // Cut off its only data cluster.
    let file = std::fs::File::options().write(true).open(&base).expect("opens");
    file.set_len(5 * CLUSTER as u64).expect("is cut");
    let report = check(1);
    let damaged = report["files"].as_array().expect("files");
    let damaged: Vec<_> = damaged.iter().filter(|file| file["state"] == "damaged").collect();
    assert_eq!(damaged.len(), 1, "{report}");
    assert_eq!(damaged[0]["path"], base);
    assert_eq!(damaged[0]["spoils"].as_array().expect("a list").len(), 2, "{report}");
    assert_eq!(report["summary"]["spoiled"], 2);
}

#[test]
fn hostile_names_are_told_in_one_line_and_as_one_word() {
    let host = Host::new();
    for (name, word) in [
        ("/x'; touch /tmp/owned; '/a.qcow2", r"--allow-root '/x'\''; touch /tmp/owned; '\'''"),
        ("/new\nline/a.qcow2", "--allow-root '/new"),
        ("/\u{1b}[2J/a.qcow2", "--allow-root '/"),
        ("/a.qcow2", "--allow-root /"),
        ("/../..", "--allow-root /"),
        ("//srv//./images//a", "--allow-root /srv/images"),
    ] {
        host.image("source/top.qcow2", 3, Some((name, "qcow2")));
        for roots in [&[][..], &["images"]] {
            let said = host.refusal(roots);
            assert!(said.contains(word), "{name:?}: {said}");
            let run = Run::qcowfs().arg("ls").args(host.allowed(roots)).arg(host.source()).ok();
            assert!(!run.text().contains('\u{1b}'), "{name:?}");
            assert!(!run.text().lines().any(|line| line.starts_with("line/")), "{name:?}");
        }
    }
}

#[test]
fn a_folder_that_cannot_be_allowed_and_one_that_the_mount_hides_are_refused_with_one_line() {
    let host = Host::new();
    host.image("source/top.qcow2", 3, None);
    for wrong in ["missing", "source/top.qcow2"] {
        let outcome = Run::qcowfs().arg("ls").args(host.allowed(&[wrong])).arg(host.source());
        let outcome = outcome.outcome();
        assert_eq!(outcome.code, Some(1));
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        let named = format!("--allow-root {}", host.name(wrong));
        assert!(outcome.stderr.contains(&named), "{}", outcome.stderr);
    }
    let mount = Mount::prepare(User::Own);
    let hidden = mount.path("base.qcow2");
    Overlay { virtual_size: LARGEST, backing: None, data: None }.write(&hidden);
    host.image("source/top.qcow2", 3, Some((hidden.to_str().expect("a plain path"), "qcow2")));
    let outcome = mount.command(&host.source(), &["--allow-root", "/"]).outcome();
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("would hide"), "{}", outcome.stderr);
    assert!(!is_mounted(mount.point()));
}
