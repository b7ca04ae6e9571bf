//! What may be opened as a parent: regular files, without waiting, and no links.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, mknodat};
use rustix::io::{FdFlags, fcntl_getfd};
use tempfile::TempDir;
use virtdisk_parent::{open, open_named};

#[test]
fn a_regular_file_is_opened_for_reading_and_may_wait_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().canonicalize().unwrap().join("a.vhd");
    fs::write(&path, "bytes").unwrap();
    let mut file = open(&path).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bytes");
    let flags = fcntl_getfl(&file).unwrap();
    assert!(!flags.intersects(OFlags::NONBLOCK | OFlags::RDWR | OFlags::WRONLY));
    let flags = fcntl_getfd(&file).unwrap();
    assert!(flags.contains(FdFlags::CLOEXEC), "a child would inherit it");
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    // S-4
    let folder = TempDir::new().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let fifo = folder.join("fifo.vhd");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for path in [fifo.as_path(), &folder, "/dev/null".as_ref()] {
        for answer in [open(path), open_named(path)] {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}", path.display());
        }
    }
    let missing = open(&folder.join("missing.vhd")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn no_link_is_followed_but_for_a_path_that_the_caller_names() {
    // S-4: a folder that became a link between the look and the opening.
    let folder = TempDir::new().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::create_dir(root.join("real")).unwrap();
    fs::write(root.join("real/a.vhd"), "bytes").unwrap();
    symlink(root.join("real"), root.join("folder")).unwrap();
    symlink(root.join("real/a.vhd"), root.join("link.vhd")).unwrap();
    for name in ["folder/a.vhd", "link.vhd"] {
        let path = root.join(name);
        assert!(open(&path).is_err(), "{name}");
        assert!(open_named(&path).is_ok(), "{name}");
    }
}
