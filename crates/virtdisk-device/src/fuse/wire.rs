//! The words of the FUSE protocol that a single file takes (`linux/fuse.h`, version 7).
//!
//! Byte layouts of requests and replies, in the machine's own byte order as the kernel speaks
//! it, and the reading of a request: every length is checked, nothing is allocated, nothing is
//! read beyond the first [`HEAD_BYTES`] bytes (only WRITE carries more that matters, its data).

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a message up to the data of a WRITE: `fuse_in_header` and `fuse_write_in`.
pub(super) const HEAD_BYTES: usize = 80;
/// Most data of one READ or WRITE, bytes: 256 pages, what a kernel allows without asking more.
pub(super) const DATA_BYTES: usize = 1 << 20;
/// Major version of the protocol.
pub(super) const MAJOR: u32 = 7;
/// The minor version that this server was written for; RESEND came with it.
pub(super) const MINOR: u32 = 40;
/// Node id of the root, our only file.
pub(super) const ROOT: u64 = 1;
/// `FUSE_NOTIFY_RESEND`.
pub(super) const NOTIFY_RESEND: i32 = 7;

/// INIT: reads may be sent while others are not answered.
pub(super) const ASYNC_READ: u64 = 1 << 0;
/// INIT: writes larger than a page.
pub(super) const BIG_WRITES: u64 = 1 << 5;
/// INIT: direct I/O may be sent while the caller goes on.
pub(super) const ASYNC_DIO: u64 = 1 << 15;
/// INIT: `max_pages` of the reply counts.
pub(super) const MAX_PAGES: u64 = 1 << 22;
/// INIT: `flags2` counts.
pub(super) const INIT_EXT: u64 = 1 << 30;
/// INIT: a file with FOPEN_DIRECT_IO may be mapped shared; the kernel keeps it coherent.
pub(super) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
/// INIT: there is no looking up by file handle.
pub(super) const NO_EXPORT_SUPPORT: u64 = 1 << 38;
/// INIT: requests can be sent again.
pub(super) const HAS_RESEND: u64 = 1 << 39;

/// OPEN reply: every read and write comes here, none is answered from a page cache.
pub(super) const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// OPEN reply: closing a descriptor asks nothing.
pub(super) const FOPEN_NOFLUSH: u32 = 1 << 5;
/// OPEN reply: writes need not wait for each other.
pub(super) const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

/// SETATTR: the size is to change.
pub(super) const FATTR_SIZE: u32 = 1 << 3;
/// SETATTR bits that change nothing of their own: file handle, lock owner.
pub(super) const FATTR_SILENT: u32 = (1 << 6) | (1 << 9);

macro_rules! layouts {
    ($($(#[$meta:meta])* struct $name:ident { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(super) struct $name { $(pub(super) $field: $ty,)* }
    )*};
}

layouts! {
    /// `fuse_in_header`.
    struct InHeader {
        length: u32, opcode: u32, unique: u64, node: u64,
        uid: u32, gid: u32, pid: u32, extension_length: u16, padding: u16,
    }
    /// `fuse_out_header`.
    struct OutHeader { length: u32, error: i32, unique: u64, }
    /// `fuse_init_in` up to `flags2`.
    struct InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, }
    /// `fuse_init_out`.
    struct InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32,
        max_background: u16, congestion_threshold: u16, max_write: u32, time_granularity: u32,
        max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
        request_timeout: u16, unused: [u16; 11],
    }
    /// `fuse_attr`.
    struct Attributes {
        inode: u64, size: u64, blocks: u64, times: [u64; 3], times_nanoseconds: [u32; 3],
        mode: u32, links: u32, uid: u32, gid: u32, device: u32, block_size: u32, flags: u32,
    }
    /// `fuse_attr_out`.
    struct AttributesOut {
        valid_seconds: u64, valid_nanoseconds: u32, padding: u32, attributes: Attributes,
    }
    /// `fuse_setattr_in` up to the size.
    struct SetAttributesIn { valid: u32, padding: u32, handle: u64, size: u64, }
    /// `fuse_open_in`.
    struct OpenIn { flags: u32, open_flags: u32, }
    /// `fuse_open_out`.
    struct OpenOut { handle: u64, open_flags: u32, backing: i32, }
    /// `fuse_read_in` up to the size.
    struct ReadIn { handle: u64, offset: u64, size: u32, flags: u32, }
    /// `fuse_write_in`.
    struct WriteIn {
        handle: u64, offset: u64, size: u32, write_flags: u32,
        lock_owner: u64, flags: u32, padding: u32,
    }
    /// `fuse_write_out`.
    struct WriteOut { size: u32, padding: u32, }
    /// `fuse_fallocate_in`.
    struct AllocateIn { handle: u64, offset: u64, length: u64, mode: u32, padding: u32, }
    /// `fuse_lseek_in`.
    struct SeekIn { handle: u64, offset: u64, whence: u32, padding: u32, }
    /// `fuse_lseek_out`.
    struct SeekOut { offset: u64, }
    /// `fuse_statfs_out`.
    struct StatfsOut {
        blocks: u64, blocks_free: u64, blocks_available: u64, files: u64, files_free: u64,
        block_size: u32, name_length: u32, fragment_size: u32, padding: u32, spare: [u32; 6],
    }
}

