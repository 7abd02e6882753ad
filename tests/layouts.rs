//! Every layout that the tools leave, and every way in which a chain can be incomplete: which
//! image stands on which, and what is said where none does. The images are made by qemu-img.

// A test may stop where a program may not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::Command;

use qcowfs::chain::catalog::{Catalog, State};
use qcowfs::tree::info::Info;
use qcowfs::tree::plan::Plan;
use qcowfs::tree::read_catalog;

/// A source folder in the making.
struct Source(tempfile::TempDir);

impl Source {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("has a folder")).expect("a folder is made");
        path
    }

    fn image(&self, name: &str) -> &Self {
        self.qemu_img(&["create", "-q", "-f", "qcow2"], name, &["1M"])
    }

    /// An overlay whose header says `backing`, whether that is there or not.
    fn overlay(&self, name: &str, backing: &str) -> &Self {
        self.qemu_img(
            &["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing],
            name,
            &["1M"],
        )
    }

    fn bitmap(&self, name: &str, bitmap: &str) -> &Self {
        self.qemu_img(&["bitmap", "--add"], name, &[bitmap])
    }

    fn raw(&self, name: &str, size: u64) -> &Self {
        std::fs::File::create(self.path(name)).and_then(|f| f.set_len(size)).expect("a raw file");
        self
    }

    fn text(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.path(name), text).expect("a text is written");
        self
    }

    fn qemu_img(&self, before: &[&str], name: &str, after: &[&str]) -> &Self {
        let path = self.path(name);
        let run = Command::new("qemu-img").args(before).arg(&path).args(after).output();
        let run = run.expect("qemu-img runs (package qemu-utils)");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        self
    }

    fn zero_header(&self, name: &str) -> &Self {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(self.path(name)).expect("opens");
        file.write_all_at(&[0; 512], 0).expect("is written");
        self
    }

    fn mtime(&self, name: &str, seconds: u64) -> &Self {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let file = std::fs::File::options().write(true).open(self.path(name)).expect("opens");
        file.set_modified(time).expect("its time is set");
        self
    }

    fn view(&self) -> View {
        View::of(self.0.path())
    }
}

/// What is shown of a source: disk, checkpoint, kind, parent or the reason.
struct View(Vec<(String, Info)>);

impl View {
    fn of(source: &Path) -> Self {
        let catalog: Catalog = read_catalog(source, &[]).expect("the source is read");
        let plan = Plan::new(&catalog);
        let mut all = Vec::new();
        for disk in &plan.disks {
            for (id, _) in &disk.checkpoints {
                let info = Info::new(&catalog, &plan, *id);
                assert_eq!(info.state == "whole", catalog.checkpoint(*id).state == State::Whole);
                all.push((disk.path.to_string_lossy().into_owned(), info));
            }
        }
        Self(all)
    }

    fn one(&self, checkpoint: &str) -> &Info {
        let mut found =
            self.0.iter().filter(|(disk, info)| format!("{disk}/{}", info.name) == checkpoint);
        let names: Vec<String> = self.0.iter().map(|(d, i)| format!("{d}/{}", i.name)).collect();
        let (_, info) = found.next().unwrap_or_else(|| panic!("no {checkpoint} in {names:?}"));
        assert!(found.next().is_none(), "two {checkpoint}");
        info
    }

    fn parent(&self, checkpoint: &str) -> Option<&str> {
        let info = self.one(checkpoint);
        assert_eq!(info.state, "whole", "{checkpoint}: {:?}", info.reason);
        info.parent.as_deref()
    }

    fn basis(&self, checkpoint: &str) -> String {
        self.one(checkpoint).evidence[0].basis.to_string()
    }

    fn broken(&self, checkpoint: &str, because: &str) {
        let info = self.one(checkpoint);
        let reason = info.reason.as_deref().unwrap_or_else(|| panic!("{checkpoint} is whole"));
        assert!(reason.contains(because), "{checkpoint}: {reason}");
    }

    fn order(&self) -> Vec<String> {
        self.0.iter().map(|(disk, info)| format!("{disk}/{}", info.name)).collect()
    }
}

#[test]
fn qmpbackup_chains_start_anew_with_each_full_and_copies_are_nobodys_parent() {
    let source = Source::new();
    source.image("a/FULL-1795161000-a").image("a/INC-1795161001-a").image("a/COPY-1795161002-a");
    source.image("a/INC-1795161003-a").image("a/FULL-1795161004-a").image("a/INC-1795161005-a");
    let view = source.view();
    assert_eq!(view.parent("a/FULL-1795161000"), None);
    assert_eq!(view.parent("a/INC-1795161001"), Some("FULL-1795161000"));
    assert_eq!(view.parent("a/COPY-1795161002"), None);
    assert_eq!(view.parent("a/INC-1795161003"), Some("INC-1795161001"));
    assert_eq!(view.parent("a/FULL-1795161004"), None);
    assert_eq!(view.parent("a/INC-1795161005"), Some("FULL-1795161004"));
}

