//! Laying the next rank's words onto a region's history.

use std::mem;
use std::ops::Range;

use super::history::{Directory, PageRef, RegionHistory, capacity};
use super::overlay::{Laid, Live, LiveList, overlay};
use super::page::{Page, births};

/// What becomes of one page that the words reach.
struct Step {
    /// Its place in the directory.
    index: usize,
    old: Vec<Live>,
    new: Vec<Live>,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The change fits in.
    Changes,
    /// Its newest version moves to fresh pages, together with that of its neighbours which do.
    Moves,
}

impl RegionHistory {
    /// Lays the words of the layer of rank [`Self::built`]: ascending, without overlap, all
    /// within the region.
    pub(super) fn lay(&mut self, laid: &[Laid]) {
        let version = self.built;
        self.built += 1;
        if laid.is_empty() {
            return;
        }
        let Some(newest) = self.directories.last() else {
            return self.lay_first(version, laid);
        };
        let mut steps = self.plan(newest, laid);
        fill_thin_pages(&mut steps, newest.pages.len());
        self.perform(version, steps);
    }

    fn lay_first(&mut self, version: u32, laid: &[Laid]) {
        let old = [Live { start: 0, said: self.bottom }];
        let new = overlay(&old, 0..self.len, laid);
        if new != old {
            let pages = self.fresh_pages(version, &new, capacity(0) / 2);
            self.directories.push(Directory { from: version, pages: pages.into() });
        }
    }

    /// The pages that change. An increment reaches few of many: the others are not looked at.
    fn plan(&self, newest: &Directory, laid: &[Laid]) -> Vec<Step> {
        let capacity = capacity(newest.pages.len());
        let mut steps = Vec::new();
        let mut from = 0;
        while let Some(index) = next_reached(newest, from, laid) {
            from = index + 1;
            let pages = newest.pages.get(index..).unwrap_or_default();
            let Some((page, range)) = self.listed(pages).next() else { break };
            let old = page.newest();
            let new = overlay(&old, range.clone(), overlapping(laid, &range));
            if old != new {
                let full = page.len() + births(&old, &new).count() > capacity;
                let fate = if full { Fate::Moves } else { Fate::Changes };
                steps.push(Step { index, old, new, fate });
            }
        }
        steps
    }

    fn perform(&mut self, version: u32, steps: Vec<Step>) {
        let Some(newest) = self.directories.last() else { return };
        let half = capacity(newest.pages.len()) / 2;
        let moves = steps.iter().any(|step| step.fate == Fate::Moves);
        // Only where pages move there is another list of them.
        let earlier = if moves { newest.pages.clone() } else { Box::default() };
        let mut listed = Vec::with_capacity(earlier.len());
        let mut moving = LiveList::default();
        let mut next = 0;
        for step in steps {
            let stay = earlier.get(next..step.index).unwrap_or_default();
            if !stay.is_empty() {
                listed.extend(self.fresh_pages(version, &mem::take(&mut moving).into_vec(), half));
                listed.extend(stay);
            }
            next = step.index + 1;
            if step.fate == Fate::Moves {
                if let Some(page) = self.newest_page(step.index) {
                    page.close();
                }
                step.new.into_iter().for_each(|live| moving.push(live));
                continue;
            }
            if let Some(page) = self.newest_page(step.index) {
                page.change(version, &step.old, &step.new);
            }
            if moves {
                listed.extend(self.fresh_pages(version, &mem::take(&mut moving).into_vec(), half));
                listed.extend(earlier.get(step.index));
            }
        }
        if moves {
            listed.extend(self.fresh_pages(version, &moving.into_vec(), half));
            listed.extend(earlier.get(next..).unwrap_or_default());
            self.directories.push(Directory { from: version, pages: listed.into() });
        }
    }

    /// A page of the newest directory, by its place there.
    fn newest_page(&mut self, index: usize) -> Option<&mut Page> {
        let at = self.directories.last()?.pages.get(index)?;
        self.pages.get_mut(usize::try_from(at.page).ok()?)
    }

    /// Spreads `live` evenly over new pages of at most `most` entries each.
    fn fresh_pages(&mut self, version: u32, live: &[Live], most: usize) -> Vec<PageRef> {
        let pages = live.len().div_ceil(most).max(1);
        let mut made = Vec::with_capacity(pages);
        for chunk in live.chunks(live.len().div_ceil(pages).max(1)) {
            if let Some(first) = chunk.first() {
                made.push(PageRef { start: first.start, page: self.next_page() });
                self.pages.push(Page::new(version, chunk));
            }
        }
        made
    }

    #[expect(clippy::cast_possible_truncation, reason = "2^32 pages fill no machine's memory")]
    fn next_page(&self) -> u32 {
        self.pages.len() as u32
    }
}

/// Those of `laid` that reach into `range`.
fn overlapping<'a>(laid: &'a [Laid], range: &Range<u32>) -> &'a [Laid] {
    let first = laid.partition_point(|part| part.range.end <= range.start);
    let end = laid.partition_point(|part| part.range.start < range.end);
    laid.get(first..end).unwrap_or_default()
}

/// The first page, at or after `from` in a directory, that one of `laid` reaches into.
fn next_reached(directory: &Directory, from: usize, laid: &[Laid]) -> Option<usize> {
    let start = directory.pages.get(from)?.start;
    let next = laid.get(laid.partition_point(|part| part.range.end <= start))?;
    let after = directory.pages.partition_point(|page| page.start <= next.range.start);
    Some(after.saturating_sub(1).max(from))
}

/// A page left with little is put together with a neighbour that changes too. One whose
/// neighbours stay is left alone: what it costs was paid for when it was filled.
fn fill_thin_pages(steps: &mut [Step], pages: usize) {
    let thin = capacity(pages) / 8;
    for at in 0..steps.len() {
        let Some(step) = steps.get(at).filter(|step| step.new.len() < thin) else { continue };
        let index = step.index;
        let beside = |other: usize| {
            let neighbour = steps.get(other)?;
            (neighbour.index.abs_diff(index) == 1).then_some(other)
        };
        let changing = at.checked_sub(1).and_then(beside).or_else(|| beside(at + 1));
        for moving in changing.map(|other| [at, other]).into_iter().flatten() {
            if let Some(step) = steps.get_mut(moving) {
                step.fate = Fate::Moves;
            }
        }
    }
}
