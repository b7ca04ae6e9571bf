//! The log while it is written (2.5, X-63, X-64).
//!
//! An entry goes into the ring; a flush makes it durable; only then its pages go to their places;
//! the next flush makes those durable too, and later entries name a tail behind the first. The ring
//! is overwritten only before the tail that the last durable entry names, so that at every instant
//! its entries from there on are whole: a torn one is as if it had not been written.
//!
//! One flush is told to the journal by [`Journal::mark`] before it and [`Journal::flushed`] after;
//! any number of entries share it.

use std::collections::VecDeque;
use std::sync::Arc;

use uuid::Uuid;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::header::LogPlace;
use super::layout::{
    DATA_DESCRIPTOR, DATA_SIGNATURE, ENTRY_SIGNATURE, LOG_SECTOR, MIB, RawDataSector,
    RawDescriptor, RawEntry, checksum,
};
use super::pending::{PAGE_BYTES, Page, Tables};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// Most pages of an entry: those of a large ring stay a bounded piece of memory.
const MOST_PAGES: u64 = 256;
/// Most bytes of entries between two flushes: pending pages stay bounded.
const MOST_UNFLUSHED: u64 = 4 << 20;

/// What an entry says beside its pages.
pub(crate) struct EntryFacts {
    pub(crate) sequence: u64,
    pub(crate) guid: Uuid,
    /// Where in the ring the oldest entry is that a replay needs.
    pub(crate) tail: u64,
    /// Length of the file in bytes that is known to be durable.
    pub(crate) flushed_len: u64,
    /// Length of the file in bytes that holds all structures.
    pub(crate) last_len: u64,
}

/// An entry of the ring.
struct Written {
    sequence: u64,
    /// Where in the ring, in bytes.
    at: u64,
    /// The oldest entry that it says is needed.
    tail: u64,
}

/// What a flush that starts now makes durable.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    written: u64,
    applied: u64,
    len: u64,
}

/// The ring of an image that is written.
pub(crate) struct Journal {
    file: Arc<dyn Store>,
    tables: Arc<Tables>,
    /// Where the ring is in the file, and its bytes.
    offset: u64,
    length: u64,
    guid: Uuid,
    /// Sequence number of the next entry, and where in the ring it goes.
    next: u64,
    head: u64,
    /// Entries that a replay may need, the oldest first.
    needed: VecDeque<Written>,
    /// Entries up to this one are in their places, or a later one has their pages.
    applied: u64,
    /// The same, durably.
    settled: u64,
    /// Length of the file: now, and what of it is durable, in bytes.
    len: u64,
    durable_len: u64,
    /// Bytes written since the last flush began.
    since_flush: u64,
}

impl Journal {
    /// A ring with a first, empty entry, as Windows begins. A flush
    /// must follow before the header names `guid`.
    pub(crate) fn begin(
        file: Arc<dyn Store>,
        tables: Arc<Tables>,
        place: LogPlace,
        guid: Uuid,
        len: u64,
    ) -> Result<Journal> {
        let mut journal = Journal {
            file,
            tables,
            offset: place.offset,
            length: place.length,
            guid,
            next: 1,
            head: 0,
            needed: VecDeque::new(),
            applied: 0,
            settled: 0,
            len,
            durable_len: len,
            since_flush: 0,
        };
        journal.append(Vec::new())?;
        Ok(journal)
    }

    /// The file is longer now; nothing is known of what is durable.
    pub(crate) fn set_len(&mut self, len: u64) {
        self.len = len;
    }

    /// Whether an entry of so many pages fits, with room left for an empty one.
    pub(crate) fn fits(&self, pages: usize) -> bool {
        self.free() >= entry_length(pages) + 2 * LOG_SECTOR
    }

    /// Whether it is time for a flush, so that the ring does not fill up.
    pub(crate) fn wants_flush(&self) -> bool {
        self.since_flush >= (self.length / 8).min(MOST_UNFLUSHED)
    }

    fn free(&self) -> u64 {
        let used = match self.needed.front() {
            None => 0,
            Some(oldest) if self.head > oldest.at => self.head - oldest.at,
            Some(oldest) => self.length - oldest.at + self.head,
        };
        self.length - used
    }

