//! What is told about what is lost of a checkpoint.

use std::fmt::Write;

use serde::Serialize;

use super::images::Images;
use super::missing::Missing;
use crate::chain::catalog::{Catalog, CheckpointId, State};
use crate::view::{DiskImage, Lost, LostRange};

/// What is lost, for `info.json`. Sizes are bytes.
#[derive(Debug, Serialize)]
pub struct LossInfo {
    /// Bytes of the disk that the files do hold, zeros that they tell of included.
    pub known_bytes: u64,
    /// The other ones.
    pub lost_bytes: u64,
    /// How the lost bytes read: `error` or `zeros`; none where there is no disk.
    pub lost_reads_as: Option<&'static str>,
    /// The lost ranges, ascending.
    lost: Vec<MapEntry>,
    /// How many more of them there are.
    #[serde(skip_serializing_if = "is_zero")]
    lost_more: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A range in the form of `qemu-img map --output=json`, and why it is lost.
#[derive(Debug, Serialize)]
struct MapEntry {
    start: u64,
    length: u64,
    /// Files above the one that would hold it.
    depth: u32,
    present: bool,
    zero: bool,
    data: bool,
    reason: String,
}

/// What is lost of a checkpoint, where that may be anything: of one that is broken, and where
/// readers are to see what is left. `None` also if it cannot be said.
pub(super) fn of(catalog: &Catalog, images: &Images, id: CheckpointId) -> Option<LossInfo> {
    let is_whole = catalog.checkpoint(id).state == State::Whole;
    if is_whole && images.missing() == Missing::Hide {
        return None;
    }
    let image = images.left(id).ok()?;
    let lost = images.lost(id)?;
    let reads_as = images.shown(catalog, id).is_ok().then(|| match images.missing() {
        Missing::Zero => "zeros",
        Missing::Hide | Missing::Eio => "error",
    });
    Some(LossInfo::new(image, &lost, reads_as))
}

impl LossInfo {
    fn new(image: &DiskImage, lost: &Lost, lost_reads_as: Option<&'static str>) -> Self {
        let zero = lost_reads_as == Some("zeros");
        let entry = |LostRange { range, depth, fault }: &LostRange| MapEntry {
            start: range.start,
            length: range.end - range.start,
            depth: *depth,
            present: false,
            zero,
            data: false,
            reason: fault.to_string(),
        };
        Self {
            known_bytes: image.size().saturating_sub(lost.bytes),
            lost_bytes: lost.bytes,
            lost_reads_as,
            lost: lost.ranges.iter().map(entry).collect(),
            lost_more: lost.more,
        }
    }

    /// Whether something is lost.
    pub(super) fn is_any(&self) -> bool {
        self.lost_bytes > 0
    }
}

/// How much of a checkpoint is left, and how to see it, for `error.txt`.
pub(super) fn describe(images: &Images, id: CheckpointId) -> String {
    let mut text = String::new();
    let Ok(image) = images.left(id) else { return text };
    let _ = match images.lost(id) {
        Some(lost) => writeln!(
            text,
            "\nThe files that are there hold {} of its {} bytes.",
            image.size().saturating_sub(lost.bytes),
            image.size()
        ),
        None => writeln!(text, "\nHow much of it the files that are there hold is not known."),
    };
    text.push_str(
        "To get at what is left, mount again with\n  \
         -o missing=eio    reading what is lost fails (for ddrescue, or to be sure of each byte)\n  \
         -o missing=zero   what is lost reads as zeros; info.json lists where\n",
    );
    text
}
