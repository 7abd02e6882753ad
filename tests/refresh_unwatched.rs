//! A source that cannot be watched. On its own: its mount namespace is a copy of what is mounted at
//! that moment, and would keep the views of other tests, and so their daemons.

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

use common::changing::Source;
use common::report::root_or_skip;
use common::{Mount, Run, User};

#[test]
fn where_no_folder_can_be_watched_the_source_is_looked_at_every_few_seconds() {
    if !root_or_skip("where_no_folder_can_be_watched_the_source_is_looked_at_every_few_seconds") {
        return;
    }
    let source = Source::new();
    source.image("overlay", Some("base.qcow2"), 2);
    let mount = Mount::prepare(User::Own);
    let script = r#"
        set -e
        echo 0 > /proc/sys/user/max_inotify_watches
        "$0" mount -v --log-file "$3" "$1" "$2"
        mv "$1/overlay" "$1/overlay.qcow2"
        tries=0
        while ! [ -e "$2/base.qcow2/overlay.qcow2/disk.img" ] && [ $tries -lt 300 ]; do
            sleep 0.1
            tries=$((tries + 1))
        done
        ls "$2/base.qcow2/overlay.qcow2"
        "$0" umount "$2"
    "#;
    let shell = Run::new("unshare").args(["-U", "-r", "-m", "sh", "-c", script]);
    let shell = shell.arg(mount.program()).arg(source.root()).arg(mount.point()).arg(source.log());
    let outcome = shell.ok();
    assert!(outcome.text().contains("disk.img"), "{}\n{}", outcome.text(), source.logged());
    let said = source.logged();
    assert_eq!(said.matches("changes cannot be watched").count(), 1, "{said}");
}