    /// Writes an entry with these pages and keeps them as pending. The caller made sure that it
    /// fits. After `NoSpace` it is as if nothing had been written.
    pub(crate) fn append(&mut self, pages: Vec<(u64, Page)>) -> Result<()> {
        let sequence = self.next;
        let after = sequence.checked_add(1).ok_or_else(exhausted)?;
        let tail = (self.settled + 1).min(sequence);
        let tail_at = self
            .needed
            .iter()
            .find(|entry| entry.sequence == tail)
            .map_or(self.head, |entry| entry.at);
        let facts = EntryFacts {
            sequence,
            guid: self.guid,
            tail: tail_at,
            flushed_len: self.durable_len / MIB * MIB,
            last_len: self.len.next_multiple_of(MIB),
        };
        let bytes = encode(&facts, &pages);
        self.write(&bytes)?;
        self.needed.push_back(Written {
            sequence,
            at: self.head,
            tail,
        });
        self.head = (self.head + bytes.len() as u64) % self.length;
        self.next = after;
        self.since_flush += bytes.len() as u64;
        self.tables.keep(sequence, pages);
        Ok(())
    }

    /// Puts bytes at the head, around the ring's end where they reach it.
    fn write(&self, bytes: &[u8]) -> Result<()> {
        let room = usize::try_from(self.length - self.head).unwrap_or(usize::MAX);
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        for (part, at) in [(first, self.head), (rest, 0)] {
            if !part.is_empty() {
                let at = self.offset + at;
                self.file
                    .write_all_at(part, at)
                    .map_err(|error| Error::io("VHDX log", "cannot be written", error).at(at))?;
            }
        }
        Ok(())
    }

    /// A flush is about to start.
    pub(crate) fn mark(&mut self) -> Mark {
        self.since_flush = 0;
        Mark {
            written: self.next - 1,
            applied: self.applied,
            len: self.len,
        }
    }

    /// A flush that started behind `mark` is over: entries up to there may be applied, and are.
    pub(crate) fn flushed(&mut self, mark: Mark) -> Result<()> {
        self.durable_len = self.durable_len.max(mark.len);
        self.settled = self.settled.max(mark.applied);
        let last = self
            .needed
            .iter()
            .find(|entry| entry.sequence == mark.written);
        if let Some(tail) = last.map(|entry| entry.tail) {
            while self
                .needed
                .front()
                .is_some_and(|entry| entry.sequence < tail)
            {
                self.needed.pop_front();
            }
        }
        if mark.written > self.applied {
            self.tables.apply(mark.written)?;
            self.applied = mark.written;
        }
        Ok(())
    }

    /// Whether all entries are in their places, durably.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled + 1 == self.next
    }
}

/// Most pages that one entry of a ring of `length` bytes can have: a few fit into it at once.
pub(crate) fn most_pages(length: u64) -> usize {
    let pages = (length / 8 / LOG_SECTOR).saturating_sub(2);
    usize::try_from(pages.clamp(1, MOST_PAGES)).unwrap_or(1)
}

/// Bytes of an entry of so many pages.
fn entry_length(pages: usize) -> u64 {
    let descriptors = (size_of::<RawEntry>() + pages * size_of::<RawDescriptor>()) as u64;
    descriptors.next_multiple_of(LOG_SECTOR) + pages as u64 * LOG_SECTOR
}

