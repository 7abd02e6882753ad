use super::*;

const CLUSTER: u64 = 65_536;

fn decoder() -> Decoder {
    Decoder {
        geometry: Geometry { cluster_bits: 16, extended: false },
        has_zero_flag: true,
        has_data_file: false,
        image_end: 100 * CLUSTER + 1,
    }
}

fn with_data_file() -> Decoder {
    Decoder { has_data_file: true, ..decoder() }
}

fn host(at: u64) -> Word {
    Word::At(Slot::Host(HostOffset(at)))
}

const fn bit(n: u32) -> u64 {
    1 << n
}

#[test]
fn geometry_is_that_of_the_specification() {
    let standard = Geometry { cluster_bits: 16, extended: false };
    assert_eq!((standard.l2_entries(), standard.table_reach()), (8192, 512 << 20));
    let extended = Geometry { cluster_bits: 16, extended: true };
    assert_eq!((extended.l2_entries(), extended.table_reach()), (4096, 256 << 20));
    assert_eq!((standard.granularity(), extended.granularity()), (64 << 10, 2 << 10));
    assert_eq!(standard.l1_entries_for(0), 0);
    assert_eq!(standard.l1_entries_for(1), 1);
    assert_eq!(standard.l1_entries_for((512 << 20) + 1), 2);
    assert_eq!(standard.l1_entries_for(u64::MAX), 1 << 35);
}

#[test]
fn an_l1_entry_is_a_table_or_none_or_a_fault() {
    let cases = [
        (0, TableAt::Nowhere),
        (5 * CLUSTER, TableAt::Offset(5 * CLUSTER)),
        // Refcount and reserved bits say nothing.
        ((5 * CLUSTER) | COPIED | bit(62) | bit(56) | 0x1ff, TableAt::Offset(5 * CLUSTER)),
        (COPIED | 1, TableAt::Nowhere),
        ((5 * CLUSTER) | bit(9), TableAt::Bad(Fault::Misaligned)),
        ((5 * CLUSTER) | bit(15), TableAt::Bad(Fault::Misaligned)),
        (100 * CLUSTER, TableAt::Offset(100 * CLUSTER)),
        (101 * CLUSTER, TableAt::Bad(Fault::PastEnd)),
        (bit(55), TableAt::Bad(Fault::PastEnd)),
    ];
    for (entry, expected) in cases {
        assert_eq!(decoder().l1_entry(entry), expected, "{entry:#x}");
    }
}

#[test]
fn an_l2_entry_is_one_word() {
    let at = 7 * CLUSTER;
    let cases = [
        (0, Word::Below),
        (COPIED, Word::Below),
        // Reserved bits say nothing, alone or with an offset.
        (bit(61) | bit(56) | 0x1fe, Word::Below),
        (at, host(at)),
        (at | COPIED | bit(61) | bit(56) | 0x1fe, host(at)),
        (ZERO, Word::Zero),
        (ZERO | COPIED, Word::Zero),
        (at | ZERO | COPIED, Word::Zero),
        // A preallocated zero cluster is never read, so it may lie anywhere.
        ((200 * CLUSTER) | ZERO, Word::Zero),
        (at | bit(9), Word::Bad(Fault::Misaligned)),
        (at | bit(15), Word::Bad(Fault::Misaligned)),
        (at | bit(15) | ZERO, Word::Bad(Fault::Misaligned)),
        (100 * CLUSTER, host(100 * CLUSTER)),
        (101 * CLUSTER, Word::Bad(Fault::PastEnd)),
        (bit(55), Word::Bad(Fault::PastEnd)),
        (COMPRESSED | 0x1234, Word::At(Slot::Packed(0x1234))),
        // All other bits of a compressed cluster but the highest are its descriptor's.
        (COMPRESSED | COPIED | bit(61) | 5, Word::At(Slot::Packed(bit(61) | 5))),
        (COMPRESSED | (100 * CLUSTER), Word::At(Slot::Packed(100 * CLUSTER))),
        (COMPRESSED | (100 * CLUSTER + 1), Word::Bad(Fault::PastEnd)),
    ];
    for (entry, expected) in cases {
        assert_eq!(decoder().cluster(entry, 0), expected, "{entry:#x}");
    }
}

