//! A disk read in order, ahead of whoever uses the bytes.
//!
//! One thread walks the disk and reads into a few buffers that go round; the caller's thread takes
//! them in order, so reading and writing overlap and neither waits for the other's locks.
//! Promises: the pieces cover the disk without gaps; zero runs come without bytes; an error of
//! either side ends both, and the thread has ended when the call returns.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use virtdisk_format::Place;

use super::job::{Job, Stopped};
use super::runs::Known;
use crate::disk::Disk;
use crate::extent::LayerExtent;

/// Bytes that are read at once: the buffers together stay in the processor's cache.
const PIECE: usize = 1 << 20;
/// Zeros that are given at once: even they may take their time, and the job may be stopped.
const ZEROS: u64 = 16 << 20;
/// Bytes of a run that is not read.
const UNREAD: u64 = 64 << 20;
/// Buffers that go round.
const BUFFERS: usize = 4;

/// What is done with the bytes of a disk.
pub(super) trait Work {
    /// What the reading thread already finds out about bytes.
    type Found: Send;
    /// What comes with runs that are wanted unread.
    type Unread: Send;

    /// `Some` if runs of that layer are wanted as they are, unread.
    fn unread(&self, layer: u32) -> Option<Self::Unread>;

    /// Looks at bytes while they are in the reading processor's cache.
    fn look(&self, bytes: &[u8]) -> Self::Found;
}

/// Work that wants nothing but the bytes.
pub(super) struct Bytes;

impl Work for Bytes {
    type Found = ();
    type Unread = Infallible;

    fn unread(&self, _layer: u32) -> Option<Infallible> {
        None
    }

    fn look(&self, _bytes: &[u8]) {}
}

/// The next piece of the disk.
pub(super) enum Piece<'a, W: Work> {
    /// So many zeros.
    Zeros(u64),
    /// These bytes, from that byte of the disk on, and what was found out about them.
    Bytes(u64, &'a [u8], W::Found),
    /// Bytes that were not read.
    Unread(LayerExtent, W::Unread),
}

/// What goes from the reading thread to the caller's.
enum Message<W: Work> {
    Zeros(u64),
    Bytes(u64, Vec<u8>, W::Found),
    Unread(LayerExtent, W::Unread),
    Failed(Stopped),
}

/// Gives `take` all of the disk, piece by piece, and counts in `job` what was taken.
///
/// # Errors
/// The first of the disk or of `take`; `Cancelled`.
pub(super) fn in_order<W: Work + Sync>(
    disk: &Disk,
    job: &Job,
    work: &W,
    mut take: impl FnMut(Piece<'_, W>) -> Result<(), Stopped>,
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
            if let Err(stopped) = read(disk, work, &emptied, &full) {
                // A caller that has ended wants no reason.
                drop(full.send(Message::Failed(stopped)));
            }
        });
        // Its ends of the channels go with it, on every way out, and that ends the thread.
        drain(job, filled, empty, &mut take)
    })
}

/// The caller's side.
fn drain<W: Work>(
    job: &Job,
    filled: Receiver<Message<W>>,
    empty: Sender<Vec<u8>>,
    take: &mut impl FnMut(Piece<'_, W>) -> Result<(), Stopped>,
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
            Message::Bytes(start, bytes, found) => {
                take(Piece::Bytes(start, &bytes, found))?;
                job.advance(bytes.len() as u64)?;
                // A reading thread that has ended needs no buffer.
                drop(empty.send(bytes));
            }
            Message::Unread(run, with) => {
                take(Piece::Unread(run, with))?;
                job.advance(run.len)?;
            }
            Message::Failed(stopped) => return Err(stopped),
        }
    }
    Ok(())
}

/// The reading side; ends early and without an error when the caller has ended.
fn read<W: Work>(
    disk: &Disk,
    work: &W,
    emptied: &Receiver<Vec<u8>>,
    full: &SyncSender<Message<W>>,
) -> Result<(), Stopped> {
    let mut known = Known::of(disk);
    let longest = |layer| work.unread(layer).map_or(PIECE as u64, |_| UNREAD);
    while let Some(run) = known.next(longest)? {
        let unread = work.unread(run.layer);
        let message = match (run.place, unread) {
            (Place::Zero, _) => Message::Zeros(run.len),
            (Place::Data { .. }, Some(with)) => Message::Unread(run, with),
            (Place::Data { .. } | Place::Parent, _) => {
                let Ok(mut buffer) = emptied.recv() else {
                    return Ok(());
                };
                let len = usize::try_from(run.len).unwrap_or(PIECE).min(PIECE);
                buffer.resize(len, 0);
                disk.read_at(&mut buffer, run.start)?;
                let found = work.look(&buffer);
                Message::Bytes(run.start, buffer, found)
            }
        };
        if full.send(message).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
