//! A service of its own for each test, and the devices it made gone again, also on panic.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that can't be set up fails")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use virtdisk::{
    AccessMask, AttachFlags, AttachOptions, Attached, CreateFlags, CreateOptions, CreateParameters,
    DetachOptions, InUse, OpenOptions, Service, VirtualDisk,
};

/// The service's program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_virtdiskd");
/// One MiB.
pub const MIB: u64 = 1 << 20;

/// A running service and a folder for images.
pub struct Host {
    folder: tempfile::TempDir,
    broker: Option<Child>,
    service: Service,
}

/// Root with loop devices and FUSE, or the reason why not.
pub fn able() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    for node in ["/dev/loop-control", "/dev/fuse"] {
        File::options()
            .read(true)
            .write(true)
            .open(node)
            .map_err(|e| format!("{node}: {e}"))?;
    }
    Ok(())
}

/// A host, or the end of the test with a counted skip.
#[macro_export]
macro_rules! host {
    () => {
        match support::able() {
            Ok(()) => support::Host::new(),
            Err(reason) => virtdisk_testkit::skip!("{reason}"),
        }
    };
}

/// Skips when a program is missing.
#[macro_export]
macro_rules! need_tool {
    ($($tool:literal),*) => {
        $(if !virtdisk_testkit::has_program($tool) {
            virtdisk_testkit::skip!("{} is not installed", $tool);
        })*
    };
}

