//! Any bytes as a whole qcow2 image: its disk and those of its snapshots read the same in one go
//! and in pieces, data and holes are where the bytes say, and what the check finds nothing wrong
//! with can be read.

use std::sync::Arc;

use qcowfs::extent::Word;
use qcowfs::layer::Layer;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::qcow2::{Header, Qcow2Image, Qcow2Layer, check_image, read_snapshots};
use qcowfs::map::{ChainMap, MapCache, Node, NodeId, SMALLEST_REGION};
use qcowfs::source::{MemoryFile, Source};
use qcowfs::view::DiskImage;

use super::disk;
use super::random::Random;
use super::words::{Place, read, words};

/// Snapshots looked into.
const SNAPSHOTS: usize = 3;
/// Larger disks are not checked in full.
const CHECKED: u64 = 4 << 20;

/// Tries one input.
pub fn run(data: &[u8]) {
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("image", data.to_vec()));
    let Ok(header) = Header::read(file.as_ref()) else { return };
    let mut random = Random::of(data);
    // What is small does not fit, so that all is built again and again.
    let cache = Arc::new(ClusterCache::new([0, 20_000, 16 << 20][random.index(3)]));
    let data_file = header.data_file.as_ref().map(|_| Arc::clone(&file));
    let Ok(image) = Qcow2Image::new(Arc::clone(&file), header.clone(), data_file, cache) else {
        return;
    };
    let snapshots = read_snapshots(file.as_ref(), &header).expect("memory can be read");
    let snapshots: Vec<_> = snapshots
        .iter()
        .enumerate()
        .filter_map(|(number, entry)| Some((number, entry.as_ref().ok()?)))
        .take(SNAPSHOTS)
        .map(|(number, entry)| (number, Arc::new(Qcow2Layer::of_snapshot(&image, entry))))
        .collect();
    let active = Arc::new(Qcow2Layer::active(&image));
    check_disk(&active, &mut random);
    for (_, snapshot) in &snapshots {
        check_disk(snapshot, &mut random);
    }
    let all_small = snapshots.iter().all(|(_, snapshot)| snapshot.virtual_size() <= CHECKED);
    if all_small && active.virtual_size() <= CHECKED {
        let check = check_image(&image, &|_| {});
        if !check.active {
            assert_whole(&*active);
        }
        for (number, snapshot) in snapshots {
            if !check.snapshots.contains(&number) {
                assert_whole(&*snapshot);
            }
        }
    }
}

fn check_disk(layer: &Arc<Qcow2Layer>, random: &mut Random) {
    let budget = [0, 5000, 1 << 24, 1 << 24][random.index(4)];
    let cache = Arc::new(MapCache::new(budget));
    let node = Node { layer: Arc::clone(layer) as Arc<dyn Layer>, parent: None };
    let map = match random.below(2) {
        0 => ChainMap::new(vec![node], Arc::clone(&cache)),
        _ => ChainMap::with_region(vec![node], Arc::clone(&cache), SMALLEST_REGION),
    };
    let map = Arc::new(map.expect("one node is a tree"));
    let image = DiskImage::new(map, NodeId(0), layer.virtual_size());
    disk::check(&image, &[&**layer], random);
    assert!(cache.used_bytes() <= budget, "more than the cache may hold");
}

/// The check found nothing: all of it can be read.
fn assert_whole(layer: &dyn Layer) {
    for extent in words(layer, 0, layer.virtual_size()) {
        let (guest, end) = (extent.range.start, extent.range.end);
        match extent.word {
            Word::Below | Word::Zero => {}
            Word::Bad(fault) => panic!("the check does not know of {fault} at {guest}"),
            Word::At(slot) => {
                let place = Place { slot, guest, len: end - guest };
                assert!(read(layer, place).is_some(), "the check does not know of {guest}..{end}");
            }
        }
    }
}
