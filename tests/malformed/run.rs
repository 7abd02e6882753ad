//! Runs a row, and tells in how many ways it comes out other than stated.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::common::Run;
use crate::common::run::scratch;
use crate::look::{Disk, Seen, look};
use crate::row::{Device, Made, Outcome, Qemu, Row, Wanted};

/// Seconds that a row may take.
const LIMIT: u64 = 60;

/// Those of all rows, several at a time, in the order of the rows.
pub(crate) fn all_differences(rows: &[Row]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some((n, row)) = {
            let n = next.fetch_add(1, Ordering::Relaxed);
            rows.get(n).map(|row| (n, row))
        } {
            let lines = differences(row);
            found.lock().expect("nobody panics").insert(n, lines);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(work);
        }
    });
    found.into_inner().expect("nobody panics").into_values().flatten().collect()
}

/// Each a line that names the row.
fn differences(row: &Row) -> Vec<String> {
    let folder = scratch();
    // Names may lead out of the source, and must find nothing there.
    let source = folder.path().join("outer/source");
    make(row, &source);
    let lines = match seen(row, &source) {
        Err(e) => vec![e],
        Ok(seen) => {
            let mut lines: Vec<_> =
                row.wanted.iter().flat_map(|w| compare(row, w, &seen)).collect();
            lines.extend(against_qemu(row, &source, &seen));
            lines
        }
    };
    lines.into_iter().map(|line| format!("{}: {}: {line}", row.group, row.name)).collect()
}

pub(crate) fn make(row: &Row, source: &Path) {
    std::fs::create_dir_all(source).expect("a folder");
    for (name, made) in &row.files {
        let path = source.join(name);
        match made {
            Made::File(bytes) => std::fs::write(&path, bytes).expect("a file"),
            Made::Link(target) => std::os::unix::fs::symlink(target, &path).expect("a link"),
            Made::Folder => std::fs::create_dir(&path).expect("a folder"),
            Made::Fifo => drop(Run::new("mkfifo").arg(&path).ok()),
            Made::Socket => drop(UnixListener::bind(&path).expect("a socket")),
            Made::Device(device) => {
                let kind = match device {
                    Device::Zero => ["c", "1", "5"],
                    Device::Loop => ["b", "7", "0"],
                };
                Run::new("mknod").arg(&path).args(kind).ok();
            }
        }
    }
}

/// What the view shows; an error where it panics or takes too long.
fn seen(row: &Row, source: &Path) -> Result<Vec<Seen>, String> {
    let (source, file) = (source.to_path_buf(), row.file);
    let wanted: Vec<_> = row.wanted.iter().map(|w| w.snapshot).collect();
    let (send, receive) = channel();
    thread::spawn(move || {
        let seen = catch_unwind(AssertUnwindSafe(|| look(&source, file, &wanted)));
        let _ = send.send(seen.unwrap_or_else(|_| Err("it panicked".to_owned())));
    });
    let limit = Duration::from_secs(LIMIT);
    receive.recv_timeout(limit).unwrap_or_else(|_| Err(format!("not done after {LIMIT} s")))
}

fn compare(row: &Row, wanted: &Wanted, all: &[Seen]) -> Vec<String> {
    let what = wanted.snapshot.map_or(String::new(), |n| format!("snapshot {n}: "));
    let snapshot = |seen: &Seen| seen.info["snapshot"].as_u64().map(|n| n as usize);
    let mut found = all.iter().filter(|seen| snapshot(seen) == wanted.snapshot);
    let (Some(seen), None) = (found.next(), found.next()) else {
        return vec![format!("{what}there is not one such checkpoint")];
    };
    let mut lines = Vec::new();
    match &wanted.outcome {
        Outcome::Refused(text, at) => lines.extend(check_refusal(row, seen, text, *at)),
        Outcome::Eio(bad) => lines.extend(check_disk(row, seen, bad, &wanted.content)),
        Outcome::Sound => lines.extend(check_disk(row, seen, &[], &wanted.content)),
        Outcome::LikeQemu => lines.extend(is_readable(seen)),
        Outcome::Size(size) => lines.extend(check_size(seen, *size, &wanted.content)),
    }
    if let Some(text) = wanted.warning {
        let warnings = seen.info["warnings"].as_array().expect("warnings");
        if !warnings.iter().any(|w| w.as_str().is_some_and(|w| w.contains(text))) {
            lines.push(format!("no warning holds {text:?}: {warnings:?}"));
        }
    }
    if let Some(name) = wanted.name.as_ref().filter(|name| **name != seen.name) {
        lines.push(format!("its folder is {:?}, not {name:?}", seen.name));
    }
    lines.into_iter().map(|line| format!("{what}{line}")).collect()
}

