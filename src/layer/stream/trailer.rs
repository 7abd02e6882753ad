//! The trailer of a compressed stream: how many bytes each payload takes in the file.
//!
//! It stands after `stop`: a JSON list, CRLF, and the header of a `comp` frame, which ends the
//! file and holds the list's length. An item is a number, for a payload of one lz4 frame; or
//! `{"total": [numbers]}`, for one of several. (The tool's total is that of the packed sizes; that
//! of the unpacked ones is taken as well.)

use std::fmt;
use std::io::{self, BufReader, Read};

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::failure::Failure;
use super::frame::{CRLF, FrameHeader, FrameKind, HEADER_LEN};
use crate::error::{self, Defect};
use crate::source::Source;

/// Marks the word before the sizes of several chunks.
const SEVERAL: u32 = 1 << 31;
/// The smallest lz4 frame: a header of 7 bytes and the end mark.
const SMALLEST_PAYLOAD: u64 = 11;

/// The sizes of all payloads, in order.
#[derive(Debug)]
pub(super) struct Trailer {
    /// Where the JSON is.
    pub(super) at: u64,
    sizes: Sizes,
    next: usize,
}

/// What the trailer says of one data frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listed<'a> {
    One(u32),
    Several { total: u64, sizes: &'a [u32] },
}

impl Trailer {
    pub(super) fn read(file: &dyn Source, frames_at: u64) -> Result<Self, Failure> {
        let (at, len) = locate(file, frames_at)?;
        let mut failed = None;
        let reader = Part { file, at, left: len, failed: &mut failed };
        let parsed = parse(BufReader::with_capacity(64 << 10, reader), file.len());
        if let Some(error) = failed {
            return Err(error.into());
        }
        match parsed {
            Ok(sizes) => Ok(Self { at, sizes, next: 0 }),
            Err(e) => {
                // The tool writes one line.
                let column = if e.line() == 1 { e.column().saturating_sub(1) } else { 0 };
                let what = format!("the trailer is not the list of sizes that it should be: {e}");
                Err(Defect::corrupt(at.saturating_add(column as u64), what).into())
            }
        }
    }

    /// What is said of the next data frame.
    pub(super) fn next(&mut self) -> Option<Listed<'_>> {
        let words = self.sizes.words.get(self.next..)?;
        let (first, rest) = words.split_first()?;
        if first & SEVERAL == 0 {
            self.next += 1;
            return Some(Listed::One(*first));
        }
        let (total, rest) = rest.split_first_chunk::<2>()?;
        let sizes = rest.get(..(first & !SEVERAL) as usize)?;
        self.next += 3 + sizes.len();
        let [high, low] = total.map(u64::from);
        Some(Listed::Several { total: high << 32 | low, sizes })
    }
}

/// Where the JSON is, and its length.
fn locate(file: &dyn Source, frames_at: u64) -> Result<(u64, u64), Failure> {
    let crlf = CRLF.len() as u64;
    // At least the header of `stop` comes before the JSON.
    let earliest = frames_at.saturating_add(HEADER_LEN);
    let end = file.len().checked_sub(HEADER_LEN + crlf).filter(|end| *end >= earliest);
    let end =
        end.ok_or_else(|| Defect::corrupt(file.len(), "no trailer: the file is too short"))?;
    let mut bytes = [0; 42];
    file.read_exact(end, &mut bytes)?;
    let header = bytes.strip_prefix(CRLF).map(|bytes| FrameHeader::parse(bytes, end + crlf));
    let Some(Ok(FrameHeader { kind: FrameKind::Comp, length, .. })) = header else {
        let what = "no trailer: the file does not end in a `comp` frame (truncated?)";
        return Err(Defect::corrupt(end + crlf, what).into());
    };
    let at = end.checked_sub(length).filter(|at| *at >= earliest).ok_or_else(|| {
        let what = format!("a trailer of {length} bytes does not fit in the file");
        Defect::corrupt(end + crlf, what)
    })?;
    Ok((at, length))
}

/// Reads a part of a file and notes why it could not.
struct Part<'a> {
    file: &'a dyn Source,
    at: u64,
    left: u64,
    failed: &'a mut Option<error::Error>,
}

