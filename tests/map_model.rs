//! Random trees of layers, flattened, against one plain array of bytes per checkpoint.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed, and its disks are small"
)]

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use proptest::prelude::*;
use qcowfs::error::Error;
use qcowfs::extent::{Extent, Fault, GuestOffset, HostOffset, Slot, Word, Words};
use qcowfs::layer::{Layer, MemoryLayer};
use qcowfs::map::{ChainMap, MapCache, Node, NodeId, Piece, Resolved};
use qcowfs::view::{Allocated, DiskImage};

/// What a reader must get for one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Byte {
    Hole,
    Data(u8),
    Bad,
}

/// One layer of a tree.
#[derive(Debug, Clone)]
struct Spec {
    /// How far before this one its parent is; none if there is none that far.
    back: usize,
    size: u64,
    parts: Vec<Part>,
}

/// A gap, and then a range about which the layer says something. It may lie past the layer's end.
#[derive(Debug, Clone)]
struct Part {
    gap: u64,
    len: u64,
    says: Says,
    at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Zero,
    Host,
    Packed,
    Bad,
}

const DATA_FILE: u64 = 8192;

fn part() -> impl Strategy<Value = Part> {
    let len = prop_oneof![1..20_u64, 20..200_u64, 1000..3000_u64];
    let gap = prop_oneof![Just(0_u64), 0..10_u64, 50..500_u64];
    let says = prop_oneof![
        2 => Just(Says::Zero),
        5 => Just(Says::Host),
        3 => Just(Says::Packed),
        1 => Just(Says::Bad),
    ];
    (gap, len, says, 0..DATA_FILE - 3000).prop_map(|(gap, len, says, at)| Part {
        gap,
        len,
        says,
        at,
    })
}

fn spec() -> impl Strategy<Value = Spec> {
    let back = prop_oneof![6 => Just(1_usize), 3 => 1..6_usize, 1 => Just(usize::MAX)];
    let size = prop_oneof![1 => Just(0_u64), 2 => 1..300_u64, 9 => 1500..3000_u64];
    let parts = prop::collection::vec(part(), 0..40);
    (back, size, parts).prop_map(|(back, size, parts)| Spec { back, size, parts })
}

/// Calls `say` with each part's range.
fn each_part(spec: &Spec, mut say: impl FnMut(Range<u64>, &Part)) {
    let mut at = 0;
    for part in &spec.parts {
        let start = at + part.gap;
        at = start + part.len;
        say(start..at, part);
    }
}

fn memory_layer(number: u64, spec: &Spec) -> MemoryLayer {
    let mut extents = Vec::new();
    each_part(spec, |range, part| {
        let word = match part.says {
            Says::Zero => Word::Zero,
            Says::Host => Word::At(Slot::Host(HostOffset(part.at))),
            Says::Packed => Word::At(Slot::Packed(part.at)),
            Says::Bad => Word::Bad(Fault::Misaligned),
        };
        extents.push(Extent { range, word });
    });
    let bytes = (0..DATA_FILE).map(|at| file_byte(number, at)).collect();
    MemoryLayer::new(format!("layer-{number}"), spec.size, &extents, bytes).unwrap()
}

/// A byte of a layer's data file.
fn file_byte(layer: u64, at: u64) -> u8 {
    let mixed = (layer << 32 | at).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as u8
}

/// What the checkpoint of this layer on top of `below` must read as.
fn model(below: &[Byte], number: u64, spec: &Spec) -> Vec<Byte> {
    let mut bytes = below.to_vec();
    bytes.resize(spec.size as usize, Byte::Hole);
    each_part(spec, |range, part| {
        for guest in range.start..range.end.min(spec.size) {
            bytes[guest as usize] = match part.says {
                Says::Zero => Byte::Hole,
                Says::Bad => Byte::Bad,
                _ => Byte::Data(file_byte(number, part.at + guest - range.start)),
            };
        }
    });
    bytes
}