#[test]
fn without_subfolders_the_disks_of_a_vm_are_told_apart_by_name() {
    let source = Source::new();
    for disk in ["a", "b"] {
        source.image(&format!("FULL-1795161000-{disk}")).image(&format!("INC-1795161001-{disk}"));
    }
    let view = source.view();
    assert_eq!(
        view.order(),
        ["a/FULL-1795161000", "a/INC-1795161001", "b/FULL-1795161000", "b/INC-1795161001"]
    );
    assert_eq!(view.parent("b/INC-1795161001"), Some("FULL-1795161000"));
}

#[test]
fn without_a_timestamp_the_full_backup_bears_the_disks_name() {
    let source = Source::new();
    source.image("vm.qcow2/vm.qcow2").image("vm.qcow2/INC-1795161001-vm.qcow2");
    std::os::unix::fs::symlink("/old/place/vm.qcow2", source.path("vm.qcow2/FULL-vm.qcow2"))
        .expect("a link is made");
    // Copied together, long after the runs: there is no other full one.
    source.mtime("vm.qcow2/vm.qcow2", 1_795_169_999);
    source.mtime("vm.qcow2/INC-1795161001-vm.qcow2", 1_795_169_998);
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/INC-1795161001"), Some("vm.qcow2"));
    assert_eq!(view.order(), ["vm.qcow2/vm.qcow2", "vm.qcow2/INC-1795161001"]);
}

#[test]
fn a_newer_full_backup_without_a_timestamp_takes_the_older_increments_base_away() {
    let source = Source::new();
    source.image("vm.qcow2/vm.qcow2").mtime("vm.qcow2/vm.qcow2", 1_795_163_000);
    for run in [1_795_161_001, 1_795_162_001, 1_795_164_001] {
        let name = format!("vm.qcow2/INC-{run}-vm.qcow2");
        source.image(&name).mtime(&name, run + 5);
    }
    let view = source.view();
    view.broken("vm.qcow2/INC-1795161001", "is newer than this increment");
    view.broken("vm.qcow2/INC-1795162001", "is newer than this increment");
    assert_eq!(view.parent("vm.qcow2/INC-1795164001"), Some("vm.qcow2"));
}

#[test]
fn a_damaged_qcow2_backup_is_not_taken_for_a_raw_one() {
    let source = Source::new();
    for run in ["FULL-1795161000", "INC-1795161001", "INC-1795161002"] {
        source.image(&format!("vm/a/{run}-a"));
    }
    source.image("live.1795161001").overlay("live.1795161002", "/images/live");
    source.overlay("live.1795161003", "/images/live");
    source.text("vm/b.qcow2.config", "{}").image("vm/b.qcow2/FULL-1795161000-b.qcow2");
    for file in ["vm/a/INC-1795161001-a", "live.1795161002", "vm/b.qcow2/FULL-1795161000-b.qcow2"] {
        source.zero_header(file);
    }
    let view = source.view();
    view.broken("vm/a/INC-1795161001", "does not begin with a qcow2 header");
    view.broken("vm/a/INC-1795161002", "does not begin with a qcow2 header");
    view.broken("vm/b.qcow2/FULL-1795161000", "does not begin with a qcow2 header");
    assert_eq!(view.parent("live/1795161001"), None);
    view.broken("live/1795161002", "does not begin with a qcow2 header");
    view.broken("live/1795161003", "does not begin with a qcow2 header");
}

#[test]
fn an_image_cut_before_its_l1_table_is_broken_and_an_empty_one_is_called_so() {
    let source = Source::new();
    source.image("cut.qcow2").text("empty.qcow2", "").overlay("top.qcow2", "cut.qcow2");
    let file = std::fs::File::options().write(true).open(source.path("cut.qcow2")).expect("opens");
    file.set_len(100_000).expect("is cut");
    let view = source.view();
    view.broken("cut.qcow2/cut.qcow2", "the file is cut: it ends at byte 100000");
    view.broken("cut.qcow2/top.qcow2", "the file is cut");
    view.broken("empty.qcow2/empty.qcow2", "the file is empty");
}

#[test]
fn folders_are_looked_into_down_to_a_depth_and_those_below_are_named() {
    let source = Source::new();
    let deep = "d/".repeat(64);
    source.image(&format!("{deep}in.qcow2")).image(&format!("{deep}below/out.qcow2"));
    source.image("other/near.qcow2");
    let view = source.view();
    assert_eq!(view.order().len(), 2, "{:?}", view.order());
    assert_eq!(view.parent(&format!("{deep}in.qcow2/in.qcow2")), None);
    let catalog = read_catalog(source.0.path(), &[]).expect("the source is read");
    let skipped: Vec<_> = catalog.skipped().iter().collect();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert_eq!(skipped[0].path, PathBuf::from(format!("{deep}below")));
    assert!(skipped[0].reason.contains("this deep"), "{skipped:?}");
}

