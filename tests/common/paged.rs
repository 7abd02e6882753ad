//! A disk read page by page, each page with an outcome of its own.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::Advice;

use super::content::index;
use super::watch::within;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Seconds that a disk may take.
const LIMIT: u64 = 120;

/// How a disk is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Buffered,
    Direct,
}

pub(crate) const BOTH: [How; 2] = [How::Buffered, How::Direct];

/// Has the kernel forget what it keeps of a file.
pub(crate) fn forget(path: &Path) {
    let owned = path.to_path_buf();
    within(LIMIT, &format!("{path:?} out of the cache"), move || {
        let file = File::open(&owned).unwrap_or_else(|e| panic!("{owned:?}: {e}"));
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("posix_fadvise");
    });
}

/// Opens a disk so that each read is a question to the daemon, or after it was forgotten.
pub(crate) fn open(path: &Path, how: How) -> File {
    if how == How::Buffered {
        forget(path);
    }
    let owned = path.to_path_buf();
    within(LIMIT, &format!("opening {path:?}"), move || {
        let mut options = OpenOptions::new();
        if how == How::Direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options.read(true).open(&owned).unwrap_or_else(|e| panic!("{owned:?}: {e}"))
    })
}

/// One page, or the errno.
pub(crate) fn page(file: &File, number: usize) -> Result<Vec<u8>, i32> {
    // O_DIRECT needs an aligned buffer.
    let mut buffer = vec![0; 2 * PAGE];
    let start = buffer.as_ptr().align_offset(PAGE);
    let got = file.read_at(&mut buffer[start..start + PAGE], (number * PAGE) as u64);
    let got = got.map_err(|e| e.raw_os_error().expect("an errno"))?;
    assert_eq!(got, PAGE, "page {number} is cut");
    Ok(buffer[start..start + PAGE].to_vec())
}

/// The outcomes of these pages of a disk.
pub(crate) fn pages(
    path: &Path,
    how: How,
    numbers: Vec<usize>,
) -> Vec<(usize, Result<Vec<u8>, i32>)> {
    let file = open(path, how);
    within(LIMIT, &format!("reading {path:?}"), move || {
        numbers.into_iter().map(|number| (number, page(&file, number))).collect()
    })
}

/// Panics unless those of `wanted`'s pages that are `bad` give EIO, and all others these bytes. Of
/// many bad ones only some are read. Returns how many were bad.
pub(crate) fn must_read(
    path: &Path,
    how: How,
    wanted: &[u8],
    bad: impl Fn(usize) -> bool,
) -> usize {
    let all = 0..wanted.len() / PAGE;
    let count = all.clone().filter(|page| bad(*page)).count();
    let step = count.div_ceil(40).max(1);
    let mut seen = 0;
    let mut is_read = |page: &usize| {
        seen += usize::from(bad(*page));
        !bad(*page) || seen % step == 0
    };
    let numbers: Vec<_> = all.filter(|page| is_read(page)).collect();
    for (number, outcome) in pages(path, how, numbers) {
        let what = format!("{path:?}, {how:?}, page {number}");
        let bytes = &wanted[number * PAGE..(number + 1) * PAGE];
        match outcome {
            Ok(seen) => {
                assert!(!bad(number), "{what} was read, but its bytes cannot be had");
                assert!(seen == bytes, "{what}: other bytes");
            }
            Err(errno) => assert!(bad(number) && errno == libc::EIO, "{what}: errno {errno}"),
        }
    }
    count
}

/// Panics unless all is right, in both ways.
pub(crate) fn must_be_right(path: &Path, wanted: &[u8]) {
    for how in BOTH {
        must_read(path, how, wanted, |_| false);
    }
}

/// Page of an offset.
pub(crate) fn page_of(offset: u64) -> usize {
    index(offset) / PAGE
}