struct Tree {
    layers: Vec<Arc<MemoryLayer>>,
    models: Vec<Vec<Byte>>,
    images: Vec<DiskImage>,
    map: Arc<ChainMap>,
    cache: Arc<MapCache>,
}

fn tree(specs: &[Spec], region: u32, budget: u64) -> Tree {
    let (mut nodes, mut layers, mut models) = (Vec::new(), Vec::new(), Vec::<Vec<Byte>>::new());
    for (number, spec) in specs.iter().enumerate() {
        let parent = number.checked_sub(spec.back);
        let below = parent.map_or(&[][..], |parent| &models[parent]);
        models.push(model(below, number as u64, spec));
        let layer = Arc::new(memory_layer(number as u64, spec));
        nodes.push(Node { layer: layer.clone(), parent: parent.map(id) });
        layers.push(layer);
    }
    let cache = Arc::new(MapCache::new(budget));
    let region = NonZeroU32::new(region).unwrap();
    let map = Arc::new(ChainMap::with_region(nodes, cache.clone(), region).unwrap());
    let images = specs.iter().enumerate();
    let images = images.map(|(node, spec)| DiskImage::new(map.clone(), id(node), spec.size));
    Tree { images: images.collect(), layers, models, map, cache }
}

fn id(node: usize) -> NodeId {
    NodeId(u32::try_from(node).unwrap())
}

fn check_read(tree: &Tree, node: usize, range: Range<u64>) {
    let model = &tree.models[node];
    let mut buf = vec![0xAA; (range.end - range.start) as usize];
    let start = model.len().min(range.start as usize);
    let wanted = &model[start..model.len().min(start + buf.len())];
    let right = wanted.iter().take_while(|byte| **byte != Byte::Bad).count();
    match tree.images[node].read_at(range.start, &mut buf) {
        Ok(done) => assert_eq!((done, right), (wanted.len(), wanted.len())),
        Err(failed) => {
            assert!(right < wanted.len(), "no byte of {range:?} is bad: {failed}");
            assert_eq!(failed.done, right);
            let named = |file: &std::path::Path| file.to_string_lossy().starts_with("layer-");
            assert!(matches!(failed.error, Error::Corrupt { file, .. } if named(&file)));
        }
    }
    for (got, want) in buf.iter().zip(&wanted[..right]) {
        assert_eq!(*got, if let Byte::Data(byte) = want { *byte } else { 0 });
    }
}

fn check_seeks(tree: &Tree, node: usize, offset: u64) {
    let find = |is_wanted: fn(&Byte) -> bool| {
        let rest = tree.models[node].get(offset as usize..).unwrap_or_default();
        rest.iter().position(is_wanted).map(|by| offset + by as u64)
    };
    let image = &tree.images[node];
    assert_eq!(image.seek_data(offset), find(|byte| *byte != Byte::Hole), "data from {offset}");
    let end = (offset < image.size()).then(|| image.size());
    let hole = find(|byte| *byte == Byte::Hole).or(end);
    assert_eq!(image.seek_hole(offset), hole, "hole from {offset}");
}

fn check_pieces(tree: &Tree, node: usize, range: Range<u64>) {
    let pieces = tree.map.resolve(id(node), range.clone());
    let mut at = range.start;
    for Piece { range, resolved } in &pieces {
        assert_eq!(range.start, at);
        assert!(!range.is_empty());
        at = range.end;
        for guest in range.clone() {
            let byte = tree.models[node].get(guest as usize).copied().unwrap_or(Byte::Hole);
            match resolved {
                Resolved::Zero => assert_eq!(byte, Byte::Hole),
                Resolved::At { .. } => assert!(matches!(byte, Byte::Data(_))),
                Resolved::Bad { fault, .. } => {
                    assert_eq!((byte, *fault), (Byte::Bad, Fault::Misaligned));
                }
            }
        }
    }
    assert_eq!(at, range.end);
    let both_holes = |two: &[Piece]| !two[0].is_data() && !two[1].is_data();
    assert!(!pieces.windows(2).any(both_holes), "neighbouring holes are one piece");
}

