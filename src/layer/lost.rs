//! What is left of a layer that cannot be used as it should be.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Layer;
use crate::error::{Error, Result};
use crate::extent::{Fault, GuestOffset, Slot, Word, Words};
use crate::source::Hold;

/// A layer of which nothing is known: every byte of it is lost.
///
/// It stands where a file of the chain is missing, so that what lies above it still counts.
#[derive(Debug)]
pub struct LostLayer {
    path: PathBuf,
    size: u64,
    reads_as_zeros: bool,
}

impl LostLayer {
    /// The layer that the file at `path` would be, or that this file needs. `size` is the virtual
    /// size where it is known, for what lies past it is zeros. Where readers get zeros for what is
    /// lost, seeks may pass over it.
    pub fn new(path: impl Into<PathBuf>, size: Option<u64>, reads_as_zeros: bool) -> Self {
        Self { path: path.into(), size: size.unwrap_or(u64::MAX), reads_as_zeros }
    }
}

impl Layer for LostLayer {
    fn path(&self) -> &Path {
        &self.path
    }

    fn virtual_size(&self) -> u64 {
        self.size
    }

    /// One word for all of it.
    fn granularity(&self) -> u64 {
        u64::MAX
    }

    fn words(&self, words: &mut Words) {
        let end = words.range().end.min(self.size);
        words.push_until(end, Word::Bad(Fault::Lost));
    }

    fn empty_until(&self, offset: u64) -> u64 {
        if self.reads_as_zeros { u64::MAX } else { offset }
    }

    fn read(&self, _: Slot, guest: GuestOffset, _: &mut [u8]) -> Result<()> {
        Err(nothing_to_read(&self.path, guest))
    }

    fn allocated_at_most(&self) -> u64 {
        if self.reads_as_zeros { 0 } else { self.size }
    }
}

/// A layer whose tables can be read, but not its clusters: what they would hold is lost, and what
/// it leaves to the layer below is not.
pub struct TablesOnly {
    layer: Arc<dyn Layer>,
    fault: Fault,
}

impl TablesOnly {
    /// The tables of `layer`; `fault` is why its clusters cannot be read.
    pub fn new(layer: Arc<dyn Layer>, fault: Fault) -> Self {
        Self { layer, fault }
    }
}

impl Layer for TablesOnly {
    fn path(&self) -> &Path {
        self.layer.path()
    }

    fn virtual_size(&self) -> u64 {
        self.layer.virtual_size()
    }

    fn hold(&self, held: &mut Vec<Hold>) {
        self.layer.hold(held);
    }

    fn granularity(&self) -> u64 {
        self.layer.granularity()
    }

    fn words(&self, words: &mut Words) {
        let mut said = Words::new(words.next()..words.range().end);
        self.layer.words(&mut said);
        for extent in said.finish() {
            let word = match extent.word {
                Word::At(_) => Word::Bad(self.fault),
                other => other,
            };
            words.push_until(extent.range.end, word);
        }
    }

    fn empty_until(&self, offset: u64) -> u64 {
        self.layer.empty_until(offset)
    }

    fn read(&self, _: Slot, guest: GuestOffset, _: &mut [u8]) -> Result<()> {
        Err(nothing_to_read(self.path(), guest))
    }

    fn allocated_at_most(&self) -> u64 {
        self.layer.allocated_at_most()
    }
}

fn nothing_to_read(path: &Path, guest: GuestOffset) -> Error {
    let what = format!("what it holds of byte {} of the disk cannot be read", guest.0);
    Error::MissingLayer { file: path.to_path_buf(), what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{Extent, HostOffset};
    use crate::layer::MemoryLayer;

    #[test]
    fn a_lost_layer_speaks_for_all_up_to_its_size() {
        let mut words = Words::new(0..100);
        LostLayer::new("a", Some(60), false).words(&mut words);
        let lost = Word::Bad(Fault::Lost);
        assert_eq!(
            words.finish(),
            [Extent { range: 0..60, word: lost }, Extent { range: 60..100, word: Word::Below }]
        );
    }

    #[test]
    fn of_tables_only_the_clusters_are_lost() {
        let extents = [
            Extent { range: 10..20, word: Word::At(Slot::Host(HostOffset(0))) },
            Extent { range: 20..30, word: Word::Zero },
        ];
        let layer = MemoryLayer::new("a", 40, &extents, vec![0; 20]).unwrap();
        let mut words = Words::new(5..40);
        TablesOnly::new(Arc::new(layer), Fault::Encrypted).words(&mut words);
        assert_eq!(
            words.finish(),
            [
                Extent { range: 5..10, word: Word::Below },
                Extent { range: 10..20, word: Word::Bad(Fault::Encrypted) },
                Extent { range: 20..30, word: Word::Zero },
                Extent { range: 30..40, word: Word::Below },
            ]
        );
    }
}
