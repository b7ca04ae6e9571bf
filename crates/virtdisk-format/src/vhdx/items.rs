//! The metadata of a new image: table, items and parent locator, in the order of Windows (2.7).
//!
//! A child takes over what belongs to its parent's virtual disk: the page 83 id, so that
//! both are the same disk, sector sizes, and items that nobody here knows. Only its size is said
//! again. Everything is computed; `create` writes it.

use uuid::Uuid;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::layout::{
    DISK_ID, FILE_PARAMETERS, HAS_PARENT, INCOMPLETE_FILE, ITEM_REQUIRED, ITEM_USER,
    ITEM_VIRTUAL_DISK, KEY_ABSOLUTE, KEY_LINKAGE, KEY_LINKAGE_2, KEY_RELATIVE, LARGEST_ITEM,
    LARGEST_METADATA, LEAVE_ALLOCATED, LOCATOR_TYPE, LOGICAL_SECTOR, METADATA_SIGNATURE,
    METADATA_TABLE, MIB, MOST_ENTRIES, PARENT_LOCATOR, PHYSICAL_SECTOR, RawFileParameters, RawItem,
    RawLocator, RawMetadataHeader, RawPair, VIRTUAL_SIZE,
};
use crate::create::NewParent;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Kind, MetadataItem};

/// What a new image says of itself.
pub(crate) struct NewDisk<'a> {
    pub(crate) kind: Kind,
    pub(crate) virtual_size: u64,
    pub(crate) block_size: u32,
    pub(crate) logical_sector: u32,
    pub(crate) physical_sector: u32,
    pub(crate) id: Uuid,
    pub(crate) parent: Option<&'a NewParent>,
}

/// An item on its way into the table.
struct Item {
    id: Uuid,
    flags: u32,
    data: Vec<u8>,
}

/// The metadata region of a new image, from its first byte to the end of its last item.
pub(crate) fn metadata(disk: &NewDisk<'_>) -> Result<Vec<u8>> {
    let items = items(disk)?;
    let count = u16::try_from(items.len())
        .ok()
        .filter(|&count| count <= MOST_ENTRIES)
        .ok_or_else(|| too_much("has too many items to hand down").with_found(items.len()))?;
    let header = RawMetadataHeader {
        signature: METADATA_SIGNATURE,
        reserved: U16::ZERO,
        count: U16::new(count),
        reserved_end: [0; 20],
    };
    let mut table = header.as_bytes().to_vec();
    let mut content = Vec::new();
    for item in items {
        let length = u32::try_from(item.data.len())
            .ok()
            .filter(|&length| length <= LARGEST_ITEM)
            .ok_or_else(|| {
                too_much("has an item that is too large").with_found(item.id.braced())
            })?;
        let at = METADATA_TABLE + content.len() as u64;
        let offset = u32::try_from(at)
            .ok()
            .filter(|_| at + u64::from(length) <= LARGEST_METADATA)
            .ok_or_else(|| too_much("has too much metadata to hand down"))?;
        let entry = RawItem {
            guid: item.id.to_bytes_le(),
            offset: U32::new(if length == 0 { 0 } else { offset }),
            length: U32::new(length),
            flags: U32::new(item.flags),
            reserved: U32::ZERO,
        };
        table.extend_from_slice(entry.as_bytes());
        content.extend_from_slice(&item.data);
    }
    table.resize(usize::try_from(METADATA_TABLE).unwrap_or(usize::MAX), 0);
    table.extend_from_slice(&content);
    Ok(table)
}

/// Bytes of the region that holds `metadata`.
pub(crate) fn region_length(metadata: &[u8]) -> u64 {
    (metadata.len() as u64).next_multiple_of(MIB)
}

