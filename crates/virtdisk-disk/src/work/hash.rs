//! The SHA-256 of a whole disk, as whoever reads it to its end gets it.
//!
//! Reading and hashing go on at the same time. What is known to be zero is hashed without being
//! read; it has to be hashed all the same, so a large empty disk takes its time.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::ahead::{Bytes, Piece, in_order};
use super::job::{Job, Stopped};
use crate::disk::Disk;

/// Zeros to hash.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A SHA-256; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// Hashes all of `disk`.
///
/// # Errors
/// Those of [`Disk::read_at`]; `Cancelled`.
pub fn hash(disk: &Disk, job: &Job) -> Result<Digest, Stopped> {
    let mut state = Sha256::new();
    in_order(disk, job, &Bytes, |piece| {
        match piece {
            Piece::Bytes(_, bytes, ()) => state.update(bytes),
            Piece::Zeros(len) => zeros(&mut state, len),
            Piece::Unread(_, never) => match never {},
        }
        Ok(())
    })?;
    Ok(Digest(state.finalize().into()))
}

fn zeros(state: &mut Sha256, len: u64) {
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left)
            .unwrap_or(ZEROS.len())
            .min(ZEROS.len());
        state.update(&ZEROS[..part]);
        left -= part as u64;
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
