//! Creating an image in an empty file.
//!
//! The arguments are checked before anything is written. A create that fails later leaves an
//! unfinished file, which is no image; whoever made the file removes it.

use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Format, Kind};
use crate::store::Store;
use crate::{raw, vhd};

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// What to create.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Raw or VHD.
    pub format: Format,
    /// Fixed or dynamic; raw is fixed.
    pub kind: Kind,
    /// Size of the virtual disk in bytes, a multiple of 512.
    pub virtual_size: u64,
    /// Block size in bytes of a dynamic disk; 0 is the default, 2 MiB.
    pub block_size: u32,
    /// The unique id; `None` makes a random one.
    pub identifier: Option<Uuid>,
    /// Creation time in seconds since 1970.
    pub created_unix: u64,
    /// Fixed: do not reserve the space in the file system.
    pub sparse: bool,
}

/// Writes a new image into `store`, which must be empty, and makes it durable.
///
/// # Errors
/// `InvalidParameter`, `InvalidSize`, `InvalidBlockSize`, `DifferencingUnsupported` before anything
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
        Format::Iso => Err(Error::new(
            ErrorKind::InvalidParameter,
            "image",
            "of ISO format cannot be created",
        )),
    }
}
