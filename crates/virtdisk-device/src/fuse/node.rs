//! The node half: makes the mount, shakes hands, opens the file, cuts it off. Needs
//! `CAP_SYS_ADMIN`.
//!
//! The handshake is here, not in the server, so that every server starts the same way, the first
//! as the tenth. It offers exactly what the serve half implements. The mount hangs in no
//! namespace: it lives as long as a descriptor of its root or its file is open, and the
//! connection ends with it. If all copies of the connection are closed first, every request fails
//! and nothing waits.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen};
use zerocopy::IntoBytes;

use super::wire::{
    ASYNC_DIO, ASYNC_READ, BIG_WRITES, DATA_BYTES, DIRECT_IO_ALLOW_MMAP, HAS_RESEND, HEAD_BYTES,
    INIT_EXT, InitIn, InitOut, MAJOR, MAX_PAGES, MINOR, NO_EXPORT_SUPPORT, Operation, OutHeader,
    parse,
};

/// What is asked for in the handshake.
const WANTED: u64 = ASYNC_READ
    | BIG_WRITES
    | ASYNC_DIO
    | MAX_PAGES
    | INIT_EXT
    | DIRECT_IO_ALLOW_MMAP
    | NO_EXPORT_SUPPORT
    | HAS_RESEND;
/// Asynchronous requests that may be on their way at once. A loop device sends up to 128, each
/// of which may become two.
const MAX_BACKGROUND: u16 = 512;
/// From how many on the kernel calls the file congested.
const CONGESTION_THRESHOLD: u16 = 384;
/// Size of a page as the protocol counts them, bytes.
const PAGE_BYTES: usize = 4096;
/// The smallest buffer that the kernel hands the first request to, bytes.
const FIRST_BUFFER_BYTES: usize = 8192;

/// Makes the mount and answers the handshake. Answers the connection, and the mount's root for
/// [`open_root`]. No request but the handshake has been made then, so no server is needed yet.
///
/// # Errors
/// `InvalidInput` for a size that no file has; `Unsupported` when the kernel's FUSE can't send
/// requests again (before Linux 6.9); else what the kernel says.
pub fn mount(virtual_size: u64, read_only: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    if virtual_size == 0 || i64::try_from(virtual_size).is_err() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "size of the disk",
        ));
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let connection = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "virtdisk")?;
    fsconfig_set_string(context.as_fd(), "fd", connection.as_raw_fd().to_string())?;
    fsconfig_set_string(context.as_fd(), "rootmode", "100600")?;
    fsconfig_set_string(context.as_fd(), "user_id", "0")?;
    fsconfig_set_string(context.as_fd(), "group_id", "0")?;
    // Whoever is given the file may ask for its size.
    fsconfig_set_flag(context.as_fd(), "allow_other")?;
    fsconfig_create(context.as_fd())?;
    shake_hands(connection.as_fd())?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    if read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok((connection, root))
}

/// Reads INIT and answers it.
fn shake_hands(connection: BorrowedFd<'_>) -> io::Result<()> {
    let mut message = [0; FIRST_BUFFER_BYTES];
    let received = loop {
        match rustix::io::read(connection, &mut message) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            other => break other?,
        }
    };
    let head = &message[..received.min(HEAD_BYTES)];
    let Ok((unique, Operation::Init(asked))) =
        parse(head, received).map(|request| (request.unique, request.operation))
    else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "FUSE did not begin with INIT",
        ));
    };
    let reply = handshake(&asked);
    let length = u32::try_from(size_of::<OutHeader>() + size_of::<InitOut>()).unwrap_or(0);
    let header = OutHeader {
        length,
        error: 0,
        unique,
    };
    match reply {
        Some(reply) => {
            let parts = [
                IoSlice::new(header.as_bytes()),
                IoSlice::new(reply.as_bytes()),
            ];
            rustix::io::writev(connection, &parts)?;
            Ok(())
        }
        None => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "FUSE of this kernel can't send requests again (Linux 6.9 and later can)",
        )),
    }
}

/// The reply to INIT; `None` if the kernel lacks what we can't do without.
fn handshake(asked: &InitIn) -> Option<InitOut> {
    let offered = u64::from(asked.flags) | u64::from(asked.flags2) << 32;
    let both = offered & WANTED;
    let needed = MAX_PAGES | INIT_EXT | HAS_RESEND | ASYNC_DIO;
    if asked.major != MAJOR || both & needed != needed {
        return None;
    }
    let (low, high) = (both & u64::from(u32::MAX), both >> 32);
    Some(InitOut {
        major: MAJOR,
        minor: MINOR.min(asked.minor),
        max_readahead: asked.max_readahead,
        flags: u32::try_from(low).ok()?,
        flags2: u32::try_from(high).ok()?,
        max_background: MAX_BACKGROUND,
        congestion_threshold: CONGESTION_THRESHOLD,
        max_write: u32::try_from(DATA_BYTES).ok()?,
        time_granularity: 1,
        max_pages: u16::try_from(DATA_BYTES / PAGE_BYTES).ok()?,
        ..Default::default()
    })
}

/// Opens the root of the mount: the disk as a file, of its full size. A server must be running.
///
/// # Errors
/// What the kernel or the server says.
pub fn open_root(root_mount: &OwnedFd, read_only: bool) -> io::Result<File> {
    let access = if read_only {
        OFlags::RDONLY
    } else {
        OFlags::RDWR
    };
    let path = format!("/proc/self/fd/{}", root_mount.as_raw_fd());
    let file = File::from(rustix::fs::open(
        path,
        access | OFlags::CLOEXEC,
        Mode::empty(),
    )?);
    // The kernel learns the size with the attributes; a loop device relies on it.
    if file.metadata()?.len() == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the served file is empty",
        ));
    }
    Ok(file)
}

/// Cuts the connection of a file or a mount root: every request on it, waiting or to come, fails
/// with ENOTCONN or ECONNABORTED (EIO on a loop device), and its server ends.
///
/// # Errors
/// What the kernel says; none if it is cut already.
pub fn abort(file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let seen = rustix::fs::statx(file, "", flags, StatxFlags::empty())?;
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let control = fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let path = format!(
        "{}/abort",
        rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor)
    );
    let switch = match rustix::fs::openat(
        &control,
        path,
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    rustix::io::write(&switch, b"1")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(flags: u64) -> InitIn {
        InitIn {
            major: 7,
            minor: 45,
            max_readahead: 1 << 17,
            flags: u32::try_from(flags & 0xFFFF_FFFF).unwrap(),
            flags2: u32::try_from(flags >> 32).unwrap(),
        }
    }

    #[test]
    fn the_handshake_takes_only_what_is_offered_and_implemented() {
        let reply = handshake(&offer(u64::MAX)).unwrap();
        assert_eq!(
            u64::from(reply.flags) | u64::from(reply.flags2) << 32,
            WANTED
        );
        assert_eq!((reply.major, reply.minor), (7, 40));
        assert_eq!((reply.max_write, reply.max_pages), (1 << 20, 256));
        let less = WANTED & !DIRECT_IO_ALLOW_MMAP;
        let reply = handshake(&offer(less)).unwrap();
        assert_eq!(u64::from(reply.flags) | u64::from(reply.flags2) << 32, less);
    }

    #[test]
    fn a_kernel_that_cannot_send_again_is_refused() {
        assert!(handshake(&offer(!HAS_RESEND)).is_none());
        assert!(
            handshake(&InitIn {
                major: 8,
                ..offer(u64::MAX)
            })
            .is_none()
        );
    }
}
