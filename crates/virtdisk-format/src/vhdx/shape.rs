//! The sizes of a disk and the arithmetic of its table (2.6, X-40).
//!
//! Plain numbers that never change while the image is open; nothing here touches the file. All of
//! it is 64-bit arithmetic on values that [`Shape::new`] has bounded: the largest disk has 2^26
//! blocks and 2^14 chunks.

use super::layout::{BITMAP_BLOCK, CHUNK_SECTORS};
use crate::error::Result;
use crate::vhd::inside;

/// Sizes of a disk. Bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Of the virtual disk.
    pub(crate) virtual_size: u64,
    /// Of a block, a power of two.
    pub(crate) block_size: u64,
    /// Of a logical sector: 512 or 4096.
    pub(crate) sector_size: u64,
    /// Blocks of the disk.
    pub(crate) blocks: u32,
    /// Whether blocks may be the parent's.
    pub(crate) differencing: bool,
    block_shift: u32,
    sector_shift: u32,
    /// Logarithm of the blocks of a chunk.
    ratio_shift: u32,
}

/// What an entry of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A block of the disk.
    Payload(u32),
    /// The sector bitmap of a chunk.
    Bitmap(u32),
    /// Nothing: a block behind the end of the disk.
    Padding,
}

impl Shape {
    /// The shape of a disk whose sizes were checked: a block of 1 to 256 MiB, a sector of
    /// 512 or 4096, at most 64 TiB.
    pub(crate) fn new(
        virtual_size: u64,
        block_size: u32,
        sector_size: u32,
        differencing: bool,
    ) -> Shape {
        let block_shift = block_size.trailing_zeros();
        let sector_shift = sector_size.trailing_zeros();
        let chunk_shift = CHUNK_SECTORS.trailing_zeros() + sector_shift;
        let blocks = virtual_size.div_ceil(block_size.into());
        Shape {
            virtual_size,
            block_size: block_size.into(),
            sector_size: sector_size.into(),
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            differencing,
            block_shift,
            sector_shift,
            ratio_shift: chunk_shift.saturating_sub(block_shift),
        }
    }

    /// Blocks of a chunk.
    pub(crate) fn ratio(&self) -> u32 {
        1 << self.ratio_shift
    }

    /// Chunks of the disk.
    pub(crate) fn chunks(&self) -> u32 {
        self.blocks.div_ceil(self.ratio())
    }

    /// Entries of the table that count: up to the last block's, or the last chunk's bitmap's.
    pub(crate) fn entries(&self) -> u32 {
        if self.differencing {
            self.chunks() * (self.ratio() + 1)
        } else {
            self.blocks + (self.blocks.saturating_sub(1) >> self.ratio_shift)
        }
    }

    /// The entry of a block.
    #[inline]
    pub(crate) fn index_of(&self, block: u32) -> u32 {
        block + (block >> self.ratio_shift)
    }

    /// The entry of a chunk's bitmap.
    #[inline]
    pub(crate) fn bitmap_index(&self, chunk: u32) -> u32 {
        chunk * (self.ratio() + 1) + self.ratio()
    }

    /// What an entry is about.
    #[inline]
    pub(crate) fn subject(&self, index: u32) -> Subject {
        let group = self.ratio() + 1;
        let (chunk, place) = (index / group, index % group);
        let block = index - chunk;
        if place == self.ratio() {
            Subject::Bitmap(chunk)
        } else if block < self.blocks {
            Subject::Payload(block)
        } else {
            Subject::Padding
        }
    }

    /// The chunk that a block is in.
    #[inline]
    pub(crate) fn chunk_of(&self, block: u32) -> u32 {
        block >> self.ratio_shift
    }

    /// The block that a virtual byte is in.
    #[inline]
    pub(crate) fn block_of(&self, at: u64) -> u32 {
        // A position inside the disk is inside its blocks, whose number fits.
        u32::try_from(at >> self.block_shift).unwrap_or(u32::MAX)
    }

    /// The first virtual byte of a block.
    #[inline]
    pub(crate) fn start_of(&self, block: u32) -> u64 {
        u64::from(block) << self.block_shift
    }

