//! Damaged sparse streams: a reader gets the right bytes or an error, and the error its place.
//!
//! What no checksum and no other frame contradicts cannot be found out; the tests name it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::cast_possible_truncation,
    clippy::unnecessary_debug_formatting,
    reason = "a test that cannot go on has failed, and its disks are small"
)]

mod common;

use std::ops::Range;
use std::sync::Arc;

use qcowfs::error::{Error, Result};
use qcowfs::extent::{Extent, Fault, GuestOffset, Word, Words};
use qcowfs::layer::Layer;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::stream::{HEADER_LEN, StreamLayer, StreamMeta};
use qcowfs::source::{MemoryFile, Source};
use serde_json::json;

use common::prng::Prng;
use common::stream_writer::{Lz4, StreamWriter, header};

/// What a reader of the byte gets where the layer says nothing.
const BELOW: u8 = 0xBE;

fn layer(bytes: Vec<u8>) -> Result<StreamLayer> {
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("vda.data", bytes));
    let meta = StreamMeta::read(file.as_ref())?;
    Ok(StreamLayer::new(file, meta, Arc::new(ClusterCache::new(8 << 20))))
}

fn words(layer: &StreamLayer) -> Vec<Extent> {
    let mut words = Words::new(0..layer.virtual_size());
    layer.words(&mut words);
    words.finish()
}

/// The whole disk, read in pieces of so many bytes; the first error.
fn read(layer: &StreamLayer, step: usize) -> Result<Vec<u8>> {
    let mut disk = vec![BELOW; layer.virtual_size() as usize];
    for Extent { range, word } in words(layer) {
        let bytes = &mut disk[range.start as usize..range.end as usize];
        match word {
            Word::Below => {}
            Word::Zero => bytes.fill(0),
            Word::Bad(_) => drop(layer.index()?),
            Word::At(slot) => {
                for (number, part) in bytes.chunks_mut(step).enumerate() {
                    let by = (number * step) as u64;
                    layer.read(slot.advance(by), GuestOffset(range.start + by), part)?;
                }
            }
        }
    }
    Ok(disk)
}

fn whole(bytes: Vec<u8>) -> Result<Vec<u8>> {
    read(&layer(bytes)?, 1 << 20)
}

fn refused(bytes: Vec<u8>) -> (u64, String) {
    match whole(bytes).unwrap_err() {
        Error::Corrupt { file, offset, what } => {
            assert_eq!(file.to_str(), Some("vda.data"));
            (offset, what)
        }
        other => panic!("{other}"),
    }
}

fn flaws(bytes: Vec<u8>) -> Vec<String> {
    let layer = layer(bytes).unwrap();
    layer.index().unwrap().flaws().iter().map(ToString::to_string).collect()
}

/// Few different bytes, so that a packed block is some kilobytes.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut prng = Prng::new(seed);
    let words: Vec<_> = (0..5).map(|_| prng.bytes(1000)).collect();
    let mut bytes = Vec::new();
    while bytes.len() < len {
        bytes.extend(prng.pick(&words));
    }
    bytes.truncate(len);
    bytes
}

const DISK: u64 = 600_000;
/// Chunks of two blocks.
const SMALL_CHUNKS: Lz4 = Lz4 { chunk: 131_072, ..Lz4::TOOL };

/// A full backup: data, zeros, data in chunks, zeros.
fn full(lz4: Option<Lz4>) -> StreamWriter {
    let writer = StreamWriter::full(DISK);
    let mut writer = match lz4 {
        Some(lz4) => writer.compressed(lz4),
        None => writer,
    };
    writer.data(0, &content(1, 3000));
    writer.zero(3000, 97_000);
    writer.data(100_000, &content(2, 200_000));
    writer.zero(300_000, 300_000);
    writer
}

fn increment(lz4: Option<Lz4>) -> StreamWriter {
    let writer = StreamWriter::increment(DISK, 1);
    let mut writer = match lz4 {
        Some(lz4) => writer.compressed(lz4),
        None => writer,
    };
    writer.data(4096, &content(3, 8192));
    writer.data(200_704, &content(4, 150_000));
    writer
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).expect("it is there")
}

/// Every byte of a stream, changed in two ways out of three: what was read wrong, by what was changed.
fn wrong_reads(bytes: &[u8]) -> Vec<usize> {
    let right = whole(bytes.to_vec()).unwrap();
    let mut wrong = Vec::new();
    for at in 0..bytes.len() {
        for change in [1, [0x20, 0x80][at % 2]] {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= change;
            // Another size is another disk, unless all that was there is as it was.
            if let Ok(read) = whole(bytes)
                && read != right
            {
                wrong.push(at);
            }
        }
    }
    wrong.dedup();
    wrong
}

