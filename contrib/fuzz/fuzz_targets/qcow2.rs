//! Any bytes as a qcow2 image: nothing panics, every answer is whole, and neither a word nor a byte
//! depends on how it was asked for.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use qcowfs::extent::Word;
use qcowfs::layer::Layer;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::qcow2::{
    Header, Qcow2Image, Qcow2Layer, Snapshot, is_qcow2, read_bitmaps, read_snapshots,
};
use qcowfs::source::{MemoryFile, Source};
use qcowfs_fuzz::{hash, places, read, read_in_pieces, same_in_parts, step, words};

/// Bytes read of one image.
const BUDGET: u64 = 512 << 10;
/// Snapshots looked into.
const SNAPSHOTS: usize = 4;
/// Pieces of a disk looked at, and how many clusters each has.
const WINDOWS: usize = 8;
const WINDOW: u64 = 300;

fuzz_target!(|data: &[u8]| {
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("image", data.to_vec()));
    let Ok(header) = Header::read(file.as_ref()) else { return };
    assert!(is_qcow2(data));
    let snapshots = read_snapshots(file.as_ref(), &header).expect("memory can be read");
    let _ = read_bitmaps(file.as_ref(), &header);
    let image = |cache| {
        let data_file = header.data_file.as_ref().map(|_| Arc::clone(&file));
        let cache = Arc::new(ClusterCache::new(cache));
        Qcow2Image::new(Arc::clone(&file), header.clone(), data_file, cache)
    };
    let (Ok(first), Ok(second)) = (image(16 << 20), image(0)) else { return };
    let mut try_disk = Disk { random: hash(data), budget: BUDGET };
    try_disk.check(&Qcow2Layer::active(&first), &Qcow2Layer::active(&second));
    let good = snapshots.iter().flatten();
    for snapshot in good.take(SNAPSHOTS) {
        let layer = |image, of: &Snapshot| Qcow2Layer::of_snapshot(image, of);
        try_disk.check(&layer(&first, snapshot), &layer(&second, snapshot));
    }
});

struct Disk {
    random: u64,
    budget: u64,
}

impl Disk {
    fn check(&mut self, first: &dyn Layer, second: &dyn Layer) {
        let size = first.virtual_size();
        assert!(first.allocated_at_most() <= size);
        let window = first.granularity() * WINDOW;
        let mut at = 0;
        for _ in 0..WINDOWS {
            let empty = first.empty_until(at);
            assert!(empty >= at);
            self.check_empty(first, at, empty.min(size));
            if empty >= size {
                break;
            }
            at = empty + window;
            self.window(first, second, empty, at);
        }
        if size > 0 {
            let anywhere = self.random % size;
            self.window(first, second, anywhere, anywhere + window);
        }
        self.window(first, second, size.saturating_sub(window / 2), size + window / 2);
    }

    /// Where a layer claims to be empty, it says nothing.
    fn check_empty(&self, layer: &dyn Layer, from: u64, to: u64) {
        let window = layer.granularity() * WINDOW;
        let last = to.saturating_sub(window).max(from);
        for (from, to) in [(from, to.min(from + window)), (last, to)] {
            if from < to {
                let empty = |word| matches!(word, Word::Below | Word::Zero);
                assert!(words(layer, from, to).iter().all(|extent| empty(extent.word)));
            }
        }
    }

    fn window(&mut self, first: &dyn Layer, second: &dyn Layer, from: u64, to: u64) {
        let all = words(first, from, to);
        same_in_parts(second, &all, from + (self.random >> 8) % (to - from));
        let step = step(self.random);
        for place in places(&all, &mut self.budget) {
            assert_eq!(read(first, place), read_in_pieces(second, place, step), "{place:?}");
        }
    }
}
