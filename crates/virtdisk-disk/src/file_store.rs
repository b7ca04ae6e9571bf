//! The real file under an image.
//!
//! Buffered `pread`/`pwrite` on a descriptor that somebody else opened, `fdatasync` for a flush,
//! holes where the file system knows them. The descriptor's cursor is never used or moved, so the
//! client that sent it may keep using its own copy. A file that became shorter is an error, never
//! zeros; a flush that failed once fails until the file is opened anew, because the kernel forgets
//! the pages it could not write.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::SystemTime;

use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::Errno;
use virtdisk_format::{ErrorKind, Store};

/// Zeros to write where a file system cannot make them itself.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// An open regular file.
pub struct FileStore {
    file: File,
    /// The number of the first failed flush; 0 = none.
    flush_error: AtomicI32,
}

impl FileStore {
    /// Takes over the file after a look at how it was opened.
    ///
    /// # Errors
    /// `InvalidParameter` unless it is a regular file, opened for reading, without `O_APPEND`
    /// (every write would land at the end) and without `O_DIRECT` (buffers here are not aligned);
    /// `ReadOnly` if `writable` and it was not opened for writing; `Io`.
    pub fn new(file: File, writable: bool) -> Result<Self, virtdisk_format::Error> {
        let error = |kind, message| virtdisk_format::Error::new(kind, "file", message);
        let stat = rustix::fs::fstat(&file).map_err(unknown)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(error(ErrorKind::InvalidParameter, "is not a regular file"));
        }
        let flags = rustix::fs::fcntl_getfl(&file).map_err(unknown)?;
        let mode = flags & OFlags::ACCMODE;
        if flags.contains(OFlags::PATH) || mode == OFlags::WRONLY {
            return Err(error(
                ErrorKind::InvalidParameter,
                "was not opened for reading",
            ));
        }
        if writable && mode != OFlags::RDWR {
            return Err(error(ErrorKind::ReadOnly, "was not opened for writing"));
        }
        if writable && flags.contains(OFlags::APPEND) {
            return Err(error(
                ErrorKind::InvalidParameter,
                "was opened with O_APPEND",
            ));
        }
        if flags.contains(OFlags::DIRECT) {
            return Err(error(
                ErrorKind::InvalidParameter,
                "was opened with O_DIRECT",
            ));
        }
        Ok(Self {
            file,
            flush_error: AtomicI32::new(0),
        })
    }

    /// Bytes that the file takes up on its file system.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok(u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512))
    }

    /// Device and inode: two stores with the same are one file.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// When the file's bytes were changed last.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn modified(&self) -> io::Result<SystemTime> {
        self.file.metadata()?.modified()
    }

    /// Writes inside the file's length: what a disk's data path does once space is reserved.
    ///
    /// # Errors
    /// `UnexpectedEof` where the range ends past the length: the file became shorter, and writing
    /// would make a hole of what was lost. Otherwise what `pwrite` says.
    pub fn write_inside(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.check_inside(offset, buf.len() as u64)?;
        self.file.write_all_at(buf, offset)
    }

    /// Makes a range inside the length read as zeros and keeps its space.
    ///
    /// # Errors
    /// As [`Self::write_inside`].
    pub fn zero_keeping_space(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_inside(offset, len)?;
        self.fallocate_or_write(
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )
    }

    fn check_inside(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= Store::len(self)? => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Lets the file system do it, or writes zeros where it can't.
    fn fallocate_or_write(&self, how: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match fallocate(&self.file, how, offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(offset, len),
            other => Ok(other?),
        }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let (mut position, mut left) = (offset, len);
        while left > 0 {
            let part = usize::try_from(left)
                .unwrap_or(ZEROS.len())
                .min(ZEROS.len());
            self.file.write_all_at(&ZEROS[..part], position)?;
            position += part as u64;
            left -= part as u64;
        }
        Ok(())
    }
}

impl AsFd for FileStore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Store for FileStore {
    fn len(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&self.file)?;
        u64::try_from(stat.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    /// Moves the file's cursor, which nothing else here looks at.
    fn next_data(&self, from: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(data) => Ok(data),
            Err(Errno::NXIO) => Ok(u64::MAX),
            // The file system knows of no holes.
            Err(_) => Ok(from),
        }
    }

    fn flush(&self) -> io::Result<()> {
        let earlier = self.flush_error.load(Ordering::Acquire);
        if earlier != 0 {
            return Err(io::Error::from_raw_os_error(earlier));
        }
        let done = self.file.sync_data();
        if let Err(error) = &done {
            let number = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            self.flush_error.store(number, Ordering::Release);
        }
        done
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_inside(offset, len)?;
        self.fallocate_or_write(
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let now = Store::len(self)?;
        if len == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // Written zeros take up their space; bytes that are there already stay.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if now < len => self.write_zeros(now, len - now),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// `fallocate`, begun again when a signal interrupts it.
fn fallocate(file: &File, how: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(file, how, offset, len) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

fn unknown(error: Errno) -> virtdisk_format::Error {
    virtdisk_format::Error::io("file", "cannot be examined", error.into())
}
