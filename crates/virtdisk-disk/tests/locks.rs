//! Locks against the real QEMU, both ways: whoever comes second is refused.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use virtdisk_disk::lock::{self, Conflict, Level};
use virtdisk_testkit::{has_program, skip};

/// A VHD of 4 MiB in a folder of its own; where QEMU is missing, an empty file.
struct Image {
    folder: TempDir,
    path: PathBuf,
    /// One test at a time: between another test's fork and exec a child would hold copies of this
    /// test's descriptors, and so keep their locks after they are closed here.
    _alone: MutexGuard<'static, ()>,
}

impl Image {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = TempDir::with_prefix("virtdisk-lock-").unwrap();
        let path = folder.path().join("disk.vhd");
        if has_qemu() {
            let mut command = Command::new("qemu-img");
            command
                .args(["create", "-q", "-f", "vpc"])
                .arg(&path)
                .arg("4M");
            assert!(command.status().unwrap().success());
        } else {
            File::create(&path).unwrap();
        }
        Self {
            folder,
            path,
            _alone: alone,
        }
    }

    fn open(&self) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .unwrap()
    }

    fn info(&self, extra: &[&str]) -> Output {
        let mut command = Command::new("qemu-img");
        command
            .arg("info")
            .args(extra)
            .args(["-f", "vpc"])
            .arg(&self.path);
        command.output().unwrap()
    }

    /// Reads the whole disk with qemu-img.
    fn convert(&self) -> Output {
        let mut command = Command::new("qemu-img");
        command
            .args(["convert", "-f", "vpc", "-O", "raw"])
            .arg(&self.path);
        command
            .arg(self.folder.path().join("copy"))
            .output()
            .unwrap()
    }

    /// Writes one sector with qemu-io, which opens the image for writing.
    fn qemu_write(&self) -> Output {
        let mut command = Command::new("qemu-io");
        command
            .args(["-f", "vpc", "-c", "write 0 512"])
            .arg(&self.path);
        command.output().unwrap()
    }

    /// Waits until somebody holds a lock on that byte, without taking one: QEMU's socket is there
    /// before its locks, and asking by acquiring would refuse QEMU.
    fn wait_for_lock(&self, byte: u64) {
        let inode = format!(":{}", std::fs::metadata(&self.path).unwrap().ino());
        // "1: OFDLCK ADVISORY READ -1 fe:00:INODE FIRST LAST"; neighbouring bytes are one line.
        let covers = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| fields[index].parse().unwrap_or(u64::MAX);
            fields.len() > 7
                && fields[5].ends_with(&inode)
                && (number(6)..=number(7)).contains(&byte)
        };
        let start = Instant::now();
        while !std::fs::read_to_string("/proc/locks")
            .unwrap()
            .lines()
            .any(covers)
        {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "QEMU takes no lock on {byte}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

/// A running QEMU program; ended with the value, also when the test panics.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, socket: &Path) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let running = Self(child);
        let start = Instant::now();
        while !socket.exists() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{command:?} made no socket"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    fn nbd(image: &Image, read_only: bool) -> Self {
        let mut command = Command::new("qemu-nbd");
        command
            .args(["-f", "vpc", "--persistent", "-k"])
            .arg(image.socket());
        if read_only {
            command.arg("--read-only");
        }
        let running = Self::start(command.arg(&image.path), &image.socket());
        image.wait_for_lock(if read_only { 201 } else { 101 });
        running
    }

    fn storage_daemon(image: &Image, writable: bool) -> Self {
        let mut command = storage_daemon(image, writable);
        let running = Self::start(&mut command, &image.socket());
        image.wait_for_lock(if writable { 101 } else { 201 });
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The command line that exports the VHD inside the image over NBD.
fn storage_daemon(image: &Image, writable: bool) -> Command {
    let switch = |on| if on { "on" } else { "off" };
    let (path, socket) = (image.path.display(), image.socket());
    let mut command = Command::new("qemu-storage-daemon");
    command
        .arg("--nbd-server")
        .arg(format!("addr.type=unix,addr.path={}", socket.display()))
        .arg("--blockdev")
        .arg(format!(
            "driver=vpc,node-name=disk,read-only={},file.driver=file,file.filename={path}",
            switch(!writable)
        ))
        .arg("--export")
        .arg(format!(
            "type=nbd,id=disk,node-name=disk,writable={}",
            switch(writable)
        ));
    command
}

fn has_qemu() -> bool {
    ["qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon"]
        .into_iter()
        .all(has_program)
}

#[track_caller]
fn must_be_refused(output: &Output, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "QEMU was not refused");
    assert!(
        text.contains(words),
        "QEMU was refused for another reason: {text}"
    );
}

