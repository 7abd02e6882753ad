//! One version of a part of a region, and how a layer's words are laid over it.

use std::ops::Range;

use super::said::Said;

/// From `start` (bytes within the region) on, up to the next one, a reader gets `said`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) start: u32,
    pub(super) said: Said,
}

/// A range (bytes within the region, not empty) about which a layer says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Laid {
    pub(super) range: Range<u32>,
    pub(super) said: Said,
}

/// Ascending, and the fewest that say it.
#[derive(Debug, Default)]
pub(super) struct LiveList(Vec<Live>);

impl LiveList {
    /// Appends; what only goes on with the last one is not needed.
    pub(super) fn push(&mut self, next: Live) {
        match self.0.last() {
            Some(last) if last.said.goes_on(next.start - last.start, next.said) => {}
            _ => self.0.push(next),
        }
    }

    pub(super) fn into_vec(self) -> Vec<Live> {
        self.0
    }
}

/// Lays `laid` over `live`; both are ascending. `live` covers `range`, and what is laid is cut
/// to it.
pub(super) fn overlay(live: &[Live], range: Range<u32>, laid: &[Laid]) -> Vec<Live> {
    let mut out = LiveList::default();
    let mut below = Below { live, next: 0 };
    let mut at = range.start;
    for part in laid {
        let start = part.range.start.max(range.start);
        let end = part.range.end.min(range.end);
        if start >= end {
            continue;
        }
        below.show(at..start, &mut out);
        out.push(Live { start, said: part.said.advance(start - part.range.start) });
        at = end;
    }
    below.show(at..range.end, &mut out);
    out.into_vec()
}

/// What lies below, shown through the gaps from left to right.
struct Below<'a> {
    live: &'a [Live],
    next: usize,
}

impl Below<'_> {
    fn show(&mut self, gap: Range<u32>, out: &mut LiveList) {
        if gap.is_empty() {
            return;
        }
        let mut covering = self.next.checked_sub(1).and_then(|last| self.live.get(last));
        while let Some(live) = self.live.get(self.next).filter(|live| live.start <= gap.start) {
            covering = Some(live);
            self.next += 1;
        }
        if let Some(live) = covering {
            let said = live.said.advance(gap.start - live.start);
            out.push(Live { start: gap.start, said });
        }
        while let Some(live) = self.live.get(self.next).filter(|live| live.start < gap.end) {
            out.push(*live);
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{HostOffset, Slot, Word};

    fn host(layer: u32, at: u64) -> Said {
        Said::new(layer, Word::At(Slot::Host(HostOffset(at))), 0)
    }

    fn live(start: u32, said: Said) -> Live {
        Live { start, said }
    }

    #[test]
    fn a_cut_leaves_the_left_part_and_an_advanced_right_part() {
        let below = [live(0, host(0, 1000))];
        let laid = [Laid { range: 10..20, said: host(1, 0) }];
        assert_eq!(
            overlay(&below, 0..100, &laid),
            [live(0, host(0, 1000)), live(10, host(1, 0)), live(20, host(0, 1020))]
        );
    }

    #[test]
    fn a_wide_extent_swallows_what_it_covers_and_is_cut_to_the_range() {
        let below = [live(50, host(0, 0)), live(60, Said::ZERO), live(70, host(0, 500))];
        let laid = [Laid { range: 0..80, said: host(1, 0) }];
        assert_eq!(
            overlay(&below, 50..100, &laid),
            [live(50, host(1, 50)), live(80, host(0, 510))]
        );
    }

    #[test]
    fn what_says_the_same_as_below_changes_nothing() {
        let below = [live(0, Said::ZERO), live(40, host(0, 0)), live(60, Said::ZERO)];
        let laid = [
            Laid { range: 5..20, said: Said::ZERO },
            Laid { range: 30..40, said: Said::ZERO },
            Laid { range: 60..100, said: Said::ZERO },
        ];
        assert_eq!(overlay(&below, 0..100, &laid), below);
    }

    #[test]
    fn several_pieces_show_through_one_gap() {
        let below = [live(0, host(0, 0)), live(10, Said::ZERO), live(20, host(0, 90))];
        let laid =
            [Laid { range: 0..5, said: host(1, 0) }, Laid { range: 25..30, said: host(1, 300) }];
        assert_eq!(
            overlay(&below, 0..40, &laid),
            [
                live(0, host(1, 0)),
                live(5, host(0, 5)),
                live(10, Said::ZERO),
                live(20, host(0, 90)),
                live(25, host(1, 300)),
                live(30, host(0, 100)),
            ]
        );
    }
}
