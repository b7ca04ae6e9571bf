//! The peers: other programs that make a block device of a dynamic VHD on this kernel.
//!
//! qemu-storage-daemon's FUSE export under a buffered loop device (under a direct one it corrupts
//! overlapping writes), and nbdfuse over qemu-nbd under both. May assume: root. Promises: a peer
//! that is not installed or does not start is an error that names it, for a SKIP line.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::disk::{Disk, end, losetup, unloop};
use crate::run;

/// qemu-storage-daemon, FUSE export, buffered loop.
pub(super) fn storage_daemon(folder: &Path, size_bytes: u64) -> Result<Disk> {
    let image = image(folder, "qsd", size_bytes)?;
    let file = mount_point(folder, "qsd.file")?;
    let mut server = program("qemu-storage-daemon")?;
    server.args([
        "--blockdev",
        &format!("driver=file,node-name=f,filename={}", image.display()),
    ]);
    server.args(["--blockdev", "driver=vpc,node-name=v,file=f"]);
    let export = format!(
        "type=fuse,id=e,node-name=v,writable=on,mountpoint={}",
        file.display()
    );
    server.args(["--export", &export]);
    disk("qsd vhd, loop buf", server, &file, size_bytes, false)
}

/// nbdfuse over qemu-nbd, buffered loop.
pub(super) fn nbdfuse_buffered(folder: &Path, size_bytes: u64) -> Result<Disk> {
    nbdfuse(folder, size_bytes, false)
}

/// nbdfuse over qemu-nbd, direct loop.
pub(super) fn nbdfuse_direct(folder: &Path, size_bytes: u64) -> Result<Disk> {
    nbdfuse(folder, size_bytes, true)
}

fn nbdfuse(folder: &Path, size_bytes: u64, direct: bool) -> Result<Disk> {
    ensure!(
        run::find("qemu-nbd").is_some(),
        "nbdfuse + qemu-nbd: qemu-nbd is not installed"
    );
    let name = if direct {
        "nbdfuse+qemu-nbd, dio"
    } else {
        "nbdfuse+qemu-nbd, buf"
    };
    let short = if direct { "nbd-direct" } else { "nbd-buffered" };
    let image = image(folder, short, size_bytes)?;
    let file = mount_point(folder, &format!("{short}.file"))?;
    let mut server = program("nbdfuse")?;
    server
        .arg(&file)
        .args(["[", "qemu-nbd", "-f", "vpc"])
        .arg(&image)
        .arg("]");
    disk(name, server, &file, size_bytes, direct)
}

fn program(name: &str) -> Result<Command> {
    let path = run::find(name).with_context(|| format!("{name}: not installed"))?;
    Ok(Command::new(path))
}

/// A dynamic VHD by qemu-img, of exactly the size asked for.
fn image(folder: &Path, name: &str, size_bytes: u64) -> Result<PathBuf> {
    let image = folder.join(format!("{name}.vhd"));
    let mut command = program("qemu-img")?;
    command.args([
        "create",
        "-q",
        "-f",
        "vpc",
        "-o",
        "subformat=dynamic,force_size=on",
    ]);
    run::output(command.arg(&image).arg(size_bytes.to_string()))?;
    Ok(image)
}

fn mount_point(folder: &Path, name: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    std::fs::write(&file, "").with_context(|| format!("make {}", file.display()))?;
    Ok(file)
}

/// Starts `server`, waits until `file` has the disk's size, puts a loop device on it.
fn disk(
    name: &str,
    mut server: Command,
    file: &Path,
    size_bytes: u64,
    direct: bool,
) -> Result<Disk> {
    server.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = server
        .spawn()
        .with_context(|| format!("{name}: does not start"))?;
    let device = served(&mut child, file, size_bytes).and_then(|()| losetup(file, direct));
    let mut unmount = Command::new("umount");
    unmount.arg(file);
    match device {
        Ok(device) => {
            let undo = vec![unloop(&device), unmount];
            Ok(Disk::new(name, device, undo).served_by(child))
        }
        Err(error) => {
            // One that never served has mounted nothing: then this fails, and that is fine.
            drop(run::output(&mut unmount));
            end(&mut child);
            Err(error.context(format!("{name}: does not serve")))
        }
    }
}

fn served(child: &mut Child, file: &Path, size_bytes: u64) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    while !file.metadata().is_ok_and(|facts| facts.len() >= size_bytes) {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        ensure!(Instant::now() < until, "it served nothing for 5 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