/// The bytes beside and at each place where a checkpoint goes from one kind of byte to another.
fn boundaries(model: &[Byte]) -> Vec<u64> {
    let kinds =
        |at: usize| std::mem::discriminant(&model[at - 1]) != std::mem::discriminant(&model[at]);
    let mut found: Vec<_> = (1..model.len()).filter(|at| kinds(*at)).collect();
    found.extend([0, model.len()]);
    found.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1]).map(|at| at as u64).collect()
}

fn check_checkpoint(tree: &Tree, node: usize) {
    let size = tree.images[node].size();
    check_read(tree, node, 0..size + 10);
    check_pieces(tree, node, 0..size + 500);
    for (number, at) in boundaries(&tree.models[node]).into_iter().enumerate() {
        let len = [1, 2, 64, 700][number % 4];
        check_read(tree, node, at..at + len);
        check_read(tree, node, at.saturating_sub(len)..at);
        check_pieces(tree, node, at..at + len);
        check_seeks(tree, node, at);
    }
    let data = tree.models[node].iter().filter(|byte| **byte != Byte::Hole).count() as u64;
    let image = &tree.images[node];
    assert_eq!(image.allocated(), Allocated { bytes: data, exact: true });
    assert_eq!(image.count_data(), data);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_checkpoint_reads_as_its_model_in_any_order_and_within_any_budget(
        specs in prop::collection::vec(spec(), 1..14),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..10),
        region in prop_oneof![Just(64_u32), Just(100), Just(512), Just(1 << 20)],
        budget in prop_oneof![Just(0_u64), Just(3000), Just(20_000), Just(1 << 24)],
    ) {
        let tree = tree(&specs, region, budget);
        for node in order.iter().map(|index| index.index(specs.len())).chain(0..specs.len()) {
            check_checkpoint(&tree, node);
            prop_assert!(tree.cache.used_bytes() <= budget);
        }
    }
}

/// Layers that write here and there, most on top of each other, without bad extents.
fn many_layers(count: u64) -> Vec<Spec> {
    let random = |number: u64, salt: u64, end: u64| {
        let mixed = (number * 64 + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 24) % end
    };
    let part = |number, salt| Part {
        gap: random(number, salt, 900),
        len: 1 + random(number, salt + 1, 60),
        says: [Says::Host, Says::Packed, Says::Zero][random(number, salt + 2, 3) as usize],
        at: random(number, salt + 3, DATA_FILE - 100),
    };
    let spec = |number| Spec {
        back: if number % 16 == 15 { 9 } else { 1 },
        size: 2000 + random(number, 60, 100),
        parts: (0..3).map(|salt| part(number, salt * 4)).collect(),
    };
    (0..count).map(spec).collect()
}

#[test]
fn a_tree_of_5000_layers_reads_as_its_model() {
    let tree = tree(&many_layers(5000), 512, 1 << 24);
    for node in [4999, 0, 2500, 4990] {
        check_checkpoint(&tree, node);
    }
}

#[test]
fn threads_that_read_checkpoints_at_random_all_read_right() {
    for budget in [20_000, 1 << 24] {
        let tree = &tree(&many_layers(64), 256, budget);
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                scope.spawn(move || {
                    for round in 0..64 {
                        check_checkpoint(tree, (round * (2 * thread + 5) + thread) % 64);
                    }
                });
            }
        });
    }
}

/// A layer whose first two askers wait for each other.
struct Meeting {
    inner: MemoryLayer,
    barrier: Barrier,
    asked: AtomicU64,
}

impl Layer for Meeting {
    fn path(&self) -> &std::path::Path {
        self.inner.path()
    }

    fn virtual_size(&self) -> u64 {
        self.inner.virtual_size()
    }

