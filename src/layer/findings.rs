//! What a check finds wrong in one file.

use std::collections::BTreeSet;

use crate::error::Error;

/// Of each severity, so many findings of a file are kept; the rest are counted.
const MOST: usize = 1000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; what is read is right as far as can be told.
    Warning,
    /// Something that a restore point needs is lost or wrong.
    Damage,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The byte of the file where the wrong value stands, where it is one.
    pub offset: Option<u64>,
    /// What is wrong, without the file's name.
    pub what: String,
}

/// What was found in one file: each thing once, and no more than a bounded number of things.
#[derive(Debug, Default)]
pub struct Findings {
    warnings: Kept,
    damages: Kept,
}

#[derive(Debug, Default)]
struct Kept {
    found: BTreeSet<(Option<u64>, String)>,
    more: u64,
}

impl Findings {
    /// Notes damage at a byte of the file.
    pub fn damage(&mut self, offset: impl Into<Option<u64>>, what: impl Into<String>) {
        self.damages.add(offset.into(), what.into());
    }

    /// Notes something that is worth knowing.
    pub fn warning(&mut self, offset: impl Into<Option<u64>>, what: impl Into<String>) {
        self.warnings.add(offset.into(), what.into());
    }

    /// Notes as damage what kept the file from being read.
    pub fn error(&mut self, error: &Error) {
        match error {
            Error::Corrupt { offset, what, .. } => self.damage(*offset, what),
            Error::Unsupported { offset, what, .. } => {
                self.damage(*offset, format!("unsupported: {what}"));
            }
            Error::Io { offset, source, .. } => {
                self.damage(*offset, format!("it cannot be read: {source}"));
            }
            Error::MissingLayer { what, .. } | Error::Usage(what) => self.damage(None, what),
            Error::About { error, .. } => self.error(error),
        }
    }

    /// Adds what was found elsewhere in the same file.
    pub fn extend(&mut self, other: Self) {
        self.damages.extend(other.damages);
        self.warnings.extend(other.warnings);
    }

    /// The worst of all; none if there is nothing.
    pub fn worst(&self) -> Option<Severity> {
        match (self.damages.found.is_empty(), self.warnings.found.is_empty()) {
            (false, _) => Some(Severity::Damage),
            (true, false) => Some(Severity::Warning),
            (true, true) => None,
        }
    }

    /// Everything: damage first, each in the order of the file.
    pub fn into_list(self) -> Vec<Finding> {
        let mut list = Vec::new();
        self.damages.into_list(Severity::Damage, &mut list);
        self.warnings.into_list(Severity::Warning, &mut list);
        list
    }
}

impl Kept {
    fn add(&mut self, offset: Option<u64>, what: String) {
        let finding = (offset, what);
        if self.found.len() < MOST {
            self.found.insert(finding);
        } else if !self.found.contains(&finding) {
            self.more = self.more.saturating_add(1);
        }
    }

    fn extend(&mut self, other: Self) {
        for (offset, what) in other.found {
            self.add(offset, what);
        }
        self.more = self.more.saturating_add(other.more);
    }

    fn into_list(self, severity: Severity, list: &mut Vec<Finding>) {
        let found = self.found.into_iter();
        list.extend(found.map(|(offset, what)| Finding { severity, offset, what }));
        if self.more > 0 {
            let what = format!("and {} more, which are not listed", self.more);
            list.push(Finding { severity, offset: None, what });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_comes_first_each_in_the_order_of_the_file_and_once() {
        let mut findings = Findings::default();
        findings.warning(1, "odd");
        findings.damage(900, "b");
        findings.damage(80, "a");
        findings.damage(900, "b");
        assert_eq!(findings.worst(), Some(Severity::Damage));
        let list = findings.into_list();
        let seen: Vec<_> = list.iter().map(|f| (f.severity, f.offset, &*f.what)).collect();
        assert_eq!(
            seen,
            [
                (Severity::Damage, Some(80), "a"),
                (Severity::Damage, Some(900), "b"),
                (Severity::Warning, Some(1), "odd"),
            ]
        );
    }

    #[test]
    fn endless_damage_is_counted_and_hides_no_warning() {
        let mut findings = Findings::default();
        for offset in 0..5000 {
            findings.damage(offset, "lost");
        }
        findings.warning(None, "odd");
        let list = findings.into_list();
        assert_eq!(list.len(), 1002);
        assert_eq!(list[1000].what, "and 4000 more, which are not listed");
        assert_eq!(list[1001].severity, Severity::Warning);
    }
}
