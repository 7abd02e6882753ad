//! Colours: on a terminal only, and not where they are unwanted (<https://no-color.org>).

use std::env;
use std::io::{self, IsTerminal};

/// What a word says about the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// All is well.
    Good,
    /// To be known.
    Doubtful,
    /// Something is lost.
    Bad,
    /// A heading.
    Heading,
}

/// Paints words, or leaves them as they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Painter {
    paints: bool,
}

impl Painter {
    /// For the standard output.
    pub(super) fn of_stdout() -> Self {
        let is_wanted = env::var_os("NO_COLOR").is_none_or(|word| word.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|kind| kind == "dumb");
        Self { paints: is_wanted && !is_dumb && io::stdout().is_terminal() }
    }

    /// The text, which may be padded already, in the colour of its tone.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.paints => return text.to_owned(),
            Tone::Good => 32,
            Tone::Doubtful => 33,
            Tone::Bad => 31,
            Tone::Heading => 1,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_gets_colours() {
        assert_eq!(Painter { paints: false }.paint(Tone::Bad, "broken"), "broken");
        assert_eq!(Painter { paints: true }.paint(Tone::Bad, "broken"), "\x1b[31mbroken\x1b[0m");
    }
}