impl Read for Part<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(super::to_usize(self.left));
        let buf = buf.get_mut(..len).unwrap_or_default();
        match self.file.read_at(self.at, buf) {
            Ok(got) => {
                self.at += got as u64;
                self.left -= got as u64;
                Ok(got)
            }
            Err(e) => {
                *self.failed = Some(e);
                Err(io::Error::other("not readable"))
            }
        }
    }
}

/// `room`: bytes of the file, of which all payloads together cannot have more.
fn parse(json: impl Read, room: u64) -> serde_json::Result<Sizes> {
    let mut json = serde_json::Deserializer::from_reader(json);
    let sizes = json.deserialize_seq(ListVisitor(Sizes { words: Vec::new(), room }))?;
    json.end()?;
    Ok(sizes)
}

/// Four bytes for each size: `size`, or `SEVERAL | count`, the total's two halves, `size`s.
#[derive(Debug)]
struct Sizes {
    words: Vec<u32>,
    /// Bytes of the file that are not spoken for. As no payload is smaller than
    /// [`SMALLEST_PAYLOAD`], it bounds the words as well.
    room: u64,
}

impl Sizes {
    fn push(&mut self, size: u64) -> Result<(), String> {
        let fits = size >= SMALLEST_PAYLOAD && size <= self.room;
        let word = u32::try_from(size).ok().filter(|word| fits && word & SEVERAL == 0);
        let word = word.ok_or_else(|| format!("no payload of this file has {size} bytes"))?;
        self.room -= size;
        self.words.push(word);
        Ok(())
    }

    /// Room for what comes before the sizes of several chunks; where that is.
    fn begin_several(&mut self) -> usize {
        self.words.extend([SEVERAL, 0, 0]);
        self.words.len()
    }

    fn end_several(&mut self, from: usize, total: &str) -> Result<(), String> {
        let total: u64 = total.parse().map_err(|_| "a key that is no size".to_owned())?;
        let count = u32::try_from(self.words.len() - from).unwrap_or(u32::MAX);
        if count == 0 || count & SEVERAL != 0 {
            return Err(format!("a payload of {count} chunks"));
        }
        let halves = [total >> 32, total & u64::from(u32::MAX)];
        // Each fits.
        let halves = halves.map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        let [high, low] = halves;
        let before = self.words.iter_mut().skip(from - 3);
        before.zip([SEVERAL | count, high, low]).for_each(|(word, is)| *word = is);
        Ok(())
    }
}

/// The whole list.
struct ListVisitor(Sizes);

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Sizes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Sizes, A::Error> {
        while list.next_element_seed(Item(&mut self.0))?.is_some() {}
        Ok(self.0)
    }
}

/// One item of the list: goes straight into the sizes, for nothing bounds an item by itself.
struct Item<'a>(&'a mut Sizes);

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size or an object of one list of sizes")
    }

    fn visit_u64<E: Error>(self, size: u64) -> Result<(), E> {
        self.0.push(size).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some(total) = map.next_key::<String>()? else {
            return Err(A::Error::custom("an object without a list of sizes"));
        };
        let from = self.0.begin_several();
        map.next_value_seed(Chunks(self.0))?;
        self.0.end_several(from, &total).map_err(A::Error::custom)?;
        match map.next_key::<String>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::custom("an object of more than one list of sizes")),
        }
    }
}

/// The list within an item.
struct Chunks<'a>(&'a mut Sizes);

impl<'de> DeserializeSeed<'de> for Chunks<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Chunks<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(size) = list.next_element()? {
            self.0.push(size).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemoryFile;

    /// A stream's end: `before` bytes, the JSON, what closes it.
    fn file(before: usize, json: &str) -> MemoryFile {
        let comp = format!("{json}\r\ncomp {:016x} {:016x}\r\n", 0, json.len());
        MemoryFile::new("f", [vec![b'-'; before], comp.into_bytes()].concat())
    }

    fn read(json: &str) -> Result<Trailer, Failure> {
        Trailer::read(&file(10_000, json), 100)
    }

