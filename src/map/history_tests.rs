//! Histories against a plain list of one word per byte and rank, and their shape after each step.

use std::ops::Range;

use super::history::{Directory, PAGE_ENTRIES, RegionHistory, capacity};
use super::overlay::{Laid, overlay};
use super::page::Page;
use super::said::Said;
use crate::extent::{HostOffset, Slot, Word};

/// Every rank's words, byte by byte.
struct Model {
    versions: Vec<Vec<Said>>,
    bottom: Vec<Said>,
}

/// A history and its model, laid and checked in step.
struct Both {
    history: RegionHistory,
    model: Model,
}

impl Both {
    fn new(len: u32, bottom: Said) -> Self {
        let model = Model { versions: Vec::new(), bottom: vec![bottom; len as usize] };
        Self { history: RegionHistory::new(len, bottom), model }
    }

    fn rank(&self) -> u32 {
        self.history.built()
    }

    fn lay(&mut self, laid: &[Laid]) {
        let mut version = self.model.versions.last().unwrap_or(&self.model.bottom).clone();
        for part in laid {
            for at in part.range.clone() {
                version[at as usize] = part.said.advance(at - part.range.start);
            }
        }
        self.model.versions.push(version);
        self.history.lay(laid);
        self.check(self.rank() - 1);
    }

    /// That the pages partition the region at every version, and that the newest one, and the one
    /// at `rank`, say what the model says.
    fn check(&self, rank: u32) {
        for directory in &self.history.directories {
            check_directory(&self.history, directory);
        }
        let from: Vec<_> = self.history.directories.iter().map(|held| held.from).collect();
        assert!(from.is_sorted_by(|a, b| a < b));
        self.check_version(rank, &(0..self.history.len));
    }

    fn check_version(&self, rank: u32, range: &Range<u32>) {
        let version = &self.model.versions[rank as usize];
        let mut at = range.start;
        self.history.pieces(rank, range, |piece, said| {
            assert_eq!(piece.start, at, "pieces are contiguous");
            assert!(!piece.is_empty());
            for byte in piece.clone() {
                let want = version[byte as usize];
                assert_eq!(said.advance(byte - piece.start), want, "byte {byte} of rank {rank}");
            }
            at = piece.end;
        });
        assert_eq!(at, range.end);
    }

    fn check_all(&self) {
        for rank in 0..self.rank() {
            self.check_version(rank, &(0..self.history.len));
            self.check_version(rank, &(self.history.len / 3..self.history.len / 2));
            // Look-ups that begin before, at and behind entries.
            for at in (0..self.history.len).step_by(self.history.len as usize / 61 + 1) {
                self.check_version(rank, &(at..(at + 3).min(self.history.len)));
            }
        }
    }

    fn newest(&self) -> &Directory {
        self.history.directories.last().unwrap()
    }

    /// Entries of all pages, dead and alive.
    fn entries(&self) -> usize {
        self.history.pages.iter().map(Page::len).sum()
    }
}

fn check_directory(history: &RegionHistory, directory: &Directory) {
    let starts: Vec<_> = directory.pages.iter().map(|page| page.start).collect();
    assert_eq!(starts.first(), Some(&0));
    assert!(starts.is_sorted_by(|a, b| a < b));
    let last = history
        .directories
        .iter()
        .map(|other| other.from)
        .find(|&from| from > directory.from)
        .unwrap_or(history.built());
    for (page, range) in history.listed(&directory.pages) {
        for version in directory.from..last {
            let mut alive = Vec::new();
            page.pieces(version, range.clone(), &mut |piece, _| alive.push(piece.start));
            assert_eq!(alive.first(), Some(&range.start), "a page says where it starts");
            assert!(alive.is_sorted_by(|a, b| a < b));
            assert!(alive.last().is_some_and(|last| range.contains(last)));
        }
    }
}

