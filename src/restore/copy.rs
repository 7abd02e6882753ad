//! Reads a disk and hands it to a sink.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Progress;
use super::sink::{Sink, UnitWriter};
use super::units::{Stop, Unit, each_unit};
use crate::error::{Error, Result};
use crate::extent::Fault;
use crate::page_buffer::PageBuffer;
use crate::source::Cloned;
use crate::view::{Content, DiskImage, Part};

/// Bytes read at a time: they are still in the processor's cache when they are written. No sink
/// takes larger multiples. While one thread writes, for which the kernel locks the file, others read:
/// a `sendfile` of each piece was measured to be no faster on any file system, by up to a third slower.
pub(super) const BUFFER: u64 = 256 << 10;

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied {
    /// Bytes of data that were written.
    pub(super) written: u64,
    /// Bytes that the target shares with the backup.
    pub(super) cloned: u64,
}

struct Copy<'a> {
    image: &'a DiskImage,
    sink: &'a dyn Sink,
    stop: &'a Stop,
    progress: &'a dyn Progress,
    written: AtomicU64,
    cloned: AtomicU64,
    /// The first attempt showed that nothing can be shared.
    never_shares: AtomicBool,
}

/// Writes all of a disk.
pub(super) fn copy(
    image: &DiskImage,
    sink: &dyn Sink,
    stop: &Stop,
    progress: &dyn Progress,
) -> Result<Copied> {
    let never_shares = AtomicBool::new(!sink.shares());
    let (written, cloned) = (AtomicU64::new(0), AtomicU64::new(0));
    let copy = Copy { image, sink, stop, progress, written, cloned, never_shares };
    let new_work = || {
        let mut buffer = PageBuffer::zeroed(usize::try_from(sink.piece()).unwrap_or(0));
        let copy = &copy;
        move |unit| copy.unit(unit, &mut buffer)
    };
    let skip = |range: Range<u64>| {
        sink.zero(range.clone())?;
        progress.tick(range.end - range.start);
        Ok(())
    };
    each_unit(image, stop, new_work, skip)?;
    Ok(Copied { written: copy.written.into_inner(), cloned: copy.cloned.into_inner() })
}

impl Copy<'_> {
    fn unit(&self, unit: Range<u64>, buffer: &mut [u8]) -> Result<Unit> {
        let parts = self.image.parts(unit.clone());
        let mut writer = self.sink.unit(unit.clone());
        let data = if self.never_shares.load(Ordering::Relaxed) {
            parts.iter().filter(|part| has_data(part)).map(|part| part.range.clone()).collect()
        } else {
            self.share(&parts, writer.as_mut())?
        };
        let data = self.rounded(data, &unit);
        let mut next = unit.start;
        for range in &data {
            self.zero(next..range.start, writer.as_mut(), &parts)?;
            self.data(range.clone(), writer.as_mut(), buffer)?;
            next = range.end;
        }
        self.zero(next..unit.end, writer.as_mut(), &parts)?;
        writer.finish()?;
        Ok(if parts.iter().any(has_data) { Unit::Filled } else { Unit::Empty })
    }

    /// Ranges in whole multiples of what the sink takes. What is shared is such multiples: they do not
    /// reach into it.
    fn rounded(&self, ranges: Vec<Range<u64>>, unit: &Range<u64>) -> Vec<Range<u64>> {
        let grain = self.sink.granularity();
        let mut data: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            let start = range.start - range.start % grain;
            let end = range.end.next_multiple_of(grain).min(unit.end);
            match data.last_mut() {
                Some(last) if start <= last.end => last.end = end,
                _ => data.push(start..end),
            }
        }
        data
    }

    /// Shares what can be shared, and returns the ranges with data that are left.
    fn share(&self, parts: &[Part<'_>], writer: &mut dyn UnitWriter) -> Result<Vec<Range<u64>>> {
        let grain = self.sink.granularity();
        let mut left: Vec<Range<u64>> = Vec::new();
        let mut leave = |range: Range<u64>| match left.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => left.push(range),
        };
        for Part { range, content } in parts {
            let (file, offset) = match content {
                Content::Hole => continue,
                Content::Data => {
                    leave(range.clone());
                    continue;
                }
                Content::Plain(file, offset) => (file, offset),
            };
            // Whole blocks of both files.
            let whole = range.start.next_multiple_of(grain)..range.end - range.end % grain;
            let by = whole.start - range.start;
            let shared = (offset + by).is_multiple_of(grain)
                && !whole.is_empty()
                && !self.never_shares.load(Ordering::Relaxed)
                && match writer.share(*file, offset + by, whole.clone())? {
                    Cloned::Yes => true,
                    Cloned::No => false,
                    Cloned::Never => {
                        self.never_shares.store(true, Ordering::Relaxed);
                        false
                    }
                };
            if shared {
                self.cloned.fetch_add(whole.end - whole.start, Ordering::Relaxed);
                self.progress.tick(whole.end - whole.start);
                leave(range.start..whole.start);
                leave(whole.end..range.end);
            } else {
                leave(range.clone());
            }
        }
        Ok(left)
    }

    /// Tells the sink of zeros: of the holes in a range, for what was shared is done with.
    fn zero(
        &self,
        range: Range<u64>,
        writer: &mut dyn UnitWriter,
        parts: &[Part<'_>],
    ) -> Result<()> {
        let first = parts.partition_point(|part| part.range.end <= range.start);
        let parts = parts.iter().skip(first).take_while(|part| part.range.start < range.end);
        for part in parts.filter(|part| matches!(part.content, Content::Hole)) {
            let hole = part.range.start.max(range.start)..part.range.end.min(range.end);
            if !hole.is_empty() {
                writer.zero(hole.clone())?;
                self.progress.tick(hole.end - hole.start);
            }
        }
        Ok(())
    }

    fn data(
        &self,
        range: Range<u64>,
        writer: &mut dyn UnitWriter,
        buffer: &mut [u8],
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            self.stop.check()?;
            // Up to the next whole piece.
            let piece = self.sink.piece().min(buffer.len() as u64);
            let len = (range.end - at).min(piece - at % piece);
            let bytes = buffer.get_mut(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
            let read = self.image.read_at(at, bytes);
            read.map_err(|e| unreadable(self.image, at + e.done as u64, &e.error))?;
            let written = writer.put(at, bytes)?;
            self.written.fetch_add(written, Ordering::Relaxed);
            self.progress.tick(len);
            at += len;
        }
        Ok(())
    }
}

fn has_data(part: &Part<'_>) -> bool {
    !matches!(part.content, Content::Hole)
}

/// An error that tells which range of the disk cannot be read, and what to do.
pub(super) fn unreadable(image: &DiskImage, at: u64, error: &Error) -> Error {
    let lost = image.lost();
    let Some(lost) = lost.filter(|lost| lost.bytes > 0) else {
        return Error::Usage(format!("byte {at} of the disk cannot be read: {error}"));
    };
    let found = lost.ranges.iter().find(|lost| lost.range.contains(&at));
    let (range, fault) =
        found.map_or((at..at + 1, Fault::Lost), |lost| (lost.range.clone(), lost.fault));
    let (start, end, bytes) = (range.start, range.end, lost.bytes);
    let (fault, error) = (fault.to_string(), error.to_string());
    let why = if error.contains(&fault) { error } else { format!("{fault} ({error})") };
    Error::Usage(format!(
        "bytes {start} to {end} of the disk are lost: {why}; {bytes} bytes are lost in \
         all: see `qcowfs map`; `--missing zero` restores the rest with zeros in their place"
    ))
}