    fn words(&self, words: &mut Words) {
        if self.asked.fetch_add(1, Ordering::SeqCst) < 2 {
            self.barrier.wait();
        }
        self.inner.words(words);
    }

    fn read(&self, slot: Slot, guest: GuestOffset, buf: &mut [u8]) -> qcowfs::error::Result<()> {
        self.inner.read(slot, guest, buf)
    }

    fn allocated_at_most(&self) -> u64 {
        self.inner.allocated_at_most()
    }
}

/// A layer that counts how often it is asked where it is empty.
struct Counting {
    inner: MemoryLayer,
    asked: Arc<AtomicU64>,
}

impl Layer for Counting {
    fn path(&self) -> &std::path::Path {
        self.inner.path()
    }

    fn virtual_size(&self) -> u64 {
        self.inner.virtual_size()
    }

    fn words(&self, words: &mut Words) {
        self.inner.words(words);
    }

    fn empty_until(&self, offset: u64) -> u64 {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.inner.empty_until(offset)
    }

    fn read(&self, slot: Slot, guest: GuestOffset, buf: &mut [u8]) -> qcowfs::error::Result<()> {
        self.inner.read(slot, guest, buf)
    }

    fn allocated_at_most(&self) -> u64 {
        self.inner.allocated_at_most()
    }
}

/// A disk of which nobody could ever see the end.
struct Endless {
    word: Word,
    asked: AtomicU64,
}

impl Layer for Endless {
    fn path(&self) -> &std::path::Path {
        "endless".as_ref()
    }

    fn virtual_size(&self) -> u64 {
        1 << 60
    }

    fn words(&self, words: &mut Words) {
        assert!(self.asked.fetch_add(1, Ordering::SeqCst) < 1 << 20, "searched without end");
        words.push_until(u64::MAX, self.word);
    }

    fn read(&self, _: Slot, _: GuestOffset, buf: &mut [u8]) -> qcowfs::error::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn allocated_at_most(&self) -> u64 {
        1 << 60
    }
}

#[test]
fn a_disk_without_end_is_not_searched_without_end() {
    let image = |word| {
        let layer = Arc::new(Endless { word, asked: AtomicU64::new(0) });
        let nodes = vec![Node { layer, parent: None }];
        let map = ChainMap::new(nodes, Arc::new(MapCache::new(1 << 20))).unwrap();
        DiskImage::new(Arc::new(map), id(0), 1 << 60)
    };
    let bad = image(Word::Bad(Fault::Misaligned));
    assert_eq!(bad.seek_hole(0), Some(1 << 60), "all is data as far as anybody can tell");
    assert_eq!(bad.seek_data(5), Some(5));
    let zeros = image(Word::Zero);
    let first = zeros.seek_data(0).expect("nobody can tell that there is none");
    let next = zeros.seek_data(first).expect("nobody can tell that there is none");
    assert!(first > 1 << 40 && next > first, "the search goes on from {first}");
    assert_eq!(zeros.seek_hole(first), Some(first));
}

#[test]
fn the_first_layer_that_is_not_empty_here_is_the_last_to_be_asked() {
    let asked = Arc::new(AtomicU64::new(0));
    let layer = |range: Range<u64>| {
        let word = Word::At(Slot::Host(HostOffset(0)));
        let inner = MemoryLayer::new("layer", 100, &[Extent { range, word }], Vec::new());
        Arc::new(Counting { inner: inner.unwrap(), asked: asked.clone() })
    };
    let nodes = vec![
        Node { layer: layer(70..80), parent: None },
        Node { layer: layer(20..30), parent: Some(id(0)) },
        Node { layer: layer(60..90), parent: Some(id(1)) },
    ];
    let map = ChainMap::new(nodes, Arc::new(MapCache::new(1 << 20))).unwrap();
    for (offset, next, askings) in
        [(0, 20, 3), (60, 60, 1), (25, 25, 2), (30, 60, 3), (90, u64::MAX, 3)]
    {
        assert_eq!(map.empty_until(id(2), offset), next);
        assert_eq!(asked.swap(0, Ordering::SeqCst), askings, "at {offset}");
    }
}

