//! The metadata: the table of items, and what the items say of the disk.
//!
//! Reading checks the whole table once: every item lies inside the region, apart from the
//! others and from the table. What [`Metadata`] then says of the disk holds: block and sector sizes
//! and the virtual size are possible ones, so that everything computed from them is bounded.

use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::layout::{
    CHS_PARAMETERS, DISK_ID, FILE_PARAMETERS, HAS_PARENT, INCOMPLETE_FILE, ITEM_REQUIRED,
    ITEM_USER, ITEM_VIRTUAL_DISK, LARGEST_BLOCK, LARGEST_DISK, LARGEST_ITEM, LEAVE_ALLOCATED,
    LOGICAL_SECTOR, METADATA_SIGNATURE, METADATA_TABLE, MOST_ENTRIES, PARENT_LOCATOR,
    PHYSICAL_SECTOR, PMEM_LABELS, RawFileParameters, RawItem, RawMetadataHeader, SMALLEST_BLOCK,
    VIRTUAL_SIZE, guid,
};
use super::region::Region;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Kind, MetadataItem};
use crate::finding::{Severity, Sink};
use crate::store::Store;

/// Bytes of the table, for buffers.
const TABLE_BYTES: usize = 64 << 10;
/// Most bytes of items that a child takes over.
const MOST_INHERITED: u64 = 40 << 20;
/// The items of the format's own that are known.
const KNOWN: [Uuid; 9] = [
    FILE_PARAMETERS,
    VIRTUAL_SIZE,
    DISK_ID,
    LOGICAL_SECTOR,
    PHYSICAL_SECTOR,
    PARENT_LOCATOR,
    CHS_PARAMETERS,
    PMEM_LABELS,
    INCOMPLETE_FILE,
];

/// The items that every image has.
const EVERYWHERE: [Uuid; 5] = [
    FILE_PARAMETERS,
    VIRTUAL_SIZE,
    DISK_ID,
    LOGICAL_SECTOR,
    PHYSICAL_SECTOR,
];

/// An entry of the table, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) id: Uuid,
    /// From the start of the file in bytes.
    pub(crate) offset: u64,
    /// Bytes, at most 1 MiB.
    pub(crate) length: u32,
    pub(crate) flags: u32,
}

/// The metadata of an image.
pub(crate) struct Metadata {
    pub(crate) items: Vec<Item>,
    pub(crate) kind: Kind,
    /// Bytes.
    pub(crate) block_size: u32,
    pub(crate) virtual_size: u64,
    pub(crate) logical_sector: u32,
    pub(crate) physical_sector: u32,
    /// Page 83.
    pub(crate) disk_id: Uuid,
}

impl Metadata {
    /// Reads table and items of the region.
    pub(crate) fn read(store: &dyn Store, region: Region, sink: &mut dyn Sink) -> Result<Metadata> {
        let items = read_table(store, region, sink)?;
        //
        if let Some(item) = find(&items, INCOMPLETE_FILE) {
            let error = wrong("says that the creation of the image was interrupted");
            sink.fault(error.at(item.offset).by("X-14"))?;
        }
        let reader = Reader { store, region };
        let mut flaws = Vec::new();
        let parameters = keep(reader.file_parameters(&items), &mut flaws);
        let logical = reader.sector(&items, LOGICAL_SECTOR, "logical sector size");
        let logical = keep(logical, &mut flaws);
        let physical = reader.sector(&items, PHYSICAL_SECTOR, "physical sector size");
        let physical = keep(physical, &mut flaws);
        let size = reader.virtual_size(&items, logical.unwrap_or(512));
        let size = keep(size, &mut flaws);
        let id = reader.fixed::<16>(&items, DISK_ID, "virtual disk id");
        let id = keep(id, &mut flaws);
        let last = flaws.pop();
        flaws.into_iter().try_for_each(|flaw| sink.fault(flaw))?;
        let read = (parameters, logical, physical, size, id);
        let (
            Some((block_size, kind)),
            Some(logical_sector),
            Some(physical_sector),
            Some(virtual_size),
            Some((id, at)),
        ) = read
        else {
            return Err(last.unwrap_or_else(|| wrong("cannot be read")));
        };
        if guid(id).is_nil() {
            let error = wrong("has a virtual disk id of all zeros").at(at).by("X-7");
            sink.oddity(Severity::Warning, error);
        }
        Ok(Metadata {
            kind,
            block_size,
            virtual_size,
            logical_sector,
            physical_sector,
            disk_id: guid(id),
            items,
        })
    }

