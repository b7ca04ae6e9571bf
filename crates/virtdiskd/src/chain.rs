//! The parents of a disk: files that its callers sent, held and locked while the disk is in use.
//!
//! A parent is only ever read. Its lock lets others read too and nobody write, and is taken as
//! soon as the disk is used for more than questions. Where a handle of this very service holds the
//! file for writing and has not attached it (R-SHR-7), that handle's lock keeps others away, and
//! the table here keeps the handle from attaching it for writing.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use virtdisk::Code;
use virtdisk_disk::lock::{self, Level};

use crate::entry::FileId;
use crate::failure::{Result, hinted};
use crate::verb::open::Received;

/// How often each file is a parent of something open.
#[derive(Debug, Default)]
pub struct Registry(Mutex<HashMap<FileId, usize>>);

impl Registry {
    /// Is the file a parent of something open?
    pub fn contains(&self, id: FileId) -> bool {
        self.0.lock().contains_key(&id)
    }

    fn add(&self, id: FileId) {
        *self.0.lock().entry(id).or_default() += 1;
    }

    fn remove(&self, id: FileId) {
        let mut counts = self.0.lock();
        let left = counts.get(&id).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            counts.remove(&id);
        } else {
            counts.insert(id, left);
        }
    }
}

/// One parent.
#[derive(Debug)]
pub struct ParentFile {
    received: Received,
    registry: Arc<Registry>,
    locked: AtomicBool,
    /// A handle of this service holds the file for writing and does not write.
    guarded: AtomicBool,
}

/// The parents of a disk, nearest first.
pub type Parents = Vec<Arc<ParentFile>>;

impl ParentFile {
    /// A file that a caller sent, not locked yet.
    pub fn new(received: Received, registry: &Arc<Registry>) -> Arc<Self> {
        registry.add(received.id);
        Arc::new(Self {
            received,
            registry: Arc::clone(registry),
            locked: AtomicBool::new(false),
            guarded: AtomicBool::new(false),
        })
    }

    /// The parent of an adopted disk; its worker has kept the lock.
    pub fn adopted(received: Received, registry: &Arc<Registry>) -> Arc<Self> {
        let parent = Self::new(received, registry);
        parent.locked.store(true, Ordering::Relaxed);
        parent
    }

    /// Which file.
    pub fn id(&self) -> FileId {
        self.received.id
    }

    /// Real path.
    pub fn name(&self) -> &str {
        &self.received.name
    }

    /// The open file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.received.file.as_fd()
    }

    /// What the caller sent.
    pub fn received(&self) -> &Received {
        &self.received
    }

    /// A handle of this service has the file for writing, idle: its lock is in the way of ours.
    pub fn guard(&self) {
        self.guarded.store(true, Ordering::Relaxed);
    }

    /// Takes the lock, where it is not held yet.
    ///
    /// # Errors
    /// 32 when somebody writes to the file.
    pub fn lock(&self) -> Result<()> {
        if self.locked.load(Ordering::Relaxed) {
            return Ok(());
        }
        match lock::acquire(self.file(), Level::Read) {
            Ok(()) => self.locked.store(true, Ordering::Relaxed),
            Err(_) if self.guarded.load(Ordering::Relaxed) => {}
            Err(conflict) => {
                return Err(hinted(
                    Code::ERROR_SHARING_VIOLATION,
                    format!("{}: {conflict}", self.name()),
                    "a parent can be shared by readers alone: stop what writes to it",
                ));
            }
        }
        Ok(())
    }
}

impl Drop for ParentFile {
    fn drop(&mut self) {
        if self.locked.load(Ordering::Relaxed) {
            // A caller that kept its descriptor would keep the lock too.
            let _ = lock::release(self.file());
        }
        self.registry.remove(self.received.id);
    }
}

/// Takes the locks of all parents.
///
/// # Errors
/// As [`ParentFile::lock`].
pub fn lock_all(parents: &Parents) -> Result<()> {
    parents.iter().try_for_each(|parent| parent.lock())
}

/// Carries over what [`ParentFile::guard`] said of the same files as they came a second time.
pub fn guard_as(parents: &Parents, again: &Parents) {
    for (parent, again) in parents.iter().zip(again) {
        if parent.id() == again.id() && again.guarded.load(Ordering::Relaxed) {
            parent.guard();
        }
    }
}

/// Which files they are.
pub fn ids(parents: &Parents) -> Vec<FileId> {
    parents.iter().map(|parent| parent.id()).collect()
}

/// Their names as they fit into a packet.
pub fn names(parents: &Parents) -> Vec<String> {
    crate::question::fitting(parents.iter().map(|parent| parent.name()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::verb::open::receive;

    fn received(path: &std::path::Path) -> Received {
        receive(File::open(path).unwrap().into()).unwrap()
    }

    // R-SHR-6
    #[test]
    fn parents_are_shared_by_readers_and_keep_writers_away_until_they_are_let_go() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let registry = Arc::default();
        let first = ParentFile::new(received(file.path()), &registry);
        let second = ParentFile::new(received(file.path()), &registry);
        first.lock().unwrap();
        second.lock().unwrap();
        let writer = File::options()
            .read(true)
            .write(true)
            .open(file.path())
            .unwrap();
        assert!(lock::acquire(&writer, Level::Write).is_err());
        drop(first);
        assert!(registry.contains(second.id()));
        assert!(lock::acquire(&writer, Level::Write).is_err());
        let id = second.id();
        drop(second);
        assert!(!registry.contains(id));
        lock::acquire(&writer, Level::Write).unwrap();
    }

    // R-SHR-7
    #[test]
    fn a_guarded_parent_does_without_its_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let parent = ParentFile::new(received(file.path()), &Arc::default());
        let writer = File::options()
            .read(true)
            .write(true)
            .open(file.path())
            .unwrap();
        lock::acquire(&writer, Level::Write).unwrap();
        assert_eq!(parent.lock().unwrap_err().code, 32);
        parent.guard();
        parent.lock().unwrap();
    }
}
