//! The checksums that virtnbdbackup leaves beside its files: the adler32 (RFC 1950) of the whole
//! file as a decimal number, in `<file>.chksum`.

use simd_adler32::Adler32;

use super::reading::read_all;
use crate::error::Result;
use crate::source::Source;

/// Longer than any number that it may hold.
const LONGEST: u64 = 64;

/// What a checksum file says; the error is what is wrong with it.
pub(super) fn wanted(file: &dyn Source) -> Result<Result<u32, String>> {
    if file.len() > LONGEST {
        return Ok(Err(format!("{} bytes are no checksum", file.len())));
    }
    let mut bytes = vec![0; usize::try_from(file.len()).unwrap_or(0)];
    file.read_exact(0, &mut bytes)?;
    Ok(parse(&bytes))
}

/// Decimal digits, and whatever white space an editor left around them.
fn parse(bytes: &[u8]) -> Result<u32, String> {
    let digits = bytes.trim_ascii();
    let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("`{}` is no checksum (adler32, decimal)", bytes.escape_ascii()))
}

/// The checksum of a file.
pub(super) fn actual(file: &dyn Source, tick: &dyn Fn(u64)) -> Result<u32> {
    let mut sum = Adler32::new();
    read_all(file, tick, |bytes| sum.write(bytes))?;
    Ok(sum.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemoryFile;

    #[test]
    fn a_checksum_is_a_decimal_number_and_nothing_else() {
        assert_eq!(parse(b"788240280"), Ok(788_240_280));
        assert_eq!(parse(b" 4294967295\n"), Ok(u32::MAX));
        for wrong in [&b""[..], b"\n", b"4294967296", b"-1", b"+1", b"0x1f", b"12 34", b"\xff"] {
            assert!(parse(wrong).is_err(), "{}", wrong.escape_ascii());
        }
        let e = wanted(&MemoryFile::new("x.chksum", vec![b'1'; 65])).unwrap().unwrap_err();
        assert_eq!(e, "65 bytes are no checksum");
    }

    #[test]
    fn the_checksum_is_adler32() {
        // The example of RFC 1950's own program: a = 1, b = 0 for nothing.
        assert_eq!(actual(&MemoryFile::new("a", Vec::new()), &|_| {}).unwrap(), 1);
        let text = b"Wikipedia".to_vec();
        assert_eq!(actual(&MemoryFile::new("a", text), &|_| {}).unwrap(), 0x11e6_0398);
        // More than one buffer, and more than the sums hold without a remainder.
        let long = vec![0xff; 3_000_000];
        let sum = slow(&long);
        assert_eq!(actual(&MemoryFile::new("a", long), &|_| {}).unwrap(), sum);
    }

    fn slow(bytes: &[u8]) -> u32 {
        let (a, b) = bytes.iter().fold((1, 0), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        b << 16 | a
    }
}
