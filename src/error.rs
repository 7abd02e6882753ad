//! The crate's one error type, and the defect that a parser finds before it knows the file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, each with the file (as named within the source) and, where there
/// is one, the byte offset in it.
#[derive(Debug)]
pub enum Error {
    /// The bytes contradict their format: a damaged or truncated file.
    Corrupt {
        /// File within the source.
        file: PathBuf,
        /// Byte offset in that file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The bytes may be right, but ask for something that this program does not do.
    Unsupported {
        /// File within the source.
        file: PathBuf,
        /// Byte offset in that file.
        offset: u64,
        /// What they ask for.
        what: String,
    },
    /// A file that a chain needs is not there, or not to be opened.
    MissingLayer {
        /// The file whose chain is incomplete.
        file: PathBuf,
        /// What is missing and where it was looked for.
        what: String,
    },
    /// The operating system failed us.
    Io {
        /// File within the source, or the path given by the user.
        file: PathBuf,
        /// Byte offset, where the failure belongs to one.
        offset: Option<u64>,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The user asked for something that cannot be.
    Usage(String),
    /// One of several works failed.
    About {
        /// Which, as the user calls it.
        whose: String,
        /// With what.
        error: Box<Error>,
    },
}

impl Error {
    /// An [`Error::Io`] that belongs to no offset.
    pub fn io(file: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { file: file.into(), offset: None, source: source.into() }
    }

    /// The file that it is about, if it is about one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Corrupt { file, .. }
            | Self::Unsupported { file, .. }
            | Self::MissingLayer { file, .. }
            | Self::Io { file, .. } => Some(file),
            Self::Usage(_) => None,
            Self::About { error, .. } => error.file(),
        }
    }

    /// The same, with the name of what failed in front.
    #[must_use]
    pub fn about(self, whose: impl Into<String>) -> Self {
        Self::About { whose: whose.into(), error: Box::new(self) }
    }

    /// In words, and with what to do where nobody is there who could say that later.
    pub fn advised(&self) -> String {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!("{self}: try it as root, or as the owner")
            }
            _ => self.to_string(),
        }
    }

    /// An [`Error::Io`] at a byte offset.
    pub fn io_at(file: impl Into<PathBuf>, offset: u64, source: impl Into<io::Error>) -> Self {
        Self::Io { file: file.into(), offset: Some(offset), source: source.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { file, offset, what } => {
                write!(f, "{}: damaged at byte {offset}: {what}", file.display())
            }
            Self::Unsupported { file, offset, what } => {
                write!(f, "{}: unsupported at byte {offset}: {what}", file.display())
            }
            Self::MissingLayer { file, what } => write!(f, "{}: {what}", file.display()),
            Self::Io { file, offset: Some(offset), source } => {
                write!(f, "{}: at byte {offset}: {source}", file.display())
            }
            Self::Io { file, offset: None, source } => write!(f, "{}: {source}", file.display()),
            Self::Usage(what) => f.write_str(what),
            Self::About { whose, error } => write!(f, "{whose}: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::About { error, .. } => error.source(),
            _ => None,
        }
    }
}

/// What a parser of bytes found wrong, before anybody said which file the bytes came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    kind: DefectKind,
    offset: u64,
    what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DefectKind {
    Corrupt,
    Unsupported,
}

impl Defect {
    /// The bytes at `offset` contradict their format.
    pub fn corrupt(offset: u64, what: impl Into<String>) -> Self {
        Self { kind: DefectKind::Corrupt, offset, what: what.into() }
    }

    /// The bytes at `offset` ask for something that this program does not do.
    pub fn unsupported(offset: u64, what: impl Into<String>) -> Self {
        Self { kind: DefectKind::Unsupported, offset, what: what.into() }
    }

    /// Names the file.
    pub fn in_file(self, file: &Path) -> Error {
        let Self { kind, offset, what } = self;
        let file = file.to_path_buf();
        match kind {
            DefectKind::Corrupt => Error::Corrupt { file, offset, what },
            DefectKind::Unsupported => Error::Unsupported { file, offset, what },
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DefectKind::Corrupt => "damaged",
            DefectKind::Unsupported => "unsupported",
        };
        write!(f, "{kind} at byte {}: {}", self.offset, self.what)
    }
}
