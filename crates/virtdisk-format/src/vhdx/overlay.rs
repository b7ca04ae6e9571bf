//! A file with its log replayed over it, in memory, the file untouched.
//!
//! What a log entry changes is a piece: a range of zeros, or a sector of 4 KiB whose middle stays
//! where it is, in the log, and is read from there. So memory follows from the number of pieces,
//! which is bounded, and not from what they claim. The file must not be written meanwhile.
//!
//! The same pieces are what a replay in the file writes: both replays come to one result.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::layout::LOG_SECTOR;
use crate::store::Store;

/// Bytes of a sector, for buffers.
const SECTOR_BYTES: usize = 4096;
/// Bytes zeroed at once where a store cannot do better.
const MOST_ZEROED: u64 = 1 << 40;

/// What a range of the file becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Zeros.
    Zero,
    /// One sector, put together of the ends from its descriptor and the middle from its data
    /// sector in the log.
    Sector {
        /// First 8 bytes.
        leading: [u8; 8],
        /// Last 4 bytes.
        trailing: [u8; 4],
        /// File offset of the data sector.
        source: u64,
    },
}

/// Pieces by their place: no two share a byte.
#[derive(Default)]
pub(crate) struct Pieces {
    /// By file offset: the end, and what it becomes.
    map: BTreeMap<u64, (u64, Piece)>,
}

impl Pieces {
    /// `start..end`, on sector boundaries and not empty, becomes this; whatever was said of parts
    /// of it before is forgotten.
    pub(crate) fn put(&mut self, start: u64, end: u64, piece: Piece) {
        if let Some((&before, &(before_end, what))) = self.map.range(..start).next_back()
            && before_end > start
        {
            // Only zeros are longer than a sector.
            self.map.insert(before, (start, what));
            if before_end > end {
                self.map.insert(end, (before_end, what));
            }
        }
        while let Some((&next, &(next_end, what))) = self.map.range(start..end).next() {
            self.map.remove(&next);
            if next_end > end {
                self.map.insert(end, (next_end, what));
            }
        }
        self.map.insert(start, (end, piece));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// The pieces that touch `start..end`, in order, each with its whole range.
    fn touching(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, Piece)> {
        let first = self
            .map
            .range(..=start)
            .next_back()
            .map_or(start, |(&at, _)| at);
        self.map
            .range(first..end.max(first))
            .map(|(&at, &(piece_end, piece))| (at, piece_end, piece))
            .filter(move |&(_, piece_end, _)| piece_end > start)
    }

    /// Writes all of them to the file, in whose log their sectors still are. The file is `len`
    /// bytes long.
    pub(crate) fn write(&self, store: &dyn Store, len: u64) -> io::Result<()> {
        for (&start, &(end, piece)) in &self.map {
            match piece {
                Piece::Zero => {
                    let (mut at, end) = (start, end.min(len));
                    while at < end {
                        let step = (end - at).min(MOST_ZEROED);
                        store.zero(at, step)?;
                        at += step;
                    }
                }
                Piece::Sector { .. } => {
                    let mut sector = [0; SECTOR_BYTES];
                    put_together(store, piece, &mut sector)?;
                    store.write_all_at(&sector, start)?;
                }
            }
        }
        Ok(())
    }
}

/// The sector that a piece makes.
fn put_together(
    store: &dyn Store,
    piece: Piece,
    sector: &mut [u8; SECTOR_BYTES],
) -> io::Result<()> {
    if let Piece::Sector {
        leading,
        trailing,
        source,
    } = piece
    {
        store.read_exact_at(sector, source)?;
        sector[..8].copy_from_slice(&leading);
        sector[SECTOR_BYTES - 4..].copy_from_slice(&trailing);
    } else {
        sector.fill(0);
    }
    Ok(())
}

/// The file as it is after the replay.
pub(crate) struct Overlay {
    store: Arc<dyn Store>,
    pieces: Pieces,
    /// Bytes of the file: as it is, and after the replay.
    file_len: u64,
    len: u64,
}

impl Overlay {
    /// `pieces` over a file of `file_len` bytes, which is `len` bytes long then.
    pub(crate) fn new(store: Arc<dyn Store>, pieces: Pieces, file_len: u64, len: u64) -> Overlay {
        Overlay {
            store,
            pieces,
            file_len,
            len,
        }
    }

    /// The length of the file itself in bytes, when it was opened.
    pub(crate) fn file_len(&self) -> u64 {
        self.file_len
    }
}

fn read_only() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Store for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset
            .checked_add(buf.len() as u64)
            .filter(|&end| end <= self.len)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        // What is behind the old end and in no piece is zeros.
        let there = self.file_len.saturating_sub(offset).min(buf.len() as u64);
        let there = usize::try_from(there).unwrap_or(buf.len());
        let (inside, behind) = buf.split_at_mut(there);
        if !inside.is_empty() {
            self.store.read_exact_at(inside, offset)?;
        }
        behind.fill(0);
        for (at, piece_end, piece) in self.pieces.touching(offset, end) {
            let (from, to) = (at.max(offset), piece_end.min(end));
            // Both are inside the buffer, whose length fits.
            let range = usize::try_from(from - offset).unwrap_or(buf.len())
                ..usize::try_from(to - offset).unwrap_or(buf.len());
            let part = &mut buf[range];
            if piece == Piece::Zero {
                part.fill(0);
                continue;
            }
            let mut sector = [0; SECTOR_BYTES];
            put_together(&*self.store, piece, &mut sector)?;
            let skip = usize::try_from((from - at) % LOG_SECTOR).unwrap_or(0);
            part.copy_from_slice(&sector[skip..skip + part.len()]);
        }
        Ok(())
    }

    fn write_all_at(&self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn zero(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(read_only())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = LOG_SECTOR;

    fn sector(source: u64) -> Piece {
        Piece::Sector {
            leading: [1; 8],
            trailing: [2; 4],
            source,
        }
    }

    #[test]
    fn what_was_said_last_of_a_place_holds() {
        let mut pieces = Pieces::default();
        pieces.put(2 * S, 10 * S, Piece::Zero);
        pieces.put(4 * S, 5 * S, sector(7));
        pieces.put(9 * S, 12 * S, Piece::Zero);
        pieces.put(4 * S, 5 * S, sector(8));
        let all = |pieces: &Pieces, start, end| -> Vec<(u64, u64, Piece)> {
            pieces
                .touching(start * S, end * S)
                .map(|(start, end, piece)| (start / S, end / S, piece))
                .collect()
        };
        let zero = Piece::Zero;
        assert_eq!(
            all(&pieces, 0, 99),
            [(2, 4, zero), (4, 5, sector(8)), (5, 9, zero), (9, 12, zero)]
        );
        assert_eq!(all(&pieces, 3, 5), [(2, 4, zero), (4, 5, sector(8))]);
        assert_eq!(all(&pieces, 4, 4), []);
        assert_eq!(all(&pieces, 11, 12), [(9, 12, zero)]);
        assert_eq!(all(&pieces, 12, 13), []);
        pieces.put(0, 99 * S, Piece::Zero);
        assert_eq!(pieces.len(), 1);
        pieces.put(98 * S, 99 * S, sector(1));
        pieces.put(0, S, sector(2));
        assert_eq!(
            all(&pieces, 0, 99),
            [(0, 1, sector(2)), (1, 98, zero), (98, 99, sector(1))]
        );
    }
}
