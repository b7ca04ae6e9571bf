//! The one thing a format needs of a file.
//!
//! Blocking, without a cursor, shared by reference: any number of threads may call at once on
//! distinct ranges. A store knows nothing of formats; a format knows nothing of files. Everything
//! testable hangs on this trait: memory, crash and fault stores implement it in the testkit.

use std::io;
use std::sync::Arc;

/// Bytes with a length. Offsets and lengths are bytes from the start of the file.
pub trait Store: Send + Sync {
    /// The length of the file in bytes, as it is now.
    ///
    /// # Errors
    /// What the file says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As [`Store::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file or extends it; new bytes read as zeros.
    ///
    /// # Errors
    /// What the file says; `StorageFull` where there is no room.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the range ends behind the file; what the file says otherwise.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, extending the file where needed. Other handles see the
    /// bytes when this returns; they are durable only after [`Store::flush`].
    ///
    /// # Errors
    /// What the file says; a part of the bytes may have been written then.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all that was written, and the length, durable.
    ///
    /// # Errors
    /// What the file says; nothing is known of the bytes written since the last flush then.
    fn flush(&self) -> io::Result<()>;

    /// Makes the range read as zeros, and gives its space back where the file system can.
    /// The range lies inside the length, and the length does not change.
    ///
    /// # Errors
    /// What the file says; a part of the range may read as zeros then.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The first offset from `from` on at which there may be anything but zeros; `u64::MAX` where
    /// there is nothing more. A store that knows of no holes answers `from`.
    ///
    /// # Errors
    /// What the file says.
    fn next_data(&self, from: u64) -> io::Result<u64> {
        Ok(from)
    }

    /// Makes the file `len` bytes long with its space reserved, so that later writes inside it
    /// cannot run out of room. New bytes read as zeros; never cuts.
    ///
    /// # Errors
    /// `StorageFull` where there is no room; the length may have changed then.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_all_at(buf, offset)
    }
    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        (**self).zero(offset, len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        (**self).allocate(len)
    }
    fn next_data(&self, from: u64) -> io::Result<u64> {
        (**self).next_data(from)
    }
}
