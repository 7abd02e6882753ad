//! A block device.
//!
//! What was on it before shows through every range that is not written, so zeros are written too,
//! or have the device discard what is there where it promises zeros for that. And it has no name
//! that could be held back: so nothing that makes a disk look like one is there until the end.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};

use super::sink::{Sink, UnitWriter};
use super::units::Stop;
use crate::error::{Error, Result};

/// Partition tables, volume labels and superblocks lie in as many bytes of the start, and some in
/// those of the end: the second partition table, RAID's and ZFS's labels.
const EDGE: u64 = 1 << 20;
/// Shorter zeros are written: asking the device takes longer.
const SHORT: u64 = 256 << 10;
/// Zeros that the device is asked for at a time: nobody can interrupt the kernel.
const PIECE: u64 = 1 << 30;
/// Bytes of a write of zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// The largest block of a device.
const BLOCK: u64 = 4096;

/// The ways to have zeros, best first.
const WAYS: [FallocateFlags; 2] = [
    // The device forgets what is there, if it reads as zeros then.
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
];

/// A device that is written to.
#[derive(Debug)]
pub(super) struct Device<'a> {
    file: &'a File,
    path: PathBuf,
    stop: &'a Stop,
    /// How many of [`WAYS`] the device has refused.
    refused: AtomicU8,
    /// What lies between the two edges.
    middle: Range<u64>,
    /// What the edges, which are zeros until the end, are to be then.
    edges: Mutex<Vec<Edge>>,
}

#[derive(Debug)]
struct Edge {
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Device<'a> {
    /// Clears the start of a device that is to hold a disk of `size` bytes, and the end of the disk.
    /// `stop` ends what takes long.
    pub(super) fn new(file: &'a File, path: PathBuf, size: u64, stop: &'a Stop) -> Result<Self> {
        let head = size.min(EDGE);
        let tail = size.saturating_sub(EDGE).next_multiple_of(BLOCK).clamp(head, size);
        let edges = [(0, head), (tail, size)].map(|(start, end)| Edge {
            start,
            bytes: vec![0; usize::try_from(end - start).unwrap_or(0)],
        });
        let (refused, edges) = (AtomicU8::new(0), Mutex::new(edges.into()));
        let device = Self { file, path, stop, refused, middle: head..tail, edges };
        device.write_edges()?;
        Ok(device)
    }

    /// Clears the edges once more, for what was written is not what it should be.
    pub(super) fn spoil(&self) -> Result<()> {
        self.edges.lock().iter_mut().for_each(|edge| edge.bytes.fill(0));
        self.write_edges()
    }

    fn write_edges(&self) -> Result<()> {
        let edges = self.edges.lock();
        edges.iter().try_for_each(|edge| self.write(edge.start, &edge.bytes))?;
        self.sync()
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|e| Error::io_at(&self.path, at, e))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, e))
    }

    /// Keeps what belongs to the edges.
    fn hold(&self, at: u64, bytes: &[u8]) {
        for edge in self.edges.lock().iter_mut() {
            let held = within(edge.start, &mut edge.bytes, at..at + bytes.len() as u64);
            let from = usize::try_from(edge.start.saturating_sub(at)).unwrap_or(usize::MAX);
            for (held, byte) in held.iter_mut().zip(bytes.get(from..).unwrap_or_default()) {
                *held = *byte;
            }
        }
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            self.stop.check()?;
            let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write(at, ZEROS.get(..len).unwrap_or_default())?;
            at += len as u64;
        }
        Ok(())
    }
}

impl Device<'_> {
    fn zero_piece(&self, range: Range<u64>) -> Result<()> {
        let whole = range.start.next_multiple_of(BLOCK)..range.end - range.end % BLOCK;
        if whole.is_empty() || whole.end - whole.start < SHORT {
            return self.write_zeros(range);
        }
        let refused = usize::from(self.refused.load(Ordering::Relaxed));
        for (way, flags) in WAYS.iter().enumerate().skip(refused) {
            if fallocate(self.file, *flags, whole.start, whole.end - whole.start).is_ok() {
                self.write_zeros(range.start..whole.start)?;
                return self.write_zeros(whole.end..range.end);
            }
            let refused = u8::try_from(way + 1).unwrap_or(u8::MAX);
            self.refused.fetch_max(refused, Ordering::Relaxed);
        }
        self.write_zeros(range)
    }
}

