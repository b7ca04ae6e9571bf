//! Opening a VHDX: header, log, regions, metadata, table, in this order.
//!
//! Nothing is believed before the log is in its place, and everything is read anew from behind it
//! (S-6). Opening for reading changes nothing. Opening for writing replays the log in the
//! file and makes a file longer that ends inside its last block; headers and region tables
//! that are damaged are put right with the first change.

use std::sync::Arc;

use parking_lot::Mutex;

use super::bat::Bat;
use super::bitmap::Bitmaps;
use super::header::{Headers, LogPlace};
use super::identifier::read_identifier;
use super::layout::BAT_ENTRY;
use super::locator::read_locator;
use super::map::Vhdx;
use super::metadata::{Metadata, content};
use super::overlay::Overlay;
use super::pending::Tables;
use super::region::{Region, Regions};
use super::replay::Plan;
use super::scan::{MOST_ENTRIES_READING, MOST_NOTICES, scan};
use super::shape::Shape;
use super::space::Space;
use super::territory::Territory;
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Facts, Format, Kind, ParentLink};
use crate::finding::{Lenient, Severity, Sink};
use crate::image::Image;
use crate::open::OpenOptions;
use crate::store::Store;

/// Opens a file that was found, or is said, to be a VHDX.
pub(crate) fn open(store: Arc<dyn Store>, options: &OpenOptions) -> Result<Box<dyn Image>> {
    let mut notices: Vec<String> = Vec::new();
    let creator = read_identifier(&*store)?;
    let mut headers = Headers::read(&*store, options.recover, &mut notices)?;
    let log = headers.log(length(&*store)?)?;
    // What recovery accepts is never written to.
    let mut read_only = options.recover;
    if log.length == 0 {
        notices.push("the VHDX has no log: the disk is read-only".to_owned());
        read_only = true;
    }
    let writable = options.writable && !read_only;
    let overlay = settle(&store, &mut headers, log, writable, &mut notices)?;
    let pending = Arc::new(Tables::new(Arc::clone(&store)));
    let tables = match &overlay {
        Some(overlay) => Arc::clone(overlay) as Arc<dyn Store>,
        None if writable => Arc::clone(&pending) as Arc<dyn Store>,
        None => Arc::clone(&store),
    };
    let file_len = length(&*tables)?;
    let regions = Regions::read(&*tables, file_len, log, &mut notices)?;
    let metadata = Metadata::read(&*tables, regions.metadata, &mut notices)?;
    let parent = parent(&*tables, &metadata, &mut notices)?;
    let shape = Shape::new(
        metadata.virtual_size,
        metadata.block_size,
        metadata.logical_sector,
        metadata.kind == Kind::Differencing,
    );
    check_table(regions.bat, &shape, file_len)?;
    let territory = Arc::new(Territory::new(&regions.owned, log, file_len));
    let bat = Bat::new(
        Arc::clone(&tables),
        regions.bat.offset,
        shape,
        Arc::clone(&territory),
    );
    let mut writer = None;
    if writable {
        let found = scan(&bat, &territory, &mut notices)?;
        lengthen(&*store, &territory, found.needed_len)?;
        let space = Space::new(found.usage, territory.file_len());
        let file = Arc::clone(&store);
        writer = Some(Writer::new(file, pending, log, space, territory.file_len()));
    } else if shape.entries() <= MOST_ENTRIES_READING {
        let mut lenient = Lenient::new(&mut notices, MOST_NOTICES);
        scan(&bat, &territory, &mut lenient)?;
    }
    let mut facts = facts_of(&metadata, &headers, parent);
    (facts.creator, facts.read_only, facts.notices) = (creator, read_only, notices);
    Ok(Box::new(Vhdx {
        facts,
        bitmaps: Bitmaps::new(Arc::clone(&tables), &shape),
        store,
        tables,
        overlay,
        shape,
        territory,
        bat,
        headers: Mutex::new(headers),
        regions,
        metadata,
        recover: options.recover,
        writer,
    }))
}

pub(super) fn length(store: &dyn Store) -> Result<u64> {
    store
        .len()
        .map_err(|error| Error::io("file", "does not tell its length", error))
}

/// Puts the log in its place where there is something to replay.
pub(super) fn settle(
    store: &Arc<dyn Store>,
    headers: &mut Headers,
    log: LogPlace,
    writable: bool,
    sink: &mut dyn Sink,
) -> Result<Option<Arc<Overlay>>> {
    if headers.log_guid().is_nil() {
        return Ok(None);
    }
    let plan = Plan::read(&**store, headers, log, length(&**store)?)?;
    if writable {
        plan.in_file(&**store, headers)?;
        return Ok(None);
    }
    let message = "holds changes, which were replayed in memory";
    let error = Error::new(ErrorKind::LogCorrupt, "VHDX log", message);
    sink.mendable(error.at(log.offset).by("X-21"));
    Ok(Some(Arc::new(plan.in_memory(Arc::clone(store)))))
}

/// What the image says of its parent; `None` where it has none.
pub(super) fn parent(
    store: &dyn Store,
    metadata: &Metadata,
    sink: &mut dyn Sink,
) -> Result<Option<ParentLink>> {
    match (metadata.kind, metadata.parent_locator()) {
        (Kind::Differencing, Some(item)) => {
            read_locator(&content(store, item)?, item.offset).map(Some)
        }
        (Kind::Differencing, None) => Err(Error::new(
            ErrorKind::MetadataCorrupt,
            "VHDX metadata",
            "is that of a differencing disk and has no parent locator",
        )
        .by("P-6")),
        (_, Some(item)) => {
            let message = "has a parent locator, and the disk has no parent";
            let error = Error::new(ErrorKind::MetadataCorrupt, "VHDX metadata", message);
            sink.oddity(Severity::Warning, error.at(item.offset).by("X-7"));
            Ok(None)
        }
        (_, None) => Ok(None),
    }
}

/// The table has an entry for every block of the disk, inside its region and the file.
pub(super) fn check_table(region: Region, shape: &Shape, file_len: u64) -> Result<()> {
    let needed = u64::from(shape.entries()) * BAT_ENTRY;
    let end = region.offset.saturating_add(needed);
    if needed <= region.length && end <= file_len {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BatCorrupt,
        "VHDX block allocation table",
        "is too small for the disk, or lies outside the file",
    )
    .at(region.offset)
    .with_found(format_args!(
        "{} bytes, {file_len} of the file",
        region.length
    ))
    .with_wanted(needed)
    .by("X-51"))
}

/// The file holds all of its last block before that is written to.
fn lengthen(store: &dyn Store, territory: &Territory, needed: u64) -> Result<()> {
    if needed <= territory.file_len() {
        return Ok(());
    }
    store
        .set_len(needed)
        .map_err(|error| Error::io("file", "cannot be made longer", error))?;
    territory.set_file_len(needed);
    Ok(())
}

fn facts_of(metadata: &Metadata, headers: &Headers, parent: Option<ParentLink>) -> Facts {
    let mut facts = Facts::new(Format::Vhdx, metadata.kind, metadata.virtual_size);
    if metadata.kind != Kind::Fixed {
        facts.block_size = metadata.block_size;
    }
    facts.logical_sector_size = metadata.logical_sector;
    facts.physical_sector_size = metadata.physical_sector;
    facts.identifier = metadata.disk_id;
    facts.content_id = headers.data_write_guid();
    facts.parent = parent;
    facts
}
