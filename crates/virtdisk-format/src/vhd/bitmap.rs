//! A block's sector bitmap: which of its sectors hold data (1.8).
//!
//! Bits are most significant first (V-10), but for XenServer's first version, which wrote them
//! least significant first (1.10). In a dynamic disk a 0 bit means zeros whatever the file holds
//! there (V-11). Nearly all images set all bits of every block they allocate; the bitmaps of
//! those that don't are kept here, up to a fixed number of bytes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::layout::SECTOR;

/// Bytes of partial bitmaps that are kept at most.
const MOST_BYTES: usize = 1 << 20;

/// Bytes that the bitmap of a block takes in the file, a multiple of 512.
pub(crate) fn bitmap_bytes(block_size: u32) -> u64 {
    (u64::from(block_size) / SECTOR)
        .div_ceil(8)
        .next_multiple_of(SECTOR)
}

/// In which order the bits of a byte stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitOrder {
    /// As the specification says: sector 0 is the most significant bit of byte 0.
    MostSignificantFirst,
    /// XenServer 0.1: the least significant.
    LeastSignificantFirst,
}

/// One block's bitmap, of which at least one visible sector is 0.
#[derive(Clone, Debug)]
pub(crate) struct Bitmap {
    bits: Arc<[u8]>,
    order: BitOrder,
}

impl Bitmap {
    /// The bitmap in `bytes`, or `None` if all of the first `sectors` are present.
    pub(crate) fn of(bytes: &[u8], sectors: u64, order: BitOrder) -> Option<Bitmap> {
        let mut bitmap = Bitmap {
            bits: Arc::from([]),
            order,
        };
        let whole_bytes = usize::try_from(sectors / 8)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let rest = (sectors / 8 * 8)..sectors;
        if bytes[..whole_bytes].iter().all(|&byte| byte == 0xFF)
            && rest.into_iter().all(|sector| present(bytes, sector, order))
        {
            return None;
        }
        bitmap.bits = bytes.into();
        Some(bitmap)
    }

    /// Whether the sector holds data.
    pub(crate) fn present(&self, sector: u64) -> bool {
        present(&self.bits, sector, self.order)
    }

    /// The run of equal bits from `sector` on, up to `end`: its length in sectors and its bit.
    pub(crate) fn run(&self, sector: u64, end: u64) -> (u64, bool) {
        let bit = self.present(sector);
        let mut next = sector + 1;
        while next < end && self.present(next) == bit {
            next += 1;
        }
        (next - sector, bit)
    }
}

fn present(bits: &[u8], sector: u64, order: BitOrder) -> bool {
    let within = sector % 8;
    let shift = match order {
        BitOrder::MostSignificantFirst => 7 - within,
        BitOrder::LeastSignificantFirst => within,
    };
    usize::try_from(sector / 8)
        .ok()
        .and_then(|index| bits.get(index))
        .is_some_and(|byte| byte >> shift & 1 == 1)
}

/// The partial bitmaps that were read last. Whoever changes a bitmap in the file holds the lock
/// for writing meanwhile, and so does whoever reads one to keep it: what is kept is what the file
/// holds.
#[derive(Default)]
pub(crate) struct Partial {
    pub(crate) kept: RwLock<HashMap<u32, Bitmap>>,
}

impl Partial {
    /// The bitmap of a block, if it is kept.
    pub(crate) fn get(&self, block: u32) -> Option<Bitmap> {
        self.kept.read().get(&block).cloned()
    }
}

/// Keeps a bitmap; forgets all others when there are too many.
pub(crate) fn keep(kept: &mut HashMap<u32, Bitmap>, block: u32, bitmap: Bitmap) {
    let each = bitmap.bits.len().max(1);
    if kept.len() >= MOST_BYTES / each {
        kept.clear();
    }
    kept.insert(block, bitmap);
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
        let bitmap = Bitmap::of(&bytes, 4096, BitOrder::MostSignificantFirst).unwrap();
        let present: Vec<u64> = (184..192)
            .filter(|&sector| bitmap.present(sector))
            .collect();
        assert_eq!(present, [184, 185, 188, 190, 191]);
        assert_eq!(bitmap.run(184, 192), (2, true));
        assert_eq!(bitmap.run(186, 192), (2, false));
        assert_eq!(bitmap.run(0, 4096), (186, true));
        let xen = Bitmap::of(&bytes, 4096, BitOrder::LeastSignificantFirst).unwrap();
        let present: Vec<u64> = (184..192).filter(|&sector| xen.present(sector)).collect();
        assert_eq!(present, [184, 185, 187, 190, 191]);
    }

    #[test]
    fn only_the_sectors_that_count_decide_whether_a_block_is_whole() {
        let order = BitOrder::MostSignificantFirst;
        let mut bytes = [0; 512];
        bytes[0] = 0xFF;
        bytes[1] = 0b1110_0000;
        assert!(Bitmap::of(&bytes, 11, order).is_none());
        assert!(Bitmap::of(&bytes, 12, order).is_some());
        assert!(Bitmap::of(&bytes, 8, order).is_none());
        assert!(Bitmap::of(&[0xFF; 512], 4096, order).is_none());
    }

    #[test]
    fn what_is_kept_stays_bounded() {
        let partial = Partial::default();
        let bitmap = Bitmap::of(&[0; 512], 4096, BitOrder::MostSignificantFirst).unwrap();
        for block in 0..10_000 {
            keep(&mut partial.kept.write(), block, bitmap.clone());
        }
        assert!(partial.kept.read().len() <= MOST_BYTES / 512);
        assert!(partial.get(9_999).is_some());
    }
}
