//! Finding the footers, and deciding whether a file is a VHD at all (formats sheet, section 5).
//!
//! The trailing footer is read first and counts where it is sound, whatever stands at offset 0: a
//! fixed disk's first sector belongs to its guest. A cookie with a wrong checksum is a damaged VHD,
//! never a raw disk with 512 odd bytes at its end.

use zerocopy::{FromZeros, IntoBytes};

use super::footer::Seal;
use super::header::read_raw;
use super::layout::{FOOTER, HEADER_COOKIE, RawFooter, SECTOR, SHORT_FOOTER};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// What stands where footers can be.
pub(crate) struct Footers {
    /// Length of the file in bytes.
    pub(crate) len: u64,
    /// The file's end, as a footer.
    pub(crate) end: RawFooter,
    pub(crate) end_seal: Seal,
    /// Where it starts: the end of the file's data. The length, if there is none.
    pub(crate) end_at: u64,
    /// The file's start, as a footer.
    pub(crate) start: RawFooter,
    pub(crate) start_seal: Seal,
    /// A dynamic header stands where the footer at the start says.
    pub(crate) start_has_header: bool,
}

/// Reads both places.
pub(crate) fn read_footers(store: &dyn Store) -> Result<Footers> {
    let len = store
        .len()
        .map_err(|error| Error::io("file", "does not tell its length", error))?;
    let mut footers = Footers {
        len,
        end: RawFooter::new_zeroed(),
        end_seal: Seal::Missing,
        end_at: len,
        start: RawFooter::new_zeroed(),
        start_seal: Seal::Missing,
        start_has_header: false,
    };
    // The last byte of a 511-byte footer counts as 0 (V-5).
    let size = if len % SECTOR == SHORT_FOOTER {
        SHORT_FOOTER
    } else {
        FOOTER
    };
    if let Some(at) = len.checked_sub(size) {
        read(store, &mut footers.end, at, size)?;
        footers.end_seal = footers.end.seal();
        if footers.end_seal != Seal::Missing {
            footers.end_at = at;
        }
    }
    if len >= FOOTER {
        read(store, &mut footers.start, 0, FOOTER)?;
        footers.start_seal = footers.start.seal();
        footers.start_has_header = footers.start_seal != Seal::Missing
            && footers.start.has_header()
            && has_header(store, footers.start.data_offset.get(), len)?;
    }
    Ok(footers)
}

/// Whether a dynamic header stands there. A file that cannot be read is an error, not a "no": it
/// would make a raw disk of a VHD.
fn has_header(store: &dyn Store, offset: u64, len: u64) -> Result<bool> {
    match read_raw(store, offset, len) {
        Ok(header) => Ok(header.cookie == HEADER_COOKIE),
        Err(error) if error.kind() == ErrorKind::HeaderCorrupt => Ok(false),
        Err(error) => Err(error),
    }
}

fn read(store: &dyn Store, footer: &mut RawFooter, at: u64, size: u64) -> Result<()> {
    let size = usize::try_from(size).unwrap_or(0);
    let bytes = footer.as_mut_bytes();
    store
        .read_exact_at(&mut bytes[..size], at)
        .map_err(|error| Error::io("VHD footer", "cannot be read", error).at(at))
}

impl Footers {
    /// Whether the copy at the start can stand in for the trailing footer: sound, of a disk that
    /// has such a copy, and followed by a header.
    pub(crate) fn start_counts(&self) -> bool {
        self.start_seal == Seal::Sound && self.start_has_header
    }

    /// Whether the file is a VHD, sound or damaged.
    pub(crate) fn is_vhd(&self) -> bool {
        self.end_seal != Seal::Missing || self.start_has_header
    }
}