    /// The parent locator's item.
    pub(crate) fn parent_locator(&self) -> Option<&Item> {
        find(&self.items, PARENT_LOCATOR)
    }

    /// The items that belong to the virtual disk, with their content.
    pub(crate) fn inherited(&self, store: &dyn Store) -> Result<Vec<MetadataItem>> {
        let of_disk = |item: &&Item| item.flags & ITEM_VIRTUAL_DISK != 0;
        let total: u64 = self
            .items
            .iter()
            .filter(of_disk)
            .map(|item| u64::from(item.length))
            .sum();
        if total > MOST_INHERITED {
            return Err(
                wrong("has items of the virtual disk that are too large together")
                    .with_found(total)
                    .with_wanted(format_args!("at most {MOST_INHERITED}")),
            );
        }
        self.items
            .iter()
            .filter(of_disk)
            .map(|item| {
                Ok(MetadataItem {
                    id: item.id,
                    user: item.flags & ITEM_USER != 0,
                    virtual_disk: true,
                    required: item.flags & ITEM_REQUIRED != 0,
                    data: content(store, item)?,
                })
            })
            .collect()
    }
}

/// The value; or nothing, and its error is kept.
fn keep<T>(result: Result<T>, flaws: &mut Vec<Error>) -> Option<T> {
    result.map_err(|error| flaws.push(error)).ok()
}

/// The format's own item with that id.
fn find(items: &[Item], id: Uuid) -> Option<&Item> {
    items
        .iter()
        .find(|item| item.id == id && item.flags & ITEM_USER == 0)
}

/// The content of an item, at most 1 MiB.
pub(crate) fn content(store: &dyn Store, item: &Item) -> Result<Vec<u8>> {
    let mut bytes = vec![0; item.length as usize];
    if !bytes.is_empty() {
        store
            .read_exact_at(&mut bytes, item.offset)
            .map_err(|error| {
                Error::io("VHDX metadata item", "cannot be read", error).at(item.offset)
            })?;
    }
    Ok(bytes)
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::MetadataCorrupt, "VHDX metadata", message).by("X-7")
}

/// Reads the items that every image has.
struct Reader<'a> {
    store: &'a dyn Store,
    region: Region,
}

