//! The naming rules of the tools.
//!
//! Names are bytes: nothing here asks that they are UTF-8.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What qmpbackup calls a file: `FULL-<epoch>-<disk>`, `INC-<epoch>` (before 0.60), `COPY-...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpName {
    /// Which kind of backup.
    pub level: QmpLevel,
    /// Start of the run, seconds since 1970.
    pub epoch: u64,
    /// The disk, where the name holds it.
    pub disk: Option<OsString>,
}

/// The level of a qmpbackup run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QmpLevel {
    /// `FULL-`: starts a chain.
    Full,
    /// `INC-`: goes on.
    Inc,
    /// `COPY-`: a full one beside the chain, which no increment stands on.
    Copy,
}

impl QmpName {
    /// Takes a file name apart, if it is one of qmpbackup's.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let bytes = name.as_bytes();
        let (level, rest) = [
            (QmpLevel::Full, &b"FULL-"[..]),
            (QmpLevel::Inc, &b"INC-"[..]),
            (QmpLevel::Copy, &b"COPY-"[..]),
        ]
        .into_iter()
        .find_map(|(level, prefix)| Some((level, bytes.strip_prefix(prefix)?)))?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (epoch, rest) = rest.split_at_checked(digits)?;
        let epoch = parse_epoch(epoch)?;
        let disk = match rest.split_first() {
            None => None,
            Some((b'-', disk)) if !disk.is_empty() => Some(OsString::from_vec(disk.to_vec())),
            Some(_) => return None,
        };
        Some(Self { level, epoch, disk })
    }

    /// The tool's label of the restore point: `FULL-<epoch>`.
    pub fn label(&self) -> OsString {
        let level = match self.level {
            QmpLevel::Full => "FULL",
            QmpLevel::Inc => "INC",
            QmpLevel::Copy => "COPY",
        };
        format!("{level}-{}", self.epoch).into()
    }
}

/// What libvirt calls a push backup when nobody names it: `<disk file>.<epoch>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushName {
    /// The live disk's file name.
    pub stem: OsString,
    /// The checkpoint's name: the time of the run, seconds since 1970.
    pub epoch: u64,
}

impl PushName {
    /// Takes a file name apart, if it has this form.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let bytes = name.as_bytes();
        let dot = bytes.iter().rposition(|&byte| byte == b'.')?;
        let (stem, rest) = bytes.split_at_checked(dot)?;
        let epoch = parse_epoch(rest.get(1..)?)?;
        (!stem.is_empty()).then(|| Self { stem: OsString::from_vec(stem.to_vec()), epoch })
    }
}

/// What virtnbdbackup calls a file: `<device>.<level>[.<tag>].data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamName {
    /// The VM's name for the disk: `vda`.
    pub device: OsString,
    /// Which kind of backup.
    pub level: StreamLevel,
    /// An increment's checkpoint, or a differential's time.
    pub tag: Option<OsString>,
}

/// The level of a virtnbdbackup run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamLevel {
    /// Starts a chain.
    Full,
    /// A full one beside the chain.
    Copy,
    /// What changed since the checkpoint before.
    Inc,
    /// The same, without a checkpoint of its own: nobody's parent.
    Diff,
}

impl StreamName {
    /// Takes a file name apart, if it is one of virtnbdbackup's. Whatever stands in front of the
    /// level is the device.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let stem = name.as_bytes().strip_suffix(b".data")?;
        let own = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let whole = [(&b".full"[..], StreamLevel::Full), (b".copy", StreamLevel::Copy)];
        let tagged = [(&b".inc."[..], StreamLevel::Inc), (b".diff.", StreamLevel::Diff)];
        let without_tag = |(mark, level): (&[u8], _)| Some((stem.strip_suffix(mark)?, level, None));
        let with_tag = |(mark, level): (&[u8], _)| {
            let at = stem.windows(mark.len()).position(|window| window == mark)?;
            let tag = stem.get(at + mark.len()..).filter(|tag| !tag.is_empty())?;
            Some((stem.get(..at)?, level, Some(own(tag))))
        };
        let (device, level, tag) = tagged
            .into_iter()
            .find_map(with_tag)
            .or_else(|| whole.into_iter().find_map(without_tag))?;
        (!device.is_empty()).then(|| Self { device: own(device), level, tag })
    }

    /// The name of the restore point, where its checkpoint gives it none.
    pub fn label(&self) -> OsString {
        let mut label = OsString::from(match self.level {
            StreamLevel::Full => "full",
            StreamLevel::Copy => "copy",
            StreamLevel::Inc => "inc",
            StreamLevel::Diff => "diff",
        });
        if let Some(tag) = &self.tag {
            label.push(".");
            label.push(tag);
        }
        label
    }
}

