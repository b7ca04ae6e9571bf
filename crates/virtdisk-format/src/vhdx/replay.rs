//! Putting the log in its place: in the file where that may be written, in memory otherwise.
//!
//! Before a replay nothing is read but headers and log. In the file the order is: a
//! new FileWriteGuid in the header, durable; the length; what the log says, durable; the header
//! without LogGuid, durable. The log itself stays as it is until then, and a cut at any instant
//! leaves a file that is replayed again to the same result.

use std::sync::Arc;

use uuid::Uuid;

use super::header::{Headers, LogPlace, update};
use super::layout::{LARGEST_LOG, LOG_SECTOR, LOG_VERSION};
use super::log::{Entry, Log, Step};
use super::overlay::{Overlay, Piece, Pieces};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// Most descriptors that are replayed; a log of Windows has room for 32,768 (S-2, S-7).
const MOST_STEPS: u64 = 1 << 20;
/// Most pieces that are kept.
const MOST_PIECES: usize = 1 << 19;
/// Longest file in bytes that a replay makes (2.9).
const LONGEST_FILE: u64 = 1 << 48;

/// What a replay does to a file.
pub(crate) struct Plan {
    pieces: Pieces,
    /// Bytes of the file, before and after.
    file_len: u64,
    len: u64,
}

impl Plan {
    /// Reads the log of a file whose header says that it must be replayed.
    pub(crate) fn read(
        store: &dyn Store,
        headers: &Headers,
        place: LogPlace,
        file_len: u64,
    ) -> Result<Plan> {
        let version = headers.current.log_version.get();
        if version != LOG_VERSION {
            //
            return Err(Error::new(
                ErrorKind::HeaderVersion,
                "VHDX header",
                "has a log of a version that is not known, which must be replayed",
            )
            .at(headers.offset().saturating_add(64))
            .with_found(version)
            .with_wanted(LOG_VERSION)
            .by("X-33"));
        }
        if place.length > LARGEST_LOG {
            return Err(wrong("is too large to be replayed", place)
                .with_found(place.length)
                .with_wanted(format_args!("at most {LARGEST_LOG}")));
        }
        let log = Log::new(store, place, headers.log_guid());
        let entries = log.active()?;
        let last = entries.last().map_or((0, 0), |last| {
            (last.flushed_file_offset, last.last_file_offset)
        });
        if file_len < last.0 {
            //
            return Err(Error::new(
                ErrorKind::InvalidFileSize,
                "file",
                "is shorter than it was when the last log entry was written",
            )
            .with_found(file_len)
            .with_wanted(format_args!("at least {}", last.0)));
        }
        let len = length_after(&log, &entries, file_len.max(last.1), place)?;
        let pieces = pieces(&log, &entries, len, place)?;
        Ok(Plan {
            pieces,
            file_len,
            len,
        })
    }

    /// The file as it is after the replay, the file itself untouched.
    pub(crate) fn in_memory(self, store: Arc<dyn Store>) -> Overlay {
        Overlay::new(store, self.pieces, self.file_len, self.len)
    }

    /// Replays in the file.
    pub(crate) fn in_file(self, store: &dyn Store, headers: &mut Headers) -> Result<()> {
        update(store, headers, |header| {
            header.file_write_guid = Uuid::new_v4().to_bytes_le();
        })?;
        let failed = |error| Error::io("VHDX log", "cannot be replayed", error);
        if self.len > self.file_len {
            store.set_len(self.len).map_err(failed)?;
        }
        self.pieces.write(store, self.len).map_err(failed)?;
        store.flush().map_err(failed)?;
        update(store, headers, |header| header.log_guid = [0; 16])
    }
}

fn wrong(message: &'static str, place: LogPlace) -> Error {
    Error::new(ErrorKind::LogCorrupt, "VHDX log", message).at(place.offset)
}

/// The length of the file after the replay: what it is or has to be, and the end of all data
/// sectors. Zeros make no file longer.
fn length_after(log: &Log<'_>, entries: &[Entry], least: u64, place: LogPlace) -> Result<u64> {
    let (mut len, mut steps) = (least, 0);
    for entry in entries {
        log.steps(entry, |step| {
            steps += 1;
            if let Step::Data { start, .. } = step {
                len = len.max(start + LOG_SECTOR);
            }
            if steps > MOST_STEPS {
                return Err(wrong("has too many descriptors to be replayed", place)
                    .with_wanted(format_args!("at most {MOST_STEPS}")));
            }
            Ok(())
        })?;
    }
    if len > LONGEST_FILE {
        return Err(wrong("makes the file too long", place)
            .with_found(len)
            .with_wanted(format_args!("at most {LONGEST_FILE}")));
    }
    Ok(len)
}

/// What the entries make of the file, one after the other.
fn pieces(log: &Log<'_>, entries: &[Entry], len: u64, place: LogPlace) -> Result<Pieces> {
    let mut pieces = Pieces::default();
    for entry in entries {
        log.steps(entry, |step| {
            match step {
                Step::Zero { start, end } => {
                    let end = end.min(len.next_multiple_of(LOG_SECTOR));
                    if start < end {
                        pieces.put(start, end, Piece::Zero);
                    }
                }
                Step::Data {
                    start,
                    leading,
                    trailing,
                    source,
                } => {
                    let piece = Piece::Sector {
                        leading,
                        trailing,
                        source,
                    };
                    pieces.put(start, start + LOG_SECTOR, piece);
                }
            }
            if pieces.len() > MOST_PIECES {
                return Err(wrong("has too many pieces to be replayed", place)
                    .with_wanted(format_args!("at most {MOST_PIECES}")));
            }
            Ok(())
        })?;
    }
    Ok(pieces)
}
