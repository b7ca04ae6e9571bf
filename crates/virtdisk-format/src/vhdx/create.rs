//! New VHDXs.
//!
//! Log at 1 MiB, metadata at 2 MiB, then the table, then blocks, as Windows has it. The signature
//! at byte 0 comes last, when everything else is durable: an unfinished file is no VHDX to anybody.
//! The table has room for the bitmap blocks of a differencing disk in every image, so that none has
//! to move if it becomes one.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::items::{NewDisk, inherited, metadata, region_length, utf16};
use super::layout::{
    BAT_ENTRY, BAT_REGION, CHUNK_SECTORS, DISK_ID, FILE_SIGNATURE, FULLY_PRESENT, HEADER_SIGNATURE,
    HEADERS_AT, LARGEST_BLOCK, LARGEST_DISK, LOG_VERSION, LOGICAL_SECTOR, METADATA_REGION, MIB,
    PHYSICAL_SECTOR, REGION_REQUIRED, REGION_SIGNATURE, REGION_TABLE, REGION_TABLES_AT, RawHeader,
    RawIdentifier, RawRegion, RawRegionHeader, SMALLEST_BLOCK, VERSION, checksum,
};
use crate::create::{CreateOptions, NewParent};
use crate::error::{Error, ErrorKind, Result};
use crate::facts::Kind;
use crate::store::Store;
use crate::vhd::{flush, reserve};

/// Who wrote the image (2.2).
const CREATOR: &str = concat!("virtdisk ", env!("CARGO_PKG_VERSION"));
/// Default block of a dynamic disk in bytes (R-CRE-8).
const DYNAMIC_BLOCK: u32 = 32 << 20;
/// Default block of other disks.
const OTHER_BLOCK: u32 = 2 << 20;
/// Where the log of a new image is, and its bytes.
const LOG: (u64, u64) = (MIB, MIB);
/// Bytes at the start of the file whose space is taken at once, so that its log never lacks room.
const SOLID: u64 = 4 * MIB;
/// Bytes of the table written at once.
const PIECE: u64 = MIB;

/// Where the parts of a new image are.
struct Plan {
    metadata: Vec<u8>,
    metadata_at: u64,
    bat_at: u64,
    bat_length: u64,
    /// First byte of the first block.
    blocks_at: u64,
    block_size: u64,
    blocks: u64,
    /// Payload blocks per bitmap block.
    ratio: u64,
}

/// Writes a new image into an empty file.
pub(crate) fn create(store: &dyn Store, options: &CreateOptions) -> Result<()> {
    let plan = plan(options)?;
    if options.kind == Kind::Fixed {
        let len = plan
            .blocks
            .checked_mul(plan.block_size)
            .and_then(|len| len.checked_add(plan.blocks_at))
            .ok_or_else(|| size_error(options, "is too large for a file"))?;
        reserve(store, len, options.sparse)?;
        fill_table(store, &plan)?;
    } else {
        reserve(store, plan.blocks_at.min(SOLID), false)?;
        if plan.blocks_at > SOLID {
            reserve(store, plan.blocks_at, true)?;
        }
    }
    write(store, "VHDX metadata", &plan.metadata, plan.metadata_at)?;
    let regions = region_table(&plan);
    for at in REGION_TABLES_AT {
        write(store, "VHDX region table", &regions, at)?;
    }
    let mut header = header();
    for (at, sequence) in HEADERS_AT.into_iter().zip(1..) {
        header.sequence = U64::new(sequence);
        header.checksum = U32::new(checksum(header.as_bytes()));
        write(store, "VHDX header", header.as_bytes(), at)?;
    }
    flush(store)?;
    let mut identifier = RawIdentifier::new_zeroed();
    identifier.signature = FILE_SIGNATURE;
    let creator = utf16(CREATOR);
    identifier.creator[..creator.len()].copy_from_slice(&creator);
    write(store, "VHDX file identifier", identifier.as_bytes(), 0)?;
    flush(store)
}

/// Checks the options and lays the image out.
fn plan(options: &CreateOptions) -> Result<Plan> {
    let parent = parent_of(options)?;
    let sector = |asked: u32, id, default| -> Result<u32> {
        let of_parent = parent
            .and_then(|parent| inherited(parent, id))
            .and_then(|data| data.try_into().ok())
            .map(u32::from_le_bytes);
        let size = match (asked, of_parent) {
            (0, Some(size)) => size,
            (0, None) => default,
            (asked, Some(size)) if id == LOGICAL_SECTOR && asked != size => {
                return Err(sector_error("is not that of the parent", asked).with_wanted(size));
            }
            (asked, _) => asked,
        };
        match size {
            512 | 4096 => Ok(size),
            _ => Err(sector_error("is none that a VHDX can have", size).with_wanted("512 or 4096")),
        }
    };
    let logical_sector = sector(options.logical_sector_size, LOGICAL_SECTOR, 512)?;
    let physical_sector = sector(options.physical_sector_size, PHYSICAL_SECTOR, 4096)?;
    if !options.virtual_size.is_multiple_of(logical_sector.into()) {
        return Err(size_error(options, "is no whole number of logical sectors"));
    }
    if options.virtual_size > LARGEST_DISK {
        return Err(size_error(options, "is too large for a VHDX")
            .with_wanted(format_args!("at most {LARGEST_DISK}")));
    }
    let block_size = block_size(options)?;
    let disk = NewDisk {
        kind: options.kind,
        virtual_size: options.virtual_size,
        block_size,
        logical_sector,
        physical_sector,
        id: disk_id(options, parent),
        parent,
    };
    let metadata = metadata(&disk)?;
    let block_size = u64::from(block_size);
    let ratio = CHUNK_SECTORS * u64::from(logical_sector) / block_size;
    let blocks = options.virtual_size.div_ceil(block_size);
    let entries = blocks.div_ceil(ratio) * (ratio + 1);
    let metadata_at = LOG.0 + LOG.1;
    let bat_at = metadata_at + region_length(&metadata);
    let bat_length = (entries * BAT_ENTRY).next_multiple_of(MIB);
    Ok(Plan {
        metadata,
        metadata_at,
        bat_at,
        bat_length,
        blocks_at: bat_at + bat_length,
        block_size,
        blocks,
        ratio,
    })
}

