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

/// Partition tables, volume labels and superblocks lie in here.
const HEAD: u64 = 1 << 20;
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
    /// What the first bytes are to be in the end.
    head: Mutex<Vec<u8>>,
}

impl<'a> Device<'a> {
    /// Clears the start of a device that is to hold a disk of `size` bytes. `stop` ends what takes
    /// long.
    pub(super) fn new(file: &'a File, path: PathBuf, size: u64, stop: &'a Stop) -> Result<Self> {
        let head = vec![0; usize::try_from(size.min(HEAD)).unwrap_or(0)];
        let device = Self { file, path, stop, refused: AtomicU8::new(0), head: Mutex::default() };
        device.write(0, &head)?;
        device.sync()?;
        *device.head.lock() = head;
        Ok(device)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|e| Error::io_at(&self.path, at, e))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, e))
    }

    /// Takes what belongs to the head, and returns where the rest starts.
    fn hold(&self, at: u64, bytes: &[u8]) -> usize {
        let mut head = self.head.lock();
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let held = head.get_mut(from..).unwrap_or_default();
        let len = held.len().min(bytes.len());
        if let (Some(held), Some(bytes)) = (held.get_mut(..len), bytes.get(..len)) {
            held.copy_from_slice(bytes);
        }
        len
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
        // The head is zeros already.
        let mut at = range.start.max(self.head.lock().len() as u64);
        while at < range.end {
            self.stop.check()?;
            let end = (at - at % PIECE + PIECE).min(range.end);
            self.zero_piece(at..end)?;
            at = end;
        }
        Ok(())
    }

    fn finish(&self) -> Result<()> {
        self.sync()?;
        let head = std::mem::take(&mut *self.head.lock());
        self.write(0, &head)?;
        self.sync()
    }
}

struct DeviceUnit<'a> {
    sink: &'a Device<'a>,
}

impl UnitWriter for DeviceUnit<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<u64> {
        let held = self.sink.hold(at, bytes);
        let rest = bytes.get(held..).unwrap_or_default();
        self.sink.write(at + held as u64, rest)?;
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
        let size = 2 * PIECE + 5 * HEAD;
        file.set_len(size).unwrap();
        let stop = Stop::default();
        let device = Device::new(&file, "it".into(), size, &stop).unwrap();
        let places = [HEAD + 1, PIECE - 1, PIECE, 2 * PIECE, size - 1];
        let mark = || places.iter().try_for_each(|at| file.write_all_at(b"x", *at)).unwrap();
        let seen = || {
            let mut byte = [0];
            places.map(|at| file.read_exact_at(&mut byte, at).map(|()| byte[0]).unwrap())
        };
        mark();
        device.zero(0..size - 1).unwrap();
        assert_eq!(seen(), [0, 0, 0, 0, b'x']);
        mark();
        stop.flag().store(true, Ordering::Relaxed);
        assert!(device.zero(0..size).is_err());
        assert_eq!(seen(), [b'x'; 5]);
    }
}