const _: () = {
    assert!(size_of::<InHeader>() + size_of::<WriteIn>() == HEAD_BYTES);
    assert!(size_of::<OutHeader>() == 16 && size_of::<InitOut>() == 64);
    assert!(size_of::<Attributes>() == 88 && size_of::<AttributesOut>() == 104);
    assert!(size_of::<OpenOut>() == 16 && size_of::<WriteOut>() == 8);
    assert!(size_of::<SeekOut>() == 8 && size_of::<StatfsOut>() == 80);
    assert!(size_of::<AllocateIn>() == 32 && size_of::<SeekIn>() == 24);
};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Handshake.
    Init(InitIn),
    /// Size and access bits.
    GetAttributes,
    /// Change them.
    SetAttributes { valid: u32, size: u64 },
    /// Open with these `O_…` flags.
    Open { flags: u32 },
    /// Bytes.
    Read { offset: u64, size: u32 },
    /// `size` bytes follow the head.
    Write { offset: u64, size: u32 },
    /// Capacity.
    StatFs,
    /// Make durable.
    Fsync,
    /// Punch or zero.
    Allocate { offset: u64, length: u64, mode: u32 },
    /// `SEEK_DATA`, `SEEK_HOLE`.
    Seek { offset: u64, whence: u32 },
    /// Close of a descriptor, or of the file: nothing to do.
    Nothing,
    /// Wants no reply: FORGET, INTERRUPT.
    Silent,
    /// Not for a file like ours.
    Unknown,
}

/// A request: answer it with this `unique`, all bits as they came (bit 63 says "sent again").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) unique: u64,
    pub(super) operation: Operation,
}

/// Why a message is not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Too short to say what it is: there is nothing to answer.
    NoHeader,
    /// Length and content don't fit; answer with this error.
    Body { unique: u64, errno: Errno },
}

/// Reads a message of `received` bytes of which `head` is the beginning.
pub(super) fn parse(head: &[u8], received: usize) -> Result<Request, Malformed> {
    let head = head.get(..received.min(HEAD_BYTES)).unwrap_or(head);
    let (header, body) = InHeader::read_from_prefix(head).map_err(|_| Malformed::NoHeader)?;
    let unique = header.unique;
    let malformed = Malformed::Body {
        unique,
        errno: Errno::IO,
    };
    if usize::try_from(header.length) != Ok(received) {
        return Err(malformed);
    }
    let operation = operation(header.opcode, body).ok_or(malformed)?;
    if let Operation::Write { size, .. } = operation
        && usize::try_from(size)
            .ok()
            .and_then(|n| n.checked_add(HEAD_BYTES))
            != Some(received)
    {
        return Err(malformed);
    }
    if header.node != ROOT && !matches!(operation, Operation::Init(_) | Operation::Silent) {
        return Err(Malformed::Body {
            unique,
            errno: Errno::STALE,
        });
    }
    Ok(Request { unique, operation })
}

/// Reads the part behind the header; `None` when it is too short.
fn operation(opcode: u32, body: &[u8]) -> Option<Operation> {
    Some(match opcode {
        2 | 36 | 42 => Operation::Silent,
        3 => Operation::GetAttributes,
        4 => {
            let SetAttributesIn { valid, size, .. } = read(body)?;
            Operation::SetAttributes { valid, size }
        }
        14 => Operation::Open {
            flags: read::<OpenIn>(body)?.flags,
        },
        15 => {
            let ReadIn { offset, size, .. } = read(body)?;
            Operation::Read { offset, size }
        }
        16 => {
            let WriteIn { offset, size, .. } = read(body)?;
            Operation::Write { offset, size }
        }
        17 => Operation::StatFs,
        20 => Operation::Fsync,
        // RELEASE, FLUSH, DESTROY
        18 | 25 | 38 => Operation::Nothing,
        26 => Operation::Init(init(body)?),
        43 => {
            let AllocateIn {
                offset,
                length,
                mode,
                ..
            } = read(body)?;
            Operation::Allocate {
                offset,
                length,
                mode,
            }
        }
        46 => {
            let SeekIn { offset, whence, .. } = read(body)?;
            Operation::Seek { offset, whence }
        }
        _ => Operation::Unknown,
    })
}

/// One layout from the beginning of `body`.
fn read<T: FromBytes>(body: &[u8]) -> Option<T> {
    T::read_from_prefix(body).ok().map(|(value, _)| value)
}

/// INIT; kernels before 7.36 send no second flag word.
fn init(body: &[u8]) -> Option<InitIn> {
    let mut whole = [0; size_of::<InitIn>()];
    let present = body.len().min(whole.len());
    if present < 16 {
        return None;
    }
    whole[..present].copy_from_slice(&body[..present]);
    read(&whole)
}

#[cfg(test)]
mod tests;
