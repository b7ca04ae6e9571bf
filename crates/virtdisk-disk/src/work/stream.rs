//! A disk as a stream of all its bytes: what a raw image of it holds.
//!
//! For a pipe or a socket; whoever has a file that can have holes converts into that instead.

use std::io::{self, Write};

use super::ahead::{Bytes, Piece, in_order};
use super::job::{Job, Stopped};
use crate::disk::Disk;

/// Zeros to write.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// Writes all of `disk` to `out` and flushes it.
///
/// # Errors
/// Those of [`Disk::read_at`]; `Stream` when `out` fails; `Cancelled`.
pub fn write_raw(disk: &Disk, out: &mut dyn Write, job: &Job) -> Result<(), Stopped> {
    in_order(disk, job, &Bytes, |piece| match piece {
        Piece::Bytes(_, bytes, ()) => out.write_all(bytes).map_err(Stopped::Stream),
        Piece::Unread(_, never) => match never {},
        Piece::Zeros(len) => zeros(out, len).map_err(Stopped::Stream),
    })?;
    out.flush().map_err(Stopped::Stream)
}

fn zeros(out: &mut dyn Write, len: u64) -> io::Result<()> {
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left)
            .unwrap_or(ZEROS.len())
            .min(ZEROS.len());
        out.write_all(&ZEROS[..part])?;
        left -= part as u64;
    }
    Ok(())
}
