//! The log as it is read: which entries are whole, and which of them are to be replayed (2.5).
//!
//! Nothing here changes the file. Finding the active sequence takes time and reads in proportion to
//! the log's length, whatever stands in it (S-7): every sector of an entry but its first begins
//! with another signature than an entry, so that no whole entry reaches over the start of the next,
//! and each byte is looked at twice at most.

use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::header::LogPlace;
use super::layout::{
    CHECKSUM_AT, DATA_DESCRIPTOR, DATA_SIGNATURE, ENTRY_SIGNATURE, LARGEST_FILE, LOG_SECTOR,
    LOG_TARGETS_FROM, RawDataSector, RawDescriptor, RawEntry, ZERO_DESCRIPTOR, guid,
};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// Bytes of a sector, for buffers.
const SECTOR_BYTES: usize = 4096;
/// Bytes read at once.
const PIECE_BYTES: usize = 256 << 10;

/// An entry of the log. Offsets and lengths are bytes, in the log unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    length: u64,
    tail: u64,
    pub(crate) sequence: u64,
    /// Descriptors.
    count: u64,
    guid: Uuid,
    /// Length of the file that was durable, and that holds all structures.
    pub(crate) flushed_file_offset: u64,
    pub(crate) last_file_offset: u64,
    checksum: u32,
}

/// What a descriptor says is to be done. Offsets are in the file, all of it on sector boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Zero {
        start: u64,
        end: u64,
    },
    /// A sector; its middle is that of the data sector at `source`.
    Data {
        start: u64,
        leading: [u8; 8],
        trailing: [u8; 4],
        source: u64,
    },
}

/// The log of a file.
pub(crate) struct Log<'a> {
    store: &'a dyn Store,
    place: LogPlace,
    guid: Uuid,
}

