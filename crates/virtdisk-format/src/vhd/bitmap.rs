//! A block's sector bitmap: which of its sectors are in the file (1.8).
//!
//! Bits are most significant first (V-10), but for XenServer's first version, which wrote them
//! least significant first (1.10). In memory a bitmap is words whose bit n is the n-th sector,
//! whichever way the file has it. In a dynamic disk a 0 bit means zeros whatever the file holds
//! there (V-11), in a differencing one it means the parent.

use super::layout::SECTOR;

/// Sectors of a word.
const WORD: u64 = 64;

/// Bytes that the bitmap of a block takes in the file, a multiple of 512.
pub(crate) fn bitmap_bytes(block_size: u32) -> u64 {
    (u64::from(block_size) / SECTOR)
        .div_ceil(8)
        .next_multiple_of(SECTOR)
}

/// In which order the bits of a byte stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitOrder {
    /// As the specification says: sector 0 is the most significant bit of byte 0.
    MostSignificantFirst,
    /// XenServer 0.1: the least significant.
    LeastSignificantFirst,
}

impl BitOrder {
    fn turn(self, byte: u8) -> u8 {
        match self {
            BitOrder::MostSignificantFirst => byte.reverse_bits(),
            BitOrder::LeastSignificantFirst => byte,
        }
    }

    /// The word that up to eight bytes of the file make; bytes that are not there are zeros.
    pub(crate) fn word(self, bytes: &[u8]) -> u64 {
        let mut turned = [0; 8];
        for (turned, &byte) in turned.iter_mut().zip(bytes) {
            *turned = self.turn(byte);
        }
        u64::from_le_bytes(turned)
    }

    /// The eight bytes of the file that make a word.
    pub(crate) fn bytes(self, word: u64) -> [u8; 8] {
        word.to_le_bytes().map(|byte| self.turn(byte))
    }

    /// Whether all of the first `sectors` of the bitmap in `bytes` are present.
    pub(crate) fn all_present(self, bytes: &[u8], sectors: u64) -> bool {
        let word = |index: usize| {
            let rest = bytes.get(index.saturating_mul(8)..).unwrap_or_default();
            self.word(rest.get(..8).unwrap_or(rest))
        };
        sectors == 0 || run(word, 0, sectors) == (sectors, true)
    }
}

/// The run of equal bits from `sector` on, up to `end`, which is behind it: its length in sectors
/// and its bit. `word` answers the words of the bitmap.
pub(crate) fn run(word: impl Fn(usize) -> u64, sector: u64, end: u64) -> (u64, bool) {
    let word_of = |sector| word(usize::try_from(sector / WORD).unwrap_or(usize::MAX));
    let present = word_of(sector) >> (sector % WORD) & 1 == 1;
    let mut next = sector;
    while next < end {
        let bits = word_of(next) >> (next % WORD);
        let equal = if present {
            bits.trailing_ones()
        } else {
            bits.trailing_zeros()
        };
        let left = WORD - next % WORD;
        next += u64::from(equal).min(left);
        if u64::from(equal) < left {
            break;
        }
    }
    (next.min(end) - sector, present)
}

/// The bits of a word that stand for sectors of `first..end`.
pub(crate) fn mask(word: usize, first: u64, end: u64) -> u64 {
    let start = (word as u64).saturating_mul(WORD);
    let below = |sector: u64| match sector.saturating_sub(start) {
        count @ 0..WORD => (1_u64 << count) - 1,
        _ => u64::MAX,
    };
    below(end) & !below(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_bytes_are_whole_sectors() {
        assert_eq!(bitmap_bytes(512), 512);
        assert_eq!(bitmap_bytes(512 << 10), 512);
        assert_eq!(bitmap_bytes(2 << 20), 512);
        assert_eq!(bitmap_bytes(4 << 20), 1024);
        assert_eq!(bitmap_bytes(1 << 31), 512 << 10);
    }

    #[test]
    fn bits_are_most_significant_first_and_isolated() {
        // V-10: 0xCB is what Windows wrote for sectors 184..=191, of which these are present.
        let mut bytes = [0xFF; 512];
        bytes[23] = 0xCB;
        let words = |order: BitOrder| -> Vec<u64> {
            bytes.chunks(8).map(|bytes| order.word(bytes)).collect()
        };
        let present = |words: &[u64]| -> Vec<u64> {
            (184..192)
                .filter(|&sector| run(|index| words[index], sector, sector + 1).1)
                .collect()
        };
        let windows = words(BitOrder::MostSignificantFirst);
        assert_eq!(present(&windows), [184, 185, 188, 190, 191]);
        let found = |sector, end| run(|index| windows[index], sector, end);
        assert_eq!(found(184, 192), (2, true));
        assert_eq!(found(186, 192), (2, false));
        assert_eq!(found(0, 4096), (186, true));
        assert_eq!(found(190, 4096), (4096 - 190, true));
        let xen = words(BitOrder::LeastSignificantFirst);
        assert_eq!(present(&xen), [184, 185, 187, 190, 191]);
        for order in [
            BitOrder::MostSignificantFirst,
            BitOrder::LeastSignificantFirst,
        ] {
            let again: Vec<u8> = words(order)
                .into_iter()
                .flat_map(|word| order.bytes(word))
                .collect();
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn only_the_sectors_that_count_decide_whether_a_block_is_whole() {
        let order = BitOrder::MostSignificantFirst;
        let mut bytes = [0; 512];
        bytes[0] = 0xFF;
        bytes[1] = 0b1110_0000;
        assert!(order.all_present(&bytes, 11));
        assert!(!order.all_present(&bytes, 12));
        assert!(order.all_present(&bytes, 8));
        assert!(order.all_present(&[0xFF; 512], 4096));
        assert!(!order.all_present(&[0xFF; 511], 4096));
        assert!(!order.all_present(&[], 1));
    }

    #[test]
    fn a_mask_is_the_part_of_a_range_that_a_word_has() {
        assert_eq!(mask(0, 0, 1), 1);
        assert_eq!(mask(0, 0, 64), u64::MAX);
        assert_eq!(mask(0, 3, 200), !7);
        assert_eq!(mask(1, 3, 200), u64::MAX);
        assert_eq!(mask(3, 3, 200), 0xFF);
        assert_eq!(mask(4, 3, 200), 0);
        assert_eq!(mask(1, 130, 200), 0);
    }
}