    fn refused(json: &str) -> String {
        match read(json).unwrap_err() {
            Failure::Defect(defect) => defect.to_string(),
            Failure::Unreadable(e) => panic!("{e}"),
        }
    }

    #[test]
    fn numbers_and_lists_come_back_in_order() {
        let mut trailer = read(r#"[11, {"60": [20, 40]}, 300, {"4294967296": [99]}]"#).unwrap();
        assert_eq!(trailer.at, 10_000);
        assert_eq!(trailer.next(), Some(Listed::One(11)));
        assert_eq!(trailer.next(), Some(Listed::Several { total: 60, sizes: &[20, 40] }));
        assert_eq!(trailer.next(), Some(Listed::One(300)));
        assert_eq!(trailer.next(), Some(Listed::Several { total: 1 << 32, sizes: &[99] }));
        assert_eq!(trailer.next(), None);
    }

    #[test]
    fn an_empty_stream_has_an_empty_list() {
        assert_eq!(read("[]").unwrap().next(), None);
    }

    #[test]
    fn one_wrong_item_is_one_exact_error() {
        let item = |item: &str| {
            let text = refused(&format!("[20, {item}]"));
            let (_, what) = text.split_once("that it should be: ").expect("the trailer is blamed");
            what.rsplit_once(" at line 1 column").expect("a place").0.to_owned()
        };
        assert_eq!(item("10"), "no payload of this file has 10 bytes");
        assert_eq!(item("99999"), "no payload of this file has 99999 bytes");
        assert_eq!(item("2147483648"), "no payload of this file has 2147483648 bytes");
        assert_eq!(item("{}"), "an object without a list of sizes");
        assert_eq!(item(r#"{"1": [50], "2": [50]}"#), "an object of more than one list of sizes");
        assert_eq!(item(r#"{"x": [50]}"#), "a key that is no size");
        assert_eq!(item(r#"{"0": []}"#), "a payload of 0 chunks");
        assert!(item("-20").starts_with("invalid type: integer `-20`"), "{}", item("-20"));
        assert!(item("20.5").starts_with("invalid type: floating point"), "{}", item("20.5"));
        assert!(item("[20]").starts_with("invalid type: sequence"), "{}", item("[20]"));
    }

    #[test]
    fn payloads_of_more_bytes_than_the_file_has_are_refused() {
        let text = refused("[6000, 6000]");
        assert!(text.contains("no payload of this file has 6000 bytes"), "{text}");
    }

    #[test]
    fn what_is_no_json_list_is_refused_with_its_place() {
        for (json, at) in [("{}", 10_000), ("[20", 10_002), ("[20]]", 10_004), ("[20 20]", 10_004)]
        {
            let text = refused(json);
            assert!(text.starts_with(&format!("damaged at byte {at}: ")), "{json}: {text}");
        }
    }

    #[test]
    fn a_file_without_a_trailer_is_told() {
        let none = "no trailer: the file does not end in a `comp` frame (truncated?)";
        for bytes in [vec![b'-'; 500], b"comp".repeat(200)] {
            let at = bytes.len() as u64 - 40;
            match Trailer::read(&MemoryFile::new("f", bytes), 100).unwrap_err() {
                Failure::Defect(defect) => assert_eq!(defect, Defect::corrupt(at, none)),
                Failure::Unreadable(e) => panic!("{e}"),
            }
        }
        let short = Trailer::read(&MemoryFile::new("f", vec![0; 181]), 100).unwrap_err();
        let defect = Defect::corrupt(181, "no trailer: the file is too short");
        assert!(matches!(short, Failure::Defect(d) if d == defect));
    }

    #[test]
    fn a_trailer_does_not_reach_into_the_frames() {
        let fits = Trailer::read(&file(140, "[20]"), 100);
        assert!(fits.is_ok());
        let Err(Failure::Defect(defect)) = Trailer::read(&file(139, "[20]"), 100) else {
            panic!("the trailer would begin within the `stop` frame");
        };
        let what = "a trailer of 4 bytes does not fit in the file";
        assert_eq!(defect, Defect::corrupt(145, what));
    }
}
