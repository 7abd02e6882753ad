//! Big-endian integers out of bytes that may end too early.

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_be_bytes)
}

/// A size that fits in memory, where it was bounded before; else the largest, which no buffer
/// has.
pub(super) fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// Text from a file, fit for a message: no control characters, no line breaks.
pub(super) fn for_message(text: &[u8]) -> String {
    String::from_utf8_lossy(text).escape_debug().to_string()
}
