//! What is left of an image with bad entries, or of one that was cut.

use super::*;

#[test]
fn a_bad_entry_spoils_exactly_its_cluster() {
    let mut image = three_tables();
    image.cluster_bits = 9;
    image.l2(4, 0, image.at(10));
    image.l2(4, 1, image.at(20));
    image.l2(4, 2, image.at(12));
    image.l2(4, 3, 1 << 62 | (20 * SMALL));
    image.l2(4, 4, image.at(14));
    let layer = image.layer();
    assert_eq!(
        words(&layer, 0..2560),
        [
            says(0..512, host(10 * SMALL)),
            says(512..1024, bad(Fault::PastEnd)),
            says(1024..1536, host(12 * SMALL)),
            says(1536..2048, bad(Fault::PastEnd)),
            says(2048..2560, host(14 * SMALL)),
        ]
    );
}

#[test]
fn a_bad_l1_entry_spoils_exactly_what_its_table_maps() {
    let mut image = TestImage::new(12, 4 << 21, 4);
    let reach = 2 << 20;
    image.l1(0, image.at(3) + 512);
    image.l1(2, image.at(4));
    assert_eq!(image.at(4), image.bytes.len() as u64);
    let layer = image.layer();
    assert_eq!(
        words(&layer, 0..4 * reach),
        [
            says(0..reach, bad(Fault::Misaligned)),
            says(reach..2 * reach, Word::Below),
            says(2 * reach..3 * reach, bad(Fault::PastEnd)),
            says(3 * reach..4 * reach, Word::Below),
        ]
    );
}

#[test]
fn an_image_cut_to_its_header_is_no_empty_disk() {
    for len in [112, 512, 3 * 512] {
        let mut image = three_tables();
        image.bytes.truncate(len);
        let layer = image.layer();
        assert_eq!(words(&layer, 0..3 * REACH), [says(0..3 * REACH, bad(Fault::PastEnd))]);
    }
}

#[test]
fn an_image_cut_in_its_l1_table_keeps_what_the_rest_maps() {
    for cut in [8, 9, 15] {
        let mut image = three_tables();
        image.bytes.truncate(3 * 512 + cut);
        put_u64(&mut image.bytes, 3 * SMALL, 0);
        let layer = image.layer();
        assert_eq!(
            words(&layer, 0..3 * REACH),
            [says(0..REACH, Word::Below), says(REACH..3 * REACH, bad(Fault::PastEnd))]
        );
    }
}

#[test]
fn an_image_cut_in_an_l2_table_keeps_what_the_rest_maps() {
    for cut in [0, 1, 7] {
        let mut image = three_tables();
        image.l2(5, 0, image.at(4));
        image.l2(5, 1, 1);
        image.bytes.truncate(5 * 512 + 16 + cut);
        let layer = image.layer();
        let second = 2 * REACH;
        assert_eq!(
            words(&layer, second..3 * REACH),
            [
                says(second..second + 512, host(4 * SMALL)),
                says(second + 512..second + 1024, Word::Zero),
                says(second + 1024..3 * REACH, bad(Fault::PastEnd)),
            ]
        );
    }
}

#[test]
fn an_image_cut_in_its_last_cluster_reads_zeros_there() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    put(&mut image.bytes, 10 * 512, &[7; 512]);
    image.bytes.truncate(10 * 512 + 100);
    let layer = image.layer();
    assert_eq!(words(&layer, 0..512), [says(0..512, host(10 * SMALL))]);
    assert_eq!(read(&layer, 0, 512).unwrap(), [vec![7; 100], vec![0; 412]].concat());
    assert_eq!(read(&layer, 90, 20).unwrap(), [[7; 10], [0; 10]].concat());
}

#[test]
fn an_image_cut_before_its_last_cluster_has_lost_it() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    image.clusters(10);
    assert_eq!(words(&image.layer(), 0..512), [says(0..512, bad(Fault::PastEnd))]);
}

#[test]
fn a_table_that_cannot_be_read_is_unreadable_for_what_it_maps_and_asked_again() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    image.l2(5, 0, image.at(11));
    // Entries 1 to 63 of the first table.
    let layer = failing(image, 4 * 512 + 8..5 * 512);
    assert_eq!(words(&layer, 0..512), [says(0..512, host(10 * SMALL))]);
    assert_eq!(
        words(&layer, 0..2 * REACH + 512),
        [
            says(0..REACH, bad(Fault::Unreadable)),
            says(REACH..2 * REACH, Word::Below),
            says(2 * REACH..2 * REACH + 512, host(11 * SMALL)),
        ]
    );
    assert_eq!(words(&layer, 0..512), [says(0..512, host(10 * SMALL))]);
}

#[test]
fn an_l1_table_that_cannot_be_read_makes_the_whole_disk_unreadable() {
    let layer = failing(three_tables(), 3 * 512..3 * 512 + 1);
    assert_eq!(
        words(&layer, 7..4 * REACH),
        [says(7..3 * REACH, bad(Fault::Unreadable)), says(3 * REACH..4 * REACH, Word::Below)]
    );
    assert_eq!(layer.allocated_at_most(), 3 * REACH);
}
