//! The MBR and its chain of extended boot records.
//!
//! The records are read one by one here: the crate's own chain reader adds numbers from the disk
//! without checking. At most 128 records are visited, so a chain that bites its tail ends.

use mbrman::{MBRHeader, MBRPartitionEntry};

use super::{MOST, Table, View};
use crate::error::Result;

/// Bytes of an extended partition that are shown.
const EXTENDED_SHOWN: u64 = 1024;
/// Number of the first logical partition.
const FIRST_LOGICAL: usize = 5;

pub(super) fn read(view: &View<'_>, header: &MBRHeader) -> Result<Table> {
    let mut table = Table {
        partitions: Vec::new(),
        needed: view.sector,
    };
    let mut logical = Vec::new();
    for (number, entry) in header.iter().filter(|(_, entry)| is_used(entry)) {
        let (first, sectors) = (u64::from(entry.starting_lba), u64::from(entry.sectors));
        let Some(mut partition) = view.partition(number, first, sectors) else {
            continue;
        };
        table.needed = table.needed.max(partition.offset + partition.len);
        if entry.is_extended() {
            partition.len = partition.len.min(EXTENDED_SHOWN.max(view.sector));
            read_chain(view, first, &mut logical)?;
        }
        table.partitions.push(partition);
    }
    for (index, (first, sectors)) in logical.into_iter().enumerate() {
        if let Some(partition) = view.partition(FIRST_LOGICAL + index, first, sectors) {
            table.needed = table.needed.max(partition.offset + partition.len);
            table.partitions.push(partition);
        }
    }
    Ok(table)
}

fn is_used(entry: &MBRPartitionEntry) -> bool {
    entry.is_used() && entry.sectors != 0
}

/// Follows the records of the extended partition at sector `start`; appends first sector and length
/// of each logical partition.
fn read_chain(view: &View<'_>, start: u64, logical: &mut Vec<(u64, u64)>) -> Result<()> {
    let mut at = start;
    for _ in 0..MOST {
        let Some(record) = view.boot_record(at)? else {
            return Ok(());
        };
        let entries = [&record.partition_1, &record.partition_2];
        for entry in entries
            .into_iter()
            .filter(|entry| is_used(entry) && !entry.is_extended())
        {
            // A logical partition counts from its own record, the next record from the first.
            logical.push((at + u64::from(entry.starting_lba), u64::from(entry.sectors)));
        }
        if logical.len() + FIRST_LOGICAL > MOST {
            logical.truncate(MOST + 1 - FIRST_LOGICAL);
            return Ok(());
        }
        let next = entries
            .into_iter()
            .find(|entry| is_used(entry) && entry.is_extended());
        let Some(next) = next else { return Ok(()) };
        at = start + u64::from(next.starting_lba);
    }
    Ok(())
}
