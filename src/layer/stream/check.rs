//! Whether a stream is all there: every frame's header, and every chunk of its payloads unpacked
//! and held against its checksums. The bytes of an uncompressed payload have none.

use std::sync::Arc;

use super::index::Index;
use super::layer::StreamLayer;
use super::meta::StreamMeta;
use crate::error::{Error, Result};
use crate::layer::clusters::ClusterCache;
use crate::layer::findings::Findings;
use crate::source::Source;

/// What a check of a stream found.
#[derive(Debug, Default)]
pub struct StreamCheck {
    /// All that is wrong.
    pub findings: Findings,
    /// Whether the disk is damaged: a flaw of the trailer is none of the disk.
    pub spoiled: bool,
}

/// Checks the stream that `file` holds and `meta` describes. `tick` is told of bytes that were
/// read: those of compressed payloads.
///
/// Memory: the index, and a few blocks of a chunk.
pub fn check_stream(file: &Arc<dyn Source>, meta: &StreamMeta, tick: &dyn Fn(u64)) -> StreamCheck {
    let mut check = StreamCheck::default();
    if let Err(e) = check_frames(file, meta, &mut check, tick) {
        check.findings.error(&e);
        check.spoiled = true;
    }
    check
}

fn check_frames(
    file: &Arc<dyn Source>,
    meta: &StreamMeta,
    check: &mut StreamCheck,
    tick: &dyn Fn(u64),
) -> Result<()> {
    let index = Index::build(file.as_ref(), meta)?;
    for flaw in index.flaws() {
        check.findings.error(&flaw.clone().in_file(file.path()));
    }
    // Nothing is unpacked twice.
    let cache = Arc::new(ClusterCache::new(0));
    let layer = StreamLayer::new(Arc::clone(file), meta.clone(), cache);
    for chunk in index.chunks() {
        match layer.check_chunk(&chunk) {
            Ok(()) => {}
            Err(Error::Corrupt { offset, what, .. }) => {
                let (guest, end) = (chunk.guest, chunk.guest + u64::from(chunk.len));
                let what = format!("the bytes from {guest} to {end} of the disk: {what}");
                check.findings.damage(offset, what);
                check.spoiled = true;
            }
            Err(e) => {
                check.findings.error(&e);
                check.spoiled = true;
            }
        }
        tick(chunk.packed.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
