//! The size of an `info.json` without writing it: `stat` asks for it again and again, and the text
//! of a long chain names all files below.

use serde::Serialize;

use super::{InfoFile, chain_file, json, link_info, warnings_above};
use crate::chain::catalog::{Catalog, CheckpointId};
use crate::tree::images::Images;
use crate::tree::plan::Plan;

/// What all lists of all files take: a file's are its parent's and a little more.
#[derive(Debug)]
pub struct Sizes(Vec<Lists>);

/// The lists in the `info.json` of a checkpoint's child: all that it and those below it add.
#[derive(Debug, Default, Clone, Copy)]
struct Lists {
    evidence: List,
    warnings: List,
    chain: List,
}

/// The elements of a list, as they are written.
#[derive(Debug, Default, Clone, Copy)]
struct List {
    bytes: u64,
}

impl List {
    fn push(&mut self, element: &impl Serialize) {
        /// Spaces before each line of an element.
        const INDENT: usize = 4;
        let text = json(element);
        let lines = text.split(|byte| *byte == b'\n').count();
        // A newline ends what was before, and a comma; the first element has none.
        self.bytes += (text.len() + lines * INDENT + 2) as u64;
    }

    fn with(self, below: Self) -> Self {
        Self { bytes: self.bytes + below.bytes }
    }

    /// What it takes beyond `[]`.
    fn size(self) -> u64 {
        // The newline and the two spaces before the bracket, less the comma.
        if self.bytes == 0 { 0 } else { self.bytes + 2 }
    }
}

impl Lists {
    /// What a file adds that others stand on, perhaps as the bytes that it is.
    fn below(catalog: &Catalog, id: CheckpointId, as_raw: bool) -> Self {
        let mut lists = Self::default();
        if let Some(link) = link_info(catalog, id) {
            lists.evidence.push(&link);
        }
        for warning in warnings_above(catalog, id) {
            lists.warnings.push(&warning);
        }
        lists.chain.push(&chain_file(catalog, id, as_raw));
        lists
    }

    fn with(self, below: Self) -> Self {
        Self {
            evidence: self.evidence.with(below.evidence),
            warnings: self.warnings.with(below.warnings),
            chain: self.chain.with(below.chain),
        }
    }
}

impl Sizes {
    /// Looks at each checkpoint once: parents have smaller numbers.
    pub fn new(catalog: &Catalog) -> Self {
        let mut sizes = Self(Vec::with_capacity(catalog.len()));
        for id in (0..catalog.len()).map(CheckpointId) {
            let lists = Lists::below(catalog, id, false).with(sizes.beneath(catalog, id));
            sizes.0.push(lists);
        }
        sizes
    }

    /// The bytes of a checkpoint's `info.json`.
    pub fn of(&self, catalog: &Catalog, plan: &Plan, id: CheckpointId, images: &Images) -> u64 {
        let mut file = InfoFile::alone(catalog, plan, id, images);
        let mut lists = self.beneath(catalog, id);
        for link in file.info.evidence.drain(..) {
            lists.evidence.push(&link);
        }
        for warning in file.info.warnings.drain(..) {
            lists.warnings.push(&warning);
        }
        lists.chain.push(&chain_file(catalog, id, false));
        let rest = file.text().len() as u64;
        rest + lists.evidence.size() + lists.warnings.size() + lists.chain.size()
    }

    /// What all below a checkpoint add to its lists.
    fn beneath(&self, catalog: &Catalog, id: CheckpointId) -> Lists {
        match &catalog.checkpoint(id).parent {
            None => Lists::default(),
            Some(link) if link.as_raw => Lists::below(catalog, link.checkpoint, true),
            Some(link) => self.0.get(link.checkpoint.0).copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