#[test]
fn a_packed_backup_is_broken_where_it_stands_and_not_skipped() {
    let source = Source::new();
    source.image("a/FULL-1795161000-a").image("a/INC-1795161002-a");
    source
        .text("a/INC-1795161001-a.gz", "\u{1f}\u{8b}packed")
        .text("a/INC-1795161001-a.md5", "0123");
    std::fs::write(source.path("a/INC-1795161001-a.gz"), b"\x1f\x8bpacked").expect("is written");
    let view = source.view();
    assert_eq!(view.parent("a/FULL-1795161000"), None);
    view.broken("a/INC-1795161001", "gzip file");
    view.broken("a/INC-1795161002", "gzip file");
    assert_eq!(view.order().len(), 3, "{:?}", view.order());
}

#[test]
fn an_increment_without_a_full_backup_is_broken_and_so_is_all_that_stands_on_it() {
    let source = Source::new();
    source.image("a/INC-1795161001-a").image("a/INC-1795161002-a").image("a/FULL-1795161003-a");
    let view = source.view();
    view.broken("a/INC-1795161001", "no full backup");
    view.broken("a/INC-1795161002", "no full backup");
    assert_eq!(view.parent("a/FULL-1795161003"), None);
}

#[test]
fn a_run_that_only_the_other_disk_has_means_a_missing_increment() {
    let source = Source::new();
    for run in ["FULL-1795161000", "INC-1795161001", "INC-1795161002", "INC-1795161003"] {
        source.image(&format!("vm1/a/{run}-a"));
        if run != "INC-1795161001" {
            source.image(&format!("vm1/b/{run}-b"));
        }
    }
    let view = source.view();
    assert_eq!(view.parent("vm1/b/FULL-1795161000"), None);
    view.broken("vm1/b/INC-1795161002", "INC-1795161001");
    view.broken("vm1/b/INC-1795161003", "INC-1795161001");
    assert_eq!(view.parent("vm1/a/INC-1795161003"), Some("INC-1795161002"));
}

#[test]
fn disks_on_different_schedules_do_not_accuse_each_other() {
    let source = Source::new();
    source.image("hourly/FULL-1795161000-hourly").image("daily/FULL-1795161000-daily");
    for run in 1..10 {
        source.image(&format!("hourly/INC-179516100{run}-hourly"));
    }
    source.image("daily/INC-1795161005-daily").image("daily/INC-1795161009-daily");
    let view = source.view();
    assert_eq!(view.parent("daily/INC-1795161009"), Some("INC-1795161005"));
    assert_eq!(view.one("daily/INC-1795161009").warnings.len(), 1);
}

#[test]
fn two_vms_in_one_folder_whose_runs_never_meet_do_not_accuse_each_other() {
    let source = Source::new();
    for run in ["FULL-1795161000", "INC-1795161002", "INC-1795161004"] {
        source.image(&format!("a/{run}-a"));
    }
    for run in ["FULL-1795161001", "INC-1795161003", "INC-1795161005"] {
        source.image(&format!("b/{run}-b"));
    }
    let view = source.view();
    assert_eq!(view.parent("a/INC-1795161004"), Some("INC-1795161002"));
    assert_eq!(view.parent("b/INC-1795161005"), Some("INC-1795161003"));
}

#[test]
fn the_folders_of_a_vms_disks_may_have_any_name() {
    let source = Source::new();
    for run in ["FULL-1795161000", "INC-1795161001", "INC-1795161002"] {
        source.image(&format!("ide0-hd0/{run}-a"));
        if run != "INC-1795161001" {
            source.image(&format!("ide0-hd1/{run}-b"));
        }
    }
    source.view().broken("ide0-hd1/b/INC-1795161002", "INC-1795161001");
}

#[test]
fn after_a_rebase_the_headers_of_another_machine_are_followed_by_name() {
    let source = Source::new();
    source.image("a/FULL-1795161000-a");
    source.overlay("a/INC-1795161001-a", "/elsewhere/a/FULL-1795161000-a");
    source.overlay("a/INC-1795161003-a", "/elsewhere/a/INC-1795161002-a");
    let view = source.view();
    assert_eq!(view.parent("a/INC-1795161001"), Some("FULL-1795161000"));
    assert_eq!(view.basis("a/INC-1795161001"), "header-by-name");
    // The name says 1001; the header knows better.
    view.broken("a/INC-1795161003", "INC-1795161002-a");
}

#[test]
fn push_increments_stand_on_the_checkpoint_before_and_never_on_the_live_disk() {
    let source = Source::new();
    source.image("vm.qcow2").image("vm.qcow2.1795161001");
    source.overlay("vm.qcow2.1795161002", "/images/vm.qcow2");
    source.overlay("vm.qcow2.1795161003", "vm.qcow2");
    for bitmap in ["1795161001", "1795161002", "1795161003"] {
        source.bitmap("vm.qcow2", bitmap);
    }
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/1795161001"), None);
    assert_eq!(view.parent("vm.qcow2/1795161002"), Some("1795161001"));
    assert_eq!(view.parent("vm.qcow2/1795161003"), Some("1795161002"));
    assert_eq!(view.one("vm.qcow2/vm.qcow2").kind.name(), "live");
    assert_eq!(view.order().last().map(String::as_str), Some("vm.qcow2/vm.qcow2"));
}

