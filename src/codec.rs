//! Decompression into buffers of known size: raw deflate and zstd; lz4 frames, block by block.
//!
//! The output is never longer than the caller's buffer, whatever the input claims, and never
//! shorter: an input that ends before is an error. What follows in the input is ignored, for the
//! sizes of packed clusters are rounded up to sectors.

pub mod lz4;
pub mod xxh32;

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::Decompressor;
use zstd::zstd_safe::{self, DCtx, get_error_name};

thread_local! {
    // Setting these up costs as much as unpacking a small cluster does.
    static INFLATER: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    static WHOLE_INFLATER: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    static UNZSTD: RefCell<Option<DCtx<'static>>> = RefCell::new(DCtx::try_create());
}

/// Fills `output` from one raw deflate stream (RFC 1951) at the start of `input`, of any window
/// size. Like QEMU, it takes a stream that goes on once `output` is full.
///
/// Two decoders share the work. One knows nothing but whole buffers, and is nearly twice as fast:
/// what it unpacks to exactly `output`, up to the mark of the stream's end, is taken. Whatever else
/// it says, the other one decides, which stops where `output` is full and knows what is wrong.
///
/// # Errors
///
/// A sentence without the file's name.
pub fn inflate_raw(input: &[u8], output: &mut [u8]) -> Result<(), String> {
    let whole = WHOLE_INFLATER.with_borrow_mut(|whole| whole.deflate_decompress(input, output));
    if whole == Ok(output.len()) { Ok(()) } else { inflate_stream(input, output) }
}

fn inflate_stream(input: &[u8], output: &mut [u8]) -> Result<(), String> {
    INFLATER.with_borrow_mut(|inflater| {
        inflater.reset(false);
        let status = inflater
            .decompress(input, output, FlushDecompress::Finish)
            .map_err(|e| format!("not a deflate stream: {e}"))?;
        // Less than `usize::MAX`, for it counts the bytes of `output`.
        let filled = usize::try_from(inflater.total_out()).unwrap_or(usize::MAX);
        if filled == output.len() {
            return Ok(());
        }
        let wanted = output.len();
        Err(match status {
            Status::StreamEnd => {
                format!("the deflate stream holds {filled} bytes instead of {wanted}")
            }
            _ => format!("the deflate stream is cut after {filled} of {wanted} bytes"),
        })
    })
}

/// As [`inflate_raw`], and the stream must end where `output` does: what no writer does is a sign
/// of damage, for a deflate stream has no checksum.
///
/// # Errors
///
/// A sentence without the file's name.
pub fn inflate_raw_exactly(input: &[u8], output: &mut [u8]) -> Result<(), String> {
    inflate_stream(input, output)?;
    INFLATER.with_borrow_mut(|inflater| {
        let used = usize::try_from(inflater.total_in()).unwrap_or(usize::MAX);
        let rest = input.get(used..).unwrap_or_default();
        // The mark of the end may not have been reached when the last byte came out.
        let before = inflater.total_out();
        let status = inflater.decompress(rest, &mut [0], FlushDecompress::Finish);
        match status {
            Ok(_) if inflater.total_out() > before => {
                Err(format!("the deflate stream holds more than {} bytes", output.len()))
            }
            Ok(Status::StreamEnd) => Ok(()),
            Ok(_) => Err(format!("the deflate stream is cut after its {} bytes", output.len())),
            Err(e) => Err(format!("not a deflate stream: {e}")),
        }
    })
}

/// Fills `output` from the zstd frames (RFC 8878) at the start of `input`: one or several in a
/// row. A frame that goes on once `output` is full is an error, as it is for QEMU.
///
/// # Errors
///
/// A sentence without the file's name.
pub fn unzstd(input: &[u8], output: &mut [u8]) -> Result<(), String> {
    UNZSTD.with_borrow_mut(|context| {
        let context = context.as_mut().ok_or("no memory for a zstd context")?;
        unzstd_frames(context, input, output)
    })
}

