//! Reading a file through, for what a medium has lost shows in no other way.

use crate::error::{Error, Result};
use crate::layer::findings::Findings;
use crate::page_buffer::PageBuffer;
use crate::source::{AllocationState, Source};

const BUFFER: u64 = 1 << 20;
/// How much of a file is asked about at a time: its extents are held in memory.
const WINDOW: u64 = 1 << 30;

/// Reads all that is no hole. Whatever cannot be read is a finding, and passed over.
pub(super) fn read_data(file: &dyn Source, tick: &dyn Fn(u64), findings: &mut Findings) {
    let mut at = 0;
    while at < file.len() {
        let end = at.saturating_add(WINDOW).min(file.len());
        match file.allocation(at..end) {
            Ok(extents) => {
                for extent in extents.iter().filter(|e| e.state == AllocationState::Data) {
                    read_range(file, extent.range.start, extent.range.end, tick, findings);
                }
            }
            Err(e) => findings.error(&e),
        }
        // A huge disk is mostly a hole.
        at = file.next_data(end).map_or(end, |next| next.max(end));
    }
}

fn read_range(
    file: &dyn Source,
    start: u64,
    end: u64,
    tick: &dyn Fn(u64),
    findings: &mut Findings,
) {
    let mut buffer = PageBuffer::zeroed(usize::try_from(BUFFER.min(end - start)).unwrap_or(0));
    let mut at = start;
    while at < end {
        let len = (end - at).min(buffer.len() as u64);
        let part = usize::try_from(len).ok().and_then(|len| buffer.get_mut(..len));
        if let Err(e) = file.read_exact(at, part.unwrap_or_default()) {
            findings.error(&e);
        }
        tick(len);
        at += len.max(1);
    }
}

/// Reads every byte in order and hands them on, up to the first that cannot be read.
pub(super) fn read_all(
    file: &dyn Source,
    tick: &dyn Fn(u64),
    mut take: impl FnMut(&[u8]),
) -> Result<()> {
    let mut buffer = PageBuffer::zeroed(usize::try_from(BUFFER.min(file.len())).unwrap_or(0));
    let mut at = 0;
    while at < file.len() {
        let got = file.read_at(at, &mut buffer)?;
        let bytes = buffer.get(..got).unwrap_or_default();
        if bytes.is_empty() {
            let end = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(Error::io_at(file.path(), at, end));
        }
        take(bytes);
        tick(got as u64);
        at += got as u64;
    }
    Ok(())
}
