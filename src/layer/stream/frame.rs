//! The header of a frame: 40 bytes of text, `kind start length` and CRLF, the numbers as 16
//! lower-case hexadecimal digits.

use crate::error::Defect;

/// Bytes of a frame's header.
pub const HEADER_LEN: u64 = 40;
/// What ends a header and a payload.
pub(super) const CRLF: &[u8] = b"\r\n";

const START_AT: usize = 5;
const LENGTH_AT: usize = 22;
const DIGITS: usize = 16;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// JSON about the stream: the first frame.
    Meta,
    /// Bytes of the disk.
    Data,
    /// A range of zeros, without payload.
    Zero,
    /// The end of the stream.
    Stop,
    /// The length of the trailer of a compressed stream, which stands *before* this header.
    Comp,
}

/// The header of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameKind,
    /// First byte of the disk (data and zero; else 0).
    pub start: u64,
    /// Bytes of the disk (data and zero), or of JSON (meta and comp); 0 for stop.
    pub length: u64,
}

impl FrameHeader {
    /// The header at the start of `bytes`, which stand at `at` of their file.
    ///
    /// # Errors
    ///
    /// Whatever is not exactly as the tool writes it is corrupt.
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self, Defect> {
        let Some(header) = bytes.first_chunk::<40>() else {
            let what = format!("a frame's header is cut after {} bytes", bytes.len());
            return Err(Defect::corrupt(at, what));
        };
        let kind = parse_kind(header, at)?;
        for (gap, wanted) in [(4, &b" "[..]), (21, b" "), (38, CRLF)] {
            if !header.get(gap..).is_some_and(|rest| rest.starts_with(wanted)) {
                let what = "a frame's header is not divided by spaces and ended by CRLF";
                return Err(Defect::corrupt(at.saturating_add(gap as u64), what));
            }
        }
        let start = parse_number(header, START_AT, at)?;
        let length = parse_number(header, LENGTH_AT, at)?;
        let stray = match kind {
            FrameKind::Data | FrameKind::Zero => false,
            FrameKind::Meta | FrameKind::Comp => start != 0,
            FrameKind::Stop => start != 0 || length != 0,
        };
        if stray {
            let what = format!("a {} frame has a range of the disk", name(kind));
            return Err(Defect::corrupt(at, what));
        }
        Ok(Self { kind, start, length })
    }
}

/// The kind as it stands in the file.
pub(super) fn name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Meta => "meta",
        FrameKind::Data => "data",
        FrameKind::Zero => "zero",
        FrameKind::Stop => "stop",
        FrameKind::Comp => "comp",
    }
}

fn parse_kind(header: &[u8; 40], at: u64) -> Result<FrameKind, Defect> {
    let kinds =
        [FrameKind::Meta, FrameKind::Data, FrameKind::Zero, FrameKind::Stop, FrameKind::Comp];
    let found = kinds.into_iter().find(|kind| header.starts_with(name(*kind).as_bytes()));
    found.ok_or_else(|| {
        let [a, b, c, d, ..] = *header;
        Defect::corrupt(at, format!("`{}` is no kind of frame", [a, b, c, d].escape_ascii()))
    })
}

fn parse_number(header: &[u8; 40], from: usize, at: u64) -> Result<u64, Defect> {
    let digits = header.iter().skip(from).take(DIGITS);
    let mut number = 0;
    for (offset, digit) in digits.enumerate() {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => {
                let what = format!("`{}` is no hexadecimal digit", digit.escape_ascii());
                return Err(Defect::corrupt(at.saturating_add((from + offset) as u64), what));
            }
        };
        // Sixteen digits fit.
        number = number << 4 | u64::from(value);
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &[u8; 40] = b"data 00000000001a0000 00000000000b00f0\r\n";

    fn parse(bytes: &[u8]) -> Result<FrameHeader, Defect> {
        FrameHeader::parse(bytes, 1000)
    }

    #[test]
    fn a_header_is_a_kind_and_a_range() {
        let header = FrameHeader { kind: FrameKind::Data, start: 0x1a_0000, length: 0xb_00f0 };
        assert_eq!(parse(DATA), Ok(header));
        let largest = FrameHeader { kind: FrameKind::Zero, start: u64::MAX, length: u64::MAX };
        assert_eq!(parse(b"zero ffffffffffffffff ffffffffffffffff\r\n and more"), Ok(largest));
        let json = FrameHeader { kind: FrameKind::Meta, start: 0, length: 0x141 };
        assert_eq!(parse(b"meta 0000000000000000 0000000000000141\r\n"), Ok(json));
        let stop = FrameHeader { kind: FrameKind::Stop, start: 0, length: 0 };
        assert_eq!(parse(b"stop 0000000000000000 0000000000000000\r\n"), Ok(stop));
    }

    #[test]
    fn one_changed_byte_is_one_exact_error() {
        let divided = "a frame's header is not divided by spaces and ended by CRLF";
        for (at, byte, offset, what) in [
            (0, b'D', 1000, "`Data` is no kind of frame"),
            (3, 0, 1000, "`dat\\x00` is no kind of frame"),
            (4, b'0', 1004, divided),
            (5, b' ', 1005, "` ` is no hexadecimal digit"),
            (16, b'A', 1016, "`A` is no hexadecimal digit"),
            (20, b'g', 1020, "`g` is no hexadecimal digit"),
            (21, b'-', 1021, divided),
            (22, b'+', 1022, "`+` is no hexadecimal digit"),
            (37, b'\xff', 1037, "`\\xff` is no hexadecimal digit"),
            (38, b'\n', 1038, divided),
            (39, b'\r', 1038, divided),
        ] {
            let mut header = *DATA;
            header[at] = byte;
            assert_eq!(parse(&header), Err(Defect::corrupt(offset, what)), "byte {at}");
        }
    }

    #[test]
    fn frames_that_are_no_part_of_the_disk_have_no_range() {
        for (header, kind) in [
            (b"meta 0000000000000001 0000000000000141\r\n", "meta"),
            (b"comp 1000000000000000 0000000000000141\r\n", "comp"),
            (b"stop 0000000000000001 0000000000000000\r\n", "stop"),
            (b"stop 0000000000000000 0000000000000001\r\n", "stop"),
        ] {
            let what = format!("a {kind} frame has a range of the disk");
            assert_eq!(parse(header), Err(Defect::corrupt(1000, what)));
        }
    }

    #[test]
    fn a_cut_header_is_an_error() {
        for len in 0..40 {
            let what = format!("a frame's header is cut after {len} bytes");
            assert_eq!(parse(&DATA[..len]), Err(Defect::corrupt(1000, what)));
        }
    }
}
