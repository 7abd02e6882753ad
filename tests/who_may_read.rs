//! Who may read what of a view that everybody is let into: as the kernel decides, for `nobody`.

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

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use common::qcow2_writer::{CLUSTER, LARGEST, Overlay};
use common::report::root_or_skip;
use common::run::scratch;
use common::stream_writer::StreamWriter;
use common::{Mount, Run, User};

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

/// A source, and its view for everybody.
struct Shared {
    source: TempDir,
}

impl Shared {
    fn new() -> Self {
        Self { source: scratch() }
    }

    fn path(&self, within: &str) -> PathBuf {
        self.source.path().join(within)
    }

    fn folder(&self, within: &str, mode: u32) {
        std::fs::create_dir(self.path(within)).expect("a folder");
        chmod(&self.path(within), mode);
    }

    fn image(&self, within: &str, below: Option<&str>, mode: u32) {
        let backing = below.map(|name| (name, "qcow2"));
        let image = Overlay { virtual_size: LARGEST, backing, data: Some((0, [7; CLUSTER])) };
        image.write(&self.path(within));
        chmod(&self.path(within), mode);
    }

    fn file(&self, within: &str, content: impl AsRef<[u8]>, mode: u32) {
        std::fs::write(self.path(within), content).expect("a file");
        chmod(&self.path(within), mode);
    }

    fn mount(&self) -> Mount {
        Mount::with(self.source.path(), User::Own, &["-o", "allow_other"])
    }
}

/// Whether `nobody` can read a file to its end; panics if it fails for another reason than that he
/// may not.
fn may_read(path: &Path) -> bool {
    let outcome = Run::new("cat").arg(path).user(User::Ordinary).outcome();
    let denied = outcome.stderr.contains("Permission denied");
    assert!(outcome.code == Some(0) || denied, "{path:?}: {}", outcome.stderr);
    !denied
}

/// All names that `nobody` can list beneath a folder, and where its links lead.
fn names(folder: &Path) -> BTreeSet<String> {
    let find = Run::new("find").arg(folder).args(["-mindepth", "1", "-printf", "%P\\n%l\\n"]);
    let listed = find.user(User::Ordinary).outcome().text();
    let parts = listed.split(['/', '\n']).filter(|name| !matches!(*name, "" | ".."));
    parts.map(str::to_owned).collect()
}

#[test]
fn nobody_reads_a_backup_that_he_could_not_read() {
    if !root_or_skip("nobody_reads_a_backup_that_he_could_not_read") {
        return;
    }
    let shared = Shared::new();
    shared.image("open.qcow2", None, 0o644);
    shared.image("shut.qcow2", None, 0o600);
    shared.image("broken.qcow2", Some("gone.qcow2"), 0o600);
    // In a chain it is the narrowest file that counts, wherever it is.
    shared.folder("chain", 0o755);
    for (name, below, mode) in
        [("0", None, 0o644), ("1", Some("0"), 0o600), ("2", Some("1"), 0o644)]
    {
        let below = below.map(|name| format!("{name}.qcow2"));
        shared.image(&format!("chain/{name}.qcow2"), below.as_deref(), mode);
    }
    shared.folder("within", 0o700);
    shared.image("within/open.qcow2", None, 0o644);
    let mount = shared.mount();
    let files = |folder: &str, names: &[&str]| -> Vec<PathBuf> {
        names.iter().map(|name| mount.path(folder).join(name)).collect()
    };
    let whole = ["disk.img", "info.json"];
    for folder in ["open.qcow2/open.qcow2", "chain/0.qcow2/0.qcow2"] {
        for file in files(folder, &whole) {
            assert!(may_read(&file), "{file:?} cannot be read by all");
        }
    }
    let shut = ["shut.qcow2/shut.qcow2", "chain/0.qcow2/1.qcow2", "chain/0.qcow2/2.qcow2"];
    let shut = shut.iter().flat_map(|folder| files(folder, &whole));
    let shut = shut.chain(files("within/open.qcow2/open.qcow2", &whole));
    for file in shut.chain(files("broken.qcow2/broken.qcow2", &["error.txt", "info.json"])) {
        let stat = file.metadata().expect("it is there for root");
        assert_eq!((stat.mode() & 0o077, stat.uid()), (0, 0), "{file:?}: {:o}", stat.mode());
        assert!(!may_read(&file), "{file:?} can be read by nobody");
    }
    mount.unmount();
}

#[test]
fn letting_others_in_has_the_kernel_check_permissions() {
    if !root_or_skip("letting_others_in_has_the_kernel_check_permissions") {
        return;
    }
    let shared = Shared::new();
    shared.image("a.qcow2", None, 0o600);
    for option in ["allow_other", "allow_root"] {
        let mount = Mount::with(shared.source.path(), User::Own, &["-o", option]);
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let point = format!(" {} ", mount.point().display());
        let line = table.lines().find(|line| line.contains(&point)).expect("our mount");
        let options = line.rsplit(' ').next().unwrap_or_default();
        let options: Vec<_> = options.split(',').collect();
        assert!(options.contains(&"default_permissions"), "{option}: {line}");
        assert!(options.contains(&"allow_other"), "{option}: {line}");
        mount.unmount();
    }
}

