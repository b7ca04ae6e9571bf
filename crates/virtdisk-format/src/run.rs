//! A disk that is one run of its file: raw, ISO, fixed VHD.
//!
//! The map is the identity, up to a tail of zeros where the file is shorter than the disk's last
//! sector. There is nothing to allocate and no order to keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::commit::Commit;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, Extents, Place, append};
use crate::facts::{Facts, Physical};
use crate::image::{Image, Ticket};
use crate::store::Store;
use crate::vhd::inside;

/// Compares the file with what open saw.
type Check = Box<dyn Fn(&dyn Store) -> Result<()> + Send + Sync>;

/// The image.
pub(crate) struct Run {
    store: Arc<dyn Store>,
    facts: Facts,
    writable: bool,
    /// Bytes of the disk that are in the file, from offset 0 on.
    data_len: u64,
    check: Check,
    /// A flush failed, or the image was closed.
    refused: AtomicBool,
    commits: Commit,
}

impl Run {
    /// A disk that starts at offset 0, of which the file has `data_len` bytes.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        facts: Facts,
        writable: bool,
        data_len: u64,
        check: impl Fn(&dyn Store) -> Result<()> + Send + Sync + 'static,
    ) -> Run {
        Run {
            store,
            writable: writable && !facts.read_only,
            data_len: data_len.min(facts.virtual_size),
            facts,
            check: Box::new(check),
            refused: AtomicBool::new(false),
            commits: Commit::default(),
        }
    }

    fn writable(&self) -> Result<()> {
        if !self.writable {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "image",
                "is not open for writing",
            ));
        }
        if self.refused.load(Ordering::Acquire) {
            return Err(Error::refused());
        }
        Ok(())
    }
}

impl Image for Run {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn whole(&self) -> Option<u64> {
        (self.data_len == self.facts.virtual_size).then_some(0)
    }

    fn map(&self, start: u64, len: u64, out: &mut Extents) -> Result<()> {
        let end = inside(start, len, self.facts.virtual_size)?;
        let in_file = end.min(self.data_len).saturating_sub(start);
        let place = Place::Data { file_offset: start };
        append(
            out,
            Extent {
                start,
                len: in_file,
                place,
            },
        );
        append(
            out,
            Extent {
                start: start + in_file,
                len: len - in_file,
                place: Place::Zero,
            },
        );
        Ok(())
    }

    fn reserve(&self, start: u64, len: u64, out: &mut Extents) -> Result<Ticket> {
        self.writable()?;
        self.map(start, len, out)?;
        Ok(Ticket::done())
    }

    fn complete(&self, _ticket: Ticket) -> Result<()> {
        self.writable()
    }

    fn trim(&self, start: u64, len: u64) -> Result<()> {
        self.writable()?;
        inside(start, len, self.facts.virtual_size)?;
        if len == 0 {
            return Ok(());
        }
        self.store
            .zero(start, len)
            .map_err(|error| Error::io("disk", "cannot be zeroed", error).at(start))
    }

    fn flush(&self) -> Result<()> {
        match self.writable() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::ReadOnly => return Ok(()),
            Err(error) => return Err(error),
        }
        // The system reports lost bytes once: a later flush, or another at the same time, would
        // say that all is well.
        self.commits.join(|| {
            self.store.flush().map_err(|error| {
                self.refused.store(true, Ordering::Release);
                Error::io("image", "cannot be made durable", error)
            })
        })
    }

    fn validate(&self) -> Result<()> {
        (self.check)(&*self.store)
    }

    fn physical(&self) -> Result<Physical> {
        Ok(Physical {
            blocks_allocated: 0,
            fragmentation_percent: None,
            data_aligned_4k: true,
        })
    }

    fn close(&self) -> Result<()> {
        self.flush()?;
        self.refused.store(true, Ordering::Release);
        Ok(())
    }
}