impl Log<'_> {
    /// The log at `place`, not empty, whose entries have this id.
    pub(crate) fn new(store: &dyn Store, place: LogPlace, guid: Uuid) -> Log<'_> {
        Log { store, place, guid }
    }

    /// The entries to be replayed, in order: the active sequence from the tail that its last entry
    /// names.
    pub(crate) fn active(&self) -> Result<Vec<Entry>> {
        let starts = self.starts()?;
        let mut whole = vec![false; starts.len()];
        for (index, entry) in starts.iter().enumerate() {
            whole[index] = self.is_whole(entry, self.room(&starts, index))?;
        }
        let next = |index: usize| {
            let entry = &starts[index];
            let at = (entry.at + entry.length) % self.place.length;
            let next = starts.binary_search_by_key(&at, |entry| entry.at).ok()?;
            let follows = Some(starts[next].sequence) == entry.sequence.checked_add(1);
            (whole[next] && follows).then_some(next)
        };
        let mut continues = vec![false; starts.len()];
        for index in (0..starts.len()).filter(|&index| whole[index]) {
            if let Some(next) = next(index) {
                continues[next] = true;
            }
        }
        let mut best: Option<Vec<Entry>> = None;
        let firsts = (0..starts.len()).filter(|&index| whole[index] && !continues[index]);
        for first in firsts {
            let chain = std::iter::successors(Some(first), |&index| next(index));
            let chain: Vec<Entry> = chain.map(|index| starts[index]).collect();
            let Some(chain) = from_tail(chain) else {
                continue;
            };
            let last = |chain: &[Entry]| chain.last().map(|entry| entry.sequence);
            match best.as_deref().map(last) {
                Some(known) if known == last(&chain) => return Err(self.two(chain.last())),
                Some(known) if known > last(&chain) => {}
                _ => best = Some(chain),
            }
        }
        best.ok_or_else(|| {
            self.wrong("must be replayed and has no valid sequence of entries")
                .with_wanted(format_args!("entries of {}", self.guid))
        })
    }

    /// The entries with this log's id that are not whole, by their offset in the log: torn by a
    /// cut, overwritten since, or damaged.
    pub(crate) fn torn(&self) -> Result<Vec<u64>> {
        let starts = self.starts()?;
        let mut torn = Vec::new();
        for (index, entry) in starts.iter().enumerate() {
            if entry.guid == self.guid && !self.is_whole(entry, self.room(&starts, index))? {
                torn.push(entry.at);
            }
        }
        Ok(torn)
    }

    fn wrong(&self, message: &str) -> Error {
        Error::new(ErrorKind::LogCorrupt, "VHDX log", message)
            .at(self.place.offset)
            .by("X-27")
    }

    fn two(&self, last: Option<&Entry>) -> Error {
        let error = self.wrong("has two valid sequences with the same last number");
        match last {
            Some(entry) => error.with_found(entry.sequence),
            None => error,
        }
    }

    /// Reads at a place in the log; a range over its end goes on at its start.
    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        let at = at % self.place.length;
        let room = usize::try_from(self.place.length - at).unwrap_or(usize::MAX);
        let (first, rest) = bytes.split_at_mut(room.min(bytes.len()));
        for (part, at) in [(first, at), (rest, 0)] {
            if !part.is_empty() {
                let at = self.place.offset + at;
                self.store
                    .read_exact_at(part, at)
                    .map_err(|error| Error::io("VHDX log", "cannot be read", error).at(at))?;
            }
        }
        Ok(())
    }

    /// Every sector that begins as an entry does, in order.
    fn starts(&self) -> Result<Vec<Entry>> {
        let mut starts = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        // The log's length is a multiple of 1 MiB.
        for at in (0..self.place.length).step_by(PIECE_BYTES) {
            self.read(&mut piece, at)?;
            for (sector, at) in piece
                .chunks_exact(SECTOR_BYTES)
                .zip((at..).step_by(SECTOR_BYTES))
            {
                if sector[..4] != ENTRY_SIGNATURE {
                    continue;
                }
                if let Ok((raw, _)) = RawEntry::read_from_prefix(sector) {
                    starts.push(Entry::of(&raw, at));
                }
            }
        }
        Ok(starts)
    }

    /// Bytes from an entry's start to the next sector that begins as an entry does.
    fn room(&self, starts: &[Entry], index: usize) -> u64 {
        let at = starts[index].at;
        match starts.get(index + 1).or(starts.first()) {
            Some(next) if next.at > at => next.at - at,
            Some(next) => self.place.length - at + next.at,
            None => 0,
        }
    }

    /// Whether an entry is whole: its head, all descriptors, all data sectors, its checksum.
    fn is_whole(&self, entry: &Entry, room: u64) -> Result<bool> {
        let aligned = [entry.length, entry.tail]
            .iter()
            .all(|value| value.is_multiple_of(LOG_SECTOR));
        let descriptors = entry.descriptor_bytes();
        let possible = aligned
            && entry.length >= LOG_SECTOR
            && entry.length < self.place.length
            && entry.length <= room
            && entry.tail < self.place.length
            && entry.sequence > 0
            && entry.guid == self.guid
            && descriptors <= entry.length;
        if !possible {
            return Ok(false);
        }
        let mut sum = 0;
        let mut data = 0;
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(entry.length).unwrap_or(0))];
        let mut within = 0;
        while within < entry.length {
            let len = usize::try_from(entry.length - within).unwrap_or(PIECE_BYTES);
            let len = len.min(PIECE_BYTES);
            let piece = &mut piece[..len];
            self.read(piece, entry.at + within)?;
            if within == 0 {
                piece[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
            }
            sum = crc32c::crc32c_append(sum, piece);
            for sector in piece.chunks_exact(SECTOR_BYTES) {
                let sound = if within < descriptors {
                    self.count_data(entry, sector, within)
                } else {
                    entry.is_data(sector).then_some(0)
                };
                let Some(more) = sound else {
                    return Ok(false);
                };
                data += more;
                within += LOG_SECTOR;
            }
        }
        Ok(sum == entry.checksum && entry.length == descriptors + data * LOG_SECTOR)
    }

    /// The data descriptors of a sector of descriptors; `None` where one cannot be.
    fn count_data(&self, entry: &Entry, sector: &[u8], within: u64) -> Option<u64> {
        let mut data = 0;
        for raw in entry.descriptors(sector, within) {
            data += u64::from(raw.signature == DATA_DESCRIPTOR);
            self.target(&raw, entry.sequence)?;
        }
        Some(data)
    }

    /// The range of the file that a descriptor is about; `None` where it cannot be.
    fn target(&self, raw: &RawDescriptor, sequence: u64) -> Option<(u64, u64)> {
        let start = raw.file_offset.get();
        let len = match raw.signature {
            DATA_DESCRIPTOR => LOG_SECTOR,
            ZERO_DESCRIPTOR => u64::from_le_bytes(raw.leading),
            _ => return None,
        };
        let end = start.checked_add(len)?;
        let log_end = self.place.offset + self.place.length;
        let sound = raw.sequence.get() == sequence
            && start.is_multiple_of(LOG_SECTOR)
            && len.is_multiple_of(LOG_SECTOR)
            && start >= LOG_TARGETS_FROM
            && end <= LARGEST_FILE
            && (end <= self.place.offset || start >= log_end);
        sound.then_some((start, end))
    }

    /// The steps of an entry that is whole, in order.
    pub(crate) fn steps(
        &self,
        entry: &Entry,
        mut visit: impl FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        let descriptors = entry.descriptor_bytes();
        let mut source = entry.at + descriptors;
        let mut sector = [0; SECTOR_BYTES];
        for within in (0..descriptors).step_by(SECTOR_BYTES) {
            self.read(&mut sector, entry.at + within)?;
            for raw in entry.descriptors(&sector, within) {
                let Some((start, end)) = self.target(&raw, entry.sequence) else {
                    return Err(self.wrong("changed while it was read"));
                };
                if raw.signature == ZERO_DESCRIPTOR {
                    visit(Step::Zero { start, end })?;
                    continue;
                }
                visit(Step::Data {
                    start,
                    leading: raw.leading,
                    trailing: raw.trailing,
                    source: self.place.offset + source % self.place.length,
                })?;
                source += LOG_SECTOR;
            }
        }
        Ok(())
    }
}

