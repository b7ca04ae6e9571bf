//! Devices for tests: guards that free what a test made even when it panics, a disk over a plain
//! file, and a server in a process of its own that can be killed.
//!
//! Everything lies in `/dev/shm` or the temporary folder. A guard that can't free a device panics,
//! unless the test panics already: a device left behind is a failed test.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom};
use virtdisk_device::fuse::{Ended, Look, Served, Server, mount, open_root};
use virtdisk_device::loop_device::{LoopDevice, LoopOptions, Release, attach};
use virtdisk_disk::Disk;

/// Prints the line that `xtask` counts and returns from the test.
macro_rules! skip {
    ($($reason:tt)*) => {{
        crate::support::report_skip(&format!($($reason)*));
        return;
    }};
}
pub(crate) use skip;

/// Skips the test without the rights and devices that all tests here need.
macro_rules! needs {
    ($($program:literal),*) => {{
        if let Some(reason) = crate::support::missing(&[$($program),*]) {
            crate::support::skip!("{reason}");
        }
    }};
}
pub(crate) use needs;

/// Writes the line past the harness's capture.
pub(crate) fn report_skip(reason: &str) {
    use std::io::Write as _;
    let thread = thread::current();
    let line = format!(
        "SKIP {}: {reason}\n",
        thread.name().unwrap_or("unnamed test")
    );
    drop(std::io::stderr().write_all(line.as_bytes()));
}

/// What is missing to run a device test.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    for node in ["/dev/loop-control", "/dev/fuse"] {
        if OpenOptions::new()
            .read(true)
            .write(true)
            .open(node)
            .is_err()
        {
            return Some(format!("{node} can't be opened"));
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{path}:/usr/sbin:/sbin");
    let absent = programs
        .iter()
        .find(|p| !path.split(':').any(|d| Path::new(d).join(p).exists()));
    absent.map(|program| format!("{program} is not installed"))
}

/// A folder in memory, or in the temporary folder where there is none.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("virtdisk-device-")
        .tempdir_in(base)
        .unwrap()
}

/// A sparse file of `length` bytes, open for reading and writing.
pub(crate) fn file_of(path: &Path, length: u64) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(length).unwrap();
    file
}

/// Plain options for a file.
pub(crate) fn options(backing: &File) -> LoopOptions<'_> {
    LoopOptions {
        backing: backing.as_fd(),
        offset: 0,
        size_limit: 0,
        read_only: false,
        block_size: 512,
        direct_io: true,
        name: "virtdisk test",
    }
}

/// Runs a program and answers its output; panics with it when the program fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text}{errors}"
    );
    text
}

/// A loop device that is freed with the test.
pub(crate) struct Loop {
    pub(crate) device: LoopDevice,
}

impl Loop {
    pub(crate) fn on(options: &LoopOptions<'_>) -> Self {
        Self {
            device: attach(options).unwrap(),
        }
    }

    pub(crate) fn path(&self) -> String {
        self.device.path().display().to_string()
    }

    /// Opens the device.
    pub(crate) fn open(&self) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.device.path())
            .unwrap()
    }

    /// Frees it now; it must be free to go.
    pub(crate) fn release(self) {
        assert_eq!(
            self.device.release(Duration::from_secs(2)).unwrap(),
            Release::Gone
        );
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let gone = matches!(
            self.device.release(Duration::from_secs(2)),
            Ok(Release::Gone)
        );
        if !gone {
            drop(self.device.release_when_free());
        }
        assert!(
            gone || thread::panicking(),
            "{} is left behind",
            self.path()
        );
    }
}

/// A file system mounted in a folder, unmounted with the test.
pub(crate) struct Mounted {
    pub(crate) place: PathBuf,
}

impl Mounted {
    pub(crate) fn new(device: &str, place: &Path) -> Self {
        std::fs::create_dir_all(place).unwrap();
        run("mount", &[device, place.to_str().unwrap()]);
        Self {
            place: place.to_owned(),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A test may have unmounted it.
        drop(
            Command::new("umount")
                .arg(&self.place)
                .stderr(Stdio::null())
                .status(),
        );
    }
}

/// A child that is killed and reaped with the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn kill(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A disk over a plain file.
pub(crate) struct FileDisk {
    pub(crate) file: File,
}

impl FileDisk {
    pub(crate) fn open(path: &Path) -> Self {
        Self {
            file: OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .unwrap(),
        }
    }

    fn punch(&self, flags: FallocateFlags, offset: u64, length: u64) -> Result<(), i32> {
        let flags = flags | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, offset, length).map_err(|e| e.raw_os_error())
    }
}