/// What people call a push backup when they name it: a word for full or incremental, perhaps a
/// number or a date behind it, and what is left names the disk: `vda-full.qcow2`,
/// `vda-inc3.qcow2`, `vda-inc-2026-11-20.qcow2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedName {
    /// The name without the mark: the same for all backups of one disk.
    pub key: String,
    /// Whether the mark says "incremental".
    pub incremental: bool,
    /// What stands behind the mark and tells the order.
    pub number: Option<MarkNumber>,
}

/// A number or a date behind a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkNumber {
    /// Counts the increments.
    Count(u64),
    /// Year, month, day, and perhaps hour, minute and second, as one number of 14 digits.
    Date(u64),
}

impl MarkedName {
    /// Takes a file name apart, if it has a mark. Numbers elsewhere belong to the disk's name.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let name = name.to_str()?.to_ascii_lowercase();
        let tokens: Vec<&str> = name.split(['.', '-', '_', ' ']).collect();
        let (at, (incremental, number)) =
            tokens.iter().enumerate().find_map(|(at, token)| Some((at, mark_of(token)?)))?;
        let mut rest = tokens.get(at + 1..).unwrap_or_default();
        let mut number = number.map(MarkNumber::Count);
        if number.is_none() {
            let is_time = |token: &&&str| {
                token.starts_with(|c: char| c.is_ascii_digit())
                    && token.bytes().all(|b| b.is_ascii_digit() || matches!(b, b't' | b':' | b'z'))
            };
            let run = rest.iter().take_while(is_time).count();
            let (digits, others) = rest.split_at_checked(run)?;
            number = mark_number(digits);
            rest = others;
        }
        let key = tokens.get(..at).unwrap_or_default().iter().chain(rest).copied();
        Some(Self { key: key.collect::<Vec<_>>().join("."), incremental, number })
    }
}

/// Understands the tokens behind a mark: one short number, or a date that is written from year to
/// second with all its zeros. Anything else has no order that could be relied on.
fn mark_number(tokens: &[&str]) -> Option<MarkNumber> {
    if let [token] = tokens
        && token.len() <= 6
        && let Ok(number) = token.parse()
    {
        return Some(MarkNumber::Count(number));
    }
    let parts: Vec<&str> = tokens
        .iter()
        .flat_map(|token| token.split(['t', ':', 'z']))
        .filter(|p| !p.is_empty())
        .collect();
    // Parted, each part has its full width; in one piece, the sum has.
    let padded = parts.len() == 1
        || parts.iter().enumerate().all(|(n, part)| part.len() == if n == 0 { 4 } else { 2 })
        || (parts.first()?.len() == 8
            && parts.iter().skip(1).all(|part| matches!(part.len(), 2 | 4 | 6)));
    let digits = parts.concat();
    if !padded || !matches!(digits.len(), 8 | 12 | 14) {
        return None;
    }
    let field = |range: std::ops::Range<usize>| digits.get(range)?.parse::<u64>().ok();
    let valid = (1990..2200).contains(&field(0..4)?)
        && (1..=12).contains(&field(4..6)?)
        && (1..=31).contains(&field(6..8)?);
    let full: u64 = format!("{digits:0<14}").parse().ok()?;
    valid.then_some(MarkNumber::Date(full))
}

/// Whether a token of a name is a mark: (incremental, number).
fn mark_of(token: &str) -> Option<(bool, Option<u64>)> {
    let word = token.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = token.get(word.len()..).and_then(|digits| digits.parse().ok());
    match word {
        "full" => Some((false, number)),
        "inc" | "incr" | "incremental" | "increment" => Some((true, number)),
        _ => None,
    }
}

/// Whether a tool marks the file as one in progress or failed: `*.partial`, `*.fleece.*`.
pub fn is_unfinished(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.ends_with(b".partial") || bytes.windows(8).any(|window| window == b".fleece.")
}