/// A sequence from the entry that its last one names as the tail; `None` where that is none of
/// them.
fn from_tail(mut chain: Vec<Entry>) -> Option<Vec<Entry>> {
    let tail = chain.last()?.tail;
    let first = chain.iter().position(|entry| entry.at == tail)?;
    Some(chain.split_off(first))
}

impl Entry {
    fn of(raw: &RawEntry, at: u64) -> Entry {
        Entry {
            at,
            length: raw.length.get().into(),
            tail: raw.tail.get().into(),
            sequence: raw.sequence.get(),
            count: raw.count.get().into(),
            guid: guid(raw.log_guid),
            flushed_file_offset: raw.flushed_file_offset.get(),
            last_file_offset: raw.last_file_offset.get(),
            checksum: raw.checksum.get(),
        }
    }

    /// Bytes before the data sectors.
    fn descriptor_bytes(&self) -> u64 {
        let head = size_of::<RawEntry>() as u64;
        let one = size_of::<RawDescriptor>() as u64;
        (head + self.count * one).next_multiple_of(LOG_SECTOR)
    }

    /// The descriptors in the sector `within` bytes behind the entry's start.
    fn descriptors(&self, sector: &[u8], within: u64) -> impl Iterator<Item = RawDescriptor> {
        let (head, one) = (size_of::<RawEntry>(), size_of::<RawDescriptor>());
        let skip = if within == 0 { head } else { 0 };
        let before = within.saturating_sub(head as u64) / one as u64;
        let left = self.count.saturating_sub(before);
        sector[skip..]
            .chunks_exact(one)
            .take(usize::try_from(left).unwrap_or(usize::MAX))
            .map(|bytes| {
                let mut raw = RawDescriptor::new_zeroed();
                raw.as_mut_bytes().copy_from_slice(bytes);
                raw
            })
    }

    /// Whether a sector is a data sector of this entry.
    fn is_data(&self, sector: &[u8]) -> bool {
        let Ok(raw) = RawDataSector::ref_from_bytes(sector) else {
            return false;
        };
        let halves = u64::from(raw.sequence_high.get()) << 32 | u64::from(raw.sequence_low.get());
        raw.signature == DATA_SIGNATURE && halves == self.sequence
    }
}
