//! Any bytes as the header and the tables of a qcow2 image: nothing panics, every answer is whole,
//! and neither a word nor a byte depends on how it was asked for.

use std::sync::Arc;

use qcowfs::extent::Word;
use qcowfs::layer::Layer;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::qcow2::{
    Header, Qcow2Image, Qcow2Layer, Snapshot, is_qcow2, read_bitmaps, read_snapshots,
};
use qcowfs::source::{MemoryFile, Source};

use super::random::Random;
use super::words::{places, read, read_in_pieces, same_in_parts, step, words};

/// Bytes read of one image.
const BUDGET: u64 = 512 << 10;
/// Snapshots looked into.
const SNAPSHOTS: usize = 4;
/// Pieces of a disk looked at, and how many clusters each has.
const WINDOWS: usize = 8;
const WINDOW: u64 = 300;
/// An error in words is shorter, whatever the file holds.
const LONGEST_MESSAGE: usize = 16 << 10;

/// Tries one input.
pub fn run(data: &[u8]) {
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("image", data.to_vec()));
    let header = match Header::read(file.as_ref()) {
        Ok(header) => header,
        Err(error) => {
            assert!(error.to_string().len() < LONGEST_MESSAGE, "an endless message");
            return;
        }
    };
    assert!(is_qcow2(data));
    check_header(data, &header);
    let snapshots = read_snapshots(file.as_ref(), &header).expect("memory can be read");
    assert!(snapshots.len() <= header.snapshot_count as usize);
    if let Ok(bitmaps) = read_bitmaps(file.as_ref(), &header) {
        assert!(bitmaps.iter().map(|bitmap| bitmap.name.len()).sum::<usize>() <= data.len());
    }
    let image = |cache| {
        let data_file = header.data_file.as_ref().map(|_| Arc::clone(&file));
        let cache = Arc::new(ClusterCache::new(cache));
        Qcow2Image::new(Arc::clone(&file), header.clone(), data_file, cache)
    };
    let (Ok(first), Ok(second)) = (image(16 << 20), image(0)) else { return };
    let mut try_disk = Disk { random: Random::of(data), budget: BUDGET };
    try_disk.check(&Qcow2Layer::active(&first), &Qcow2Layer::active(&second));
    let good = snapshots.iter().flatten();
    for snapshot in good.take(SNAPSHOTS) {
        let layer = |image, of: &Snapshot| Qcow2Layer::of_snapshot(image, of);
        try_disk.check(&layer(&first, snapshot), &layer(&second, snapshot));
    }
}

/// What a header promises, and that a prefix as long as it asks for is enough.
fn check_header(data: &[u8], header: &Header) {
    assert!((2..=3).contains(&header.version) && (9..=21).contains(&header.cluster_bits));
    assert!(header.virtual_size.is_multiple_of(512));
    assert!(header.l1_offset.is_multiple_of(header.cluster_size()));
    assert!(header.backing_file.as_ref().is_none_or(|name| (1..=1023).contains(&name.len())));
    assert!(header.data_file.as_ref().is_none_or(|name| !name.is_empty()));
    let len = data.len() as u64;
    let mut wanted = 112.min(len);
    // Each prefix tells of a longer one, until one is enough.
    loop {
        let needed = Header::bytes_needed(&data[..wanted as usize]).min(len);
        assert!(needed <= header.cluster_size().max(112));
        if needed <= wanted {
            break;
        }
        wanted = needed;
    }
    let parsed = Header::parse(&data[..wanted as usize], len);
    assert_eq!(parsed.as_ref().ok(), Some(header), "from {wanted} bytes");
}

struct Disk {
    random: Random,
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
            Self::check_empty(first, at, empty.min(size));
            if empty >= size {
                break;
            }
            at = empty + window;
            self.window(first, second, empty, at);
        }
        if size > 0 {
            let anywhere = self.random.below(size);
            self.window(first, second, anywhere, anywhere + window);
        }
        self.window(first, second, size.saturating_sub(window / 2), size + window / 2);
    }

    /// Where a layer claims to be empty, it says nothing.
    fn check_empty(layer: &dyn Layer, from: u64, to: u64) {
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
        same_in_parts(second, &all, from + self.random.below(to - from));
        let step = step(self.random.any());
        for place in places(&all, &mut self.budget) {
            assert_eq!(read(first, place), read_in_pieces(second, place, step), "{place:?}");
        }
    }
}
