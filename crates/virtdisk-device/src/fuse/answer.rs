//! What each request gets.
//!
//! Turns one request into calls on the disk and one reply. Ranges are checked here, once, against
//! the part of the disk that is shown; the disk sees only ranges inside it. Reading past the end
//! gives what there is, as any file does; nothing is ever written past the end.

use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::served::{Look, Served};
use super::wire::{
    Attributes, AttributesOut, DATA_BYTES, FATTR_SILENT, FATTR_SIZE, FOPEN_DIRECT_IO,
    FOPEN_NOFLUSH, FOPEN_PARALLEL_DIRECT_WRITES, OpenOut, Operation, ROOT, SeekOut, StatfsOut,
    WriteOut,
};

/// `S_IFREG`.
const REGULAR_FILE: u32 = 0o100_000;
/// Unit of `blocks`, bytes.
const STAT_BLOCK_BYTES: u64 = 512;
/// Block size that the file claims: the unit in which a loop device discards, bytes.
const BLOCK_SIZE_BYTES: u32 = 4096;
/// For how long the kernel may rely on the attributes: they never change.
const VALID_SECONDS: u64 = u64::MAX;
/// Bits of `fallocate`'s mode.
const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;
/// `lseek`'s directions.
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;
/// The bits of `open`'s flags that ask to write.
const ACCESS_MODE: u32 = 0o3;

/// The part of a disk that is shown, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// First byte of the disk.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) length: u64,
    /// Refuse whatever changes something.
    pub(super) read_only: bool,
}

/// What goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// Not even a header.
    Silence,
    /// A positive errno.
    Error(i32),
    /// A header, and the first bytes of the data buffer.
    Data(usize),
}

impl Reply {
    /// A header alone.
    const DONE: Self = Self::Data(0);

    /// One layout, put into the data buffer.
    fn words(data: &mut [u8], layout: &(impl IntoBytes + zerocopy::Immutable)) -> Self {
        let bytes = layout.as_bytes();
        match data.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self::Data(bytes.len())
            }
            None => Self::error(Errno::IO),
        }
    }

    /// An errno.
    fn error(errno: Errno) -> Self {
        Self::Error(errno.raw_os_error())
    }
}

/// Answers one request. `data` holds what a WRITE carries, and takes what goes back.
pub(super) fn answer<S: Served>(
    disk: &S,
    view: &View,
    operation: Operation,
    data: &mut [u8],
) -> Reply {
    let result = match operation {
        Operation::Read { offset, size } => read(disk, view, offset, size, data),
        Operation::Write { offset, size } => write(disk, view, offset, size, data),
        Operation::Fsync => disk.flush().map(|()| Reply::DONE),
        Operation::Allocate {
            offset,
            length,
            mode,
        } => allocate(disk, view, offset, length, mode),
        Operation::Seek { offset, whence } => seek(disk, view, offset, whence, data),
        Operation::GetAttributes => Ok(Reply::words(data, &attributes(view))),
        Operation::SetAttributes { valid, size } => Ok(set_attributes(view, valid, size, data)),
        Operation::Open { flags } => Ok(open(view, flags, data)),
        Operation::StatFs => Ok(Reply::words(data, &statfs(view))),
        Operation::Nothing => Ok(Reply::DONE),
        Operation::Silent => Ok(Reply::Silence),
        Operation::Init(_) => Ok(Reply::error(Errno::IO)),
        Operation::Unknown => Ok(Reply::error(Errno::NOSYS)),
    };
    result.unwrap_or_else(Reply::Error)
}

/// READ: up to the end.
fn read<S: Served>(
    disk: &S,
    view: &View,
    offset: u64,
    size: u32,
    data: &mut [u8],
) -> Result<Reply, i32> {
    let length = u64::from(size).min(view.length.saturating_sub(offset));
    let length = usize::try_from(length).map_err(|_| Errno::INVAL.raw_os_error())?;
    let buffer = data.get_mut(..length).ok_or(Errno::INVAL.raw_os_error())?;
    if !buffer.is_empty() {
        disk.read_at(buffer, on_disk(view, offset)?)?;
    }
    Ok(Reply::Data(length))
}

/// WRITE: up to the end; from the end on there is no space.
fn write<S: Served>(
    disk: &S,
    view: &View,
    offset: u64,
    size: u32,
    data: &mut [u8],
) -> Result<Reply, i32> {
    writable(view)?;
    let fits = u64::from(size).min(view.length.saturating_sub(offset));
    if size > 0 && fits == 0 {
        return Err(Errno::NOSPC.raw_os_error());
    }
    let fits = u32::try_from(fits).map_err(|_| Errno::INVAL.raw_os_error())?;
    let bytes = data
        .get(..fits as usize)
        .ok_or(Errno::INVAL.raw_os_error())?;
    if !bytes.is_empty() {
        disk.write_at(bytes, on_disk(view, offset)?)?;
    }
    Ok(Reply::words(
        data,
        &WriteOut {
            size: fits,
            padding: 0,
        },
    ))
}

