//! A view as its reader sees it, without a mount: every checkpoint, its texts and its bytes.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;

use qcowfs::tree::{Ino, NodeKind, Opened, Tree, ViewOptions};
use qcowfs::view::DiskImage;
use serde_json::Value;

const SECTOR: u64 = 512;
/// What cannot be read in one go is read sector by sector.
const STEP: u64 = 64 << 10;
/// Nothing in the table has a larger disk that is to be read.
pub(crate) const LARGEST: u64 = 64 << 20;

/// A checkpoint.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Name of its folder.
    pub(crate) name: String,
    pub(crate) info: Value,
    /// The text of error.txt.
    pub(crate) error: Option<String>,
    pub(crate) disk: Option<Disk>,
}

/// A disk, read from end to end.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) size: u64,
    /// As far as [`LARGEST`]; 0 where it cannot be read.
    pub(crate) bytes: Vec<u8>,
    /// What cannot be read.
    pub(crate) bad: Vec<Range<u64>>,
    /// The first error.
    pub(crate) error: Option<String>,
}

impl Seen {
    pub(crate) fn text(&self, key: &str) -> &str {
        self.info[key].as_str().unwrap_or_default()
    }
}

/// The checkpoints of `file` whose snapshots (or none) are wanted.
pub(crate) fn look(
    source: &Path,
    file: &str,
    wanted: &[Option<usize>],
) -> Result<Vec<Seen>, String> {
    let tree = Tree::from_source(source, &ViewOptions::default()).map_err(|e| e.to_string())?;
    let mut seen = Vec::new();
    let mut pending = vec![Ino::ROOT];
    while let Some(folder) = pending.pop() {
        for entry in tree.entries(folder).expect("a folder") {
            let name = entry.name.to_str().expect("names are UTF-8");
            let safe = !name.contains(['/', '\0']) && !name.chars().any(char::is_control);
            if !safe || name.is_empty() || name == "." || name == ".." || name.len() > 255 {
                return Err(format!("the view holds the name {name:?}"));
            }
            if entry.kind == NodeKind::Folder {
                pending.push(entry.ino);
                seen.extend(checkpoint(&tree, entry.ino, name, file, wanted));
            }
        }
    }
    Ok(seen)
}

fn text(tree: &Tree, folder: Ino, name: &str) -> Option<String> {
    match tree.open(tree.lookup(folder, OsStr::new(name))?)? {
        Opened::Text(text) => Some(String::from_utf8(text.to_vec()).expect("UTF-8")),
        Opened::Image(_) | Opened::Slice(_) => None,
    }
}

fn checkpoint(
    tree: &Tree,
    folder: Ino,
    name: &str,
    file: &str,
    wanted: &[Option<usize>],
) -> Option<Seen> {
    let info: Value = serde_json::from_str(&text(tree, folder, "info.json")?).expect("JSON");
    let snapshot = info["snapshot"].as_u64().map(|n| n as usize);
    if info["file"] != file || !wanted.contains(&snapshot) {
        return None;
    }
    let image = tree.lookup(folder, OsStr::new("disk.img")).and_then(|ino| tree.open(ino));
    let disk = match image {
        Some(Opened::Image(image)) => Some(read(&image)),
        _ => None,
    };
    let error = text(tree, folder, "error.txt");
    Some(Seen { name: name.to_owned(), info, error, disk })
}

fn read(image: &DiskImage) -> Disk {
    let size = image.size();
    let mut disk =
        Disk { size, bytes: vec![0; size.min(LARGEST) as usize], bad: Vec::new(), error: None };
    let mut at = 0;
    while at < disk.bytes.len() as u64 {
        let end = (at + STEP).min(disk.bytes.len() as u64);
        if image.read_at(at, &mut disk.bytes[at as usize..end as usize]).is_err() {
            read_sectors(image, at..end, &mut disk);
        }
        at = end;
    }
    disk
}

fn read_sectors(image: &DiskImage, range: Range<u64>, disk: &mut Disk) {
    for start in range.clone().step_by(SECTOR as usize) {
        let end = (start + SECTOR).min(range.end);
        let bytes = &mut disk.bytes[start as usize..end as usize];
        let Err(e) = image.read_at(start, bytes) else { continue };
        bytes.fill(0);
        disk.error.get_or_insert(e.error.to_string());
        match disk.bad.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => disk.bad.push(start..end),
        }
    }
}
