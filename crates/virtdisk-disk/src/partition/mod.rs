//! The partition table inside a disk, read as the kernel would read it.
//!
//! Some kernels have no parser for MBR and GPT; the nodes are then made from what is read here.
//! The bytes are the guest's and may be hostile: at most 128 partitions, a bounded number of
//! reads, nothing outside the disk. A table that makes no sense is no table; partitions that
//! overlap are kept, as the kernel keeps them. Sectors are the disk's logical ones. An optical
//! disk has no partitions, whatever a hybrid image says in its first sector.

use std::io::{self, Read, Seek, SeekFrom};

use mbrman::MBRHeader;
use virtdisk_format::Format;

use crate::disk::Disk;
use crate::error::Result;

mod gpt;
mod mbr;

/// Partitions that are reported at most, and logical ones that are looked for.
const MOST: usize = 128;
/// Partition type of the MBR that says: the table is a GPT.
const PROTECTIVE: u8 = 0xEE;

/// One partition. Offset and length are bytes of the disk and inside it; the length is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Number as the kernel counts: the place in the table from 1; logical ones from 5.
    pub number: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes. An extended partition is shown as its first sectors only, 1 KiB, like the kernel
    /// does: room for a boot loader.
    pub len: u64,
}

/// What a table says.
struct Table {
    partitions: Vec<Partition>,
    /// Bytes from the disk's start that the partitions and the table's own structures need.
    needed: u64,
}

/// The partitions of a disk, in the order of their numbers; none if there is no table.
///
/// # Errors
/// Those of [`Disk::read_at`]. A damaged table is not an error: it holds no partitions.
pub fn read(disk: &Disk) -> Result<Vec<Partition>> {
    Ok(read_table(disk)?
        .map(|table| table.partitions)
        .unwrap_or_default())
}

/// The size in bytes to which the disk could shrink without losing a partition or the table, a
/// multiple of the logical sector; `None` if there is no table to tell.
///
/// # Errors
/// As [`read`].
pub fn smallest_safe_size(disk: &Disk) -> Result<Option<u64>> {
    Ok(read_table(disk)?.map(|table| table.needed))
}

fn read_table(disk: &Disk) -> Result<Option<Table>> {
    if disk.facts().format == Format::Iso {
        return Ok(None);
    }
    let view = View {
        disk,
        sector: u64::from(disk.facts().logical_sector_size),
    };
    let Some(header) = view.boot_record(0)? else {
        return Ok(None);
    };
    if header.iter().any(|(_, entry)| entry.sys == PROTECTIVE) {
        return gpt::read(&view);
    }
    mbr::read(&view, &header).map(Some)
}

/// A disk in sectors.
struct View<'a> {
    disk: &'a Disk,
    sector: u64,
}

impl View<'_> {
    /// Bytes of the disk.
    fn size(&self) -> u64 {
        self.disk.facts().virtual_size
    }

    /// The first 512 bytes of a sector as a boot record; `None` if they are none, or if that
    /// sector is not in the disk.
    fn boot_record(&self, lba: u64) -> Result<Option<MBRHeader>> {
        let mut bytes = [0; 512];
        let Some(offset) = lba.checked_mul(self.sector) else {
            return Ok(None);
        };
        if offset
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| end > self.size())
        {
            return Ok(None);
        }
        self.disk.read_at(&mut bytes, offset)?;
        Ok(MBRHeader::read_from(&mut io::Cursor::new(&bytes)).ok())
    }

    /// A partition from sector numbers, cut at the disk's end; `None` if nothing of it is inside.
    fn partition(&self, number: usize, first: u64, sectors: u64) -> Option<Partition> {
        let offset = first.checked_mul(self.sector)?;
        let room = self.size().checked_sub(offset)?;
        let len = sectors.saturating_mul(self.sector).min(room);
        let number = u32::try_from(number).ok()?;
        (len > 0).then_some(Partition {
            number,
            offset,
            len,
        })
    }
}

/// A disk as the table crates want it. An error of the disk is kept for [`View`]'s caller.
struct Cursor<'a> {
    disk: &'a Disk,
    position: u64,
    failed: Option<crate::Error>,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = self.disk.facts().virtual_size.saturating_sub(self.position);
        let len = usize::try_from(room).unwrap_or(buf.len()).min(buf.len());
        if let Err(error) = self.disk.read_at(&mut buf[..len], self.position) {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        self.position += len as u64;
        Ok(len)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.disk.facts().virtual_size.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