impl Reader<'_> {
    /// An item of exactly `N` bytes, and its file offset.
    fn fixed<const N: usize>(
        &self,
        items: &[Item],
        id: Uuid,
        name: &str,
    ) -> Result<([u8; N], u64)> {
        let item = find(items, id)
            .ok_or_else(|| wrong(format!("has no {name}")).at(self.region.offset))?;
        if item.length as usize != N {
            return Err(wrong(format!("has a {name} of a wrong length"))
                .at(item.offset)
                .with_found(item.length)
                .with_wanted(N));
        }
        let of_disk = item.flags & ITEM_VIRTUAL_DISK != 0;
        if of_disk == (id == FILE_PARAMETERS) {
            return Err(
                wrong(format!("has a {name} that does not belong where it says"))
                    .at(item.offset)
                    .with_found(format_args!("flags {:#x}", item.flags)),
            );
        }
        let mut bytes = [0; N];
        self.store
            .read_exact_at(&mut bytes, item.offset)
            .map_err(|error| {
                Error::io("VHDX metadata item", "cannot be read", error).at(item.offset)
            })?;
        Ok((bytes, item.offset))
    }

    /// Block size and kind.
    fn file_parameters(&self, items: &[Item]) -> Result<(u32, Kind)> {
        let (bytes, at) = self.fixed::<8>(items, FILE_PARAMETERS, "file parameters item")?;
        let mut raw = RawFileParameters::new_zeroed();
        raw.as_mut_bytes().copy_from_slice(&bytes);
        let block_size = raw.block_size.get();
        if !block_size.is_power_of_two() || !(SMALLEST_BLOCK..=LARGEST_BLOCK).contains(&block_size)
        {
            return Err(Error::new(
                ErrorKind::InvalidBlockSize,
                "VHDX metadata",
                "has a block size that no disk can have",
            )
            .at(at)
            .with_found(block_size)
            .with_wanted("a power of two from 1 MiB to 256 MiB")
            .by("X-8"));
        }
        let kind = match raw.flags.get() {
            0 => Kind::Dynamic,
            LEAVE_ALLOCATED => Kind::Fixed,
            flags if flags & !LEAVE_ALLOCATED == HAS_PARENT => Kind::Differencing,
            flags => {
                return Err(wrong("has file parameters that are not known")
                    .at(at.saturating_add(4))
                    .with_found(format_args!("{flags:#x}"))
                    .with_wanted("at most bits 0 and 1"));
            }
        };
        Ok((block_size, kind))
    }

    fn sector(&self, items: &[Item], id: Uuid, name: &str) -> Result<u32> {
        let (bytes, at) = self.fixed::<4>(items, id, name)?;
        match u32::from_le_bytes(bytes) {
            size @ (512 | 4096) => Ok(size),
            size => Err(wrong(format!("has a {name} that no disk can have"))
                .at(at)
                .with_found(size)
                .with_wanted("512 or 4096")),
        }
    }

    fn virtual_size(&self, items: &[Item], sector: u32) -> Result<u64> {
        let (bytes, at) = self.fixed::<8>(items, VIRTUAL_SIZE, "virtual disk size")?;
        let size = u64::from_le_bytes(bytes);
        if size > 0 && size <= LARGEST_DISK && size.is_multiple_of(sector.into()) {
            return Ok(size);
        }
        Err(Error::new(
            ErrorKind::InvalidSize,
            "VHDX metadata",
            "has a virtual size that no disk can have",
        )
        .at(at)
        .with_found(size)
        .with_wanted(format_args!("a positive multiple of {sector} up to 64 TiB"))
        .by("X-8"))
    }
}

/// Reads and checks the table.
fn read_table(store: &dyn Store, region: Region, sink: &mut dyn Sink) -> Result<Vec<Item>> {
    const _: () = assert!(TABLE_BYTES as u64 == METADATA_TABLE);
    let mut bytes = vec![0; TABLE_BYTES];
    store
        .read_exact_at(&mut bytes, region.offset)
        .map_err(|error| {
            Error::io("VHDX metadata table", "cannot be read", error).at(region.offset)
        })?;
    let (head, body) = bytes.split_at(size_of::<RawMetadataHeader>());
    let mut header = RawMetadataHeader::new_zeroed();
    header.as_mut_bytes().copy_from_slice(head);
    if header.signature != METADATA_SIGNATURE {
        return Err(wrong("has no table")
            .at(region.offset)
            .with_found(header.signature.escape_ascii())
            .with_wanted("metadata"));
    }
    let count = header.count.get();
    let reserved = header.reserved.get() != 0 || header.reserved_end != [0; 20];
    if count > MOST_ENTRIES || reserved {
        return Err(wrong("has a table with an impossible head")
            .at(region.offset.saturating_add(8))
            .with_found(format_args!("{count} entries, reserved {reserved}"))
            .with_wanted(format_args!("at most {MOST_ENTRIES} entries")));
    }
    let mut items = Vec::new();
    for (index, entry) in (0..count).zip(body.chunks_exact(size_of::<RawItem>())) {
        let at = region.offset + 32 + 32 * u64::from(index);
        if let Ok(raw) = RawItem::read_from_bytes(entry) {
            match check_item(&raw, region, at) {
                Ok(item) => {
                    note_item(&item, at, sink);
                    items.push(item);
                }
                // Without these nothing else makes sense.
                Err(error) if EVERYWHERE.contains(&guid(raw.guid)) => return Err(error),
                Err(error) => sink.fault(error)?,
            }
        }
    }
    if let Err(error) = check_apart(&items, region) {
        sink.fault(error)?;
    }
    Ok(items)
}

