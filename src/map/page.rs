//! A page: what a stretch of a region reads as, over a run of versions.

use std::ops::Range;

use super::overlay::Live;
use super::said::{Content, Said};

/// Still alive.
const FOREVER: u32 = u32::MAX;

/// From `start` on, up to the next entry alive in the same version, versions `from..to` say
/// `content` of the layer of rank `layer`.
#[derive(Debug, Clone, Copy)]
struct Entry {
    content: Content,
    start: u32,
    from: u32,
    to: u32,
    layer: u32,
}

const _: () = assert!(size_of::<Entry>() == 24, "memory per extent hangs on this");

impl Entry {
    fn is_alive_at(&self, version: u32) -> bool {
        self.from <= version && version < self.to
    }

    fn live(&self) -> Live {
        Live { start: self.start, said: Said { layer: self.layer, content: self.content } }
    }
}

/// Entries from one that [`Page::steps`] knows to the next.
const STRIDE: usize = 8;

/// Entries by start, then by version. In every version of the page's life one of them starts
/// where the page starts.
#[derive(Debug, Clone)]
pub(super) struct Page {
    entries: Vec<Entry>,
    /// The start of every [`STRIDE`]th entry, of the first one on. In a page of the usual size they
    /// share a line of the processor's cache, where the entries take twenty, and each line that is
    /// not there yet costs as much as all else of a look-up.
    steps: Box<[u32]>,
}

impl Page {
    /// A page whose life starts at `version`.
    pub(super) fn new(version: u32, live: &[Live]) -> Self {
        let entries: Vec<Entry> = live.iter().map(|live| born(version, live)).collect();
        Self { steps: steps(&entries), entries }
    }

    /// Entries of all versions.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.entries.capacity() * size_of::<Entry>()
            + size_of_val(&*self.steps)
            + 2 * super::ALLOCATION
    }

    /// What the newest version says, ascending.
    pub(super) fn newest(&self) -> Vec<Live> {
        self.entries.iter().filter(|entry| entry.to == FOREVER).map(Entry::live).collect()
    }

    /// From `version` on the page says `new`, where it said `old`.
    pub(super) fn change(&mut self, version: u32, old: &[Live], new: &[Live]) {
        for entry in self.entries.iter_mut().filter(|entry| entry.to == FOREVER) {
            if !holds(new, &entry.live()) {
                entry.to = version;
            }
        }
        // Doubling would leave a quarter of all memory unused; pages are small enough to be
        // copied a little more often.
        let more = births(old, new).count();
        let len = self.entries.len();
        if len + more > self.entries.capacity() {
            self.entries.reserve_exact(more + (len + more) / 8);
        }
        self.entries.extend(births(old, new).map(|live| born(version, live)));
        self.entries.sort_unstable_by_key(|entry| (entry.start, entry.from));
        self.steps = steps(&self.entries);
    }

    /// Nothing is ever added again: gives unused memory back.
    pub(super) fn close(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// What `version` says of `range`, which lies within the page: ascending, contiguous.
    pub(super) fn pieces(
        &self,
        version: u32,
        range: Range<u32>,
        out: &mut impl FnMut(Range<u32>, Said),
    ) {
        let (before, after) = self.entries.split_at(self.started_at(range.start));
        let is_alive = |entry: &&Entry| entry.is_alive_at(version);
        let mut current = before.iter().rev().find(is_alive).map(Entry::live);
        for entry in after.iter().take_while(|entry| entry.start < range.end).filter(is_alive) {
            emit(current, &range, entry.start, out);
            current = Some(entry.live());
        }
        emit(current, &range, range.end, out);
    }

    /// How many entries start at `at` or before.
    fn started_at(&self, at: u32) -> usize {
        let step = self.steps.partition_point(|start| *start <= at).saturating_sub(1);
        let from = (step * STRIDE).min(self.entries.len());
        let near = self.entries.get(from..).unwrap_or_default();
        from + near.iter().take(STRIDE).take_while(|entry| entry.start <= at).count()
    }
}

fn steps(entries: &[Entry]) -> Box<[u32]> {
    entries.iter().step_by(STRIDE).map(|entry| entry.start).collect()
}

/// Hands out the part of `live`, which ends at `end`, that lies in `range`.
fn emit(live: Option<Live>, range: &Range<u32>, end: u32, out: &mut impl FnMut(Range<u32>, Said)) {
    if let Some(live) = live {
        let start = live.start.max(range.start);
        out(start..end, live.said.advance(start - live.start));
    }
}

fn born(version: u32, live: &Live) -> Entry {
    let Live { start, said: Said { layer, content } } = *live;
    Entry { content, start, from: version, to: FOREVER, layer }
}

/// The entries that it takes to say `new` where `old` was said.
pub(super) fn births<'a>(old: &'a [Live], new: &'a [Live]) -> impl Iterator<Item = &'a Live> {
    new.iter().filter(|live| !holds(old, live))
}

fn holds(list: &[Live], live: &Live) -> bool {
    let at = list.partition_point(|other| other.start < live.start);
    list.get(at) == Some(live)
}
