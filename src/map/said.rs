//! What a history remembers of a layer's word: 12 bytes, of which 8 are the word.

use crate::extent::{Fault, HostOffset, Slot, Word};

/// A word in 64 bits: two bits of tag, then an offset, a token or a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content(u64);

const TAG_SHIFT: u32 = 62;
const VALUE: u64 = (1 << TAG_SHIFT) - 1;

const HOST: u64 = 0;
const PACKED: u64 = 1;
const PLAIN: u64 = 2;
const FAULT: u64 = 3;

const BELOW: Content = Content(PLAIN << TAG_SHIFT);
const ZERO: Content = Content((PLAIN << TAG_SHIFT) | 1);

impl Content {
    /// `len` is that of the extent: an offset that would leave the 62 bits on its way, which no
    /// file is large enough for, is a fault.
    fn new(word: Word, len: u64) -> Self {
        match word {
            Word::Below => BELOW,
            Word::Zero => ZERO,
            Word::At(Slot::Host(HostOffset(at))) => match at.checked_add(len) {
                Some(end) if end <= VALUE => Self((HOST << TAG_SHIFT) | at),
                _ => Self::fault(Fault::PastEnd),
            },
            Word::At(Slot::Packed(token)) if token <= VALUE => Self((PACKED << TAG_SHIFT) | token),
            Word::At(Slot::Packed(_)) => Self::fault(Fault::PastEnd),
            Word::Bad(fault) => Self::fault(fault),
        }
    }

    fn fault(fault: Fault) -> Self {
        let code = fault as u64;
        Self((FAULT << TAG_SHIFT) | code)
    }

    fn word(self) -> Word {
        let value = self.0 & VALUE;
        match self.0 >> TAG_SHIFT {
            HOST => Word::At(Slot::Host(HostOffset(value))),
            PACKED => Word::At(Slot::Packed(value)),
            PLAIN if self == BELOW => Word::Below,
            PLAIN => Word::Zero,
            _ => {
                let fault = usize::try_from(value).ok().and_then(|code| Fault::ALL.get(code));
                Word::Bad(fault.copied().unwrap_or(Fault::Unreadable))
            }
        }
    }

    fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT
    }
}

/// A word and the rank (within the trunk) of the layer that said it.
///
/// Zeros are the same whoever says them, and so is silence: they all carry rank 0, so that equal
/// meaning is equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) layer: u32,
    pub(super) content: Content,
}

impl Said {
    pub(super) const BELOW: Self = Self { layer: 0, content: BELOW };
    pub(super) const ZERO: Self = Self { layer: 0, content: ZERO };

    /// What the layer of rank `layer` says of an extent of `len` bytes.
    pub(super) fn new(layer: u32, word: Word, len: u64) -> Self {
        let content = Content::new(word, len);
        let layer = if content.tag() == PLAIN { 0 } else { layer };
        Self { layer, content }
    }

    pub(super) fn word(self) -> Word {
        self.content.word()
    }

    /// What is said of the byte that lies `by` bytes further on in the same extent.
    pub(super) fn advance(self, by: u32) -> Self {
        match self.content.tag() {
            HOST => Self { content: Content(self.content.0 + u64::from(by)), ..self },
            _ => self,
        }
    }

    /// Whether `next`, said of the byte `by` bytes further on, only goes on with this. Packed
    /// extents never do: two of them are two clusters, even of the same token.
    pub(super) fn goes_on(self, by: u32, next: Self) -> bool {
        self.content.tag() != PACKED && self.advance(by) == next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_comes_back_as_it_was() {
        let words = [
            Word::Below,
            Word::Zero,
            Word::At(Slot::Host(HostOffset(0))),
            Word::At(Slot::Host(HostOffset(VALUE - 512))),
            Word::At(Slot::Packed(0)),
            Word::At(Slot::Packed(VALUE)),
        ];
        for word in words.into_iter().chain(Fault::ALL.map(Word::Bad)) {
            assert_eq!(Said::new(7, word, 512).word(), word);
        }
    }

    #[test]
    fn an_offset_past_62_bits_is_a_fault_and_not_another_word() {
        for word in [
            Word::At(Slot::Host(HostOffset(VALUE - 511))),
            Word::At(Slot::Host(HostOffset(u64::MAX))),
            Word::At(Slot::Packed(VALUE + 1)),
        ] {
            assert_eq!(Said::new(7, word, 512).word(), Word::Bad(Fault::PastEnd));
        }
    }

    #[test]
    fn zeros_of_two_layers_are_equal_and_their_bytes_are_not() {
        assert_eq!(Said::new(1, Word::Zero, 1), Said::new(2, Word::Zero, 1));
        let host = Word::At(Slot::Host(HostOffset(0)));
        assert_ne!(Said::new(1, host, 1), Said::new(2, host, 1));
    }
}