/// A differencing image has a parent, and no other has one.
fn parent_of(options: &CreateOptions) -> Result<Option<&NewParent>> {
    let wrong = |kind, message| Err(Error::new(kind, "image", message));
    match (options.kind, &options.parent) {
        (Kind::Differencing, None) => wrong(
            ErrorKind::ParentMissing,
            "cannot be created as a differencing disk without a parent",
        ),
        (Kind::Differencing, Some(parent)) if parent.content_id.is_nil() => wrong(
            ErrorKind::ParentMismatch,
            "cannot be the child of a disk that has no identity",
        ),
        (Kind::Differencing, Some(parent)) => Ok(Some(parent)),
        (_, Some(_)) => wrong(
            ErrorKind::InvalidParameter,
            "has a parent and is no differencing disk",
        ),
        (_, None) => Ok(None),
    }
}

/// The id that was asked for, else the parent's, else a new one (X-72, R-CRE-14).
fn disk_id(options: &CreateOptions, parent: Option<&NewParent>) -> Uuid {
    let of_parent = parent
        .and_then(|parent| inherited(parent, DISK_ID))
        .and_then(|data| data.try_into().ok())
        .map(Uuid::from_bytes_le);
    [options.identifier, of_parent]
        .into_iter()
        .flatten()
        .find(|id| !id.is_nil())
        .unwrap_or_else(Uuid::new_v4)
}

fn block_size(options: &CreateOptions) -> Result<u32> {
    let size = match (options.block_size, options.kind) {
        (0, Kind::Dynamic) => DYNAMIC_BLOCK,
        (0, _) => OTHER_BLOCK,
        (size, _) => size,
    };
    if size.is_power_of_two() && (SMALLEST_BLOCK..=LARGEST_BLOCK).contains(&size) {
        return Ok(size);
    }
    Err(Error::new(
        ErrorKind::InvalidBlockSize,
        "block size",
        "is none that a VHDX can have",
    )
    .with_found(size)
    .with_wanted("a power of two from 1048576 to 268435456"))
}

/// A header without sequence number and checksum.
fn header() -> RawHeader {
    let mut header = RawHeader::new_zeroed();
    header.signature = HEADER_SIGNATURE;
    header.file_write_guid = Uuid::new_v4().to_bytes_le();
    header.data_write_guid = Uuid::new_v4().to_bytes_le();
    header.log_version = U16::new(LOG_VERSION);
    header.version = U16::new(VERSION);
    header.log_length = U32::new(u32::try_from(LOG.1).unwrap_or(0));
    header.log_offset = U64::new(LOG.0);
    header
}

/// The region table, both times the same.
fn region_table(plan: &Plan) -> Vec<u8> {
    let entry = |guid: Uuid, offset: u64, length: u64| RawRegion {
        guid: guid.to_bytes_le(),
        offset: U64::new(offset),
        // The largest table is smaller than 1 GiB.
        length: U32::new(u32::try_from(length).unwrap_or(u32::MAX)),
        flags: U32::new(REGION_REQUIRED),
    };
    let mut header = RawRegionHeader {
        signature: REGION_SIGNATURE,
        checksum: U32::ZERO,
        count: U32::new(2),
        reserved: U32::ZERO,
    };
    let entries = [
        entry(BAT_REGION, plan.bat_at, plan.bat_length),
        entry(
            METADATA_REGION,
            plan.metadata_at,
            region_length(&plan.metadata),
        ),
    ];
    let mut table = [header.as_bytes(), entries.as_bytes()].concat();
    table.resize(usize::try_from(REGION_TABLE).unwrap_or(0), 0);
    header.checksum = U32::new(checksum(&table));
    table[..size_of::<RawRegionHeader>()].copy_from_slice(header.as_bytes());
    table
}

/// The table of a fixed disk: all blocks there, one behind the other.
fn fill_table(store: &dyn Store, plan: &Plan) -> Result<()> {
    let mut piece = Vec::new();
    let mut at = plan.bat_at;
    for block in 0..plan.blocks {
        let entry = (plan.blocks_at + block * plan.block_size) | FULLY_PRESENT;
        piece.extend_from_slice(&entry.to_le_bytes());
        if (block + 1).is_multiple_of(plan.ratio) {
            // The entry of the chunk's bitmap block.
            piece.extend_from_slice(&0_u64.to_le_bytes());
        }
        if piece.len() as u64 >= PIECE || block + 1 == plan.blocks {
            write(store, "VHDX block allocation table", &piece, at)?;
            at += piece.len() as u64;
            piece.clear();
        }
    }
    Ok(())
}

fn write(store: &dyn Store, what: &'static str, bytes: &[u8], at: u64) -> Result<()> {
    store
        .write_all_at(bytes, at)
        .map_err(|error| Error::io(what, "cannot be written", error).at(at))
}

fn size_error(options: &CreateOptions, message: &str) -> Error {
    Error::new(ErrorKind::InvalidSize, "virtual size", message).with_found(options.virtual_size)
}

fn sector_error(message: &str, found: u32) -> Error {
    Error::new(ErrorKind::InvalidParameter, "sector size", message).with_found(found)
}
