//! What an image that is open for writing has beside its maps: session, log, free space.
//!
//! A change of tables is collected in a [`Change`] and given to [`Writer::commit`], which writes it
//! to the log and keeps its pages as pending: from then on everybody reads them so, and a kill
//! loses nothing. [`Writer::settle`] is the flush: it makes the log durable, and then the pages may
//! go to their places.
//!
//! Once a write of metadata or a flush failed, [`Writer::refuse`] holds: no write and no flush
//! succeeds until the image is opened again. Reads go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::change::Change;
use super::header::LogPlace;
use super::journal::{Journal, Mark, most_pages};
use super::map::Vhdx;
use super::pending::Tables;
use super::space::Space;
use crate::commit::Commit;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extents;
use crate::image::Ticket;
use crate::store::Store;

/// The writing side of an image.
pub(crate) struct Writer {
    pub(crate) file: Arc<dyn Store>,
    pub(crate) tables: Arc<Tables>,
    /// Most pages of a [`Change`].
    pub(crate) most_pages: usize,
    session: Mutex<Session>,
    /// The headers say that this session changed data.
    pub(crate) touched: AtomicBool,
    refused: AtomicBool,
    commits: Commit,
}

/// What changes while an image is written; one thread at a time.
pub(crate) struct Session {
    /// Where the log is.
    pub(crate) log: LogPlace,
    /// The log, once the headers name it.
    pub(crate) journal: Option<Journal>,
    pub(crate) space: Space,
    /// The length of the file in bytes.
    pub(crate) len: u64,
}

/// What a flush that starts now makes durable.
struct Settling {
    journal: Option<Mark>,
    lost: u64,
}

impl Session {
    fn settling(&mut self) -> Settling {
        Settling {
            journal: self.journal.as_mut().map(Journal::mark),
            lost: self.space.lost(),
        }
    }

    fn settled(&mut self, settling: &Settling) -> Result<()> {
        if let (Some(mark), Some(journal)) = (settling.journal, &mut self.journal) {
            journal.flushed(mark)?;
        }
        self.space.settle_lost(settling.lost);
        Ok(())
    }
}

impl Writer {
    /// The writing side of an image whose log is clean and whose owners of space are known.
    pub(crate) fn new(
        file: Arc<dyn Store>,
        tables: Arc<Tables>,
        log: LogPlace,
        space: Space,
        len: u64,
    ) -> Writer {
        Writer {
            file,
            tables,
            most_pages: most_pages(log.length),
            session: Mutex::new(Session {
                log,
                journal: None,
                space,
                len,
            }),
            touched: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            commits: Commit::default(),
        }
    }

    /// An error if writes are refused.
    pub(crate) fn writable(&self) -> Result<()> {
        if self.refused.load(Ordering::Acquire) {
            return Err(Error::refused());
        }
        Ok(())
    }

    /// The session, for one thread. A thread that waited may find that another one failed.
    pub(crate) fn session(&self) -> Result<MutexGuard<'_, Session>> {
        let session = self.session.lock();
        self.writable()?;
        Ok(session)
    }

    /// Refuses all writes from now on, because of `cause`. That is never `NoSpace`, which says that
    /// nothing was changed and that more room helps.
    pub(crate) fn refuse(&self, cause: Error) -> Error {
        self.refused.store(true, Ordering::Release);
        if cause.kind() == ErrorKind::NoSpace {
            cause.acted_on_as(ErrorKind::Io)
        } else {
            cause
        }
    }

    /// An error on bytes that nothing refers to yet: only a full file system leaves the image open
    /// for further writes.
    pub(crate) fn judge(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::NoSpace {
            error
        } else {
            self.refuse(error)
        }
    }

    /// Makes place for a write.
    pub(crate) fn reserve(
        &self,
        image: &Vhdx,
        start: u64,
        len: u64,
        out: &mut Extents,
    ) -> Result<Ticket> {
        self.writable()?;
        let end = image.shape.end_of_range(start, len)?;
        if len == 0 {
            return Ok(Ticket::done());
        }
        image.reserve_range(self, (start, end), out)
    }

    /// The data of a reservation are written.
    pub(crate) fn complete(&self, image: &Vhdx, ticket: Ticket) -> Result<()> {
        self.writable()?;
        match ticket.range() {
            Some((start, len)) => {
                let end = image.shape.end_of_range(start, len)?;
                image.mark_written(self, start, end)
            }
            None => Ok(()),
        }
    }

    /// The data will be written around the image.
    pub(crate) fn touch(&self, image: &Vhdx) -> Result<()> {
        self.writable()?;
        image.say_touched(self)
    }

    /// Gives a range back.
    pub(crate) fn trim(&self, image: &Vhdx, start: u64, len: u64) -> Result<()> {
        self.writable()?;
        let end = image.shape.end_of_range(start, len)?;
        if len == 0 {
            return Ok(());
        }
        image.trim_range(self, start, end)
    }

    /// Makes data and metadata durable.
    pub(crate) fn flush(&self) -> Result<()> {
        self.settle()
    }

    /// Ends the session.
    pub(crate) fn close(&self, image: &Vhdx) -> Result<()> {
        self.writable()?;
        let closed = image.close_session(self);
        self.refused.store(true, Ordering::Release);
        closed
    }

    /// Makes everything durable that was written before the call, in a flush that others share.
    pub(crate) fn settle(&self) -> Result<()> {
        let settling = self.session()?.settling();
        self.commits.join(|| self.flush_file())?;
        let settled = self.session()?.settled(&settling);
        settled.map_err(|error| self.refuse(error))
    }

    /// The same where the session is held.
    pub(crate) fn settle_session(&self, session: &mut Session) -> Result<()> {
        let settling = session.settling();
        self.flush_file()?;
        let settled = session.settled(&settling);
        settled.map_err(|error| self.refuse(error))
    }

    fn flush_file(&self) -> Result<()> {
        self.file
            .flush()
            .map_err(|error| self.refuse(Error::io("image", "cannot be made durable", error)))
    }

    /// Writes a change to the log, which is open; who reads the tables sees it from now on. Not
    /// durable. After `NoSpace` nothing has changed.
    pub(crate) fn commit(&self, session: &mut Session, change: Change<'_>) -> Result<()> {
        self.make_room(session, change.len())?;
        let Some(journal) = &mut session.journal else {
            return Err(Error::refused());
        };
        journal
            .append(change.into_pages())
            .map_err(|error| self.judge(error))
    }

    /// Makes room in the ring for an entry of so many pages.
    fn make_room(&self, session: &mut Session, pages: usize) -> Result<()> {
        // Entries durable, pages in place, an entry that says so, and that one durable.
        for _ in 0..4 {
            let Some(journal) = &mut session.journal else {
                return Err(Error::refused());
            };
            if journal.fits(pages) {
                return Ok(());
            }
            if journal.is_settled() {
                journal
                    .append(Vec::new())
                    .map_err(|error| self.judge(error))?;
            }
            self.settle_session(session)?;
        }
        match &session.journal {
            Some(journal) if journal.fits(pages) => Ok(()),
            _ => Err(Error::new(
                ErrorKind::UnsupportedFeature,
                "VHDX log",
                "is too small for a change of this image",
            )
            .with_found(session.log.length)),
        }
    }

    /// Whether the log is so full that it is time for [`Writer::settle`].
    pub(crate) fn wants_settling(&self, session: &Session) -> bool {
        session.journal.as_ref().is_some_and(Journal::wants_flush)
    }
}
