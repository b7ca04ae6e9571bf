//! The disks that are compared: a raw file on a loop device, and ours.
//!
//! May assume: root, loop devices. Promises: a [`Disk`] is detached when it is dropped, whatever
//! happened to it; ours by `vdisk detach`, loop devices by `losetup --detach`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run;
use crate::service::Service;

/// What we attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Raw,
    Iso,
    Fixed,
    Dynamic,
    DynamicVhdx,
}

/// One attached disk and how to get rid of it.
pub(super) struct Disk {
    /// Heading of its row.
    pub(super) name: String,
    /// Block device.
    pub(super) device: String,
    /// False for an ISO.
    pub(super) writable: bool,
    /// Ours, or `None` for baseline and peers.
    pub(super) kind: Option<Kind>,
    /// A plain loop device on the same file as ours of this kind.
    pub(super) twin: Option<Kind>,
    undo: Vec<Command>,
    server: Option<Child>,
}

impl Disk {
    /// `undo` runs when the disk is dropped, in order.
    pub(super) fn new(name: &str, device: String, undo: Vec<Command>) -> Disk {
        Disk {
            name: name.to_string(),
            device,
            writable: true,
            kind: None,
            twin: None,
            undo,
            server: None,
        }
    }

    /// The same disk, served by a process of ours that ends with it.
    pub(super) fn served_by(mut self, server: Child) -> Disk {
        self.server = Some(server);
        self
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for command in &mut self.undo {
            if let Err(error) = run::output(command) {
                eprintln!("xtask: {}: {error:#}", self.name);
            }
        }
        if let Some(server) = &mut self.server {
            end(server);
        }
    }
}

/// Ends a server: most do by themselves when their file is unmounted.
pub(super) fn end(server: &mut Child) {
    for _ in 0..100 {
        if !matches!(server.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = server.kill().and_then(|()| server.wait());
    if let Err(error) = ended {
        eprintln!("xtask: a peer can't be ended: {error}");
    }
}

/// A loop device on a raw file of `size_bytes`.
pub(super) fn raw_loop(folder: &Path, size_bytes: u64, direct: bool) -> Result<Disk> {
    let file = folder.join(if direct { "direct.raw" } else { "buffered.raw" });
    File::create(&file)?.set_len(size_bytes)?;
    let name = if direct {
        "raw loop dio"
    } else {
        "raw loop buf"
    };
    let device = losetup(&file, direct)?;
    let undo = vec![unloop(&device)];
    Ok(Disk::new(name, device, undo))
}

/// Puts a loop device on `file`.
pub(super) fn losetup(file: &Path, direct: bool) -> Result<String> {
    let direct = if direct {
        "--direct-io=on"
    } else {
        "--direct-io=off"
    };
    let mut command = Command::new("losetup");
    command.args(["--find", "--show", direct]).arg(file);
    Ok(run::output(&mut command)?.trim().to_string())
}

/// The command that takes a loop device off.
pub(super) fn unloop(device: &str) -> Command {
    let mut command = Command::new("losetup");
    command.args(["--detach", device]);
    command
}

/// An image of ours of `size_bytes`, attached.
pub(super) fn ours(service: &Service, folder: &Path, kind: Kind, size_bytes: u64) -> Result<Disk> {
    let (name, file) = match kind {
        Kind::Raw => ("vdisk raw", "ours.raw"),
        Kind::Iso => ("vdisk iso", "ours.iso"),
        Kind::Fixed => ("vdisk fixed vhd", "fixed.vhd"),
        Kind::Dynamic => ("vdisk dynamic vhd", "dynamic.vhd"),
        Kind::DynamicVhdx => ("vdisk dynamic vhdx", "dynamic.vhdx"),
    };
    let file = folder.join(file);
    let image = file.to_str().context("a folder without a name in UTF-8")?;
    let size = size_bytes.to_string();
    let vdisk = |words: &[&str]| {
        let mut command = service.command("vdisk");
        command.args(words);
        command
    };
    match kind {
        Kind::Raw => File::create(&file)?.set_len(size_bytes)?,
        Kind::Iso => iso(&file, size_bytes)?,
        Kind::Fixed => {
            let words = ["create", image, "--size", &size, "--fixed"];
            run::output(&mut vdisk(&words)).map(drop)?;
        }
        Kind::Dynamic | Kind::DynamicVhdx => {
            run::output(&mut vdisk(&["create", image, "--size", &size])).map(drop)?;
        }
    }
    let writable = kind != Kind::Iso;
    let mut words = vec!["attach", image];
    if !writable {
        words.push("--read-only");
    }
    let device = run::output(&mut vdisk(&words))?.trim().to_string();
    if !device.starts_with("/dev/") {
        bail!("vdisk attach printed `{device}`");
    }
    let undo = vec![vdisk(&["detach", image, "--wait", "10s"])];
    let mut disk = Disk::new(name, device, undo);
    disk.writable = writable;
    disk.kind = Some(kind);
    Ok(disk)
}

/// A plain loop device on the very file that ours of `kind` is attached from: where a file's bytes
/// lie in memory decides more than what is on top of it.
pub(super) fn twin(folder: &Path, kind: Kind, size_bytes: u64) -> Result<Disk> {
    let (name, file) = match kind {
        Kind::Raw => ("loop dio, same raw", "ours.raw"),
        Kind::Fixed => ("loop dio, same fixed", "fixed.vhd"),
        _ => ("loop dio, same iso", "ours.iso"),
    };
    let mut command = Command::new("losetup");
    command.args(["--find", "--show", "--direct-io=on", "--sizelimit"]);
    command.arg(size_bytes.to_string());
    if kind == Kind::Iso {
        command.args(["--read-only", "--sector-size", "2048"]);
    }
    let device = run::output(command.arg(folder.join(file)))?;
    let device = device.trim().to_string();
    let undo = vec![unloop(&device)];
    let mut disk = Disk::new(name, device, undo);
    disk.writable = kind != Kind::Iso;
    disk.twin = Some(kind);
    Ok(disk)
}

/// A file that is an ISO 9660 image by its descriptors, with other bytes behind them.
fn iso(path: &Path, size_bytes: u64) -> Result<()> {
    const SECTOR: usize = 2048;
    let file = File::create(path)?;
    let pattern: Vec<u8> = (0..1usize << 20).map(|at| (at * 31 % 251) as u8).collect();
    for start in (0..size_bytes).step_by(pattern.len()) {
        file.write_all_at(&pattern, start)?;
    }
    let sectors = u32::try_from(size_bytes / SECTOR as u64).context("ISO too large")?;
    let mut primary = vec![0u8; SECTOR];
    primary[..7].copy_from_slice(b"\x01CD001\x01");
    primary[80..84].copy_from_slice(&sectors.to_le_bytes());
    primary[84..88].copy_from_slice(&sectors.to_be_bytes());
    primary[120..124].copy_from_slice(&[1, 0, 0, 1]);
    primary[124..128].copy_from_slice(&[1, 0, 0, 1]);
    primary[128..132].copy_from_slice(&[0, 8, 8, 0]);
    let mut last = vec![0u8; SECTOR];
    last[..7].copy_from_slice(b"\xffCD001\x01");
    file.write_all_at(&[0; 16 * SECTOR], 0)?;
    file.write_all_at(&primary, 16 * SECTOR as u64)?;
    file.write_all_at(&last, 17 * SECTOR as u64)?;
    Ok(())
}
