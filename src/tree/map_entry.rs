//! The map of a disk in the form of `qemu-img map --output=json`, and what that form has no word
//! for: the file that each range comes from, and what is lost.

use std::ops::Range;

use serde::Serialize;

use crate::extent::{Slot, Word};
use crate::map::Origin;
use crate::view::{DiskImage, LostReads, is_lost};

/// A range that is one thing. Offsets and lengths are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "qemu-img has them")]
pub struct MapEntry {
    /// Where it starts.
    pub start: u64,
    /// How long it is.
    pub length: u64,
    /// Files of the chain above the one that has it: 0 is the checkpoint's own.
    pub depth: u32,
    /// Whether a file of the chain has something to say of it, be it zeros.
    pub present: bool,
    /// Whether it reads as zeros without a look at any byte.
    pub zero: bool,
    /// Whether a file has its bytes.
    pub data: bool,
    /// Whether they are compressed.
    pub compressed: bool,
    /// Where in the file they are, or where room for them is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The file, within the source: the image's external data file, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Whether it is lost with a file of the chain, or in a damaged one.
    #[serde(skip_serializing_if = "is_false")]
    pub lost: bool,
    /// Why it is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Hands out the entries of a disk: ascending, contiguous, the whole disk, joined where they only
/// go on. Stops at the first error of `each`.
pub fn map_entries<E>(
    image: &DiskImage,
    mut each: impl FnMut(&MapEntry) -> Result<(), E>,
) -> Result<(), E> {
    let mut last: Option<MapEntry> = None;
    for origin in image.origins() {
        for entry in entries_of(image, &origin) {
            match &mut last {
                Some(last) if last.takes(&entry) => last.length += entry.length,
                _ => {
                    if let Some(done) = last.replace(entry) {
                        each(&done)?;
                    }
                }
            }
        }
    }
    last.map_or(Ok(()), |last| each(&last))
}

impl MapEntry {
    /// Whether `next` only goes on with this one.
    fn takes(&self, next: &Self) -> bool {
        let same = |entry: &Self| Self { start: 0, length: 0, offset: None, ..entry.clone() };
        self.start + self.length == next.start
            && self.offset.map(|at| at + self.length) == next.offset
            && same(self) == same(next)
    }
}

/// The entries of one range: several where only for parts of it room is kept.
fn entries_of(image: &DiskImage, origin: &Origin) -> Vec<MapEntry> {
    let Origin { range, depth, word, .. } = origin;
    let layer = image.layer(origin.layer);
    let path = || layer.plain_file().map_or(layer.path(), |file| file.path());
    let filename = |file: &std::path::Path| Some(file.to_string_lossy().into_owned());
    let entry = |range: Range<u64>| MapEntry {
        start: range.start,
        length: range.end - range.start,
        depth: *depth,
        present: true,
        zero: false,
        data: false,
        compressed: false,
        offset: None,
        filename: filename(path()),
        lost: false,
        reason: None,
    };
    let whole = entry(range.clone());
    match word {
        Word::At(Slot::Host(at)) => vec![MapEntry { data: true, offset: Some(at.0), ..whole }],
        Word::At(Slot::Packed(_)) => {
            let filename = filename(layer.path());
            vec![MapEntry { data: true, compressed: true, filename, ..whole }]
        }
        Word::Bad(fault) => {
            let reason = Some(fault.to_string());
            let zero = image.lost_reads() == LostReads::Zeros && is_lost(*fault);
            let filename = filename(layer.path());
            vec![MapEntry { present: false, zero, lost: true, reason, filename, ..whole }]
        }
        Word::Zero | Word::Below => {
            let present = *word == Word::Zero;
            let mut entries = Vec::new();
            let mut next = range.start;
            let zeros = |range: Range<u64>| {
                let filename = if present { filename(layer.path()) } else { None };
                MapEntry { present, zero: true, filename, ..entry(range) }
            };
            for room in layer.reserved(range.clone()) {
                if next < room.range.start {
                    entries.push(zeros(next..room.range.start));
                }
                next = room.range.end;
                let offset = Some(room.at.0);
                entries.push(MapEntry { offset, filename: filename(path()), ..zeros(room.range) });
            }
            if next < range.end {
                entries.push(zeros(next..range.end));
            }
            entries
        }
    }
}