impl Served for FileDisk {
    fn size(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), i32> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|e| e.raw_os_error().unwrap_or(5))
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), i32> {
        self.file
            .write_all_at(data, offset)
            .map_err(|e| e.raw_os_error().unwrap_or(5))
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), i32> {
        // tmpfs has no ZERO_RANGE.
        self.punch(FallocateFlags::PUNCH_HOLE, offset, length)
    }
    fn trim(&self, offset: u64, length: u64) -> Result<(), i32> {
        self.punch(FallocateFlags::PUNCH_HOLE, offset, length)
    }
    fn flush(&self) -> Result<(), i32> {
        self.file
            .sync_data()
            .map_err(|e| e.raw_os_error().unwrap_or(5))
    }
    fn look(&self, offset: u64, look: Look) -> Result<Option<u64>, i32> {
        let from = match look {
            Look::Data => SeekFrom::Data(offset),
            Look::Hole => SeekFrom::Hole(offset),
        };
        match rustix::fs::seek(&self.file, from) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error.raw_os_error()),
        }
    }
}

/// A disk served by threads of the test itself.
pub(crate) struct ServedFile {
    pub(crate) file: Option<File>,
    pub(crate) root: Option<OwnedFd>,
    waiter: Option<JoinHandle<std::io::Result<Ended>>>,
}

impl ServedFile {
    pub(crate) fn new<S: Served>(disk: S, range: (u64, u64), read_only: bool) -> Self {
        let (connection, root) = mount(range.1, read_only).unwrap();
        let server = Server::start(connection, disk, range, read_only, 2, false).unwrap();
        let waiter = thread::spawn(move || server.wait());
        let file = open_root(&root, read_only).unwrap();
        Self {
            file: Some(file),
            root: Some(root),
            waiter: Some(waiter),
        }
    }

    pub(crate) fn file(&self) -> &File {
        self.file.as_ref().unwrap()
    }

    /// Lets go of the file; the server must end by itself.
    pub(crate) fn end(&mut self) -> Option<std::io::Result<Ended>> {
        self.file.take();
        self.root.take();
        self.waiter.take().map(|waiter| waiter.join().unwrap())
    }
}

impl Drop for ServedFile {
    fn drop(&mut self) {
        let ended = self.end();
        assert!(
            ended.is_none_or(|e| e.is_ok()) || thread::panicking(),
            "the server failed"
        );
    }
}

/// Name of the test that is a server process when it is asked to; see [`serve_as_child`].
pub(crate) const CHILD: &str = "serve_as_child";
/// The image, for the child.
const CHILD_IMAGE: &str = "VIRTDISK_TEST_IMAGE";
/// "resend" when the child takes over.
const CHILD_START: &str = "VIRTDISK_TEST_START";

/// Opens an image of any format for writing.
pub(crate) fn open_disk(image: &Path) -> Disk {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let extension = image.extension().map(|e| e.to_string_lossy().into_owned());
    let options = virtdisk_disk::OpenOptions {
        writable: true,
        extension,
        ..Default::default()
    };
    Disk::open(file, &image.display().to_string(), &options).unwrap()
}

/// Body of the test that is a server process: serves the image of the environment on descriptor 0.
pub(crate) fn serve_as_child() {
    let Some(image) = std::env::var_os(CHILD_IMAGE) else {
        return;
    };
    let resend = std::env::var(CHILD_START).is_ok_and(|start| start == "resend");
    let disk = open_disk(Path::new(&image));
    let connection = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let range = (0, Served::size(&disk));
    let server = Server::start(connection, disk.clone(), range, false, 2, resend).unwrap();
    assert_eq!(server.wait().unwrap(), Ended::Unmounted);
    disk.close().unwrap();
}

/// Starts a server process on a connection.
pub(crate) fn child_server(connection: &OwnedFd, image: &Path, resend: bool) -> Process {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
        .env(CHILD_IMAGE, image)
        .env(CHILD_START, if resend { "resend" } else { "first" })
        .stdin(Stdio::from(connection.try_clone().unwrap()))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn();
    Process(child.unwrap())
}

/// Runs `work` while `meanwhile` is called again and again.
pub(crate) fn during(work: impl FnOnce(), mut meanwhile: impl FnMut() + Send) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let repeated = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                meanwhile();
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let also = repeated.join();
        for outcome in [result, also] {
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// fio on a device with direct I/O: writes `size` bytes in random order, reads them back by their
/// checksums, and all that `loops` times.
pub(crate) fn fio_verify(device: &str, block: &str, depth: u32, size: &str, loops: u32) {
    run(
        "fio",
        &[
            "--name=verify",
            &format!("--filename={device}"),
            "--ioengine=libaio",
            "--direct=1",
            "--rw=randwrite",
            &format!("--bs={block}"),
            &format!("--iodepth={depth}"),
            &format!("--size={size}"),
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--verify_state_save=0",
            &format!("--loops={loops}"),
            "--randrepeat=0",
        ],
    );
}
