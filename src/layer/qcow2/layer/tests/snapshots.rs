//! L1 tables of internal snapshots, and large ones.

use super::*;

fn snapshot_layer(image: TestImage, l1_offset: u64, l1_size: u32, size: u64) -> Qcow2Layer {
    let snapshot = Snapshot {
        id: b"1".to_vec(),
        name: b"first".to_vec(),
        l1_offset,
        l1_size,
        seconds: 0,
        nanos: 0,
        virtual_size: size,
        vm_state_size: 0,
    };
    Qcow2Layer::of_snapshot(image.layer().image(), &snapshot)
}

#[test]
fn what_a_short_l1_table_of_a_snapshot_lacks_is_unallocated() {
    let mut image = three_tables();
    let l1 = image.at(7);
    put_u64(&mut image.bytes, l1, 4 * SMALL);
    image.l2(4, 63, image.at(10));
    let huge = 1 << 62;
    let layer = snapshot_layer(image, l1, 1, huge);
    assert_eq!(layer.virtual_size(), huge);
    assert_eq!(
        words(&layer, REACH - 512..huge),
        [says(REACH - 512..REACH, host(10 * SMALL)), says(REACH..huge, Word::Below)]
    );
}

#[test]
fn a_snapshot_of_a_disk_that_was_smaller_ends_where_that_did() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    image.l2(4, 1, image.at(11));
    let l1 = image.at(3);
    let layer = snapshot_layer(image, l1, 3, 512);
    assert_eq!(
        words(&layer, 0..1024),
        [says(0..512, host(10 * SMALL)), says(512..1024, Word::Below)]
    );
}

#[test]
fn layers_of_one_image_share_its_clusters_in_the_cache() {
    let image = packed_image(&deflated(&[5; 4096]));
    let l1 = image.at(3);
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("disk.qcow2", image.bytes));
    let header = Header::read(file.as_ref()).unwrap();
    let cache = Arc::new(ClusterCache::new(1 << 20));
    let open = || {
        let file = Arc::clone(&file);
        Qcow2Image::new(file, header.clone(), None, Arc::clone(&cache)).unwrap()
    };
    let image = open();
    let layer = Qcow2Layer::active(&image);
    read(&layer, 3 * 4096, 1).unwrap();
    // The cluster, and the two entries of the L1 table.
    assert_eq!(cache.bytes(), 4096 + 16);
    read(&Qcow2Layer::new(&image, l1, 2, 4 << 20), 3 * 4096, 1).unwrap();
    assert_eq!(cache.bytes(), 4096 + 16);
    // Opened once more it is another image, for the file may be another by then.
    read(&Qcow2Layer::active(&open()), 3 * 4096, 1).unwrap();
    assert_eq!(cache.bytes(), 2 * (4096 + 16));
}

/// A disk whose L1 table takes three blocks and a bit; of its L2 tables only `table` exists, with
/// one cluster in its first entry.
fn large_l1(table: u64) -> TestImage {
    let entries = 3 * BLOCK + 5;
    let mut image = TestImage::new(9, entries * REACH, u32::try_from(entries).unwrap());
    let first_free = 3 + (entries * 8).div_ceil(SMALL);
    image.clusters(first_free + 2);
    image.l1(table, image.at(first_free));
    image.l2(first_free, 0, image.at(first_free + 1));
    image
}

#[test]
fn what_lies_in_any_block_of_a_large_l1_table_is_found() {
    for table in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK - 1, 3 * BLOCK, 3 * BLOCK + 4] {
        let image = large_l1(table);
        let data = image.bytes.len() as u64 - SMALL;
        let layer = image.layer();
        let (from, end) = (table * REACH, (3 * BLOCK + 5) * REACH);
        let mut expected = vec![
            says(0..from, Word::Below),
            says(from..from + SMALL, host(data)),
            says(from + SMALL..end, Word::Below),
        ];
        expected.retain(|extent| !extent.range.is_empty());
        assert_eq!(words(&layer, 0..end), expected);
        assert_eq!(layer.empty_until(0), from);
        assert_eq!(layer.empty_until(from), from);
        let after = layer.empty_until(from + REACH);
        assert_eq!(after, u64::MAX, "nothing follows table {table}");
        assert_eq!(layer.allocated_at_most(), REACH);
    }
}

#[test]
fn a_large_l1_table_is_read_where_it_is_needed_and_cut_where_the_file_is() {
    let second = BLOCK * REACH;
    let bytes_of_block = usize::try_from(BLOCK * 8).unwrap();
    // The third block cannot be read: the others say what they always said.
    let from = 3 * 512 + 2 * BLOCK * 8;
    let layer = failing(large_l1(BLOCK + 1), from..from + 1);
    assert_eq!(words(&layer, second..second + REACH).len(), 1);
    assert_eq!(
        words(&layer, 2 * second..u64::MAX)[0],
        says(2 * second..3 * second, bad(Fault::Unreadable))
    );
    assert_eq!(layer.empty_until(0), second + REACH);
    assert_eq!(layer.empty_until(second + 2 * REACH), 2 * second);
    assert_eq!(layer.allocated_at_most(), layer.virtual_size());
    // The file ends within the second block, after two entries of it.
    let mut image = large_l1(3 * BLOCK);
    image.bytes.truncate(3 * 512 + bytes_of_block + 16);
    let layer = image.layer();
    let end = (3 * BLOCK + 5) * REACH;
    assert_eq!(
        words(&layer, 0..end),
        [
            says(0..second + 2 * REACH, Word::Below),
            says(second + 2 * REACH..end, bad(Fault::PastEnd)),
        ]
    );
    assert_eq!(layer.empty_until(5), second + 2 * REACH);
    assert_eq!(layer.empty_until(2 * second + 5), 2 * second + 5);
}

#[test]
fn a_hundred_snapshots_of_one_large_l1_table_keep_no_more_than_the_cache_may() {
    const MOST: u64 = 256 << 10;
    let entries = 1 << 20;
    let mut bytes = TestImage::new(9, entries * REACH, 1 << 20).bytes;
    bytes.resize(3 * 512 + (8 << 20), 0);
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("disk.qcow2", bytes));
    let header = Header::read(file.as_ref()).unwrap();
    let cache = Arc::new(ClusterCache::new(MOST));
    let image = Qcow2Image::new(file, header, None, Arc::clone(&cache)).unwrap();
    let layers: Vec<_> =
        (0..100).map(|_| Qcow2Layer::new(&image, 3 * SMALL, 1 << 20, entries * REACH)).collect();
    for (layer, number) in layers.iter().zip(0..) {
        let at = number * (entries / 100) * REACH;
        assert_eq!(words(layer, at..at + REACH), [says(at..at + REACH, Word::Below)]);
        assert!((1..=MOST).contains(&cache.bytes()), "{} bytes", cache.bytes());
    }
    assert_eq!(layers[0].empty_until(0), u64::MAX);
    assert_eq!(layers[0].allocated_at_most(), 0);
    assert!(cache.bytes() <= MOST, "{} bytes", cache.bytes());
}
