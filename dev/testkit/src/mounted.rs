//! File systems of a test's own: mounted in a temporary folder, gone with the value.
//!
//! Needs root. Everything that was set up is taken down when the value is dropped, also by a panic:
//! mount first, then loop device, then folder. The constructors answer the reason for
//! [`crate::skip!`] where a tool, a file system or a right is missing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::has_program;

/// A mounted file system.
pub struct Mounted {
    loop_device: Option<PathBuf>,
    /// The process that serves the file system, where that is not the kernel.
    server: Option<Child>,
    folder: TempDir,
}

impl Mounted {
    /// A new file system on a loop device over a sparse file of `bytes`, with logical sectors of
    /// `sector` bytes. `mkfs` is the program and its options, e.g. `["mkfs.ext4", "-q"]`.
    ///
    /// # Errors
    /// Why it can't be had here.
    pub fn block(mkfs: &[&str], bytes: u64, sector: u32) -> Result<Self, String> {
        Self::on_loop(None, mkfs, bytes, sector)
    }

    /// As [`Self::block`] with 512-byte sectors, its file in `folder`: a disk that promises more
    /// room than it has, where `folder` is on a smaller file system.
    ///
    /// # Errors
    /// Why it can't be had here.
    pub fn block_on(folder: &Path, mkfs: &[&str], bytes: u64) -> Result<Self, String> {
        Self::on_loop(Some(folder.join("disk")), mkfs, bytes, 512)
    }

    fn on_loop(
        image: Option<PathBuf>,
        mkfs: &[&str],
        bytes: u64,
        sector: u32,
    ) -> Result<Self, String> {
        let mut this = Self::empty()?;
        let image = image.unwrap_or_else(|| this.image());
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(|error| error.to_string())?;
        let (program, options) = mkfs.split_first().ok_or("no mkfs given")?;
        need(program)?;
        need("losetup")?;
        let sector = sector.to_string();
        let mut command = Command::new("losetup");
        command
            .args(["--find", "--show", "--sector-size", &sector])
            .arg(&image);
        this.loop_device = Some(PathBuf::from(run(&mut command)?.trim()));
        let device = this.loop_device.as_deref().ok_or("no loop device")?;
        run(Command::new(program).args(options).arg(device))?;
        run(Command::new("mount").arg(device).arg(this.path()))?;
        Ok(this)
    }

    /// A file system in memory that holds at most `bytes`.
    ///
    /// # Errors
    /// Why it can't be had here.
    pub fn tmpfs(bytes: u64) -> Result<Self, String> {
        let this = Self::empty()?;
        let size = format!("size={bytes}");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(this.path()))?;
        Ok(this)
    }

    /// A new NTFS volume of `bytes` by ntfs-3g. `prepare` may fill it; then it is unmounted,
    /// `patch` may change the volume's bytes, and it is mounted again.
    ///
    /// # Errors
    /// Why it can't be had here.
    pub fn ntfs(
        bytes: u64,
        prepare: impl FnOnce(&Path) -> Result<(), String>,
        patch: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Self, String> {
        need("mkntfs")?;
        need("ntfs-3g")?;
        let mut this = Self::empty()?;
        let image = this.image();
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(|error| error.to_string())?;
        run(Command::new("mkntfs")
            .args(["-q", "-F", "-s", "512", "-p", "0", "-H", "0", "-S", "0"])
            .arg(&image))?;
        this.serve_ntfs(&image)?;
        prepare(this.path())?;
        run(Command::new("umount").arg(this.path()))?;
        // The volume is whole in its file only when the server has ended.
        if let Some(mut server) = this.server.take() {
            server.wait().map_err(|error| error.to_string())?;
        }
        let mut contents = std::fs::read(&image).map_err(|error| error.to_string())?;
        patch(&mut contents);
        std::fs::write(&image, contents).map_err(|error| error.to_string())?;
        this.serve_ntfs(&image)?;
        Ok(this)
    }

    /// Starts ntfs-3g on a volume and waits for the mount.
    fn serve_ntfs(&mut self, image: &Path) -> Result<(), String> {
        let mut command = Command::new("ntfs-3g");
        command
            .args(["-o", "no_detach"])
            .arg(image)
            .arg(self.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = self
            .server
            .insert(child.map_err(|error| error.to_string())?);
        let place = format!(" {} ", self.folder.path().display());
        for _ in 0..500 {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            if mounts.contains(&place) {
                return Ok(());
            }
            if let Ok(Some(status)) = server.try_wait() {
                return Err(format!("ntfs-3g does not mount here: {status}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("ntfs-3g does not mount in time".into())
    }

    /// The root folder of the file system.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn image(&self) -> PathBuf {
        self.folder.path().with_extension("image")
    }

    fn empty() -> Result<Self, String> {
        if !is_root() {
            return Err("not root: cannot mount".into());
        }
        need("mount")?;
        let folder = TempDir::with_prefix("virtdisk-mount-").map_err(|error| error.to_string())?;
        Ok(Self {
            loop_device: None,
            server: None,
            folder,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A reader that is just going away keeps the mount busy for a moment.
        for _ in 0..50 {
            match Command::new("umount").arg(self.path()).output() {
                Ok(output) if String::from_utf8_lossy(&output.stderr).contains("busy") => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                _ => break,
            }
        }
        drop(
            Command::new("umount")
                .arg("--lazy")
                .arg(self.path())
                .output(),
        );
        if let Some(server) = &mut self.server {
            drop(server.kill());
            drop(server.wait());
        }
        if let Some(device) = &self.loop_device {
            drop(Command::new("losetup").arg("--detach").arg(device).output());
        }
        drop(std::fs::remove_file(self.image()));
    }
}

/// Whether this process may mount.
#[must_use]
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|folder| {
        use std::os::unix::fs::MetadataExt as _;
        folder.uid() == 0
    })
}

/// Runs a command and gives its output.
///
/// # Errors
/// The command and what it said.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}", said.trim()))
}

fn need(program: &str) -> Result<(), String> {
    if has_program(program) {
        Ok(())
    } else {
        Err(format!("{program} is not installed"))
    }
}
