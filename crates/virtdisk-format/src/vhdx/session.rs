//! What a session says of itself in the headers.
//!
//! Before the first byte of data changes, both headers have a new FileWriteGuid and a new
//! DataWriteGuid: a child that was made of the old content no longer fits. Before the first change
//! of a table they name the log too, whose first entry is durable by then; where that comes first,
//! all three change at once, and a region table that needs it is put right. At the end, when
//! all is in its place, they name no log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::header::update;
use super::journal::Journal;
use super::layout::{LARGEST_LOG, MIB, RawHeader};
use super::map::Vhdx;
use super::pending::{PAGE_BYTES, Page};
use super::writer::{Session, Writer};
use crate::error::{Error, ErrorKind, Result};

impl Vhdx {
    /// Says that the data of the image change in this session.
    #[inline]
    pub(crate) fn say_touched(&self, writer: &Writer) -> Result<()> {
        if writer.touched.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut session = writer.session()?;
        self.touch_session(writer, &mut session)
    }

    #[cold]
    fn touch_session(&self, writer: &Writer, session: &mut Session) -> Result<()> {
        if writer.touched.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.regions.unlike.is_some() {
            return self.begin(writer, session);
        }
        update(&*writer.file, &mut self.headers.lock(), renew)
            .map_err(|error| writer.refuse(error))?;
        writer.touched.store(true, Ordering::Release);
        Ok(())
    }

    /// Opens the log if it is not. After `NoSpace` nothing has changed.
    pub(crate) fn begin(&self, writer: &Writer, session: &mut Session) -> Result<()> {
        if session.journal.is_some() {
            return Ok(());
        }
        if session.log.length == 0 || session.log.length > LARGEST_LOG {
            return Err(Error::new(
                ErrorKind::UnsupportedFeature,
                "VHDX log",
                "has a length with which no table can be changed",
            )
            .at(session.log.offset)
            .with_found(session.log.length)
            .with_wanted(format_args!("1048576 to {LARGEST_LOG}")));
        }
        let guid = Uuid::new_v4();
        let journal = Journal::begin(
            Arc::clone(&writer.file),
            Arc::clone(&writer.tables),
            session.log,
            guid,
            session.len,
        );
        session.journal = Some(journal.map_err(|error| writer.judge(error))?);
        writer.settle_session(session)?;
        let touched = writer.touched.load(Ordering::Acquire);
        update(&*writer.file, &mut self.headers.lock(), |header| {
            if !touched {
                renew(header);
            }
            header.log_guid = guid.to_bytes_le();
        })
        .map_err(|error| writer.refuse(error))?;
        writer.touched.store(true, Ordering::Release);
        if !session.len.is_multiple_of(MIB) {
            // Whatever lies in the last MiB from now on lies in it whole.
            self.grow(writer, session, session.len.next_multiple_of(MIB))?;
        }
        self.repair_regions(writer, session)
    }

    /// Makes the region table that is damaged, or is not that which counts, like the other.
    fn repair_regions(&self, writer: &Writer, session: &mut Session) -> Result<()> {
        let (Some(at), Some(journal)) = (self.regions.unlike, &mut session.journal) else {
            return Ok(());
        };
        let mut pages: Vec<(u64, Page)> = Vec::new();
        for (place, bytes) in (at..)
            .step_by(PAGE_BYTES)
            .zip(self.regions.table.chunks(PAGE_BYTES))
        {
            let mut page = Box::new([0; PAGE_BYTES]);
            page[..bytes.len()].copy_from_slice(bytes);
            pages.push((place, page));
        }
        journal.append(pages).map_err(|error| writer.judge(error))
    }

    /// Everything in its place, durably, and no log named in the headers.
    pub(crate) fn end(&self, writer: &Writer, session: &mut Session) -> Result<()> {
        if session.journal.is_none() {
            return writer.settle_session(session);
        }
        // The first puts the pages in their places, the second makes them durable there.
        for _ in 0..2 {
            writer.settle_session(session)?;
        }
        update(&*writer.file, &mut self.headers.lock(), |header| {
            header.log_guid = [0; 16];
        })
        .map_err(|error| writer.refuse(error))?;
        session.journal = None;
        Ok(())
    }
}

/// New ids for a file whose data change.
fn renew(header: &mut RawHeader) {
    header.file_write_guid = Uuid::new_v4().to_bytes_le();
    header.data_write_guid = Uuid::new_v4().to_bytes_le();
}
