//! Laying the next rank's words onto a region's history.

use std::ops::Range;

use super::history::{Directory, PageRef, RegionHistory, capacity};
use super::overlay::{Laid, Live, LiveList, overlay};
use super::page::{Page, births};

/// What becomes of one page.
struct Step {
    at: PageRef,
    old: Vec<Live>,
    new: Vec<Live>,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing changes.
    Stays,
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
        fill_thin_pages(&mut steps);
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

    fn plan(&self, newest: &Directory, laid: &[Laid]) -> Vec<Step> {
        let capacity = capacity(newest.pages.len());
        let pages = newest.pages.iter().zip(self.listed(&newest.pages));
        pages
            .map(|(at, (page, range))| {
                let parts = overlapping(laid, &range);
                let old = if parts.is_empty() { Vec::new() } else { page.newest() };
                let new = overlay(&old, range, parts);
                if parts.is_empty() || old == new {
                    return Step { at: *at, old: Vec::new(), new: Vec::new(), fate: Fate::Stays };
                }
                let full = page.len() + births(&old, &new).count() > capacity;
                let fate = if full { Fate::Moves } else { Fate::Changes };
                Step { at: *at, old, new, fate }
            })
            .collect()
    }

    fn perform(&mut self, version: u32, steps: Vec<Step>) {
        let half = capacity(steps.len()) / 2;
        let moves = steps.iter().any(|step| step.fate == Fate::Moves);
        let mut listed = Vec::new();
        let mut moving = LiveList::default();
        for step in steps {
            let page = usize::try_from(step.at.page).ok().and_then(|at| self.pages.get_mut(at));
            if step.fate == Fate::Moves {
                step.new.into_iter().for_each(|live| moving.push(live));
                page.map(Page::close);
                continue;
            }
            if step.fate == Fate::Changes
                && let Some(page) = page
            {
                page.change(version, &step.old, &step.new);
            }
            if moves {
                let moved = std::mem::take(&mut moving).into_vec();
                listed.extend(self.fresh_pages(version, &moved, half));
                listed.push(step.at);
            }
        }
        if moves {
            listed.extend(self.fresh_pages(version, &moving.into_vec(), half));
            self.directories.push(Directory { from: version, pages: listed.into() });
        }
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

/// A page left with little is put together with a neighbour that changes too. One whose
/// neighbours stay is left alone: what it costs was paid for when it was filled.
fn fill_thin_pages(steps: &mut [Step]) {
    let thin = capacity(steps.len()) / 8;
    for at in 0..steps.len() {
        let is_thin = |step: &Step| step.fate != Fate::Stays && step.new.len() < thin;
        if !steps.get(at).is_some_and(is_thin) {
            continue;
        }
        let neighbours = [at.checked_sub(1), Some(at + 1)];
        let changing = neighbours
            .into_iter()
            .flatten()
            .find(|&other| steps.get(other).is_some_and(|neighbour| neighbour.fate != Fate::Stays));
        for moving in changing.map(|other| [at, other]).into_iter().flatten() {
            if let Some(step) = steps.get_mut(moving) {
                step.fate = Fate::Moves;
            }
        }
    }
}
