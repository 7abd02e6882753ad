//! What a link between two images rests on, and how sure that is.

use std::fmt;

use serde::Serialize;

/// What a link rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The user says so in `qcowfs.toml`.
    Declared,
    /// The backing-file header leads to this very file.
    Header,
    /// The backing-file header names a path of another place; the file was found by its name.
    HeaderByName,
    /// Metadata inside the file names the parent.
    Metadata,
    /// A checkpoint description (XML) names the parent.
    CheckpointXml,
    /// The naming rule of a known tool.
    NamingRule,
    /// Nothing but the order in time.
    TimeOrder,
}

impl Basis {
    /// How sure a link is that rests on this.
    pub fn certainty(self) -> Certainty {
        match self {
            Self::Declared | Self::Header | Self::Metadata | Self::CheckpointXml => {
                Certainty::Certain
            }
            Self::HeaderByName | Self::NamingRule => Certainty::Likely,
            Self::TimeOrder => Certainty::Guess,
        }
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Declared => "declared",
            Self::Header => "header",
            Self::HeaderByName => "header-by-name",
            Self::Metadata => "metadata",
            Self::CheckpointXml => "checkpoint-xml",
            Self::NamingRule => "naming-rule",
            Self::TimeOrder => "time-order",
        })
    }
}

/// How sure a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// The file or the user names the parent.
    Certain,
    /// A rule that holds for the tool's backups.
    Likely,
    /// It fits, and nothing contradicts it. Verify what you restore.
    Guess,
}

impl fmt::Display for Certainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Guess => "guess",
        })
    }
}

/// Why a link was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// What it rests on.
    pub basis: Basis,
    /// The same in words.
    pub text: String,
}

impl Evidence {
    /// Evidence of this kind, in these words.
    pub fn new(basis: Basis, text: impl Into<String>) -> Self {
        Self { basis, text: text.into() }
    }
}
