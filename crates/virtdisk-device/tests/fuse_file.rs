//! The served file: through a loop device, and handed out as it is.

#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

mod support;

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use support::{FileDisk, Loop, ServedFile, file_of, folder, needs, options, run};
use virtdisk_device::fuse::{Ended, Look, Served, Server, abort, mount, open_root};
use virtdisk_device::loop_device::LoopOptions;

const MIB: u64 = 1 << 20;

/// An image of `length` bytes that say something, and its bytes.
fn image(path: &Path, length: u64) -> Vec<u8> {
    let bytes: Vec<u8> = (0..length).map(|n| (n / 512 + n % 251) as u8).collect();
    file_of(path, length).write_all_at(&bytes, 0).unwrap();
    bytes
}

fn at(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn what_is_written_to_the_loop_device_is_in_the_file() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, 8 * MIB);
    let served = ServedFile::new(FileDisk::open(&path), (0, 8 * MIB), false);
    let device = Loop::on(&options(served.file()));
    assert!(device.device.direct_io().unwrap());
    let node = device.open();
    assert!(at(&node, 0, before.len()) == before);
    let data: Vec<u8> = (0..3 * MIB).map(|n| (n / 7) as u8).collect();
    node.write_all_at(&data, MIB + 512).unwrap();
    node.sync_all().unwrap();
    let after = std::fs::read(&path).unwrap();
    let (start, end) = (MIB as usize + 512, 4 * MIB as usize + 512);
    assert!(after[start..end] == data);
    assert!(after[..start] == before[..start] && after[end..] == before[end..]);
    drop(node);
    device.release();
}

#[test]
fn discards_and_zeros_arrive_as_holes_and_zeros() {
    needs!("blkdiscard");
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, 8 * MIB);
    let served = ServedFile::new(FileDisk::open(&path), (0, 8 * MIB), false);
    let device = Loop::on(&options(served.file()));
    let allocated = std::fs::metadata(&path).unwrap().blocks();
    run(
        "blkdiscard",
        &["-o", "1048576", "-l", "2097152", &device.path()],
    );
    assert!(std::fs::metadata(&path).unwrap().blocks() <= allocated - 4096);
    run(
        "blkdiscard",
        &["-z", "-o", "4194304", "-l", "4608", &device.path()],
    );
    let mut wanted = before;
    wanted[MIB as usize..3 * MIB as usize].fill(0);
    wanted[4 * MIB as usize..][..4608].fill(0);
    assert!(std::fs::read(&path).unwrap() == wanted);
    assert!(at(&device.open(), 0, wanted.len()) == wanted);
    device.release();
}

#[test]
fn a_part_of_the_disk_is_served_and_nothing_around_it() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, 4 * MIB);
    let served = ServedFile::new(FileDisk::open(&path), (MIB, 2 * MIB), false);
    let file = served.file();
    assert_eq!(file.metadata().unwrap().len(), 2 * MIB);
    assert!(at(file, 0, 2 * MIB as usize) == before[MIB as usize..3 * MIB as usize]);
    assert_eq!(file.read_at(&mut [0; 8], 2 * MIB).unwrap(), 0);
    assert_eq!(file.read_at(&mut [0; 8], 2 * MIB - 3).unwrap(), 3);
    let full = file.write_at(&[7; 8], 2 * MIB).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    assert_eq!(file.write_at(&[7; 8], 2 * MIB - 3).unwrap(), 3);
    let mut wanted = before;
    wanted[3 * MIB as usize - 3..3 * MIB as usize].fill(7);
    assert!(std::fs::read(&path).unwrap() == wanted);
}

#[test]
fn a_range_outside_the_disk_is_refused() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    image(&path, MIB);
    for range in [(0, MIB + 1), (MIB, 1), (u64::MAX, 2)] {
        let (connection, _root) = mount(MIB, false).unwrap();
        let disk = FileDisk::open(&path);
        assert!(Server::start(connection, disk, range, false, 1, false).is_err());
    }
    assert!(mount(0, false).is_err());
    assert!(mount(u64::MAX, false).is_err());
}