#[test]
fn push_backups_without_the_live_disk_are_known_by_their_full_one() {
    let source = Source::new();
    source.image("vm.qcow2.1795161001").overlay("vm.qcow2.1795161002", "/images/vm.qcow2");
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/1795161002"), Some("1795161001"));
    assert_eq!(view.basis("vm.qcow2/1795161002"), "naming-rule");
}

#[test]
fn a_checkpoint_of_the_live_disk_without_a_backup_is_a_missing_increment() {
    let source = Source::new();
    source.image("vm.qcow2").image("vm.qcow2.1795161001");
    source.overlay("vm.qcow2.1795161003", "vm.qcow2");
    for bitmap in ["1795161001", "1795161002", "1795161003"] {
        source.bitmap("vm.qcow2", bitmap);
    }
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/1795161001"), None);
    view.broken("vm.qcow2/1795161003", "vm.qcow2.1795161002");
}

fn checkpoint_xml(name: &str, parent: Option<&str>, created: u64) -> String {
    let parent = parent.map_or(String::new(), |p| format!("<parent><name>{p}</name></parent>"));
    format!(
        "<domaincheckpoint><name>{name}</name>{parent}<creationTime>{created}</creationTime>\
         <domain><devices><disk><source file='/images/vm.qcow2'/></disk></devices></domain>\
         </domaincheckpoint>"
    )
}

#[test]
fn a_push_backup_may_be_raw_whatever_the_live_disk_is_called() {
    let source = Source::new();
    source.raw("vm.qcow2.1795161001", 1 << 20).overlay("vm.qcow2.1795161002", "/images/vm.qcow2");
    source.raw("only.qcow2.1795161001", 1 << 20);
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/1795161002"), Some("1795161001"));
    assert_eq!(view.parent("only.qcow2/1795161001"), None);
}

#[test]
fn checkpoint_descriptions_name_the_parent() {
    let source = Source::new();
    source.image("vm.qcow2.1795161001").overlay("vm.qcow2.1795161002", "/images/vm.qcow2");
    source.overlay("vm.qcow2.1795161003", "/images/vm.qcow2");
    let described = checkpoint_xml("1795161003", Some("1795161001"), 1_795_161_003);
    source.text("xml/1795161003.xml", &described);
    let described = checkpoint_xml("1795161002", Some("1795161001"), 1_795_161_002);
    source.text("xml/1795161002.xml", &described);
    let other = checkpoint_xml("1795161002", Some("1795160000"), 1_795_161_002);
    source.text("xml/other.xml", &other.replace("/images/", "/another/vm/"));
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/1795161002"), Some("1795161001"));
    assert_eq!(view.basis("vm.qcow2/1795161002"), "checkpoint-xml");
    // One since an older checkpoint holds all that the ones between hold: both ways are right.
    assert_eq!(view.parent("vm.qcow2/1795161003"), Some("1795161002"));
    assert_eq!(view.basis("vm.qcow2/1795161003"), "naming-rule");
}

#[test]
fn a_described_parent_without_a_backup_is_a_missing_increment() {
    let source = Source::new();
    source.image("vm.qcow2.1795161001").overlay("vm.qcow2.1795161003", "/images/vm.qcow2");
    let described = checkpoint_xml("1795161003", Some("1795161002"), 1_795_161_003);
    source.text("xml/1795161003.xml", &described);
    source.view().broken("vm.qcow2/1795161003", "vm.qcow2.1795161002");
}

#[test]
fn the_live_disk_may_lie_anywhere_and_is_still_nobodys_parent() {
    let source = Source::new();
    source.image("images/vm.qcow2").bitmap("images/vm.qcow2", "1795161001");
    source.bitmap("images/vm.qcow2", "1795161002");
    source.overlay("backups/vm.qcow2.1795161002", "/srv/images/vm.qcow2");
    source.overlay("other/monday.qcow2", "/srv/images/vm.qcow2");
    let view = source.view();
    view.broken("backups/vm.qcow2/1795161002", "vm.qcow2.1795161001");
    view.broken("other/monday.qcow2/monday.qcow2", "a VM's own disk");
    assert_eq!(view.one("images/vm.qcow2/vm.qcow2").kind.name(), "live");
}

#[test]
fn a_live_disk_whose_bitmaps_are_still_in_memory_is_known_by_the_headers() {
    let source = Source::new();
    source.image("vm.qcow2").image("vm.qcow2.1795161001");
    source.overlay("vm.qcow2.1795161002", "/images/vm.qcow2");
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/1795161002"), Some("1795161001"));
    assert_eq!(view.one("vm.qcow2/vm.qcow2").kind.name(), "live");
    std::fs::remove_file(source.path("vm.qcow2.1795161001")).expect("is removed");
    source.view().broken("vm.qcow2/1795161002", "no backup of \"vm.qcow2\" before it");
}

