//! What the view shows of a restore point of which something is lost.

use std::fmt;
use std::str::FromStr;

use crate::view::LostReads;

/// What to do with restore points that are not whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missing {
    /// There is no disk, and an `error.txt` says why.
    #[default]
    Hide,
    /// What is there reads, and what is lost fails.
    Eio,
    /// What is there reads, and what is lost reads as zeros.
    Zero,
}

impl Missing {
    /// How what is lost reads, where it is shown.
    pub fn lost_reads(self) -> LostReads {
        match self {
            Self::Hide | Self::Eio => LostReads::Fail,
            Self::Zero => LostReads::Zeros,
        }
    }
}

impl fmt::Display for Missing {
    /// The word that [`FromStr`] takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hide => "hide",
            Self::Eio => "eio",
            Self::Zero => "zero",
        })
    }
}

impl FromStr for Missing {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "hide" => Ok(Self::Hide),
            "eio" => Ok(Self::Eio),
            "zero" => Ok(Self::Zero),
            _ => Err(format!("`{word}` is none of hide, eio, zero")),
        }
    }
}