/// The digits of the disk's size, which nothing contradicts when they grow.
fn size_digits(bytes: &[u8]) -> Range<usize> {
    let at = find(bytes, b"600000");
    at..at + 6
}

#[test]
fn no_changed_byte_of_a_packed_full_backup_is_read_wrong() {
    let bytes = full(Some(SMALL_CHUNKS)).finish();
    let size = size_digits(&bytes);
    let wrong = wrong_reads(&bytes);
    assert!(wrong.iter().all(|at| size.contains(at)), "{wrong:?}");
    // And a disk that grew is told.
    let mut bytes = bytes;
    bytes[size.start] = b'7';
    let [flaw] = &flaws(bytes)[..] else { panic!("one flaw") };
    assert!(flaw.contains("leaves 100000 bytes of the disk out, the first at 600000"), "{flaw}");
}

#[test]
fn a_changed_byte_of_a_packed_increment_is_read_right_but_for_where_a_frame_starts() {
    let bytes = increment(Some(SMALL_CHUNKS)).finish();
    let starts: Vec<_> = [4096_u64, 200_704]
        .map(|start| find(&bytes, format!("data {start:016x}").as_bytes()) + 5)
        .into_iter()
        .flat_map(|at| at..at + 16)
        .chain(size_digits(&bytes))
        .collect();
    let wrong = wrong_reads(&bytes);
    assert!(wrong.iter().all(|at| starts.contains(at)), "{wrong:?}");
}

#[test]
fn a_changed_byte_of_a_plain_full_backup_is_read_right_outside_of_payloads() {
    // Small, for each byte is changed.
    let mut writer = StreamWriter::full(600_000);
    writer.data(0, &content(1, 100));
    writer.zero(100, 599_800);
    writer.data(599_900, &content(2, 100));
    let bytes = writer.finish();
    let payload = |start: u64| {
        let at = find(&bytes, &header("data", start, 100)) + 40;
        at..at + 100
    };
    let spared = [payload(0), payload(599_900), size_digits(&bytes)];
    let wrong = wrong_reads(&bytes);
    assert!(wrong.iter().all(|at| spared.iter().any(|range| range.contains(at))), "{wrong:?}");
}

#[test]
fn a_stream_cut_before_its_end_is_read_up_to_there_and_one_cut_after_it_whole() {
    for (writer, packed) in [
        (full(None), false),
        (increment(None), false),
        (full(Some(SMALL_CHUNKS)), true),
        (increment(Some(SMALL_CHUNKS)), true),
    ] {
        let (stream, trailer) = writer.parts();
        let right = whole([&stream[..], &trailer].concat()).unwrap();
        for cut in (0..stream.len()).step_by(97).chain(stream.len() - 50..stream.len()) {
            must_be_right_up_to_the_cut(&stream[..cut], &right);
        }
        for cut in 0..trailer.len() {
            let bytes = [&stream[..], &trailer[..cut]].concat();
            assert!(whole(bytes.clone()).unwrap() == right, "cut {cut} into the trailer");
            assert_eq!(flaws(bytes).len(), 1, "cut {cut} into the trailer");
        }
        assert_eq!(trailer.is_empty(), !packed);
    }
}

fn must_be_right_up_to_the_cut(stream: &[u8], right: &[u8]) {
    let cut = stream.len();
    let told = |what: &str| what.contains("truncated?") || what.contains("is cut");
    let Ok(layer) = layer(stream.to_vec()) else {
        let (offset, what) = refused(stream.to_vec());
        assert!(told(&what) && offset <= cut as u64, "cut to {cut}: {what} at {offset}");
        return;
    };
    let index = layer.index().unwrap();
    assert!(told(&index.flaws().last().unwrap().to_string()), "cut to {cut}: {:?}", index.flaws());
    let from = index.lost_from().unwrap();
    for Extent { range, word } in words(&layer) {
        let is_lost = word == Word::Bad(Fault::Frames);
        assert_eq!(is_lost, range.start >= from, "cut to {cut}: {range:?} of {from} bytes");
        assert!(is_lost || range.end <= from, "cut to {cut}: {range:?} of {from} bytes");
    }
    let known = from as usize;
    assert!(read(&layer, 1 << 20).unwrap()[..known] == right[..known], "cut to {cut}");
}

