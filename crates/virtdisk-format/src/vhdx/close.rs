//! Ending: the log is emptied, and what was taken ahead of need goes back.
//!
//! The order: tables in their places, durable; headers that name no log, durable; then the file is
//! cut behind the last MiB that has an owner. A fixed disk is never cut, and neither is a
//! file whose tables this session left alone.

use super::layout::MIB;
use super::map::Vhdx;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::facts::Kind;

impl Vhdx {
    /// Ends the session and makes everything durable.
    pub(crate) fn close_session(&self, writer: &Writer) -> Result<()> {
        let mut session = writer.session()?;
        let logged = session.journal.is_some();
        self.end(writer, &mut session)?;
        session.space.forget();
        let target = session.space.used_end() * MIB;
        if !logged || self.facts.kind == Kind::Fixed || target >= session.len {
            return Ok(());
        }
        writer.file.set_len(target).map_err(|error| {
            let error = Error::io("VHDX file", "cannot be cut behind its last block", error);
            writer.refuse(error)
        })?;
        session.len = target;
        self.territory.set_file_len(target);
        writer.settle_session(&mut session)
    }
}
