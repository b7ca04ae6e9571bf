//! The sizes of a dynamic disk, and what a single block's entry must satisfy.
//!
//! Plain numbers that never change while the image is open; nothing here touches the file.

use super::bitmap::bitmap_bytes;
use super::layout::SECTOR;
use super::locator::Owned;
use crate::error::{Error, ErrorKind, Result};

/// Sizes of a dynamic disk. Bytes unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Of the virtual disk.
    pub(crate) virtual_size: u64,
    /// Of a block's data, a power of two.
    pub(crate) block_size: u64,
    /// Its logarithm.
    block_shift: u32,
    /// Of a block's bitmap.
    pub(crate) bitmap: u64,
    /// Blocks of the disk.
    pub(crate) blocks: u32,
    /// What no block may lie on, sorted.
    pub(crate) owned: Vec<Owned>,
}

impl Shape {
    pub(crate) fn new(virtual_size: u64, block_size: u32, blocks: u32, owned: Vec<Owned>) -> Shape {
        Shape {
            virtual_size,
            block_size: block_size.into(),
            block_shift: block_size.trailing_zeros(),
            bitmap: bitmap_bytes(block_size),
            blocks,
            owned,
        }
    }

    /// Bytes of the file that a block takes: bitmap and data.
    pub(crate) fn slot(&self) -> u64 {
        self.bitmap + self.block_size
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

    /// Bytes of a block that belong to the disk; less than all for the last one only (V-13).
    pub(crate) fn visible(&self, block: u32) -> u64 {
        self.virtual_size
            .saturating_sub(self.start_of(block))
            .min(self.block_size)
    }

    /// Sectors of a block that belong to the disk.
    #[inline]
    pub(crate) fn sectors(&self, block: u32) -> u64 {
        self.visible(block).div_ceil(SECTOR)
    }

    /// The file offset of the data of a block whose bitmap is at `sector`.
    #[inline]
    pub(crate) fn data_at(&self, sector: u32) -> u64 {
        u64::from(sector) * SECTOR + self.bitmap
    }

    /// The end of `start..start + len`, which must lie inside the disk.
    #[inline]
    pub(crate) fn end_of_range(&self, start: u64, len: u64) -> Result<u64> {
        inside(start, len, self.virtual_size)
    }

    /// Whether a block may lie at `sector`: the part of it that counts is inside the file, and on
    /// no other structure (V-12, S-1). `entry_at` is where the table says so, for the message.
    pub(crate) fn check_entry(
        &self,
        block: u32,
        sector: u32,
        data_end: u64,
        entry_at: u64,
    ) -> Result<()> {
        let start = u64::from(sector) * SECTOR;
        let end = start + self.bitmap + self.visible(block).next_multiple_of(SECTOR);
        let clash = self.owned.iter().find(|owned| owned.touches(start, end));
        if clash.is_none() && end <= data_end {
            return Ok(());
        }
        let message = match clash {
            Some(owned) => format!("puts block {block} onto the {}", owned.what),
            None => format!("puts block {block} outside the file"),
        };
        Err(
            Error::new(ErrorKind::BatCorrupt, "VHD block allocation table", message)
                .at(entry_at)
                .with_found(format_args!("bytes {start} to {end}"))
                .with_wanted(format_args!(
                    "an end of at most {data_end}, apart from the headers"
                ))
                .by("S-1"),
        )
    }
}

/// The end of a range, which must lie inside `size`.
pub(crate) fn inside(start: u64, len: u64, size: u64) -> Result<u64> {
    match start.checked_add(len) {
        Some(end) if end <= size => Ok(end),
        _ => Err(
            Error::new(ErrorKind::OutOfRange, "range", "lies outside the disk")
                .with_found(format_args!("{len} bytes at {start}"))
                .with_wanted(format_args!("an end of at most {size}")),
        ),
    }
}