fn items(disk: &NewDisk<'_>) -> Result<Vec<Item>> {
    let flags = match disk.kind {
        Kind::Fixed => LEAVE_ALLOCATED,
        Kind::Dynamic => 0,
        Kind::Differencing => HAS_PARENT,
    };
    let parameters = RawFileParameters {
        block_size: U32::new(disk.block_size),
        flags: U32::new(flags),
    };
    let of_disk = ITEM_VIRTUAL_DISK | ITEM_REQUIRED;
    let item = |id, flags, data: &[u8]| Item {
        id,
        flags,
        data: data.to_vec(),
    };
    let mut items = vec![
        item(FILE_PARAMETERS, ITEM_REQUIRED, parameters.as_bytes()),
        item(
            VIRTUAL_SIZE,
            of_disk,
            U64::new(disk.virtual_size).as_bytes(),
        ),
        item(
            LOGICAL_SECTOR,
            of_disk,
            U32::new(disk.logical_sector).as_bytes(),
        ),
        item(
            PHYSICAL_SECTOR,
            of_disk,
            U32::new(disk.physical_sector).as_bytes(),
        ),
        item(DISK_ID, of_disk, &disk.id.to_bytes_le()),
    ];
    let Some(parent) = disk.parent else {
        return Ok(items);
    };
    items.push(item(PARENT_LOCATOR, ITEM_REQUIRED, &locator(parent)?));
    for inherited in &parent.inherited {
        let known = items
            .iter()
            .any(|item| item.id == inherited.id && (item.flags & ITEM_USER != 0) == inherited.user);
        if !known && inherited.virtual_disk && inherited.id != INCOMPLETE_FILE {
            items.push(Item {
                id: inherited.id,
                flags: flags_of(inherited),
                data: inherited.data.clone(),
            });
        }
    }
    Ok(items)
}

fn flags_of(item: &MetadataItem) -> u32 {
    let flag = |set: bool, bit| if set { bit } else { 0 };
    flag(item.user, ITEM_USER)
        | flag(item.virtual_disk, ITEM_VIRTUAL_DISK)
        | flag(item.required, ITEM_REQUIRED)
}

/// What the parent says of one of the format's own items.
pub(crate) fn inherited(parent: &NewParent, id: Uuid) -> Option<&[u8]> {
    let item = |item: &&MetadataItem| item.id == id && !item.user && item.virtual_disk;
    parent.inherited.iter().find(item).map(|item| &*item.data)
}

/// The parent locator item, its keys in the order of Windows (2.8).
fn locator(parent: &NewParent) -> Result<Vec<u8>> {
    let braced = |id: Uuid| id.braced().to_string();
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = [
        (KEY_LINKAGE, braced(parent.content_id)),
        (KEY_ABSOLUTE, parent.absolute_path.clone()),
        (KEY_RELATIVE, parent.relative_path.clone()),
        (KEY_LINKAGE_2, braced(Uuid::nil())),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(key, value)| (utf16(key), utf16(&value)))
    .collect();
    let paths = [&parent.absolute_path, &parent.relative_path];
    if let Some(path) = paths.into_iter().find(|path| path.contains('\0')) {
        return Err(bad_path("contains a NUL").with_found(path.escape_debug()));
    }
    let count = u16::try_from(pairs.len()).unwrap_or(u16::MAX);
    let header = RawLocator {
        locator_type: LOCATOR_TYPE.to_bytes_le(),
        reserved: U16::ZERO,
        count: U16::new(count),
    };
    let mut table = header.as_bytes().to_vec();
    let mut at = size_of::<RawLocator>() + pairs.len() * size_of::<RawPair>();
    let mut text = Vec::new();
    for (key, value) in &pairs {
        let long = |_| bad_path("is longer than a parent locator can say");
        let offset = |at: usize| u32::try_from(at).map(U32::new).map_err(long);
        let length = |text: &[u8]| u16::try_from(text.len()).map(U16::new).map_err(long);
        let pair = RawPair {
            key_offset: offset(at)?,
            value_offset: offset(at + key.len())?,
            key_length: length(key)?,
            value_length: length(value)?,
        };
        table.extend_from_slice(pair.as_bytes());
        text.extend_from_slice(key);
        text.extend_from_slice(value);
        at += key.len() + value.len();
    }
    table.extend_from_slice(&text);
    Ok(table)
}

/// UTF-16LE without a terminator.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn bad_path(message: &str) -> Error {
    Error::new(ErrorKind::InvalidParameter, "path of the parent", message)
}

fn too_much(message: &str) -> Error {
    Error::new(ErrorKind::InvalidParameter, "parent", message)
}
