//! New VHDs (V-30, V-34, V-41).
//!
//! A fixed disk is its space and a footer behind it. A dynamic one is footer copy, header, table
//! without blocks, and the footers come last: an unfinished file is no VHD to anybody. A
//! differencing one has the paths of its parent beside the table (`child`).

use uuid::Uuid;
use zerocopy::IntoBytes;

use super::child::Child;
use super::footer::Footer;
use super::header::Header;
use super::layout::{DEFAULT_BLOCK, ENTRY, FOOTER, HEADER_AT, LARGEST_DISK, SECTOR, TABLE_AT};
use super::shape::Shape;
use super::space::Placement;
use crate::create::CreateOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::Kind;
use crate::store::Store;

/// Largest block that all known readers take, in bytes (1.9).
const LARGEST_BLOCK: u32 = 2 << 20;
/// Bytes of the table written at once.
const PIECE: usize = 1 << 20;

/// Writes a new image into an empty file.
pub(crate) fn create(store: &dyn Store, options: &CreateOptions) -> Result<()> {
    let size = options.virtual_size;
    if size > LARGEST_DISK {
        return Err(Error::new(
            ErrorKind::InvalidSize,
            "virtual size",
            "is too large for a VHD",
        )
        .with_found(size)
        .with_wanted(format_args!("at most {LARGEST_DISK}")));
    }
    let id = match options.identifier {
        Some(id) if !id.is_nil() => id,
        _ => Uuid::new_v4(),
    };
    check_sector(options)?;
    let child = Child::of(options, id)?;
    let footer = Footer::create(options.kind, size, id.into_bytes(), options.created_unix);
    match options.kind {
        Kind::Fixed => {
            no_block_size(options)?;
            reserve(store, size + FOOTER, options.sparse)?;
            write(store, "VHD footer", footer.as_bytes(), size)?;
        }
        Kind::Dynamic | Kind::Differencing => {
            create_dynamic(store, options, child.as_ref(), footer.as_bytes())?;
        }
    }
    flush(store)
}

/// The logical sector of a VHD is 512 bytes (1.9).
fn check_sector(options: &CreateOptions) -> Result<()> {
    match options.logical_sector_size {
        0 | 512 => Ok(()),
        other => Err(Error::new(
            ErrorKind::InvalidParameter,
            "logical sector size",
            "is none that a VHD can have",
        )
        .with_found(other)
        .with_wanted(512)),
    }
}

fn create_dynamic(
    store: &dyn Store,
    options: &CreateOptions,
    child: Option<&Child>,
    footer: &[u8],
) -> Result<()> {
    let block_size = match options.block_size {
        0 => DEFAULT_BLOCK,
        size => size,
    };
    if !block_size.is_power_of_two() || !(512..=LARGEST_BLOCK).contains(&block_size) {
        return Err(Error::new(
            ErrorKind::InvalidBlockSize,
            "block size",
            "is none that a VHD can have",
        )
        .with_found(block_size)
        .with_wanted("a power of two from 512 to 2097152"));
    }
    let too_many = || {
        Error::new(
            ErrorKind::InvalidSize,
            "virtual size",
            "is too large for blocks of this size",
        )
        .with_found(options.virtual_size)
    };
    let needed = options.virtual_size.div_ceil(block_size.into());
    let blocks = u32::try_from(needed).map_err(|_| too_many())?;
    let table = u64::from(blocks) * ENTRY;
    let table_at = child.map_or(TABLE_AT, Child::table_at);
    let table_end = table_at + table.next_multiple_of(SECTOR);
    let end = child.map_or(table_end, |child| child.end(table_end));
    let shape = Shape::new(options.virtual_size, block_size, blocks, Vec::new());
    let placement = Placement::choose(&shape, end, blocks);
    let footer_at = placement.footer_behind(end).ok_or_else(too_many)?;
    if !placement.holds(end, blocks) {
        return Err(too_many());
    }
    let mut header = Header::create(blocks, block_size);
    if let Some(child) = child {
        child.fill(&mut header, table_end);
        for place in child.places(table_end) {
            write(store, "VHD parent locator", place.data, place.at)?;
        }
    }
    write(store, "VHD dynamic header", header.as_bytes(), HEADER_AT)?;
    let piece = vec![0xFF; PIECE];
    let mut at = table_at;
    while at < table_end {
        let len = usize::try_from(table_end - at).unwrap_or(PIECE).min(PIECE);
        write(store, "VHD block allocation table", &piece[..len], at)?;
        at += len as u64;
    }
    // Either footer makes an image of the file, so all the rest is durable before.
    flush(store)?;
    write(store, "VHD footer copy", footer, 0)?;
    write(store, "VHD footer", footer, footer_at)
}

/// A fixed disk has no blocks (R-CRE-7).
fn no_block_size(options: &CreateOptions) -> Result<()> {
    if options.block_size == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidBlockSize,
        "block size",
        "must be 0 for a fixed disk",
    )
    .with_found(options.block_size))
}

/// Makes the file `len` bytes long, with or without its space reserved.
pub(crate) fn reserve(store: &dyn Store, len: u64, sparse: bool) -> Result<()> {
    let made = if sparse {
        store.set_len(len)
    } else {
        store.allocate(len)
    };
    made.map_err(|error| Error::io("file", "cannot be made long enough", error).with_wanted(len))
}

fn write(store: &dyn Store, what: &'static str, bytes: &[u8], at: u64) -> Result<()> {
    store
        .write_all_at(bytes, at)
        .map_err(|error| Error::io(what, "cannot be written", error).at(at))
}

/// Makes a new image durable.
pub(crate) fn flush(store: &dyn Store) -> Result<()> {
    store
        .flush()
        .map_err(|error| Error::io("image", "cannot be made durable", error))
}
