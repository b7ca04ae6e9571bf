//! What the serve half needs of a disk.
//!
//! The seam between transport and disk: `virtdisk_disk::Disk` implements it, tests bring disks of
//! their own. Calls may come from several threads at once, for overlapping ranges too. Ranges lie
//! inside the size; the transport has checked them. Errors are positive errno values.

/// What to look for from an offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The first byte that may be other than zero (`SEEK_DATA`).
    Data,
    /// The first byte of a range that is not stored and reads zero (`SEEK_HOLE`).
    Hole,
}

/// A disk, as a transport sees it. Every write-like call may be made twice with the same
/// arguments: a server that was killed between doing and answering leaves that to the next one.
pub trait Served: Send + Sync + 'static {
    /// Length, bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset`, any alignment.
    ///
    /// # Errors
    /// An errno; the buffer's content is then meaningless.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), i32>;

    /// Writes all of `data` to `offset`, any alignment.
    ///
    /// # Errors
    /// An errno; each sector of the range is then old or new.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), i32>;

    /// Makes the range read zeros; space stays reserved where it was.
    ///
    /// # Errors
    /// An errno.
    fn zero(&self, offset: u64, length: u64) -> Result<(), i32>;

    /// Makes the range read zeros; space is given back.
    ///
    /// # Errors
    /// An errno.
    fn trim(&self, offset: u64, length: u64) -> Result<(), i32>;

    /// Makes everything durable that was answered before this call.
    ///
    /// # Errors
    /// An errno.
    fn flush(&self) -> Result<(), i32>;

    /// Offset of the first byte from `offset` on that is what `look` says; `None` when there is
    /// none up to the end. Calling stored zeros data is allowed, the opposite is not.
    ///
    /// # Errors
    /// An errno.
    fn look(&self, offset: u64, look: Look) -> Result<Option<u64>, i32>;
}