    /// Where a virtual byte lies in its block.
    #[inline]
    pub(crate) fn within(&self, at: u64) -> u64 {
        at & (self.block_size - 1)
    }

    /// Bytes of a block that belong to the disk; less than all for the last one only.
    pub(crate) fn visible(&self, block: u32) -> u64 {
        self.virtual_size
            .saturating_sub(self.start_of(block))
            .min(self.block_size)
    }

    /// The sector of its chunk that a virtual byte is in: its bit in the bitmap.
    #[inline]
    pub(crate) fn bit_of(&self, at: u64) -> u64 {
        (at >> self.sector_shift) & (CHUNK_SECTORS - 1)
    }

    /// Bytes of a chunk's bitmap that are about one block.
    pub(crate) fn bitmap_part(&self) -> u64 {
        BITMAP_BLOCK >> self.ratio_shift
    }

    /// The end of `start..start + len`, which must lie inside the disk.
    #[inline]
    pub(crate) fn end_of_range(&self, start: u64, len: u64) -> Result<u64> {
        inside(start, len, self.virtual_size)
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{LARGEST_DISK, MIB};
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_sheet() {
        for (block, at_512, at_4096) in [
            (1, 4096, 32768),
            (2, 2048, 16384),
            (32, 128, 1024),
            (256, 16, 128),
        ] {
            let ratio = |sector| Shape::new(MIB, block << 20, sector, false).ratio();
            assert_eq!((ratio(512), ratio(4096)), (at_512, at_4096));
        }
    }

    #[test]
    fn entries_interleave_at_the_border_of_a_chunk() {
        // chunks of 4 GiB and of 32 GiB.
        for (sector, chunk) in [(512, 4_u64 << 30), (4096, 32 << 30)] {
            let shape = |size, differencing| Shape::new(size, 32 << 20, sector, differencing);
            let ratio = shape(chunk, false).ratio();
            assert_eq!(shape(chunk, false).entries(), ratio);
            assert_eq!(shape(chunk, true).entries(), ratio + 1);
            assert_eq!(shape(chunk + 1, false).entries(), ratio + 2);
            assert_eq!(shape(chunk + 1, true).entries(), 2 * (ratio + 1));
            let large = shape(3 * chunk, true);
            assert_eq!(large.index_of(large.block_of(chunk - 1)), ratio - 1);
            assert_eq!(large.bitmap_index(0), ratio);
            assert_eq!(large.index_of(large.block_of(chunk)), ratio + 1);
            assert_eq!(
                (large.bit_of(chunk - 1), large.bit_of(chunk)),
                ((1 << 23) - 1, 0)
            );
        }
    }

    #[test]
    fn every_entry_knows_its_subject() {
        for shape in [
            Shape::new(LARGEST_DISK, 1 << 20, 512, true),
            Shape::new(10 << 30, 256 << 20, 512, false),
            Shape::new((5 << 30) + 512, 32 << 20, 512, true),
            Shape::new(4 << 20, 32 << 20, 4096, true),
        ] {
            for block in (0..shape.blocks).step_by(997).chain([shape.blocks - 1]) {
                let index = shape.index_of(block);
                assert_eq!(shape.subject(index), Subject::Payload(block));
                assert!(index < shape.entries());
            }
            for chunk in 0..shape.chunks() {
                let index = shape.bitmap_index(chunk);
                assert_eq!(shape.subject(index), Subject::Bitmap(chunk));
                assert!(!shape.differencing || index < shape.entries());
            }
            let last = shape.entries() - 1;
            let wanted = if shape.differencing {
                Subject::Bitmap(shape.chunks() - 1)
            } else {
                Subject::Payload(shape.blocks - 1)
            };
            assert_eq!(shape.subject(last), wanted);
        }
        let small = Shape::new(4 << 20, 32 << 20, 512, true);
        assert_eq!(small.subject(1), Subject::Padding);
        // 2.9: the largest table, 512.125 MiB.
        let largest = Shape::new(LARGEST_DISK, 1 << 20, 512, true);
        assert_eq!(largest.entries(), 67_108_864 + 16_384);
    }
}