#[track_caller]
fn must_succeed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "QEMU was refused: {text}");
}

#[track_caller]
fn must_conflict(file: &File, level: Level, wanted: &str) {
    match lock::acquire(file, level) {
        Err(Conflict::InUse { permission, .. }) => assert_eq!(permission, wanted),
        other => panic!("{level:?} was not refused: {other:?}"),
    }
}

#[test]
fn qemu_may_read_and_not_write_what_we_read() {
    if !has_qemu() {
        skip!("QEMU's tools are not all installed");
    }
    let image = Image::new();
    let file = image.open();
    lock::acquire(&file, Level::Read).unwrap();
    must_succeed(&image.info(&[]));
    must_succeed(&image.convert());
    must_be_refused(&image.qemu_write(), "Failed to get \"write\" lock");
    drop(file);
    must_succeed(&image.qemu_write());
}

#[test]
fn qemu_may_do_nothing_with_what_we_write() {
    if !has_qemu() {
        skip!("QEMU's tools are not all installed");
    }
    let image = Image::new();
    let file = image.open();
    lock::acquire(&file, Level::Write).unwrap();
    must_be_refused(&image.info(&[]), "Failed to get shared \"write\" lock");
    must_be_refused(&image.convert(), "Failed to get shared \"write\" lock");
    must_be_refused(&image.qemu_write(), "Failed to get");
    // Asked to look all the same, QEMU does: it needs no consistent contents.
    must_succeed(&image.info(&["-U"]));
    lock::release(&file).unwrap();
    must_succeed(&image.info(&[]));
    must_succeed(&image.qemu_write());
}

#[test]
fn we_may_read_and_not_write_what_qemu_nbd_reads() {
    if !has_qemu() {
        skip!("QEMU's tools are not all installed");
    }
    let image = Image::new();
    let running = Running::nbd(&image, true);
    let file = image.open();
    must_conflict(&file, Level::Write, "write");
    lock::acquire(&file, Level::Read).unwrap();
    must_succeed(&image.info(&[]));
    drop(running);
    lock::change(&file, Level::Read, Level::Write).unwrap();
}

#[test]
fn we_may_do_nothing_with_what_qemu_nbd_writes() {
    if !has_qemu() {
        skip!("QEMU's tools are not all installed");
    }
    let image = Image::new();
    let running = Running::nbd(&image, false);
    let file = image.open();
    must_conflict(&file, Level::Read, "write");
    must_conflict(&file, Level::Write, "write");
    lock::acquire(&file, Level::None).unwrap();
    drop(running);
    lock::acquire(&file, Level::Write).unwrap();
}

#[test]
fn the_storage_daemon_and_we_refuse_each_other() {
    if !has_qemu() {
        skip!("QEMU's tools are not all installed");
    }
    let image = Image::new();
    let running = Running::storage_daemon(&image, true);
    must_conflict(&image.open(), Level::Read, "write");
    must_conflict(&image.open(), Level::Write, "write");
    drop(running);
    std::fs::remove_file(image.socket()).ok();

    let file = image.open();
    lock::acquire(&file, Level::Write).unwrap();
    let mut command = storage_daemon(&image, true);
    must_be_refused(&command.output().unwrap(), "Failed to get \"write\" lock");
}

