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
    /// A header alone.
    Done,
    /// The first bytes of the array.
    Words([u8; size_of::<AttributesOut>()], usize),
    /// The first bytes of the data buffer.
    Data(usize),
}

impl Reply {
    /// One layout.
    fn words(layout: &(impl IntoBytes + zerocopy::Immutable)) -> Self {
        let bytes = layout.as_bytes();
        let mut words = [0; size_of::<AttributesOut>()];
        words[..bytes.len()].copy_from_slice(bytes);
        Self::Words(words, bytes.len())
    }

    /// An errno.
    fn error(errno: Errno) -> Self {
        Self::Error(errno.raw_os_error())
    }
}

/// Answers one request. `data` holds what a WRITE carries, and takes what a READ gives.
pub(super) fn answer<S: Served>(
    disk: &S,
    view: &View,
    operation: Operation,
    data: &mut [u8],
) -> Reply {
    let result = match operation {
        Operation::Read { offset, size } => read(disk, view, offset, size, data),
        Operation::Write { offset, size } => write(disk, view, offset, size, data),
        Operation::Fsync => disk.flush().map(|()| Reply::Done),
        Operation::Allocate { offset, length, mode } => allocate(disk, view, offset, length, mode),
        Operation::Seek { offset, whence } => seek(disk, view, offset, whence),
        Operation::GetAttributes => Ok(Reply::words(&attributes(view))),
        Operation::SetAttributes { valid, size } => Ok(set_attributes(view, valid, size)),
        Operation::Open { flags } => Ok(open(view, flags)),
        Operation::StatFs => Ok(Reply::words(&statfs(view))),
        Operation::Nothing => Ok(Reply::Done),
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
    data: &[u8],
) -> Result<Reply, i32> {
    writable(view)?;
    let fits = u64::from(size).min(view.length.saturating_sub(offset));
    if size > 0 && fits == 0 {
        return Err(Errno::NOSPC.raw_os_error());
    }
    let fits = u32::try_from(fits).map_err(|_| Errno::INVAL.raw_os_error())?;
    let bytes = data.get(..fits as usize).ok_or(Errno::INVAL.raw_os_error())?;
    if !bytes.is_empty() {
        disk.write_at(bytes, on_disk(view, offset)?)?;
    }
    Ok(Reply::words(&WriteOut { size: fits, padding: 0 }))
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
    let end = offset.checked_add(length).ok_or(Errno::FBIG.raw_os_error())?;
    if offset >= view.length && mode & KEEP_SIZE != 0 {
        return Ok(Reply::Done);
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
    Ok(Reply::Done)
}

/// LSEEK: only the directions that the kernel can't answer itself arrive here.
fn seek<S: Served>(disk: &S, view: &View, offset: u64, whence: u32) -> Result<Reply, i32> {
    if offset >= view.length {
        return Err(Errno::NXIO.raw_os_error());
    }
    let look = match whence {
        SEEK_DATA => Look::Data,
        SEEK_HOLE => Look::Hole,
        _ => return Err(Errno::INVAL.raw_os_error()),
    };
    let found = disk.look(on_disk(view, offset)?, look)?;
    let found = found.and_then(|at| at.checked_sub(view.offset)).filter(|at| *at < view.length);
    match (found, look) {
        (Some(at), _) => Ok(Reply::words(&SeekOut { offset: at })),
        // The end of a file counts as a hole.
        (None, Look::Hole) => Ok(Reply::words(&SeekOut { offset: view.length })),
        (None, Look::Data) => Err(Errno::NXIO.raw_os_error()),
    }
}

/// SETATTR: the size it has is fine, anything else is not ours to change.
fn set_attributes(view: &View, valid: u32, size: u64) -> Reply {
    let size_stays = valid & FATTR_SIZE == 0 || size == view.length;
    if size_stays && valid & !(FATTR_SIZE | FATTR_SILENT) == 0 {
        Reply::words(&attributes(view))
    } else {
        Reply::error(Errno::PERM)
    }
}

/// OPEN.
fn open(view: &View, flags: u32) -> Reply {
    if view.read_only && flags & ACCESS_MODE != 0 {
        return Reply::error(Errno::ROFS);
    }
    let open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH;
    Reply::words(&OpenOut { handle: 0, open_flags, backing: 0 })
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
    AttributesOut { valid_seconds: VALID_SECONDS, attributes, ..Default::default() }
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
    if view.read_only { Err(Errno::ROFS.raw_os_error()) } else { Ok(()) }
}

/// Offset on the disk of an offset in the file.
fn on_disk(view: &View, offset: u64) -> Result<u64, i32> {
    view.offset.checked_add(offset).ok_or(Errno::INVAL.raw_os_error())
}

const _: () = assert!(DATA_BYTES <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Bytes in memory.
    struct Bytes(Mutex<Vec<u8>>);

    impl Served for Bytes {
        fn size(&self) -> u64 {
            self.0.lock().unwrap().len() as u64
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), i32> {
            let at = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&self.0.lock().unwrap()[at..at + buffer.len()]);
            Ok(())
        }
        fn write_at(&self, data: &[u8], offset: u64) -> Result<(), i32> {
            let at = usize::try_from(offset).unwrap();
            self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
            Ok(())
        }
        fn zero(&self, offset: u64, length: u64) -> Result<(), i32> {
            self.write_at(&vec![0; usize::try_from(length).unwrap()], offset)
        }
        fn trim(&self, offset: u64, length: u64) -> Result<(), i32> {
            self.zero(offset, length)
        }
        fn flush(&self) -> Result<(), i32> {
            Err(5)
        }
        fn look(&self, offset: u64, look: Look) -> Result<Option<u64>, i32> {
            let bytes = self.0.lock().unwrap();
            let wanted = |byte: &u8| (*byte == 0) == (look == Look::Hole);
            let from = usize::try_from(offset).unwrap();
            Ok(bytes.iter().skip(from).position(wanted).map(|at| offset + at as u64))
        }
    }

    /// Bytes 10 to 19 of 30 bytes that say their own offset.
    fn shown(read_only: bool) -> (Bytes, View) {
        (Bytes(Mutex::new((0..30).collect())), View { offset: 10, length: 10, read_only })
    }

    fn ask(disk: &Bytes, view: &View, operation: Operation, data: &mut [u8]) -> Reply {
        answer(disk, view, operation, data)
    }

    #[test]
    fn reads_stay_inside_the_part_that_is_shown() {
        let (disk, view) = shown(false);
        for (offset, size, wanted) in [(0, 4, 10..14), (8, 100, 18..20), (10, 1, 0..0)] {
            let mut data = [0; 128];
            let reply = ask(&disk, &view, Operation::Read { offset, size }, &mut data);
            assert_eq!(reply, Reply::Data(wanted.len()));
            assert!(data[..wanted.len()].iter().copied().eq(wanted));
        }
        let past = Operation::Read { offset: u64::MAX, size: u32::MAX };
        assert_eq!(ask(&disk, &view, past, &mut [0; 8]), Reply::Data(0));
        // More than the buffer can hold.
        let big = Operation::Read { offset: 0, size: 9 };
        assert_eq!(ask(&disk, &view, big, &mut [0; 8]), Reply::Error(22));
    }

    #[test]
    fn nothing_outside_the_part_that_is_shown_is_written() {
        let (disk, view) = shown(false);
        let write = |offset, size, data: &mut [u8]| {
            ask(&disk, &view, Operation::Write { offset, size }, data)
        };
        assert!(matches!(write(8, 4, &mut [99; 4]), Reply::Words(words, 8) if words[0] == 2));
        assert_eq!(write(10, 4, &mut [99; 4]), Reply::Error(28));
        assert_eq!(write(u64::MAX, 4, &mut [99; 4]), Reply::Error(28));
        for (offset, length) in [(5, 100), (10, 5), (200, 1)] {
            for mode in [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE | KEEP_SIZE] {
                let allocate = Operation::Allocate { offset, length, mode };
                assert_eq!(ask(&disk, &view, allocate, &mut []), Reply::Done);
            }
        }
        let mut wanted: Vec<u8> = (0..30).collect();
        wanted[15..20].fill(0);
        assert_eq!(*disk.0.lock().unwrap(), wanted);
        let grow = Operation::Allocate { offset: 5, length: 6, mode: ZERO_RANGE };
        assert_eq!(ask(&disk, &view, grow, &mut []), Reply::Error(28));
        let reserve = Operation::Allocate { offset: 0, length: 6, mode: 0 };
        assert_eq!(ask(&disk, &view, reserve, &mut []), Reply::Error(95));
        let wraps = Operation::Allocate { offset: 9, length: u64::MAX, mode: PUNCH_HOLE };
        assert_eq!(ask(&disk, &view, wraps, &mut []), Reply::Error(27));
    }

    #[test]
    fn a_read_only_disk_refuses_every_change() {
        let (disk, view) = shown(true);
        let refused = [
            Operation::Write { offset: 0, size: 1 },
            Operation::Allocate { offset: 0, length: 1, mode: PUNCH_HOLE | KEEP_SIZE },
            Operation::Open { flags: 1 },
            Operation::Open { flags: 2 },
        ];
        for operation in refused {
            assert_eq!(ask(&disk, &view, operation, &mut [7; 1]), Reply::Error(30));
        }
        assert!(matches!(
            ask(&disk, &view, Operation::Open { flags: 0 }, &mut []),
            Reply::Words(_, 16)
        ));
        assert!(disk.0.lock().unwrap().iter().copied().eq(0..30));
    }

    #[test]
    fn the_size_can_be_set_to_what_it_is_and_nothing_else_changed() {
        let (disk, view) = shown(false);
        let set = |valid, size| {
            ask(&disk, &view, Operation::SetAttributes { valid, size }, &mut [])
        };
        assert!(matches!(set(FATTR_SIZE | FATTR_SILENT, 10), Reply::Words(_, 104)));
        assert_eq!(set(FATTR_SIZE, 0), Reply::Error(1));
        assert_eq!(set(1, 0), Reply::Error(1));
    }

    #[test]
    fn errors_of_the_disk_and_unknown_requests_are_answered() {
        let (disk, view) = shown(false);
        assert_eq!(ask(&disk, &view, Operation::Fsync, &mut []), Reply::Error(5));
        assert_eq!(ask(&disk, &view, Operation::Unknown, &mut []), Reply::Error(38));
        assert_eq!(ask(&disk, &view, Operation::Silent, &mut []), Reply::Silence);
        assert_eq!(ask(&disk, &view, Operation::Nothing, &mut []), Reply::Done);
    }

    #[test]
    fn seeking_finds_data_and_holes_inside_the_part_that_is_shown() {
        let (disk, view) = shown(false);
        disk.0.lock().unwrap()[10..13].fill(0);
        let seek = |offset, whence| {
            ask(&disk, &view, Operation::Seek { offset, whence }, &mut [])
        };
        let at = |offset| Reply::words(&SeekOut { offset });
        assert_eq!(seek(0, SEEK_DATA), at(3));
        assert_eq!(seek(0, SEEK_HOLE), at(0));
        assert_eq!(seek(3, SEEK_HOLE), at(10));
        assert_eq!(seek(10, SEEK_DATA), Reply::Error(6));
        assert_eq!(seek(0, 0), Reply::Error(22));
        disk.0.lock().unwrap()[10..20].fill(0);
        assert_eq!(seek(0, SEEK_DATA), Reply::Error(6));
    }
}
