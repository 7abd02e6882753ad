//! Building the index of a stream from the headers of its frames.
//!
//! In a compressed stream only the trailer says how far it is from one header to the next. Where
//! it is missing or contradicts the frames, the lz4 frames themselves are walked, from block to
//! block: slower, and just as sure, for all of them together must add up as the headers say.

use std::ops::Range;

use super::failure::Failure;
use super::frame::{CRLF, FrameHeader, FrameKind, HEADER_LEN, name};
use super::index::{Index, IndexBuilder, LARGEST_CHUNK, Place, chunk_sizes, most_packed};
use super::lz4_walk;
use super::meta::StreamMeta;
use super::trailer::{Listed, Trailer};
use super::window::Window;
use crate::error::Defect;
use crate::source::Source;

/// How the length of a payload in the file is known.
enum Payloads {
    /// It is that of the range.
    Plain,
    /// The trailer has it.
    Listed(Trailer),
    /// The lz4 frames are walked.
    Walked,
}

/// What a walk over the frames came to.
pub(super) struct Walked {
    /// All ranges; with a `defect`, those before it.
    pub(super) index: Index,
    /// What stopped the walk.
    pub(super) defect: Option<Defect>,
}

pub(super) fn build(file: &dyn Source, meta: &StreamMeta) -> Result<Walked, Failure> {
    if meta.compression.is_none() {
        return walk(file, meta, Payloads::Plain, None);
    }
    let trailer = match Trailer::read(file, meta.frames_at) {
        Ok(trailer) => trailer,
        Err(Failure::Defect(flaw)) => return walk(file, meta, Payloads::Walked, Some(flaw)),
        Err(unreadable) => return Err(unreadable),
    };
    let defect = match walk(file, meta, Payloads::Listed(trailer), None) {
        Ok(Walked { defect: Some(defect), .. }) | Err(Failure::Defect(defect)) => defect,
        other => return other,
    };
    // Of two defects, that of the usual way is the better reason.
    match walk(file, meta, Payloads::Walked, Some(defect.clone())) {
        Ok(Walked { index, defect: Some(_) }) => Ok(Walked { index, defect: Some(defect) }),
        Err(Failure::Defect(_)) => Err(defect.into()),
        other => other,
    }
}

/// `flaw`: what is wrong with the trailer.
///
/// A defect on the way costs what lies behind it. Frames that are all there and do not add up are
/// an error, for nobody knows which of them is wrong.
fn walk(
    file: &dyn Source,
    meta: &StreamMeta,
    payloads: Payloads,
    flaw: Option<Defect>,
) -> Result<Walked, Failure> {
    let window = Window::new(file);
    let mut walk = Walk { window, meta, payloads, builder: IndexBuilder::default() };
    let mut flaws = Vec::new();
    let defect = match walk.frames() {
        Ok(end) => {
            flaws.extend(walk.check_end(end)?);
            None
        }
        Err(Failure::Defect(defect)) => Some(defect),
        Err(unreadable) => return Err(unreadable),
    };
    // A stream without data needs no sizes.
    flaws.extend(flaw.filter(|_| walk.builder.data() > 0));
    let index = walk.builder.finish(flaws, defect.is_some());
    Ok(Walked { index, defect })
}

struct Walk<'a> {
    window: Window<'a>,
    meta: &'a StreamMeta,
    payloads: Payloads,
    builder: IndexBuilder,
}

