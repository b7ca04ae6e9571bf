//! Checksums of a changed image made right again.
//!
//! Independent of the format crate: where the sums stand and what they cover is written down here
//! a second time. Works on any bytes; where a structure is not to be found nothing is done.

use crate::pages::Pages;
use crate::vhd_builder::{FOOTER_CHECKSUM_AT, HEADER_CHECKSUM_AT, reseal};
use crate::vhdx_builder::{self, HEADERS_AT, SECTOR, TABLES_AT};

/// Most sectors of a log that are looked at.
const LOG_SECTORS: u64 = 256;
/// Most descriptors of a log entry that are made right.
const DESCRIPTORS: usize = 1024;

/// Which checksums an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// None.
    Plain,
    /// Footers and dynamic header.
    Vhd,
    /// Headers, region tables and log entries.
    Vhdx,
}

/// Makes the checksums of `file` right. `deep` also makes the numbers inside log entries agree
/// with their headers.
pub fn seal(file: &mut Pages, how: Seal, deep: bool) {
    match how {
        Seal::Plain => {}
        Seal::Vhd => seal_vhd(file),
        Seal::Vhdx => seal_vhdx(file, deep),
    }
}

fn seal_vhd(file: &mut Pages) {
    let end = file.len().saturating_sub(512);
    let mut header_at = 512;
    for at in [0, end] {
        let mut footer = [0; 512];
        if file.read(&mut footer, at) && footer[..8] == *b"conectix" {
            reseal(&mut footer, FOOTER_CHECKSUM_AT);
            file.write(&footer, at);
            let mut offset = [0; 8];
            offset.copy_from_slice(&footer[16..24]);
            header_at = u64::from_be_bytes(offset);
        }
    }
    for at in [512, header_at] {
        let mut header = [0; 1024];
        if file.read(&mut header, at) && header[..8] == *b"cxsparse" {
            reseal(&mut header, HEADER_CHECKSUM_AT);
            file.write(&header, at);
        }
    }
}

fn seal_vhdx(file: &mut Pages, deep: bool) {
    for (at, len, signature) in [
        (HEADERS_AT[0], 4096, b"head"),
        (HEADERS_AT[1], 4096, b"head"),
        (TABLES_AT[0], 65536, b"regi"),
        (TABLES_AT[1], 65536, b"regi"),
    ] {
        let mut bytes = vec![0; len];
        if file.read(&mut bytes, at) && bytes[..4] == *signature {
            vhdx_builder::reseal(&mut bytes);
            file.write(&bytes[..8], at);
        }
    }
    for at in HEADERS_AT {
        let mut header = [0; 80];
        if file.read(&mut header, at) && header[48..64] != [0; 16] {
            let length = u64::from(quad(&header, 68));
            let mut offset = [0; 8];
            offset.copy_from_slice(&header[72..80]);
            let offset = u64::from_le_bytes(offset);
            if offset
                .checked_add(length)
                .is_some_and(|end| end <= file.len())
            {
                let ring = Ring {
                    offset,
                    sectors: length / SECTOR,
                };
                ring.seal(file, deep.then_some(&header[48..64]));
            }
        }
    }
}

/// Four little-endian bytes.
fn quad(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// A log.
struct Ring {
    offset: u64,
    sectors: u64,
}

impl Ring {
    fn place(&self, sector: u64) -> u64 {
        self.offset + sector % self.sectors * SECTOR
    }

    /// Every entry: with `guid`, its insides are made to agree with its head; then its checksum.
    fn seal(&self, file: &mut Pages, guid: Option<&[u8]>) {
        for sector in 0..self.sectors.min(LOG_SECTORS) {
            let mut head = vec![0; SECTOR as usize];
            if !file.read(&mut head, self.place(sector)) || head[..4] != *b"loge" {
                continue;
            }
            if let Some(guid) = guid {
                head[32..48].copy_from_slice(guid);
                self.agree(file, sector, &mut head);
            }
            let length = u64::from(quad(&head, 8));
            if length == 0 || length % SECTOR != 0 || length > self.sectors * SECTOR {
                continue;
            }
            let mut entry = head;
            for next in 1..length / SECTOR {
                let mut bytes = vec![0; SECTOR as usize];
                if file.read(&mut bytes, self.place(sector + next)) {
                    entry.extend(bytes);
                }
            }
            vhdx_builder::reseal(&mut entry);
            file.write(&entry[..SECTOR as usize], self.place(sector));
        }
    }

    /// Length, and the sequence numbers of descriptors in the first sector and of data sectors.
    fn agree(&self, file: &mut Pages, sector: u64, head: &mut [u8]) {
        let count = quad(head, 24) as usize;
        if count > DESCRIPTORS {
            return;
        }
        let sequence: [u8; 8] = match head[16..24].try_into() {
            Ok(sequence) => sequence,
            Err(_) => return,
        };
        let descriptors = (64 + 32 * count as u64).div_ceil(SECTOR);
        let mut data = 0;
        for at in (64..).step_by(32).take(count.min(126)) {
            head[at + 24..at + 32].copy_from_slice(&sequence);
            data += u64::from(head[at..at + 4] == *b"desc");
        }
        for next in 0..data {
            let place = self.place(sector + descriptors + next);
            file.write(b"data", place);
            file.write(&sequence[4..], place + 4);
            file.write(&sequence[..4], place + SECTOR - 4);
        }
        if count <= 126 {
            let length = ((descriptors + data) * SECTOR) as u32;
            head[8..12].copy_from_slice(&length.to_le_bytes());
        }
    }
}
