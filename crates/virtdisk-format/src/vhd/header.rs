//! The dynamic header, checked once: block size, table, and where both lie.
//!
//! A [`Header`] says nothing about single blocks. What it says of the table holds for the whole
//! life of the image: it lies inside the file, apart from footer copy and header, and has an entry
//! for every block of the disk (V-12, S-1, S-2).

use zerocopy::{FromZeros, IntoBytes};

use super::layout::{
    ENTRY, FOOTER, HEADER, HEADER_CHECKSUM_AT, HEADER_COOKIE, LARGEST_DISK, NO_OFFSET,
    NO_OFFSET_SHORT, RawHeader, SECTOR, TABLE_AT, VERSION, checksum, round_up,
};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Severity, Sink};
use crate::store::Store;

/// Largest block in bytes that every program reads (1.9).
const LARGEST_USUAL_BLOCK: u32 = 2 << 20;

/// A dynamic header that fits its file.
#[derive(Clone)]
pub(crate) struct Header {
    /// As it stands in the file.
    pub(crate) raw: RawHeader,
    /// File offset of the header in bytes.
    pub(crate) offset: u64,
    /// File offset of the BAT in bytes, a multiple of 512.
    pub(crate) table_offset: u64,
    /// Bytes of the BAT, rounded up to a sector.
    pub(crate) table_len: u64,
    /// Bytes of a block's data, a power of two ≥ 512.
    pub(crate) block_size: u32,
    /// Blocks of the disk; the table may have more entries.
    pub(crate) blocks: u32,
}

/// What the header is checked against.
pub(crate) struct Bounds {
    /// Bytes of the file that are not the trailing footer.
    pub(crate) data_end: u64,
    /// Bytes of the virtual disk.
    pub(crate) virtual_size: u64,
    /// Go on where the checksum is wrong (V-3).
    pub(crate) recover: bool,
}

impl Header {
    /// Reads and checks the header at `offset`.
    pub(crate) fn read(
        store: &dyn Store,
        offset: u64,
        bounds: &Bounds,
        sink: &mut dyn Sink,
    ) -> Result<Header> {
        let raw = read_raw(store, offset, bounds.data_end)?;
        check_seal(&raw, offset, bounds.recover, sink)?;
        let block_size = raw.block_size.get();
        if !block_size.is_power_of_two() || u64::from(block_size) < SECTOR {
            return Err(Error::new(
                ErrorKind::InvalidBlockSize,
                "VHD dynamic header",
                "has an impossible block size",
            )
            .at(offset.saturating_add(32))
            .with_found(block_size)
            .with_wanted("a power of two of at least 512")
            .by("V-12"));
        }
        if bounds.virtual_size > LARGEST_DISK {
            return Err(Error::new(
                ErrorKind::InvalidSize,
                "VHD footer",
                "has a size that a dynamic disk cannot have",
            )
            .with_found(bounds.virtual_size)
            .with_wanted(format_args!("at most {LARGEST_DISK}"))
            .by("S-2"));
        }
        let (blocks, table_len) = check_count(&raw, offset, bounds, sink)?;
        check_table(&raw, offset, table_len, bounds.data_end)?;
        note_reserved(&raw, offset, sink);
        Ok(Header {
            table_offset: raw.table_offset.get(),
            raw,
            offset,
            table_len,
            block_size,
            blocks,
        })
    }

    /// Whether the checksum is right; otherwise it was accepted for recovery.
    pub(crate) fn is_sound(&self) -> bool {
        checksum(self.raw.as_bytes(), HEADER_CHECKSUM_AT) == self.raw.checksum.get()
    }

    /// The header of a new disk (V-34, V-41).
    pub(crate) fn create(blocks: u32, block_size: u32) -> RawHeader {
        let mut raw = RawHeader::new_zeroed();
        raw.cookie = HEADER_COOKIE;
        raw.data_offset.set(NO_OFFSET);
        raw.table_offset.set(TABLE_AT);
        raw.version.set(VERSION);
        raw.max_table_entries.set(blocks);
        raw.block_size.set(block_size);
        raw.checksum
            .set(checksum(raw.as_bytes(), HEADER_CHECKSUM_AT));
        raw
    }
}

fn corrupt(offset: u64, message: &'static str) -> Error {
    Error::new(ErrorKind::HeaderCorrupt, "VHD dynamic header", message).at(offset)
}

/// Reads the header's bytes, which must lie inside the file.
pub(crate) fn read_raw(store: &dyn Store, offset: u64, data_end: u64) -> Result<RawHeader> {
    let fits = offset >= FOOTER
        && offset.is_multiple_of(SECTOR)
        && offset
            .checked_add(HEADER)
            .is_some_and(|end| end <= data_end);
    if !fits {
        return Err(Error::new(
            ErrorKind::HeaderCorrupt,
            "VHD footer",
            "names an impossible offset for the dynamic header",
        )
        .with_found(offset)
        .with_wanted(format_args!(
            "a multiple of 512 from 512 to {}",
            data_end.saturating_sub(HEADER)
        ))
        .by("S-1"));
    }
    let mut raw = RawHeader::new_zeroed();
    store
        .read_exact_at(raw.as_mut_bytes(), offset)
        .map_err(|error| Error::io("VHD dynamic header", "cannot be read", error).at(offset))?;
    Ok(raw)
}