#[test]
fn two_of_us_share_reading_and_nothing_else() {
    let image = Image::new();
    let (one, other) = (image.open(), image.open());
    lock::acquire(&one, Level::Read).unwrap();
    must_conflict(&other, Level::Write, "write");
    lock::acquire(&other, Level::Read).unwrap();
    drop(one);
    lock::change(&other, Level::Read, Level::Write).unwrap();
    let third = image.open();
    must_conflict(&third, Level::Read, "write");
    must_conflict(&third, Level::Write, "write");
    // Going down lets readers in.
    lock::change(&other, Level::Write, Level::Read).unwrap();
    lock::acquire(&third, Level::Read).unwrap();
}

#[test]
fn a_refused_change_keeps_what_was_held_and_nothing_more() {
    let image = Image::new();
    let (one, other) = (image.open(), image.open());
    lock::acquire(&one, Level::Read).unwrap();
    lock::acquire(&other, Level::Read).unwrap();
    assert!(lock::change(&one, Level::Read, Level::Write).is_err());
    // Still a reader: a writer is refused. No more than a reader: another reader is not.
    let third = image.open();
    must_conflict(&third, Level::Write, "write");
    lock::acquire(&third, Level::Read).unwrap();
    drop((other, third));
    must_conflict(&image.open(), Level::Write, "write");
    lock::change(&one, Level::Read, Level::Write).unwrap();
}

#[test]
fn a_refused_lock_leaves_nothing_behind() {
    let image = Image::new();
    let (one, other) = (image.open(), image.open());
    lock::acquire(&one, Level::Write).unwrap();
    must_conflict(&other, Level::Write, "write");
    lock::change(&one, Level::Write, Level::None).unwrap();
    let third = image.open();
    lock::acquire(&third, Level::Write).unwrap();
    drop(other);
}

#[test]
fn a_lock_lives_as_long_as_the_last_copy_of_the_descriptor() {
    if !has_program("sleep") {
        skip!("sleep is not installed");
    }
    let image = Image::new();
    let file = image.open();
    lock::acquire(&file, Level::Write).unwrap();
    // A copy in another process, as the broker's in a worker: its standard input.
    let copy = file.try_clone().unwrap();
    let mut child = Command::new("sleep").arg("60").stdin(copy).spawn().unwrap();
    drop(file);
    let refused = lock::acquire(image.open(), Level::Read).is_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(refused, "the copy did not keep the lock");
    lock::acquire(image.open(), Level::Write).unwrap();
}

#[test]
fn a_descriptor_for_reading_only_can_take_both_levels() {
    // Only the bytes' read locks are taken, so the kernel asks for no right to write.
    let image = Image::new();
    let file = File::open(&image.path).unwrap();
    lock::acquire(&file, Level::Read).unwrap();
    lock::change(&file, Level::Read, Level::Write).unwrap();
    must_conflict(&image.open(), Level::Read, "write");
}

#[test]
fn programs_that_come_at_once_are_never_both_admitted() {
    let image = Image::new();
    for _ in 0..200 {
        let admitted: usize = std::thread::scope(|scope| {
            let attempts: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let file = image.open();
                        lock::acquire(&file, Level::Write).ok().map(|()| file)
                    })
                })
                .collect();
            // All files stay open until all have answered.
            let files: Vec<_> = attempts
                .into_iter()
                .map(|one| one.join().unwrap())
                .collect();
            files.iter().flatten().count()
        });
        assert!(admitted <= 1, "{admitted} writers at once");
    }
}

#[test]
fn a_conflict_says_who_does_what() {
    let image = Image::new();
    let (one, other) = (image.open(), image.open());
    lock::acquire(&one, Level::Read).unwrap();
    let conflict = lock::acquire(&other, Level::Write).unwrap_err();
    let text = conflict.to_string();
    assert_eq!(
        text,
        "another program has the image open and allows nobody \"write\""
    );
}
