//! A disk read in order, ahead of whoever uses the bytes.
//!
//! One thread walks the disk and reads into a few buffers that go round; the caller's thread takes
//! them in order. Promises: the bytes cover the disk without gaps; zero runs come without bytes; an
//! error of either side ends both, and the thread has ended when the call returns.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use virtdisk_format::Place;

use super::job::{Job, Stopped};
use super::runs::Known;
use crate::disk::Disk;

/// Bytes that are read at once.
const PIECE: usize = 512 << 10;
/// Zeros that are given at once: even they may take their time, and the job may be stopped.
const ZEROS: u64 = 16 << 20;
/// Buffers that go round.
const BUFFERS: usize = 4;

/// The next bytes of the disk.
pub(super) enum Piece<'a> {
    /// So many zeros.
    Zeros(u64),
    /// These.
    Bytes(&'a [u8]),
}

/// What goes from the reading thread to the caller's.
enum Message {
    Zeros(u64),
    Bytes(Vec<u8>),
    Failed(Stopped),
}

/// Gives `take` all of the disk, piece by piece, and counts in `job` what was taken.
///
/// # Errors
/// The first of the disk or of `take`; `Cancelled`.
pub(super) fn in_order(
    disk: &Disk,
    job: &Job,
    mut take: impl FnMut(Piece<'_>) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    job.begin(disk.facts().virtual_size);
    std::thread::scope(|scope| {
        let (full, filled) = sync_channel(BUFFERS);
        let (empty, emptied) = channel();
        for _ in 0..BUFFERS {
            // The other end is at hand: this does not fail.
            drop(empty.send(Vec::new()));
        }
        scope.spawn(move || {
            if let Err(stopped) = read(disk, &emptied, &full) {
                // A caller that has ended wants no reason.
                drop(full.send(Message::Failed(stopped)));
            }
        });
        // Owned here, so that every way out of this block ends the thread.
        drain(job, &filled, &empty, &mut take)
    })
}

/// The caller's side.
fn drain(
    job: &Job,
    filled: &Receiver<Message>,
    empty: &Sender<Vec<u8>>,
    take: &mut impl FnMut(Piece<'_>) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    for message in filled {
        match message {
            Message::Zeros(len) => {
                let mut left = len;
                while left > 0 {
                    let part = left.min(ZEROS);
                    take(Piece::Zeros(part))?;
                    job.advance(part)?;
                    left -= part;
                }
            }
            Message::Bytes(bytes) => {
                take(Piece::Bytes(&bytes))?;
                job.advance(bytes.len() as u64)?;
                drop(empty.send(bytes));
            }
            Message::Failed(stopped) => return Err(stopped),
        }
    }
    Ok(())
}

/// The reading side; ends early and without an error when the caller has ended.
fn read(
    disk: &Disk,
    emptied: &Receiver<Vec<u8>>,
    full: &SyncSender<Message>,
) -> Result<(), Stopped> {
    let mut known = Known::of(disk);
    while let Some(run) = known.next(|_| PIECE as u64)? {
        let message = match run.place {
            Place::Zero => Message::Zeros(run.len),
            Place::Data { .. } | Place::Parent => {
                let Ok(mut buffer) = emptied.recv() else {
                    return Ok(());
                };
                buffer.resize(usize::try_from(run.len).unwrap_or(PIECE), 0);
                disk.read_at(&mut buffer, run.start)?;
                Message::Bytes(buffer)
            }
        };
        if full.send(message).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
