//! XXH32 with seed 0 (the xxHash specification, `doc/xxhash_spec.md`): the checksum of lz4 frames.
//!
//! Ours, because a decoder that stops between two blocks of a frame has to keep the state so far:
//! after whole stripes that is 16 bytes, which fit beside the block.

const PRIME_1: u32 = 0x9E37_79B1;
const PRIME_2: u32 = 0x85EB_CA77;
const PRIME_3: u32 = 0xC2B2_AE3D;
const PRIME_4: u32 = 0x27D4_EB2F;
const PRIME_5: u32 = 0x1656_67B1;

/// Bytes that are mixed in at a time.
pub const STRIPE: usize = 16;

/// The state after a number of whole stripes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xxh32 {
    lanes: [u32; 4],
}

impl Default for Xxh32 {
    fn default() -> Self {
        let lanes = [PRIME_1.wrapping_add(PRIME_2), PRIME_2, 0, 0_u32.wrapping_sub(PRIME_1)];
        Self { lanes }
    }
}

impl Xxh32 {
    /// Mixes in the whole stripes of `bytes` and returns what is left: fewer than [`STRIPE`]
    /// bytes.
    pub fn update<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (stripes, rest) = bytes.as_chunks::<STRIPE>();
        let mut lanes = self.lanes;
        for stripe in stripes {
            for (lane, word) in lanes.iter_mut().zip(words(stripe)) {
                *lane = lane
                    .wrapping_add(word.wrapping_mul(PRIME_2))
                    .rotate_left(13)
                    .wrapping_mul(PRIME_1);
            }
        }
        self.lanes = lanes;
        rest
    }

    /// The hash of `len` bytes, of which all but `rest` were mixed in.
    pub fn digest(self, len: u64, rest: &[u8]) -> u32 {
        let mut hash = if len < STRIPE as u64 {
            PRIME_5
        } else {
            let [a, b, c, d] = self.lanes;
            a.rotate_left(1)
                .wrapping_add(b.rotate_left(7))
                .wrapping_add(c.rotate_left(12))
                .wrapping_add(d.rotate_left(18))
        };
        // The specification takes the length modulo 2^32.
        let [l0, l1, l2, l3, ..] = len.to_le_bytes();
        hash = hash.wrapping_add(u32::from_le_bytes([l0, l1, l2, l3]));
        let (quads, bytes) = rest.as_chunks::<4>();
        for quad in quads {
            let word = u32::from_le_bytes(*quad).wrapping_mul(PRIME_3);
            hash = hash.wrapping_add(word).rotate_left(17).wrapping_mul(PRIME_4);
        }
        for byte in bytes {
            let word = u32::from(*byte).wrapping_mul(PRIME_5);
            hash = hash.wrapping_add(word).rotate_left(11).wrapping_mul(PRIME_1);
        }
        hash ^= hash >> 15;
        hash = hash.wrapping_mul(PRIME_2);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(PRIME_3);
        hash ^ (hash >> 16)
    }

    /// The state as bytes.
    pub fn to_bytes(self) -> [u8; STRIPE] {
        let [a, b, c, d] = self.lanes.map(u32::to_le_bytes);
        let mut bytes = [0; STRIPE];
        for (to, from) in bytes.iter_mut().zip([a, b, c, d].as_flattened()) {
            *to = *from;
        }
        bytes
    }

    /// The state of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8; STRIPE]) -> Self {
        Self { lanes: words(bytes) }
    }
}

/// The hash of `bytes`.
pub fn xxh32(bytes: &[u8]) -> u32 {
    let mut state = Xxh32::default();
    let rest = state.update(bytes);
    state.digest(bytes.len() as u64, rest)
}

fn words(stripe: &[u8; STRIPE]) -> [u32; 4] {
    let (quads, _) = stripe.as_chunks::<4>();
    let mut words = [0; 4];
    for (word, quad) in words.iter_mut().zip(quads) {
        *word = u32::from_le_bytes(*quad);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i * 7919 % 251).unwrap()).collect()
    }

    #[test]
    fn hashes_are_those_of_another_implementation() {
        for len in (0..100).chain([255, 256, 4095, 65_536, 65_543]) {
            let bytes = bytes(len);
            let theirs = twox_hash::XxHash32::oneshot(0, &bytes);
            assert_eq!(xxh32(&bytes), theirs, "{len} bytes");
        }
    }

    #[test]
    fn a_hash_may_stop_between_stripes_and_go_on_from_bytes() {
        let bytes = bytes(1000);
        let mut state = Xxh32::default();
        assert!(state.update(&bytes[..320]).is_empty());
        let mut state = Xxh32::from_bytes(&state.to_bytes());
        let rest = state.update(&bytes[320..]);
        assert_eq!(rest.len(), 1000 % STRIPE);
        assert_eq!(state.digest(1000, rest), xxh32(&bytes));
    }
}
