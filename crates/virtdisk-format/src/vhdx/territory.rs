//! What of the file is whose besides the blocks: header section, log, regions.
//!
//! Blocks may lie on none of these, and space is never taken from them. The length of
//! the file is kept here too: a block may lie inside it only.

use std::sync::atomic::{AtomicU64, Ordering};

use super::header::LogPlace;
use super::layout::{HEADER_SECTION, LARGEST_FILE};
use crate::error::{Error, ErrorKind, Result};

/// A range of the file that belongs to a structure. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Its name, for messages.
    pub(crate) what: &'static str,
}

impl Owned {
    pub(crate) fn new(start: u64, len: u64, what: &'static str) -> Owned {
        Owned {
            start,
            end: start.saturating_add(len),
            what,
        }
    }

    /// Whether any byte of `start..end` belongs to it.
    pub(crate) fn touches(&self, start: u64, end: u64) -> bool {
        start < self.end && self.start < end
    }
}

/// Where in the file blocks may lie.
pub(crate) struct Territory {
    /// Sorted, apart from each other.
    owned: Vec<Owned>,
    /// Grows before a table names anything behind its old value.
    file_len: AtomicU64,
}

impl Territory {
    /// The territory of a file of `file_len` bytes; `regions` are sorted and apart.
    pub(crate) fn new(regions: &[Owned], log: LogPlace, file_len: u64) -> Territory {
        let mut owned = vec![Owned::new(0, HEADER_SECTION, "header section")];
        if log.length > 0 {
            owned.push(Owned::new(log.offset, log.length, "log"));
        }
        owned.extend_from_slice(regions);
        owned.sort_by_key(|range| range.start);
        Territory {
            owned,
            file_len: AtomicU64::new(file_len),
        }
    }

    /// What has an owner, sorted.
    pub(crate) fn owned(&self) -> &[Owned] {
        &self.owned
    }

    /// The length of the file in bytes.
    pub(crate) fn file_len(&self) -> u64 {
        self.file_len.load(Ordering::Acquire)
    }

    /// The file has another length now.
    pub(crate) fn set_file_len(&self, len: u64) {
        self.file_len.store(len, Ordering::Release);
    }

    /// The structure on which `start..end` would lie.
    fn clash(&self, start: u64, end: u64) -> Option<&Owned> {
        let next = self.owned.partition_point(|range| range.end <= start);
        self.owned
            .get(next)
            .filter(|range| range.touches(start, end))
    }

    /// Whether `len` bytes at `offset` are nobody else's and begin inside the file. Answers how
    /// many of them are inside the file: all, but for a block that was cut short.
    #[inline]
    pub(crate) fn room(&self, offset: u64, len: u64) -> Option<u64> {
        let end = offset.checked_add(len).filter(|&end| end <= LARGEST_FILE)?;
        let inside = self.file_len().checked_sub(offset).filter(|&len| len > 0)?;
        self.clash(offset, end).is_none().then_some(inside.min(len))
    }

    /// As [`Territory::room`], for a block that the table entry at `entry_at` puts there.
    pub(crate) fn check(&self, offset: u64, len: u64, what: &str, entry_at: u64) -> Result<u64> {
        if let Some(inside) = self.room(offset, len) {
            return Ok(inside);
        }
        let end = offset.saturating_add(len);
        let (kind, message) = match self.clash(offset, end) {
            Some(owned) => (
                ErrorKind::BatCorrupt,
                format!("puts {what} onto the {}", owned.what),
            ),
            None => (
                ErrorKind::InvalidFileSize,
                format!("puts {what} behind the end of the file, which was cut"),
            ),
        };
        Err(Error::new(kind, "VHDX block allocation table", message)
            .at(entry_at)
            .with_found(format_args!("bytes {offset} to {end}"))
            .with_wanted(format_args!(
                "a start between {HEADER_SECTION} and {}",
                self.file_len()
            ))
            .by("X-45"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::MIB;
    use super::*;

    #[test]
    fn a_block_lies_inside_the_file_and_on_no_structure() {
        //
        let regions = [
            Owned::new(2 * MIB, MIB, "metadata"),
            Owned::new(5 * MIB, MIB, "block allocation table"),
        ];
        let log = LogPlace {
            offset: MIB,
            length: MIB,
        };
        let territory = Territory::new(&regions, log, 9 * MIB + 512);
        for (offset, len, room) in [
            (0, 1, None),
            (MIB, MIB, None),
            (2 * MIB, MIB, None),
            (3 * MIB, 2 * MIB, Some(2 * MIB)),
            (3 * MIB, 2 * MIB + 1, None),
            (6 * MIB, 3 * MIB, Some(3 * MIB)),
            (8 * MIB, 2 * MIB, Some(MIB + 512)),
            (9 * MIB, MIB, Some(512)),
            (10 * MIB, MIB, None),
            (u64::MAX - MIB, 2 * MIB, None),
            (u64::MAX - MIB, MIB, None),
        ] {
            assert_eq!(territory.room(offset, len), room, "{len} at {offset}");
        }
        territory.set_file_len(12 * MIB);
        assert_eq!(territory.room(10 * MIB, 4 * MIB), Some(2 * MIB));
    }
}
