//! What stops the reading of a stream's structure: the operating system, or the bytes.

use std::path::Path;

use crate::error::{Defect, Error};

/// Only a defect is a fact about the file, to be remembered.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file could not be read just now.
    Unreadable(Error),
    /// The bytes are wrong.
    Defect(Defect),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Unreadable(error)
    }
}

impl From<Defect> for Failure {
    fn from(defect: Defect) -> Self {
        Self::Defect(defect)
    }
}

impl Failure {
    pub(super) fn in_file(self, file: &Path) -> Error {
        match self {
            Self::Unreadable(error) => error,
            Self::Defect(defect) => defect.in_file(file),
        }
    }
}
