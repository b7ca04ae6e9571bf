//! Checking a VHDX, and mending what can be mended without a doubt.
//!
//! The same functions as for opening, in the same order, with a sink that goes on; a log that must
//! be replayed is replayed in memory, and everything behind it is checked as it is then (S-6). The
//! table is streamed, with a bit per MiB of the file kept. Blocks' data are never read: a VHDX has
//! no sums over them.
//!
//! Mending writes in the order of: the headers first, with a new FileWriteGuid; the
//! log into its place, durable; the region table that does not count, durable; the file's length.
//! DataWriteGuid stays, for no byte of the disk changes: children stay children.

use std::sync::Arc;

use uuid::Uuid;
use zerocopy::IntoBytes;

use super::bat::Bat;
use super::header::{Headers, LogPlace, read_raw, update};
use super::identifier::read_identifier;
use super::layout::{
    HEADERS_AT, IDENTIFIER_AREA, LARGEST_LOG, LOG_VERSION, MIB, RawHeader, RawIdentifier,
};
use super::log::Log;
use super::metadata::Metadata;
use super::open::{check_table, length, parent, settle};
use super::region::Regions;
use super::scan::{Scan, scan};
use super::shape::Shape;
use super::territory::Territory;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::Kind;
use crate::finding::{Findings, Severity, Sink};
use crate::open::OpenOptions;
use crate::store::Store;

/// Checks a file that was found, or is said, to be a VHDX. Answers its kind, if it has one.
pub(crate) fn check(
    store: &Arc<dyn Store>,
    options: &OpenOptions,
    sink: &mut Findings<'_>,
) -> Result<Option<Kind>> {
    let identifier = check_identifier(store, sink);
    sink.end(identifier)?;
    let headers = Headers::read(store, options.recover, sink);
    let Some(mut headers) = sink.end(headers)? else {
        return Ok(None);
    };
    check_headers(store, &headers, sink)?;
    let log = headers.log(length(store)?);
    let Some(log) = sink.end(log)? else {
        return Ok(None);
    };
    if !headers.log_guid().is_nil() && (1..=LARGEST_LOG).contains(&log.length) {
        note_entries(store, &headers, log, sink)?;
    }
    let overlay = settle(store, &mut headers, log, false, sink);
    let Some(overlay) = sink.end(overlay)? else {
        return Ok(None);
    };
    let tables: Arc<dyn Store> = match overlay {
        Some(overlay) => overlay,
        None => Arc::clone(store),
    };
    check_tables(&tables, &headers, log, sink)
}

/// Signature and the zeros behind the creator (2.2).
fn check_identifier(store: &dyn Store, sink: &mut dyn Sink) -> Result<()> {
    if let Err(error) = read_identifier(store) {
        match error.kind() {
            ErrorKind::Io | ErrorKind::InvalidFileSize => return Err(error),
            _ => sink.fault(error)?,
        }
    }
    let from = size_of::<RawIdentifier>() as u64;
    let mut rest = vec![0; usize::try_from(IDENTIFIER_AREA - from).unwrap_or(0)];
    store
        .read_exact_at(&mut rest, from)
        .map_err(|error| Error::io("VHDX file identifier", "cannot be read", error).at(from))?;
    if let Some((at, byte)) = (from..).zip(&rest).find(|(_, byte)| **byte != 0) {
        let error = Error::new(
            ErrorKind::FormatUnknown,
            "VHDX file identifier",
            "has bytes other than 0 in its reserved part",
        );
        sink.oddity(Severity::Note, error.at(at).with_found(byte).by("X-12"));
    }
    Ok(())
}

/// What the two headers say beside what counts.
fn check_headers(store: &dyn Store, headers: &Headers, sink: &mut dyn Sink) -> Result<()> {
    let raw = &headers.current;
    let odd = |field: u64, message: &'static str| {
        let at = headers.offset().saturating_add(field);
        Error::new(ErrorKind::HeaderCorrupt, "VHDX header", message).at(at)
    };
    if raw.file_write_guid == [0; 16] {
        sink.oddity(
            Severity::Note,
            odd(16, "has a FileWriteGuid of zeros").by("X-60"),
        );
    }
    if raw.data_write_guid == [0; 16] {
        let error = odd(
            32,
            "has a DataWriteGuid of zeros, so that no child can name this disk",
        );
        sink.oddity(Severity::Warning, error.by("X-60"));
    }
    if raw.log_version.get() != LOG_VERSION && headers.log_guid().is_nil() {
        let error = odd(64, "has a log version that is not known").with_found(raw.log_version);
        sink.oddity(Severity::Note, error.with_wanted(LOG_VERSION).by("X-33"));
    }
    if let Some((field, byte)) = (80_u64..).zip(&raw.reserved).find(|(_, byte)| **byte != 0) {
        let error = odd(field, "has bytes other than 0 in its reserved field").with_found(byte);
        sink.oddity(Severity::Note, error.by("X-3"));
    }
    let place = usize::from(headers.offset() == HEADERS_AT[0]);
    let other = read_raw(store, place)?;
    if other.is_sound()
        && let Some((field, here, there)) = difference(&other, raw)
    {
        let message = "differs from the one that counts";
        let error = Error::new(ErrorKind::HeaderCorrupt, "older VHDX header", message)
            .at(HEADERS_AT[place].saturating_add(field))
            .with_found(format_args!("{here:02x}"))
            .with_wanted(format_args!("{there:02x}"));
        sink.mendable(error.by("X-62"));
    }
    Ok(())
}