#[test]
fn a_read_only_disk_cannot_be_written_by_any_way() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, MIB);
    let served = ServedFile::new(FileDisk::open(&path), (0, MIB), true);
    let file = served.file();
    assert!(file.write_at(&[7; 8], 0).is_err());
    assert!(open_root(served.root.as_ref().unwrap(), false).is_err());
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o400);
    let device = Loop::on(&LoopOptions {
        read_only: true,
        ..options(file)
    });
    assert!(at(&File::open(device.path()).unwrap(), 0, before.len()) == before);
    let opened = OpenOptions::new().write(true).open(device.path());
    assert!(opened.and_then(|node| node.write_at(&[7; 512], 0)).is_err());
    device.release();
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn the_file_can_be_handed_out_without_a_device() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, 4 * MIB);
    let served = ServedFile::new(FileDisk::open(&path), (0, 4 * MIB), false);
    let file = served.file();
    let attributes = file.metadata().unwrap();
    assert!(attributes.is_file());
    assert_eq!(
        (attributes.len(), attributes.mode() & 0o7777),
        (4 * MIB, 0o600)
    );
    // Every alignment, across the largest request.
    assert!(at(file, 12_345, 3_000_001) == before[12_345..3_012_346]);
    file.write_all_at(&[9; 1_500_000], 1_000_001).unwrap();
    file.sync_all().unwrap();
    file.set_len(4 * MIB).unwrap();
    assert!(file.set_len(MIB).is_err());
    let mut wanted = before;
    wanted[1_000_001..2_500_001].fill(9);
    assert!(std::fs::read(&path).unwrap() == wanted);
    // Whoever holds the descriptor may ask for the size, whatever their user.
    let status = std::process::Command::new("sh")
        .args(["-c", "test \"$(stat -Lc %s /proc/self/fd/0)\" = 4194304"])
        .stdin(file.try_clone().unwrap())
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn holes_are_made_and_found_in_the_file() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    image(&path, 4 * MIB);
    let served = ServedFile::new(FileDisk::open(&path), (0, 4 * MIB), false);
    let file = served.file();
    let keep = FallocateFlags::KEEP_SIZE;
    fallocate(file, FallocateFlags::PUNCH_HOLE | keep, MIB, MIB).unwrap();
    fallocate(file, FallocateFlags::ZERO_RANGE | keep, 3 * MIB, 4096).unwrap();
    assert_eq!(fallocate(file, keep, 0, MIB), Err(Errno::OPNOTSUPP));
    // Refused once is not refused for ever.
    fallocate(file, FallocateFlags::PUNCH_HOLE | keep, 2 * MIB, 4096).unwrap();
    assert!(
        at(file, MIB, MIB as usize + 4096)
            .iter()
            .all(|byte| *byte == 0)
    );
    assert_eq!(seek(file, SeekFrom::Hole(0)), Ok(MIB));
    assert_eq!(seek(file, SeekFrom::Data(MIB)), Ok(2 * MIB + 4096));
    assert_eq!(seek(file, SeekFrom::Hole(3 * MIB + 4096)), Ok(4 * MIB));
    assert_eq!(seek(file, SeekFrom::Data(4 * MIB)), Err(Errno::NXIO));
}

#[test]
fn the_server_ends_when_the_last_descriptor_is_closed() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    image(&path, MIB);
    let mut served = ServedFile::new(FileDisk::open(&path), (0, MIB), false);
    let copy = served.file().try_clone().unwrap();
    let device = Loop::on(&options(served.file()));
    served.file.take();
    served.root.take();
    thread::sleep(Duration::from_millis(20));
    at(&device.open(), 0, 4096);
    device.release();
    at(&copy, 0, 4096);
    drop(copy);
    assert_eq!(served.end().unwrap().unwrap(), Ended::Unmounted);
}

#[test]
fn nothing_of_it_shows_in_the_mount_table() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    image(&path, MIB);
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let served = ServedFile::new(FileDisk::open(&path), (0, MIB), false);
    let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let fuse = |table: &str| table.lines().filter(|l| l.contains(" - fuse ")).count();
    assert_eq!(fuse(&before), fuse(&after));
    drop(served);
}

#[test]
fn cutting_the_connection_fails_what_waits_and_ends_the_server() {
    needs!();
    let (connection, root) = mount(MIB, false).unwrap();
    // Nobody serves: opening waits until it is cut.
    thread::scope(|scope| {
        let opening = scope.spawn(|| open_root(&root, false));
        thread::sleep(Duration::from_millis(50));
        assert!(!opening.is_finished());
        abort(root.as_fd()).unwrap();
        assert!(opening.join().unwrap().is_err());
    });
    // A server that comes too late ends at once.
    let folder = folder();
    let path = folder.path().join("image");
    image(&path, MIB);
    let late = Server::start(connection, FileDisk::open(&path), (0, MIB), false, 2, false);
    assert_eq!(late.unwrap().wait().unwrap(), Ended::Unmounted);
    abort(root.as_fd()).unwrap();
}

#[test]
fn when_all_copies_of_the_connection_are_closed_nothing_waits() {
    needs!();
    let (connection, root) = mount(MIB, false).unwrap();
    drop(connection);
    assert!(open_root(&root, false).is_err());
}

#[test]
fn a_connection_that_was_made_non_blocking_is_served_too() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, MIB);
    let (connection, root) = mount(MIB, false).unwrap();
    rustix::fs::fcntl_setfl(&connection, rustix::fs::OFlags::NONBLOCK).unwrap();
    let disk = FileDisk::open(&path);
    let server = Server::start(connection, disk, (0, MIB), false, 2, false).unwrap();
    let file = open_root(&root, false).unwrap();
    thread::sleep(Duration::from_millis(20));
    assert!(at(&file, 0, before.len()) == before);
    drop((file, root));
    assert_eq!(server.wait().unwrap(), Ended::Unmounted);
}