fn host(rank: u32, range: Range<u32>) -> Laid {
    let at = u64::from(rank) * 1_000_000 + u64::from(range.start);
    let said = Said::new(rank, Word::At(Slot::Host(HostOffset(at))), 1 << 20);
    Laid { range, said }
}

fn packed(rank: u32, range: Range<u32>) -> Laid {
    let said = Said::new(rank, Word::At(Slot::Packed(u64::from(range.start))), 1);
    Laid { range, said }
}

fn zero(range: Range<u32>) -> Laid {
    Laid { range, said: Said::ZERO }
}

/// Cut so that no two parts go on with each other.
fn fine(rank: u32, len: u32, step: u32) -> Vec<Laid> {
    let starts = (0..len).step_by(step as usize);
    starts.map(|at| packed(rank, at..(at + step).min(len))).collect()
}

#[test]
fn a_cluster_in_the_middle_of_an_extent_leaves_both_sides_as_they_were() {
    let mut both = Both::new(1000, Said::ZERO);
    both.lay(&[host(0, 0..1000)]);
    both.lay(&[host(1, 300..400)]);
    both.lay(&[zero(350..360)]);
    both.check_all();
    assert_eq!(both.entries(), 1 + 2 + 2);
}

#[test]
fn a_silent_layer_and_one_that_says_what_is_there_cost_nothing() {
    let mut both = Both::new(1000, Said::ZERO);
    both.lay(&[]);
    both.lay(&[zero(0..1000)]);
    assert!(both.history.directories.is_empty() && both.history.pages.is_empty());
    both.lay(&[host(2, 0..500)]);
    let (entries, bytes) = (both.entries(), both.history.bytes());
    both.lay(&[]);
    both.lay(&[zero(500..1000)]);
    both.lay(&[zero(600..700)]);
    assert_eq!((both.entries(), both.history.bytes()), (entries, bytes));
    assert_eq!(both.rank(), 6);
    both.check_all();
}

#[test]
fn below_shows_through_a_branch_wherever_it_says_nothing() {
    let mut both = Both::new(1000, Said::BELOW);
    both.lay(&[]);
    both.lay(&[host(1, 100..200), zero(900..1000)]);
    let mut said = Vec::new();
    both.history.pieces(1, &(0..1000), |range, said_of| said.push((range, said_of.word())));
    let words: Vec<_> = said.iter().map(|(range, word)| (range.clone(), *word)).collect();
    assert_eq!(words[0], (0..100, Word::Below));
    assert_eq!(words[2], (200..900, Word::Below));
    assert_eq!(words[3], (900..1000, Word::Zero));
    both.check_all();
}

#[test]
fn a_cluster_that_every_layer_rewrites_is_found_in_each_version() {
    let mut both = Both::new(80, Said::ZERO);
    both.lay(&fine(0, 80, 8));
    for rank in 1..40 {
        both.lay(&[packed(rank, 24..32)]);
    }
    assert_eq!(both.newest().pages.len(), 1, "all start at the same byte of one page");
    both.check_all();
}

#[test]
fn full_pages_are_split_and_no_page_holds_more_than_it_may() {
    let mut both = Both::new(64_000, Said::ZERO);
    for rank in 0..200 {
        let at = rank * 7919 % 639 * 100;
        both.lay(&[host(rank, at..at + 50)]);
        let most = capacity(both.newest().pages.len());
        assert!(both.history.pages.iter().all(|page| page.len() <= most));
    }
    assert!(both.newest().pages.len() >= 200 * 2 / PAGE_ENTRIES);
    both.check_all();
}

#[test]
fn a_wide_extent_over_many_pages_leaves_one() {
    let mut both = Both::new(64_000, Said::ZERO);
    both.lay(&fine(0, 64_000, 100));
    assert!(both.newest().pages.len() >= 640 / PAGE_ENTRIES);
    both.lay(&[host(1, 0..64_000)]);
    assert_eq!(both.newest().pages.len(), 1);
    both.lay(&[host(2, 10..64_000)]);
    both.check_all();
}

