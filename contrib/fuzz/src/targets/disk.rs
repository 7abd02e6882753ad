//! A disk as its reader sees it, against the model: bytes, data and holes.

use std::ops::Range;

use qcowfs::layer::Layer;
use qcowfs::view::DiskImage;

use super::model::{Byte, Model};
use super::random::Random;

/// Data and holes that are passed through from the start of a disk.
const STEPS: usize = 10;
/// Of a larger disk little is asked: each answer may take a second.
const LARGE: u64 = 16 << 30;
/// Searches of a larger disk than this may give up: the smallest that has no tally.
const ENDLESS: u64 = 512 << 30;
/// Pieces of a disk that are read in full, and their size.
const WINDOWS: usize = 5;
const WINDOW: u64 = 16 << 10;
/// A disk of this many bytes or fewer is counted in full.
const COUNTED: u64 = 64 << 20;

/// Checks a disk whose layers are these, the lowest first.
pub fn check(image: &DiskImage, layers: &[&dyn Layer], random: &mut Random) {
    let mut places = walk(image);
    let size = image.size();
    places.extend(layers.iter().map(|layer| layer.virtual_size()).filter(|end| *end < size));
    for number in 0..if size > LARGE { 3 } else { WINDOWS } {
        let start = match number {
            0 => 0,
            1 => size.saturating_sub(WINDOW / 2),
            2 if size <= LARGE || places.is_empty() => random.below(size),
            _ if places.is_empty() => break,
            _ => {
                let place = places.swap_remove(random.index(places.len()));
                place.saturating_sub(random.below(WINDOW))
            }
        };
        let model = Model::of(start..start + WINDOW, layers);
        check_window(image, &model, random);
        if start == 0 && size <= WINDOW {
            break;
        }
    }
}

/// Goes from data to hole to data, and answers where each begins.
fn walk(image: &DiskImage) -> Vec<u64> {
    let (size, mut at) = (image.size(), 0);
    let (mut places, mut data) = (Vec::new(), 0);
    let mut finished = false;
    for _ in 0..if size > LARGE { 2 } else { STEPS } {
        let Some(from) = image.seek_data(at) else {
            finished = true;
            break;
        };
        assert!(at <= from && from < size, "data at {from} of {size} after {at}");
        let to = image.seek_hole(from).expect("the end is a hole");
        assert!(from <= to && to <= size, "a hole at {to} of {size} after {from}");
        if size <= ENDLESS {
            assert!(from < to, "no data at {from}");
            assert_eq!(image.seek_data(from), Some(from), "data is not where it was found");
            assert_eq!(image.seek_hole(at), Some(if from == at { to } else { at }));
        }
        places.extend([from, to]);
        (data, at) = (data + (to - from), to);
    }
    assert_eq!((image.seek_data(size), image.seek_hole(size)), (None, None));
    if finished && size <= COUNTED {
        assert_eq!(image.count_data(), data);
        let allocated = image.allocated();
        assert!(!allocated.exact || allocated.bytes == data, "{allocated:?} of {data}");
    }
    places
}

fn check_window(image: &DiskImage, model: &Model, random: &mut Random) {
    let len = model.end() - model.start;
    check_read(image, model, 0..len);
    let mut at = 0;
    while at < len {
        let next = (at + 1 + random.below(9000)).min(len);
        check_read(image, model, at..next);
        at = next;
    }
    for _ in 0..2 {
        let from = random.below(len);
        check_read(image, model, from..from + random.below(len - from + 1));
    }
    let turns = if image.size() > LARGE { 1 } else { 3 };
    for at in edges(model, turns, random) {
        check_seeks(image, model, at);
    }
}

/// A few of the bytes beside the places where one kind of bytes ends and another begins.
fn edges(model: &Model, turns: usize, random: &mut Random) -> Vec<u64> {
    let mut edges = vec![model.start, model.start + random.below(model.end() - model.start)];
    for _ in 0..turns {
        let start = model.runs[random.index(model.runs.len())].range.start;
        edges.extend([start, start.max(model.start + 1) - 1]);
    }
    edges
}

/// Reads a part of the window, counted from its start, and compares it with the model.
fn check_read(image: &DiskImage, model: &Model, part: Range<u64>) {
    let from = model.start + part.start;
    let mut buf = vec![0xA5; (part.end - part.start) as usize];
    let here = image.size().saturating_sub(from).min(buf.len() as u64) as usize;
    let got = match image.read_at(from, &mut buf) {
        Ok(got) => {
            assert_eq!(got, here, "not as many bytes as there are");
            got
        }
        Err(error) => {
            assert!(error.done < here, "an error past what was asked for");
            let byte = model.runs_from(from + error.done as u64).next().map(|run| run.byte);
            let bad = matches!(byte, Some(Byte::Bad | Byte::Unsure));
            assert!(bad, "{error}, but it is {byte:?}");
            assert!(error.to_string().len() < 4096, "an endless message");
            error.done
        }
    };
    let expected = &model.bytes[part.start as usize..];
    for run in model.runs_from(from) {
        let at = |guest: u64| (guest - from) as usize;
        let here = at(run.range.start).min(got)..at(run.range.end).min(got);
        if here.is_empty() {
            break;
        }
        match run.byte {
            Byte::Hole | Byte::Data(_) => {
                assert!(buf[here.clone()] == expected[here], "wrong bytes in {run:?}");
            }
            Byte::Bad => panic!("{run:?} was read"),
            Byte::Unsure => {}
        }
    }
}

/// Compares where data and holes are with the model, from a byte of the window on.
fn check_seeks(image: &DiskImage, model: &Model, from: u64) {
    let size = image.size();
    let end = model.end().min(size);
    let first = |hole: bool| {
        let found = model.runs_from(from).find(|run| (run.byte == Byte::Hole) == hole);
        found.map(|run| run.range.start).filter(|at| *at < end)
    };
    let (data, hole) = (image.seek_data(from), image.seek_hole(from));
    if from >= size {
        assert_eq!((data, hole), (None, None), "past the end");
        return;
    }
    match first(false) {
        Some(at) => assert_eq!(data, Some(at), "data after {from}"),
        None => assert!(data.is_none_or(|at| at >= end && end < size), "no data after {from}"),
    }
    match first(true) {
        Some(at) => assert_eq!(hole, Some(at), "a hole after {from}"),
        None => assert!(hole.is_some_and(|at| at >= end), "no hole after {from}"),
    }
}
