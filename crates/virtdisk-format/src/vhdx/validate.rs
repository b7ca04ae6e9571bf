//! Is the file still what open saw? (R-DET-15)
//!
//! Identifier, the header that counts, the region table and the length are read again. An image
//! that is open for writing has its header and length changed by its own writer, which keeps
//! [`Vhdx::headers`] and the territory's length as the file has them.

use zerocopy::IntoBytes;

use super::header::read_raw;
use super::identifier::read_identifier;
use super::layout::{HEADERS_AT, REGION_TABLES_AT};
use super::map::Vhdx;
use crate::error::{Error, ErrorKind, Result};

impl Vhdx {
    /// Reads what must not have changed again.
    pub(crate) fn compare_with_file(&self) -> Result<()> {
        self.compare_len()?;
        read_identifier(&*self.store)?;
        let headers = self.headers.lock();
        let place = usize::from(headers.offset() == HEADERS_AT[1]);
        let raw = read_raw(&*self.store, place)?;
        if raw.as_bytes() != headers.current.as_bytes() {
            return Err(Error::new(
                ErrorKind::HeaderCorrupt,
                "VHDX header",
                "is not the one that was there when the image was opened",
            )
            .at(headers.offset()));
        }
        drop(headers);
        let at = match self.regions.unlike {
            Some(unlike) if unlike == REGION_TABLES_AT[0] => REGION_TABLES_AT[1],
            _ => REGION_TABLES_AT[0],
        };
        let mut table = vec![0; self.regions.table.len()];
        self.tables
            .read_exact_at(&mut table, at)
            .map_err(|error| Error::io("VHDX region table", "cannot be read", error).at(at))?;
        if table == self.regions.table {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::RegionCorrupt,
            "VHDX region table",
            "is not the one that was there when the image was opened",
        )
        .at(at))
    }

    /// The length is that of open; while the image is written it may grow under our feet.
    fn compare_len(&self) -> Result<()> {
        let wanted = match &self.overlay {
            Some(overlay) => overlay.file_len(),
            None => self.territory.file_len(),
        };
        let len = self
            .store
            .len()
            .map_err(|error| Error::io("file", "does not tell its length", error))?;
        if len == wanted || (self.writer.is_some() && len > wanted) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidFileSize,
            "file",
            "changed its length while it was open",
        )
        .with_found(len)
        .with_wanted(wanted))
    }
}
