//! A chain of which one file lies on a device that fails in one range, or goes away, or does not
//! answer.

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

use std::ops::Range;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::content::hex;
use common::device::Device;
use common::layered::Layered;
use common::mount::lives;
use common::paged::{BOTH, How, PAGE, must_be_right, must_read};
use common::run::{Outcome, scratch};
use common::watch::within;
use common::{Mount, Run, View};

/// Layers of the chain.
const LAYERS: usize = 4;

/// A mounted chain, one of whose layers is on a device that can fail.
struct Chain {
    layers: Layered,
    mount: Mount,
    device: Device,
    _folder: TempDir,
}

impl Chain {
    fn with_device_under(layer: usize) -> Self {
        let folder = scratch();
        let layers = Layered::create(folder.path(), LAYERS, 11);
        let device = Device::under(&layers.file(layer));
        let mount = Mount::of(folder.path());
        Self { layers, mount, device, _folder: folder }
    }

    fn image(&self, checkpoint: usize) -> PathBuf {
        let view = View::walk(self.mount.point());
        self.mount.path(view.of_file(format!("layer{checkpoint}.qcow2")).image())
    }

    fn must_all_be_right(&self) {
        for (checkpoint, disk) in self.layers.disks.iter().enumerate() {
            must_be_right(&self.image(checkpoint), disk);
        }
    }
}

/// A range of one layer's file fails, and with it those pages of the checkpoints that `needs`
/// says; then it is well again.
fn must_lose_only(
    layer: usize,
    range: &Range<u64>,
    needs: impl Fn(&Layered, usize, usize) -> bool,
) {
    let chain = Chain::with_device_under(layer);
    chain.device.fail(range);
    for how in BOTH {
        let mut lost = Vec::new();
        for (checkpoint, disk) in chain.layers.disks.iter().enumerate() {
            let bad = |page| checkpoint >= layer && needs(&chain.layers, checkpoint, page);
            lost.push(must_read(&chain.image(checkpoint), how, disk, bad));
        }
        assert!(lost[layer] > 0, "nothing is lost: {lost:?}");
        assert!(lost[LAYERS - 1] < lost[layer], "nothing was overwritten: {lost:?}");
    }
    chain.device.heal();
    chain.must_all_be_right();
    chain.mount.unmount();
}

fn must_lose_only_clusters(layer: usize) {
    let folder = scratch();
    let (range, pages) = Layered::create(folder.path(), LAYERS, 11).clusters(layer);
    must_lose_only(layer, &range, |layers, checkpoint, page| {
        layers.owner(checkpoint, page) == layer && pages.contains(&page)
    });
}

/// Without its table nobody knows which pages the layer leaves to those below it.
fn must_lose_only_what_a_table_maps(layer: usize) {
    let folder = scratch();
    let (range, pages) = Layered::create(folder.path(), LAYERS, 11).table(layer);
    must_lose_only(layer, &range, |layers, checkpoint, page| {
        layers.owner(checkpoint, page) <= layer && pages.contains(&page)
    });
}

#[test]
fn bad_clusters_of_the_base_are_lost_only_where_they_are_needed() {
    must_lose_only_clusters(0);
}

#[test]
fn bad_clusters_of_a_middle_layer_are_lost_only_where_they_are_needed() {
    must_lose_only_clusters(1);
}

#[test]
fn a_bad_table_of_the_base_loses_what_it_maps_and_nothing_else() {
    must_lose_only_what_a_table_maps(0);
}

#[test]
fn a_bad_table_of_a_middle_layer_loses_what_it_maps_and_nothing_else() {
    must_lose_only_what_a_table_maps(1);
}

/// The file system under a middle layer goes: what the layer has gives EIO or, from a cache, the
/// right bytes; the checkpoint below it is as ever, and so is the unmount.
fn must_survive_the_end_of_a_device(end: impl FnOnce(&mut Device)) {
    let mut chain = Chain::with_device_under(1);
    end(&mut chain.device);
    for how in BOTH {
        must_read(&chain.image(0), how, &chain.layers.disks[0], |_| false);
        for (checkpoint, disk) in chain.layers.disks.iter().enumerate().skip(1) {
            let image = chain.image(checkpoint);
            let numbers = (0..disk.len() / PAGE).step_by(7).collect();
            let mut failed = 0;
            for (page, outcome) in common::paged::pages(&image, how, numbers) {
                match outcome {
                    Ok(bytes) => {
                        let right = bytes == disk[page * PAGE..(page + 1) * PAGE];
                        assert!(right, "{image:?}, {how:?}, page {page}: other bytes");
                    }
                    Err(errno) => {
                        assert_eq!(errno, libc::EIO, "{image:?}, {how:?}, page {page}");
                        failed += 1;
                    }
                }
            }
            assert!(failed > 0, "{image:?}, {how:?}: the device is not gone");
        }
    }
    chain.mount.unmount();
}

#[test]
fn a_device_whose_server_died_gives_errors_and_no_wrong_bytes() {
    must_survive_the_end_of_a_device(|device| device.kill_server());
}

#[test]
fn a_device_that_is_a_dead_mount_gives_errors_and_no_wrong_bytes() {
    must_survive_the_end_of_a_device(Device::kill_file_system);
}

/// Reads a page; no signal is caught.
const READER: &str = r#"
import mmap, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
file = os.open(sys.argv[1], os.O_RDONLY | (os.O_DIRECT if sys.argv[2] == "direct" else 0))
os.preadv(file, [mmap.mmap(-1, 4096)], 1500 * 4096)
"#;

