//! Raw images: the file is the disk.
//!
//! A file that is no whole number of sectors is rounded up with zeros and never written to: a
//! write to the last sector would make the file longer than its owner made it.

use std::sync::Arc;

use crate::create::CreateOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::facts::{Facts, Format, Kind};
use crate::image::Image;
use crate::open::OpenOptions;
use crate::run::Run;
use crate::store::Store;
use crate::vhd::{check_len, flush, reserve};

/// Bytes of a sector.
const SECTOR: u64 = 512;

/// Opens any file as a raw disk.
pub(crate) fn open(
    store: Arc<dyn Store>,
    options: &OpenOptions,
    notices: Vec<String>,
) -> Result<Box<dyn Image>> {
    let len = store
        .len()
        .map_err(|error| Error::io("file", "does not tell its length", error))?;
    let size = len
        .checked_next_multiple_of(SECTOR)
        .filter(|&size| size > 0)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidSize,
                "file",
                "has a length that no disk can have",
            )
            .with_found(len)
        })?;
    let mut facts = Facts::new(Format::Raw, Kind::Fixed, size);
    facts.notices = notices;
    if size != len {
        facts.read_only = true;
        facts.notices.push(format!(
            "the file's length {len} is no multiple of 512: the disk is read-only and ends in zeros"
        ));
    }
    let run = Run::new(store, facts, options.writable, len, move |store| {
        check_len(store, len)
    });
    Ok(Box::new(run))
}

/// Makes an empty file a raw disk of zeros.
pub(crate) fn create(store: &dyn Store, options: &CreateOptions) -> Result<()> {
    if options.kind != Kind::Fixed || options.block_size != 0 {
        return Err(Error::new(
            ErrorKind::InvalidParameter,
            "image",
            "of raw format can only be fixed and without blocks",
        ));
    }
    reserve(store, options.virtual_size, options.sparse)?;
    flush(store)
}
