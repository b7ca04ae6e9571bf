//! The table of handles: numbers that C holds, and the virtual disks they stand for.
//!
//! A handle is never followed as a pointer and its number never comes again, so that a closed or
//! invented one is refused and not mistaken. A disk that is closed during a call in another
//! thread lives until that call is done.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fs::File;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use api::VirtualDisk;

use crate::fence::{INVALID, Outcome};

/// `HANDLE` of the header.
pub(crate) type Handle = *mut c_void;

/// What a handle stands for.
pub(crate) struct Open {
    /// The virtual disk.
    pub(crate) disk: VirtualDisk,
    /// Its contents, while attached with NO_LOCAL_HOST.
    raw: Mutex<Option<File>>,
}

impl Open {
    /// The contents, for reading and replacing.
    pub(crate) fn raw(&self) -> MutexGuard<'_, Option<File>> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Table {
    next: usize,
    open: HashMap<usize, Arc<Open>>,
}

/// First number; small ones look like mistakes.
const FIRST: usize = 0x1000;
/// Distance of two numbers: multiples of 4, as on Windows, where the low bits are free.
const STEP: usize = 4;

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(|| {
    Mutex::new(Table {
        next: FIRST,
        open: HashMap::new(),
    })
});

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new handle for a disk.
pub(crate) fn insert(disk: VirtualDisk) -> Handle {
    let mut table = table();
    let number = table.next;
    table.next = number.wrapping_add(STEP);
    table.open.insert(
        number,
        Arc::new(Open {
            disk,
            raw: Mutex::new(None),
        }),
    );
    std::ptr::without_provenance_mut(number)
}

/// The disk of a handle; 87 when it is not open (R-HND-5).
pub(crate) fn find(handle: Handle) -> Outcome<Arc<Open>> {
    table().open.get(&handle.addr()).cloned().ok_or(INVALID)
}

/// Closes a handle; false when it is not open.
pub(crate) fn remove(handle: Handle) -> bool {
    let open = table().open.remove(&handle.addr());
    open.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn disk() -> VirtualDisk {
        VirtualDisk::from_fd(UnixStream::pair().unwrap().0.into()).unwrap()
    }

    // R-HND-5
    #[test]
    fn handle_is_refused_once_closed_and_never_comes_again() {
        let first = insert(disk());
        assert!(find(first).is_ok());
        assert!(remove(first));
        assert!(find(first).is_err() && !remove(first));
        let second = insert(disk());
        assert_ne!(first, second);
        assert!(remove(second));
        for number in [0, usize::MAX, 1, 0x1001] {
            assert!(
                find(std::ptr::without_provenance_mut(number)).is_err(),
                "{number:#x}"
            );
        }
    }

    #[test]
    fn disk_in_use_outlives_its_handle() {
        let handle = insert(disk());
        let open = find(handle).unwrap();
        assert!(remove(handle));
        assert!(open.disk.was_attached() || open.raw().is_none());
    }
}