#[test]
fn a_run_of_the_vms_other_disk_means_a_missing_push_increment() {
    let source = Source::new();
    for disk in ["a.qcow2", "b.qcow2"] {
        source.image(&format!("{disk}.1795161001"));
        for run in [1_795_161_002, 1_795_161_003] {
            if (disk, run) != ("b.qcow2", 1_795_161_002) {
                source.overlay(&format!("{disk}.{run}"), &format!("/images/{disk}"));
            }
        }
    }
    let view = source.view();
    assert_eq!(view.parent("a.qcow2/1795161003"), Some("1795161002"));
    view.broken("b.qcow2/1795161003", "b.qcow2.1795161002");
}

#[test]
fn dates_without_an_order_are_not_compared() {
    let source = Source::new();
    source.image("vm-full.qcow2");
    for date in ["20.11.2026", "01.12.2026"] {
        source.overlay(&format!("vm-inc-{date}.qcow2"), "/images/vm.qcow2");
    }
    source.view().broken("vm.qcow2/vm-inc-01.12.2026.qcow2", "nothing tells the order");
}

#[test]
fn a_copy_of_the_backups_does_not_lend_its_base() {
    let source = Source::new();
    source.image("w2/backups/vm.qcow2").overlay("w2/backups/vm.monday", "/srv/backups/vm.qcow2");
    source.overlay("w1/backups/vm.monday", "/srv/backups/vm.qcow2");
    let view = source.view();
    assert_eq!(view.parent("w2/backups/vm.qcow2/vm.monday"), Some("vm.qcow2"));
    view.broken("w1/backups/vm.monday/vm.monday", "\"w2/backups/vm.qcow2\" has the same name");
}

#[test]
fn the_overlay_of_a_snapshot_takes_the_bitmaps_along_and_its_header_is_true() {
    let source = Source::new();
    source.image("vm.qcow2").bitmap("vm.qcow2", "1795161001");
    source.overlay("vm.monday", "vm.qcow2").bitmap("vm.monday", "1795161001");
    assert_eq!(source.view().parent("vm.qcow2/vm.monday"), Some("vm.qcow2"));
}

#[test]
fn backups_named_by_their_times_are_ordered_by_them_and_not_by_the_bitmaps() {
    let source = Source::new();
    source.image("vm.qcow2").image("backup-1795161001.qcow2");
    for run in ["1795161002", "1795161003"] {
        source.overlay(&format!("backup-{run}.qcow2"), "/images/vm.qcow2");
    }
    for run in ["1795161001", "1795161002", "1795161003"] {
        source.bitmap("vm.qcow2", run);
    }
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/backup-1795161002.qcow2"), Some("backup-1795161001.qcow2"));
    assert_eq!(view.parent("vm.qcow2/backup-1795161003.qcow2"), Some("backup-1795161002.qcow2"));
    assert_eq!(view.one("vm.qcow2/vm.qcow2").kind.name(), "live");
}

#[test]
fn dated_backups_are_ordered_by_their_dates() {
    let source = Source::new();
    source.image("vda-full-2026-01-31.qcow2");
    source.overlay("vda-inc-2026-02-10.qcow2", "/images/vm.qcow2");
    source.overlay("vda-inc-2026-02-02.qcow2", "/images/vm.qcow2");
    let view = source.view();
    let parent = view.parent("vm.qcow2/vda-inc-2026-02-10.qcow2");
    assert_eq!(parent, Some("vda-inc-2026-02-02.qcow2"));
}

#[test]
fn a_lost_overlay_with_a_mark_in_its_name_is_not_taken_for_a_live_disk() {
    let source = Source::new();
    source.image("a-full.qcow2").overlay("a-inc1.qcow2", "/old/a-inc0.qcow2");
    source.view().broken("a-inc1.qcow2/a-inc1.qcow2", "a-inc0.qcow2 is missing");
}

#[test]
fn increments_in_no_order_are_not_guessed() {
    let source = Source::new();
    source.image("vda-full.qcow2").overlay("vda-inc.qcow2", "/images/vm.qcow2");
    source.overlay("inc-vda.qcow2", "/images/vm.qcow2");
    let view = source.view();
    view.broken("vm.qcow2/vda-inc.qcow2", "nothing tells the order");
    view.broken("vm.qcow2/inc-vda.qcow2", "nothing tells the order");
}

#[test]
fn a_true_header_counts_more_than_a_number_in_the_name() {
    let source = Source::new();
    source.image("vm.qcow2").image("vm.1795161001").overlay("vm.1795161002", "vm.qcow2");
    let view = source.view();
    assert_eq!(view.parent("vm/1795161002"), Some("/vm.qcow2/vm.qcow2"));
    assert_eq!(view.basis("vm/1795161002"), "header");
}