/// What is accepted of an item and unusual.
fn note_item(item: &Item, at: u64, sink: &mut dyn Sink) {
    let wanted = match item.id {
        FILE_PARAMETERS | PARENT_LOCATOR => ITEM_REQUIRED,
        VIRTUAL_SIZE | DISK_ID | LOGICAL_SECTOR | PHYSICAL_SECTOR => {
            ITEM_REQUIRED | ITEM_VIRTUAL_DISK
        }
        id if item.flags & ITEM_USER == 0 && !KNOWN.contains(&id) => {
            let error = wrong(format!("has the item {id}, which is not known")).at(at);
            sink.oddity(Severity::Note, error.by("X-5"));
            return;
        }
        _ => return,
    };
    if item.flags != wanted {
        let error = wrong(format!("has unusual flags of the item {}", item.id))
            .at(at.saturating_add(24))
            .with_found(format_args!("{:#x}", item.flags))
            .with_wanted(format_args!("{wanted:#x}"))
            .by("X-7");
        sink.oddity(Severity::Note, error);
    }
}

/// One entry of the table, found at `at`.
fn check_item(raw: &RawItem, region: Region, at: u64) -> Result<Item> {
    let (id, flags) = (guid(raw.guid), raw.flags.get());
    let (offset, length) = (u64::from(raw.offset.get()), raw.length.get());
    let user = flags & ITEM_USER != 0;
    let known_flags = ITEM_USER | ITEM_VIRTUAL_DISK | ITEM_REQUIRED;
    if id.is_nil() || flags & !known_flags != 0 || raw.reserved.get() != 0 {
        return Err(wrong("has an item with an impossible entry")
            .at(at)
            .with_found(format_args!("item {id}, flags {flags:#x}"))
            .with_wanted("an id, flags of at most 7, reserved bytes of 0"));
    }
    if user && flags & ITEM_REQUIRED != 0 {
        return Err(wrong(format!("requires the user's item {id}")).at(at));
    }
    let inside = offset >= METADATA_TABLE && offset + u64::from(length) <= region.length;
    let empty = length == 0 && offset == 0;
    if !(empty || (inside && length > 0)) || length > LARGEST_ITEM {
        return Err(wrong(format!("puts the item {id} where it cannot be"))
            .at(at.saturating_add(16))
            .with_found(format_args!("{length} bytes at {offset}"))
            .with_wanted(format_args!(
                "{METADATA_TABLE} to {} of the region",
                region.length
            )));
    }
    //
    if !user && flags & ITEM_REQUIRED != 0 && !KNOWN.contains(&id) {
        return Err(Error::new(
            ErrorKind::UnsupportedFeature,
            "VHDX metadata",
            format!("requires the item {id}, which is not known"),
        )
        .at(at)
        .by("X-5"));
    }
    Ok(Item {
        id,
        offset: region.offset.saturating_add(offset),
        length,
        flags,
    })
}

/// No id twice, no byte in two items.
fn check_apart(items: &[Item], region: Region) -> Result<()> {
    let mut ids: Vec<(Uuid, bool)> = items
        .iter()
        .map(|item| (item.id, item.flags & ITEM_USER != 0))
        .collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(wrong(format!("has the item {} twice", pair[0].0)).at(region.offset));
    }
    let mut ranges: Vec<(u64, u64, Uuid)> = items
        .iter()
        .filter(|item| item.length > 0)
        .map(|item| (item.offset, item.offset + u64::from(item.length), item.id))
        .collect();
    ranges.sort_unstable();
    match ranges.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        None => Ok(()),
        Some(pair) => Err(wrong(format!(
            "gives bytes to two items, {} and {}",
            pair[0].2, pair[1].2
        ))
        .at(pair[1].0)),
    }
}
