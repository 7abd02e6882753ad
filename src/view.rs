//! Temporary: an image in memory, with a hole and an unreadable range.

use crate::error::{Error, Result};

const MIB: u64 = 1 << 20;

/// A disk.
#[derive(Debug)]
pub struct DiskImage;

/// Why a read stopped.
#[derive(Debug)]
pub struct ReadError {
    /// Bytes delivered before the fault.
    pub done: usize,
    /// The fault.
    pub error: Error,
}

impl DiskImage {
    /// 16 MiB: 0..4 data, 4..8 hole, 8..16 data with a fault at 12 MiB .. 12 MiB + 4 KiB.
    pub fn size(&self) -> u64 {
        16 * MIB
    }

    /// Reads.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        for (done, byte) in buf.iter_mut().enumerate() {
            let at = offset + done as u64;
            if at >= self.size() {
                return Ok(done);
            }
            if (12 * MIB..12 * MIB + 4096).contains(&at) {
                let error = Error::Corrupt {
                    file: "vm1/sda.qcow2".into(),
                    offset: at,
                    what: "a test fault".to_owned(),
                };
                return Err(ReadError { done, error });
            }
            *byte = if (4 * MIB..8 * MIB).contains(&at) { 0 } else { at.to_le_bytes()[1] | 1 };
        }
        Ok(buf.len())
    }

    /// Next data.
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        Ok(match offset {
            o if o >= 16 * MIB => None,
            o if (4 * MIB..8 * MIB).contains(&o) => Some(8 * MIB),
            o => Some(o),
        })
    }

    /// Next hole.
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        Ok(match offset {
            o if o >= 16 * MIB => None,
            o if o < 4 * MIB => Some(4 * MIB),
            o if o < 8 * MIB => Some(o),
            _ => Some(16 * MIB),
        })
    }
}