#[test]
fn a_trailer_that_lies_is_a_flaw() {
    let (stream, _) = full(Some(SMALL_CHUNKS)).parts();
    let right = whole(full(Some(SMALL_CHUNKS)).finish()).unwrap();
    let sizes = {
        let layer = layer(full(Some(SMALL_CHUNKS)).finish()).unwrap();
        layer.index().unwrap().chunks().map(|chunk| chunk.packed).collect::<Vec<_>>()
    };
    let (one, several) = (sizes[0], &sizes[1..]);
    let sum: u32 = several.iter().sum();
    let key = |total: u32| json!({ total.to_string(): several });
    let with = |json: serde_json::Value| {
        let json = json.to_string().into_bytes();
        [&stream[..], &json, b"\r\n", &header("comp", 0, json.len() as u64)].concat()
    };
    for (right_one, what) in [
        (json!([one, key(sum)]), None),
        (json!([one, key(200_000)]), None),
        (json!([one, key(sum + 1)]), Some("the trailer lists")),
        (json!([one + 1, key(sum)]), Some("no CRLF at byte")),
        (json!([one]), Some("the trailer lists fewer payloads than there are")),
        (json!([one, key(sum), 11]), Some("the trailer lists more payloads than there are")),
        (json!([one, sum]), None),
        (json!([one, sum - 1]), Some("the trailer lists")),
        (json!([key(sum), one]), Some("damaged")),
        (json!([]), Some("the trailer lists fewer payloads than there are")),
        (json!({}), Some("not the list of sizes that it should be")),
    ] {
        let bytes = with(right_one.clone());
        let found = flaws(bytes.clone());
        match what {
            None => assert!(found.is_empty(), "{right_one}: {found:?}"),
            Some(what) => assert!(found[0].contains(what), "{right_one}: {found:?}"),
        }
        assert!(whole(bytes).unwrap() == right, "{right_one}");
    }
}

#[test]
fn a_stream_compressed_at_level_0_has_no_trailer() {
    let (stream, _) = full(Some(SMALL_CHUNKS)).set("compressed", json!(0)).parts();
    let right = whole(full(Some(SMALL_CHUNKS)).finish()).unwrap();
    assert!(whole(stream).unwrap() == right);
}

/// One frame of so many blocks of 64 KiB; where it starts in the file.
fn one_chunk(lz4: Lz4, blocks: usize) -> (Vec<u8>, usize, Vec<u8>) {
    let plain = content(5, blocks << 16);
    let mut writer = StreamWriter::full((blocks << 16) as u64).compressed(lz4);
    writer.data(0, &plain);
    let bytes = writer.finish();
    let at = find(&bytes, &0x184D_2204_u32.to_le_bytes());
    (bytes, at, plain)
}

/// Where the words of the blocks are in an lz4 frame with checksums and size.
fn block_words(bytes: &[u8], frame: usize) -> Vec<usize> {
    let mut at = frame + 15;
    let mut words = Vec::new();
    loop {
        let word = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        words.push(at);
        if word == 0 {
            return words;
        }
        at += 8 + (word & 0x7FFF_FFFF) as usize;
    }
}

fn read_at(layer: &StreamLayer, at: u64, len: usize) -> Result<Vec<u8>> {
    let [Extent { word: Word::At(slot), .. }] = words(layer)[..] else { panic!("one chunk") };
    let mut buf = vec![0xAA; len];
    layer.read(slot, GuestOffset(at), &mut buf).map(|()| buf)
}

fn corrupt<T: std::fmt::Debug>(result: Result<T>) -> (u64, String) {
    match result.unwrap_err() {
        Error::Corrupt { offset, what, .. } => (offset, what),
        other => panic!("{other}"),
    }
}

#[test]
fn a_damaged_block_spoils_the_rest_of_its_chunk_and_nothing_before() {
    let (mut bytes, frame, plain) = one_chunk(Lz4::TOOL, 5);
    let words = block_words(&bytes, frame);
    bytes[words[2] + 100] ^= 4;
    let layer = layer(bytes).unwrap();
    let wrong = (words[2] as u64 + 4, "the checksum of an lz4 block is wrong".to_owned());
    for _ in 0..2 {
        assert_eq!(read_at(&layer, 131_000, 72).unwrap(), plain[131_000..131_072]);
        assert_eq!(corrupt(read_at(&layer, 131_000, 73)), wrong);
        assert_eq!(corrupt(read_at(&layer, 300_000, 10)), wrong);
    }
    let chunk = layer.index().unwrap().chunks().next().unwrap();
    assert_eq!(corrupt(layer.check_chunk(&chunk)), wrong);
}