#[test]
fn each_bit_of_an_l2_entry_means_what_it_means() {
    for n in 0..64 {
        let expected = match n {
            0 => Word::Zero,
            9..=15 => Word::Bad(Fault::Misaligned),
            // 64 KiB to 4 MiB are inside the file.
            16..=22 => host(bit(n)),
            23..=55 => Word::Bad(Fault::PastEnd),
            62 => Word::At(Slot::Packed(0)),
            _ => Word::Below,
        };
        assert_eq!(decoder().cluster(bit(n), 0), expected, "bit {n}");
    }
}

#[test]
fn version_2_has_no_zero_clusters() {
    let decoder = Decoder { has_zero_flag: false, ..decoder() };
    let fault = Word::Bad(Fault::ZeroInVersion2);
    for entry in [ZERO, ZERO | COPIED, (7 * CLUSTER) | ZERO, (7 * CLUSTER) | bit(9) | ZERO] {
        assert_eq!(decoder.cluster(entry, 0), fault, "{entry:#x}");
    }
    assert_eq!(decoder.cluster(7 * CLUSTER, 0), host(7 * CLUSTER));
    assert_eq!(decoder.cluster(COMPRESSED | 1, 0), Word::At(Slot::Packed(1)));
}

#[test]
fn a_cluster_of_a_data_file_lies_at_its_guest_offset() {
    let far = 500 * CLUSTER;
    let cases = [
        (far, far, host(far)),
        (far | COPIED, far, host(far)),
        (far, far + CLUSTER, Word::Bad(Fault::DataFileOffset)),
        (far | ZERO, far + CLUSTER, Word::Bad(Fault::DataFileOffset)),
        (far | ZERO, far, Word::Zero),
        (far | bit(9), far, Word::Bad(Fault::Misaligned)),
        (0, 0, Word::Below),
        (COPIED, 0, host(0)),
        (COPIED, CLUSTER, Word::Bad(Fault::DataFileOffset)),
        (COPIED | ZERO, CLUSTER, Word::Zero),
        (COMPRESSED | 7, 0, Word::Bad(Fault::PackedInDataFile)),
    ];
    for (entry, guest, expected) in cases {
        assert_eq!(with_data_file().cluster(entry, guest), expected, "{entry:#x} at {guest}");
    }
}

fn runs(parts: Subclusters) -> Vec<(u32, Word)> {
    let mut runs = Vec::new();
    let mut first = 0;
    while first < SUBCLUSTERS {
        let (word, end) = parts.run_from(first);
        assert!(end > first);
        runs.push((end, word));
        first = end;
    }
    runs
}

fn bitmap(allocated: u32, zero: u32) -> u64 {
    u64::from(zero) << 32 | u64::from(allocated)
}

#[test]
fn subclusters_are_runs_of_what_their_bits_say() {
    let at = 7 * CLUSTER;
    let cases = [
        (at, bitmap(u32::MAX, 0), vec![(32, host(at))]),
        (at, bitmap(0, u32::MAX), vec![(32, Word::Zero)]),
        (at, bitmap(0, 0), vec![(32, Word::Below)]),
        (at, bitmap(1, 0), vec![(1, host(at)), (32, Word::Below)]),
        (at, bitmap(1 << 31, 0), vec![(31, Word::Below), (32, host(at))]),
        (at, bitmap(0, 1 << 31), vec![(31, Word::Below), (32, Word::Zero)]),
        (
            at,
            bitmap(0x0000_ff00, 0xff00_00f0),
            vec![
                (4, Word::Below),
                (8, Word::Zero),
                (16, host(at)),
                (24, Word::Below),
                (32, Word::Zero),
            ],
        ),
        (0, bitmap(0, 0), vec![(32, Word::Below)]),
        (0, bitmap(0, 0b10), vec![(1, Word::Below), (2, Word::Zero), (32, Word::Below)]),
        // Bit 0 of the entry means nothing here.
        (ZERO, bitmap(0, 0), vec![(32, Word::Below)]),
        (at | ZERO | COPIED, bitmap(u32::MAX, 0), vec![(32, host(at))]),
    ];
    for (entry, bits, expected) in cases {
        assert_eq!(runs(decoder().subclusters(entry, bits, 0)), expected, "{entry:#x} {bits:#x}");
    }
}