/// Frame by frame in one go each: the frame is decoded into `output` itself, so that no frame
/// header can ask for a window of its own.
fn unzstd_frames(
    context: &mut DCtx<'_>,
    mut input: &[u8],
    mut output: &mut [u8],
) -> Result<(), String> {
    let wanted = output.len();
    while !output.is_empty() {
        if input.is_empty() {
            let filled = wanted - output.len();
            return Err(format!("the zstd frames hold {filled} bytes instead of {wanted}"));
        }
        let size = zstd_safe::find_frame_compressed_size(input).map_err(not_zstd)?;
        let (frame, rest) = input.split_at_checked(size).ok_or("the zstd frame is cut")?;
        let filled = context.decompress(output, frame).map_err(not_zstd)?;
        output = output.get_mut(filled..).unwrap_or_default();
        input = rest;
    }
    Ok(())
}

fn not_zstd(code: usize) -> String {
    format!("not a zstd frame of this size: {}", get_error_name(code))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i * i % 251).unwrap()).collect()
    }

    fn deflated(plain: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(plain).unwrap();
        out.finish().unwrap()
    }

    fn zstd_frame(plain: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(plain, 3).unwrap()
    }

    #[test]
    fn what_was_deflated_comes_back_whatever_follows_it() {
        let plain = text(70_000);
        let mut packed = deflated(&plain);
        packed.extend([0xaa; 300]);
        let mut out = vec![1; plain.len()];
        inflate_raw(&packed, &mut out).unwrap();
        assert!(out == plain);
    }

    #[test]
    fn a_deflate_stream_that_is_too_long_fills_the_buffer_and_no_more() {
        let plain = text(70_000);
        let mut out = vec![1; 4096];
        inflate_raw(&deflated(&plain), &mut out).unwrap();
        assert!(out == plain[..4096]);
    }

    #[test]
    fn a_deflate_stream_that_is_too_short_is_an_error() {
        let mut out = vec![1; 4096];
        assert_eq!(
            inflate_raw(&deflated(&text(4095)), &mut out).unwrap_err(),
            "the deflate stream holds 4095 bytes instead of 4096"
        );
    }

    #[test]
    fn a_cut_deflate_stream_is_an_error() {
        let plain = text(4096);
        let packed = deflated(&plain);
        let mut out = vec![1; 4096];
        let e = inflate_raw(&packed[..packed.len() / 2], &mut out).unwrap_err();
        assert!(e.starts_with("the deflate stream is cut after"), "{e}");
        assert!(inflate_raw(&[], &mut out).is_err());
    }

    #[test]
    fn an_exact_deflate_stream_ends_where_its_output_does_whatever_follows() {
        for plain in [text(4096), vec![0; 4096], text(65_536), vec![7; 2 << 20]] {
            let packed = deflated(&plain);
            let mut out = vec![1; plain.len()];
            inflate_raw_exactly(&packed, &mut out).unwrap();
            assert!(out == plain);
            inflate_raw_exactly(&[&packed[..], &[0xaa; 300]].concat(), &mut out).unwrap();
            assert!(out == plain);
        }
    }

    #[test]
    fn an_inexact_deflate_stream_is_an_error() {
        for plain in [text(4097), vec![0; 4097], text(70_000)] {
            let e = inflate_raw_exactly(&deflated(&plain), &mut [1; 4096]).unwrap_err();
            assert_eq!(e, "the deflate stream holds more than 4096 bytes");
        }
        let e = inflate_raw_exactly(&deflated(&text(4095)), &mut [1; 4096]).unwrap_err();
        assert_eq!(e, "the deflate stream holds 4095 bytes instead of 4096");
    }

    #[test]
    fn a_deflate_stream_that_lacks_its_end_mark_is_cut() {
        // One stored block that is not the last, of one byte; no other block follows.
        let packed = [0, 1, 0, 0xfe, 0xff, 42];
        let mut out = [0];
        inflate_raw(&packed, &mut out).unwrap();
        assert_eq!(out, [42]);
        let e = inflate_raw_exactly(&packed, &mut out).unwrap_err();
        assert_eq!(e, "the deflate stream is cut after its 1 bytes");
    }

    #[test]
    fn bytes_that_are_no_deflate_stream_are_an_error() {
        let e = inflate_raw(&[0xff; 64], &mut [0; 4096]).unwrap_err();
        assert!(e.starts_with("not a deflate stream"), "{e}");
    }

    /// What the faster decoder takes, the strict one must take as well, with the same bytes: a
    /// damaged stream must not pass because it was fast.
    #[test]
    fn damaged_deflate_streams_are_seen_as_before() {
        let mut state = 1_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % below
        };
        let plain: Vec<u8> = (0..8192).map(|_| b"aabcd efgh\n"[random(11)]).collect();
        let whole = deflated(&plain);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let mut packed = whole.clone();
            for _ in 0..=random(3) {
                // Half of the damage hits the tables at the start.
                let end = if random(2) == 0 { 80 } else { packed.len() };
                packed[random(end)] ^= 1 << random(8);
            }
            let (mut one, mut other) = (vec![1; plain.len()], vec![2; plain.len()]);
            let strict = inflate_stream(&packed, &mut other);
            assert_eq!(inflate_raw(&packed, &mut one), strict);
            match strict {
                Ok(()) => {
                    assert!(one == other);
                    taken += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
    }

    #[test]
    fn an_inflater_works_again_after_an_error() {
        let plain = text(512);
        let mut out = vec![0; 512];
        assert!(inflate_raw(&[0xff; 64], &mut out).is_err());
        inflate_raw(&deflated(&plain), &mut out).unwrap();
        assert!(out == plain);
    }

    #[test]
    fn zstd_frames_in_a_row_fill_the_buffer_whatever_follows_them() {
        let plain = text(10_000);
        let mut packed = zstd_frame(&plain[..3000]);
        // A skippable frame holds nothing.
        packed.extend([0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7]);
        packed.extend(zstd_frame(&plain[3000..]));
        packed.extend([0; 100]);
        let mut out = vec![1; plain.len()];
        unzstd(&packed, &mut out).unwrap();
        assert!(out == plain);
    }

    #[test]
    fn a_zstd_stream_without_a_content_size_fills_the_buffer() {
        let plain = text(10_000);
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(&plain).unwrap();
        let packed = encoder.finish().unwrap();
        let mut out = vec![1; plain.len()];
        unzstd(&packed, &mut out).unwrap();
        assert!(out == plain);
    }

    #[test]
    fn zstd_frames_that_are_too_short_are_an_error() {
        let mut out = vec![1; 4096];
        assert_eq!(
            unzstd(&zstd_frame(&text(4000)), &mut out).unwrap_err(),
            "the zstd frames hold 4000 bytes instead of 4096"
        );
    }

    #[test]
    fn a_zstd_frame_that_is_too_long_is_an_error() {
        let e = unzstd(&zstd_frame(&vec![0; 1 << 24]), &mut [1; 4096]).unwrap_err();
        assert!(e.starts_with("not a zstd frame of this size"), "{e}");
    }

    #[test]
    fn a_cut_zstd_frame_is_an_error_and_the_next_one_is_read_right() {
        let plain = text(4096);
        let packed = zstd_frame(&plain);
        let mut out = vec![1; 4096];
        assert!(unzstd(&packed[..packed.len() - 1], &mut out).is_err());
        unzstd(&packed, &mut out).unwrap();
        assert!(out == plain);
    }

    #[test]
    fn an_empty_buffer_needs_no_input_frames() {
        assert_eq!(unzstd(&[], &mut []), Ok(()));
    }
}
