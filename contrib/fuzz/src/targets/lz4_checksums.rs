//! Puts right the checksums of whatever looks like an lz4 frame: a mutation would hardly ever hit
//! them, and what lies behind them would not be tried.

use twox_hash::XxHash32;

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();

/// Puts right the checksums of headers and blocks of all frames that can be made out.
pub fn put_right(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| find(rest, MAGIC)) {
        at += found + 4;
        put_frame_right(&mut bytes[at..]);
    }
}

fn find(bytes: &[u8], magic: [u8; 4]) -> Option<usize> {
    bytes.windows(4).position(|four| four == magic)
}

/// `frame` begins after the magic. Gives up where it ends.
fn put_frame_right(frame: &mut [u8]) -> Option<()> {
    let flags = *frame.first()?;
    let has_size = flags & 0x08 != 0;
    let end = if has_size { 10 } else { 2 };
    let sum = XxHash32::oneshot(0, frame.get(..end)?).to_le_bytes();
    *frame.get_mut(end)? = sum[1];
    let mut at = end + 1;
    loop {
        let word = u32::from_le_bytes(*frame.get(at..)?.first_chunk()?);
        if word == 0 {
            return Some(());
        }
        let (from, to) = (at + 4, at + 4 + (word & 0x7FFF_FFFF) as usize);
        at = to;
        if flags & 0x10 != 0 {
            let sum = XxHash32::oneshot(0, frame.get(from..to)?);
            frame.get_mut(to..to + 4)?.copy_from_slice(&sum.to_le_bytes());
            at += 4;
        }
    }
}