/// Whether the name's ending is one that people give raw images.
pub fn has_raw_ending(name: &OsStr) -> bool {
    let ending = name.as_bytes().rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    ["raw", "img", "dd"].iter().any(|known| ending.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether a bitmap of this name is one that a backup tool keeps on a live disk.
pub fn is_tools_bitmap(name: &str) -> bool {
    let numbered = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    name.starts_with("qmpbackup-") || name.strip_prefix("virtnbdbackup.").is_some_and(numbered)
}

/// Whether a checkpoint's name is the one that libvirt gives when nobody names it.
pub fn is_epoch(name: &str) -> bool {
    parse_epoch(name.as_bytes()).is_some()
}

/// Seconds since 1970, if the digits can be that: from 2001 to 2286, ten digits.
fn parse_epoch(digits: &[u8]) -> Option<u64> {
    if digits.len() != 10 || !digits.iter().all(u8::is_ascii_digit) || digits.starts_with(b"0") {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qmp(name: &str) -> Option<QmpName> {
        QmpName::parse(OsStr::new(name))
    }

    #[test]
    fn qmpbackup_names_are_taken_apart_old_and_new() {
        let new = qmp("INC-1795161274-vm-root.qcow2").expect("parses");
        assert_eq!((new.level, new.epoch), (QmpLevel::Inc, 1_795_161_274));
        assert_eq!(new.disk.as_deref(), Some(OsStr::new("vm-root.qcow2")));
        assert_eq!(new.label(), "INC-1795161274");
        let old = qmp("FULL-1795161326").expect("parses");
        assert_eq!((old.level, old.disk), (QmpLevel::Full, None));
        assert_eq!(qmp("COPY-1795161326-a").expect("parses").level, QmpLevel::Copy);
    }

    #[test]
    fn what_is_not_quite_a_qmpbackup_name_is_none() {
        for name in ["FULL-vm-root.qcow2", "FULL-123-a", "INC-1795161274x", "INC-1795161274-", "x"]
        {
            assert_eq!(qmp(name), None, "{name}");
        }
    }

    #[test]
    fn push_names_end_in_the_checkpoint() {
        let name = PushName::parse(OsStr::new("vm-root.qcow2.1795161372")).expect("parses");
        assert_eq!(name, PushName { stem: "vm-root.qcow2".into(), epoch: 1_795_161_372 });
        assert_eq!(PushName::parse(OsStr::new("vm-root.monday")), None);
        assert_eq!(PushName::parse(OsStr::new(".1795161372")), None);
    }

    #[test]
    fn marked_names_share_the_key_of_their_disk() {
        let full = MarkedName::parse(OsStr::new("vda-full.qcow2")).expect("parses");
        let inc = MarkedName::parse(OsStr::new("vda-inc10.qcow2")).expect("parses");
        let spaced = MarkedName::parse(OsStr::new("vda_inc_2.qcow2")).expect("parses");
        assert_eq!((full.key.as_str(), full.incremental), ("vda.qcow2", false));
        assert_eq!((inc.key.as_str(), inc.incremental), ("vda.qcow2", true));
        assert_eq!(inc.number, Some(MarkNumber::Count(10)));
        assert_eq!((spaced.key.as_str(), spaced.number), ("vda.qcow2", Some(MarkNumber::Count(2))));
        let dated = MarkedName::parse(OsStr::new("vm-100-inc-2026-11-20.qcow2")).expect("parses");
        assert_eq!(dated.key, "vm.100.qcow2");
        assert_eq!(dated.number, Some(MarkNumber::Date(20_261_120_000_000)));
        let timed = MarkedName::parse(OsStr::new("vm-inc-2026-11-20T10:01.qcow2")).expect("parses");
        assert_eq!(
            (timed.key.as_str(), timed.number),
            ("vm.qcow2", Some(MarkNumber::Date(20_261_120_100_100)))
        );
        for no_order in
            ["vm-inc-20.11.2026.qcow2", "vm-inc-2026-11-9.qcow2", "vm-inc-1234567.qcow2"]
        {
            let name = MarkedName::parse(OsStr::new(no_order)).expect("parses");
            assert_eq!((name.key.as_str(), name.number), ("vm.qcow2", None), "{no_order}");
        }
        assert_eq!(MarkedName::parse(OsStr::new("prince.qcow2")), None);
    }

    #[test]
    fn stream_names_hold_device_level_and_tag() {
        let parse = |name: &str| StreamName::parse(OsStr::new(name));
        let inc = parse("vda.inc.virtnbdbackup.10.data").expect("parses");
        assert_eq!((inc.device.to_str(), inc.level), (Some("vda"), StreamLevel::Inc));
        assert_eq!(inc.label(), "inc.virtnbdbackup.10");
        let diff = parse("vda.diff.1795161421.data").expect("parses");
        assert_eq!((diff.level, diff.label()), (StreamLevel::Diff, "diff.1795161421".into()));
        assert_eq!(parse("vdb.copy.data").expect("parses").level, StreamLevel::Copy);
        for name in ["vda.full.data.chksum", ".full.data", "vda.inc.data", "vda.data", "a.b.c.data"]
        {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn unfinished_files_are_known_by_name() {
        assert!(is_unfinished(OsStr::new("INC-1795161320-vm-root.qcow2.partial")));
        assert!(is_unfinished(OsStr::new("INC-1795161320-node-vda.fleece.qcow2")));
        assert!(!is_unfinished(OsStr::new("partial.qcow2")));
    }
}