#[test]
fn pages_left_thin_are_put_together() {
    let mut both = Both::new(64_000, Said::ZERO);
    both.lay(&fine(0, 64_000, 100));
    let before = both.newest().pages.len();
    let holes = (0..64_000).step_by(3200);
    both.lay(&holes.map(|at| host(1, at..at + 3150)).collect::<Vec<_>>());
    assert!(both.newest().pages.len() * 4 <= before, "{} pages", both.newest().pages.len());
    both.check_all();
}

#[test]
fn a_layer_that_shrinks_cuts_and_one_that_grows_shows_zeros() {
    let mut both = Both::new(1000, Said::ZERO);
    both.lay(&[host(0, 0..1000)]);
    both.lay(&[host(1, 0..100), zero(400..1000)]);
    both.lay(&[host(2, 900..950)]);
    both.check_all();
    let mut read = Vec::new();
    both.history.pieces(2, &(300..1000), |range, said| read.push((range.end, said.word())));
    let at = |offset| Word::At(Slot::Host(HostOffset(offset)));
    assert_eq!(read, [(400, at(300)), (900, Word::Zero), (950, at(2_000_900)), (1000, Word::Zero)]);
}

#[test]
fn memory_stays_linear_where_fine_and_wide_layers_take_turns() {
    let mut both = Both::new(64_000, Said::ZERO);
    let mut extents = 0;
    for rank in 0..60 {
        let laid =
            if rank % 2 == 0 { fine(rank, 64_000, 125) } else { vec![host(rank, 0..64_000)] };
        extents += laid.len();
        both.lay(&laid);
    }
    assert!(both.history.bytes() <= 60 * extents, "{} for {extents}", both.history.bytes());
    both.check_all();
}

#[test]
fn memory_stays_linear_where_every_layer_cuts_a_finely_cut_one_in_one_place() {
    let mut both = Both::new(200_000, Said::ZERO);
    both.lay(&fine(0, 200_000, 10));
    let base = both.history.bytes();
    assert!(base <= 30 * 20_000, "{base} for the base");
    for rank in 1..2000_u32 {
        let at = rank.wrapping_mul(2_654_435_761) % 20_000 * 10;
        both.history.lay(&[packed(rank, at..at + 10)]);
    }
    let more = both.history.bytes() - base;
    assert!(more <= 100 * 2000, "{more} for 2000 clusters");
    for directory in &both.history.directories {
        check_directory(&both.history, directory);
    }
}

#[test]
fn random_layers_read_as_their_model_at_every_rank() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for round in 0..20 {
        let len = 500 + random.below(4000);
        let bottom = if round % 2 == 0 { Said::ZERO } else { Said::BELOW };
        let mut both = Both::new(len, bottom);
        for rank in 0..60 {
            let widest = [3, 20, 200, len][random.below(4) as usize];
            both.lay(&random_layer(&mut random, rank, len, widest));
        }
        both.check_all();
    }
}

#[test]
fn an_overlay_of_nothing_is_what_was_there() {
    let both = {
        let mut both = Both::new(1000, Said::ZERO);
        both.lay(&fine(0, 1000, 10));
        both
    };
    for (page, range) in both.history.listed(&both.newest().pages) {
        assert_eq!(overlay(&page.newest(), range, &[]), page.newest());
    }
}

fn random_layer(random: &mut Random, rank: u32, len: u32, widest: u32) -> Vec<Laid> {
    let mut laid = Vec::new();
    let mut at = random.below(widest);
    let gap = [1, 10, 300][random.below(3) as usize];
    while at < len {
        let end = (at + 1 + random.below(widest)).min(len);
        laid.push(match random.below(4) {
            0 => zero(at..end),
            1 => packed(rank, at..end),
            _ => host(rank, at..end),
        });
        at = end + random.below(gap);
    }
    laid
}

/// A xorshift generator: the same layers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 32).unwrap() % end
    }
}