impl Host {
    /// Starts a service.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("virtdiskd-")
            .tempdir()
            .unwrap();
        let service = Service::at(&folder.path().join("run"));
        let mut host = Self {
            folder,
            broker: None,
            service,
        };
        host.start_broker();
        host
    }

    /// Starts the broker and waits for its socket.
    pub fn start_broker(&mut self) {
        let child = Command::new(PROGRAM)
            .args(["--idle", "600", "--runtime-dir"])
            .arg(self.run())
            .stdin(Stdio::null())
            .env(
                "VIRTDISKD_LOG",
                std::env::var("VIRTDISKD_LOG").unwrap_or("error".into()),
            )
            .spawn()
            .unwrap();
        self.broker = Some(child);
        wait_for("the service's socket", || {
            std::os::unix::net::UnixStream::connect(self.run().join("socket")).is_ok()
        });
    }

    /// Kills the broker; its workers go on.
    pub fn kill_broker(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            broker.kill().unwrap();
            broker.wait().unwrap();
        }
    }

    /// Process id of the broker.
    pub fn broker_pid(&self) -> u32 {
        self.broker.as_ref().unwrap().id()
    }

    /// The runtime directory.
    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The service.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// A path in the folder for images.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new dynamic VHD, with its handle.
    pub fn dynamic(&self, name: &str, size: u64) -> VirtualDisk {
        self.create(name, size, CreateFlags::NONE)
    }

    /// A new image, with its handle; the extension decides the format.
    pub fn create(&self, name: &str, size: u64, flags: CreateFlags) -> VirtualDisk {
        let options = CreateOptions {
            flags,
            parameters: CreateParameters {
                maximum_size: size,
                ..CreateParameters::default()
            },
            ..CreateOptions::default()
        };
        self.service.create(self.path(name), &options).unwrap()
    }

    /// A version 1 handle.
    pub fn open(&self, name: &str, access: AccessMask) -> virtdisk::Result<VirtualDisk> {
        self.service
            .open(self.path(name), &OpenOptions::with_access(access))
    }

    /// A version 1 handle, once an earlier one has closed.
    pub fn open_soon(&self, path: &Path, access: AccessMask) -> VirtualDisk {
        let mut found = None;
        wait_for("the image to open", || {
            found = self
                .service
                .open(path, &OpenOptions::with_access(access))
                .ok();
            found.is_some()
        });
        found.unwrap()
    }

    /// A version 2 handle.
    pub fn open_v2(&self, name: &str, read_only: bool) -> virtdisk::Result<VirtualDisk> {
        self.service
            .open(self.path(name), &OpenOptions::v2(read_only))
    }

    /// Worker processes of this host's broker.
    pub fn workers(&self) -> Vec<i32> {
        workers_of(self.broker_pid())
    }

    /// What is attached.
    pub fn attached(&self) -> Vec<virtdisk::AttachedDisk> {
        self.service.attached().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.broker.is_none() {
            self.start_broker();
        }
        for disk in self.service.attached().unwrap_or_default() {
            for holder in &disk.in_use_by {
                if holder.kind == "mount" {
                    let _ = Command::new("umount").arg(&holder.place).status();
                } else if holder.kind == "swap" {
                    let _ = Command::new("swapoff").arg(&holder.node).status();
                }
            }
            let options = DetachOptions {
                in_use: InUse::WhenFree,
                ..DetachOptions::default()
            };
            let handle = self.service.open_attached(&disk.device);
            let detached = handle.and_then(|handle| handle.detach_with(&options));
            if detached.is_err() && !disk.device.is_empty() {
                // Damaged on purpose by the test: the device goes without the service's blessing.
                let _ = Command::new("losetup").args(["-d", &disk.device]).status();
            }
        }
        if let Some(mut broker) = self.broker.take() {
            let workers = workers_of(broker.id());
            let _ = broker.kill();
            let _ = broker.wait();
            for pid in workers {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Worker processes of a broker.
pub fn workers_of(broker: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let child = status.contains(&format!("PPid:\t{broker}\n"));
        if child && line.starts_with(b"virtdiskd\0worker") && !status.contains("State:\tZ") {
            found.push(pid);
        }
    }
    found
}

/// Attach options.
pub fn attach_with(flags: AttachFlags) -> AttachOptions {
    AttachOptions {
        flags,
        ..AttachOptions::default()
    }
}

/// Attaches, and remembers which disk the node is.
pub fn attach(disk: &VirtualDisk, flags: AttachFlags) -> Attached {
    let attached = disk.attach(&attach_with(flags)).unwrap();
    if !attached.device.as_os_str().is_empty() {
        remember(&attached.device);
    }
    attached
}

/// Remembers which disk a node is now.
pub fn remember(device: &Path) {
    let test = std::thread::current().id();
    MADE.lock()
        .unwrap()
        .insert((test, device.to_owned()), sequence_of(device));
}

/// Attaches permanently, for writing.
pub fn attach_permanent(disk: &VirtualDisk) -> Attached {
    attach(disk, AttachFlags::PERMANENT_LIFETIME)
}

/// The kernel's number of the disk that each node was when it was attached, for each test: tests
/// run side by side, and a node that one gave back may be another's at once.
static MADE: LazyLock<Mutex<HashMap<(ThreadId, PathBuf), String>>> = LazyLock::new(Mutex::default);

/// The kernel's number of the disk that a node is now.
fn sequence_of(device: &Path) -> String {
    let name = device.file_name().unwrap();
    fs::read_to_string(Path::new("/sys/block").join(name).join("diskseq")).unwrap()
}

/// Waits until something holds.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Is a loop device bound, to what this test attached? Other tests use the same nodes.
pub fn is_bound(device: &Path) -> bool {
    let name = device.file_name().unwrap().to_str().unwrap();
    let bound = Path::new("/sys/block")
        .join(name)
        .join("loop/backing_file")
        .exists();
    let test = std::thread::current().id();
    let made = MADE
        .lock()
        .unwrap()
        .get(&(test, device.to_owned()))
        .cloned();
    bound && made.is_none_or(|sequence| sequence == sequence_of(device))
}

/// SHA-256 of a file or device.
pub fn sha256(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let got = file.read(&mut buffer).unwrap();
        if got == 0 {
            return hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        }
        hash.update(&buffer[..got]);
    }
}

/// Runs a command that must succeed, and gives its output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes bytes to a device and makes them durable.
pub fn write_device(device: &Path, bytes: &[u8], offset: u64) {
    let file = File::options().write(true).open(device).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// Reads bytes of a device.
pub fn read_device(device: &Path, length: usize, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(device)
        .unwrap()
        .read_exact_at(&mut bytes, offset)
        .unwrap();
    bytes
}

/// A mount that is undone, also on panic.
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// Mounts a device.
    pub fn new(device: &Path, place: &Path) -> Self {
        fs::create_dir_all(place).unwrap();
        run(
            "mount",
            &[device.to_str().unwrap(), place.to_str().unwrap()],
        );
        Self(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A handle on an image in there may still be closing.
        for _ in 0..100 {
            let done = Command::new("umount")
                .arg(&self.0)
                .stderr(Stdio::null())
                .status();
            if done.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
