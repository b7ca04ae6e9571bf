//! What a dynamic image owns besides its blocks: footer copy, header, table, locators, batmap.
//!
//! Blocks may lie on none of these, and space is never taken from them (V-18, 1.10). Locator data
//! may lie anywhere, so the answer is a list and not one "end of headers".

use zerocopy::{FromZeros, IntoBytes};

use super::header::Header;
use super::layout::{
    BATMAP_COOKIE, FOOTER, HEADER, LAST_SECTOR, LOCATOR, LOCATORS_AT, RawBatmap, RawLocator, SECTOR,
};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Severity, Sink};
use crate::store::Store;

/// A range of the file that belongs to a structure. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Its name, for messages.
    pub(crate) what: &'static str,
}

impl Owned {
    fn new(start: u64, len: u64, what: &'static str) -> Owned {
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

/// Bytes that a locator says its data take: its data space is bytes where it can be, sectors where
/// it is too small for that (V-17).
pub(crate) fn stated_space(locator: &RawLocator) -> u64 {
    let space = u64::from(locator.data_space.get());
    if space >= SECTOR && space.is_multiple_of(SECTOR) {
        space
    } else {
        space * SECTOR
    }
}

/// The same, never less than the data length.
fn space(locator: &RawLocator) -> u64 {
    stated_space(locator).max(locator.data_length.get().into())
}

/// Everything the headers own, sorted. Locators that do not fit the file are left out and noted.
pub(crate) fn territory(
    store: &dyn Store,
    header: &Header,
    data_end: u64,
    sink: &mut dyn Sink,
) -> Result<Vec<Owned>> {
    let mut owned = vec![
        Owned::new(0, FOOTER, "footer copy"),
        Owned::new(header.offset, HEADER, "dynamic header"),
        Owned::new(
            header.table_offset,
            header.table_len,
            "block allocation table",
        ),
    ];
    for (index, locator) in (0_u64..).zip(&header.raw.locators) {
        let owner = |len| Owned::new(locator.data_offset.get(), len, "parent locator");
        let mut range = owner(space(locator));
        if locator.platform_code.get() == 0 || space(locator) == 0 {
            continue;
        }
        let odd = |message: String, range: Owned| {
            let field = LOCATORS_AT + index * LOCATOR + 16;
            Error::new(ErrorKind::HeaderCorrupt, "VHD dynamic header", message)
                .at(header.offset.saturating_add(field))
                .with_found(format_args!("bytes {} to {}", range.start, range.end))
                .by("V-18")
        };
        if range.end > data_end {
            let stated = range;
            let wanted = format_args!("an end of at most {data_end}");
            let data = owner(locator.data_length.get().into());
            if data.end > data_end || data.start == data.end {
                let error = odd(
                    format!("has parent locator {index} outside the file"),
                    stated,
                );
                sink.oddity(Severity::Warning, error.with_wanted(wanted));
                continue;
            }
            // Blocks are added behind what is said, and the next open finds it inside the file.
            if stated.end - data_end > MOST_OVERHANG {
                range = data;
            }
            let message =
                format!("has too little space for parent locator {index}, which says more");
            sink.oddity(Severity::Warning, odd(message, stated).with_wanted(wanted));
        }
        let clash = owned
            .iter()
            .find(|other| other.touches(range.start, range.end));
        if let Some(other) = clash {
            let error = odd(
                format!("has parent locator {index} on the {}", other.what),
                range,
            );
            let wanted = format_args!("apart from bytes {} to {}", other.start, other.end);
            sink.oddity(Severity::Warning, error.with_wanted(wanted));
        }
        owned.push(range);
    }
    if let Some(map) = batmap(store, header, data_end)?
        && map.end <= data_end
    {
        let at = header.table_offset.saturating_add(header.table_len);
        owned.extend([Owned::new(at, SECTOR, "XenServer batmap header"), map]);
    }
    owned.sort_by_key(|range| range.start);
    Ok(owned)
}

/// XenServer's batmap, where there is one on the sector after the table (1.10), wherever it lies.
fn batmap(store: &dyn Store, header: &Header, data_end: u64) -> Result<Option<Owned>> {
    let at = header.table_offset.saturating_add(header.table_len);
    if at.checked_add(SECTOR).is_none_or(|end| end > data_end) {
        return Ok(None);
    }
    let mut raw = RawBatmap::new_zeroed();
    store
        .read_exact_at(raw.as_mut_bytes(), at)
        .map_err(|error| Error::io("XenServer batmap", "cannot be read", error).at(at))?;
    let map = Owned::new(
        raw.offset.get(),
        u64::from(raw.size_sectors.get()) * SECTOR,
        "XenServer batmap",
    );
    Ok((raw.cookie == BATMAP_COOKIE).then_some(map))
}

/// No block lies at or behind this byte: the table has no number for its sector.
const BLOCKS_END: u64 = (LAST_SECTOR as u64 + 1) * SECTOR;

/// Most bytes that a locator's space may reach past the file's end to be kept free all the same.
const MOST_OVERHANG: u64 = 1 << 20;

/// Refuses to write into a file whose headers claim space far past its end: what is left out as
/// long as the file is shorter would lie under the blocks that are added there, and those could
/// not be read again (V-18, S-3).
///
/// # Errors
/// `HeaderCorrupt`.
pub(crate) fn check_growth(store: &dyn Store, header: &Header, data_end: u64) -> Result<()> {
    for locator in &header.raw.locators {
        let owner = |len| Owned::new(locator.data_offset.get(), len, "parent locator");
        let (stated, data) = (
            owner(space(locator)),
            owner(locator.data_length.get().into()),
        );
        let kept = data.end <= data_end
            && data.start < data.end
            && stated.end <= data_end.saturating_add(MOST_OVERHANG);
        if locator.platform_code.get() != 0 && !kept {
            check_inside(&stated, data_end)?;
        }
    }
    match batmap(store, header, data_end)? {
        Some(map) => check_inside(&map, data_end),
        None => Ok(()),
    }
}

/// Inside the file, or where no block can ever be.
fn check_inside(range: &Owned, data_end: u64) -> Result<()> {
    if range.end <= data_end || range.start >= BLOCKS_END || range.start == range.end {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::HeaderCorrupt,
        range.what,
        "reaches past the end of the file, where blocks would be added",
    )
    .at(range.start)
    .with_found(format_args!("an end at {}", range.end))
    .with_wanted(format_args!("at most {data_end}"))
    .by("V-18"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_space_is_bytes_where_it_can_be_and_sectors_otherwise() {
        // V-17: 4096 and 65536 as Windows and XenServer write them, 1 and 8 as the text says.
        let mut locator = RawLocator::new_zeroed();
        for (stored, length, bytes) in [
            (4096, 84, 4096),
            (65536, 32, 65536),
            (1, 84, 512),
            (8, 84, 4096),
            (0, 84, 84),
        ] {
            locator.data_space.set(stored);
            locator.data_length.set(length);
            assert_eq!(space(&locator), bytes);
        }
    }
}