impl Walk<'_> {
    /// Goes from header to header; returns where the one of `stop` ends.
    fn frames(&mut self) -> Result<u64, Failure> {
        let mut at = self.meta.frames_at;
        // Every frame takes bytes of the file, in which `at` only grows.
        loop {
            let header = self.header(at)?;
            let payload = at + HEADER_LEN;
            at = match header.kind {
                FrameKind::Zero => {
                    let range = self.range(header, at)?;
                    self.builder.push(range, Place::Zero);
                    payload
                }
                FrameKind::Data => {
                    let range = self.range(header, at)?;
                    let before = self.builder.mark();
                    let end = self.payload(range, payload);
                    let end = end.and_then(|end| self.check_crlf(payload, end));
                    end.inspect_err(|_| self.builder.take_back(before))?
                }
                FrameKind::Stop => return Ok(payload),
                FrameKind::Meta | FrameKind::Comp => {
                    let what = format!("a {} frame among the data", name(header.kind));
                    return Err(Defect::corrupt(at, what).into());
                }
            };
        }
    }

    fn header(&mut self, at: u64) -> Result<FrameHeader, Failure> {
        let bytes = self.window.take(at, 40)?;
        if bytes.len() < 40 {
            let what = "the file ends before the stream's `stop` frame (truncated?)";
            return Err(Defect::corrupt(at, what).into());
        }
        Ok(FrameHeader::parse(bytes, at)?)
    }

    /// The bytes of the disk that the frame at `at` speaks for.
    fn range(&self, header: FrameHeader, at: u64) -> Result<Range<u64>, Defect> {
        let FrameHeader { kind, start, length } = header;
        let (kind, before, disk) = (name(kind), self.builder.end(), self.meta.virtual_size);
        let what = match start.checked_add(length) {
            _ if length == 0 => format!("a {kind} frame of no bytes"),
            _ if start < before => format!(
                "a {kind} frame starts at {start} of the disk, where the one before it ends at \
                 {before}"
            ),
            Some(end) if end <= disk => return Ok(start..end),
            _ => format!(
                "a {kind} frame of {length} bytes at {start} reaches past the disk's {disk} bytes"
            ),
        };
        Err(Defect::corrupt(at, what))
    }

    /// Adds the range of a data frame whose payload is at `at`; returns where the payload ends.
    fn payload(&mut self, range: Range<u64>, at: u64) -> Result<u64, Failure> {
        let len = range.end - range.start;
        let listed = match &mut self.payloads {
            Payloads::Plain => {
                // The end of the payload is looked at next, so it is in the file, or an error.
                self.builder.push(range, Place::Host { at });
                return Ok(at.saturating_add(len));
            }
            Payloads::Walked => return self.walk_chunks(range, at),
            Payloads::Listed(trailer) => trailer.next(),
        };
        let (total, sizes) = match listed {
            None => {
                let what = "the trailer lists fewer payloads than there are";
                return Err(Defect::corrupt(at, what).into());
            }
            Some(Listed::One(packed)) => return self.listed_payload(range, at, packed.into()),
            Some(Listed::Several { total, sizes }) => (total, sizes),
        };
        let sum = sizes.iter().copied().map(u64::from).sum::<u64>();
        if total != sum && total != len {
            let what = format!("the trailer lists {total} bytes, in chunks of {sum} together");
            return Err(Defect::corrupt(at, what).into());
        }
        let sizes = sizes.to_vec();
        self.listed_chunks(range, at, &sizes)
    }

    /// A payload of one size: one lz4 frame, or several in a row, which then say so.
    fn listed_payload(&mut self, range: Range<u64>, at: u64, packed: u64) -> Result<u64, Failure> {
        let len = range.end - range.start;
        match self.content_size(at)? {
            Some(size) if size < len => {
                let end = self.walk_chunks(range, at)?;
                if end == at.saturating_add(packed) {
                    return Ok(end);
                }
                let what =
                    format!("the trailer lists {packed} bytes for a payload of {}", end - at);
                Err(Defect::corrupt(at, what).into())
            }
            _ => Ok(push_chunk(&mut self.builder, range.start, len, at, packed)?),
        }
    }

    /// The unpacked size that the lz4 frame at `at` gives. A damaged header is the chunk's own
    /// fault, told when it is read.
    fn content_size(&mut self, at: u64) -> Result<Option<u64>, Failure> {
        match lz4_walk::content_size(&mut self.window, at) {
            Err(Failure::Defect(_)) => Ok(None),
            other => other,
        }
    }

    fn listed_chunks(
        &mut self,
        range: Range<u64>,
        at: u64,
        packed: &[u32],
    ) -> Result<u64, Failure> {
        let mut known = Vec::with_capacity(packed.len());
        let mut next = at;
        for size in packed {
            known.push(self.content_size(next)?);
            next = next.saturating_add((*size).into());
        }
        let len = range.end - range.start;
        let Some(sizes) = chunk_sizes(len, &known) else {
            let what = format!("{} chunks do not unpack to the frame's {len} bytes", packed.len());
            return Err(Defect::corrupt(at, what).into());
        };
        let (mut guest, mut at) = (range.start, at);
        for (packed, len) in packed.iter().zip(sizes) {
            at = push_chunk(&mut self.builder, guest, len.into(), at, (*packed).into())?;
            guest += u64::from(len);
        }
        Ok(at)
    }

    fn walk_chunks(&mut self, range: Range<u64>, at: u64) -> Result<u64, Failure> {
        let (mut guest, mut at) = (range.start, at);
        while guest < range.end {
            let rest = range.end - guest;
            let walked = lz4_walk::walk(&mut self.window, at)?;
            // One that does not say is the only one, or as large as the tool makes them.
            let len = walked.content_size.unwrap_or(rest.min(LARGEST_CHUNK / 2));
            if len > rest {
                let what = format!("an lz4 frame of {len} bytes, in a payload of {rest} more");
                return Err(Defect::corrupt(at, what).into());
            }
            at = push_chunk(&mut self.builder, guest, len, at, walked.packed)?;
            guest += len;
        }
        Ok(at)
    }

    /// Checks what follows the payload that lies from `start` to `end`; returns where the next
    /// header is.
    fn check_crlf(&mut self, start: u64, end: u64) -> Result<u64, Failure> {
        let bytes = self.window.take(end, CRLF.len())?;
        if bytes == CRLF {
            return Ok(end + CRLF.len() as u64);
        }
        let what = if bytes.len() < CRLF.len() {
            let there = self.window.file().len().saturating_sub(start);
            let len = end - start;
            format!(
                "a payload of {len} bytes starts here, the file ends after {there} (truncated?)"
            )
        } else {
            format!("no CRLF at byte {end}, where the payload that starts here ends")
        };
        Err(Defect::corrupt(start, what).into())
    }

    /// What must be true of the stream as a whole, whose `stop` ends at `end`; and its flaws.
    fn check_end(&mut self, end: u64) -> Result<Vec<Defect>, Defect> {
        let (found, meta) = (self.builder.data(), self.meta);
        if let Some(claimed) = meta.data_size.filter(|claimed| *claimed != found) {
            let what = format!("the metadata claims {claimed} bytes of data, there are {found}");
            return Err(Defect::corrupt(HEADER_LEN, what));
        }
        let mut flaws = Vec::new();
        match &mut self.payloads {
            Payloads::Plain if end != self.window.file().len() => {
                let more = self.window.file().len().saturating_sub(end);
                flaws.push(Defect::corrupt(
                    end,
                    format!("{more} bytes follow the end of the stream"),
                ));
            }
            Payloads::Listed(trailer) => check_trailer(trailer, end)?,
            Payloads::Plain | Payloads::Walked => {}
        }
        if let Some((bytes, first)) = self.builder.left_out(meta.virtual_size)
            && !meta.incremental
        {
            let what = format!(
                "this is no increment, and leaves {bytes} bytes of the disk out, the first at \
                 {first}: they read as zeros"
            );
            flaws.push(Defect::corrupt(end - HEADER_LEN, what));
        }
        Ok(flaws)
    }
}

/// Adds one chunk; returns where it ends in the file.
fn push_chunk(
    builder: &mut IndexBuilder,
    guest: u64,
    len: u64,
    at: u64,
    packed: u64,
) -> Result<u64, Defect> {
    if len == 0 || len > LARGEST_CHUNK {
        let what = format!("a chunk of {len} bytes, of {LARGEST_CHUNK} at most");
        return Err(Defect::corrupt(at, what));
    }
    let Some(packed) = u32::try_from(packed).ok().filter(|_| packed <= most_packed(len)) else {
        let what = format!("a chunk of {len} bytes does not take {packed} in the file");
        return Err(Defect::corrupt(at, what));
    };
    builder.push(guest..guest + len, Place::Packed { at, packed });
    Ok(at.saturating_add(packed.into()))
}

fn check_trailer(trailer: &mut Trailer, end: u64) -> Result<(), Defect> {
    if trailer.next().is_some() {
        let what = "the trailer lists more payloads than there are";
        return Err(Defect::corrupt(trailer.at, what));
    }
    if trailer.at != end {
        let what = format!("the stream ends here, its trailer begins at {}", trailer.at);
        return Err(Defect::corrupt(end, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
