//! The GUID partition table: the primary one in sector 1, else its copy in the last sector.
//!
//! The header's numbers are checked before the crate reads the entries: it multiplies them without
//! checking and takes a foreign entry size for its own mistake.

use gptman::{GPTHeader, GPTPartitionEntry};

use super::{Cursor, MOST, Table, View};
use crate::error::Result;

/// Entries of a table that is read at all; the usual number is 128.
const MOST_ENTRIES: u32 = 1024;
/// Bytes of an entry (UEFI specification 2.10, table 5-6); larger ones are allowed and unseen.
const ENTRY_BYTES: u32 = 128;

pub(super) fn read(view: &View<'_>) -> Result<Option<Table>> {
    let sectors = view.size() / view.sector;
    let found = match read_copy(view, 1)? {
        Some(found) => Some(found),
        None => read_copy(view, sectors.saturating_sub(1))?,
    };
    Ok(found.map(|(header, entries)| table(view, &header, &entries)))
}

/// The copy whose header is in that sector; `None` if it is not sound.
fn read_copy(view: &View<'_>, lba: u64) -> Result<Option<(GPTHeader, Vec<GPTPartitionEntry>)>> {
    let Some(position) = lba.checked_mul(view.sector) else {
        return Ok(None);
    };
    let mut cursor = Cursor {
        disk: view.disk,
        position,
        failed: None,
    };
    let sound = GPTHeader::read_from(&mut cursor)
        .ok()
        .filter(|header| is_sound(view, header, lba))
        .and_then(|header| {
            let entries = header.read_partitions(&mut cursor, view.sector).ok()?;
            Some((header, entries))
        });
    match cursor.failed {
        Some(error) => Err(error),
        None => Ok(sound),
    }
}

fn is_sound(view: &View<'_>, header: &GPTHeader, lba: u64) -> bool {
    let array = u64::from(ENTRY_BYTES) * u64::from(header.number_of_partition_entries);
    let start = header.partition_entry_lba.checked_mul(view.sector);
    header.primary_lba == lba
        && header.size_of_partition_entry == ENTRY_BYTES
        && (1..=MOST_ENTRIES).contains(&header.number_of_partition_entries)
        && start
            .and_then(|start| start.checked_add(array))
            .is_some_and(|end| end <= view.size())
}

fn table(view: &View<'_>, header: &GPTHeader, entries: &[GPTPartitionEntry]) -> Table {
    let array = u64::from(header.number_of_partition_entries) * u64::from(ENTRY_BYTES);
    // Header and entries, once at each end; the front also holds the protective MBR.
    let structures = view.sector + array.next_multiple_of(view.sector);
    let front = view.sector + structures;
    let mut partitions = Vec::new();
    let mut end = front;
    for (index, entry) in entries.iter().enumerate().take(MOST) {
        let sectors = entry.ending_lba.checked_sub(entry.starting_lba);
        let Some(sectors) = sectors.filter(|_| entry.is_used()) else {
            continue;
        };
        let sectors = sectors.saturating_add(1);
        if let Some(partition) = view.partition(index + 1, entry.starting_lba, sectors) {
            end = end.max(partition.offset + partition.len);
            partitions.push(partition);
        }
    }
    Table {
        partitions,
        needed: end.saturating_add(structures).min(view.size()),
    }
}