/// A reader of a page that only the base has, which is waiting for its device.
fn waiting_reader(chain: &Chain, how: &str) -> Child {
    let image = chain.image(0);
    chain.device.stick();
    let reader = Run::new("python3").args(["-c", READER]).arg(image).arg(how).start();
    chain.device.must_be_waited_for();
    reader
}

fn must_die_of_a_signal(how: &str) {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let chain = Chain::with_device_under(0);
        let mut reader = waiting_reader(&chain, how);
        kill_process(Pid::from_child(&reader), signal).expect("a signal to the reader");
        let status = within(20, "the end of a reader", move || reader.wait()).expect("its end");
        assert_eq!(status.signal(), Some(signal.as_raw()), "{how}: {status:?}");
        chain.device.heal();
        chain.must_all_be_right();
        chain.mount.unmount();
    }
}

#[test]
fn a_buffered_reader_dies_of_a_signal_while_the_device_does_not_answer() {
    must_die_of_a_signal("buffered");
}

#[test]
fn a_direct_reader_dies_of_a_signal_while_the_device_does_not_answer() {
    must_die_of_a_signal("direct");
}

/// Reads a page with a handler for SIGINT that does not have the call go on, and says what the
/// call returned, its errno, and the first bytes.
const CATCHER: &str = r#"
import ctypes, mmap, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.pread.restype = ctypes.c_ssize_t
signal.signal(signal.SIGINT, lambda *_: None)
signal.siginterrupt(signal.SIGINT, True)
file = os.open(sys.argv[1], os.O_RDONLY | (os.O_DIRECT if sys.argv[2] == "direct" else 0))
page = mmap.mmap(-1, 4096)
at = ctypes.addressof(ctypes.c_char.from_buffer(page))
got = libc.pread(file, ctypes.c_void_p(at), ctypes.c_size_t(4096), ctypes.c_long(1500 * 4096))
print(got, ctypes.get_errno() if got < 0 else 0, page[:16].hex())
"#;

/// Such a reader of a device that does not answer, with the channel that tells what it says.
fn waiting_catcher(chain: &Chain, how: &str) -> Receiver<Outcome> {
    let image = chain.image(0);
    chain.device.stick();
    let reader = Run::new("python3").args(["-c", CATCHER]).arg(&image).arg(how);
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(reader.outcome()));
    chain.device.must_be_waited_for();
    for pid in readers_of(&image) {
        for _ in 0..3 {
            kill_process(pid, Signal::INT).expect("a signal to the reader");
        }
    }
    receive
}

fn must_say(said: &Receiver<Outcome>, wanted: &str) {
    let outcome = said.recv_timeout(Duration::from_secs(30)).expect("the reader's end");
    assert_eq!(outcome.text(), wanted, "{}", outcome.stderr);
}

#[test]
fn a_direct_reader_that_catches_a_signal_is_interrupted_while_the_device_does_not_answer() {
    let chain = Chain::with_device_under(0);
    let said = waiting_catcher(&chain, "direct");
    must_say(&said, &format!("-1 {} {}\n", libc::EINTR, "00".repeat(16)));
    chain.device.heal();
    chain.must_all_be_right();
    chain.mount.unmount();
}

/// As on every file system: the kernel does not let it go, and what it gets are its bytes.
#[test]
fn a_buffered_reader_that_catches_a_signal_gets_its_bytes_when_the_device_answers() {
    let chain = Chain::with_device_under(0);
    let said = waiting_catcher(&chain, "buffered");
    let early = said.recv_timeout(Duration::from_secs(2)).map(|outcome| outcome.text());
    assert_eq!(early, Err(RecvTimeoutError::Timeout));
    chain.device.heal();
    let page = &chain.layers.disks[0][1500 * PAGE..];
    must_say(&said, &format!("4096 0 {}\n", hex(&page[..16])));
    chain.must_all_be_right();
    chain.mount.unmount();
}

/// The processes that have `image` among their arguments.
fn readers_of(image: &std::path::Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        if words.any(|word| word == image.as_os_str().as_encoded_bytes()) {
            found.extend(pid.and_then(Pid::from_raw));
        }
    }
    assert!(!found.is_empty(), "the reader is not found");
    found
}

#[test]
fn while_one_device_does_not_answer_the_other_checkpoints_do() {
    let folder = scratch();
    let stuck = Layered::create(&folder.path().join("stuck"), 1, 1);
    let well = Layered::create(&folder.path().join("well"), 2, 2);
    let device = Device::under(&stuck.file(0));
    let mount = Mount::with(folder.path(), common::User::Own, &["--threads", "3"]);
    let view = View::walk(mount.point());
    let image = |file: &str| mount.path(view.of_file(file).image());
    device.stick();
    let path = image("stuck/layer0.qcow2");
    let reader = std::thread::spawn({
        let path = path.clone();
        // One request: read-ahead would ask for more, each of which keeps a thread.
        move || common::paged::pages(&path, How::Direct, vec![700])
    });
    device.must_be_waited_for();
    for (checkpoint, disk) in well.disks.iter().enumerate() {
        must_be_right(&image(&format!("well/layer{checkpoint}.qcow2")), disk);
    }
    assert!(lives(mount.daemon()));
    device.heal();
    let seen = reader.join().expect("the reader");
    assert_eq!(seen[0].1.as_deref(), Ok(&stuck.disks[0][700 * PAGE..701 * PAGE]));
    must_be_right(&path, &stuck.disks[0]);
    mount.unmount();
}
