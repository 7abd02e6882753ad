//! Header extensions: {type u32, length u32, data, padding to 8}, ended by type 0.

use super::super::bytes::{to_usize, u32_at, u64_at};
use super::BitmapDirectory;
use super::raw::RawHeader;
use crate::error::Defect;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const DATA_FILE: u32 = 0x4441_5441;
const LUKS: u32 = 0x0537_be77;
const BITMAPS: u32 = 0x2385_2875;

/// QEMU keeps it in 16 bytes, one of them the end of the string.
const LONGEST_FORMAT: usize = 15;
const HEAD: u64 = 8;

/// One extension; `at` is where its data starts in the file.
pub(super) struct Extension<'a> {
    kind: u32,
    at: u64,
    data: &'a [u8],
}

/// The extensions of a header, in order. After an error there is no more.
pub(super) struct Extensions<'a> {
    bytes: &'a [u8],
    at: u64,
    end: u64,
}

impl<'a> Extensions<'a> {
    pub(super) fn new(bytes: &'a [u8], raw: &RawHeader) -> Self {
        Self { bytes, at: raw.header_length.into(), end: raw.extensions_end() }
    }

    /// Where the list ends: past its end mark, or past the head of the extension that the bytes
    /// lack.
    pub(super) fn end_of_list(&self) -> u64 {
        let mut at = self.at;
        while at < self.end {
            let head = to_usize(at);
            at = at.saturating_add(HEAD);
            match (u32_at(self.bytes, head), u32_at(self.bytes, head.saturating_add(4))) {
                (Some(kind), Some(length)) if kind != END => at = padded_end(at, length),
                _ => break,
            }
        }
        at
    }

    fn step(&mut self) -> Result<Option<Extension<'a>>, Defect> {
        let (at, have) = (self.at, self.bytes.len() as u64);
        // A file that ends between two extensions has lost none whose loss goes unnoticed.
        if at >= self.end || at >= have {
            return Ok(None);
        }
        let cut = || Defect::corrupt(at, "the file ends within a header extension");
        let too_long = |length| {
            let what = format!("a header extension of {length} bytes does not end by {}", self.end);
            Defect::corrupt(at, what)
        };
        let room = (self.end - at).checked_sub(HEAD).ok_or_else(|| too_long(0))?;
        let kind = u32_at(self.bytes, to_usize(at)).ok_or_else(cut)?;
        if kind == END {
            return Ok(None);
        }
        let length = u32_at(self.bytes, to_usize(at + 4)).ok_or_else(cut)?;
        if u64::from(length) > room {
            return Err(too_long(length));
        }
        let start = at + HEAD;
        let range = to_usize(start)..to_usize(start + u64::from(length));
        let data = self.bytes.get(range).ok_or_else(cut)?;
        self.at = padded_end(start, length);
        Ok(Some(Extension { kind, at: start, data }))
    }
}

fn padded_end(start: u64, length: u32) -> u64 {
    start.saturating_add(u64::from(length).next_multiple_of(8))
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, Defect>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.end = self.at;
        }
        step
    }
}

/// What the known extensions hold. Of two of a kind the last one counts, as it does for QEMU.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<Vec<u8>>,
    /// Offset and length.
    pub(super) luks: Option<(u64, u64)>,
    /// A reader needs no bitmaps: what is wrong with them is for those who do.
    pub(super) bitmaps: Option<Result<BitmapDirectory, Defect>>,
}

impl Parts {
    pub(super) fn collect(extensions: Extensions<'_>) -> Result<Self, Defect> {
        let mut parts = Self::default();
        for extension in extensions {
            let extension = extension?;
            match extension.kind {
                BACKING_FORMAT => parts.backing_format = Some(backing_format(&extension)?),
                DATA_FILE => parts.data_file = Some(extension.data.to_vec()),
                LUKS => parts.luks = Some(luks(&extension)?),
                BITMAPS => parts.bitmaps = Some(bitmaps(&extension)),
                _ => {}
            }
        }
        Ok(parts)
    }
}

/// Bit numbers and names of incompatible features. For a message, so without errors.
pub(super) fn feature_names(extensions: Extensions<'_>) -> Vec<(u8, Vec<u8>)> {
    let tables = extensions.flatten().filter(|extension| extension.kind == FEATURE_NAMES);
    tables.flat_map(|table| table.data.as_chunks::<48>().0).filter_map(feature_name).collect()
}

fn feature_name(entry: &[u8; 48]) -> Option<(u8, Vec<u8>)> {
    let [kind, bit, name @ ..] = entry;
    let name: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
    (*kind == 0 && !name.is_empty()).then_some((*bit, name))
}

fn backing_format(extension: &Extension<'_>) -> Result<String, Defect> {
    let length = extension.data.len();
    if length > LONGEST_FORMAT {
        let what = format!("the backing format's name has {length} bytes (at most 15)");
        return Err(Defect::corrupt(extension.at, what));
    }
    Ok(String::from_utf8_lossy(extension.data).into_owned())
}

fn luks(extension: &Extension<'_>) -> Result<(u64, u64), Defect> {
    let wrong = || wrong_length(extension, "LUKS header", 16);
    if extension.data.len() != 16 {
        return Err(wrong());
    }
    let offset = u64_at(extension.data, 0).ok_or_else(wrong)?;
    let length = u64_at(extension.data, 8).ok_or_else(wrong)?;
    Ok((offset, length))
}

fn bitmaps(extension: &Extension<'_>) -> Result<BitmapDirectory, Defect> {
    let wrong = || wrong_length(extension, "bitmaps", 24);
    if extension.data.len() != 24 {
        return Err(wrong());
    }
    Ok(BitmapDirectory {
        count: u32_at(extension.data, 0).ok_or_else(wrong)?,
        size: u64_at(extension.data, 8).ok_or_else(wrong)?,
        offset: u64_at(extension.data, 16).ok_or_else(wrong)?,
    })
}

fn wrong_length(extension: &Extension<'_>, name: &str, wanted: usize) -> Defect {
    let length = extension.data.len();
    let what = format!("the {name} extension has {length} bytes instead of {wanted}");
    Defect::corrupt(extension.at, what)
}