/// An entry as it stands in the ring.
pub(crate) fn encode(facts: &EntryFacts, pages: &[(u64, Page)]) -> Vec<u8> {
    let length = entry_length(pages.len());
    let mut header = RawEntry {
        signature: ENTRY_SIGNATURE,
        checksum: U32::ZERO,
        length: U32::new(u32::try_from(length).unwrap_or(u32::MAX)),
        tail: U32::new(u32::try_from(facts.tail).unwrap_or(u32::MAX)),
        sequence: U64::new(facts.sequence),
        count: U32::new(u32::try_from(pages.len()).unwrap_or(u32::MAX)),
        reserved: U32::ZERO,
        log_guid: facts.guid.to_bytes_le(),
        flushed_file_offset: U64::new(facts.flushed_len),
        last_file_offset: U64::new(facts.last_len),
    };
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    bytes.extend_from_slice(header.as_bytes());
    for (offset, page) in pages {
        let (leading, rest) = page.split_at(8);
        let mut descriptor = RawDescriptor {
            signature: DATA_DESCRIPTOR,
            trailing: [0; 4],
            leading: [0; 8],
            file_offset: U64::new(*offset),
            sequence: U64::new(facts.sequence),
        };
        descriptor.leading.copy_from_slice(leading);
        descriptor.trailing.copy_from_slice(&rest[rest.len() - 4..]);
        bytes.extend_from_slice(descriptor.as_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
    let [high, low] = halves(facts.sequence);
    for (_, page) in pages {
        let mut sector = RawDataSector {
            signature: DATA_SIGNATURE,
            sequence_high: high,
            middle: [0; 4084],
            sequence_low: low,
        };
        sector.middle.copy_from_slice(&page[8..PAGE_BYTES - 4]);
        bytes.extend_from_slice(sector.as_bytes());
    }
    header.checksum = U32::new(checksum(&bytes));
    bytes[..size_of::<RawEntry>()].copy_from_slice(header.as_bytes());
    bytes
}

/// The upper and the lower half of a sequence number.
fn halves(sequence: u64) -> [U32; 2] {
    let bytes = sequence.to_le_bytes();
    let half = |from: usize| {
        let mut half = [0; 4];
        half.copy_from_slice(&bytes[from..from + 4]);
        U32::from_bytes(half)
    };
    [half(4), half(0)]
}

/// 2^64 entries in one session.
fn exhausted() -> Error {
    Error::new(
        ErrorKind::LogCorrupt,
        "VHDX log",
        "has no more sequence numbers",
    )
}

#[cfg(test)]
mod tests {
    use super::super::pending::PAGE_BYTES;
    use super::*;

    fn facts(sequence: u64) -> EntryFacts {
        EntryFacts {
            sequence,
            guid: Uuid::from_u128(7),
            tail: 0x3000,
            flushed_len: 4 * MIB,
            last_len: 36 * MIB,
        }
    }

    fn page(seed: u8) -> Page {
        let mut page = Box::new([0; PAGE_BYTES]);
        for (byte, number) in page.iter_mut().zip((0..=250_u8).cycle()) {
            *byte = number ^ seed;
        }
        page
    }

    #[test]
    fn leading_and_trailing_bytes_move_and_all_others_stay() {
        //
        let entry = encode(&facts(0x1122_3344_5566_7788), &[(0x30_0000, page(9))]);
        assert_eq!(entry.len(), 8192);
        let page = page(9);
        assert_eq!(entry[64..68], *b"desc");
        assert_eq!(entry[68..72], page[4092..]);
        assert_eq!(entry[72..80], page[..8]);
        assert_eq!(entry[80..88], 0x30_0000_u64.to_le_bytes());
        assert_eq!(entry[4096..4100], *b"data");
        assert_eq!(entry[4100..4104], 0x1122_3344_u32.to_le_bytes());
        assert_eq!(entry[4104..8188], page[8..4092]);
        assert_eq!(entry[8188..], 0x5566_7788_u32.to_le_bytes());
        assert_eq!(entry[4..8], checksum(&entry).to_le_bytes());
    }

    #[test]
    fn an_entry_has_as_many_descriptor_sectors_as_it_needs() {
        // 126 descriptors in the first sector, 128 in each further one.
        for (pages, sectors) in [
            (0, 1),
            (1, 2),
            (126, 127),
            (127, 129),
            (254, 256),
            (255, 258),
        ] {
            assert_eq!(entry_length(pages), sectors * LOG_SECTOR, "{pages}");
        }
        let pages: Vec<_> = (0..127)
            .map(|at: u8| (u64::from(at) * LOG_SECTOR, page(at)))
            .collect();
        let entry = encode(&facts(1), &pages);
        assert_eq!(entry.len() as u64, entry_length(127));
        assert_eq!(entry[2 * 4096..2 * 4096 + 4], *b"data");
    }
}
