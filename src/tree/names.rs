//! Names in the view: safe for every shell and terminal, stable, and no two alike in a folder.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// Longest name that file systems and their tools take, in bytes.
const LONGEST: usize = 255;
/// Longer names are cut here, so that a hash and a number fit behind.
const CUT: usize = 230;

/// A name for what the source calls `raw`: `/`, control characters, marks that turn the direction
/// of writing, and bytes that are not UTF-8 become `%XX`; so does a `%` that would read as such.
/// Names that are too long are cut and end in a hash of the whole.
pub fn escape(raw: &OsStr) -> String {
    let bytes = raw.as_bytes();
    let mut name = match bytes {
        b"" => "%".to_owned(),
        b"." => "%2E".to_owned(),
        b".." => "%2E%2E".to_owned(),
        _ => escape_bytes(bytes),
    };
    if name.len() > LONGEST {
        name.truncate(name.floor_char_boundary(CUT));
        let _ = write!(name, "~{:08x}", fnv1a(bytes));
    }
    name
}

/// `text` for a terminal or a text file: what could steer either becomes an escape. Messages hold
/// names that anybody may have chosen.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

fn escape_bytes(bytes: &[u8]) -> String {
    let mut name = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid();
        for (at, c) in valid.char_indices() {
            let rest = valid.get(at + 1..).unwrap_or_default().as_bytes();
            let looks_escaped =
                c == '%' && rest.iter().take(2).filter(|b| b.is_ascii_hexdigit()).count() == 2;
            if is_unsafe(c) || looks_escaped {
                let mut buf = [0; 4];
                escape_each(&mut name, c.encode_utf8(&mut buf).as_bytes());
            } else {
                name.push(c);
            }
        }
        escape_each(&mut name, chunk.invalid());
    }
    name
}

fn escape_each(name: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(name, "%{byte:02X}");
    }
}

fn is_unsafe(c: char) -> bool {
    c == '/' || steers(c)
}

/// Whether a character steers a terminal, or turns the direction of writing.
fn steers(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// The 32-bit FNV-1a hash: the same on every machine and in every version.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The names given in one folder.
#[derive(Debug, Default)]
pub struct Taken {
    names: HashSet<String>,
    /// The last number given behind each stem: many may want the same name.
    numbers: HashMap<String, u32>,
}

impl Taken {
    /// A folder in which these names are taken.
    pub fn new(reserved: &[&str]) -> Self {
        Self { names: reserved.iter().map(|&name| name.to_owned()).collect(), ..Self::default() }
    }

    /// Takes a name that must stay as it is.
    pub fn reserve(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }

    /// `wanted`, or `wanted~2` and so on where that is taken.
    pub fn give(&mut self, wanted: &str) -> String {
        let stem = wanted.get(..wanted.floor_char_boundary(LONGEST - 12)).unwrap_or(wanted);
        let mut name = wanted.to_owned();
        if !self.names.insert(name.clone()) {
            let number = self.numbers.entry(stem.to_owned()).or_insert(1);
            while !self.names.insert(name.clone()) {
                *number = number.saturating_add(1);
                name = format!("{stem}~{number}");
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(raw: &[u8]) -> String {
        escape(OsStr::from_bytes(raw))
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        for name in ["vm-root.qcow2", "50% done", "a b:c", "ümläut", "%", "100%z1"] {
            assert_eq!(escaped(name.as_bytes()), name);
        }
    }

    #[test]
    fn what_a_name_cannot_hold_is_escaped_and_told_apart() {
        assert_eq!(escaped(b"third/x"), "third%2Fx");
        assert_eq!(escaped(b"third%2Fx"), "third%252Fx");
        assert_eq!(escaped(b"a\nb\0c\x1b"), "a%0Ab%00c%1B");
        assert_eq!(escaped(b"\xff\xfe"), "%FF%FE");
        assert_eq!(escaped("a\u{202e}b".as_bytes()), "a%E2%80%AEb");
        assert_eq!(escaped(b".."), "%2E%2E");
        assert_eq!(escaped(b""), "%");
    }

    #[test]
    fn long_names_are_cut_and_still_differ() {
        let (a, b) = (vec![b'\n'; 255], [vec![b'\n'; 254], vec![b'x']].concat());
        let (a, b) = (escaped(&a), escaped(&b));
        assert!(a.len() <= 255 && b.len() <= 255 && a != b);
    }

    #[test]
    fn messages_cannot_steer_a_terminal() {
        assert_eq!(printable("a b/c ü"), "a b/c ü");
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let mut taken = Taken::new(&["latest"]);
        assert_eq!(taken.give("latest"), "latest~2");
        assert_eq!(taken.give("a"), "a");
        assert_eq!(taken.give("a"), "a~2");
        assert_eq!(taken.give("a"), "a~3");
        assert!(taken.give(&"x".repeat(255)).len() == 255);
        assert!(taken.give(&"x".repeat(255)).len() <= 255);
    }
}
