//! Creating an image in an empty file.
//!
//! The arguments are checked before anything is written. A create that fails later leaves an
//! unfinished file, which is no image; whoever made the file removes it.

use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Format, Kind, MetadataItem};
use crate::store::Store;
use crate::{raw, vhd, vhdx};

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// What to create.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Raw, VHD or VHDX.
    pub format: Format,
    /// Fixed, dynamic, or differencing with a `parent`; raw is fixed.
    pub kind: Kind,
    /// Size of the virtual disk in bytes, a multiple of the logical sector.
    pub virtual_size: u64,
    /// Block size in bytes of a dynamic or differencing disk; 0 is the default (R-CRE-8).
    pub block_size: u32,
    /// Logical sector in bytes; 0 is the default, 512. 4096 is for VHDX only.
    pub logical_sector_size: u32,
    /// Physical sector in bytes; 0 is the default (R-CRE-18).
    pub physical_sector_size: u32,
    /// The unique id of a VHD, the virtual disk id of a VHDX; `None` makes a random one.
    pub identifier: Option<Uuid>,
    /// What the new image is the child of.
    pub parent: Option<NewParent>,
    /// Creation time in seconds since 1970.
    pub created_unix: u64,
    /// Fixed: do not reserve the space in the file system.
    pub sparse: bool,
}

/// The parent of a new differencing image. Windows paths; empty ones are not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewParent {
    /// Its [`Facts::content_id`](crate::Facts::content_id).
    pub content_id: Uuid,
    /// When its file was changed last, seconds since 1970, or 0 as Windows writes (V-14).
    pub modified_unix: u64,
    /// Relative to the child's folder: `.\base.vhd`.
    pub relative_path: String,
    /// The whole path: `C:\vm\base.vhd`.
    pub absolute_path: String,
    /// What [`Image::inherited`](crate::Image::inherited) says of it.
    pub inherited: Vec<MetadataItem>,
}

/// Writes a new image into `store`, which must be empty, and makes it durable.
///
/// # Errors
/// `InvalidParameter`, `InvalidSize`, `InvalidBlockSize`, `ParentMissing` before anything
/// is written; `NoSpace`, `Io` with an unfinished file left behind, which the caller removes.
pub fn create(store: &dyn Store, options: &CreateOptions) -> Result<()> {
    let len = store
        .len()
        .map_err(|error| Error::io("file", "does not tell its length", error))?;
    if len != 0 {
        return Err(
            Error::new(ErrorKind::InvalidParameter, "file", "is not empty")
                .with_found(format_args!("{len} bytes"))
                .with_wanted("0"),
        );
    }
    if options.virtual_size == 0 || !options.virtual_size.is_multiple_of(SECTOR) {
        return Err(Error::new(
            ErrorKind::InvalidSize,
            "virtual size",
            "is none that a disk can have",
        )
        .with_found(options.virtual_size)
        .with_wanted("a positive multiple of 512"));
    }
    match options.format {
        Format::Raw => raw::create(store, options),
        Format::Vhd => vhd::create(store, options),
        Format::Vhdx => vhdx::create(store, options),
        Format::Iso => Err(Error::new(
            ErrorKind::InvalidParameter,
            "image",
            "of ISO format cannot be created",
        )),
    }
}