#[test]
fn a_relative_path_is_of_this_place_and_not_replaced_by_a_neighbour() {
    let source = Source::new();
    source.image("vm2/base.qcow2").overlay("vm2/ov.qcow2", "../vm1/base.qcow2");
    source.view().broken("vm2/ov.qcow2/ov.qcow2", "\"vm2/base.qcow2\" has the same name");
}

#[test]
fn what_a_guest_wrote_into_a_raw_disk_is_not_taken_for_an_image() {
    let source = Source::new();
    source.image("secret/disk.qcow2").overlay("evil.raw", "secret/disk.qcow2");
    source.qemu_img(
        &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "evil.raw"],
        "top.qcow2",
        &["1M"],
    );
    let view = source.view();
    assert_eq!(view.parent("evil.raw/top.qcow2"), Some("evil.raw"));
    assert_eq!(view.one("evil.raw/evil.raw").kind.name(), "full");
    assert!(view.one("evil.raw/evil.raw").evidence.is_empty());
}

#[test]
fn header_and_names_that_disagree_are_reported() {
    let source = Source::new();
    source.image("a/FULL-1795161000-a").image("a/INC-1795161001-a");
    source.overlay("a/INC-1795161002-a", "FULL-1795161000-a");
    let view = source.view();
    assert_eq!(view.parent("a/INC-1795161002"), Some("FULL-1795161000"));
    let warnings = &view.one("a/INC-1795161002").warnings;
    assert!(warnings.iter().any(|w| w.contains("INC-1795161001")), "{warnings:?}");
}

#[test]
fn named_push_backups_are_ordered_by_their_descriptions() {
    let source = Source::new();
    source.image("root-monday.qcow2").overlay("root-tuesday.qcow2", "/images/vm.qcow2");
    source.overlay("root-wednesday.qcow2", "/images/vm.qcow2");
    source.text("monday.xml", &checkpoint_xml("monday", None, 1_795_161_001));
    source.text("tuesday.xml", &checkpoint_xml("tuesday", Some("monday"), 1_795_161_002));
    source.text("wednesday.xml", &checkpoint_xml("wednesday", Some("tuesday"), 1_795_161_003));
    let view = source.view();
    assert_eq!(view.parent("vm.qcow2/root-tuesday.qcow2"), Some("root-monday.qcow2"));
    assert_eq!(view.parent("vm.qcow2/root-wednesday.qcow2"), Some("root-tuesday.qcow2"));
    assert_eq!(view.basis("vm.qcow2/root-tuesday.qcow2"), "checkpoint-xml");
}

#[test]
fn named_push_backups_are_ordered_by_the_numbers_in_their_names() {
    let source = Source::new();
    source.image("vda-full.qcow2").image("vdb-full.qcow2");
    for disk in ["vda", "vdb"] {
        for number in [1, 2, 9, 10] {
            source.overlay(&format!("{disk}-inc{number}.qcow2"), &format!("/images/{disk}.qcow2"));
        }
    }
    let view = source.view();
    assert_eq!(view.parent("vda.qcow2/vda-inc1.qcow2"), Some("vda-full.qcow2"));
    assert_eq!(view.parent("vdb.qcow2/vdb-inc2.qcow2"), Some("vdb-inc1.qcow2"));
    view.broken("vdb.qcow2/vdb-inc9.qcow2", "number 9 follows number 2");
    view.broken("vdb.qcow2/vdb-inc10.qcow2", "number 9 follows number 2");
}

#[test]
fn named_push_backups_with_a_folder_for_each_run_are_known_by_the_folders_names() {
    let source = Source::new();
    for disk in ["vda.qcow2", "vdb.qcow2"] {
        source.image(&format!("vm/full/{disk}"));
        source.overlay(&format!("vm/inc1/{disk}"), &format!("/images/live-{disk}"));
        source.overlay(&format!("vm/inc2/{disk}"), &format!("/images/live-{disk}"));
    }
    let view = source.view();
    assert_eq!(view.parent("vm/live-vda.qcow2/inc1"), Some("full"));
    assert_eq!(view.parent("vm/live-vdb.qcow2/inc2"), Some("inc1"));
    assert_eq!(view.one("vm/live-vdb.qcow2/inc2").file, "vm/inc2/vdb.qcow2");
}

#[test]
fn increments_of_a_live_disk_without_any_mark_are_not_guessed() {
    let source = Source::new();
    source.image("apple.qcow2").overlay("pear.qcow2", "/images/vm.qcow2");
    let view = source.view();
    view.broken("pear.qcow2/pear.qcow2", "/images/vm.qcow2 is missing");
}

#[test]
fn snapshot_overlays_with_numbers_for_names_follow_their_headers() {
    let source = Source::new();
    source.image("vm").overlay("vm.1795161001", "vm").overlay("vm.1795161002", "vm.1795161001");
    let view = source.view();
    assert_eq!(view.parent("vm/vm.1795161001"), Some("vm"));
    assert_eq!(view.parent("vm/vm.1795161002"), Some("vm.1795161001"));
    assert_eq!(view.basis("vm/vm.1795161002"), "header");
}

