//! Opening a parent: a regular file, for reading, without waiting and without being led elsewhere.
//!
//! A FIFO would wait for a writer and a device might do something when it is opened, so the path is
//! looked at first and the open file again. Between a look and an open, somebody may put a symbolic
//! link in the place of a folder: the kernel is told to follow none.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{
    CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fcntl_getfl, fcntl_setfl, fstat, lstat,
    openat, openat2,
};
use rustix::io::Errno;

/// Opens a candidate. Its path has no symbolic link in it; one that has by now is refused.
///
/// # Errors
/// `InvalidInput` for anything but a regular file; what the system says.
pub fn open(path: &Path) -> io::Result<File> {
    regular(&lstat(path)?)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = match openat2(CWD, path, flags, Mode::empty(), resolve) {
        // Kernels and sandboxes without that call: at least the last name is no link.
        Err(Errno::NOSYS | Errno::PERM) => openat(CWD, path, flags, Mode::empty()),
        other => other,
    };
    let file = File::from(opened?);
    regular(&fstat(&file)?)?;
    let status = fcntl_getfl(&file)?;
    fcntl_setfl(&file, status & !OFlags::NONBLOCK)?;
    Ok(file)
}

/// Opens a file that the caller itself names, so that links may lead wherever they do.
///
/// # Errors
/// As [`open`].
pub fn open_named(path: &Path) -> io::Result<File> {
    open(&path.canonicalize()?)
}

fn regular(found: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )),
    }
}
