//! A service of a test's own, and a folder for its images.
//!
//! Promises: when a [`House`] is dropped, on a panic too, its mounts are gone, its disks detached
//! and its service ended; no other process, device or mount is touched.

use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Gives the test a house, or skips it.
macro_rules! house {
    () => {{
        if let Some(reason) = $crate::house::missing() {
            virtdisk_testkit::skip!("{reason}");
        }
        $crate::house::House::new()
    }};
}
pub(crate) use house;

/// What attaching needs and is not here.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_string());
    }
    if !Path::new("/dev/loop-control").exists() || !Path::new("/dev/fuse").exists() {
        return Some("no loop devices or no FUSE in this kernel".to_string());
    }
    (!daemon().is_file()).then(|| format!("{} is not built", daemon().display()))
}

/// The service's program.
pub(crate) fn daemon() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_vdisk")).with_file_name("virtdiskd");
    std::env::var_os("VIRTDISKD").map_or(beside, PathBuf::from)
}

/// Images, mount points and a service.
pub(crate) struct House {
    folder: TempDir,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl House {
    /// A new one; nothing runs yet.
    pub(crate) fn new() -> House {
        let folder = TempDir::with_prefix("vdisk-test-").unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        House { folder }
    }

    /// A path in the house.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    /// `vdisk ARGUMENTS`, not started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vdisk"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("VIRTDISK_RUNTIME_DIR", self.folder.path().join("run"))
            .env("VIRTDISKD", daemon())
            .stdin(Stdio::null());
        command
    }

    /// Runs `vdisk ARGUMENTS`.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    /// Runs `vdisk ARGUMENTS`, which must succeed; its stdout.
    #[track_caller]
    pub(crate) fn good(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "vdisk {}: {}", arguments.join(" "), said.err);
        said.out
    }

    /// Runs `vdisk ARGUMENTS`, which must fail with the code that `name` names; its stderr.
    #[track_caller]
    pub(crate) fn bad(&self, arguments: &[&str], name: &str) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 1, "vdisk {}: {said:?}", arguments.join(" "));
        assert_eq!(said.out, "");
        assert!(said.err.starts_with("error: "), "{}", said.err);
        assert!(said.err.contains(name), "{name} wanted: {}", said.err);
        said.err
    }

    /// Makes a dynamic VHD; its path.
    #[track_caller]
    pub(crate) fn image(&self, name: &str, size: &str) -> String {
        let path = self.path(name);
        self.good(&["create", &path, "--size", size]);
        path
    }

    /// Attaches; the device.
    #[track_caller]
    pub(crate) fn attach(&self, arguments: &[&str]) -> Device {
        let words: Vec<&str> = ["attach"].iter().chain(arguments).copied().collect();
        let out = self.good(&words);
        Device::now(out.strip_suffix('\n').unwrap())
    }

    /// `vdisk list --json`.
    #[track_caller]
    pub(crate) fn list(&self) -> Vec<Value> {
        serde_json::from_str(&self.good(&["list", "--json"])).unwrap()
    }

    /// Starts `vdisk attach --temporary ARGUMENTS` with a pipe as its stdin; waits for the device.
    #[track_caller]
    pub(crate) fn hold(&self, arguments: &[&str]) -> (std::process::Child, Device) {
        let words: Vec<&str> = ["attach", "--temporary"]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        let mut command = self.command(&words);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.as_mut().unwrap();
        let mut line = String::new();
        let mut byte = [0];
        while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(char::from(byte[0]));
        }
        (child, Device::now(&line))
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let folder = self.folder.path().to_str().unwrap().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for place in places.filter(|place| place.starts_with(&folder)) {
            drop(Command::new("umount").arg(place).output());
        }
        drop(self.command(&["detach", "--all", "--wait", "5s"]).output());
        if !soon(|| services(&folder).is_empty()) {
            for process in services(&folder) {
                drop(Command::new("kill").arg(process).output());
            }
            assert!(
                std::thread::panicking(),
                "the service did not end by itself"
            );
        }
    }
}

/// Ids of the services whose command line names `folder`.
fn services(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let ours = entries.filter(|entry| {
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        read("comm").starts_with(b"virtdiskd")
            && String::from_utf8_lossy(&read("cmdline")).contains(folder)
    });
    ours.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The words of a command that has ended.
pub(crate) fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// True when `what` becomes true within ten seconds.
pub(crate) fn soon(what: impl Fn() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while !what() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A block device, at the time of one attachment.
pub(crate) struct Device {
    path: String,
    sequence: String,
}

impl Device {
    /// The device as it is now.
    #[track_caller]
    pub(crate) fn now(path: &str) -> Device {
        assert!(
            path.starts_with("/dev/loop") && !path.contains('\n'),
            "{path:?}"
        );
        assert!(
            Path::new(path)
                .metadata()
                .unwrap()
                .file_type()
                .is_block_device()
        );
        Device {
            path: path.to_string(),
            sequence: sequence(path).unwrap(),
        }
    }

    /// True when that attachment is over, whoever uses the device's name since.
    pub(crate) fn is_gone(&self) -> bool {
        sequence(&self.path).is_none_or(|sequence| sequence != self.sequence)
    }
}

impl std::ops::Deref for Device {
    type Target = str;

    fn deref(&self) -> &str {
        &self.path
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)
    }
}

/// The kernel's number for what is behind a loop device; `None` when nothing is.
fn sequence(device: &str) -> Option<String> {
    let folder = PathBuf::from(device.replace("/dev/", "/sys/block/"));
    std::fs::metadata(folder.join("loop")).ok()?;
    std::fs::read_to_string(folder.join("diskseq")).ok()
}

/// Writes `bytes` at `offset` of a device and makes them durable.
pub(crate) fn write_at(device: &str, bytes: &[u8], offset: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(device)
        .unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// Reads `length` bytes at `offset` of a device.
pub(crate) fn read_at(device: &str, length: usize, offset: u64) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; length];
    std::fs::File::open(device)
        .unwrap()
        .read_exact_at(&mut bytes, offset)
        .unwrap();
    bytes
}