/// FALLOCATE: a hole or zeros, inside the size. Never ENOSYS: the kernel would not ask again.
fn allocate<S: Served>(
    disk: &S,
    view: &View,
    offset: u64,
    length: u64,
    mode: u32,
) -> Result<Reply, i32> {
    writable(view)?;
    let end = offset
        .checked_add(length)
        .ok_or(Errno::FBIG.raw_os_error())?;
    if offset >= view.length && mode & KEEP_SIZE != 0 {
        return Ok(Reply::DONE);
    }
    if end > view.length && mode & KEEP_SIZE == 0 {
        return Err(Errno::NOSPC.raw_os_error());
    }
    let length = length.min(view.length - offset);
    let start = on_disk(view, offset)?;
    match mode & !KEEP_SIZE {
        PUNCH_HOLE if length > 0 => disk.trim(start, length)?,
        ZERO_RANGE if length > 0 => disk.zero(start, length)?,
        PUNCH_HOLE | ZERO_RANGE => {}
        _ => return Err(Errno::OPNOTSUPP.raw_os_error()),
    }
    Ok(Reply::DONE)
}

/// LSEEK: only the directions that the kernel can't answer itself arrive here.
fn seek<S: Served>(
    disk: &S,
    view: &View,
    offset: u64,
    whence: u32,
    data: &mut [u8],
) -> Result<Reply, i32> {
    if offset >= view.length {
        return Err(Errno::NXIO.raw_os_error());
    }
    let look = match whence {
        SEEK_DATA => Look::Data,
        SEEK_HOLE => Look::Hole,
        _ => return Err(Errno::INVAL.raw_os_error()),
    };
    let found = disk.look(on_disk(view, offset)?, look)?;
    let found = found
        .and_then(|at| at.checked_sub(view.offset))
        .filter(|at| *at < view.length);
    match (found, look) {
        (Some(at), _) => Ok(Reply::words(data, &SeekOut { offset: at })),
        // The end of a file counts as a hole.
        (None, Look::Hole) => Ok(Reply::words(
            data,
            &SeekOut {
                offset: view.length,
            },
        )),
        (None, Look::Data) => Err(Errno::NXIO.raw_os_error()),
    }
}

/// SETATTR: the size it has is fine, anything else is not ours to change.
fn set_attributes(view: &View, valid: u32, size: u64, data: &mut [u8]) -> Reply {
    let size_stays = valid & FATTR_SIZE == 0 || size == view.length;
    if size_stays && valid & !(FATTR_SIZE | FATTR_SILENT) == 0 {
        Reply::words(data, &attributes(view))
    } else {
        Reply::error(Errno::PERM)
    }
}

/// OPEN.
fn open(view: &View, flags: u32, data: &mut [u8]) -> Reply {
    if view.read_only && flags & ACCESS_MODE != 0 {
        return Reply::error(Errno::ROFS);
    }
    let open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH;
    Reply::words(
        data,
        &OpenOut {
            handle: 0,
            open_flags,
            backing: 0,
        },
    )
}

/// The attributes, which never change.
fn attributes(view: &View) -> AttributesOut {
    let access = if view.read_only { 0o400 } else { 0o600 };
    let attributes = Attributes {
        inode: ROOT,
        size: view.length,
        blocks: view.length.div_ceil(STAT_BLOCK_BYTES),
        mode: REGULAR_FILE | access,
        links: 1,
        block_size: BLOCK_SIZE_BYTES,
        ..Default::default()
    };
    AttributesOut {
        valid_seconds: VALID_SECONDS,
        attributes,
        ..Default::default()
    }
}

/// Capacity: the file fills its file system.
fn statfs(view: &View) -> StatfsOut {
    StatfsOut {
        blocks: view.length.div_ceil(u64::from(BLOCK_SIZE_BYTES)),
        files: 1,
        block_size: BLOCK_SIZE_BYTES,
        fragment_size: BLOCK_SIZE_BYTES,
        name_length: 255,
        ..Default::default()
    }
}

/// Refuses to change a read-only disk.
fn writable(view: &View) -> Result<(), i32> {
    if view.read_only {
        Err(Errno::ROFS.raw_os_error())
    } else {
        Ok(())
    }
}

/// Offset on the disk of an offset in the file.
fn on_disk(view: &View, offset: u64) -> Result<u64, i32> {
    view.offset
        .checked_add(offset)
        .ok_or(Errno::INVAL.raw_os_error())
}

const _: () = assert!(DATA_BYTES <= u32::MAX as usize);

#[cfg(test)]
mod tests;
