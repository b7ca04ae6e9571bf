//! The undo file: what a repair overwrote, so that it can be put back.
//!
//! Little-endian. A head of 32 bytes: `VDISKUND`, u32 version 1, u32 0, u64 length of the image
//! before the repair, u32 CRC-32C of the 24 bytes before it, u32 0. Then records, one per range
//! that was overwritten or cut off, in that order: u64 offset in the image, u32 length of the old
//! bytes, u32 CRC-32C of those 12 bytes and the old bytes, and the old bytes. Each record is
//! durable before the image changes, so a last one that is torn guards nothing and is left out.
//!
//! Putting back goes through the records from the last to the first, then sets the length, and can
//! be done again after a crash.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use virtdisk_format::Store as _;

use crate::file_store::FileStore;

/// First bytes of an undo file.
const SIGNATURE: [u8; 8] = *b"VDISKUND";
/// Version of its layout.
const VERSION: u32 = 1;
/// Bytes of the head.
const HEAD: u64 = 32;
/// Bytes of a record before its old bytes.
const RECORD: u64 = 16;
/// Most old bytes of one record.
const LARGEST_RECORD: u32 = 1 << 20;
/// Most records: far more than any repair makes.
const MOST_RECORDS: usize = 1 << 20;

/// Writes an undo file.
pub(crate) struct Recording {
    file: File,
}

impl Recording {
    /// Begins the undo file of an image of `image_len` bytes in an empty file.
    pub(crate) fn begin(mut file: File, image_len: u64) -> io::Result<Recording> {
        let mut head = Vec::with_capacity(HEAD as usize);
        head.extend_from_slice(&SIGNATURE);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&image_len.to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        file.write_all(&head)?;
        file.sync_all()?;
        Ok(Recording { file })
    }

    /// Keeps the old bytes of a range, durably.
    pub(crate) fn keep(&mut self, offset: u64, old: &[u8]) -> io::Result<()> {
        for (index, piece) in old.chunks(LARGEST_RECORD as usize).enumerate() {
            let at = offset + index as u64 * u64::from(LARGEST_RECORD);
            let len = u32::try_from(piece.len()).unwrap_or(0);
            let mut record = Vec::with_capacity(piece.len() + RECORD as usize);
            record.extend_from_slice(&at.to_le_bytes());
            record.extend_from_slice(&len.to_le_bytes());
            let sum = crc32c::crc32c_append(crc32c::crc32c(&record), piece);
            record.extend_from_slice(&sum.to_le_bytes());
            record.extend_from_slice(piece);
            self.file.write_all(&record)?;
        }
        self.file.sync_data()
    }
}

/// An undo file that was read and found sound.
pub(crate) struct Kept {
    /// Length of the image before the repair.
    pub(crate) image_len: u64,
    /// Where the records stand in the undo file, in the order in which they were written.
    records: Vec<u64>,
}

/// A record: where its bytes belong, and they.
struct Record {
    offset: u64,
    old: Vec<u8>,
}

impl Kept {
    /// Reads the head and looks through all records.
    ///
    /// # Errors
    /// `InvalidData` for what is no undo file, or a damaged one; what reading says.
    pub(crate) fn read(file: &File) -> io::Result<Kept> {
        let bad = |message| io::Error::new(io::ErrorKind::InvalidData, message);
        let len = file.metadata()?.len();
        if len < HEAD {
            return Err(bad("it is no undo file of vdisk"));
        }
        let mut head = [0; HEAD as usize];
        file.read_exact_at(&mut head, 0)?;
        if head[..8] != SIGNATURE {
            return Err(bad("it is no undo file of vdisk"));
        }
        if number(&head[24..28]) != u64::from(crc32c::crc32c(&head[..24])) {
            return Err(bad("the head of the undo file is damaged"));
        }
        if number(&head[8..12]) != u64::from(VERSION) {
            return Err(bad("the undo file is of a later version"));
        }
        let (mut records, mut at) = (Vec::new(), HEAD);
        while at < len {
            let (record, end) = match read_record(file, at, len)? {
                Ok(record) => (at, at + RECORD + record.old.len() as u64),
                // Torn by a crash before its place in the image changed.
                Err(end) if end >= len => break,
                Err(_) => return Err(bad("a record of the undo file is damaged")),
            };
            if records.len() == MOST_RECORDS {
                return Err(bad("the undo file has too many records"));
            }
            records.push(record);
            at = end;
        }
        Ok(Kept {
            image_len: number(&head[16..24]),
            records,
        })
    }

    /// Puts everything back and makes it durable; answers how many bytes.
    pub(crate) fn put_back(&self, file: &File, image: &FileStore) -> io::Result<u64> {
        let (len, mut bytes) = (file.metadata()?.len(), 0);
        for &at in self.records.iter().rev() {
            let Ok(record) = read_record(file, at, len)? else {
                let message = "a record of the undo file changed";
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            };
            image.write_all_at(&record.old, record.offset)?;
            bytes += record.old.len() as u64;
        }
        image.set_len(self.image_len)?;
        image.flush()?;
        Ok(bytes)
    }
}

/// The record at `at`, or the end that it claims if it is not sound.
fn read_record(file: &File, at: u64, len: u64) -> io::Result<Result<Record, u64>> {
    if len - at < RECORD {
        return Ok(Err(len));
    }
    let mut head = [0; RECORD as usize];
    file.read_exact_at(&mut head, at)?;
    let (offset, size) = (number(&head[..8]), number(&head[8..12]));
    let end = at + RECORD + size;
    if size > u64::from(LARGEST_RECORD) {
        // A length that no record has says nothing of where it ends.
        return Ok(Err(0));
    }
    if end > len || head == [0; RECORD as usize] {
        // The file system had made it longer, and its bytes never came.
        return Ok(Err(len));
    }
    let mut old = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut old, at + RECORD)?;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), &old);
    if number(&head[12..16]) != u64::from(sum) || offset.checked_add(size).is_none() {
        return Ok(Err(end));
    }
    Ok(Ok(Record { offset, old }))
}

/// Up to eight bytes as a little-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}