#[test]
fn a_wrong_checksum_of_the_content_spoils_the_chunk_once_it_was_seen() {
    let (mut bytes, frame, plain) = one_chunk(Lz4::TOOL, 5);
    let end = *block_words(&bytes, frame).last().unwrap() + 4;
    bytes[end] ^= 1;
    let layer = layer(bytes).unwrap();
    assert_eq!(read_at(&layer, 0, 100).unwrap(), plain[..100]);
    let wrong = (end as u64, "the checksum of an lz4 frame's content is wrong".to_owned());
    assert_eq!(corrupt(read_at(&layer, 5 * 65_536 - 1, 1)), wrong);
    assert_eq!(corrupt(read_at(&layer, 0, 100)), wrong);
    let chunk = layer.index().unwrap().chunks().next().unwrap();
    assert_eq!(corrupt(layer.check_chunk(&chunk)), wrong);
}

#[test]
fn without_checksums_of_blocks_nothing_is_handed_out_before_the_content_is_verified() {
    let (mut bytes, frame, plain) = one_chunk(Lz4 { block_checksums: false, ..Lz4::TOOL }, 5);
    let good = layer(bytes.clone()).unwrap();
    assert_eq!(read_at(&good, 70_000, 100).unwrap(), plain[70_000..70_100]);
    // The last byte of the last block: a literal, which nothing but the checksum contradicts.
    let packed = good.index().unwrap().chunks().next().unwrap().packed as usize;
    bytes[frame + packed - 9] ^= 1;
    let bad = layer(bytes).unwrap();
    let (_, what) = corrupt(read_at(&bad, 0, 100));
    assert_eq!(what, "the checksum of an lz4 frame's content is wrong");
}

#[test]
fn blocks_that_are_not_what_they_should_be_are_refused() {
    let (bytes, frame, _) = one_chunk(Lz4::TOOL, 3);
    let words = block_words(&bytes, frame);
    let set = |at: usize, word: u32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        corrupt(read_at(&layer(bytes).unwrap(), 3 * 65_536 - 1, 1))
    };
    let at = |word: usize| words[word] as u64 + 4;
    let size = u32::from_le_bytes(bytes[words[1]..words[1] + 4].try_into().unwrap());
    let ends = "an lz4 frame ends after 65536 of its 196608 bytes";
    assert_eq!(set(words[1], 0), (at(1), ends.to_owned()));
    let large = "an lz4 block of 65537 bytes, of 65536 at most";
    assert_eq!(set(words[1], 65_537), (at(1), large.to_owned()));
    let past = "an lz4 block reaches past the end of its chunk";
    assert_eq!(set(words[1], 65_536), (at(1), past.to_owned()));
    let stored = format!("an lz4 block holds {size} bytes instead of 65536");
    assert_eq!(set(words[1], size | 1 << 31), (at(1), stored));
    let on = "an lz4 frame goes on after its 196608 bytes";
    assert_eq!(set(words[3], 5), (at(3), on.to_owned()));
}

#[test]
fn lz4_frames_of_another_length_than_the_stream_says_are_refused() {
    let plain = content(6, 150_001);
    for (unpacked, content_size, what) in [
        (150_001, true, "an lz4 frame of 150001 bytes stands for 150000 of the disk"),
        (131_072, false, "an lz4 frame ends after 131072 of its 150000 bytes"),
        (149_999, false, "an lz4 block holds 18927 bytes instead of 18928"),
    ] {
        let lz4 = Lz4 { content_size, ..Lz4::TOOL };
        let mut writer = StreamWriter::full(150_000).compressed(lz4);
        writer.chunks(0, 150_000, &[lz4.pack(&plain[..unpacked])]);
        let layer = layer(writer.finish()).unwrap();
        assert_eq!(corrupt(read_at(&layer, 149_000, 10)).1, what);
    }
    // One that says that it is shorter could be the first of several.
    let mut writer = StreamWriter::full(150_000).compressed(Lz4::TOOL);
    writer.chunks(0, 150_000, &[Lz4::TOOL.pack(&plain[..149_999])]);
    let (_, what) = refused(writer.finish());
    assert!(what.starts_with("no lz4 frame starts with"), "{what}");
    let mut writer = StreamWriter::full(150_000).compressed(Lz4::TOOL);
    let mut packed = Lz4::TOOL.pack(&plain[..150_000]);
    packed.extend(b"and more");
    writer.chunks(0, 150_000, &[packed]);
    let layer = layer(writer.finish()).unwrap();
    let (_, what) = corrupt(read_at(&layer, 149_999, 1));
    assert_eq!(what, "an lz4 frame ends here, 12 bytes before its chunk");
}