#[test]
fn a_base_of_the_same_name_in_another_folder_is_offered_but_not_taken() {
    let source = Source::new();
    source.image("deep/base.qcow2").overlay("top.qcow2", "/images/base.qcow2");
    let view = source.view();
    view.broken("top.qcow2/top.qcow2", "\"deep/base.qcow2\" has the same name");
}

#[test]
fn a_base_is_found_in_a_folder_of_the_same_name() {
    let source = Source::new();
    source.image("x/images/base.qcow2").overlay("vm/top.qcow2", "/srv/images/base.qcow2");
    let view = source.view();
    assert_eq!(view.parent("vm/top.qcow2/top.qcow2"), Some("/x/images/base.qcow2/base.qcow2"));
    assert_eq!(view.basis("vm/top.qcow2/top.qcow2"), "header-by-name");
}

#[test]
fn two_bases_of_the_same_name_are_one_too_many() {
    let source = Source::new();
    source.image("x/images/base.qcow2").image("y/images/base.qcow2");
    source.overlay("vm/top.qcow2", "/srv/images/base.qcow2");
    source.view().broken("vm/top.qcow2/top.qcow2", "is missing");
}

#[test]
fn loops_of_backing_files_are_refused() {
    let source = Source::new();
    source.overlay("a.qcow2", "b.qcow2").overlay("b.qcow2", "a.qcow2");
    source.overlay("self.qcow2", "self.qcow2");
    let view = source.view();
    let names = view.order();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in &names {
        let because = if name.contains("self") { "is missing" } else { "back to itself" };
        view.broken(name, because);
    }
}

#[test]
fn what_is_not_a_file_within_the_source_is_never_followed() {
    let source = Source::new();
    source.overlay("n.qcow2", "nbd://localhost/x").overlay("e.qcow2", "/etc/passwd");
    source.overlay("up.qcow2", "../../../../etc/passwd");
    std::os::unix::fs::symlink("/etc/passwd", source.path("link.raw")).expect("a link");
    source.overlay("l.qcow2", "link.raw");
    let view = source.view();
    view.broken("n.qcow2/n.qcow2", "\"nbd\"");
    for image in ["e", "up", "l"] {
        view.broken(&format!("{image}.qcow2/{image}.qcow2"), "is missing");
    }
}

#[test]
fn a_raw_backing_format_means_the_bytes_as_they_are() {
    let source = Source::new();
    source.image("base.qcow2");
    source.qemu_img(
        &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "base.qcow2"],
        "top.qcow2",
        &["1M"],
    );
    assert_eq!(source.view().parent("base.qcow2/top.qcow2"), Some("base.qcow2"));
}

#[test]
fn a_declaration_settles_what_names_cannot() {
    let source = Source::new();
    source.image("apple.qcow2").overlay("pear.qcow2", "/images/vm.qcow2").image("fig.qcow2");
    source.raw("blob", 1 << 20);
    source.text(
        "qcowfs.toml",
        "[image.\"pear.qcow2\"]\nparent = \"apple.qcow2\"\ndisk = \"vda\"\nname = \"two\"\n\
         time = \"2026-01-02T03:04:05Z\"\n[image.\"apple.qcow2\"]\ndisk = \"vda\"\nname = \"one\"\n\
         [image.\"fig.qcow2\"]\nignore = true\n[image.blob]\nformat = \"raw\"\n",
    );
    let view = source.view();
    assert_eq!(view.parent("vda/two"), Some("one"));
    assert_eq!(view.basis("vda/two"), "declared");
    assert_eq!(view.one("vda/two").time, "2026-01-02T03:04:05Z");
    assert_eq!(view.one("blob/blob").virtual_size, Some(1 << 20));
    assert_eq!(view.order().len(), 3, "{:?}", view.order());
}

#[test]
fn a_wrong_declaration_is_an_error_that_names_the_file_and_the_line() {
    let source = Source::new();
    source.image("a.qcow2").image("vm/b.qcow2");
    source.text("vm/qcowfs.toml", "[image.\"b\"]\nparnet = \"b\"\n");
    let view = source.view();
    // In a folder it spoils that folder alone; in the source's own it is an error.
    view.broken("vm/b.qcow2/b.qcow2", "vm/qcowfs.toml: line 2: unknown field `parnet`");
    assert_eq!(view.parent("a.qcow2/a.qcow2"), None);
    source.text("qcowfs.toml", "image = 3\n");
    let error = read_catalog(source.0.path(), &[]).expect_err("is refused").to_string();
    let named = source.0.path().canonicalize().unwrap().join("qcowfs.toml: line 1: ");
    assert!(error.starts_with(named.to_str().unwrap()), "{error}");
    assert!(error.ends_with("; correct that, or move the file away"), "{error}");
}

