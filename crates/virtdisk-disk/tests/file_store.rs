//! The real file: how it must have been opened, holes, reserved space, full and broken disks.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tempfile::TempDir;
use virtdisk_disk::{ErrorKind, FileStore, Store};
use virtdisk_testkit::mounted::Mounted;
use virtdisk_testkit::skip;

const MIB: u64 = 1 << 20;

fn make(folder: &Path, len: u64) -> (PathBuf, FileStore) {
    let path = folder.join("disk.img");
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(len).unwrap();
    (path, FileStore::new(file, true).unwrap())
}

fn open_with(path: &Path, flags: OFlags) -> File {
    let mut options = OpenOptions::new();
    let flags = i32::try_from(flags.bits()).unwrap();
    options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .unwrap()
}

#[test]
fn a_file_opened_in_an_unfit_way_is_refused() {
    let folder = TempDir::new().unwrap();
    let (path, _store) = make(folder.path(), MIB);
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let write_only = OpenOptions::new().write(true).open(&path).unwrap();
    let path_only = rustix::fs::open(&path, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for (file, writable, wanted) in [
        (
            File::open(folder.path()).unwrap(),
            false,
            ErrorKind::InvalidParameter,
        ),
        (
            open_with(&fifo, OFlags::NONBLOCK),
            true,
            ErrorKind::InvalidParameter,
        ),
        (
            File::open("/dev/null").unwrap(),
            false,
            ErrorKind::InvalidParameter,
        ),
        (write_only, true, ErrorKind::InvalidParameter),
        (path_only.into(), false, ErrorKind::InvalidParameter),
        (
            open_with(&path, OFlags::APPEND),
            true,
            ErrorKind::InvalidParameter,
        ),
        (
            open_with(&path, OFlags::DIRECT),
            true,
            ErrorKind::InvalidParameter,
        ),
        (File::open(&path).unwrap(), true, ErrorKind::ReadOnly),
    ] {
        let error = FileStore::new(file, writable).err().unwrap();
        assert_eq!(error.kind(), wanted, "{error}");
    }
    FileStore::new(File::open(&path).unwrap(), false).unwrap();
    FileStore::new(open_with(&path, OFlags::APPEND), false).unwrap();
}

#[test]
fn the_cursor_of_the_file_is_not_used() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, [1; 4096]).unwrap();
    let mut kept = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let store = FileStore::new(kept.try_clone().unwrap(), true).unwrap();
    kept.seek(std::io::SeekFrom::Start(77)).unwrap();
    store.write_all_at(&[2; 512], 512).unwrap();
    store.read_exact_at(&mut [0; 512], 1024).unwrap();
    store.zero(0, 512).unwrap();
    assert_eq!(kept.stream_position().unwrap(), 77);
}

fn zeroing_on(folder: &Path) {
    let (_path, store) = make(folder, 4 * MIB);
    store.write_all_at(&vec![7; 4 << 20], 0).unwrap();
    store.flush().unwrap();
    let full = store.allocated_bytes().unwrap();
    assert!(full >= 4 * MIB, "{full}");

    store.zero_keeping_space(MIB + 100, MIB).unwrap();
    store.flush().unwrap();
    assert!(
        store.allocated_bytes().unwrap() >= full,
        "space was given back"
    );
    store.zero(2 * MIB + 100, 2 * MIB - 100).unwrap();
    store.zero(0, 0).unwrap();
    store.flush().unwrap();
    assert!(
        store.allocated_bytes().unwrap() <= full - MIB,
        "no space was given back"
    );
    assert_eq!(Store::len(&store).unwrap(), 4 * MIB);

    let mut bytes = vec![1; 4 << 20];
    store.read_exact_at(&mut bytes, 0).unwrap();
    let (start, end) = ((MIB + 100) as usize, (2 * MIB + 100) as usize);
    assert!(bytes[..start].iter().all(|&byte| byte == 7));
    assert!(
        bytes[start..].iter().all(|&byte| byte == 0),
        "from {start}, {end}"
    );

    // Zeroing stays inside the length.
    for answer in [
        store.zero(4 * MIB - 1, 2),
        store.zero_keeping_space(4 * MIB, 1),
    ] {
        assert_eq!(
            answer.unwrap_err().kind(),
            std::io::ErrorKind::UnexpectedEof
        );
    }
}

#[test]
fn zeroed_ranges_read_zeros_and_holes_give_space_back() {
    let folder = TempDir::new().unwrap();
    zeroing_on(folder.path());
    // tmpfs knows holes and no zero ranges; btrfs allocates anew where it overwrites.
    match Mounted::tmpfs(16 * MIB) {
        Ok(mounted) => zeroing_on(mounted.path()),
        Err(reason) => skip!("{reason}"),
    }
}

#[test]
fn reserved_space_cannot_be_taken_by_others() {
    let mounted = match Mounted::tmpfs(2 * MIB) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let (_path, store) = make(mounted.path(), 0);
    store.allocate(MIB).unwrap();
    assert_eq!(Store::len(&store).unwrap(), MIB);
    let mut other = File::create(mounted.path().join("other")).unwrap();
    let filled = other.write_all(&vec![1; 2 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    store.write_inside(&vec![1; 1 << 20], 0).unwrap();
    // There is no room for more, and what is there stays.
    let error = store.allocate(4 * MIB).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let mut byte = [0];
    store.read_exact_at(&mut byte, MIB - 1).unwrap();
    assert_eq!(byte, [1]);
}

#[test]
fn writes_past_the_end_of_a_cut_file_are_refused() {
    let folder = TempDir::new().unwrap();
    let (path, store) = make(folder.path(), MIB);
    store.write_inside(&[1; 512], MIB - 512).unwrap();
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let error = store.write_inside(&[1; 512], MIB - 512).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(Store::len(&store).unwrap(), 4096);
    let error = store.read_exact_at(&mut [0; 512], 4000).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_flush_that_failed_once_fails_until_the_file_is_opened_anew() {
    // A file system whose disk has no room for what it promised: the kernel reports the lost pages
    // once and calls the next flush a success.
    let outer = match Mounted::tmpfs(12 * MIB) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let inner = match Mounted::block_on(outer.path(), &["mkfs.ext4", "-q"], 64 * MIB) {
        Ok(mounted) => mounted,
        Err(reason) => skip!("{reason}"),
    };
    let (path, store) = make(inner.path(), 32 * MIB);
    store.write_inside(&vec![1; 24 << 20], 0).unwrap();
    let error = store.flush().unwrap_err();
    let kernel = File::open(&path).and_then(|file| file.sync_data());
    println!("the kernel's next answer on another descriptor: {kernel:?}");
    let again = store.flush().unwrap_err();
    assert_eq!(again.raw_os_error(), error.raw_os_error());
}

#[test]
fn a_hole_is_skipped_to_the_next_data() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 << 20).unwrap();
    let store = FileStore::new(file, true).unwrap();
    store.write_all_at(&[1; 4096], 4 << 20).unwrap();
    let found = store.next_data(0).unwrap();
    if found == 0 {
        virtdisk_testkit::skip!("the file system knows of no holes");
    }
    assert_eq!(found, 4 << 20);
    assert_eq!(store.next_data((4 << 20) + 10).unwrap(), (4 << 20) + 10);
    assert_eq!(store.next_data(6 << 20).unwrap(), u64::MAX);
    assert_eq!(store.next_data(9 << 20).unwrap(), u64::MAX);
}
