//! A store that fails one chosen operation, or that one and all after it.
//!
//! A test runs the same work for n = 1, 2, 3, … until the work gets through, and requires each
//! time: a clean error, an image that still opens, old data intact. Operations are counted from 1
//! in the order in which they arrive; `len` is not counted, as a real file does not fail it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtdisk_format::Store;

/// How the chosen operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`; nothing reached the file.
    Io,
    /// `ENOSPC`; nothing reached the file.
    NoSpace,
    /// A write puts the first half of its bytes, in whole 512-byte sectors, and answers `EIO`;
    /// another operation is `EIO` only.
    Short,
}

/// Which operations are counted, and so can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Reads too.
    All,
    /// `set_len`, `write_all_at`, `flush`, `zero`, `allocate`.
    Changes,
    /// Those changes that need room: `set_len`, `write_all_at`, `zero`, `allocate`.
    Space,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read,
    Space,
    Flush,
}

/// A store over another one that fails when told to.
pub struct FaultStore {
    inner: Arc<dyn Store>,
    which: Which,
    seen: AtomicU64,
    fail_at: AtomicU64,
    fault: Fault,
    lasting: bool,
}

impl FaultStore {
    /// A store that passes everything on and counts; it fails nothing until [`Self::fail_at`].
    pub fn new(inner: Arc<dyn Store>, which: Which, fault: Fault) -> Self {
        let fail_at = AtomicU64::new(0);
        Self {
            inner,
            which,
            seen: AtomicU64::new(0),
            fail_at,
            fault,
            lasting: false,
        }
    }

    /// The same, but once it failed every later counted operation fails too, as on a dead or full
    /// disk.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }

    /// Fails the `n`-th counted operation from now on; 0 = none. Counting starts again at 1.
    pub fn fail_at(&self, n: u64) {
        self.seen.store(0, Ordering::SeqCst);
        self.fail_at.store(n, Ordering::SeqCst);
    }

    /// Counted operations since the start or the last [`Self::fail_at`].
    pub fn operations(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Whether the chosen operation has come.
    pub fn has_failed(&self) -> bool {
        let n = self.fail_at.load(Ordering::SeqCst);
        n != 0 && self.operations() >= n
    }

    fn strikes(&self, operation: Operation) -> bool {
        let counted = match self.which {
            Which::All => true,
            Which::Changes => operation != Operation::Read,
            Which::Space => operation == Operation::Space,
        };
        if !counted {
            return false;
        }
        let now = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        let n = self.fail_at.load(Ordering::SeqCst);
        n != 0 && (now == n || (self.lasting && now > n))
    }

    fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(match self.fault {
            Fault::Io | Fault::Short => 5,
            Fault::NoSpace => 28,
        })
    }

    fn guard(&self, operation: Operation) -> io::Result<()> {
        if self.strikes(operation) {
            Err(self.error())
        } else {
            Ok(())
        }
    }
}

impl Store for FaultStore {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.guard(Operation::Space)?;
        self.inner.set_len(len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.guard(Operation::Read)?;
        self.inner.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.strikes(Operation::Space) {
            if self.fault == Fault::Short {
                let half = buf.len() / 2 / 512 * 512;
                self.inner.write_all_at(&buf[..half], offset)?;
            }
            return Err(self.error());
        }
        self.inner.write_all_at(buf, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.guard(Operation::Flush)?;
        self.inner.flush()
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.guard(Operation::Space)?;
        self.inner.zero(offset, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.guard(Operation::Space)?;
        self.inner.allocate(len)
    }
}