/// Cookie, checksum, version.
fn check_seal(raw: &RawHeader, offset: u64, recover: bool, sink: &mut dyn Sink) -> Result<()> {
    if raw.cookie != HEADER_COOKIE {
        let error = corrupt(offset, "does not begin with its cookie")
            .with_found(raw.cookie.escape_ascii())
            .with_wanted("cxsparse")
            .by("V-6");
        sink.fault(error)?;
    }
    let sum = checksum(raw.as_bytes(), HEADER_CHECKSUM_AT);
    if sum != raw.checksum.get() {
        let wrong = |message| {
            Error::new(ErrorKind::HeaderChecksum, "VHD dynamic header", message)
                .at(offset.saturating_add(36))
                .with_found(format_args!("{:08x}", raw.checksum.get()))
                .with_wanted(format_args!("{sum:08x}"))
                .by("V-3")
        };
        if recover {
            let error = wrong("has a wrong checksum, accepted for recovery");
            sink.oddity(Severity::Warning, error);
        } else {
            sink.fault(wrong("has a wrong checksum"))?;
        }
    }
    let version = raw.version.get();
    if version >> 16 != VERSION >> 16 {
        let error = Error::new(
            ErrorKind::HeaderVersion,
            "VHD dynamic header",
            "has a version that is not known",
        )
        .at(offset.saturating_add(24))
        .with_found(format_args!("{}.{}", version >> 16, version & 0xFFFF))
        .with_wanted("1.0");
        sink.fault(error)?;
    }
    Ok(())
}

/// Reserved fields hold zeros (V-7).
fn note_reserved(raw: &RawHeader, offset: u64, sink: &mut dyn Sink) {
    let mut reserved = (60..64)
        .zip(raw.reserved.as_bytes())
        .chain((768..).zip(&raw.reserved_end));
    if let Some((field, byte)) = reserved.find(|(_, byte)| **byte != 0) {
        let error = corrupt(
            offset.saturating_add(field),
            "has bytes other than 0 in reserved fields",
        );
        sink.oddity(Severity::Warning, error.with_found(byte).by("V-7"));
    }
}

/// What is harmless and still not what is usual.
pub(crate) fn note_details(header: &Header, sink: &mut dyn Sink) {
    let raw = &header.raw;
    let mut note = |field: u64, rule, message: &'static str, found: String, wanted: String| {
        let error = corrupt(header.offset.saturating_add(field), message);
        let error = error.with_found(found).with_wanted(wanted).by(rule);
        sink.oddity(Severity::Note, error);
    };
    let next = raw.data_offset.get();
    if !matches!(next, NO_OFFSET | NO_OFFSET_SHORT) {
        let wanted = "64 one bits".to_owned();
        note(
            8,
            "V-7",
            "has a data offset, which means nothing",
            next.to_string(),
            wanted,
        );
    }
    let entries = raw.max_table_entries.get();
    if entries > header.blocks {
        let wanted = header.blocks.to_string();
        let message = "has more table entries than the disk has blocks";
        note(28, "V-34", message, entries.to_string(), wanted);
    }
    if header.block_size > LARGEST_USUAL_BLOCK {
        let (found, wanted) = (header.block_size.to_string(), "at most 2097152".to_owned());
        note(
            32,
            "V-12",
            "has larger blocks than some programs read",
            found,
            wanted,
        );
    }
}

/// Enough entries for the disk, and no more than the file could hold (V-12, S-2). Answers the
/// blocks of the disk and the bytes of the table.
fn check_count(
    raw: &RawHeader,
    offset: u64,
    bounds: &Bounds,
    sink: &mut dyn Sink,
) -> Result<(u32, u64)> {
    let entries = raw.max_table_entries.get();
    let needed = bounds
        .virtual_size
        .div_ceil(u64::from(raw.block_size.get()));
    let blocks = u32::try_from(needed)
        .unwrap_or(u32::MAX)
        .min(entries)
        .max(1);
    if needed > u64::from(entries) {
        let error = Error::new(
            ErrorKind::BatCorrupt,
            "VHD block allocation table",
            "has too few entries for the disk's size",
        )
        .at(offset.saturating_add(28))
        .with_found(entries)
        .with_wanted(needed)
        .by("V-12");
        sink.fault(error)?;
    }
    let table_len = round_up(u64::from(entries) * ENTRY, SECTOR).unwrap_or(u64::MAX);
    Ok((blocks, table_len))
}

/// The table lies inside the file, and neither on the footer copy nor on the header.
fn check_table(raw: &RawHeader, offset: u64, table_len: u64, data_end: u64) -> Result<()> {
    let table = raw.table_offset.get();
    // The padding of the last sector need not be there.
    let used = u64::from(raw.max_table_entries.get()) * ENTRY;
    let inside = table.checked_add(used).is_some_and(|end| end <= data_end);
    let apart = table >= offset.saturating_add(HEADER)
        || (table >= FOOTER && table.saturating_add(table_len) <= offset);
    if inside && apart && table.is_multiple_of(SECTOR) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BatCorrupt,
        "VHD block allocation table",
        "does not lie in the file as the dynamic header says",
    )
    .at(offset.saturating_add(16))
    .with_found(format_args!("{used} bytes at {table}"))
    .with_wanted(format_args!(
        "a multiple of 512, apart from the headers, and an end of at most {data_end}"
    ))
    .by("S-1"))
}