fn check_refusal(row: &Row, seen: &Seen, text: &str, at: Option<u64>) -> Vec<String> {
    if let Some(disk) = &seen.disk {
        return vec![format!("there is a disk of {} bytes, bad: {:?}", disk.size, disk.bad)];
    }
    let reason = seen.text("reason");
    let told = seen.error.as_deref().unwrap_or_default();
    let mut lines = Vec::new();
    if !reason.contains(text) {
        lines.push(format!("the reason does not hold {text:?}: {reason:?}"));
    }
    if at.is_some_and(|at| !reason.contains(&format!("byte {at}:"))) {
        lines.push(format!("the reason does not name the byte {at:?}: {reason:?}"));
    }
    if !told.contains(row.file) {
        lines.push(format!("error.txt does not name the file: {told:?}"));
    }
    if told.chars().any(|c| c.is_control() && c != '\n') {
        lines.push(format!("error.txt holds control characters: {told:?}"));
    }
    lines
}

fn disk(seen: &Seen) -> Result<&Disk, String> {
    let told = seen.error.as_deref().unwrap_or_default();
    seen.disk.as_ref().ok_or_else(|| format!("there is no disk: {told:?}"))
}

fn check_disk(row: &Row, seen: &Seen, bad: &[Range<u64>], content: &[u8]) -> Option<String> {
    let disk = match disk(seen) {
        Ok(disk) => disk,
        Err(e) => return Some(e),
    };
    if disk.size != content.len() as u64 {
        return Some(format!("the disk has {} bytes, not {}", disk.size, content.len()));
    }
    if disk.bad != bad {
        return Some(format!("bad is {:?}, not {bad:?}: {:?}", disk.bad, disk.error));
    }
    let names_one = |e: &String| row.files.iter().any(|(name, _)| e.contains(&name[..]));
    if disk.error.as_ref().is_some_and(|e| !names_one(e)) {
        return Some(format!("the error does not name the file: {:?}", disk.error));
    }
    let is_bad = |at: u64| bad.iter().any(|range| range.contains(&at));
    let mut bytes = disk.bytes.iter().zip(content).enumerate();
    let (at, (a, b)) = bytes.find(|(at, (a, b))| a != b && !is_bad(*at as u64))?;
    Some(format!("byte {at} is {a}, not {b}"))
}

fn check_size(seen: &Seen, size: u64, content: &[u8]) -> Option<String> {
    let disk = match disk(seen) {
        Ok(disk) => disk,
        Err(e) => return Some(e),
    };
    if disk.size != size {
        return Some(format!("the disk has {} bytes, not {size}", disk.size));
    }
    let len = content.len().min(disk.bytes.len());
    let right = disk.bad.is_empty() && disk.bytes[..len] == content[..len];
    (!right).then(|| format!("it does not begin as it should; bad: {:?}", disk.bad))
}

fn is_readable(seen: &Seen) -> Option<String> {
    match disk(seen) {
        Err(e) => Some(e),
        Ok(disk) if disk.bad.is_empty() => None,
        Ok(disk) => Some(format!("bad is {:?}: {:?}", disk.bad, disk.error)),
    }
}

/// The disk that qemu-img makes of it, or what it says.
fn convert(source: &Path, file: &str) -> Result<PathBuf, String> {
    let out = source.parent().expect("a folder").join("qemu.raw");
    let args = ["convert", "-f", "qcow2", "-O", "raw", file];
    let run = Run::new("qemu-img").folder(source).args(args).arg(&out).outcome();
    if run.code == Some(0) { Ok(out) } else { Err(run.stderr) }
}

fn against_qemu(row: &Row, source: &Path, seen: &[Seen]) -> Option<String> {
    if row.qemu == Qemu::NotAsked {
        return None;
    }
    let made = convert(source, row.file);
    let wanted = &row.wanted[0].outcome;
    let reads_it_all = matches!(wanted, Outcome::Sound | Outcome::LikeQemu);
    match (row.qemu, made) {
        (Qemu::Refuses, Err(_)) if reads_it_all => None,
        (Qemu::Reads, Ok(_)) | (Qemu::Agrees, Err(_)) if !reads_it_all => None,
        (Qemu::Agrees, Ok(raw)) if reads_it_all => {
            let truth = std::fs::read(raw).expect("what qemu-img made");
            let own = seen.iter().find(|s| s.info["snapshot"].is_null())?.disk.as_ref()?;
            if own.bytes.len() != truth.len() {
                return Some(format!("QEMU's disk has {} bytes, not {}", truth.len(), own.size));
            }
            let at = own.bytes.iter().zip(&truth).position(|(a, b)| a != b)?;
            Some(format!("byte {at} is {}, QEMU reads {}", own.bytes[at], truth[at]))
        }
        (relation, Ok(_)) => Some(format!("QEMU reads it ({relation:?})")),
        (relation, Err(e)) => Some(format!("QEMU refuses it ({relation:?}): {}", e.trim())),
    }
}