#[test]
fn each_subcluster_bit_stands_for_its_own_part() {
    for part in 0..32 {
        let allocated = decoder().subclusters(7 * CLUSTER, bit(part), 0);
        let zero = decoder().subclusters(7 * CLUSTER, bit(part + 32), 0);
        assert_eq!(allocated.run_from(part), (host(7 * CLUSTER), part + 1));
        assert_eq!(zero.run_from(part), (Word::Zero, part + 1));
    }
}

#[test]
fn subclusters_that_contradict_each_other_spoil_their_cluster() {
    let bad = |fault| vec![(32, Word::Bad(fault))];
    let at = 7 * CLUSTER;
    let cases = [
        (at, bitmap(1, 1), Fault::Subclusters),
        (at, bitmap(u32::MAX, 1 << 31), Fault::Subclusters),
        (at | bit(9), bitmap(1, 1), Fault::Subclusters),
        (0, bitmap(1, 0), Fault::Subclusters),
        (COPIED, bitmap(1 << 31, 0), Fault::Subclusters),
        (at | bit(9), bitmap(1, 0), Fault::Misaligned),
        (at | bit(9), bitmap(0, 0), Fault::Misaligned),
    ];
    for (entry, bits, fault) in cases {
        let parts = decoder().subclusters(entry, bits, 0);
        assert_eq!(runs(parts), bad(fault), "{entry:#x} {bits:#x}");
        assert_eq!(parts.fault(), Some(fault));
    }
}

#[test]
fn of_a_cluster_past_the_end_only_the_allocated_parts_are_lost() {
    let lost = Word::Bad(Fault::PastEnd);
    let parts = decoder().subclusters(101 * CLUSTER, bitmap(0b11, 0b100), 0);
    assert_eq!(runs(parts), [(2, lost), (3, Word::Zero), (32, Word::Below)]);
    assert_eq!(parts.fault(), Some(Fault::PastEnd));
    let parts = decoder().subclusters(101 * CLUSTER, bitmap(0, 1), 0);
    assert_eq!(runs(parts), [(1, Word::Zero), (32, Word::Below)]);
    assert_eq!(parts.fault(), None);
}

#[test]
fn a_compressed_cluster_has_no_subclusters() {
    let parts = decoder().subclusters(COMPRESSED | 0x63, bitmap(3, 3), 0);
    assert_eq!(runs(parts), [(32, Word::At(Slot::Packed(0x63)))]);
    let parts = with_data_file().subclusters(COMPRESSED | 0x63, 0, 0);
    assert_eq!(runs(parts), [(32, Word::Bad(Fault::PackedInDataFile))]);
}

#[test]
fn subclusters_of_a_data_file_lie_at_their_guest_offset() {
    let all = bitmap(u32::MAX, 0);
    let cases = [
        (COPIED, 0, host(0)),
        (COPIED | ZERO, 0, host(0)),
        (COPIED, CLUSTER, Word::Bad(Fault::DataFileOffset)),
        (0, 0, Word::Bad(Fault::Subclusters)),
        (500 * CLUSTER, 500 * CLUSTER, host(500 * CLUSTER)),
        (500 * CLUSTER, 0, Word::Bad(Fault::DataFileOffset)),
    ];
    for (entry, guest, expected) in cases {
        let parts = with_data_file().subclusters(entry, all, guest);
        assert_eq!(runs(parts), [(32, expected)], "{entry:#x} at {guest}");
    }
}

#[test]
fn a_descriptor_is_split_by_the_cluster_size() {
    let cases = [
        // 512: one bit of sectors.
        (9, bit(61) | 0x1000, 0x1000, 1024),
        (9, 0x1000, 0x1000, 512),
        // 64 KiB: eight bits.
        (16, 0xff_u64 << 54 | 0x1000, 0x1000, 131_072),
        (16, bit(54) | 0x1001, 0x1001, 1023),
        (16, 0x11ff, 0x11ff, 1),
        (16, bit(53), bit(53), 512),
        // 2 MiB: thirteen bits.
        (21, 0x1fff_u64 << 49, 0, 4 << 20),
    ];
    for (cluster_bits, descriptor, offset, len) in cases {
        let packed = Packed::from_descriptor(descriptor, cluster_bits);
        assert_eq!(packed, Packed { offset, len }, "{descriptor:#x} of 2^{cluster_bits}");
    }
}
