//! Any bytes as a name, a sidecar, or another text that stands in or beside a backup: nothing
//! panics, names in the view are safe and stay apart, and what is taken apart can be put together
//! again.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use qcowfs::layer::stream::{FrameHeader, StreamMeta};
use qcowfs::layout::backing_name::BackingName;
use qcowfs::layout::checkpoint_xml::CheckpointXml;
use qcowfs::layout::names::{
    self, MarkNumber, MarkedName, PushName, QmpName, StreamLevel, StreamName,
};
use qcowfs::layout::sidecar::{self, DeclaredParent};
use qcowfs::tree::names::{Taken, escape, printable};

/// Longest name that file systems take, in bytes.
const LONGEST: usize = 255;
/// A reason in words is no longer than the text that it speaks of, each byte escaped, and this.
const WORDS: usize = 500;

/// Tries one input. Names end at NUL bytes, as everywhere; a text is all of it.
pub fn run(data: &[u8]) {
    let parts: Vec<&OsStr> =
        data.split(|byte| *byte == 0).take(40).map(OsStr::from_bytes).collect();
    for name in &parts {
        check_escaped(name);
        check_tools_names(name);
        check_backing_name(name.as_bytes());
    }
    check_apart(&parts);
    check_escaped(OsStr::from_bytes(data));
    check_backing_name(data);
    if let Ok(text) = std::str::from_utf8(data) {
        check_text(text);
    }
    check_stream(data);
}

fn check_escaped(raw: &OsStr) {
    let name = escape(raw);
    assert!(is_safe(&name), "{raw:?} becomes {name:?}");
    assert_eq!(name, escape(raw), "not stable");
    let bytes = raw.as_bytes();
    // A name that is not cut can be turned back, so that no two of them are alike.
    if !bytes.is_empty() && bytes.len() * 3 <= LONGEST {
        assert_eq!(unescape(name.as_bytes()), bytes, "{name:?}");
    }
    let lossy = raw.to_string_lossy();
    let shown = printable(&lossy);
    assert!(!shown.chars().any(steers), "{shown:?}");
    assert!(shown == lossy || lossy.chars().any(steers), "{lossy:?} could be shown as it is");
}

fn is_safe(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.chars().any(|c| c == '/' || steers(c))
}

/// Whether it steers a terminal or turns the direction of writing.
fn steers(c: char) -> bool {
    let marks =
        "\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
    c.is_control() || marks.contains(c)
}

fn unescape(name: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(digits, 16).ok())?
        });
        raw.push(digits.unwrap_or(*first));
        rest = if digits.is_some() { &after[2..] } else { after };
    }
    raw
}

/// Names of one folder are safe, and no two are alike, whatever they were made of.
fn check_apart(parts: &[&OsStr]) {
    let mut taken = Taken::new(&["latest", "by-time"]);
    let mut given = HashSet::from(["latest".to_owned(), "by-time".to_owned()]);
    // Twice, for the second time none is free.
    for raw in parts.iter().chain(parts) {
        let name = taken.give(&escape(raw));
        assert!(is_safe(&name), "{raw:?} is given {name:?}");
        assert!(given.insert(name.clone()), "{name:?} twice");
    }
}

fn joined(parts: &[&[u8]]) -> OsString {
    OsString::from_vec(parts.concat())
}

/// What the tools' rules take apart is the name again when put together.
fn check_tools_names(name: &OsStr) {
    if let Some(qmp) = QmpName::parse(name) {
        let label = qmp.label();
        let whole = match &qmp.disk {
            Some(disk) => joined(&[label.as_bytes(), b"-", disk.as_bytes()]),
            None => label,
        };
        assert_eq!(whole, name);
    }
    if let Some(PushName { stem, epoch }) = PushName::parse(name) {
        assert_eq!(joined(&[stem.as_bytes(), b".", epoch.to_string().as_bytes()]), name);
        assert!(names::is_epoch(&epoch.to_string()));
    }
    if let Some(stream) = StreamName::parse(name) {
        let (device, label) = (stream.device.as_bytes(), stream.label());
        assert_eq!(joined(&[device, b".", label.as_bytes(), b".data"]), name);
        let tagged = matches!(stream.level, StreamLevel::Inc | StreamLevel::Diff);
        assert_eq!(stream.tag.is_some(), tagged);
        assert!(!device.is_empty());
    }
    if let Some(marked) = MarkedName::parse(name) {
        assert!(marked.key.len() <= name.len());
        assert!(!marked.key.bytes().any(|byte| byte.is_ascii_uppercase()));
        if let Some(MarkNumber::Date(date)) = marked.number {
            assert!((19_900_101_000_000..22_000_000_000_000).contains(&date), "{date}");
        }
    }
    if name.as_bytes().ends_with(b".partial") {
        assert!(names::is_unfinished(name));
    }
    names::has_raw_ending(name);
    if let Some(name) = name.to_str() {
        names::is_tools_bitmap(name);
    }
}

fn check_backing_name(raw: &[u8]) {
    match BackingName::parse(raw) {
        BackingName::Path { path, .. } => {
            let bytes = path.as_os_str().as_bytes();
            assert!(!bytes.contains(&0), "a path with a NUL byte");
            assert!(bytes.len() <= raw.len());
            if !raw.starts_with(b"json:") {
                assert_eq!(bytes, raw.strip_prefix(b"file:").unwrap_or(raw));
            }
            check_normal(sidecar::normalise(&path).as_deref());
        }
        BackingName::Refused(reason) => {
            assert!(reason.len() <= 10 * raw.len() + WORDS, "an endless reason");
        }
    }
}

/// A path within the source never leads out of it.
fn check_normal(path: Option<&Path>) {
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
    assert!(path.is_none_or(|path| path.components().all(normal)), "{path:?}");
}

fn check_text(text: &str) {
    for folder in ["", "vm", "a/b"] {
        match sidecar::parse(Path::new(folder), text) {
            Ok(declared) => {
                for (path, declaration) in declared {
                    check_normal(Some(&path));
                    assert!(path.starts_with(folder), "{path:?} is not beneath {folder:?}");
                    // An absolute one is for the folders that the user allows: `Roots` decides.
                    if let Some(DeclaredParent::File(parent)) = declaration.parent
                        && parent.is_relative()
                    {
                        check_normal(Some(&parent));
                    }
                }
            }
            Err(reason) => assert!(reason.len() <= 10 * text.len() + WORDS, "an endless reason"),
        }
    }
    if let Some(checkpoint) = CheckpointXml::parse(text) {
        assert!(text.contains("<domaincheckpoint"));
        let texts = checkpoint.disk_paths.iter().chain(&checkpoint.parent);
        // A text between tags is no longer than the XML; an entity may stand for a character of
        // up to four bytes, and takes as many.
        assert!(texts.chain([&checkpoint.name]).all(|part| part.len() <= text.len()));
    }
}

fn check_stream(data: &[u8]) {
    if let Ok(meta) = StreamMeta::from_json(data) {
        assert!(meta.virtual_size <= 1 << 62);
        assert!((1..=2).contains(&meta.version));
        assert!(meta.parent_checkpoint.is_none_or(|name| !name.is_empty()));
    }
    if let Err(defect) = StreamMeta::from_json(data) {
        assert!(defect.to_string().len() <= 10 * data.len() + WORDS);
    }
    if let Ok(frame) = FrameHeader::parse(data, 0) {
        let text = format!(" {:016x} {:016x}\r\n", frame.start, frame.length);
        assert!(data[4..].to_ascii_lowercase().starts_with(text.as_bytes()), "{frame:?}");
    }
}