/// An image that holds a snapshot, and a stream, whose names only they themselves tell.
fn with_secrets(shared: &Shared, mode: u32) {
    shared.folder("vm", 0o755);
    let image = shared.path("vm/disk.qcow2");
    Run::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("1M").ok();
    Run::new("qemu-img").args(["snapshot", "-c", "secret-snapshot"]).arg(&image).ok();
    chmod(&image, mode);
    shared.folder("stream", 0o755);
    let stream = StreamWriter::full(1 << 20)
        .set("diskName", json!("secret-disk"))
        .set("checkpointName", json!("secret-checkpoint"));
    shared.file("stream/vda.full.data", stream.finish(), mode);
    shared.folder("declared", 0o755);
    shared.image("declared/disk.qcow2", None, 0o644);
    let declared = "[image.\"disk.qcow2\"]\nname = \"secret-name\"\ndisk = \"secret-declared\"\n";
    shared.file("declared/qcowfs.toml", declared, mode);
}

const SECRETS: [&str; 5] =
    ["secret-snapshot", "secret-disk", "secret-checkpoint", "secret-name", "secret-declared"];

#[test]
fn names_from_inside_files_are_for_those_who_may_read_the_files() {
    if !root_or_skip("names_from_inside_files_are_for_those_who_may_read_the_files") {
        return;
    }
    for (mode, acl, shown) in [(0o644, "", true), (0o600, "", false), (0o644, "u:65534:---", false)]
    {
        let shared = Shared::new();
        with_secrets(&shared, mode);
        for told in ["vm/disk.qcow2", "stream/vda.full.data", "declared/qcowfs.toml"] {
            if !acl.is_empty() {
                Run::new("setfacl").args(["-m", acl]).arg(shared.path(told)).ok();
            }
        }
        let mount = shared.mount();
        let seen = names(mount.point());
        for secret in SECRETS {
            let of = format!("{secret} of a file of mode {mode:o}, ACL {acl:?}");
            assert_eq!(seen.contains(secret), shown, "{of}: {seen:?}");
        }
        // Root sees them all.
        let all = Run::new("find").arg(mount.point()).ok().text();
        assert!(SECRETS.iter().all(|secret| all.contains(secret)), "{all}");
        mount.unmount();
    }
}

#[test]
fn a_view_lists_no_more_names_than_the_source_does() {
    if !root_or_skip("a_view_lists_no_more_names_than_the_source_does") {
        return;
    }
    let shared = Shared::new();
    with_secrets(&shared, 0o600);
    shared.image("open.qcow2", None, 0o644);
    shared.image("over.qcow2", Some("open.qcow2"), 0o600);
    shared.folder("hidden", 0o700);
    shared.image("hidden/private.qcow2", Some("../open.qcow2"), 0o644);
    shared.folder("unlisted", 0o711);
    shared.image("unlisted/unheard-of.qcow2", None, 0o644);
    let mount = shared.mount();
    let own = ["latest", "by-time", "@times", "disk.img", "info.json", "error.txt"];
    let known = names(shared.source.path());
    let news = names(mount.point()).into_iter().filter(|name| {
        let is_time = name.starts_with("20") && name.contains('Z');
        !is_time
            && !own.contains(&name.as_str())
            && !known.iter().any(|k| k.contains(name.trim_end_matches(".img")))
    });
    assert_eq!(news.collect::<Vec<_>>(), Vec::<String>::new());
    assert!(names(mount.point()).contains("open.qcow2"), "nothing is listed at all");
    mount.unmount();
}

/// The files beneath a folder of which `nobody` is told extended attributes, or their names alone.
fn with_attributes(folder: &Path) -> BTreeSet<PathBuf> {
    let dump = |how: &[&str]| {
        let all = Run::new("getfattr").args(["-Rh", "--absolute-names", "--match=-"]);
        all.args(how).arg(folder).user(User::Ordinary).outcome().text()
    };
    let dumped = dump(&[]) + &dump(&["--dump"]);
    dumped.lines().filter_map(|line| line.strip_prefix("# file: ")).map(PathBuf::from).collect()
}

#[test]
fn extended_attributes_tell_nobody_more_than_he_may_read() {
    if !root_or_skip("extended_attributes_tell_nobody_more_than_he_may_read") {
        return;
    }
    let shared = Shared::new();
    shared.image("open.qcow2", None, 0o644);
    shared.image("shut.qcow2", None, 0o600);
    shared.image("over.qcow2", Some("shut.qcow2"), 0o644);
    shared.image("broken.qcow2", Some("gone.qcow2"), 0o600);
    shared.image("known.qcow2", Some("gone.qcow2"), 0o644);
    shared.folder("within", 0o711);
    shared.image("within/open.qcow2", None, 0o644);
    let mount = shared.mount();
    let open = ["known.qcow2/known.qcow2/error.txt", "open.qcow2/open.qcow2/disk.img"];
    assert_eq!(with_attributes(mount.point()), BTreeSet::from(open.map(|path| mount.path(path))));
    // The folder that he cannot list, he can pass.
    let within = mount.path("within/open.qcow2/open.qcow2/disk.img");
    assert_eq!(with_attributes(&within).len(), 1);
    for shut in ["shut.qcow2/shut.qcow2", "shut.qcow2/over.qcow2"] {
        assert!(mount.path(shut).join("disk.img").exists());
        assert_eq!(with_attributes(&mount.path(shut)).len(), 0, "{shut}");
        assert_eq!(with_attributes(&mount.path(shut).join("disk.img")).len(), 0, "{shut}");
    }
    mount.unmount();
}

#[test]
fn a_source_that_cannot_be_reached_lists_nothing() {
    if !root_or_skip("a_source_that_cannot_be_reached_lists_nothing") {
        return;
    }
    let shared = Shared::new();
    shared.folder("root", 0o700);
    shared.folder("root/backups", 0o755);
    shared.image("root/backups/disk.qcow2", None, 0o644);
    let source = shared.path("root/backups");
    let mount = Mount::with(&source, User::Own, &["-o", "allow_other"]);
    assert_eq!(names(mount.point()), BTreeSet::new());
    mount.unmount();
}
