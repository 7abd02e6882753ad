//! Some of the rows through a real mount, by way of the kernel.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::common::run::scratch;
use crate::common::watch::within;
use crate::common::{Mount, View};
use crate::row::{Outcome, Row};
use crate::run::make;

/// Rows of these groups, and how many of each at most.
const SHOWN: [(&str, usize); 10] = [
    ("magic and version", 3),
    ("virtual size", 4),
    ("features", 3),
    ("L1 entry", 4),
    ("L2 entry", 4),
    ("deflated bytes", 6),
    ("extended L2 entry", 3),
    ("cut", 14),
    ("stream: frame", 2),
    ("stream: chunk", 5),
];
const SECTOR: usize = 512;

#[test]
fn what_the_view_says_is_what_a_mount_says() {
    let rows = crate::rows().done();
    let of = |group: &str| rows.iter().filter(move |row| row.group == group).collect::<Vec<_>>();
    let shown = SHOWN.iter().flat_map(|(group, most)| of(group).into_iter().take(*most));
    let shown: Vec<&Row> = shown.collect();
    assert!(shown.len() >= 40, "{} rows", shown.len());
    let source = scratch();
    for (n, row) in shown.iter().enumerate() {
        make(row, &source.path().join(format!("row-{n}")));
    }
    let mount = Mount::of(source.path());
    let view = View::walk(mount.point());
    let listed = View::listed(source.path());
    let mut differ = Vec::new();
    for (n, row) in shown.iter().enumerate() {
        let file = Path::new(&format!("row-{n}")).join(row.file);
        let (seen, told) = (view.of_file(&file), listed.of_file(&file));
        let difference = match (&row.wanted[0].outcome, &seen.error) {
            (Outcome::Refused(text, _), Some(error)) => {
                let reason = told.error.as_deref().unwrap_or_default();
                let both = error.contains(text) && reason.contains(text);
                (!both).then(|| format!("{text:?} is not in {error:?} and {reason:?}"))
            }
            (Outcome::Refused(..), None) => Some("there is a disk".to_owned()),
            (_, Some(error)) => Some(error.clone()),
            (_, None) if !told.whole => Some("ls says that it is broken".to_owned()),
            (Outcome::LikeQemu | Outcome::Size(_), None) => None,
            (outcome, None) => disk_differs(row, outcome, mount.path(seen.image())),
        };
        differ.extend(difference.map(|what| format!("{}: {}: {what}", row.group, row.name)));
    }
    mount.unmount();
    assert!(differ.is_empty(), "{} differences:\n{}", differ.len(), differ.join("\n"));
}

fn disk_differs(row: &Row, outcome: &Outcome, image: std::path::PathBuf) -> Option<String> {
    let bad = match outcome {
        Outcome::Eio(bad) => bad.clone(),
        _ => Vec::new(),
    };
    let content = row.wanted[0].content.clone();
    within(60, "reading a malformed disk", move || {
        let file = File::open(&image).unwrap_or_else(|e| panic!("{image:?}: {e}"));
        let size = file.metadata().expect("its size").len();
        if size != content.len() as u64 {
            return Some(format!("the disk has {size} bytes"));
        }
        // Past the page cache's own idea of how much to read at once: sectors at every place where
        // something changes, and one in each cluster.
        let edges =
            bad.iter().flat_map(|range| [range.start, range.end - SECTOR as u64, range.end]);
        let before = bad.iter().filter_map(|range| range.start.checked_sub(4096));
        let clusters = (0..size).step_by(4096);
        for at in edges.chain(before).chain(clusters).filter(|at| *at < size) {
            let len = SECTOR.min((size - at) as usize);
            let mut bytes = vec![0xaa; len];
            let read = file.read_exact_at(&mut bytes, at);
            // The kernel reads whole pages: what shares one with a bad byte is bad for it.
            let page = at - at % 4096..at - at % 4096 + 4096;
            let is_bad = bad.iter().any(|range| range.contains(&at));
            let shares = bad.iter().any(|r| r.start < page.end && page.start < r.end);
            match read {
                Err(e) if e.raw_os_error() != Some(libc::EIO) => return Some(format!("{at}: {e}")),
                Err(_) if !shares => return Some(format!("{at} cannot be read")),
                Ok(()) if is_bad => return Some(format!("{at} can be read")),
                Ok(()) if bytes != content[at as usize..at as usize + len] => {
                    return Some(format!("{at} holds other bytes"));
                }
                _ => {}
            }
        }
        None
    })
}
