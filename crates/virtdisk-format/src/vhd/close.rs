//! Ending: slack behind the last block goes back, and what is there is compared with what open saw.
//!
//! Slack is what was taken ahead of need, or left by a session that was killed. The order of
//! giving it back: the footer at its final place, durable; then the file is cut behind it.

use zerocopy::{FromZeros, IntoBytes};

use super::footer::Seal;
use super::header::read_raw;
use super::layout::{FOOTER, RawFooter, SECTOR};
use super::map::Dynamic;
use super::space::Space;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

impl Dynamic {
    /// Cuts the file behind the last block in use and makes everything durable.
    pub(crate) fn give_back(&self, space: &mut Space) -> Result<()> {
        self.settle()?;
        let tail = if space.changed {
            self.last_use()?
        } else {
            space.tail()
        };
        space.forget();
        let Some(target) = space.shrinks_to(tail) else {
            return Ok(());
        };
        self.store
            .write_all_at(space.footer.as_bytes(), target)
            .map_err(|error| {
                self.refuse(Error::io("VHD footer", "cannot be written", error).at(target))
            })?;
        self.settle()?;
        self.store.set_len(target + FOOTER).map_err(|error| {
            self.refuse(Error::io(
                "VHD file",
                "cannot be cut behind its footer",
                error,
            ))
        })?;
        space.footer_at = target;
        self.settle()
    }

    /// The end of the last block or structure, from the table.
    fn last_use(&self) -> Result<u64> {
        let mut tail = self
            .shape
            .owned
            .iter()
            .map(|owned| owned.end)
            .max()
            .unwrap_or(0);
        self.bat.stream(|_, sector| {
            tail = tail.max(u64::from(sector) * SECTOR + self.shape.slot());
            Ok(())
        })?;
        Ok(tail)
    }

    /// Reads length, footers and header again (R-DET-15).
    pub(crate) fn compare_with_file(&self) -> Result<()> {
        let space = self.space.as_ref().map(|space| space.lock());
        let (end_at, wanted) = match &space {
            Some(space) => (space.footer_at, space.footer_at + FOOTER),
            None => (self.seen.len.saturating_sub(FOOTER), self.seen.len),
        };
        check_len(&*self.store, wanted)?;
        if self.seen.at_end && (space.is_some() || self.seen.len.is_multiple_of(SECTOR)) {
            compare_footer(&*self.store, end_at, &self.seen.footer)?;
        }
        if self.seen.at_start {
            compare_footer(&*self.store, 0, &self.seen.footer)?;
        }
        let header = read_raw(&*self.store, self.seen.header_at, wanted)?;
        if header.as_bytes() != self.seen.header.as_bytes() {
            return Err(Error::new(
                ErrorKind::HeaderCorrupt,
                "VHD dynamic header",
                "is not the one that was there when the image was opened",
            )
            .at(self.seen.header_at));
        }
        Ok(())
    }
}

/// The file has the length that it should have.
pub(crate) fn check_len(store: &dyn Store, wanted: u64) -> Result<()> {
    let len = store
        .len()
        .map_err(|error| Error::io("file", "does not tell its length", error))?;
    if len == wanted {
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

/// The footer at `offset` is the one that was there at open.
pub(crate) fn compare_footer(store: &dyn Store, offset: u64, wanted: &RawFooter) -> Result<()> {
    let mut raw = RawFooter::new_zeroed();
    store
        .read_exact_at(raw.as_mut_bytes(), offset)
        .map_err(|error| Error::io("VHD footer", "cannot be read", error).at(offset))?;
    if raw.as_bytes() == wanted.as_bytes() {
        return Ok(());
    }
    let (kind, message) = match raw.seal() {
        Seal::Missing => (
            ErrorKind::FooterMissing,
            "is gone since the image was opened",
        ),
        Seal::Broken => (
            ErrorKind::FooterChecksum,
            "was damaged since the image was opened",
        ),
        Seal::Sound => (
            ErrorKind::FooterCorrupt,
            "is not the one that was there when the image was opened",
        ),
    };
    Err(Error::new(kind, "VHD footer", message).at(offset))
}