#[test]
fn a_damaged_lz4_header_spoils_its_chunk_alone() {
    let mut bytes = full(Some(SMALL_CHUNKS)).finish();
    let right = whole(bytes.clone()).unwrap();
    let second = layer(bytes.clone()).unwrap().index().unwrap().chunks().nth(2).unwrap();
    bytes[second.at as usize + 6] ^= 1;
    // Chunks smaller than the tool's: what the rest unpacks to tells the size of this one.
    let layer = layer(bytes).unwrap();
    assert!(layer.index().unwrap().flaws().is_empty());
    for Extent { range, word } in words(&layer) {
        let Word::At(slot) = word else { continue };
        let mut buf = vec![0; (range.end - range.start) as usize];
        let read = layer.read(slot, GuestOffset(range.start), &mut buf);
        if range.start == second.guest {
            let what = "the checksum of an lz4 frame's header is wrong";
            assert_eq!(corrupt(read), (second.at, what.to_owned()));
        } else {
            read.unwrap();
            assert!(buf == right[range.start as usize..range.end as usize]);
        }
    }
}

#[test]
fn a_stream_that_contradicts_itself_has_no_word_but_one() {
    let mut bytes = full(None).finish();
    let at = find(&bytes, b"zero");
    bytes[at] = b'x';
    let layer = layer(bytes).unwrap();
    for _ in 0..2 {
        assert_eq!(words(&layer), [Extent { range: 0..DISK, word: Word::Bad(Fault::Frames) }]);
        let (offset, what) = corrupt(layer.index());
        assert_eq!((offset, &what[..]), (at as u64, "`xero` is no kind of frame"));
    }
    assert!(HEADER_LEN < at as u64);
}

/// Damage that is likelier to be believed than noise: digits, whole headers, words, cuts.
fn damage(bytes: &mut Vec<u8>, headers: &[usize], prng: &mut Prng) {
    for _ in 0..=prng.below(3) {
        let at = prng.below(bytes.len() as u64) as usize;
        let header = *prng.pick(headers);
        match prng.below(7) {
            0 => bytes[at] = prng.bytes(1)[0],
            1 => bytes.truncate(at.max(headers[1])),
            2 => drop(bytes.splice(at..at, prng.bytes(5))),
            3 | 4 => {
                let digit = header + 5 + prng.below(33) as usize;
                if let Some(byte) = bytes.get_mut(digit) {
                    *byte = *prng.pick(b"0123456789abcdef");
                }
            }
            5 => {
                let word = [0, 1, 0x7FFF_FFFF, 0x8001_0000, u32::MAX][prng.below(5) as usize];
                if let Some(bytes) = bytes.get_mut(at..at + 4) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
            }
            _ => {
                let from = (header + 40).min(bytes.len());
                let header = bytes[header.min(from)..from].to_vec();
                let to = (*prng.pick(headers)).min(bytes.len());
                bytes.splice(to..(to + header.len()).min(bytes.len()), header);
            }
        }
    }
}

#[test]
fn damage_at_random_never_stops_a_reader() {
    let rounds = std::env::var("QCOWFS_TEST_ROUNDS").map_or(1500, |n| n.parse().unwrap());
    let streams = [full(Some(SMALL_CHUNKS)), increment(Some(SMALL_CHUNKS)), full(None)];
    let streams = streams.map(StreamWriter::finish);
    let kinds = [&b"meta "[..], b"data 0", b"zero 0", b"stop 0", b"comp 0"];
    let headers = streams.each_ref().map(|bytes| {
        let starts = |at: &usize| kinds.iter().any(|kind| bytes[*at..].starts_with(kind));
        (0..bytes.len()).filter(starts).collect::<Vec<_>>()
    });
    let mut prng = Prng::new(11);
    let mut read = 0;
    for _ in 0..rounds {
        let which = prng.below(3) as usize;
        let mut bytes = streams[which].clone();
        damage(&mut bytes, &headers[which], &mut prng);
        let len = bytes.len() as u64;
        let Ok(layer) = layer(bytes) else { continue };
        // A disk of another size is none that this test could hold.
        let Ok(index) = layer.index() else { continue };
        assert!(index.memory() as u64 <= 2 * len, "{} bytes for {len}", index.memory());
        if layer.virtual_size() == DISK {
            read += usize::from(reads_whole(&layer));
        }
    }
    assert!(read > 0, "no stream was whole enough to be read");
}

/// Whether all of it could be read.
fn reads_whole(layer: &StreamLayer) -> bool {
    read(layer, 50_000).is_ok_and(|disk| disk.len() as u64 == DISK)
}