/// A disk whose calls can be made to fail or panic, and whose first sector can be made to take its
/// time.
struct Troubled {
    disk: FileDisk,
    slow: Arc<AtomicBool>,
    errno: Arc<AtomicU32>,
    panics: Arc<AtomicBool>,
}

impl Troubled {
    fn check(&self) -> Result<(), i32> {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "asked to panic");
        match self.errno.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(errno as i32),
        }
    }
}

impl Served for Troubled {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), i32> {
        self.check()?;
        while offset == 0 && self.slow.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        self.disk.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), i32> {
        self.check()?;
        self.disk.write_at(data, offset)
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), i32> {
        self.disk.zero(offset, length)
    }
    fn trim(&self, offset: u64, length: u64) -> Result<(), i32> {
        self.disk.trim(offset, length)
    }
    fn flush(&self) -> Result<(), i32> {
        self.check()?;
        self.disk.flush()
    }
    fn look(&self, offset: u64, look: Look) -> Result<Option<u64>, i32> {
        self.disk.look(offset, look)
    }
}

#[test]
fn errors_of_the_disk_reach_the_caller_and_pass() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, MIB);
    let errno = Arc::new(AtomicU32::new(0));
    let panics = Arc::new(AtomicBool::new(false));
    let disk = Troubled {
        disk: FileDisk::open(&path),
        errno: Arc::clone(&errno),
        slow: Arc::default(),
        panics,
    };
    let served = ServedFile::new(disk, (0, MIB), false);
    let file = served.file();
    for error in [Errno::IO, Errno::NOSPC, Errno::ROFS] {
        errno.store(error.raw_os_error().unsigned_abs(), Ordering::SeqCst);
        let seen = |result: std::io::Result<usize>| result.unwrap_err().raw_os_error();
        assert_eq!(
            seen(file.read_at(&mut [0; 512], 0)),
            Some(error.raw_os_error())
        );
        assert_eq!(
            seen(file.write_at(&[7; 512], 0)),
            Some(error.raw_os_error())
        );
        assert_eq!(
            seen(file.sync_all().map(|()| 0)),
            Some(error.raw_os_error())
        );
    }
    errno.store(0, Ordering::SeqCst);
    assert!(at(file, 0, before.len()) == before);
    file.sync_all().unwrap();
}

#[test]
fn a_server_that_panics_says_so_and_the_next_one_answers_what_it_left() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, MIB);
    let panics = Arc::new(AtomicBool::new(false));
    let trouble = |panics: &Arc<AtomicBool>| Troubled {
        disk: FileDisk::open(&path),
        errno: Arc::new(AtomicU32::new(0)),
        slow: Arc::default(),
        panics: Arc::clone(panics),
    };
    let (connection, root) = mount(MIB, false).unwrap();
    let start = |resend| {
        let connection = connection.try_clone().unwrap();
        Server::start(connection, trouble(&panics), (0, MIB), false, 1, resend).unwrap()
    };
    let first = start(false);
    let file = open_root(&root, false).unwrap();
    panics.store(true, Ordering::SeqCst);
    let second = thread::scope(|scope| {
        let reading = scope.spawn(|| at(&file, 512, 4096));
        let failed = first.wait().unwrap_err();
        assert!(failed.to_string().contains("panicked"), "{failed}");
        assert!(!reading.is_finished());
        let second = start(true);
        assert!(reading.join().unwrap() == before[512..4608]);
        second
    });
    drop((file, root));
    assert_eq!(second.wait().unwrap(), Ended::Unmounted);
}

#[test]
fn one_slow_request_holds_up_no_other() {
    needs!();
    let folder = folder();
    let path = folder.path().join("image");
    let before = image(&path, MIB);
    let slow = Arc::new(AtomicBool::new(false));
    let disk = Troubled {
        disk: FileDisk::open(&path),
        errno: Arc::default(),
        slow: Arc::clone(&slow),
        panics: Arc::default(),
    };
    let served = ServedFile::new(disk, (0, MIB), false);
    let file = served.file();
    // At once, after many quick ones in a row, and after a rest: one thread is enough then.
    for (quick, pause) in [(0, 0), (1000, 0), (1000, 50)] {
        for number in 0..quick {
            at(file, 4096 + number * 512, 512);
        }
        thread::sleep(Duration::from_millis(pause));
        slow.store(true, Ordering::SeqCst);
        thread::scope(|scope| {
            let held = scope.spawn(|| at(file, 0, 512));
            thread::sleep(Duration::from_millis(20));
            let others =
                scope.spawn(|| (1..100).map(|n| at(file, n * 512, 512)).collect::<Vec<_>>());
            let deadline = Instant::now() + Duration::from_secs(2);
            while !others.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            let in_time = others.is_finished();
            assert!(!held.is_finished());
            slow.store(false, Ordering::SeqCst);
            assert!(held.join().unwrap() == before[..512]);
            assert!(others.join().unwrap().concat() == before[512..51_200]);
            assert!(in_time, "they waited for the slow one");
        });
    }
}