impl Sink for Device<'_> {
    fn granularity(&self) -> u64 {
        BLOCK
    }

    fn unit(&self, _: Range<u64>) -> Box<dyn UnitWriter + '_> {
        Box::new(DeviceUnit { sink: self })
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        // The edges are zeros already.
        let (mut at, last) = (range.start.max(self.middle.start), range.end.min(self.middle.end));
        while at < last {
            self.stop.check()?;
            let end = (at - at % PIECE + PIECE).min(last);
            self.zero_piece(at..end)?;
            at = end;
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.sync()?;
        self.write_edges()
    }
}

/// The part of `bytes`, which lie at `start`, that is in a range.
fn within(start: u64, bytes: &mut [u8], range: Range<u64>) -> &mut [u8] {
    let of = |place: u64| usize::try_from(place.saturating_sub(start)).unwrap_or(usize::MAX);
    let end = of(range.end).min(bytes.len());
    bytes.get_mut(of(range.start).min(end)..end).unwrap_or_default()
}

struct DeviceUnit<'a> {
    sink: &'a Device<'a>,
}

impl UnitWriter for DeviceUnit<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<u64> {
        let Device { middle, .. } = self.sink;
        let end = at + bytes.len() as u64;
        if at < middle.start || middle.end < end {
            self.sink.hold(at, bytes);
        }
        let (start, end) = (at.max(middle.start), end.min(middle.end));
        let of = |place: u64| usize::try_from(place - at).unwrap_or(usize::MAX);
        if start < end {
            self.sink.write(start, bytes.get(of(start)..of(end)).unwrap_or_default())?;
        }
        Ok(bytes.len() as u64)
    }

    fn zero(&mut self, range: Range<u64>) -> Result<()> {
        self.sink.zero(range)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_come_in_pieces_and_end_when_it_is_to_stop() {
        let file = tempfile::tempfile().unwrap();
        let size = 2 * PIECE + 5 * EDGE;
        file.set_len(size).unwrap();
        let stop = Stop::default();
        let device = Device::new(&file, "it".into(), size, &stop).unwrap();
        let places = [EDGE + 1, PIECE - 1, PIECE, 2 * PIECE, size - EDGE - 1];
        let mark = || places.iter().try_for_each(|at| file.write_all_at(b"x", *at)).unwrap();
        let seen = || {
            let mut byte = [0];
            places.map(|at| file.read_exact_at(&mut byte, at).map(|()| byte[0]).unwrap())
        };
        mark();
        device.zero(0..size - EDGE - 1).unwrap();
        assert_eq!(seen(), [0, 0, 0, 0, b'x']);
        mark();
        stop.flag().store(true, Ordering::Relaxed);
        assert!(device.zero(0..size).is_err());
        assert_eq!(seen(), [b'x'; 5]);
    }

    #[test]
    fn both_ends_are_zeros_until_it_is_finished_and_again_once_it_is_spoiled() {
        // Large, of hardly more than the edges, of less, of next to nothing; not all of them blocks.
        for size in [5 * EDGE, 2 * EDGE + 5, 2 * EDGE - 512, EDGE + 1, EDGE, 700] {
            let file = tempfile::tempfile().unwrap();
            let len = usize::try_from(size).unwrap();
            file.write_all_at(&vec![0xa5; len + 9], 0).unwrap();
            let read = || {
                let mut seen = vec![0; len + 9];
                file.read_exact_at(&mut seen, 0).unwrap();
                assert_eq!(seen.split_off(len), [0xa5; 9], "{size}: behind the disk");
                let tail = seen.split_off(len - len.min(1020 << 10));
                (seen.get(..len.min(1 << 20)).map(<[u8]>::to_vec).unwrap_or_default(), seen, tail)
            };
            let stop = Stop::default();
            let device = Device::new(&file, "it".into(), size, &stop).unwrap();
            let wanted: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap() | 1).collect();
            // The pieces do not end where the edges do.
            let mut unit = device.unit(0..size);
            for (n, piece) in (0..).zip(wanted.chunks(300_000)) {
                unit.put(n * 300_000, piece).unwrap();
            }
            unit.finish().unwrap();
            let (head, _, tail) = read();
            assert!(head.iter().chain(&tail).all(|byte| *byte == 0), "{size}: it looks whole");
            device.finish().unwrap();
            let (_, seen, tail) = read();
            assert!([seen, tail].concat() == wanted, "{size}: not what was written");
            device.spoil().unwrap();
            let (head, _, tail) = read();
            assert!(head.iter().chain(&tail).all(|byte| *byte == 0), "{size}: it looks whole");
        }
    }
}