#[test]
fn of_two_answers_of_one_layer_only_one_is_laid() {
    let one = |at| {
        let word = Word::At(Slot::Host(HostOffset(at)));
        MemoryLayer::new("layer", 100, &[Extent { range: at..100, word }], Vec::new()).unwrap()
    };
    let bottom = Meeting { inner: one(0), barrier: Barrier::new(2), asked: AtomicU64::new(0) };
    let nodes = vec![
        Node { layer: Arc::new(bottom), parent: None },
        Node { layer: Arc::new(one(50)), parent: Some(id(0)) },
        Node { layer: Arc::new(one(80)), parent: Some(id(1)) },
    ];
    let map = ChainMap::new(nodes, Arc::new(MapCache::new(1 << 20))).unwrap();
    let owners = |node| {
        let pieces = map.resolve(id(node), 0..100);
        let owner = |piece: &Piece| match piece.resolved {
            Resolved::At { layer, .. } => layer.0,
            other => panic!("nobody said {other:?}"),
        };
        pieces.iter().map(owner).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(owners(1), [0, 1]));
        }
    });
    // An answer that was laid too late would stand where the next layer's belongs.
    assert_eq!(owners(2), [0, 1, 2]);
}

#[test]
fn a_table_that_could_not_be_read_is_asked_again() {
    let specs = many_layers(12);
    let tree = tree(&specs, 1 << 20, 1 << 24);
    tree.layers[5].set_unreadable(true);
    check_checkpoint(&tree, 4);
    let mut buf = [0; 16];
    let failed = tree.images[7].read_at(900, &mut buf).unwrap_err();
    assert!(matches!(failed.error, Error::Io { file, .. } if file.to_string_lossy() == "layer-5"));
    assert!(!tree.images[7].allocated().exact, "what could not be read is not counted");
    tree.layers[5].set_unreadable(false);
    for node in (0..specs.len()).rev() {
        check_checkpoint(&tree, node);
    }
}

#[test]
fn bytes_before_and_above_an_unreadable_table_are_right() {
    let whole =
        |size, says| Spec { back: 1, size, parts: vec![Part { gap: 0, len: size, says, at: 0 }] };
    let mut top = whole(100, Says::Host);
    top.size = 200;
    let tree = tree(&[whole(200, Says::Host), top], 1 << 20, 1 << 24);
    tree.layers[0].set_unreadable(true);
    let mut buf = [0; 200];
    let failed = tree.images[1].read_at(0, &mut buf).unwrap_err();
    assert_eq!(failed.done, 100);
    assert!((0..100).all(|at| buf[at as usize] == file_byte(1, at)));
    assert_eq!(tree.images[1].seek_hole(0), Some(200), "what cannot be read is data");
}

#[test]
fn a_map_that_is_gone_leaves_nothing_in_the_cache() {
    let tree = tree(&many_layers(8), 512, 1 << 24);
    check_checkpoint(&tree, 7);
    let cache = tree.cache.clone();
    assert!(cache.used_bytes() > 0);
    drop(tree);
    assert_eq!(cache.used_bytes(), 0);
}

#[test]
fn two_packed_clusters_of_the_same_token_stay_two_pieces() {
    let part = Part { gap: 0, len: 100, says: Says::Packed, at: 7 };
    let spec = Spec { back: 1, size: 200, parts: vec![part.clone(), part] };
    for region in [1 << 20, 100, 70] {
        let tree = tree(std::slice::from_ref(&spec), region, 1 << 24);
        let pieces = tree.map.resolve(id(0), 0..200);
        assert!(pieces.iter().any(|piece| piece.range.end == 100));
        check_checkpoint(&tree, 0);
    }
}