/// The first byte in which two headers differ, checksum and sequence number left out.
fn difference(one: &RawHeader, other: &RawHeader) -> Option<(u64, u8, u8)> {
    let pairs = (0_u64..).zip(one.as_bytes().iter().zip(other.as_bytes()));
    pairs
        .filter(|(field, _)| !(4..16).contains(field))
        .find(|(_, (here, there))| here != there)
        .map(|(field, (&here, &there))| (field, here, there))
}

/// Entries of a log to be replayed that are not whole: a cut leaves one, the last.
fn note_entries(
    store: &dyn Store,
    headers: &Headers,
    log: LogPlace,
    sink: &mut Findings<'_>,
) -> Result<()> {
    let torn = Log::new(store, log, headers.log_guid()).torn();
    for at in sink.end(torn)?.unwrap_or_default() {
        let message = "is torn or damaged, and is left out";
        let error = Error::new(ErrorKind::LogCorrupt, "entry of the VHDX log", message)
            .at(log.offset.saturating_add(at));
        sink.oddity(Severity::Note, error.by("X-23"));
    }
    Ok(())
}

/// Everything that the log may change.
fn check_tables(
    tables: &Arc<dyn Store>,
    headers: &Headers,
    log: LogPlace,
    sink: &mut Findings<'_>,
) -> Result<Option<Kind>> {
    let file_len = length(tables)?;
    let regions = Regions::read(tables, file_len, log, sink);
    let Some(regions) = sink.end(regions)? else {
        return Ok(None);
    };
    let metadata = Metadata::read(tables, regions.metadata, sink);
    let Some(metadata) = sink.end(metadata)? else {
        return Ok(None);
    };
    let link = parent(tables, &metadata, sink);
    let at = metadata.parent_locator().map_or(0, |item| item.offset);
    if let Some(Some(link)) = sink.end(link)? {
        let odd = |message: &'static str| {
            Error::new(ErrorKind::MetadataCorrupt, "VHDX parent locator", message).at(at)
        };
        if link.identities.contains(&headers.data_write_guid()) {
            let error = odd("names the disk itself as its parent");
            sink.fault(error.with_found(headers.data_write_guid()).by("S-13"))?;
        }
        if link.hints.is_empty() {
            let error = odd("says nowhere where the parent may be");
            sink.oddity(Severity::Warning, error.by("P-6"));
        }
    }
    let shape = Shape::new(
        metadata.virtual_size,
        metadata.block_size,
        metadata.logical_sector,
        metadata.kind == Kind::Differencing,
    );
    let table = check_table(regions.bat, &shape, file_len);
    if sink.end(table)?.is_none() {
        return Ok(Some(metadata.kind));
    }
    let territory = Arc::new(Territory::new(&regions.owned, log, file_len));
    let bat = Bat::new(
        Arc::clone(tables),
        regions.bat.offset,
        shape,
        Arc::clone(&territory),
    );
    let found = scan(&bat, &territory, sink);
    if let Some(found) = sink.end(found)? {
        note_space(&found, file_len, sink);
    }
    Ok(Some(metadata.kind))
}

/// Space of the file that belongs to nothing: harmless, and worth a compact.
fn note_space(found: &Scan, file_len: u64, sink: &mut dyn Sink) {
    if let Some((first, free)) = found.usage.free_below(file_len.div_ceil(MIB)) {
        let bytes = free * MIB;
        let message = "has space that belongs to nothing";
        let error = Error::new(ErrorKind::InvalidFileSize, "file", message)
            .at(first * MIB)
            .with_found(format_args!("{bytes} bytes"));
        sink.oddity(Severity::Note, error.by("X-68"));
    }
    if !file_len.is_multiple_of(MIB) {
        let message = "has a length that is no whole number of MiBs";
        let error = Error::new(ErrorKind::InvalidFileSize, "file", message)
            .at(file_len)
            .with_found(file_len);
        sink.oddity(Severity::Note, error.by("X-11"));
    }
}

/// Puts right what [`check`] calls mendable in an image without faults.
pub(crate) fn mend(store: &Arc<dyn Store>) -> Result<()> {
    let mut none: Vec<String> = Vec::new();
    let mut headers = Headers::read(store, false, &mut none)?;
    let log = headers.log(length(store)?)?;
    if headers.log_guid().is_nil() {
        update(store, &mut headers, |raw| {
            raw.file_write_guid = Uuid::new_v4().to_bytes_le();
        })?;
    } else {
        settle(store, &mut headers, log, true, &mut none)?;
    }
    let regions = Regions::read(store, length(store)?, log, &mut none)?;
    if let Some(at) = regions.unlike {
        // The table there does not count, so that a torn write of it costs nothing.
        store
            .write_all_at(&regions.table, at)
            .and_then(|()| store.flush())
            .map_err(|error| Error::io("VHDX region table", "cannot be repaired", error).at(at))?;
    }
    lengthen(store, &regions, log)
}

/// The file holds all of its last block.
fn lengthen(store: &Arc<dyn Store>, regions: &Regions, log: LogPlace) -> Result<()> {
    let mut none: Vec<String> = Vec::new();
    let file_len = length(store)?;
    let metadata = Metadata::read(store, regions.metadata, &mut none)?;
    let shape = Shape::new(
        metadata.virtual_size,
        metadata.block_size,
        metadata.logical_sector,
        metadata.kind == Kind::Differencing,
    );
    let territory = Arc::new(Territory::new(&regions.owned, log, file_len));
    let bat = Bat::new(
        Arc::clone(store),
        regions.bat.offset,
        shape,
        Arc::clone(&territory),
    );
    let needed = scan(&bat, &territory, &mut none)?.needed_len;
    if needed > file_len {
        store
            .set_len(needed)
            .and_then(|()| store.flush())
            .map_err(|error| Error::io("file", "cannot be made longer", error))?;
    }
    Ok(())
}
