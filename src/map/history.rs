//! What one region of one trunk reads as, at every rank: a two-level multiversion B-tree.
//!
//! A version is a rank in the trunk. Each page holds what a stretch of the region says over a run
//! of versions; a [`Directory`] lists the pages of a run of versions in ascending order. The first
//! directory starts at the first rank that changed anything: before it, everything is the bottom.
//!
//! Laying a layer adds at most two entries per extent (the extent, and what shows to the right of
//! it), plus the copies made when a page is full. Pages start at most half full, so a copied entry
//! is paid for by an added one: memory stays linear in the extents. So that the same holds for the
//! directories, pages grow with the number of pages (see [`capacity`]): a directory of `p` pages
//! is copied at most once per `p / 2` added entries.

use std::ops::Range;

use super::ALLOCATION;
use super::page::Page;
use super::said::Said;

/// Entries that a page may hold where there are few pages.
pub(super) const PAGE_ENTRIES: usize = 64;

/// Entries that each of `pages` pages may hold.
pub(super) fn capacity(pages: usize) -> usize {
    pages.max(PAGE_ENTRIES)
}

/// A page by its index, and where it starts (bytes within the region). It ends where the next one
/// starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageRef {
    pub(super) start: u32,
    pub(super) page: u32,
}

/// The pages of version `from` and of those after it, up to the next directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) from: u32,
    pub(super) pages: Box<[PageRef]>,
}

/// All versions of a region, of which the first [`Self::built`] ranks are laid.
#[derive(Debug, Clone)]
pub(super) struct RegionHistory {
    pub(super) len: u32,
    pub(super) bottom: Said,
    pub(super) built: u32,
    pub(super) directories: Vec<Directory>,
    pub(super) pages: Vec<Page>,
}

impl RegionHistory {
    /// A region of `len` bytes, of which nothing is known but what lies below rank 0.
    pub(super) fn new(len: u32, bottom: Said) -> Self {
        Self { len, bottom, built: 0, directories: Vec::new(), pages: Vec::new() }
    }

    /// How many ranks are laid.
    pub(super) fn built(&self) -> u32 {
        self.built
    }

    /// Bytes of memory, with what the allocator adds.
    pub(super) fn bytes(&self) -> usize {
        let listed: usize = self.directories.iter().map(|directory| directory.pages.len()).sum();
        let unused = self.pages.capacity() - self.pages.len();
        size_of::<Self>()
            + self.directories.capacity() * size_of::<Directory>()
            + self.directories.len() * ALLOCATION
            + listed * size_of::<PageRef>()
            + self.pages.iter().map(Page::bytes).sum::<usize>()
            + unused * size_of::<Page>()
    }

    /// What `rank` (below [`Self::built`]) says of `range`, which is not empty: ascending,
    /// contiguous.
    pub(super) fn pieces(
        &self,
        rank: u32,
        range: &Range<u32>,
        mut out: impl FnMut(Range<u32>, Said),
    ) {
        let next = self.directories.partition_point(|directory| directory.from <= rank);
        let directory = next.checked_sub(1).and_then(|last| self.directories.get(last));
        let Some(directory) = directory else {
            return out(range.clone(), self.bottom);
        };
        let next = directory.pages.partition_point(|page| page.start <= range.start);
        let pages = directory.pages.get(next.saturating_sub(1)..).unwrap_or_default();
        for (page, held) in self.listed(pages) {
            if held.start >= range.end {
                break;
            }
            let part = held.start.max(range.start)..held.end.min(range.end);
            page.pieces(rank, part, &mut out);
        }
    }

    /// The last pages of a directory with the ranges that they hold.
    pub(super) fn listed<'a>(
        &'a self,
        pages: &'a [PageRef],
    ) -> impl Iterator<Item = (&'a Page, Range<u32>)> {
        let ends = pages.iter().skip(1).map(|next| next.start).chain([self.len]);
        pages.iter().zip(ends).filter_map(|(at, end)| {
            let page = self.pages.get(usize::try_from(at.page).ok()?)?;
            Some((page, at.start..end))
        })
    }
}