#[test]
fn unfinished_backups_are_shown_as_such_and_nobodys_parent() {
    let source = Source::new();
    source.image("a/FULL-1795161000-a").image("a/INC-1795161001-a.partial");
    source.image("a/INC-1795161002-a");
    let view = source.view();
    let partial = view.one("a/INC-1795161001-a.partial");
    assert_eq!((partial.kind.name(), partial.state), ("partial", "broken"));
    assert_eq!(view.parent("a/INC-1795161002"), Some("FULL-1795161000"));
}

/// rsync, and whoever else copies, gives the file its name when it is complete.
#[test]
fn copies_in_progress_are_no_disks_and_change_no_path_of_the_view() {
    let source = Source::new();
    source.image("vm1/a/FULL-1795161000-a").image("vm1/b/FULL-1795161000-b");
    let before = source.view().order();
    let copies = [
        ".INC-1795161001-a.Ab12Cd",
        "INC-1795161001-a.filepart",
        "tmp.Zq81hGj0Pa",
        ".nfs000000000013a4",
    ];
    for name in copies {
        source.image(&format!("vm1/a/{name}"));
    }
    assert_eq!(source.view().order(), before);
    let skipped = read_catalog(source.0.path(), &[]).expect("the source is read");
    assert_eq!(skipped.skipped().len(), copies.len());
    assert!(skipped.skipped().iter().all(|s| s.reason.contains("it is being copied")));
    let one = read_catalog(&source.path("vm1/a/tmp.Zq81hGj0Pa"), &[]).expect_err("is refused");
    assert!(one.to_string().contains("it is being copied"), "{one}");
    source.text("qcowfs.toml", "[image.\"vm1/a/INC-1795161001-a.filepart\"]\nname = \"mine\"\n");
    assert_eq!(source.view().order().len(), before.len() + 1, "declared");
}

/// libvirt calls an overlay after its snapshot, and that may be called anything.
#[test]
fn an_overlay_with_the_name_of_a_copy_is_one() {
    let source = Source::new();
    source.image("vm.qcow2").overlay("vm.tmp", "vm.qcow2").overlay("vm.after", "vm.tmp");
    assert_eq!(source.view().parent("vm.qcow2/vm.after"), Some("vm.tmp"));
    let writer = std::fs::File::options().write(true).open(source.path("vm.tmp")).expect("opens");
    // Of another process than this one.
    let mut holder = Command::new("sleep").arg("60").stdout(writer).spawn().expect("a process");
    let view = source.view();
    holder.kill().expect("its end");
    holder.wait().expect("its end");
    view.broken("vm.qcow2/vm.after", "stands on vm.tmp, which cannot be assembled: it is still");
    assert_eq!(source.view().parent("vm.qcow2/vm.after"), Some("vm.tmp"));
}

#[test]
fn copied_times_do_not_change_the_order_of_a_chain() {
    let source = Source::new();
    source.image("base.qcow2").overlay("one.qcow2", "base.qcow2").overlay("two.qcow2", "one.qcow2");
    source.mtime("base.qcow2", 300).mtime("one.qcow2", 200).mtime("two.qcow2", 100);
    let names = source.view().order();
    assert_eq!(names, ["base.qcow2/base.qcow2", "base.qcow2/one.qcow2", "base.qcow2/two.qcow2"]);
}

#[test]
fn one_image_as_the_source_shows_its_chain_alone() {
    let source = Source::new();
    source.image("base.qcow2").overlay("a.qcow2", "base.qcow2").overlay("b.qcow2", "base.qcow2");
    let view = View::of(&source.path("a.qcow2"));
    assert_eq!(view.order(), ["base.qcow2/base.qcow2", "base.qcow2/a.qcow2"]);
}

#[test]
fn an_image_that_a_vm_has_open_is_not_shown_nor_what_stands_on_it() {
    let source = Source::new();
    source.image("live.qcow2").overlay("top.qcow2", "live.qcow2");
    let nbd = Nbd::open(&source.path("live.qcow2"), &source.path("nbd.sock"));
    // qemu-nbd opens its socket before the image: wait for what the test is about.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut view = source.view();
    while view.one("live.qcow2/live.qcow2").state == "whole" && deadline > std::time::Instant::now()
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
        view = source.view();
    }
    drop(nbd);
    view.broken("live.qcow2/live.qcow2", "open for writing");
    view.broken("live.qcow2/top.qcow2", "open for writing");
    assert_eq!(source.view().parent("live.qcow2/live.qcow2"), None, "and shown when it is closed");
}

/// A QEMU process that has an image open for writing, until dropped.
struct Nbd(std::process::Child);

impl Nbd {
    fn open(image: &Path, socket: &Path) -> Self {
        let nbd = Command::new("qemu-nbd")
            .args(["-f", "qcow2", "--persistent", "-k"])
            .args([socket, image])
            .spawn();
        Self(nbd.expect("qemu-nbd runs (package qemu-utils)"))
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn files_of_other_formats_are_no_disks_whatever_their_names() {
    let source = Source::new();
    source.text("a.img", "KDMV...").text("b.raw", "conectix").text("uuid", "x").text("c.log", "y");
    source.raw("empty.raw", 0);
    assert!(source.view().order().is_empty());
}
