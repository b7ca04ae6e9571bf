//! Sharing locks on an image file, the ones that QEMU keeps.
//!
//! QEMU names four permissions and takes, for each one that it holds, a read lock on byte
//! 100 + number, and for each one that it lets nobody else hold, a read lock on byte 200 + number.
//! Read locks never refuse each other; a conflict is found by *asking* whether a write lock on the
//! opposite byte would be refused. We do the same, in the same order (take first, then ask), so two
//! programs that come at once both see each other: at worst both are refused, never both admitted.
//!
//! The locks are open-file-description locks: they belong to the open file, are shared by every
//! copy of its descriptor (in other processes too), and end with the last copy.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// First byte of the permissions held (`RAW_LOCK_PERM_BASE` in QEMU's block/file-posix.c).
const HELD_BASE: i64 = 100;
/// First byte of the permissions that others may not hold (`RAW_LOCK_SHARED_BASE`).
const UNSHARED_BASE: i64 = 200;

/// QEMU's `BLK_PERM_…`, by number, with the words of its messages.
const PERMISSIONS: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];
const CONSISTENT_READ: u8 = 1 << 0;
const WRITE: u8 = 1 << 1;
const RESIZE: u8 = 1 << 3;

/// How an image file is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No use of the contents: no lock.
    #[default]
    None,
    /// Read; others may read, nobody may write.
    Read,
    /// Read, write and resize; others may do nothing that needs consistent contents.
    Write,
}

impl Level {
    /// Permissions that this use needs.
    fn held(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Read => CONSISTENT_READ,
            Self::Write => CONSISTENT_READ | WRITE | RESIZE,
        }
    }

    /// Permissions that nobody else may hold meanwhile. A writer is kept from readers by the
    /// readers' own refusal to share writing.
    fn unshared(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Read | Self::Write => WRITE | RESIZE,
        }
    }
}

/// Why a lock was not to be had.
#[derive(Debug)]
pub enum Conflict {
    /// Another program uses the file in a way that excludes this use.
    InUse {
        /// What the other one does, or lets nobody do, in QEMU's words.
        permission: &'static str,
        /// The other one holds that permission itself; otherwise it lets nobody else hold it.
        held: bool,
    },
    /// The file system does not answer.
    Io(io::Error),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse {
                permission,
                held: true,
            } => {
                write!(f, "another program has the image open for \"{permission}\"")
            }
            Self::InUse {
                permission,
                held: false,
            } => {
                write!(
                    f,
                    "another program has the image open and allows nobody \"{permission}\""
                )
            }
            Self::Io(_) => write!(f, "the file system does not lock the image"),
        }
    }
}

impl std::error::Error for Conflict {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::InUse { .. } => None,
        }
    }
}

/// Takes the locks of `level` on a file that has none through this descriptor.
///
/// # Errors
/// [`Conflict::InUse`], with nothing left locked; [`Conflict::Io`] where the file system refuses
/// locks.
pub fn acquire(fd: impl AsFd, level: Level) -> Result<(), Conflict> {
    change(fd, Level::None, level)
}

/// Goes from the locks of one level to those of another.
///
/// # Errors
/// As [`acquire`]; the locks of `from` are kept then.
pub fn change(fd: impl AsFd, from: Level, to: Level) -> Result<(), Conflict> {
    let fd = fd.as_fd();
    let taken = take(fd, to).and_then(|()| ask(fd, to));
    // Gives back what only the other level needs: `from` after success, `to` after a conflict.
    let (keep, drop) = if taken.is_ok() {
        (to, from)
    } else {
        (from, to)
    };
    let freed = free(fd, drop, keep);
    taken.and(freed)
}

/// Gives back all locks that were taken through this open file.
///
/// # Errors
/// What the file system says; not expected of one that gave locks.
pub fn release(fd: impl AsFd) -> io::Result<()> {
    let all = i64::try_from(PERMISSIONS.len()).unwrap_or(0);
    set(fd.as_fd(), libc::F_UNLCK, HELD_BASE, all)?;
    set(fd.as_fd(), libc::F_UNLCK, UNSHARED_BASE, all)
}

fn take(fd: BorrowedFd<'_>, level: Level) -> Result<(), Conflict> {
    for (base, bits) in [(HELD_BASE, level.held()), (UNSHARED_BASE, level.unshared())] {
        for (number, permission) in numbers(bits) {
            match set(fd, libc::F_RDLCK, base + number, 1) {
                Ok(()) => {}
                // Somebody has a write lock there, as no program of the scheme keeps for long.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                    return Err(Conflict::InUse {
                        permission,
                        held: base == UNSHARED_BASE,
                    });
                }
                Err(error) => return Err(Conflict::Io(error)),
            }
        }
    }
    Ok(())
}

/// Looks whether others leave us our permissions, and have none that we don't share.
fn ask(fd: BorrowedFd<'_>, level: Level) -> Result<(), Conflict> {
    for (base, bits) in [(UNSHARED_BASE, level.held()), (HELD_BASE, level.unshared())] {
        for (number, permission) in numbers(bits) {
            if is_locked_by_another(fd, base + number).map_err(Conflict::Io)? {
                return Err(Conflict::InUse {
                    permission,
                    held: base == HELD_BASE,
                });
            }
        }
    }
    Ok(())
}

/// Frees the bytes of `drop` that `keep` does not need.
fn free(fd: BorrowedFd<'_>, drop: Level, keep: Level) -> Result<(), Conflict> {
    let held = (HELD_BASE, drop.held() & !keep.held());
    let unshared = (UNSHARED_BASE, drop.unshared() & !keep.unshared());
    for (base, bits) in [held, unshared] {
        for (number, _) in numbers(bits) {
            set(fd, libc::F_UNLCK, base + number, 1).map_err(Conflict::Io)?;
        }
    }
    Ok(())
}

fn numbers(bits: u8) -> impl Iterator<Item = (i64, &'static str)> {
    let has = move |(number, _): &(i64, &str)| bits & (1 << number) != 0;
    (0..).zip(PERMISSIONS).filter(has)
}

fn set(fd: BorrowedFd<'_>, kind: i32, start: i64, len: i64) -> io::Result<()> {
    let lock = range(kind, start, len);
    loop {
        match fcntl(fd, FcntlArg::F_OFD_SETLK(&lock)) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Whether a write lock would be refused: another open file has any lock on the byte.
fn is_locked_by_another(fd: BorrowedFd<'_>, byte: i64) -> io::Result<bool> {
    let mut lock = range(libc::F_WRLCK, byte, 1);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    // The kernel wants pid 0 for locks of open files. The lock kinds are 0, 1 and 2.
    let l_type = i16::try_from(kind).unwrap_or_default();
    let l_whence = i16::try_from(libc::SEEK_SET).unwrap_or_default();
    libc::flock {
        l_type,
        l_whence,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}
