//! Contents of files, those of a mount above all: hashes, comparisons, data and holes.

use std::fmt::Write as _;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::watch::within;

/// Seconds that reading one whole disk may take.
const LIMIT: u64 = 300;

const CHUNK: usize = 1 << 20;

/// The file's SHA-256, in hex. Panics with the offset where it cannot be read.
pub(crate) fn sha256(path: &Path) -> String {
    let owned = path.to_path_buf();
    within(LIMIT, &format!("hashing {path:?}"), move || {
        let mut hash = Sha256::new();
        each_chunk(&owned, |chunk| hash.update(chunk));
        hex(&hash.finalize())
    })
}

/// The SHA-256 of bytes, in hex.
pub(crate) fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

fn each_chunk(path: &Path, mut take: impl FnMut(&[u8])) {
    let file = File::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let got = file.read_at(&mut buffer, at).unwrap_or_else(|e| panic!("{path:?} at {at}: {e}"));
        if got == 0 {
            return;
        }
        take(&buffer[..got]);
        at += got as u64;
    }
}

/// The whole file.
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    let owned = path.to_path_buf();
    within(LIMIT, &format!("reading {path:?}"), move || {
        let mut all = Vec::new();
        each_chunk(&owned, |chunk| all.extend_from_slice(chunk));
        all
    })
}

/// The bytes of a range, which must all be there.
pub(crate) fn range(path: &Path, from: u64, len: usize) -> Vec<u8> {
    let owned = path.to_path_buf();
    within(LIMIT, &format!("reading {path:?} at {from}"), move || {
        let mut buffer = vec![0; len];
        let file = File::open(&owned).unwrap_or_else(|e| panic!("{owned:?}: {e}"));
        let read = file.read_exact_at(&mut buffer, from);
        read.unwrap_or_else(|e| panic!("{owned:?} at {from}+{len}: {e}"));
        buffer
    })
}

/// Panics with the first byte that differs.
pub(crate) fn must_equal(what: &str, seen: &[u8], wanted: &[u8]) {
    assert_eq!(seen.len(), wanted.len(), "{what}: size");
    if seen != wanted {
        let at = seen.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or(0);
        panic!("{what}: byte {at} is {}, not {}", seen[at], wanted[at]);
    }
}

/// The file's data ranges, as `SEEK_DATA` and `SEEK_HOLE` give them, holes between. Panics
/// when the answers go backwards, overlap or do not cover the file.
pub(crate) fn data_ranges(path: &Path) -> Vec<Range<u64>> {
    let owned = path.to_path_buf();
    within(LIMIT, &format!("seeking in {path:?}"), move || {
        let file = File::open(&owned).unwrap_or_else(|e| panic!("{owned:?}: {e}"));
        let size = file.metadata().expect("its size").len();
        let mut found = Vec::new();
        let mut at = 0;
        while at < size {
            let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(data) => data,
                // No data from here on.
                Err(Errno::NXIO) => break,
                Err(e) => panic!("{owned:?}: SEEK_DATA from {at}: {e}"),
            };
            let hole = rustix::fs::seek(&file, SeekFrom::Hole(data))
                .unwrap_or_else(|e| panic!("{owned:?}: SEEK_HOLE from {data}: {e}"));
            assert!(at <= data && data < hole && hole <= size, "{owned:?}: {at} {data} {hole}");
            // In the middle of a data range and of a hole the answers must be the same.
            let middle = data.midpoint(hole);
            assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(middle)), Ok(middle), "{owned:?}");
            assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(middle)), Ok(hole), "{owned:?}");
            if at < data {
                let middle = at.midpoint(data);
                assert_eq!(rustix::fs::seek(&file, SeekFrom::Hole(middle)), Ok(middle));
                assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(middle)), Ok(data));
            }
            found.push(data..hole);
            at = hole;
        }
        let end = rustix::fs::seek(&file, SeekFrom::Data(size));
        assert_eq!(end, Err(Errno::NXIO), "{owned:?}: SEEK_DATA at the end");
        found
    })
}

/// Panics unless everything outside of `data` is zero in `content`.
pub(crate) fn holes_must_be_zero(what: &str, content: &[u8], data: &[Range<u64>]) {
    let end = content.len() as u64;
    let starts = std::iter::once(0).chain(data.iter().map(|r| r.end));
    let ends = data.iter().map(|r| r.start).chain(std::iter::once(end));
    for (from, to) in starts.zip(ends) {
        let hole = &content[index(from)..index(to)];
        if let Some(at) = hole.iter().position(|b| *b != 0) {
            panic!(
                "{what}: byte {} is not zero, but lies in the hole {from}..{to}",
                from + at as u64
            );
        }
    }
}

/// An offset as an index.
pub(crate) fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset that fits into memory")
}
